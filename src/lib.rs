//! The broker's shell: adapters and wiring around [`broker_actors`].

pub mod dynamo;
