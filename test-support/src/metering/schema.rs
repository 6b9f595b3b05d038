//! Keys, indexes and projections, as `CreateTable` and `UpdateTable` state them.

use std::sync::Arc;

use dynoxide::{AttributeValue, Item};
use serde_json::Value;

use super::error::ServiceError;

/// A table's keys and indexes.
#[derive(Clone, Debug)]
pub(super) struct TableSchema {
    pub(super) name: String,
    pub(super) keys: KeySchema,
    pub(super) indexes: Vec<Arc<IndexSchema>>,
}

#[derive(Debug)]
pub(super) struct IndexSchema {
    pub(super) name: String,
    pub(super) keys: KeySchema,
    pub(super) projection: Projection,
}

/// The names of the key attributes.
#[derive(Clone, Debug)]
pub(super) struct KeySchema {
    pub(super) hash: String,
    pub(super) range: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Projection {
    All,
    /// The keys and these attributes.
    Only(Vec<String>),
}

impl TableSchema {
    pub(super) fn index(&self, name: &str) -> Option<&Arc<IndexSchema>> {
        self.indexes.iter().find(|index| index.name == name)
    }

    /// What the counters call an index.
    pub(super) fn index_resource(&self, index: &str) -> String {
        format!("{}/{index}", self.name)
    }
}

impl IndexSchema {
    pub(super) fn parse(index: &Value) -> Result<Self, ServiceError> {
        let projection = &index["Projection"];
        let projection = match projection["ProjectionType"].as_str() {
            None | Some("ALL") => Projection::All,
            Some(_) => {
                let names = projection["NonKeyAttributes"].as_array().into_iter().flatten();
                Projection::Only(names.filter_map(|name| name.as_str().map(str::to_owned)).collect())
            }
        };
        Ok(Self { name: text(index, "IndexName")?, keys: KeySchema::parse(&index["KeySchema"])?, projection })
    }
}

impl Projection {
    pub(super) fn includes(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|included| included == name),
        }
    }
}

impl KeySchema {
    pub(super) fn parse(elements: &Value) -> Result<Self, ServiceError> {
        let named = |kind: &str| -> Vec<String> {
            let elements = elements.as_array().into_iter().flatten();
            let named = elements.filter(|element| element["KeyType"] == kind);
            named.filter_map(|element| element["AttributeName"].as_str().map(str::to_owned)).collect()
        };
        match (named("HASH").as_slice(), named("RANGE").as_slice()) {
            ([hash], []) => Ok(Self { hash: hash.clone(), range: None }),
            ([hash], [range]) => Ok(Self { hash: hash.clone(), range: Some(range.clone()) }),
            _ => Err(ServiceError::validation("a key is one HASH and at most one RANGE attribute")),
        }
    }

    /// The key attributes of an item, if it has them all.
    pub(super) fn of(&self, item: &Item) -> Option<Item> {
        let names = std::iter::once(&self.hash).chain(&self.range);
        names.map(|name| Some((name.clone(), item.get(name)?.clone()))).collect()
    }

    /// The partition key's value as text.
    pub(super) fn hash_of(&self, item: &Item) -> Option<String> {
        item.get(&self.hash).map(key_text)
    }

    /// Both values as text, the same for no two keys.
    pub(super) fn id_of(&self, item: &Item) -> Option<String> {
        let hash = self.hash_of(item)?;
        let range = match &self.range {
            Some(range) => key_text(item.get(range)?),
            None => String::new(),
        };
        Some(format!("{}:{hash}{range}", hash.len()))
    }
}

/// A key's value as text: a string is itself.
pub(super) fn key_text(value: &AttributeValue) -> String {
    match value {
        AttributeValue::S(text) => text.clone(),
        other => other.to_key_string().unwrap_or_default(),
    }
}

/// A member of a request that has to be there.
pub(super) fn text(request: &Value, member: &str) -> Result<String, ServiceError> {
    request[member].as_str().map(str::to_owned).ok_or_else(|| {
        ServiceError::validation(&format!("The parameter '{member}' is required but was not present in the request"))
    })
}

/// An item or a key of a request.
pub(super) fn item(value: &Value) -> Result<Item, ServiceError> {
    serde_json::from_value(value.clone()).map_err(|error| ServiceError::unreadable(&error))
}
