//! [`Tickets`] on DynamoDB.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{Delete, KeysAndAttributes, ReturnValuesOnConditionCheckFailure, TransactWriteItem};
use broker_actors::error::cause;
use broker_actors::ports::{ClaimOutcome, GrantOutcome, StoreError, TICKET_LIFETIME, Ticket, Tickets};
use broker_actors::sandbox::{Claim, ClaimKey, ConditionalUpdate, Timestamp};
use futures_util::future::try_join_all;

use super::call::{CallError, call};
use super::changes;
use super::coordination::{MAX_BATCH_READS, has_key, is_written};
use super::errors::Kind;
use super::item::{
    Item, PK, TICKET_SHARDS, claim_key, number, queue_control_key, read_claim, read_ticket, text, ticket_key,
    ticket_partition, time,
};
use super::store::{DynamoStore, Verdict, refused_claim};

/// Attempts to open a ticket that is withdrawn and opened by others meanwhile.
const MAX_OPENINGS: u32 = 3;

/// How long an expired ticket stays in the table. DynamoDB's TTL may take days longer.
const KEPT_EXPIRED: Duration = Duration::from_secs(3600);

#[async_trait]
impl Tickets for DynamoStore {
    async fn open_ticket(&self, ticket: &Ticket) -> Result<Option<Ticket>, StoreError> {
        for _ in 0..MAX_OPENINGS {
            let live = match self.create_ticket(ticket).await? {
                None => return Ok(Some(ticket.clone())),
                Some(live) => live,
            };
            if !ticket.owner().proves(live.owner_proof.as_ref()) {
                return Ok(None);
            }
            let continued = Ticket { enqueued_at: live.enqueued_at, owner_proof: live.owner_proof, ..ticket.clone() };
            if self.write_ticket(&continued).await? {
                return Ok(Some(continued));
            }
        }
        Err(StoreError::Throttled(cause("the ticket keeps changing")))
    }

    async fn renew_ticket(&self, ticket: &Ticket) -> Result<bool, StoreError> {
        self.write_ticket(ticket).await
    }

    async fn withdraw_ticket(&self, ticket: &Ticket) -> Result<bool, StoreError> {
        let send = |client: Client| {
            let request = client
                .delete_item()
                .table_name(&self.table)
                .set_key(Some(ticket_key(&ticket.claim_key)))
                .condition_expression("enqueued_ms = :enqueued")
                .expression_attribute_values(":enqueued", number(ticket.enqueued_at.0));
            request.send()
        };
        match call(&self.client, Kind::Write, send).await {
            Ok(_) => Ok(true),
            Err(CallError::Outcome { error: DeleteItemError::ConditionalCheckFailedException(_), was_unanswered }) => {
                // An attempt without an answer may have deleted it.
                Ok(was_unanswered)
            }
            Err(CallError::Outcome { error: error @ DeleteItemError::TransactionConflictException(_), .. }) => {
                Err(StoreError::Throttled(cause(error)))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn tickets(&self) -> Result<Vec<Ticket>, StoreError> {
        let shards = try_join_all((0..TICKET_SHARDS).map(|shard| self.tickets_of(shard))).await?;
        Ok(shards.into_iter().flatten().collect())
    }

    async fn find_held(&self, key: &ClaimKey) -> Result<(Option<Claim>, Option<Ticket>), StoreError> {
        let wanted = KeysAndAttributes::builder().keys(claim_key(key)).keys(ticket_key(key)).consistent_read(true);
        let mut wanted = Some(wanted.build().map_err(|error| StoreError::Rejected(cause(error)))?);
        let (mut claim, mut ticket) = (None, None);
        for _ in 0..MAX_BATCH_READS {
            let Some(keys) = wanted.take() else { return Ok((claim, ticket)) };
            let send = |client: Client| client.batch_get_item().request_items(&self.table, keys.clone()).send();
            let answer = call(&self.client, Kind::Read, send).await?;
            for item in answer.responses().and_then(|tables| tables.get(&self.table)).into_iter().flatten() {
                if has_key(item, &claim_key(key)) {
                    claim = Some(read_claim(item)?);
                } else {
                    ticket = Some(read_ticket(item)?);
                }
            }
            wanted = answer.unprocessed_keys().and_then(|tables| tables.get(&self.table)).cloned();
        }
        match wanted {
            None => Ok((claim, ticket)),
            Some(_) => Err(StoreError::Throttled(cause("claim and ticket were not read in full"))),
        }
    }

    async fn grant(
        &self,
        update: &ConditionalUpdate,
        claim: &Claim,
        ticket: &Ticket,
        now: Timestamp,
    ) -> Result<GrantOutcome, StoreError> {
        let delete = Delete::builder()
            .table_name(&self.table)
            .set_key(Some(ticket_key(&ticket.claim_key)))
            .condition_expression("enqueued_ms = :enqueued AND seen_at > :expired")
            .expression_attribute_values(":enqueued", number(ticket.enqueued_at.0))
            .expression_attribute_values(":expired", time(now.minus(TICKET_LIFETIME)))
            .build()
            .expect("key and table are set");
        let delete = TransactWriteItem::builder().delete(delete).build();
        match self.transact([self.claim_put(claim), self.sandbox_write(update), delete]).await? {
            Ok(()) => {
                changes::log(update);
                Ok(GrantOutcome::Claim(ClaimOutcome::Claimed))
            }
            // What the key holds comes first: with it the ticket has gone.
            Err([claim @ Verdict::ConditionFailed(Some(_)), sandbox, _]) => {
                refused_claim([claim, sandbox]).map(GrantOutcome::Claim)
            }
            Err([_, _, Verdict::ConditionFailed(_)]) => Ok(GrantOutcome::TicketGone),
            Err([claim, sandbox, _]) => refused_claim([claim, sandbox]).map(GrantOutcome::Claim),
        }
    }

    async fn announce_queue(&self, until: Timestamp, waiting: u64) -> Result<(), StoreError> {
        let send = |client: Client| {
            let request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(queue_control_key()))
                .update_expression("SET open_until = :until, waiting = :waiting")
                .expression_attribute_values(":until", time(until))
                .expression_attribute_values(":waiting", number(waiting));
            request.send()
        };
        call(&self.client, Kind::Write, send).await.map(|_| ()).map_err(StoreError::from)
    }
}

impl DynamoStore {
    /// Stores a ticket unless its key has a live one, which is returned.
    async fn create_ticket(&self, ticket: &Ticket) -> Result<Option<Ticket>, StoreError> {
        let mut update = "SET ticket_track = :track, ticket_key = :key, enqueued_ms = :enqueued, open_until = :open, \
                          seen_at = :seen, #ttl = :ttl"
            .to_owned();
        let optional = [
            ("name_prefix", ticket.name_prefix.as_deref()),
            ("track_name", ticket.track_name.as_deref()),
            ("owner_proof", proof(ticket)),
        ];
        set_or_remove(&mut update, &optional);
        let send = |client: Client| {
            let request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(ticket_key(&ticket.claim_key)))
                .update_expression(&update)
                .condition_expression(format!("attribute_not_exists({PK}) OR seen_at <= :expired"))
                .expression_attribute_names("#ttl", "ttl")
                .expression_attribute_values(":track", text(ticket.claim_key.track.as_str()))
                .expression_attribute_values(":key", text(ticket.claim_key.key.as_str()))
                .expression_attribute_values(":enqueued", number(ticket.enqueued_at.0))
                .expression_attribute_values(":open", time(ticket.open_until))
                .expression_attribute_values(":seen", time(ticket.seen_at))
                .expression_attribute_values(":ttl", time(ttl(ticket)))
                .expression_attribute_values(":expired", time(ticket.seen_at.minus(TICKET_LIFETIME)))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            with_values(request, &optional).send()
        };
        match call(&self.client, Kind::Write, send).await {
            Ok(_) => Ok(None),
            Err(CallError::Outcome { error: UpdateItemError::ConditionalCheckFailedException(failure), .. }) => {
                let live = failure.item().map(read_ticket).transpose()?;
                live.map(Some).ok_or_else(|| StoreError::Rejected(cause("the store does not return the ticket")))
            }
            Err(CallError::Outcome { error: error @ UpdateItemError::TransactionConflictException(_), .. }) => {
                Err(StoreError::Throttled(cause(error)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Stores what may change of a ticket; `false` if it is gone.
    async fn write_ticket(&self, ticket: &Ticket) -> Result<bool, StoreError> {
        let optional = [("name_prefix", ticket.name_prefix.as_deref()), ("track_name", ticket.track_name.as_deref())];
        let mut update = "SET open_until = :open, seen_at = :seen, #ttl = :ttl".to_owned();
        set_or_remove(&mut update, &optional);
        let send = |client: Client| {
            let request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(ticket_key(&ticket.claim_key)))
                .update_expression(&update)
                .condition_expression("enqueued_ms = :enqueued")
                .expression_attribute_names("#ttl", "ttl")
                .expression_attribute_values(":enqueued", number(ticket.enqueued_at.0))
                .expression_attribute_values(":open", time(ticket.open_until))
                .expression_attribute_values(":seen", time(ticket.seen_at))
                .expression_attribute_values(":ttl", time(ttl(ticket)));
            with_values(request, &optional).send()
        };
        is_written(call(&self.client, Kind::Write, send).await)
    }

    async fn tickets_of(&self, shard: u64) -> Result<Vec<Ticket>, StoreError> {
        let (mut tickets, mut start) = (Vec::new(), None);
        loop {
            let send = |client: Client| {
                let request = client
                    .query()
                    .table_name(&self.table)
                    .consistent_read(true)
                    .key_condition_expression(format!("{PK} = :partition"))
                    .expression_attribute_values(":partition", text(ticket_partition(shard)))
                    .set_exclusive_start_key(start.clone());
                request.send()
            };
            let answer = call(&self.client, Kind::Read, send).await?;
            tickets.extend(answer.items().iter().filter_map(readable));
            match answer.last_evaluated_key {
                Some(next) => start = Some(next),
                None => return Ok(tickets),
            }
        }
    }
}

/// A ticket that cannot be read must not hide the others.
fn readable(item: &Item) -> Option<Ticket> {
    let unreadable = |error: &StoreError| {
        metrics::counter!("broker_unreadable_items_total").increment(1);
        tracing::error!(event = "unreadable_item", %error, "a ticket was left out");
    };
    read_ticket(item).inspect_err(unreadable).ok()
}

/// An attribute that a ticket may lack.
type Optional<'a> = (&'static str, Option<&'a str>);

/// Completes an update expression that starts with `SET`.
fn set_or_remove(update: &mut String, attributes: &[Optional<'_>]) {
    let mut removals = Vec::new();
    for (name, value) in attributes {
        match value {
            Some(_) => *update += &format!(", {name} = :{name}"),
            None => removals.push(*name),
        }
    }
    if !removals.is_empty() {
        *update += &format!(" REMOVE {}", removals.join(", "));
    }
}

/// The values of the attributes that [`set_or_remove`] sets.
fn with_values(request: UpdateItemFluentBuilder, attributes: &[Optional<'_>]) -> UpdateItemFluentBuilder {
    let present = attributes.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    present.fold(request, |request, (name, value)| request.expression_attribute_values(format!(":{name}"), text(value)))
}

fn proof(ticket: &Ticket) -> Option<&str> {
    ticket.owner_proof.as_ref().map(|proof| proof.as_str())
}

fn ttl(ticket: &Ticket) -> Timestamp {
    ticket.expires_at().plus(KEPT_EXPIRED)
}
