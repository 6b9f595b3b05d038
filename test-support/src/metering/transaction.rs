//! `TransactWriteItems`: prepare, wait, commit.
//!
//! A transaction marks its keys when it arrives and commits a few milliseconds later. Meanwhile other writes of these
//! keys meet a conflict, so the items that it finds at its commit are those of its preparation.
//!
//! A cancelled transaction consumes the table's units of each item that was not throttled, as AWS documents it for
//! failed conditions; if an item was throttled, only failed conditions are charged. Repeated tokens are answered free
//! of charge (AWS charges reads).

use std::time::Duration;

use dynoxide::Item;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::database::Transacted;
use super::error::{Reason, ServiceError};
use super::schema::{item, text};
use super::settings::draw;
use super::state::{State, Target, WriteCost};
use super::units::{TRANSACTION_FACTOR, table_write_units};

const OPERATION: &str = "TransactWriteItems";

/// A transaction between its preparation and its commit.
pub(super) struct Prepared {
    actions: Vec<Action>,
    token: Option<String>,
    capacity: Value,
    /// How long its keys stay marked.
    pub(super) wait: Duration,
}

/// What becomes of a transaction that arrives.
pub(super) enum Arrival {
    Prepared(Prepared),
    /// Its token was committed before.
    Repeated,
}

/// One item of a transaction.
struct Action {
    /// Its member of `TransactItems`.
    request: Value,
    target: Target,
}

/// The verdict on one item.
struct Judged {
    reason: Reason,
    /// What it took, and how long each charge waits; none if it was not charged.
    taken: Option<(WriteCost, Vec<Duration>)>,
}

impl State {
    /// Marks the keys of a transaction, or refuses it because another transaction has marked one of them.
    pub(super) fn prepare(&mut self, request: &Value) -> Result<Arrival, ServiceError> {
        self.replicas.settle(Instant::now())?;
        let actions = request["TransactItems"].as_array().into_iter().flatten();
        let actions: Vec<Action> = actions.map(|action| self.action(action)).collect::<Result<_, _>>()?;
        let token = request["ClientRequestToken"].as_str().map(str::to_owned);
        if let Some(token) = &token
            && !self.tokens.begin(token, &request["TransactItems"], Instant::now())?
        {
            return Ok(Arrival::Repeated);
        }
        if actions.iter().any(|action| self.marked.contains(&action.target.name)) {
            if let Some(token) = &token {
                self.tokens.cancelled(token);
            }
            return Err(self.conflict(&actions)?);
        }
        self.marked.extend(actions.iter().map(|action| action.target.name.clone()));
        let wait = draw(&mut self.random, &self.durations.transaction);
        Ok(Arrival::Prepared(Prepared { actions, token, capacity: request["ReturnConsumedCapacity"].clone(), wait }))
    }

    /// Commits or cancels a prepared transaction and removes its marks.
    pub(super) fn commit(&mut self, prepared: &Prepared) -> Result<Value, ServiceError> {
        let result = self.decide(&prepared.actions, &prepared.capacity);
        for action in &prepared.actions {
            self.marked.remove(&action.target.name);
        }
        if let Some(token) = &prepared.token {
            match &result {
                Ok(_) => self.tokens.committed(token, Instant::now()),
                Err(_) => self.tokens.cancelled(token),
            }
        }
        result
    }

    fn action(&self, action: &Value) -> Result<Action, ServiceError> {
        let members = ["Put", "Update", "Delete", "ConditionCheck"];
        let mut present = members.into_iter().filter(|member| action[*member].is_object());
        let (Some(member), None) = (present.next(), present.next()) else {
            return Err(ServiceError::validation("TransactItems can only contain one of Check, Put, Update or Delete"));
        };
        let attributes = item(&action[member][if member == "Put" { "Item" } else { "Key" }])?;
        let target = self.target(&text(&action[member], "TableName")?, &attributes)?;
        Ok(Action { request: action.clone(), target })
    }

    /// Carries out all actions, or undoes them if one is throttled.
    fn decide(&mut self, actions: &[Action], capacity: &Value) -> Result<Value, ServiceError> {
        let befores: Vec<Option<Item>> =
            actions.iter().map(|action| self.get(&action.target)).collect::<Result<_, _>>()?;
        let requests: Vec<Value> = actions.iter().map(|action| action.request.clone()).collect();
        let mut judged = Vec::with_capacity(actions.len());
        let response = match self.items.transact(&requests, capacity)? {
            Transacted::Committed(response) => {
                for (action, before) in actions.iter().zip(&befores) {
                    let after = self.get(&action.target)?;
                    judged.push(self.charge(action, Reason::Passed, before.as_ref(), after.as_ref()));
                }
                response
            }
            Transacted::Cancelled(reasons) => {
                for ((action, before), reason) in actions.iter().zip(&befores).zip(reasons) {
                    judged.push(match reason {
                        Reason::Passed => self.judge_alone(action)?,
                        reason => self.charge(action, reason, before.as_ref(), None),
                    });
                }
                return Err(self.cancel(judged));
            }
        };
        if judged.iter().any(|judged| !matches!(judged.reason, Reason::Passed)) {
            for (action, before) in actions.iter().zip(&befores) {
                self.items.restore(&action.target.name.table, &action.target.key, before.as_ref())?;
            }
            return Err(self.cancel(judged));
        }
        let mut written = Vec::with_capacity(actions.len());
        for (action, judged) in actions.iter().zip(judged) {
            if let Some((cost, waits)) = judged.taken {
                written.push((&action.target, self.settle_write(OPERATION, &action.target, cost, &waits)));
            }
        }
        self.show_commit(&written);
        Ok(response)
    }

    fn conflict(&mut self, actions: &[Action]) -> Result<ServiceError, ServiceError> {
        let mut judged = Vec::with_capacity(actions.len());
        for action in actions {
            judged.push(if self.marked.contains(&action.target.name) {
                Judged { reason: Reason::Conflict, taken: None }
            } else {
                self.judge_alone(action)?
            });
        }
        Ok(self.cancel(judged))
    }

    /// Finds the verdict on one item of a transaction that is cancelled because of another item. The item is carried out
    /// alone and undone: only its new state says which indexes may throttle it.
    fn judge_alone(&mut self, action: &Action) -> Result<Judged, ServiceError> {
        let before = self.get(&action.target)?;
        match self.items.transact(std::slice::from_ref(&action.request), &Value::Null)? {
            Transacted::Committed(_) => {
                let after = self.get(&action.target)?;
                self.items.restore(&action.target.name.table, &action.target.key, before.as_ref())?;
                Ok(self.charge(action, Reason::Passed, before.as_ref(), after.as_ref()))
            }
            Transacted::Cancelled(reasons) => {
                let reason = reasons.into_iter().next().unwrap_or(Reason::Passed);
                Ok(self.charge(action, reason, before.as_ref(), None))
            }
        }
    }

    /// Takes what an item costs. A failed condition costs the size of the item that is there.
    fn charge(&mut self, action: &Action, reason: Reason, before: Option<&Item>, after: Option<&Item>) -> Judged {
        let units = TRANSACTION_FACTOR * table_write_units(before, after);
        let cost = match &reason {
            Reason::Passed => self.write_cost(&action.target, units, before, after),
            Reason::Refused { code, .. } if code == "ConditionalCheckFailed" => {
                WriteCost { table: self.table_charge(&action.target, units), indexes: Vec::new() }
            }
            _ => return Judged { reason, taken: None },
        };
        match self.meter.take(&cost.charges(), Instant::now()) {
            Ok(waits) => Judged { reason, taken: Some((cost, waits)) },
            Err(_) => Judged { reason: Reason::Throttled, taken: None },
        }
    }

    /// Gives back what a cancelled transaction does not consume, and says why it was cancelled.
    fn cancel(&mut self, judged: Vec<Judged>) -> ServiceError {
        let is_throttled = judged.iter().any(|judged| matches!(judged.reason, Reason::Throttled));
        for judged in &judged {
            let Some((cost, _)) = &judged.taken else { continue };
            let charges = cost.charges();
            let (table, indexes) = charges.split_at(1);
            self.meter.give_back(indexes);
            if is_throttled && matches!(judged.reason, Reason::Passed) {
                self.meter.give_back(table);
            } else {
                self.meter.count(OPERATION, table);
            }
        }
        let reasons: Vec<Reason> = judged.into_iter().map(|judged| judged.reason).collect();
        ServiceError::cancelled(&reasons)
    }
}

/// The answer to a token that was committed before.
pub(super) fn repeated() -> Value {
    json!({})
}
