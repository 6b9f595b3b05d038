//! The items of the audit log: one for each order of an operator, under the day of the order.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use broker_actors::ports::StoreError;
use broker_actors::sandbox::Timestamp;

use super::call::{CallError, call};
use super::errors::Kind;
use super::item::{Item, PK, Reader, SK, key, text, time};
use super::store::DynamoStore;

/// The key of an order: its day, and what sorts it within the day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditKey {
    /// The day, as `yyyymmdd`.
    pub day: String,
    /// The time of day in milliseconds with all digits, and what tells orders of one moment apart.
    pub id: String,
}

/// An order of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When it was given.
    pub at: Timestamp,
    /// Who gave it.
    pub by: String,
    /// What was ordered, by the endpoint's name.
    pub action: String,
    /// The sandbox or the actor that it is about, if it is about one.
    pub target: Option<String>,
    /// Its parameters.
    pub parameters: Option<String>,
    /// Why, if the operator said so.
    pub reason: Option<String>,
    /// The replica that carried it out.
    pub replica: String,
    /// The request, as the log names it.
    pub request_id: String,
    /// `ok`, or the code of an error; `None` if the replica ended before it was known.
    pub outcome: Option<String>,
    /// When it was carried out.
    pub ended_at: Option<Timestamp>,
}

impl AuditKey {
    fn item(&self) -> Item {
        key(format!("AUDIT#{}", self.day), self.id.clone())
    }
}

impl DynamoStore {
    /// Adds an order that has no outcome yet.
    ///
    /// # Errors
    ///
    /// As every write of the store.
    pub async fn put_audit(&self, key: &AuditKey, entry: &AuditEntry, ttl: Timestamp) -> Result<(), StoreError> {
        let mut item = key.item();
        let mut put = |name: &str, value| item.insert(name.to_owned(), value);
        put("at", time(entry.at));
        put("by", text(&entry.by));
        put("action", text(&entry.action));
        put("replica", text(&entry.replica));
        put("request_id", text(&entry.request_id));
        put("ttl", time(ttl));
        let optional = [("target", &entry.target), ("parameters", &entry.parameters), ("reason", &entry.reason)];
        for (name, value) in optional {
            if let Some(value) = value {
                put(name, text(value));
            }
        }
        let send = |client: Client| client.put_item().table_name(&self.table).set_item(Some(item.clone())).send();
        call(&self.client, Kind::Write, send).await.map(|_| ()).map_err(StoreError::from)
    }

    /// Adds the outcome of an order. An order that is already gone does not come back.
    ///
    /// # Errors
    ///
    /// As every write of the store.
    pub async fn end_audit(&self, key: &AuditKey, outcome: &str, at: Timestamp) -> Result<(), StoreError> {
        let send = |client: Client| {
            client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(key.item()))
                .update_expression("SET outcome = :outcome, ended_at = :at")
                .condition_expression(format!("attribute_exists({PK})"))
                .expression_attribute_values(":outcome", text(outcome))
                .expression_attribute_values(":at", time(at))
                .send()
        };
        match call(&self.client, Kind::Write, send).await {
            Ok(_) | Err(CallError::Outcome { error: UpdateItemError::ConditionalCheckFailedException(_), .. }) => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The orders of a day, the last first, from before this id on, and whether there may be more.
    ///
    /// # Errors
    ///
    /// As every read of the store.
    pub async fn list_audit(
        &self,
        day: &str,
        before: Option<&str>,
        limit: i32,
    ) -> Result<(Vec<(AuditKey, AuditEntry)>, bool), StoreError> {
        let send = |client: Client| {
            let mut query = client
                .query()
                .table_name(&self.table)
                .key_condition_expression(match before {
                    Some(_) => format!("{PK} = :day AND {SK} < :before"),
                    None => format!("{PK} = :day"),
                })
                .expression_attribute_values(":day", text(format!("AUDIT#{day}")))
                .scan_index_forward(false)
                .limit(limit);
            if let Some(before) = before {
                query = query.expression_attribute_values(":before", text(before));
            }
            query.send()
        };
        let answer = call(&self.client, Kind::Read, send).await?;
        let has_more = answer.last_evaluated_key().is_some();
        let entries = answer.items().iter().map(|item| read_entry(day, item)).collect::<Result<_, _>>()?;
        Ok((entries, has_more))
    }
}

fn read_entry(day: &str, item: &Item) -> Result<(AuditKey, AuditEntry), StoreError> {
    let item = Reader(item);
    let entry = AuditEntry {
        at: item.time("at")?,
        by: item.text("by")?,
        action: item.text("action")?,
        target: item.optional_text("target")?,
        parameters: item.optional_text("parameters")?,
        reason: item.optional_text("reason")?,
        replica: item.text("replica")?,
        request_id: item.text("request_id")?,
        outcome: item.optional_text("outcome")?,
        ended_at: item.optional_time("ended_at")?,
    };
    Ok((AuditKey { day: day.to_owned(), id: item.text(SK)? }, entry))
}
