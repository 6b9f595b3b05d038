//! The whole program over HTTP. Most tests run the production `Application` on a free port; tests of several brokers, of
//! start and of stop run processes.

mod admin;
mod allocation;
mod bad_input;
mod ctl;
mod events;
mod instruqt;
mod logs;
mod metrics;
mod middleware;
mod openapi;
mod operations;
mod processes;
mod queue;
mod reference;
mod sandboxes;
mod traces;
