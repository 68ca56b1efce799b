use super::{About, Diagnosis, Facts, diagnose};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::{Code, Status};
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::selector::Selector;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::attest::Examined;
use crate::entries::tests::entry;
use crate::entries::{EntryIndex, WorkloadEntry};
use crate::explain::causes::{AgentFacts, Severity};
use crate::explain::codes::{
    AGENT_NOT_ATTESTED, AGENT_SVID_EXPIRED, ATTESTOR_FAILED, CALLER_RATE_LIMITED, CLOCK_SKEW,
    ENTRY_FOR_STORE, ENTRY_REMOVED, FOREIGN_TRUST_DOMAIN, HINT_TAKEN, IDENTITY_HELD, ISSUE_REFUSED, NO_ENTRY,
    POD_NOT_HERE, PROCESS_GONE, RENEWAL_OVERDUE, SELECTOR_DIFFERS, SERVER_RATE_LIMITED, SERVER_UNREACHABLE,
    SVID_EXPIRED, SVID_NOT_SIGNED, SVID_ON_DEMAND,
};
use crate::explain::notes::{Failure, Notes};
use crate::identities::Snapshot;
use crate::identities::tests::svid;
use crate::limits::{CallerLimits, Limited, LimitsConfig};
use crate::metrics::Metrics;
use crate::status::{AgentStatus, Phase};

const NOW: i64 = 1_000;

/// An agent with entries, and SVIDs that end when they are said to.
struct World {
    snapshot: Snapshot,
    agent: AgentFacts,
    notes: Notes,
    limits: CallerLimits,
}

impl World {
    fn new(entries: &[WorkloadEntry], svids: &[(&str, i64)]) -> Self {
        let snapshot = Snapshot {
            version: 1,
            index: Arc::new(EntryIndex::build(entries.iter().cloned(), &EntryIndex::default())),
            svids: Arc::new(
                svids
                    .iter()
                    .map(|(id, end)| (EntryId::parse(id).unwrap(), svid(id, *end)))
                    .collect::<HashMap<_, _>>(),
            ),
            bundles: None,
            synchronized: true,
        };
        let status = AgentStatus {
            phase: Phase::Serving,
            id: SpiffeId::parse("spiffe://example.org/spire/agent/x").ok(),
            svid_expires_at: Some(2_000),
            last_sync: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(990)),
            ..AgentStatus::default()
        };
        let agent = AgentFacts {
            status,
            server: "server.test:8081".to_owned(),
            servers: Vec::new(),
            denial: None,
            server_is_unknown: false,
            sync: None,
            node: None,
            server_clock_ahead: None,
        };
        Self { snapshot, agent, notes: Notes::default(), limits: CallerLimits::default() }
    }

    fn of(&self, about: About) -> Diagnosis {
        let facts = Facts {
            now: NOW,
            instant: Instant::now(),
            snapshot: &self.snapshot,
            agent: &self.agent,
            notes: &self.notes,
            limits: &self.limits,
            svid_limit: 10,
        };
        diagnose(&facts, about)
    }

    fn server_is_away(mut self) -> Self {
        self.agent.sync = Some(Failure::of(&Status::unavailable("tcp connect error")));
        self
    }
}

fn process(selectors: &[&str], failed: &[&'static str]) -> About {
    let found = selectors.iter().map(|text| Selector::parse(text).unwrap()).collect();
    let mut outcomes = vec![("unix", Ok(found))];
    outcomes.extend(failed.iter().map(|name| (*name, Err("it hangs".to_owned()))));
    About::Process { pid: 7, name: "web".to_owned(), examined: Examined { outcomes, still_same: true } }
}

fn codes(diagnosis: &Diagnosis) -> Vec<&'static str> {
    assert!(
        diagnosis
            .findings
            .iter()
            .all(|finding| finding.severity == Severity::Good || !finding.next.is_empty()),
        "{diagnosis:?}"
    );
    diagnosis.findings.iter().map(|finding| finding.code).collect()
}

fn with_hint(id: &str, hint: &str, created_at: i64) -> WorkloadEntry {
    WorkloadEntry { hint: hint.into(), created_at, ..entry(id, &["unix:uid:1"]) }
}

#[test]
fn a_process_with_a_valid_svid_is_well_also_while_the_server_is_away() {
    let world = World::new(&[entry("a", &["unix:uid:1"])], &[("a", 5_000)]);
    let diagnosis = world.of(process(&["unix:uid:1"], &[]));
    assert_eq!((codes(&diagnosis), diagnosis.is_well()), (vec![IDENTITY_HELD], true));
    let diagnosis = world.server_is_away().of(process(&["unix:uid:1"], &["docker"]));
    assert_eq!(
        (codes(&diagnosis), diagnosis.is_well()),
        (vec![IDENTITY_HELD, SERVER_UNREACHABLE, ATTESTOR_FAILED], true)
    );
}

#[test]
fn an_entry_that_is_not_there_is_told_from_one_that_nearly_fits() {
    let world = World::new(&[entry("a", &["unix:uid:1", "unix:gid:1"])], &[]);
    assert_eq!(codes(&world.of(process(&["docker:label:a:b"], &[]))), [NO_ENTRY]);
    let near = world.of(process(&["unix:uid:1", "unix:gid:2"], &[]));
    assert_eq!(codes(&near), [SELECTOR_DIFFERS]);
    let detail = &near.findings[0].detail;
    assert_eq!(
        detail,
        "spiffe://example.org/a (entry a) differs in 1: it wants unix:gid:1, and the process has unix:gid:2"
    );
    assert!(!near.findings[0].text.contains("unix:"), "what anybody may read names no selector");
    assert!(near.findings[0].next.contains("vouchsafe server entry show -entryID a"));
    let away = world.server_is_away().of(process(&["unix:uid:9"], &[]));
    assert_eq!((codes(&away), away.is_well()), (vec![SELECTOR_DIFFERS, SERVER_UNREACHABLE], false));
}

#[test]
fn an_attestor_that_failed_is_the_cause_if_the_nearest_entry_wants_what_it_finds() {
    let wants_docker = World::new(&[entry("a", &["docker:label:app:web"])], &[]);
    assert_eq!(
        codes(&wants_docker.of(process(&["unix:uid:1"], &["docker"]))),
        [ATTESTOR_FAILED, SELECTOR_DIFFERS]
    );
    let wants_uid = World::new(&[entry("a", &["unix:uid:2"])], &[]);
    assert_eq!(
        codes(&wants_uid.of(process(&["unix:uid:1"], &["docker"]))),
        [SELECTOR_DIFFERS, ATTESTOR_FAILED]
    );
    let examined = Examined { outcomes: vec![("unix", Err("hidden".to_owned()))], still_same: true };
    let hidden = About::Process { pid: 7, name: "web".to_owned(), examined };
    assert_eq!(codes(&wants_uid.of(hidden))[0], ATTESTOR_FAILED);
}

#[test]
fn a_process_that_is_gone_is_all_there_is_to_say() {
    let world = World::new(&[], &[]).server_is_away();
    assert_eq!(codes(&world.of(About::NoProcess(7))), [PROCESS_GONE]);
    let examined = Examined { outcomes: vec![("unix", Ok(Vec::new()))], still_same: false };
    assert_eq!(codes(&world.of(About::Process { pid: 7, name: "web".to_owned(), examined })), [PROCESS_GONE]);
    assert_eq!(codes(&world.of(About::NoPod("x".to_owned()))), [POD_NOT_HERE]);
}

#[test]
fn an_entry_that_was_there_a_moment_ago_is_gone_and_not_unknown() {
    let world = World::new(&[entry("b", &["unix:uid:2"])], &[]);
    world.notes.removed(&entry("a", &["unix:uid:1"]));
    let selectors = [Selector::parse("unix:uid:1").unwrap()].into_iter().collect();
    assert_eq!(codes(&world.of(About::Selectors(selectors))), [ENTRY_REMOVED]);
    let id = |path: &str| About::Id(SpiffeId::parse(&format!("spiffe://example.org/{path}")).unwrap());
    assert_eq!(codes(&world.of(id("a"))), [ENTRY_REMOVED]);
    assert_eq!(codes(&world.of(id("c"))), [NO_ENTRY]);
    let foreign = About::Id(SpiffeId::parse("spiffe://other.org/a").unwrap());
    assert_eq!(codes(&world.of(foreign)), [FOREIGN_TRUST_DOMAIN]);
}

#[test]
fn what_keeps_the_server_away_comes_before_the_svid_that_it_did_not_sign() {
    let world = World::new(&[entry("a", &["unix:uid:1"])], &[]);
    assert_eq!(codes(&world.of(process(&["unix:uid:1"], &[]))), [SVID_NOT_SIGNED]);
    let world = world.server_is_away();
    assert_eq!(codes(&world.of(process(&["unix:uid:1"], &[]))), [SERVER_UNREACHABLE, SVID_NOT_SIGNED]);
    let mut world = World::new(&[entry("a", &["unix:uid:1"])], &[("a", 900)]).server_is_away();
    assert_eq!(codes(&world.of(process(&["unix:uid:1"], &[]))), [SERVER_UNREACHABLE, SVID_EXPIRED]);
    world.agent.status.svid_expires_at = Some(900);
    assert_eq!(
        codes(&world.of(process(&["unix:uid:1"], &[]))),
        [SERVER_UNREACHABLE, AGENT_SVID_EXPIRED, SVID_EXPIRED]
    );
}

#[test]
fn what_the_server_says_about_one_entry_is_told_with_that_entry() {
    let world = World::new(&[entry("a", &["unix:uid:1"])], &[("a", 1_500)]);
    let id = EntryId::parse("a").unwrap();
    let fails = |code, entry: &World| {
        entry.notes.not_issued([&id], &Failure::new(code, "no"), Instant::now() + Duration::from_secs(9));
        codes(&entry.of(process(&["unix:uid:1"], &[])))
    };
    assert_eq!(fails(Code::ResourceExhausted, &world), [RENEWAL_OVERDUE], "it is due at half of its life");
    let bare = World::new(&[entry("a", &["unix:uid:1"])], &[]);
    assert_eq!(fails(Code::ResourceExhausted, &bare), [SERVER_RATE_LIMITED]);
    assert_eq!(fails(Code::Unknown, &bare), [ISSUE_REFUSED]);
    bare.notes.issued(&id);
    let on_demand = WorkloadEntry { disable_x509_svid_prefetch: true, ..entry("a", &["unix:uid:1"]) };
    let diagnosis = World::new(&[on_demand], &[]).of(process(&["unix:uid:1"], &[]));
    assert_eq!((codes(&diagnosis), diagnosis.findings[0].severity), (vec![SVID_ON_DEMAND], Severity::Notice));
}

#[test]
fn of_two_identities_with_one_hint_the_younger_is_named() {
    let world =
        World::new(&[with_hint("a", "main", 1), with_hint("b", "main", 2)], &[("a", 5_000), ("b", 5_000)]);
    let diagnosis = world.of(process(&["unix:uid:1"], &[]));
    assert_eq!((codes(&diagnosis), diagnosis.is_well()), (vec![HINT_TAKEN, IDENTITY_HELD], false));
    assert!(diagnosis.findings[0].text.contains("spiffe://example.org/b is left out"), "{diagnosis:?}");
}

#[test]
fn an_entry_for_a_store_is_not_for_workloads() {
    let stored = WorkloadEntry { store_svid: true, ..entry("a", &["unix:uid:1"]) };
    assert_eq!(codes(&World::new(&[stored], &[]).of(process(&["unix:uid:1"], &[]))), [ENTRY_FOR_STORE]);
}

#[test]
fn a_caller_that_asks_too_often_is_told_before_that_it_has_an_identity() {
    let mut world = World::new(&[entry("a", &["unix:uid:1"])], &[("a", 5_000)]);
    let config = LimitsConfig { fetch_x509_svid: 1, ..LimitsConfig::default() };
    world.limits = CallerLimits::new(&config, &Metrics::new(Registry::new("spire_agent", &[])));
    let selectors = [Selector::parse("unix:uid:1").unwrap()].into_iter().collect();
    while world.limits.check(Limited::FetchX509Svid, &selectors, 1).is_ok() {}
    assert_eq!(codes(&world.of(process(&["unix:uid:1"], &[]))), [CALLER_RATE_LIMITED, IDENTITY_HELD]);
}

#[test]
fn a_clock_that_is_wrong_is_a_problem_even_while_the_svid_works_here() {
    let mut world = World::new(&[entry("a", &["unix:uid:1"])], &[("a", 5_000)]);
    world.agent.server_clock_ahead = Some(-600);
    let diagnosis = world.of(process(&["unix:uid:1"], &[]));
    assert_eq!((codes(&diagnosis), diagnosis.is_well()), (vec![CLOCK_SKEW, IDENTITY_HELD], false));
    assert!(diagnosis.findings[0].text.contains("10 min behind"), "{diagnosis:?}");
}

#[test]
fn an_agent_that_knows_no_entries_says_why_instead_of_that_there_is_none() {
    let mut world = World::new(&[], &[]);
    world.snapshot.synchronized = false;
    world.agent.status.phase = Phase::Attesting;
    world.agent.node = Some(Failure::new(Code::PermissionDenied, "the token was used"));
    let diagnosis = world.of(process(&["unix:uid:1"], &[]));
    assert!(!codes(&diagnosis).contains(&NO_ENTRY), "{diagnosis:?}");
    assert!(codes(&diagnosis).contains(&AGENT_NOT_ATTESTED), "{diagnosis:?}");
}
