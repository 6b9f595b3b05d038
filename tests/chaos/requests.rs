//! How often requests to DynamoDB name the same key in one second. A client sends a few requests a second, so a large
//! number shows a loop.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::history::{Busiest, Timestamp};

/// The requests of all replicas.
#[derive(Default)]
pub(crate) struct RequestCounts(Mutex<HashMap<(String, u64), u64>>);

impl RequestCounts {
    pub(crate) fn count(&self, operation: &str, body: &[u8]) {
        let second = Timestamp::now().seconds();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys(operation, body) {
            *counts.entry((key, second)).or_default() += 1;
        }
    }

    /// The key with the most requests in one second.
    pub(crate) fn busiest(&self) -> Busiest {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let busiest = counts.iter().max_by_key(|(_, requests)| **requests);
        busiest.map(|((key, _), requests)| Busiest { key: key.clone(), requests: *requests }).unwrap_or_default()
    }
}

/// The operation with each key of the table or of an index that the request names.
fn keys(operation: &str, body: &[u8]) -> Vec<String> {
    let Ok(request) = serde_json::from_slice::<Value>(body) else { return Vec::new() };
    let key_in =
        |item: &Value| Some(format!("{operation} {} {}", item["PK"]["S"].as_str()?, item["SK"]["S"].as_str()?));
    let key_of = |part: &Value| key_in(&part["Key"]).or_else(|| key_in(&part["Item"]));
    match operation {
        "TransactWriteItems" => {
            let writes = request["TransactItems"].as_array().into_iter().flatten();
            writes.filter_map(Value::as_object).flat_map(|write| write.values()).filter_map(key_of).collect()
        }
        "Query" => {
            let values = request["ExpressionAttributeValues"].as_object().into_iter().flatten();
            let texts: Vec<_> = values.filter_map(|(_, value)| value["S"].as_str()).collect();
            vec![format!("{operation} {} {}", request["IndexName"], texts.join(" "))]
        }
        _ => key_of(&request).into_iter().collect(),
    }
}
