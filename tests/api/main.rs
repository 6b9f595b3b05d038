//! The whole program over HTTP: the production `Application` on a free port, one module for each resource; and as real
//! processes, where it is about several of them, or about their beginning and end.

#![allow(unreachable_pub, reason = "the helpers are one crate with the tests")]

mod admin;
mod bad_input;
mod ctl;
mod events;
mod helpers;
mod instruqt;
mod logs;
mod metrics;
mod middleware;
mod openapi;
mod operations;
mod processes;
#[allow(dead_code, reason = "other tests use more of it")]
mod program;
mod reference;
mod sandboxes;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod support;
mod traces;
