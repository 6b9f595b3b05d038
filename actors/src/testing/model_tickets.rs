//! The tickets of the model store.

use async_trait::async_trait;

use super::model_store::{ModelStore, throttled};
use crate::ports::{ClaimOutcome, GrantOutcome, StoreError, StoredQueue, Ticket, Tickets};
use crate::sandbox::{Claim, ClaimKey, ConditionalUpdate, Timestamp};

#[async_trait]
impl Tickets for ModelStore {
    async fn open_ticket(&self, ticket: &Ticket) -> Result<Option<Ticket>, StoreError> {
        let ticket = ticket.clone();
        self.write("open_ticket", throttled(), move |contents| contents.tables.open_ticket(&ticket)).await
    }

    async fn renew_ticket(&self, ticket: &Ticket) -> Result<bool, StoreError> {
        let ticket = ticket.clone();
        self.write("renew_ticket", throttled(), move |contents| contents.tables.renew_ticket(&ticket)).await
    }

    async fn withdraw_ticket(&self, ticket: &Ticket) -> Result<bool, StoreError> {
        let ticket = ticket.clone();
        self.write("withdraw_ticket", throttled(), move |contents| contents.tables.withdraw_ticket(&ticket)).await
    }

    async fn tickets(&self) -> Result<Vec<Ticket>, StoreError> {
        self.read("tickets", |contents| Ok(contents.tables.tickets.values().cloned().collect())).await
    }

    async fn find_held(&self, claim_key: &ClaimKey) -> Result<(Option<Claim>, Option<Ticket>), StoreError> {
        self.read("find_held", |contents| {
            let tables = &contents.tables;
            Ok((tables.find_claim(claim_key).cloned(), tables.ticket(claim_key).cloned()))
        })
        .await
    }

    async fn grant(
        &self,
        update: &ConditionalUpdate,
        claim: &Claim,
        ticket: &Ticket,
        now: Timestamp,
    ) -> Result<GrantOutcome, StoreError> {
        let (update, claim, ticket) = (update.clone(), claim.clone(), ticket.clone());
        let conflict = GrantOutcome::Claim(ClaimOutcome::CandidateConflict);
        self.write("grant", Ok(conflict), move |contents| contents.tables.grant(&update, &claim, &ticket, now)).await
    }

    async fn announce_queue(&self, until: Timestamp, waiting: u64) -> Result<(), StoreError> {
        self.write("announce_queue", throttled(), move |contents| {
            contents.queue = StoredQueue { until, waiting };
        })
        .await
    }
}
