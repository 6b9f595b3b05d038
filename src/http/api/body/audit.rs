//! Orders of operators.

use serde::Serialize;
use utoipa::ToSchema;

use super::values::{EXAMPLE_NOW, Timestamp};
use crate::audit;

/// An order of an operator
#[derive(Serialize, ToSchema)]
pub(crate) struct Order {
    at: Timestamp,
    /// The name that the operator gave, and the client's address
    by: String,
    /// What was ordered, such as `pause` or `force-release`
    action: String,
    /// The sandbox or the actor that it is about
    target: Option<String>,
    /// The query of the request, such as `force=true`
    parameters: Option<String>,
    reason: Option<String>,
    /// The replica that carried it out
    replica: String,
    /// Finds the request in the broker's log
    request_id: String,
    /// `ok`, or the code of an error; null while it is carried out, and if the client or the replica ended before
    outcome: Option<String>,
    /// When it was carried out or refused
    ended_at: Option<Timestamp>,
}

/// One page of the operators' orders, the last first
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditPage {
    entries: Vec<Order>,
    /// The number of orders on this page
    count: usize,
    /// Where the next page starts; null on the last page. A page may hold fewer orders than `limit` and still have one
    cursor: Option<String>,
}

impl From<audit::AuditEntry> for Order {
    fn from(entry: audit::AuditEntry) -> Self {
        let audit::AuditEntry { at, by, action, target, parameters, reason, replica, request_id, outcome, ended_at } =
            entry;
        let (at, ended_at) = (at.into(), ended_at.map(Timestamp::from));
        Self { at, by, action, target, parameters, reason, replica, request_id, outcome, ended_at }
    }
}

impl From<audit::AuditPage> for AuditPage {
    fn from(page: audit::AuditPage) -> Self {
        let entries: Vec<_> = page.entries.into_iter().map(Order::from).collect();
        Self { count: entries.len(), entries, cursor: page.next }
    }
}

impl AuditPage {
    pub(crate) fn example() -> Self {
        let order = audit::AuditEntry {
            at: EXAMPLE_NOW,
            by: "ana@192.0.2.7".to_owned(),
            action: "pause".to_owned(),
            target: Some("cleanup".to_owned()),
            parameters: None,
            reason: Some("maintenance until 14:00".to_owned()),
            replica: "broker-1".to_owned(),
            request_id: "0199c1d2-0000-7000-8000-000000000000".to_owned(),
            outcome: Some("ok".to_owned()),
            ended_at: Some(EXAMPLE_NOW),
        };
        audit::AuditPage { entries: vec![order], next: None }.into()
    }
}
