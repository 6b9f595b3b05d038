//! The items by which replicas agree: job leases, operators' controls, the list of live replicas.

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{KeysAndAttributes, ReturnValue, ReturnValuesOnConditionCheckFailure};
use broker_actors::actor::{ActorName, Control};
use broker_actors::error::cause;
use broker_actors::ports::{Coordination, JobLease, LeaseOutcome, StoreError};
use broker_actors::sandbox::{ReplicaId, Timestamp};

use super::errors::{Kind, store_error};
use super::item::{
    PK, REPLICA_PREFIX, REPLICAS, SK, control_key, lease_key, number, read_control, read_lease, read_replica,
    replica_key, text, time,
};
use super::store::{DynamoStore, is_condition_failure};

/// So often DynamoDB may leave a few of the controls unread before that is an error.
const MAX_BATCH_READS: u32 = 5;

/// The most replicas that are told apart; beyond that, some walk the pool in an order of their own (I8).
const MAX_REPLICAS: i32 = 100;

#[async_trait]
impl Coordination for DynamoStore {
    async fn acquire_lease(
        &self,
        job: ActorName,
        holder: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
        due_since: Option<Timestamp>,
    ) -> Result<LeaseOutcome, StoreError> {
        let mut condition = format!("attribute_not_exists({PK}) OR expires_at <= :now");
        let mut request = self
            .client
            .update_item()
            .table_name(&self.names.table)
            .set_key(Some(lease_key(job)))
            .update_expression("SET holder = :holder, expires_at = :until, term = if_not_exists(term, :zero) + :one")
            .expression_attribute_values(":holder", text(holder.as_str()))
            .expression_attribute_values(":now", time(now))
            .expression_attribute_values(":until", time(until))
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if let Some(due_since) = due_since {
            condition = format!("({condition}) AND (attribute_not_exists(ran_at) OR ran_at <= :due_since)");
            request = request.expression_attribute_values(":due_since", time(due_since));
        }
        let error = match request.condition_expression(condition).send().await {
            Ok(answer) => {
                let taken = answer.attributes().ok_or_else(|| {
                    StoreError::OutcomeUnknown(cause("the lease was written, but the answer lacks it"))
                })?;
                return Ok(LeaseOutcome::Acquired(read_lease(job, taken)?));
            }
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(failure)) => {
                let found = failure
                    .item()
                    .ok_or_else(|| StoreError::Rejected(cause("the store does not say who holds the lease")))?;
                Ok(LeaseOutcome::Refused(read_lease(job, found)?))
            }
            _ => Err(store_error(Kind::Write, error)),
        }
    }

    async fn extend_lease(&self, lease: &JobLease, until: Timestamp) -> Result<bool, StoreError> {
        let request = self.own_lease(lease).update_expression("SET expires_at = :until");
        held(request.expression_attribute_values(":until", time(until))).await
    }

    async fn release_lease(&self, lease: &JobLease) -> Result<bool, StoreError> {
        let mut sets = vec!["expires_at = :over"];
        let mut request = self.own_lease(lease).expression_attribute_values(":over", number(0));
        if let Some(ran_at) = lease.ran_at {
            sets.push("ran_at = :ran_at");
            request = request.expression_attribute_values(":ran_at", time(ran_at));
        }
        if let Some(last_run) = &lease.last_run {
            sets.push("last_run = :last_run");
            request = request.expression_attribute_values(":last_run", text(last_run));
        }
        held(request.update_expression(format!("SET {}", sets.join(", ")))).await
    }

    async fn read_lease(&self, job: ActorName) -> Result<Option<JobLease>, StoreError> {
        let found = self.get_item(lease_key(job)).await?;
        found.map(|found| read_lease(job, &found)).transpose()
    }

    async fn put_control(&self, control: &Control) -> Result<(), StoreError> {
        let request = self
            .client
            .update_item()
            .table_name(&self.names.table)
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
            .expression_attribute_values(":at", time(control.updated_at));
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) if is_condition_failure(&error) => Ok(()),
            Err(error) => Err(store_error(Kind::Write, error)),
        }
    }

    async fn controls(&self, actors: &[ActorName]) -> Result<Vec<Control>, StoreError> {
        let mut wanted = KeysAndAttributes::builder().consistent_read(true);
        for actor in actors {
            wanted = wanted.keys(control_key(*actor));
        }
        let mut wanted = Some(wanted.build().map_err(|error| StoreError::Rejected(cause(error)))?);
        let mut controls = Vec::new();
        for _ in 0..MAX_BATCH_READS {
            let Some(keys) = wanted.take() else { return Ok(controls) };
            let request = self.client.batch_get_item().request_items(&self.names.table, keys);
            let answer = request.send().await.map_err(|error| store_error(Kind::Read, error))?;
            let items = answer.responses().and_then(|tables| tables.get(&self.names.table));
            for item in items.into_iter().flatten() {
                controls.push(read_control(item)?);
            }
            wanted = answer.unprocessed_keys().and_then(|tables| tables.get(&self.names.table)).cloned();
        }
        match wanted {
            None => Ok(controls),
            Some(_) => Err(StoreError::Throttled(cause("the controls were not read in full"))),
        }
    }

    async fn heartbeat(
        &self,
        replica: &ReplicaId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<ReplicaId>, StoreError> {
        self.keep_listed(replica, until).await?;
        self.live_replicas(now).await
    }

    async fn leave(&self, replica: &ReplicaId) -> Result<(), StoreError> {
        let request = self.client.delete_item().table_name(&self.names.table).set_key(Some(replica_key(replica)));
        request.send().await.map(|_| ()).map_err(|error| store_error(Kind::Write, error))
    }
}

impl DynamoStore {
    fn own_lease(&self, lease: &JobLease) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.names.table)
            .set_key(Some(lease_key(lease.job)))
            .condition_expression("holder = :holder AND term = :term")
            .expression_attribute_values(":holder", text(lease.holder.as_str()))
            .expression_attribute_values(":term", number(lease.term))
    }

    async fn keep_listed(&self, replica: &ReplicaId, until: Timestamp) -> Result<(), StoreError> {
        let request = self
            .client
            .update_item()
            .table_name(&self.names.table)
            .set_key(Some(replica_key(replica)))
            .update_expression("SET holder = :holder, expires_at = :until, #ttl = :until")
            .condition_expression(format!("attribute_not_exists({PK}) OR expires_at <= :until"))
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":holder", text(replica.as_str()))
            .expression_attribute_values(":until", time(until));
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) if is_condition_failure(&error) => Ok(()),
            Err(error) => Err(store_error(Kind::Write, error)),
        }
    }

    async fn live_replicas(&self, now: Timestamp) -> Result<Vec<ReplicaId>, StoreError> {
        let request = self
            .client
            .query()
            .table_name(&self.names.table)
            .key_condition_expression(format!("{PK} = :replicas AND begins_with({SK}, :prefix)"))
            .filter_expression("expires_at > :now")
            .expression_attribute_values(":replicas", text(REPLICAS))
            .expression_attribute_values(":prefix", text(REPLICA_PREFIX))
            .expression_attribute_values(":now", time(now))
            .limit(MAX_REPLICAS);
        let answer = request.send().await.map_err(|error| store_error(Kind::Read, error))?;
        answer.items().iter().map(read_replica).collect()
    }
}

/// Sends a write to a lease; `false` if the lease is not held any more.
async fn held(request: UpdateItemFluentBuilder) -> Result<bool, StoreError> {
    match request.send().await {
        Ok(_) => Ok(true),
        Err(error) if is_condition_failure(&error) => Ok(false),
        Err(error) => Err(store_error(Kind::Write, error)),
    }
}
