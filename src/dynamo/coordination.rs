//! The items that replicas coordinate by: job leases, operators' commands, the stats item, heartbeats.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
use aws_sdk_dynamodb::types::{KeysAndAttributes, ReturnValue, ReturnValuesOnConditionCheckFailure};
use broker_actors::actor::{ActorName, Control};
use broker_actors::error::cause;
use broker_actors::ports::{
    ClusterState, Coordination, HEARTBEAT_AHEAD, JobLease, LabStats, LeaseOutcome, LeaseRequest, Stats, StoreError,
    StoredLabs,
};
use broker_actors::sandbox::{ReplicaId, Timestamp};

use super::call::{CallError, call};
use super::errors::Kind;
use super::item::{
    Heartbeat, Item, PK, REPLICA_PREFIX, REPLICAS, SK, control_key, lease_key, number, queue_control_key, read_control,
    read_heartbeat, read_lease, read_queue, read_stats, replica_key, stats_key, text, time,
};
use super::store::DynamoStore;

/// Requests after which DynamoDB must have returned all items of a batch.
pub(super) const MAX_BATCH_READS: u32 = 5;

/// A heartbeat that expired this long ago is deleted. DynamoDB's TTL may take days.
const LONG_DEAD: Duration = Duration::from_secs(3600);

/// The most long dead heartbeats that one heartbeat deletes.
const MAX_DELETED: usize = 10;

#[async_trait]
impl Coordination for DynamoStore {
    async fn acquire_lease(&self, request: &LeaseRequest) -> Result<LeaseOutcome, StoreError> {
        let LeaseRequest { job, holder, until, stale, due } = request;
        let send = |client: Client| {
            let mut condition = "attribute_not_exists(holder) OR expires_at = :released".to_owned();
            let mut update = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(lease_key(*job)))
                .update_expression(
                    "SET holder = :holder, expires_at = :until, term = if_not_exists(term, :zero) + :one",
                )
                .expression_attribute_values(":holder", text(holder.as_str()))
                .expression_attribute_values(":until", time(*until))
                .expression_attribute_values(":released", number(0))
                .expression_attribute_values(":zero", number(0))
                .expression_attribute_values(":one", number(1))
                .return_values(ReturnValue::AllNew)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            if let Some(stale) = stale {
                condition += " OR (holder = :stale_holder AND term = :stale_term AND expires_at = :stale_until)";
                update = update
                    .expression_attribute_values(":stale_holder", text(stale.holder.as_str()))
                    .expression_attribute_values(":stale_term", number(stale.term))
                    .expression_attribute_values(":stale_until", time(stale.expires_at));
            }
            if let Some(due) = due {
                condition = format!(
                    "({condition}) AND (attribute_not_exists(ran_at) OR ran_at <= :ran_until OR ran_at > :not_after)"
                );
                update = update
                    .expression_attribute_values(":ran_until", time(due.ran_until))
                    .expression_attribute_values(":not_after", time(due.not_after));
            }
            update.condition_expression(condition).send()
        };
        let (error, was_unanswered) = match call(&self.client, Kind::Write, send).await {
            Ok(answer) => {
                let lease = answer.attributes().ok_or_else(|| {
                    StoreError::OutcomeUnknown(cause("the lease was written, but the answer lacks it"))
                })?;
                return Ok(LeaseOutcome::Acquired(read_lease(*job, lease)?));
            }
            Err(CallError::Outcome { error, was_unanswered }) => (error, was_unanswered),
            Err(CallError::Failed(error)) => return Err(error),
        };
        let UpdateItemError::ConditionalCheckFailedException(failure) = error else {
            return Err(StoreError::Throttled(cause(error)));
        };
        let current =
            failure.item().ok_or_else(|| StoreError::Rejected(cause("the store does not return the lease")))?;
        let current = read_lease(*job, current)?;
        // An attempt without an answer may have acquired it.
        if was_unanswered && (&current.holder, current.expires_at) == (holder, *until) {
            return Ok(LeaseOutcome::Acquired(current));
        }
        Ok(LeaseOutcome::Refused(current))
    }

    async fn extend_lease(&self, lease: &JobLease, until: Timestamp) -> Result<bool, StoreError> {
        let extension = |request: UpdateItemFluentBuilder| {
            request
                .update_expression("SET expires_at = :until")
                // A lease that was given back cannot be extended, and no lease ends at 0.
                .expression_attribute_values(":until", time(until.max(Timestamp(1))))
        };
        self.write_to_held(lease, extension).await
    }

    async fn release_lease(&self, lease: &JobLease) -> Result<bool, StoreError> {
        let release = |mut request: UpdateItemFluentBuilder| {
            let mut sets = vec!["expires_at = :released"];
            request = request.expression_attribute_values(":released", number(0));
            if let Some(ran_at) = lease.ran_at {
                sets.push("ran_at = :ran_at");
                request = request.expression_attribute_values(":ran_at", time(ran_at));
            }
            if let Some(last_run) = &lease.last_run {
                sets.push("last_run = :last_run");
                request = request.expression_attribute_values(":last_run", text(last_run));
            }
            request.update_expression(format!("SET {}", sets.join(", ")))
        };
        self.write_to_held(lease, release).await
    }

    async fn read_lease(&self, job: ActorName) -> Result<Option<JobLease>, StoreError> {
        let item = self.get_item(lease_key(job)).await?;
        item.map(|item| read_lease(job, &item)).transpose()
    }

    async fn put_control(&self, control: &Control) -> Result<Option<Timestamp>, StoreError> {
        let send = |client: Client| {
            let request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(control_key(control.actor)))
                .update_expression("SET #actor = :actor, #desired = :desired, #reason = :reason, #by = :by, #at = :at")
                .condition_expression("attribute_not_exists(#at) OR #at <= :at")
                .expression_attribute_names("#actor", "actor")
                .expression_attribute_names("#desired", "desired")
                .expression_attribute_names("#reason", "reason")
                .expression_attribute_names("#by", "by")
                .expression_attribute_names("#at", "at")
                .expression_attribute_values(":actor", text(control.actor.as_str()))
                .expression_attribute_values(":desired", text(control.desired_state.to_string()))
                .expression_attribute_values(":reason", text(&control.reason))
                .expression_attribute_values(":by", text(&control.requested_by))
                .expression_attribute_values(":at", time(control.updated_at))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            request.send()
        };
        match call(&self.client, Kind::Write, send).await {
            Ok(_) => Ok(None),
            Err(CallError::Outcome { error: UpdateItemError::ConditionalCheckFailedException(failure), .. }) => {
                let current = failure.item().map(read_control).transpose()?;
                Ok(current.map(|current| current.updated_at))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn cluster_state(&self) -> Result<ClusterState, StoreError> {
        let mut wanted = KeysAndAttributes::builder().keys(stats_key()).keys(queue_control_key());
        for actor in ActorName::ALL {
            wanted = wanted.keys(control_key(*actor));
        }
        let mut wanted = Some(wanted.build().map_err(|error| StoreError::Rejected(cause(error)))?);
        let mut state = ClusterState::default();
        for _ in 0..MAX_BATCH_READS {
            let Some(keys) = wanted.take() else { return Ok(state) };
            let send = |client: Client| client.batch_get_item().request_items(&self.table, keys.clone()).send();
            let answer = call(&self.client, Kind::Read, send).await?;
            for item in answer.responses().and_then(|tables| tables.get(&self.table)).into_iter().flatten() {
                if has_key(item, &stats_key()) {
                    state.stats = read_stats(item)?;
                } else if has_key(item, &queue_control_key()) {
                    state.queue = read_queue(item)?;
                } else {
                    state.controls.push(read_control(item)?);
                }
            }
            wanted = answer.unprocessed_keys().and_then(|tables| tables.get(&self.table)).cloned();
        }
        match wanted {
            None => Ok(state),
            Some(_) => Err(StoreError::Throttled(cause("the commands were not read in full"))),
        }
    }

    async fn put_stats(&self, counted_at: Timestamp, stats: &Stats) -> Result<(), StoreError> {
        let Stats {
            total,
            available,
            allocated,
            standby,
            pending_deletion,
            stale,
            deletion_failed,
            warming,
            quarantined,
        } = *stats;
        let counts = [
            ("total", total),
            ("available", available),
            ("allocated", allocated),
            ("standby", standby),
            ("pending_deletion", pending_deletion),
            ("stale", stale),
            ("deletion_failed", deletion_failed),
            ("warming", warming),
            ("quarantined", quarantined),
            ("counted_at", counted_at.0),
        ];
        let sets: Vec<_> = counts.iter().map(|(name, _)| format!("#{name} = :{name}")).collect();
        let send = |client: Client| {
            let mut request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(stats_key()))
                .update_expression(format!("SET {}", sets.join(", ")));
            for (name, value) in counts {
                request = request
                    .expression_attribute_names(format!("#{name}"), name)
                    .expression_attribute_values(format!(":{name}"), number(value));
            }
            request.send()
        };
        call(&self.client, Kind::Write, send).await.map(|_| ()).map_err(StoreError::from)
    }

    async fn put_labs(&self, counted_at: Timestamp, labs: &[LabStats]) -> Result<(), StoreError> {
        self.store_labs(counted_at, labs).await
    }

    async fn labs(&self) -> Result<StoredLabs, StoreError> {
        self.stored_labs().await
    }

    async fn add_supply(&self, added: u64) -> Result<(), StoreError> {
        let send = |client: Client| {
            let request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(stats_key()))
                .update_expression("ADD supply :added")
                .expression_attribute_values(":added", number(added));
            request.send()
        };
        call(&self.client, Kind::Write, send).await.map(|_| ()).map_err(StoreError::from)
    }

    async fn heartbeat(
        &self,
        replica: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<ReplicaId>, StoreError> {
        self.keep_listed(replica, until).await?;
        let heartbeats = self.heartbeats().await?;
        let is_long_dead = |heartbeat: &&Heartbeat| heartbeat.expires_at.plus(LONG_DEAD) < now;
        for dead in heartbeats.iter().filter(is_long_dead).take(MAX_DELETED) {
            self.delete_heartbeat(dead).await?;
        }
        let live = |heartbeat: &Heartbeat| now < heartbeat.expires_at && heartbeat.expires_at <= latest_end(until);
        Ok(heartbeats.into_iter().filter(live).map(|heartbeat| heartbeat.replica).collect())
    }

    async fn leave(&self, replica: &ReplicaId) -> Result<(), StoreError> {
        let send =
            |client: Client| client.delete_item().table_name(&self.table).set_key(Some(replica_key(replica))).send();
        call(&self.client, Kind::Write, send).await.map(|_| ()).map_err(StoreError::from)
    }
}

impl DynamoStore {
    /// Writes to a lease; `false` if this holder lost it.
    async fn write_to_held(
        &self,
        lease: &JobLease,
        write: impl Fn(UpdateItemFluentBuilder) -> UpdateItemFluentBuilder,
    ) -> Result<bool, StoreError> {
        let send = |client: Client| {
            let request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(lease_key(lease.job)))
                .condition_expression("holder = :holder AND term = :term")
                .expression_attribute_values(":holder", text(lease.holder.as_str()))
                .expression_attribute_values(":term", number(lease.term));
            write(request).send()
        };
        is_written(call(&self.client, Kind::Write, send).await)
    }

    async fn keep_listed(&self, replica: &ReplicaId, until: Timestamp) -> Result<(), StoreError> {
        let send = |client: Client| {
            let request = client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(replica_key(replica)))
                .update_expression("SET holder = :holder, expires_at = :until, #ttl = :until")
                .condition_expression(format!(
                    "attribute_not_exists({PK}) OR expires_at <= :until OR expires_at > :latest"
                ))
                .expression_attribute_names("#ttl", "ttl")
                .expression_attribute_values(":holder", text(replica.as_str()))
                .expression_attribute_values(":until", time(until))
                .expression_attribute_values(":latest", time(latest_end(until)));
            request.send()
        };
        is_written(call(&self.client, Kind::Write, send).await).map(|_| ())
    }

    /// Every heartbeat item. There are about as many as replicas.
    async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        let (mut heartbeats, mut start) = (Vec::new(), None);
        loop {
            let send = |client: Client| {
                let request = client
                    .query()
                    .table_name(&self.table)
                    .key_condition_expression(format!("{PK} = :replicas AND begins_with({SK}, :prefix)"))
                    .expression_attribute_values(":replicas", text(REPLICAS))
                    .expression_attribute_values(":prefix", text(REPLICA_PREFIX))
                    .set_exclusive_start_key(start.clone());
                request.send()
            };
            let answer = call(&self.client, Kind::Read, send).await?;
            for item in answer.items() {
                heartbeats.push(read_heartbeat(item)?);
            }
            match answer.last_evaluated_key {
                Some(next) => start = Some(next),
                None => return Ok(heartbeats),
            }
        }
    }

    /// Deletes a heartbeat that is still the one that was read.
    async fn delete_heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        let send = |client: Client| {
            let request = client
                .delete_item()
                .table_name(&self.table)
                .set_key(Some(replica_key(&heartbeat.replica)))
                .condition_expression("expires_at = :expires_at")
                .expression_attribute_values(":expires_at", time(heartbeat.expires_at));
            request.send()
        };
        match call(&self.client, Kind::Write, send).await {
            Ok(_) | Err(CallError::Outcome { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a conditional update was written.
pub(super) fn is_written(answer: Result<UpdateItemOutput, CallError<UpdateItemError>>) -> Result<bool, StoreError> {
    match answer {
        Ok(_) => Ok(true),
        Err(CallError::Outcome { error: UpdateItemError::ConditionalCheckFailedException(_), .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The latest end that a heartbeat may have, when one sent now ends at `until`.
fn latest_end(until: Timestamp) -> Timestamp {
    until.plus(HEARTBEAT_AHEAD)
}

pub(super) fn has_key(item: &Item, key: &Item) -> bool {
    key.iter().all(|(name, value)| item.get(name) == Some(value))
}
