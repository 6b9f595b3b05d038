//! The database that the server holds, called with DynamoDB's JSON.

use dynoxide::actions::transact_write_items::TransactWriteItemsRequest;
use dynoxide::types::item_size;
use dynoxide::{Database, DynoxideError, Item};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::{Reason, ServiceError};

/// A dynoxide database in memory. It charges nothing and refuses only what a single, idle DynamoDB would refuse.
pub(super) struct Items(Database);

/// What a `Query` or a `Scan` found.
pub(super) struct Page {
    /// None if only their number was asked for.
    pub(super) items: Option<Vec<Item>>,
    pub(super) count: usize,
    pub(super) scanned_count: usize,
    /// Where the next page starts, if there is one.
    pub(super) last_key: Option<Item>,
}

/// How a transaction ended that is not an error of the request.
pub(super) enum Transacted {
    Committed(Value),
    /// Nothing was written; one reason for each item.
    Cancelled(Vec<Reason>),
}

impl Items {
    pub(super) fn new() -> Self {
        Self(Database::memory().expect("a database in memory opens"))
    }

    /// Carries out one of the operations that the server passes on.
    pub(super) fn call(&self, operation: &str, request: Value) -> Result<Value, ServiceError> {
        let database = &self.0;
        match operation {
            "GetItem" => answer(request, |request| database.get_item(request)),
            "BatchGetItem" => answer(request, |request| database.batch_get_item(request)),
            "PutItem" => answer(request, |request| database.put_item(request)),
            "UpdateItem" => answer(request, |request| database.update_item(request)),
            "DeleteItem" => answer(request, |request| database.delete_item(request)),
            "CreateTable" => answer(request, |request| database.create_table(request)),
            "DescribeTable" => answer(request, |request| database.describe_table(request)),
            "UpdateTable" => answer(request, |request| database.update_table(request)),
            "DeleteTable" => answer(request, |request| database.delete_table(request)),
            "ListTables" => answer(request, |request| database.list_tables(request)),
            "UpdateTimeToLive" => answer(request, |request| database.update_time_to_live(request)),
            "DescribeTimeToLive" => answer(request, |request| database.describe_time_to_live(request)),
            _ => Err(ServiceError::unknown_operation()),
        }
    }

    /// Carries out a `Query` or a `Scan`.
    pub(super) fn page(&self, operation: &str, request: Value) -> Result<Page, ServiceError> {
        if operation == "Query" {
            let response = typed(request, |request| self.0.query(request))?;
            Ok(Page {
                items: response.items,
                count: response.count,
                scanned_count: response.scanned_count,
                last_key: response.last_evaluated_key,
            })
        } else {
            let response = typed(request, |request| self.0.scan(request))?;
            Ok(Page {
                items: response.items,
                count: response.count,
                scanned_count: response.scanned_count,
                last_key: response.last_evaluated_key,
            })
        }
    }

    /// Carries out a transaction, without its token: the engine would look through all tokens of ten minutes.
    pub(super) fn transact(&self, items: &[Value], capacity: &Value) -> Result<Transacted, ServiceError> {
        let request = json!({ "TransactItems": items, "ReturnConsumedCapacity": capacity });
        let request: TransactWriteItemsRequest =
            serde_json::from_value(request).map_err(|error| ServiceError::unreadable(&error))?;
        match self.0.transact_write_items(request) {
            Ok(response) => Ok(Transacted::Committed(json!(response))),
            Err(DynoxideError::TransactionCanceledException(_, reasons)) => {
                Ok(Transacted::Cancelled(reasons.into_iter().map(Reason::from).collect()))
            }
            Err(error) => Err(ServiceError::from_engine(&error)),
        }
    }

    /// The item as it is.
    pub(super) fn get(&self, table: &str, key: &Item) -> Result<Option<Item>, ServiceError> {
        let request = json!({ "TableName": table, "Key": key, "ConsistentRead": true });
        typed(request, |request| self.0.get_item(request)).map(|response| response.item)
    }

    /// Puts an item, or removes it, whatever is there.
    pub(super) fn restore(&self, table: &str, key: &Item, item: Option<&Item>) -> Result<(), ServiceError> {
        match item {
            Some(item) => self.call("PutItem", json!({ "TableName": table, "Item": item })),
            None => self.call("DeleteItem", json!({ "TableName": table, "Key": key })),
        }
        .map(|_| ())
    }
}

fn answer<Q: DeserializeOwned, A: Serialize>(
    request: Value,
    act: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<Value, ServiceError> {
    typed(request, act).map(|response| json!(response))
}

fn typed<Q: DeserializeOwned, A>(
    request: Value,
    act: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<A, ServiceError> {
    let request = serde_json::from_value(request).map_err(|error| ServiceError::unreadable(&error))?;
    act(request).map_err(|error| ServiceError::from_engine(&error))
}

impl Page {
    /// The size of the items, which is what was read if there was no filter and no projection.
    pub(super) fn bytes(&self) -> usize {
        self.items.iter().flatten().map(item_size).sum()
    }

    /// The answer to the client.
    pub(super) fn json(self) -> Value {
        let mut json = json!({ "Count": self.count, "ScannedCount": self.scanned_count });
        if let Some(items) = self.items {
            json["Items"] = json!(items);
        }
        if let Some(last_key) = self.last_key {
            json["LastEvaluatedKey"] = json!(last_key);
        }
        json
    }
}
