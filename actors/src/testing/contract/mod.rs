//! The contract of [`SandboxStore`]: one function for each clause. [`crate::store_contract!`] makes a test of each clause for
//! any store. Each test uses its own ids and ignores other items, so it can run on a shared table.

mod claims;
mod coordination;
mod sandboxes;
mod tickets;

use std::sync::Arc;
use std::time::Duration;

pub use self::claims::*;
pub use self::coordination::*;
pub use self::sandboxes::*;
pub use self::tickets::*;
use crate::ports::SandboxStore;
use crate::sandbox::{
    Claim, ClaimKey, ConditionalUpdate, CspAccount, Holding, IdempotencyKey, LabTime, Owner, Sandbox, SandboxId,
    Timestamp, TrackId, UnixMillis,
};

/// Makes one test of each clause. `$store` is a future of the store to test. Attributes apply to all of them.
#[macro_export]
macro_rules! store_contract {
    ($(#[$attribute:meta])* $module:ident, $store:expr) => {
        mod $module {
            use super::*;
            $crate::store_contract!(@tests [$(#[$attribute])*] $store;
                claim_allocates_and_can_be_read_back
                claim_under_a_held_key_answers_with_the_holding
                claim_of_a_changed_candidate_returns_the_current_item
                claim_of_a_missing_candidate_returns_none
                a_candidate_is_claimed_once_by_many_at_once
                a_key_gets_one_sandbox_from_many_at_once
                end_claim_frees_the_key
                end_claim_by_a_stranger_changes_nothing
                end_claim_twice_changes_nothing_the_second_time
                end_claim_leaves_another_sandboxes_claim_alone
                renewal_moves_sandbox_and_claim
                delete_claim_is_fenced_by_sandbox_and_epoch
                create_never_overwrites
                update_is_fenced_by_the_epoch
                update_sets_and_removes_the_named_fields
                attributes_round_trip
                list_pages_without_loss_or_repetition
                pages_cover_all_shards
                list_takes_a_range_of_positions
                list_refuses_foreign_cursors
                count_counts_all_pages
                sandboxes_are_found_by_owner_and_by_key
                a_missing_sandbox_is_none
                the_record_of_a_step_before_a_deletion_is_no_sandbox
                a_lease_has_one_holder
                a_stale_lease_is_taken_over_unless_it_changed
                a_lease_is_not_given_before_the_job_is_due
                a_lost_lease_cannot_be_extended_or_released
                a_released_lease_keeps_the_record_of_the_run
                one_of_many_concurrent_requests_gets_the_lease
                the_newest_control_counts
                counts_and_supply_are_kept_together
                a_live_ticket_keeps_its_rank
                a_ticket_is_continued_by_its_owner_alone
                a_ticket_of_another_life_is_left_alone
                a_grant_takes_the_ticket
                nothing_is_granted_without_a_live_ticket
                the_queue_is_announced_to_all
                replicas_come_and_go
                a_heartbeat_of_a_clock_that_was_ahead_lists_no_one
                dead_heartbeats_hide_no_live_one
                a_working_store_passes_the_check
            );
        }
    };
    (@tests $attributes:tt $store:expr; $($clause:ident)*) => {
        $($crate::store_contract!(@test $attributes $store; $clause);)*
    };
    (@test [$(#[$attribute:meta])*] $store:expr; $clause:ident) => {
        #[tokio::test]
        $(#[$attribute])*
        async fn $clause() {
            $crate::testing::contract::$clause($store.await).await;
        }
    };
}

/// The time of day in the tests.
const NOW: Timestamp = Timestamp(1_800_000_000);

type Store = Arc<dyn SandboxStore>;

fn unique(prefix: &str) -> String {
    format!("{prefix}-{:016x}", fastrand::u64(..))
}

fn fresh_sandbox() -> Sandbox {
    let account = CspAccount {
        sandbox_id: SandboxId::new(unique("id")),
        name: Some(unique("lab")),
        external_id: unique("identity/accounts/"),
        sfdc_account_id: None,
        created_at: None,
    };
    Sandbox::discovered(&account, Duration::ZERO, UnixMillis(NOW.0 * 1000))
}

async fn created(store: &Store) -> Sandbox {
    let sandbox = fresh_sandbox();
    assert!(store.create(&sandbox).await.unwrap(), "the id is new");
    sandbox
}

fn fresh_holding() -> Holding {
    Holding {
        owner: Owner::named(TrackId::new(unique("track"))),
        track_name: Some("intro-lab".to_owned()),
        key: IdempotencyKey::new(unique("key")),
        expires_at: Timestamp(NOW.0 + 3600),
        lab: LabTime::default(),
    }
}

fn claim_writes(sandbox: &Sandbox, holding: &Holding) -> (ConditionalUpdate, Claim) {
    let (write, claim) = sandbox.claim(holding.clone(), NOW).unwrap();
    assert_eq!(Claim::held(&sandbox.after(&write.mutation)).as_ref(), Some(&claim), "sandbox and claim agree");
    (write, claim)
}

fn key_of(holding: &Holding) -> ClaimKey {
    ClaimKey { track: holding.owner.track.clone(), key: holding.key.clone() }
}
