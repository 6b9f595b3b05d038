//! Which partition a partition key lives in.

/// Keys that do not follow the hash.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Groups whose keys all share one partition.
    pub together: Vec<KeyGroup>,
}

/// The partition keys of one table or index that begin with a prefix.
#[derive(Clone, Debug)]
pub struct KeyGroup {
    /// The name of the table or of the index.
    pub resource: String,
    /// What the keys begin with; all of them if it is empty.
    pub prefix: String,
}

impl Placement {
    /// An adversarial placement: all these keys in one partition.
    pub fn together(resource: &str, prefix: &str) -> Self {
        Self { together: vec![KeyGroup { resource: resource.to_owned(), prefix: prefix.to_owned() }] }
    }

    /// The partition of a key, from 0. `resource` is the name of the table or of the index.
    pub fn partition(&self, seed: u64, resource: &str, key: &str, partitions: usize) -> usize {
        let together = self.together.iter().any(|group| group.resource == resource && key.starts_with(&group.prefix));
        if together { 0 } else { partition_of(seed, resource, key, partitions) }
    }
}

/// The partition of a key by hash alone.
pub fn partition_of(seed: u64, resource: &str, key: &str, partitions: usize) -> usize {
    let hash = hash(&[&seed.to_be_bytes(), resource.as_bytes(), &[0], key.as_bytes()]);
    // The hash space is cut into ranges of equal length, as DynamoDB does it.
    ((u128::from(hash) * partitions as u128) >> 64) as usize
}

/// FNV-1a, whose high bits are then mixed (the last step of SplitMix64), because FNV's own depend on little of a key.
pub(super) fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
