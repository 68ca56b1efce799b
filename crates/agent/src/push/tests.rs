use std::collections::VecDeque;

use proptest::prelude::*;
use vouchsafe_proto::revisions::entries_digest;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::server::v1::BundleRevision;

use super::*;

fn full(id: &str, (created_at, revision_number): (i64, i64)) -> types::Entry {
    types::Entry {
        id: id.into(),
        spiffe_id: Some(types::Spiffeid { trust_domain: "example.org".into(), path: format!("/{id}") }),
        selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:1".into() }],
        revision_number,
        created_at,
        ..types::Entry::default()
    }
}

fn index(entries: &[types::Entry]) -> EntryIndex {
    let entries = entries.iter().map(|entry| WorkloadEntry::from_proto(entry).unwrap());
    EntryIndex::build(entries, &EntryIndex::default())
}

fn at(sequence: u64, position: u64) -> WatchResponse {
    WatchResponse { sequence, epoch: 1, position, ..WatchResponse::default() }
}

fn state(position: u64) -> State {
    State { epoch: 1, position }
}

/// A follower that is in step at position 10, having heard one message.
fn in_step(index: &EntryIndex) -> Follower {
    let mut follower = Follower::default();
    let first = WatchResponse { entries_digest: index.digest().into(), ..at(1, 10) };
    assert_eq!(follower.hear(first, index).unwrap().entries, Entries::Same);
    follower
}

fn names(list: &[&str]) -> BTreeSet<TrustDomain> {
    list.iter().map(|name| TrustDomain::parse(name).unwrap()).collect()
}

#[test]
fn who_holds_what_the_server_has_is_in_step_and_anyone_else_synchronizes() {
    let held = index(&[full("a", (1, 0))]);
    assert!(in_step(&held).is_in_step());
    let other = index(&[full("a", (1, 1))]);
    let first = WatchResponse { entries_digest: other.digest().into(), ..at(1, 10) };
    let mut follower = Follower::default();
    assert_eq!(follower.hear(first, &held).unwrap().entries, Entries::Unknown);
    assert_eq!(follower.hear(at(2, 10), &held).unwrap().entries, Entries::Unknown, "still");
    follower.synchronized(state(11));
    assert_eq!(follower.hear(at(3, 11), &held).unwrap().entries, Entries::Same);
}

#[test]
fn a_change_says_what_differs_and_what_is_held_already_is_none() {
    let held = index(&[full("a", (1, 0)), full("b", (1, 0))]);
    let mut follower = in_step(&held);
    let told = WatchResponse {
        changed: vec![full("a", (1, 0)), full("b", (1, 1)), full("c", (2, 0))],
        removed: vec!["a".into(), "unknown".into()],
        ..at(2, 11)
    };
    let Entries::Changed(delta) = follower.hear(told, &held).unwrap().entries else { panic!("a change") };
    let changed: Vec<_> = delta.changed.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!((changed, delta.removed), (vec!["b", "c"], vec![EntryId::parse("a").unwrap()]));
    let again = WatchResponse { changed: vec![full("a", (1, 0))], removed: vec!["x".into()], ..at(3, 12) };
    assert_eq!(follower.hear(again, &held).unwrap().entries, Entries::Same);
}

#[test]
fn a_missing_message_ends_the_stream_and_a_new_one_starts_at_one() {
    let held = index(&[]);
    let mut follower = in_step(&held);
    assert_eq!(follower.hear(at(3, 11), &held), Err(Gap { after: 1, got: 3 }));
    assert_eq!(Gap { after: 1, got: 3 }.to_string(), "message 3 came after message 1");
    follower.restart();
    assert_eq!(follower.hear(at(1, 11), &held).unwrap().entries, Entries::Unknown, "without a digest");
}

#[test]
fn a_message_that_a_synchronization_overtook_takes_nothing_back() {
    let held = index(&[full("a", (1, 3))]);
    let mut follower = in_step(&held);
    follower.synchronized(state(20));
    let late = WatchResponse { changed: vec![full("b", (1, 0))], removed: vec!["a".into()], ..at(2, 19) };
    assert_eq!(follower.hear(late, &held).unwrap().entries, Entries::Overtaken);
    let other = WatchResponse { removed: vec!["a".into()], epoch: 2, ..at(3, 5) };
    assert_eq!(follower.hear(other, &held).unwrap().entries, Entries::Unknown, "another database");
}

#[test]
fn an_older_version_or_one_that_cannot_be_read_is_not_taken() {
    let held = index(&[full("a", (1, 3))]);
    for entry in [full("a", (1, 2)), types::Entry { spiffe_id: None, ..full("a", (1, 4)) }] {
        let mut follower = in_step(&held);
        let told = WatchResponse { changed: vec![entry], ..at(2, 11) };
        assert_eq!(follower.hear(told, &held).unwrap().entries, Entries::Unknown);
        assert!(!follower.is_in_step());
    }
}

#[test]
fn an_answer_of_a_server_that_lags_is_known_and_one_of_another_database_is_not_judged() {
    let mut follower = Follower::default();
    assert!(!follower.is_behind(state(1)));
    follower.synchronized(state(20));
    follower.restart();
    assert!(follower.is_behind(state(19)) && !follower.is_behind(state(20)));
    assert!(!follower.is_behind(State { epoch: 2, position: 1 }) && !follower.is_behind(State::default()));
}

#[test]
fn a_bundle_is_fetched_until_it_is_held_and_again_when_it_changes() {
    let held = index(&[]);
    let mut follower = Follower::default();
    let bundle = |name: &str, revision: &'static [u8]| BundleRevision {
        trust_domain: name.into(),
        revision: Bytes::from_static(revision),
    };
    let first = WatchResponse {
        bundles: vec![bundle("a.org", b"1"), bundle("b.org", b"1")],
        entries_digest: held.digest().into(),
        ..at(1, 1)
    };
    assert_eq!(follower.hear(first.clone(), &held).unwrap().bundles, names(&["a.org", "b.org"]));
    follower.fetched(&names(&["a.org"]));
    assert_eq!(follower.hear(at(2, 1), &held).unwrap().bundles, names(&["b.org"]));
    follower.synchronized(state(1));
    assert_eq!(follower.hear(at(3, 1), &held).unwrap().bundles, names(&[]));
    follower.missed(&[TrustDomain::parse("c.org").unwrap()]);
    assert_eq!(
        follower.hear(at(4, 1), &held).unwrap().bundles,
        names(&["c.org"]),
        "though nobody told of it"
    );
    follower.fetched(&names(&["c.org"]));
    let told = WatchResponse { bundles: vec![bundle("a.org", b"2")], ..at(5, 2) };
    assert_eq!(follower.hear(told, &held).unwrap().bundles, names(&["a.org"]));
    follower.fetched(&names(&["a.org"]));
    follower.restart();
    assert_eq!(follower.hear(first, &held).unwrap().bundles, names(&["a.org"]), "and on the next stream");
}

/// A server that tells as ours does: which entries changed is a set, what they are now is read when it is told.
#[derive(Debug, Default)]
struct Server {
    position: u64,
    entries: BTreeMap<String, (i64, i64)>,
    note: BTreeSet<String>,
    compare: bool,
    sequence: u64,
    on_the_way: VecDeque<WatchResponse>,
}

impl Server {
    fn change(&mut self, id: u8, what: u8) {
        self.position += 1;
        let id = format!("e{id}");
        let now = i64::try_from(self.position).unwrap();
        match (what, self.entries.get_mut(&id)) {
            (0, Some(_)) => drop(self.entries.remove(&id)),
            (_, Some((_, revision))) => *revision += 1,
            (_, None) => drop(self.entries.insert(id.clone(), (now, 0))),
        }
        self.note.insert(id);
        self.compare |= what == 7;
    }

    fn open(&mut self) {
        (self.sequence, self.compare) = (0, true);
        self.on_the_way.clear();
        self.tell();
    }

    fn tell(&mut self) {
        self.sequence += 1;
        let mut message = at(self.sequence, self.position);
        let note = std::mem::take(&mut self.note);
        if std::mem::take(&mut self.compare) {
            let entries =
                self.entries.iter().map(|(id, (created, revision))| (id.as_str(), *revision, *created));
            message.entries_digest = entries_digest(entries).into();
        } else {
            for id in note {
                match self.entries.get(&id) {
                    Some(version) => message.changed.push(full(&id, *version)),
                    None => message.removed.push(id),
                }
            }
        }
        self.on_the_way.push_back(message);
    }

    fn all(&self) -> EntryIndex {
        index(&self.entries.iter().map(|(id, version)| full(id, *version)).collect::<Vec<_>>())
    }
}

#[derive(Clone, Debug)]
enum Event {
    Change(u8, u8),
    Tell,
    /// The agent hears the oldest message, and whether it can synchronize then.
    Hear(bool),
    Lose,
    Open,
    /// The agent synchronizes everything.
    Full,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u8..4, 0_u8..8).prop_map(|(id, what)| Event::Change(id, what)),
        3 => Just(Event::Tell),
        4 => any::<bool>().prop_map(Event::Hear),
        1 => Just(Event::Lose),
        1 => Just(Event::Open),
        1 => Just(Event::Full),
    ]
}

struct Agent {
    held: EntryIndex,
    /// The server's position that what is held is known to be of.
    of: u64,
    follower: Follower,
}

impl Agent {
    fn full(&mut self, server: &Server) {
        self.held = server.all();
        self.of = server.position;
        self.follower.synchronized(state(server.position));
    }

    fn hear(&mut self, message: WatchResponse, server: &mut Server, can_synchronize: bool) {
        let position = message.position;
        match self.follower.hear(message, &self.held).map(|heard| heard.entries) {
            Err(Gap { .. }) => {
                self.follower.restart();
                server.open();
            }
            Ok(Entries::Same | Entries::Overtaken) => {}
            Ok(Entries::Changed(delta)) => {
                assert!(position >= self.of, "went back");
                self.held = self.held.with(delta.changed, &delta.removed);
                self.of = position;
            }
            Ok(Entries::Unknown) if can_synchronize => self.full(server),
            Ok(Entries::Unknown) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is lost, late or overtaken: what is held never goes back, and at rest it is what the server has.
    #[test]
    fn an_agent_that_follows_ends_up_with_what_the_server_has(events in prop::collection::vec(event(), 1..60)) {
        let mut server = Server::default();
        let mut agent = Agent { held: index(&[]), of: 0, follower: Follower::default() };
        server.open();
        let versions = |held: &EntryIndex| -> BTreeMap<String, (i64, i64)> {
            held.iter().map(|s| (s.entry.id.to_string(), (s.entry.created_at, s.entry.revision_number))).collect()
        };
        for event in events {
            let before = versions(&agent.held);
            match event {
                Event::Change(id, what) => server.change(id, what),
                Event::Tell => server.tell(),
                Event::Hear(can) => if let Some(message) = server.on_the_way.pop_front() {
                    agent.hear(message, &mut server, can);
                },
                Event::Lose => drop(server.on_the_way.pop_front()),
                Event::Open => {
                    agent.follower.restart();
                    server.open();
                }
                Event::Full => agent.full(&server),
            }
            let after = versions(&agent.held);
            for (id, version) in &before {
                prop_assert!(after.get(id).is_none_or(|now| now >= version), "{} went back", id);
            }
        }
        server.tell();
        while let Some(message) = server.on_the_way.pop_front() {
            agent.hear(message, &mut server, true);
        }
        prop_assert_eq!(versions(&agent.held), server.entries);
    }
}
