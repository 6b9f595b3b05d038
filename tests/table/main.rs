//! The table commands, on a real DynamoDB server and with the program as a process: `adopt`, `unadopt`, `check`,
//! `reshard`, `drop-old-index`, and the upgrade of an embedded store.

mod adopt;
mod broker;
mod check;
mod create;
mod csp;
mod first_form;
mod large;
mod migration;
mod old_service;
mod reshard;
mod start;
mod table;
