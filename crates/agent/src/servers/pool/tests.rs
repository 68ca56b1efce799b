use super::*;

use std::io;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tonic::Code;
use vouchsafe_proto::denial::{Reason, denied};
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_transport::net::{Answer, Arrival, Fabric, Place, Stream};

use crate::server_client::hint;
use crate::servers::resolve::{KEEP_MISSING, MAX_SERVERS};

/// What a name server says: nothing known, nothing there, or addresses.
#[derive(Default)]
struct Names(Mutex<Option<Vec<SocketAddr>>>);

impl Names {
    fn say(&self, answer: Option<Vec<SocketAddr>>) {
        *self.0.lock().unwrap() = answer;
    }
}

impl Fabric for Names {
    fn resolve<'a>(&'a self, _: &'a str) -> Answer<'a, Vec<SocketAddr>> {
        let answer = self.0.lock().unwrap().clone();
        Box::pin(async { answer.ok_or_else(|| io::Error::other("no such name")) })
    }

    fn connect(&self, _: Place) -> Answer<'_, Box<dyn Stream>> {
        Box::pin(async { Err(io::Error::other("nobody")) })
    }

    fn bind(&self, _: Place) -> io::Result<mpsc::Receiver<Arrival>> {
        Err(io::Error::other("not here"))
    }
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 8081))
}

fn pool(addresses: &[&str], names: &Arc<Names>, registry: &Registry) -> Arc<Pool> {
    let pool = Arc::new(Pool::new(Settings {
        addresses: addresses.iter().map(ToString::to_string).collect(),
        own: SvidCell::empty(),
        instance: "agent".to_owned(),
        clock: Clock::derived(SystemTime::UNIX_EPOCH),
        network: Network::of(Arc::clone(names) as Arc<dyn Fabric>),
        metrics: Some(Metrics::new(registry.clone())),
    }));
    pool.report();
    pool
}

fn answered(pool: &Pool, server: &Server) {
    let ended =
        Ended { kind: Kind::Bundle, elapsed: Duration::from_millis(1), comparable: true, code: Code::Ok };
    pool.observe(server, None, ended);
}

fn failed(pool: &Pool, server: &Server) {
    let status = Status::deadline_exceeded("no answer");
    let ended =
        Ended { kind: Kind::Bundle, elapsed: Duration::from_secs(5), comparable: false, code: status.code() };
    pool.observe(server, Some(&status), ended);
}

fn listed(pool: &Pool) -> Vec<SocketAddr> {
    let mut listed: Vec<_> = pool.servers().iter().map(|server| server.address()).collect();
    listed.sort_unstable();
    listed
}

#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_resolved_or_resolves_to_nothing_removes_nobody() {
    let (names, registry) = (Arc::new(Names::default()), Registry::new("a", &[]));
    let pool = pool(&["servers.example:8081", "10.0.0.9:8081"], &names, &registry);
    assert_eq!(listed(&pool), [address(9)]);
    names.say(Some(vec![address(1), address(2)]));
    assert_eq!(pool.resolve().await, Vec::<String>::new());
    assert_eq!(listed(&pool), [address(1), address(2), address(9)]);
    for silent in [None, Some(Vec::new())] {
        names.say(silent);
        tokio::time::advance(KEEP_MISSING * 2).await;
        assert_eq!(pool.resolve().await.len(), 1);
        assert_eq!(listed(&pool).len(), 3);
    }
    // One address is replaced by another; the old one goes after a while, and its series with it.
    let old = pool.servers().into_iter().find(|server| server.address() == address(1)).unwrap();
    answered(&pool, &old);
    assert!(registry.render().contains("server=\"10.0.0.1:8081\""));
    names.say(Some(vec![address(2), address(3)]));
    pool.resolve().await;
    assert_eq!(listed(&pool).len(), 4);
    tokio::time::advance(KEEP_MISSING).await;
    pool.resolve().await;
    assert_eq!(listed(&pool), [address(2), address(3), address(9)]);
    assert!(!registry.render().contains("server=\"10.0.0.1:8081\""), "{}", registry.render());
}

#[tokio::test]
async fn without_any_address_a_call_says_what_is_wrong_with_the_name() {
    let (names, registry) = (Arc::new(Names::default()), Registry::new("a", &[]));
    let error = pool(&["servers.example:8081"], &names, &registry).prepare().await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("servers.example:8081"), "{error}");
    let error = pool(&["servers.example"], &names, &registry).prepare().await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_long_list_is_cut_and_its_series_are_bounded() {
    let (names, registry) = (Arc::new(Names::default()), Registry::new("a", &[]));
    names.say(Some((0..200).map(address).collect()));
    let pool = pool(&["servers.example:8081"], &names, &registry);
    pool.prepare().await.unwrap();
    assert_eq!(listed(&pool).len(), MAX_SERVERS);
    pool.servers().iter().for_each(|server| answered(&pool, server));
    assert_eq!(registry.render().matches("a_vouchsafe_server_score{").count(), MAX_SERVERS);
}

#[tokio::test(start_paused = true)]
async fn the_server_that_fails_is_left_and_the_next_call_starts_with_the_other() {
    let (names, registry) = (Arc::new(Names::default()), Registry::new("a", &[]));
    let pool = pool(&["10.0.0.1:8081", "10.0.0.2:8081"], &names, &registry);
    let mut changed = pool.changed();
    let first = pool.pick(&[]).unwrap();
    answered(&pool, &first);
    changed.mark_unchanged();
    failed(&pool, &first);
    let next = pool.pick(&[first.address()]).unwrap();
    assert_ne!(next.address(), first.address());
    answered(&pool, &next);
    assert_eq!(pool.pick(&[]).unwrap().address(), next.address());
    assert!(changed.has_changed().unwrap() && *changed.borrow() == Some(next.address()));
    assert!(pool.pick(&[first.address(), next.address()]).is_none());
    let stats = pool.snapshot();
    let dead = stats.iter().find(|stats| stats.server == first.name()).unwrap();
    assert!(!dead.in_use && dead.consecutive_failures == 1 && dead.score < 0.6, "{dead:?}");
    assert_eq!(dead.requests, [(Code::Ok, 1), (Code::DeadlineExceeded, 1)]);
}

#[tokio::test]
async fn a_sign_of_life_is_an_answer_after_nobody_answered() {
    let (names, registry) = (Arc::new(Names::default()), Registry::new("a", &[]));
    let pool = pool(&["10.0.0.1:8081", "10.0.0.2:8081"], &names, &registry);
    let (mut life, servers) = (pool.signs_of_life(), pool.servers());
    failed(&pool, &servers[0]);
    answered(&pool, &servers[1]);
    assert!(!life.has_changed().unwrap(), "somebody answered all the time");
    failed(&pool, &servers[0]);
    failed(&pool, &servers[1]);
    assert!(!life.has_changed().unwrap());
    answered(&pool, &servers[0]);
    assert!(life.has_changed().unwrap());
    life.mark_unchanged();
    answered(&pool, &servers[1]);
    assert!(!life.has_changed().unwrap(), "once is enough");
}

#[tokio::test]
async fn a_server_that_has_not_heard_of_this_agent_or_goes_away_is_left_and_a_busy_one_is_not() {
    let (names, registry) = (Arc::new(Names::default()), Registry::new("a", &[]));
    let check = |status: Status, leaves: bool| {
        let pool = pool(&["10.0.0.1:8081", "10.0.0.2:8081"], &names, &registry);
        let first = pool.pick(&[]).unwrap();
        let ended = Ended {
            kind: Kind::Bundle,
            elapsed: Duration::from_millis(1),
            comparable: false,
            code: status.code(),
        };
        answered(&pool, &first);
        pool.observe(&first, Some(&status), ended);
        let next = pool.pick(&[]).unwrap();
        assert_eq!(next.address() != first.address(), leaves, "{status}");
    };
    check(denied(Reason::AgentNotAttested, "no"), true);
    check(Status::unavailable("going away"), true);
    check(Status::deadline_exceeded("no answer"), true);
    check(Status::internal("broken"), true);
    check(denied(Reason::AgentExpired, "no"), false);
    check(hint::with(Code::Unavailable, Duration::from_secs(9)), false);
    check(Status::resource_exhausted("too much"), false);
    check(Status::not_found("no such entry"), false);
}

#[tokio::test]
async fn the_servers_are_unknown_only_if_none_is_known() {
    let (names, registry) = (Arc::new(Names::default()), Registry::new("a", &[]));
    let pool = pool(&["10.0.0.1:8081", "10.0.0.2:8081"], &names, &registry);
    let servers = pool.servers();
    assert!(!pool.is_unknown(), "nobody answered");
    servers[0].set_unknown(true);
    assert!(pool.is_unknown());
    answered(&pool, &servers[1]);
    assert!(!pool.is_unknown());
    // The known one dies: after a while it vouches for nothing.
    (0..3).for_each(|_| failed(&pool, &servers[1]));
    assert!(pool.is_unknown());
}

#[tokio::test]
async fn a_server_whose_answers_are_of_no_use_is_left() {
    let (names, registry) = (Arc::new(Names::default()), Registry::new("a", &[]));
    let pool = pool(&["10.0.0.1:8081", "10.0.0.2:8081"], &names, &registry);
    let first = pool.pick(&[]).unwrap();
    answered(&pool, &first);
    pool.blame(Kind::Entries);
    assert_ne!(pool.pick(&[]).unwrap().address(), first.address());
}

/// How often an agent that makes a call of each kind every second moves in so many hours, when `server` fails `kind` with
/// `status`, and which it uses then.
async fn moves(
    pool: &Pool,
    (server, kind, status): (SocketAddr, Kind, &Status),
    hours: u32,
) -> (usize, SocketAddr) {
    let (mut moves, mut used) = (0, pool.pick(&[]).unwrap().address());
    for _ in 0..hours * 3600 {
        tokio::time::advance(Duration::from_secs(1)).await;
        for asked in [Kind::Bundle, kind, Kind::Jwt] {
            let ended =
                |code| Ended { kind: asked, elapsed: Duration::from_millis(1), comparable: true, code };
            let mut tried = Vec::new();
            // As a call does that is answered that the server is broken.
            while let Some(next) = pool.pick(&tried) {
                tried.push(next.address());
                let fails = asked == kind && next.address() == server;
                let failure = fails.then_some(status);
                pool.observe(&next, failure, ended(failure.map_or(Code::Ok, Status::code)));
                if tried.len() == 1 && used != next.address() {
                    (moves, used) = (moves + 1, next.address());
                }
                if !fails {
                    break;
                }
            }
        }
    }
    (moves, used)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_one_kind_of_call_is_left_and_tried_again_ever_more_rarely() {
    let (names, registry) = (Arc::new(Names::default()), Registry::new("a", &[]));
    for status in [Status::unavailable("no"), Status::internal("no")] {
        let pool = pool(&["10.0.0.1:8081", "10.0.0.2:8081"], &names, &registry);
        let home = pool.pick(&[]).unwrap();
        let broken = (home.address(), Kind::X509, &status);
        let (soon, used) = moves(&pool, broken, 0).await;
        assert_eq!((soon, used), (0, home.address()));
        let (day, used) = moves(&pool, broken, 24).await;
        assert_ne!(used, home.address(), "{status}");
        assert!((1..=41).contains(&day), "{status}: {day} moves in a day");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_of_call_that_fails_while_others_are_answered_wakes_nobody_more_often_than_the_back_off() {
    let (names, registry) = (Arc::new(Names::default()), Registry::new("a", &[]));
    let pool = pool(&["10.0.0.1:8081"], &names, &registry);
    let (mut life, server) = (pool.signs_of_life(), pool.servers().remove(0));
    let mut signs = 0;
    for _ in 0..4 * 600 {
        failed(&pool, &server);
        answered(&pool, &server);
        signs += u32::from(life.has_changed().unwrap());
        life.mark_unchanged();
        tokio::time::advance(Duration::from_millis(250)).await;
    }
    assert!((20..=30).contains(&signs), "{signs} in ten minutes");
    // The next outage that is one ends for everybody at once.
    tokio::time::advance(Duration::from_secs(90)).await;
    failed(&pool, &server);
    answered(&pool, &server);
    assert!(life.has_changed().unwrap());
}
