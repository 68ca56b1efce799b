//! Against a Docker API of the test's own, over a real Unix socket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::*;

/// A daemon that answers from a table, says 404 otherwise, and can be told to hang.
pub(crate) struct Daemon {
    dir: tempfile::TempDir,
    state: Arc<DaemonState>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct DaemonState {
    pages: Mutex<HashMap<String, String>>,
    asked: Mutex<Vec<String>>,
    hangs: AtomicBool,
    refusals: AtomicUsize,
    open: AtomicUsize,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let state = Arc::new(DaemonState::default());
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&state);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&shared);
                connections.spawn(async move { state.answer(stream).await });
            }
        });
        Self { dir, state, _tasks: tasks }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn has(&self, resource: &str, page: &str) {
        self.state.pages.lock().unwrap().insert(resource.to_owned(), page.to_owned());
    }

    pub(crate) fn hang(&self, hangs: bool) {
        self.state.hangs.store(hangs, Ordering::SeqCst);
    }

    fn refuse(&self, times: usize) {
        self.state.refusals.store(times, Ordering::SeqCst);
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }

    fn place(&self, id: &str) -> Place {
        Place { socket: self.socket(), id: id.to_owned() }
    }
}

impl DaemonState {
    async fn answer(&self, mut stream: UnixStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            request.push(byte);
        }
        let request = String::from_utf8(request).unwrap();
        let resource = request.split(' ').nth(1).unwrap().to_owned();
        self.asked.lock().unwrap().push(resource.clone());
        self.open.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            // Until the other end gives up.
            drop(stream.read_u8().await);
            self.open.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let refused =
            self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let page = self.pages.lock().unwrap().get(&resource).cloned().filter(|_| refused.is_err());
        let (status, body) = match page {
            Some(page) => ("200 OK", page),
            None => ("404 Not Found", r#"{"message":"No such container"}"#.to_owned()),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // The other end may have gone.
        drop(stream.write_all(answer.as_bytes()).await);
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) const CONTAINER: &str = r#"{"Id":"abc","Config":{"Image":"nginx:1.29",
    "Labels":{"org.example.name":"web","empty":""},"Env":["A=b","PATH=/bin:/usr/bin"]}}"#;

fn texts(found: &Found) -> Vec<&str> {
    found.iter().map(Selector::as_str).collect()
}

#[tokio::test]
async fn a_container_has_the_selectors_of_its_labels_variables_and_image() {
    let daemon = Daemon::start();
    daemon.has("/v1.41/containers/abc/json", CONTAINER);
    daemon.has("/v1.41/images/nginx:1.29/json", r#"{"Id":"sha256:0123"}"#);
    let containers = Containers::new(Some("1.41".to_owned()));
    let found = containers.selectors(&daemon.place("abc")).await.unwrap();
    assert_eq!(
        texts(&found),
        [
            "docker:label:empty:",
            "docker:label:org.example.name:web",
            "docker:env:A=b",
            "docker:env:PATH=/bin:/usr/bin",
            "docker:image_id:nginx:1.29",
            "docker:image_config_digest:sha256:0123",
        ]
    );
    assert!(containers.selectors(&daemon.place("abc")).await.is_ok());
    assert_eq!(daemon.asked().len(), 2, "the second answer is remembered");
}

#[tokio::test]
async fn a_container_without_labels_variables_and_image_has_no_selectors() {
    let daemon = Daemon::start();
    daemon.has("/containers/abc/json", r#"{"Config":{"Labels":null,"Env":null,"Image":""}}"#);
    let found = Containers::new(None).selectors(&daemon.place("abc")).await.unwrap();
    assert_eq!(texts(&found), Vec::<&str>::new());
}

#[tokio::test]
async fn an_image_that_is_gone_or_has_a_strange_name_costs_its_digest_only() {
    let daemon = Daemon::start();
    daemon.has("/containers/abc/json", CONTAINER);
    daemon.has("/containers/odd/json", r#"{"Config":{"Image":"../../secrets?x"}}"#);
    let containers = Containers::new(None);
    assert_eq!(containers.selectors(&daemon.place("abc")).await.unwrap().len(), 5);
    let odd = containers.selectors(&daemon.place("odd")).await.unwrap();
    assert_eq!(texts(&odd), ["docker:image_id:../../secrets?x"]);
    assert!(daemon.asked().iter().all(|resource| !resource.contains("secrets")), "{:?}", daemon.asked());
}

#[tokio::test]
async fn many_callers_share_one_request() {
    let daemon = Daemon::start();
    daemon.has("/containers/abc/json", CONTAINER);
    let containers = Containers::new(None);
    let place = daemon.place("abc");
    let all = futures_util::future::join_all((0..100).map(|_| containers.selectors(&place))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(daemon.asked(), ["/containers/abc/json", "/images/nginx:1.29/json"]);
}

#[tokio::test]
async fn a_container_that_the_daemon_does_not_show_yet_is_asked_for_again() {
    let daemon = Daemon::start();
    daemon.has("/containers/abc/json", CONTAINER);
    daemon.refuse(3);
    let containers = Containers::new(None);
    assert!(containers.selectors(&daemon.place("abc")).await.is_ok());
    let error = containers.selectors(&daemon.place("other")).await.unwrap_err().to_string();
    assert_eq!(error, "cannot ask for container other: status 404: No such container");
    assert_eq!(daemon.asked().iter().filter(|resource| resource.contains("other")).count(), 4);
}

#[tokio::test]
async fn a_daemon_that_hangs_holds_up_one_caller_once_and_then_nobody() {
    let daemon = Daemon::start();
    daemon.has("/containers/abc/json", CONTAINER);
    daemon.hang(true);
    let containers = Containers::new(None);
    let place = daemon.place("abc");
    let began = Instant::now();
    assert!(matches!(containers.selectors(&place).await, Err(ContainerError::Hangs { .. })));
    assert!(began.elapsed() < PATIENCE * 2);
    let began = Instant::now();
    for _ in 0..3 {
        assert!(containers.selectors(&place).await.is_err());
        assert!(containers.selectors(&daemon.place("other")).await.is_err());
    }
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    assert_eq!(daemon.state.open.load(Ordering::SeqCst), 1, "one request is under way");
}

#[test]
fn what_is_known_is_handed_out_while_the_daemon_hangs() {
    // Paused time would fire the deadlines of real sockets at once: the clock is moved by hand, with nothing under way.
    let containers = Containers::new(None);
    let place = Place { socket: "/nonexistent".into(), id: "abc".to_owned() };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let found: Found = Arc::from([Selector::parse("docker:label:a:b").unwrap()]);
        containers.shared.land(&place, &Ok(Arc::clone(&found)));
        tokio::time::advance(FRESH * 2).await;
        containers.shared.hangs(&place.socket);
        for _ in 0..3 {
            assert_eq!(texts(&containers.selectors(&place).await.unwrap()), ["docker:label:a:b"]);
            tokio::time::advance(PROBE_INTERVAL).await;
        }
        let other = Place { id: "other".to_owned(), ..place.clone() };
        assert!(containers.selectors(&other).await.is_err());
    });
}

#[tokio::test]
async fn a_daemon_that_is_not_there_or_talks_nonsense_is_no_answer() {
    let containers = Containers::new(None);
    let nowhere = Place { socket: "/nonexistent/docker.sock".into(), id: "abc".to_owned() };
    let error = containers.selectors(&nowhere).await.unwrap_err().to_string();
    assert!(error.contains("cannot connect to /nonexistent/docker.sock"), "{error}");
    let daemon = Daemon::start();
    daemon.has("/containers/abc/json", "nonsense");
    daemon.has("/containers/long/json", &" ".repeat(MAX_BODY + 1));
    assert!(containers.selectors(&daemon.place("abc")).await.is_err());
    let error = containers.selectors(&daemon.place("long")).await.unwrap_err().to_string();
    assert!(error.contains("more than"), "{error}");
    assert!(containers.selectors(&daemon.place("a/../b")).await.is_err());
}

#[tokio::test]
async fn a_daemon_that_is_asked_for_ever_more_containers_leaves_the_others_theirs() {
    let containers = Containers::new(None);
    let place = |socket: &str, id: usize| Place { socket: socket.into(), id: id.to_string() };
    let refused = (0..2 * MAX_FLIGHTS_OF_DAEMON)
        .filter(|id| matches!(containers.step(&place("/liar", *id)), Step::Refuse(ContainerError::TooMany)))
        .count();
    assert_eq!(refused, MAX_FLIGHTS_OF_DAEMON);
    assert!(matches!(containers.step(&place("/docker", 0)), Step::Wait(_)));
}

#[tokio::test]
async fn a_daemon_is_asked_a_few_things_at_a_time_and_the_others_wait() {
    let daemon = Daemon::start();
    daemon.hang(true);
    let containers = Containers::new(None);
    let places: Vec<_> = (0..2 * MAX_ASKED).map(|id| daemon.place(&id.to_string())).collect();
    let all = futures_util::future::join_all(places.iter().map(|place| containers.selectors(place))).await;
    assert!(all.iter().all(Result::is_err));
    assert_eq!(daemon.asked().len(), MAX_ASKED);
}

#[tokio::test]
async fn containers_that_the_daemon_does_not_have_do_not_keep_others_waiting() {
    let daemon = Daemon::start();
    daemon.has("/containers/abc/json", CONTAINER);
    let containers = Containers::new(None);
    let missing: Vec<_> = (0..4 * MAX_ASKED).map(|id| daemon.place(&id.to_string())).collect();
    let missing = futures_util::future::join_all(missing.iter().map(|place| containers.selectors(place)));
    let place = daemon.place("abc");
    let began = Instant::now();
    let there = async { (containers.selectors(&place).await, began.elapsed()) };
    let (missing, (there, after)) = tokio::join!(missing, there);
    assert!(there.is_ok() && missing.iter().all(Result::is_err));
    // Every one that is missing is asked for four times, over 0.7 s.
    assert!(after < Duration::from_millis(600), "{after:?}");
}

#[tokio::test]
async fn a_container_with_too_much_to_say_has_no_selectors() {
    let daemon = Daemon::start();
    let containers = Containers::new(None);
    let page = |count: usize, length: usize| {
        let env: Vec<_> = (0..count).map(|n| format!("V{n}={}", "x".repeat(length))).collect();
        serde_json::json!({"Config": {"Image": "", "Env": env}}).to_string()
    };
    daemon.has("/containers/large/json", &page(1000, 100));
    daemon.has("/containers/many/json", &page(MAX_SELECTORS + 1, 1));
    daemon.has("/containers/long/json", &page(1000, 250));
    assert_eq!(containers.selectors(&daemon.place("large")).await.unwrap().len(), 1000);
    for id in ["many", "long"] {
        let error = containers.selectors(&daemon.place(id)).await.unwrap_err().to_string();
        assert!(error.contains("too many labels"), "{error}");
    }
}
