//! The whole program over HTTP. Most tests run the production `Application` on a free port; tests of several brokers, of
//! start and of stop run processes.

mod admin;
mod assets;
mod audit;
mod bad_input;
mod clients;
mod ctl;
mod environment;
mod events;
mod instruqt;
mod logs;
mod metrics;
mod middleware;
mod openapi;
mod operations;
mod processes;
mod proxies;
mod python_scripts;
mod reference;
mod sandboxes;
mod tokens;
mod traces;
