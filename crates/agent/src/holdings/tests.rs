use std::collections::HashMap;

use vouchsafe_types::entry::EntryId;

use super::*;
use crate::entries::tests::entry;
use crate::entries::{EntryIndex, WorkloadEntry};
use crate::identities::tests::svid;
use crate::status::StatusBoard;

const NOW: i64 = 1_000_000;

fn id(text: &str) -> EntryId {
    EntryId::parse(text).unwrap()
}

/// A snapshot with `entries`, and SVIDs until the given times.
fn snapshot(entries: Vec<WorkloadEntry>, svids: &[(&str, i64)]) -> Snapshot {
    let svids: HashMap<_, _> = svids.iter().map(|(name, end)| (id(name), svid(name, *end))).collect();
    let index = Arc::new(EntryIndex::build(entries, &EntryIndex::default()));
    Snapshot { version: 1, index, svids: Arc::new(svids), bundles: None, synchronized: true }
}

#[test]
fn each_entry_is_in_one_state() {
    let plain = |name: &str| entry(name, &["unix:uid:1"]);
    let lazy = |name: &str| WorkloadEntry { disable_x509_svid_prefetch: true, ..plain(name) };
    let entries = vec![
        plain("served"),
        plain("ended"),
        plain("new"),
        plain("beyond"),
        plain("refused"),
        plain("limited"),
        lazy("unasked"),
        lazy("asked"),
        WorkloadEntry { store_svid: true, ..plain("stored") },
    ];
    let held = snapshot(entries, &[("served", NOW + 10), ("ended", NOW - 10)]);
    held.index.get("asked").unwrap().usage.opened(1);
    let held_back = |id: &EntryId| match id.as_str() {
        "refused" | "served" => Some(HeldBack::Failing),
        "limited" => Some(HeldBack::Limited),
        _ => None,
    };
    let count = entries_by_state(NOW, (&held, 3), held_back);
    let expected = EntriesByState { serving: 1, waiting: 3, limited: 1, failing: 1, idle: 3 };
    assert_eq!(count, expected, "of two ahead of need one has room");
}

struct World {
    registry: Registry,
    board: StatusBoard,
    renewals: Arc<Renewals>,
    _holdings: Arc<Holdings>,
}

impl World {
    /// An agent that holds `svids` at [`NOW`].
    fn new(svids: &[(&str, i64)]) -> Self {
        let identities = Arc::new(Identities::default());
        let entries = svids.iter().map(|(name, _)| entry(name, &["unix:uid:1"])).collect();
        identities.edit(|held| {
            *held = snapshot(entries, svids);
            true
        });
        let (registry, board) = (Registry::new("a", &[]), StatusBoard::default());
        let clock = Clock::derived(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW as u64));
        let renewals = Arc::new(Renewals::default());
        let holdings = Holdings {
            jwt: crate::workload_api::updates::tests::api().jwt.clone(),
            identities,
            renewals: Arc::clone(&renewals),
            limit: 100,
            status: board.watch(),
            clock,
        };
        let holdings = holdings.show(&registry);
        Self { registry, board, renewals, _holdings: holdings }
    }

    fn value(&self, series: &str) -> Option<f64> {
        let text = self.registry.render();
        text.lines().find_map(|line| line.strip_prefix(&format!("a_vouchsafe_{series} "))?.parse().ok())
    }
}

const FORECAST: &str = "forecast_unrenewed_svids{within=\"24h\"}";

#[tokio::test(start_paused = true)]
async fn what_ends_first_is_shown_and_a_kind_that_is_not_held_is_not() {
    let world = World::new(&[("a", NOW + 500), ("b", NOW + 300)]);
    assert_eq!(world.value("credential_expiry_seconds{kind=\"x509_svid\"}"), Some((NOW + 300) as f64));
    assert_eq!(world.value("credential_expiry_seconds{kind=\"agent_svid\"}"), None);
    world.board.set(|status| status.svid_expires_at = Some(NOW + 7));
    assert_eq!(world.value("credential_expiry_seconds{kind=\"agent_svid\"}"), Some((NOW + 7) as f64));
    assert_eq!(world.value("state_confirmed_seconds{state=\"entries\"}"), Some(0.0));
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
    world.board.set(|status| status.last_sync = Some(at));
    assert_eq!(world.value("state_confirmed_seconds{state=\"entries\"}"), Some(1.0));
    assert_eq!(world.value("state_confirmed_seconds{state=\"bundles\"}"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn when_the_server_is_away_everything_that_ends_in_time_is_forecast_to_expire() {
    let day = 24 * 3_600;
    let world = World::new(&[("a", NOW + 500), ("b", NOW + day), ("c", NOW + day + 1), ("ended", NOW - 1)]);
    // "ended" has been due for long, and nothing was renewed.
    world.board.set(|status| status.sync_error = Some("away".to_owned()));
    assert_eq!(world.value(FORECAST), Some(2.0));
    world.board.set(|status| status.sync_error = None);
    world.renewals.failed();
    assert_eq!(world.value(FORECAST), Some(2.0));
}

#[tokio::test(start_paused = true)]
async fn while_all_is_well_nothing_is_forecast_to_expire_but_what_the_server_refuses() {
    let world = World::new(&[("due", NOW + 5), ("good", NOW * 2)]);
    world.renewals.hold_back([(id("due"), HeldBack::Failing), (id("good"), HeldBack::Limited)].into_iter());
    // It has been due since half of its life, which is long ago, and nothing was renewed since; but nothing else is due.
    assert_eq!(world.value("entries{state=\"serving\"}"), Some(2.0));
    assert_eq!(world.value("renewals_due"), Some(1.0));
    assert_eq!(world.value(FORECAST), Some(1.0));
    world.renewals.hold_back(std::iter::empty());
    assert_eq!(world.value(FORECAST), Some(1.0), "nothing gets through");
}
