use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;
use vouchsafe_store::{Change, Position};
use vouchsafe_types::selector::{Selector, SelectorSet};

fn own() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&own(), path).unwrap()
}

fn selectors(of: &str) -> SelectorSet {
    std::iter::once(Selector::parse(of).unwrap()).collect()
}

fn agent(number: usize) -> Agent {
    Agent {
        id: id(&format!("/spire/agent/{number}")),
        attestation_type: "test".into(),
        serial_number: "1".into(),
        expires_at: 0,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: false,
        selectors: selectors("node:all"),
        agent_version: String::new(),
    }
}

fn entry(name: &str, parent: &str) -> Change {
    let name = EntryId::parse(name).unwrap();
    let path = format!("/w/{}", name.as_str());
    let entry = Entry::new(name.clone(), id(&path), id(parent), selectors("unix:uid:1"));
    Change::Entry(name, Some(entry))
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct World {
    model: Arc<ReadModel>,
    notifier: Notifier,
    streams: Vec<Listening>,
    woken: Arc<Woken>,
    waker: Waker,
}

impl World {
    /// Listeners that were told everything, a while ago.
    async fn new(agents: usize) -> Self {
        let model = Arc::new(ReadModel::new(Snapshot::default()));
        let list: Vec<_> = (0..agents).map(agent).collect();
        model.apply(
            list.iter().map(|agent| Change::Agent(agent.id.clone(), Some(agent.clone()))).collect(),
            Position(1),
        );
        let revisions = Arc::new(Revisions::new(&Metrics::new("spire_server", &[])));
        let notifier = Notifier::new(revisions.clone(), model.clone(), own(), Clock::system());
        let streams = list.iter().map(|agent| revisions.listen(agent)).collect();
        let woken = Arc::new(Woken::default());
        let world = Self { model, notifier, streams, waker: woken.clone().into(), woken };
        world.ready();
        tokio::time::advance(GAP).await;
        assert_eq!(world.ready(), 0);
        world
    }

    fn change(&mut self, changes: Vec<Change>) {
        let position = Position(self.model.load().position().0 + 1);
        self.model.apply(changes, position);
        self.notifier.look();
    }

    /// How many streams tell something now.
    fn ready(&self) -> usize {
        let now = Instant::now();
        self.streams.iter().filter(|stream| matches!(stream.turn(now, &self.waker), Turn::Tell(_))).count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_concerns_few_is_told_at_once_and_wakes_nobody_else() {
    let mut world = World::new(1_000).await;
    world.change(vec![entry("e1", "/spire/agent/7"), entry("e2", "/spire/agent/8")]);
    assert_eq!(world.woken.0.load(Ordering::Relaxed), 2);
    assert_eq!(world.ready(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_concerns_all_is_spread_and_one_that_concerns_few_goes_ahead_of_it() {
    let mut world = World::new(4_000).await;
    world.change(vec![Change::Bundle(own(), Some(Bundle::new(own())))]);
    let first = world.ready();
    assert!(first <= 2, "{first} at once");
    world.change(vec![entry("e1", "/spire/agent/7")]);
    let second = world.ready();
    assert!(second <= 2, "{second} at once");
    let mut told = vec![first + second];
    for _ in 0..10 {
        tokio::time::advance(Duration::from_millis(100)).await;
        told.push(world.ready());
    }
    assert!(told[1..].iter().all(|count| (390..=401).contains(count)), "{told:?}");
    assert_eq!(told.iter().sum::<usize>(), 4_000, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn changes_that_follow_each_other_are_told_together() {
    let mut world = World::new(1).await;
    world.change(vec![entry("e1", "/spire/agent/0")]);
    assert_eq!(world.ready(), 1);
    for n in 2..10 {
        world.change(vec![entry(&format!("e{n}"), "/spire/agent/0")]);
        assert_eq!(world.ready(), 0);
    }
    tokio::time::advance(GAP).await;
    let Turn::Tell(news) = world.streams[0].turn(Instant::now(), &world.waker) else { panic!("news") };
    assert_eq!(news.entries.len(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_newer_stream_replaces_the_one_before_and_its_end_changes_nothing() {
    let mut world = World::new(1).await;
    let newer = world.notifier.revisions.listen(&agent(0));
    assert!(matches!(world.streams[0].turn(Instant::now(), &world.waker), Turn::Replaced));
    world.streams.clear();
    tokio::time::advance(GAP).await;
    assert!(matches!(newer.turn(Instant::now(), &world.waker), Turn::Tell(_)));
    tokio::time::advance(GAP).await;
    world.change(vec![entry("e1", "/spire/agent/0")]);
    assert!(matches!(newer.turn(Instant::now(), &world.waker), Turn::Tell(_)));
    drop(newer);
    assert_eq!(world.notifier.revisions.lock().notes.len(), 0);
}

/// Ten thousand entries for a thousand agents, written in groups as the store commits them: each agent is told of its ten,
/// and what that costs does not grow with agents × entries.
#[tokio::test(start_paused = true)]
async fn a_flood_of_entries_is_told_once_to_whom_it_concerns() {
    let mut world = World::new(1_000).await;
    let mut told = 0;
    for group in 0..100 {
        let entries = (0..100).map(|n| {
            let n = group * 100 + n;
            entry(&format!("e{n}"), &format!("/spire/agent/{}", n % 1_000))
        });
        world.change(entries.collect());
        told += world.ready();
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    told += world.ready();
    assert!((1_000..=2_000).contains(&told), "{told} messages");
    assert!(world.woken.0.load(Ordering::Relaxed) <= 10_000);
}
