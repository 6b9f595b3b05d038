//! Values that occur in several bodies.

use broker_actors::sandbox;
use serde::Serialize;
use utoipa::ToSchema;

macro_rules! value {
    ($(#[$meta:meta])* $name:ident: $json:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Serialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = $json)]
        pub(crate) struct $name(sandbox::$name);

        impl From<sandbox::$name> for $name {
            fn from(value: sandbox::$name) -> Self {
                Self(value)
            }
        }
    };
}

value! {
    /// The cloud provider's numeric account id, as text
    SandboxId: String
}
value! {
    /// A student's run of a lab
    TrackId: String
}
value! {
    /// A name for one intent to allocate, unique within its track
    IdempotencyKey: String
}
value! {
    /// The name of one broker process
    ReplicaId: String
}
value! {
    /// The version of a sandbox record; it grows with each change
    Epoch: u64
}
value! {
    /// Seconds since the Unix epoch
    #[derive(Copy, PartialEq, Eq, PartialOrd, Ord)]
    Timestamp: u64
}

/// The time of all examples.
pub(super) const EXAMPLE_NOW: sandbox::Timestamp = sandbox::Timestamp(1_795_466_985);

impl Timestamp {
    pub(crate) fn example() -> Self {
        EXAMPLE_NOW.into()
    }
}
