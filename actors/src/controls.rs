//! What ties the replicas together besides the leases: the operators' controls, looked at every few seconds, and the
//! list of live replicas, by which each walks its own part of the pool.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::supervision::Vital;
use crate::system::{ACTORS, Broker};

/// A replica that was not heard of for so many of its heartbeats is dead.
const MISSED_HEARTBEATS: u32 = 3;

/// The loop of one replica.
pub(crate) struct ControlLoop {
    broker: Broker,
    _vital: Vital,
}

impl ControlLoop {
    pub(crate) fn new(broker: Broker) -> Self {
        let vital = broker.supervisor().vital("control loop");
        Self { broker, _vital: vital }
    }

    /// Looks and obeys until the broker stops.
    pub(crate) async fn run(self) {
        let mut stopping = self.broker.stopping();
        let mut heartbeat_at = Instant::now() + self.heartbeat_interval();
        loop {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = sleep(self.broker.settings().control_poll) => {}
            }
            match self.broker.ports().store.controls(&ACTORS).await {
                Ok(controls) => self.broker.obey(&controls),
                Err(error) => tracing::warn!(%error, "the operators' controls could not be read"),
            }
            if Instant::now() >= heartbeat_at {
                self.keep_replica_listed().await;
                heartbeat_at = Instant::now() + self.heartbeat_interval();
            }
        }
    }

    /// Says that this replica lives and learns which others do.
    pub(crate) async fn keep_replica_listed(&self) {
        let replica = &self.broker.settings().replica;
        let now = self.broker.ports().clock.now();
        let until = now.plus(self.heartbeat_interval() * MISSED_HEARTBEATS);
        match self.broker.ports().store.heartbeat(replica, now, until).await {
            Ok(live) => self.broker.pool().set_replicas(live),
            Err(error) => tracing::warn!(%error, "the list of replicas could not be kept"),
        }
    }

    fn heartbeat_interval(&self) -> Duration {
        self.broker.settings().job_lease / 3
    }
}
