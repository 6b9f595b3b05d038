//! An allocation that waits: it has a place in the queue, and claims when it is its turn.

use tokio::time::{Instant, timeout_at};

use super::{
    AllocateError, AllocateRequest, Allocation, Allocator, Answer, NextStep, Shared, quota_permit, spend_if_new,
};
use crate::ports::Ticket;
use crate::queue::waiting::JoinError;
use crate::queue::{Place, Turn};
use crate::sandbox::ClaimKey;

/// Candidates that one turn may try.
const MAX_CANDIDATES: u32 = 8;

impl From<JoinError> for AllocateError {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::NotOwner => Self::NotOwner,
            JoinError::Full { limit } => Self::QueueFull { limit },
            JoinError::Store(error) => Self::Store(error),
        }
    }
}

impl Allocator {
    /// Waits in the queue until it is this key's turn or the time is up. `is_shown_empty` says that the pool had nothing for
    /// this request since it arrived (I4).
    pub(super) async fn queue(
        &self,
        request: AllocateRequest,
        until: Instant,
        is_shown_empty: bool,
        gone: impl Future<Output = ()>,
    ) -> Answer {
        // A key that holds a sandbox needs no place.
        match self.0.replay_or(&request, AllocateError::NoneAvailable).await {
            Err(AllocateError::NoneAvailable) => {}
            answer => return answer,
        }
        let started = Instant::now();
        let claim_key = ClaimKey { track: request.owner.track.clone(), key: request.key.clone() };
        let (prefix, lab) = (request.name_prefix.clone(), request.track_name.clone());
        let place = self.0.queue.join(claim_key, &request.owner, prefix, lab).await?;
        let ticket = place.ticket().clone();
        let served = timeout_at(until, self.serve(place, &request));
        let served = tokio::select! {
            biased;
            served = served => served.ok(),
            () = gone => None,
        };
        let answer = match served {
            Some(answer) => answer,
            None => {
                let refusal = if is_shown_empty && self.0.queue.is_hopeless() {
                    AllocateError::NoneAvailable
                } else {
                    AllocateError::Waiting(self.0.queue.standing(&ticket).await?)
                };
                // A claim of before whose answer was lost may have taken effect meanwhile.
                self.0.replay_or(&request, refusal).await
            }
        };
        let outcome = match &answer {
            Ok(_) => "allocated",
            Err(AllocateError::Waiting(_)) => "waiting",
            Err(_) => "ended",
        };
        let waited = started.elapsed();
        metrics::histogram!("broker_queue_wait_seconds", "outcome" => outcome).record(waited.as_secs_f64());
        answer.map(|allocation| Allocation { waited, ..allocation })
    }

    async fn serve(&self, mut place: Place, request: &AllocateRequest) -> Answer {
        loop {
            match place.turn().await {
                Turn::Stopping => return Err(AllocateError::Stopping),
                Turn::Gone => {
                    place.granted();
                    // A twin was served, or the ticket was withdrawn.
                    return self.0.replay_or(request, AllocateError::Withdrawn).await;
                }
                Turn::Claim => {
                    let (shared, request) = (self.0.clone(), request.clone());
                    let ticket = place.ticket().clone();
                    // A caller that goes away cancels nothing that was sent.
                    let turn = tokio::spawn(async move { shared.claim_turn(&request, &ticket).await });
                    match turn.await.unwrap_or(Some(Err(AllocateError::Stopping))) {
                        Some(answer) => {
                            match &answer {
                                Ok(Allocation { replayed: false, .. }) => place.granted(),
                                Ok(Allocation { replayed: true, .. }) => place.needless(),
                                Err(_) => drop(place),
                            }
                            return answer;
                        }
                        None => place.missed(),
                    }
                }
            }
        }
    }
}

impl Shared {
    /// Claims what is free now, if the caller's quota allows another new claim; `None` if others were faster.
    async fn claim_turn(&self, request: &AllocateRequest, ticket: &Ticket) -> Option<Answer> {
        let permit = match quota_permit(request) {
            Ok(permit) => permit,
            Err(exceeded) => return Some(self.replay_or(request, exceeded.into()).await),
        };
        let deadline = Instant::now() + self.settings.timeout;
        for _ in 0..MAX_CANDIDATES {
            let candidate = match self.pool.try_take(request.name_prefix.clone()).await {
                Ok(candidate) => candidate?,
                Err(error) => return Some(Err(error.into())),
            };
            match self.claim(candidate, request, Some(ticket), deadline).await {
                NextStep::Answer(answer) => {
                    spend_if_new(permit, &answer);
                    return Some(answer);
                }
                NextStep::TryNext | NextStep::TryNextAfterMiss => {}
                // The next turn is soon enough.
                NextStep::TryAgainAfterWait => return None,
            }
        }
        None
    }
}
