//! Who did what: the audit log of the operators' orders, and the changes of each sandbox. An order is in the table before it
//! is carried out.

use std::sync::Arc;
use std::time::Duration;

use broker_actors::error::Chain;
use broker_actors::ports::{Clock, StoreError};
use broker_actors::sandbox::{ReplicaId, SandboxId, Timestamp};
use uuid::Uuid;

use crate::day::{DAY, day_of};
use crate::dynamo::DynamoStore;
pub use crate::dynamo::audit::AuditEntry;
use crate::dynamo::audit::AuditKey;
pub use crate::dynamo::update::Change;

/// The most days, or parts of days, that one request reads (I8).
const MAX_READS: u32 = 40;

/// Orders that one read returns. Those that a filter rejects count.
const READ_SIZE: i32 = 100;

/// The audit log of a table.
pub struct AuditLog {
    store: Arc<DynamoStore>,
    clock: Arc<dyn Clock>,
    replica: ReplicaId,
    /// How long orders are kept.
    retention: Duration,
}

/// An order that an operator gives.
#[derive(Clone, Debug)]
pub struct Order {
    /// Who gives it.
    pub by: String,
    /// What is ordered, by the endpoint's name.
    pub action: String,
    /// The sandbox or the actor that it is about, if it is about one.
    pub target: Option<String>,
    /// Its parameters.
    pub parameters: Option<String>,
    /// Why, if the operator says so.
    pub reason: Option<String>,
    /// The request, as the log names it.
    pub request_id: String,
}

/// An order that is being carried out.
#[derive(Debug)]
pub struct OpenOrder(AuditKey);

/// Which orders to list.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only those of operators whose name contains this.
    pub by: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only those about this sandbox or actor.
    pub target: Option<String>,
}

/// One page of the audit log.
#[derive(Debug)]
pub struct AuditPage {
    /// The orders, the last first.
    pub entries: Vec<AuditEntry>,
    /// Where the next page starts; `None` on the last page.
    pub next: Option<String>,
}

impl AuditLog {
    /// The audit log of this table.
    pub fn new(store: Arc<DynamoStore>, clock: Arc<dyn Clock>, replica: ReplicaId, retention: Duration) -> Self {
        Self { store, clock, replica, retention }
    }

    /// Stores an order before it is carried out.
    ///
    /// # Errors
    ///
    /// If it cannot be stored. It must not be carried out then.
    pub async fn begin(&self, order: Order) -> Result<OpenOrder, StoreError> {
        let now = self.clock.now_millis();
        let at = now.seconds();
        let key = AuditKey { day: day_of(at), id: format!("{:013}#{}", now.0, Uuid::now_v7().simple()) };
        let Order { by, action, target, parameters, reason, request_id } = order;
        let entry = AuditEntry {
            at,
            by,
            action,
            target,
            parameters,
            reason,
            replica: self.replica.to_string(),
            request_id,
            outcome: None,
            ended_at: None,
        };
        self.store.put_audit(&key, &entry, at.plus(self.retention)).await?;
        Ok(OpenOrder(key))
    }

    /// Adds the outcome. The order was carried out or refused; a failure to store that is only logged.
    pub async fn end(&self, order: OpenOrder, outcome: &str) {
        if let Err(error) = self.store.end_audit(&order.0, outcome, self.clock.now_millis().seconds()).await {
            tracing::warn!(event = "audit_failed", error = %Chain(&error), outcome, "an order's outcome is not in the audit log");
        }
    }

    /// The last move of a sandbox to each status, in the order of time.
    ///
    /// # Errors
    ///
    /// As every read of the store.
    pub async fn changes(&self, sandbox_id: &SandboxId) -> Result<Vec<Change>, StoreError> {
        self.store.changes(sandbox_id).await
    }

    /// One page of the orders that match, the last first. A page may hold fewer than `limit` and still have a next one.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadCursor`] if `after` is not from this log; else as every read of the store.
    pub async fn list(&self, filter: &AuditFilter, limit: usize, after: Option<&str>) -> Result<AuditPage, StoreError> {
        let today = self.clock.now_millis().seconds();
        let first_day = today.minus(self.retention + DAY);
        let (mut day, mut before) = match after {
            None => (today, None),
            Some(cursor) => read_cursor(cursor).ok_or(StoreError::BadCursor)?,
        };
        let mut entries = Vec::new();
        for _ in 0..MAX_READS {
            if day < first_day {
                return Ok(AuditPage { entries, next: None });
            }
            let name = day_of(day);
            let (orders, has_more) = self.store.list_audit(&name, before.as_deref(), READ_SIZE).await?;
            for (key, entry) in orders {
                if filter.accepts(&entry) {
                    entries.push(entry);
                }
                before = Some(key.id);
                if entries.len() == limit {
                    return Ok(AuditPage { entries, next: Some(write_cursor(day, before.as_deref())) });
                }
            }
            if !has_more {
                (day, before) = (day.minus(DAY), None);
            }
        }
        Ok(AuditPage { entries, next: Some(write_cursor(day, before.as_deref())) })
    }
}

impl AuditFilter {
    fn accepts(&self, entry: &AuditEntry) -> bool {
        let is =
            |wanted: &Option<String>, value: Option<&str>| wanted.as_deref().is_none_or(|wanted| value == Some(wanted));
        let by = entry.by.to_lowercase();
        self.by.as_ref().is_none_or(|wanted| by.contains(&wanted.to_lowercase()))
            && is(&self.action, Some(&entry.action))
            && is(&self.target, entry.target.as_deref())
    }
}

fn write_cursor(day: Timestamp, before: Option<&str>) -> String {
    format!("{}.{}", day.0, before.unwrap_or_default())
}

fn read_cursor(cursor: &str) -> Option<(Timestamp, Option<String>)> {
    let (day, before) = cursor.split_once('.')?;
    let is_id = before.len() <= 64 && before.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'#');
    let before = (!before.is_empty()).then(|| before.to_owned());
    Some((Timestamp(day.parse().ok()?), before)).filter(|_| is_id)
}
