//! What every store must do, whatever the engine.
//!
//! Each case gets a fresh, empty store and says in its name what holds. The suite uses the trait only, so it holds
//! for an engine that other servers write to at the same time as well.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a case that fails panics")]

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use vouchsafe_runtime::clock::{Clock, ClockHandle};
use vouchsafe_store::Store;

use crate::scratch::Scratch;

mod agents;
mod bundles;
mod concurrency;
mod entries;
mod federation;
mod feed;
mod join_tokens;
mod journals;
mod replica;
mod restore;

/// Runs the suite. `make` gives a new, empty store that reads time from the clock it gets.
///
/// # Panics
///
/// When a case fails or takes longer than [`CASE_DEADLINE`]; names all of them.
pub async fn store_conformance<M, Made>(make: M)
where
    M: Fn(Clock) -> Made,
    Made: Future<Output = Scratch>,
{
    let mut broken = Vec::new();
    for case in CASES {
        let (clock, time) = Clock::standing(START);
        let bed = Bed { scratch: make(clock).await, time };
        let mut run = JoinSet::new();
        run.spawn(tokio::time::timeout(CASE_DEADLINE, (case.run)(bed)));
        match run.join_next().await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(_))) => broken.push(format!("{}: no end after {CASE_DEADLINE:?}", case.name)),
            Some(Err(panic)) => broken.push(format!("{}: {panic}", case.name)),
            None => broken.push(format!("{}: did not run", case.name)),
        }
    }
    assert!(broken.is_empty(), "{} of {} cases failed:\n{}", broken.len(), CASES.len(), broken.join("\n"));
}

/// Longest that one case takes.
pub const CASE_DEADLINE: Duration = Duration::from_secs(120);

/// A new store and the clock that it reads.
struct Bed {
    scratch: Scratch,
    time: ClockHandle,
}

impl Bed {
    fn store(&self) -> Arc<dyn Store> {
        self.scratch.store()
    }

    /// Sets the store's clock to Unix second `now`, where it stands.
    fn at(&self, now: u64) {
        self.time.set(SystemTime::UNIX_EPOCH + Duration::from_secs(now));
    }
}

impl fmt::Debug for Bed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bed").finish_non_exhaustive()
    }
}

struct Case {
    name: &'static str,
    run: fn(Bed) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

macro_rules! cases {
    ($($module:ident::$name:ident)*) => {
        &[$(Case {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: |bed| Box::pin($module::$name(bed)),
        }),*]
    };
}

const CASES: &[Case] = cases! {
    entries::a_new_store_is_empty
    entries::an_entry_reads_back_whole_with_revision_zero_and_its_time
    entries::entries_load_in_order_of_creation
    entries::a_similar_entry_is_returned_and_nothing_is_written
    entries::an_entry_that_differs_in_one_selector_is_not_similar
    entries::a_taken_id_is_refused_and_the_entry_stays
    entries::an_update_raises_the_revision_and_keeps_id_and_creation_time
    entries::a_rejected_update_changes_nothing
    entries::updating_or_deleting_what_is_missing_is_not_found
    entries::a_successor_under_the_same_id_has_a_time_of_its_own
    entries::pruning_removes_what_expired_and_names_it
    agents::an_agent_reads_back_whole_and_is_replaced_as_a_whole
    agents::a_ban_ends_by_eviction_only
    agents::an_update_keeps_the_id_and_can_be_rejected
    agents::an_update_that_changes_nothing_writes_nothing
    agents::updates_of_many_are_one_write_and_one_that_is_refused_holds_up_no_other
    agents::what_is_missing_is_not_found
    agents::evicting_takes_the_alias_of_a_join_token_and_nothing_else
    agents::evicting_an_agent_of_another_attestor_takes_no_entry
    join_tokens::a_token_admits_one_agent_even_when_many_come_at_a_time
    join_tokens::an_expired_token_admits_nobody_and_is_gone
    join_tokens::a_token_and_its_agent_change_together_or_not_at_all
    join_tokens::pruning_removes_what_expired
    join_tokens::a_token_and_its_alias_are_written_together_or_not_at_all
    join_tokens::an_alias_that_exists_already_is_kept
    join_tokens::no_error_shows_a_token
    restore::an_empty_store_takes_over_everything_with_its_history
    restore::a_store_with_anything_in_it_is_left_alone
    restore::nothing_is_taken_over_when_something_comes_twice
    bundles::a_bundle_is_created_by_its_first_update
    bundles::authorities_keep_their_order_and_taint
    bundles::the_sequence_number_grows_with_changes_only
    bundles::a_rejected_update_leaves_no_bundle_behind
    bundles::a_bundle_goes_only_when_no_entry_federates_with_it
    federation::a_foreign_bundle_is_stored_as_it_is_sequence_number_included
    federation::a_foreign_bundle_is_created_and_updated_only_where_it_may_be
    federation::a_bundle_can_go_together_with_the_entries_that_federate_with_it
    federation::a_bundle_can_be_taken_out_of_the_entries_that_federate_with_it
    federation::a_relationship_reads_back_whole_and_in_order
    federation::a_relationship_changes_by_update_and_keeps_its_trust_domain
    federation::a_relationship_and_its_bundle_are_written_together_or_not_at_all
    journals::a_journal_is_replaced_by_key
    journals::journals_are_not_in_the_feed
    journals::a_journal_is_deleted_as_it_was_and_not_as_it_became
    journals::a_journal_beyond_the_bound_is_refused
    feed::a_write_is_seen_on_the_watch_before_it_returns
    feed::every_kind_of_write_is_in_the_feed
    feed::small_readings_add_up_to_the_whole
    feed::an_object_that_changed_twice_is_reported_once_as_it_is_now
    feed::what_was_pruned_sends_readers_behind_it_to_load_again
    feed::pruning_never_leaves_a_hole_when_the_clock_jumped
    feed::a_position_from_the_future_is_refused
    feed::a_position_past_the_newest_event_stays_readable_after_pruning
    concurrency::concurrent_updates_lose_nothing
    concurrency::concurrent_creates_of_similar_entries_make_one
    concurrency::following_the_feed_beside_writers_ends_at_the_same_state
    concurrency::a_dropped_write_happens_wholly_or_not_at_all
};

/// When every case begins.
const START: SystemTime = SystemTime::UNIX_EPOCH;
