//! The items of the stats history: one for each minute, under its day.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::Client;
use broker_actors::ports::StoreError;
use broker_actors::sandbox::Timestamp;

use super::call::call;
use super::errors::Kind;
use super::item::{Item, PK, Reader, SK, key, number, text, time};
use super::store::DynamoStore;

/// Minutes that one request reads.
const PAGE: i32 = 720;

/// A prefix, so that no count has the name of another attribute.
const COUNT: &str = "count_";

/// What happened in one minute, over all replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// When it started.
    pub at: Timestamp,
    /// The number of sandboxes in each status, and `total`; empty if none was known.
    pub counts: BTreeMap<String, u64>,
    /// Allocations that were answered with a sandbox.
    pub allocations: u64,
    /// Answers to tracks with a status of 5xx.
    pub errors: u64,
}

impl DynamoStore {
    /// Adds one replica's part of a minute. The counts of all replicas are the same.
    ///
    /// # Errors
    ///
    /// As every write of the store.
    pub async fn add_minute(&self, day: &str, part: &Minute, ttl: Timestamp) -> Result<(), StoreError> {
        let counts = part.counts.iter().enumerate();
        let sets = counts.clone().map(|(index, (name, _))| format!(", {COUNT}{name} = :count{index}"));
        let update =
            format!("SET #ttl = :ttl{} ADD allocations :allocations, errors :errors", sets.collect::<String>());
        let send = |client: Client| {
            let mut request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(key(partition(day), sort(part.at))))
                .update_expression(&update)
                .expression_attribute_names("#ttl", "ttl")
                .expression_attribute_values(":ttl", time(ttl))
                .expression_attribute_values(":allocations", number(part.allocations))
                .expression_attribute_values(":errors", number(part.errors));
            for (index, (_, count)) in counts.clone() {
                request = request.expression_attribute_values(format!(":count{index}"), number(*count));
            }
            request.send()
        };
        call(&self.client, Kind::Write, send).await.map(|_| ()).map_err(StoreError::from)
    }

    /// The minutes of a day from this moment on, in their order. One request for each page.
    ///
    /// # Errors
    ///
    /// As every read of the store.
    pub async fn minutes(&self, day: &str, from: Timestamp) -> Result<Vec<Minute>, StoreError> {
        let (mut minutes, mut start) = (Vec::new(), None);
        loop {
            let send = |client: Client| {
                client
                    .query()
                    .table_name(&self.table)
                    .key_condition_expression(format!("{PK} = :day AND {SK} >= :from"))
                    .expression_attribute_values(":day", text(partition(day)))
                    .expression_attribute_values(":from", text(sort(from)))
                    .limit(PAGE)
                    .set_exclusive_start_key(start.clone())
                    .send()
            };
            let answer = call(&self.client, Kind::Read, send).await?;
            for item in answer.items() {
                minutes.push(read_minute(item)?);
            }
            match answer.last_evaluated_key {
                Some(next) => start = Some(next),
                None => return Ok(minutes),
            }
        }
    }
}

fn partition(day: &str) -> String {
    format!("STATS#{day}")
}

/// The Unix time with all digits.
fn sort(at: Timestamp) -> String {
    format!("{:010}", at.0)
}

fn read_minute(item: &Item) -> Result<Minute, StoreError> {
    let reader = Reader(item);
    let at = reader.text(SK)?.parse().map_err(|_| reader.corrupt("the minute is not a Unix time"))?;
    let mut counts = BTreeMap::new();
    for name in item.keys().filter_map(|name| name.strip_prefix(COUNT)) {
        counts.insert(name.to_owned(), reader.number(&format!("{COUNT}{name}"))?);
    }
    let sum = |name| reader.optional_number(name).map(Option::unwrap_or_default);
    Ok(Minute { at: Timestamp(at), counts, allocations: sum("allocations")?, errors: sum("errors")? })
}
