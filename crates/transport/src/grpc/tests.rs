use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower::service_fn;

use super::*;
use crate::connect::uds_channel;
use crate::listener::PeerKey;
use crate::peer::PeerProcess;
use crate::unix::UnixListener;

/// Connections out of memory, so that time can be paused.
struct Memory(mpsc::UnboundedReceiver<Pipe>);

struct Pipe {
    stream: DuplexStream,
    peer: PeerKey,
}

impl Listener for Memory {
    type Io = Pipe;

    async fn accept(&mut self) -> io::Result<Pipe> {
        match self.0.recv().await {
            Some(pipe) => Ok(pipe),
            None => std::future::pending().await,
        }
    }
}

impl Connection for Pipe {
    fn peer_key(&self) -> PeerKey {
        self.peer
    }
}

impl Connected for Pipe {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A server on memory connections that answers every request, except `/hang`, which never ends, `/slow`, which takes a
/// second, and `/until-closing`, which says why its connection is to end.
struct Server {
    connect: mpsc::UnboundedSender<Pipe>,
    cancel: CancellationToken,
    tasks: JoinSet<Drained>,
}

impl Server {
    fn start(options: Options) -> Self {
        let (connect, accept) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let service = service_fn(answer);
        tasks.spawn(serve(Memory(accept), service, cancel.clone(), options, Entropy::from_seed(7)));
        Self { connect, cancel, tasks }
    }

    fn connect(&self, peer: u8) -> DuplexStream {
        self.connect_as(PeerKey::Address(Ipv4Addr::new(127, 0, 0, peer).into()))
    }

    fn connect_as(&self, peer: PeerKey) -> DuplexStream {
        let (client, stream) = duplex(1 << 16);
        self.connect.send(Pipe { stream, peer }).ok().unwrap();
        client
    }

    async fn stop(mut self) -> Drained {
        self.cancel.cancel();
        self.tasks.join_next().await.unwrap().unwrap()
    }
}

async fn answer(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    match request.uri().path() {
        "/hang" => std::future::pending().await,
        "/slow" => tokio::time::sleep(Duration::from_secs(1)).await,
        "/until-closing" => {
            let closing = request.extensions().get::<Closing>().unwrap().clone();
            closing.clone().begun().await;
            let why = if closing.server_stops() { tonic::Code::Unavailable } else { tonic::Code::Ok };
            return Ok(tonic::Status::new(why, "").into_http());
        }
        _ => {}
    }
    Ok(tonic::Status::ok("").into_http())
}

type Sender = hyper::client::conn::http2::SendRequest<Body>;

async fn handshake(stream: DuplexStream, tasks: &mut JoinSet<()>) -> Sender {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tasks.spawn(async move {
        let _ended = connection.await;
    });
    sender
}

fn post(path: &str) -> Request<Body> {
    Request::post(format!("http://localhost{path}")).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_request_over_a_unix_socket_knows_the_process_at_the_other_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path, 0o777, 0o755).unwrap();
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let service = service_fn(|request: Request<Body>| async move {
        let peer = request.extensions().get::<PeerProcess>().unwrap();
        assert!(peer.still_same());
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert("x-pid", peer.pid.into());
        Ok::<_, Infallible>(response)
    });
    tasks.spawn(serve(listener, service, cancel.clone(), Options::unix(), Entropy::from_seed(1)));
    let channel = uds_channel(&path).await.unwrap();
    let response = channel.oneshot(post("/a.B/C")).await.unwrap();
    assert_eq!(response.headers()["x-pid"], std::process::id().to_string());
    cancel.cancel();
    let drained = tasks.join_next().await.unwrap().unwrap();
    assert_eq!(drained, Drained { open: 1, cut: 0 });
    assert!(!path.exists(), "the socket is gone with its listener");
}

#[tokio::test(start_paused = true)]
async fn what_is_running_when_cancelled_ends_and_what_never_ends_is_cut() {
    let server = Server::start(Options::default());
    let mut tasks = JoinSet::new();
    let mut slow = handshake(server.connect(1), &mut tasks).await;
    let mut hanging = handshake(server.connect(2), &mut tasks).await;
    let _idle = handshake(server.connect(3), &mut tasks).await;
    let slow = slow.send_request(post("/slow"));
    let hanging = hanging.send_request(post("/hang"));
    let before = Instant::now();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        server.stop().await
    };
    let (slow, hanging, drained) = tokio::join!(slow, hanging, stop);
    assert_eq!(slow.unwrap().status(), 200);
    assert!(hanging.is_err());
    assert_eq!(drained, Drained { open: 3, cut: 1 });
    assert!(before.elapsed() < Options::default().drain + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_accepted_once_cancelled() {
    let server = Server::start(Options::default());
    let connect = server.connect.clone();
    server.stop().await;
    assert!(connect.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed() {
    let server = Server::start(Options::default());
    let mut silent = server.connect(1);
    let before = Instant::now();
    // The server's own SETTINGS may come first.
    let _all = silent.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_said_something_stays() {
    let server = Server::start(Options { keepalive: None, ..Options::default() });
    let mut tasks = JoinSet::new();
    let mut client = handshake(server.connect(1), &mut tasks).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(client.send_request(post("/")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn connections_grow_old_at_different_times_and_finish_what_they_began() {
    let age = Duration::from_secs(180);
    let server =
        Server::start(Options { max_connection_age: Some(age), keepalive: None, ..Options::default() });
    let mut tasks = JoinSet::new();
    let mut ends = Vec::new();
    for peer in 0..10 {
        let mut client = handshake(server.connect(peer), &mut tasks).await;
        client.send_request(post("/")).await.unwrap();
        ends.push(client);
    }
    let mut ages = std::collections::BTreeSet::new();
    let begin = Instant::now();
    while !ends.is_empty() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = ends.len();
        ends.retain(|client| !client.is_closed());
        if ends.len() < before {
            ages.insert(begin.elapsed().as_millis());
        }
    }
    assert!(ages.len() >= 5, "they end together: {ages:?}");
    assert!(*ages.first().unwrap() >= 162_000 && *ages.last().unwrap() <= 199_000, "{ages:?}");
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_finishes_a_request_that_is_running() {
    let age = Duration::from_millis(100);
    let server = Server::start(Options { max_connection_age: Some(age), ..Options::default() });
    let mut tasks = JoinSet::new();
    let mut client = handshake(server.connect(1), &mut tasks).await;
    assert_eq!(client.send_request(post("/slow")).await.unwrap().status(), 200);
    assert!(client.send_request(post("/")).await.is_err(), "no new request on it");
}

#[tokio::test(start_paused = true)]
async fn what_would_never_end_is_told_when_its_connection_is_old_and_when_the_server_stops() {
    let age = Duration::from_secs(180);
    let server =
        Server::start(Options { max_connection_age: Some(age), keepalive: None, ..Options::default() });
    let mut tasks = JoinSet::new();
    let grpc_status = |response: Response<hyper::body::Incoming>| response.headers()["grpc-status"].clone();
    let mut client = handshake(server.connect(1), &mut tasks).await;
    let begin = Instant::now();
    let old = client.send_request(post("/until-closing")).await.unwrap();
    assert!((162..=198).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    assert_eq!(grpc_status(old), "0");
    let mut client = handshake(server.connect(1), &mut tasks).await;
    let running = client.send_request(post("/until-closing"));
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.stop().await
    };
    let (stopped, drained) = tokio::join!(running, stop);
    assert_eq!(grpc_status(stopped.unwrap()), "14");
    assert_eq!(drained.cut, 0);
}

#[tokio::test(start_paused = true)]
async fn one_peer_cannot_take_all_connections() {
    let server = Server::start(Options { max_connections_per_peer: 2, ..Options::default() });
    let mut tasks = JoinSet::new();
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut client = handshake(server.connect(1), &mut tasks).await;
        client.send_request(post("/")).await.unwrap();
        kept.push(client);
    }
    let mut third = server.connect(1);
    assert_eq!(third.read(&mut [0; 1]).await.unwrap(), 0, "closed at once");
    let mut other = handshake(server.connect(2), &mut tasks).await;
    assert_eq!(other.send_request(post("/")).await.unwrap().status(), 200);
    // A place that becomes free can be taken again.
    kept.pop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut again = handshake(server.connect(1), &mut tasks).await;
    assert_eq!(again.send_request(post("/")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_processes_of_one_user_cannot_take_all_connections() {
    let server = Server::start(Options { max_connections: 4, ..Options::default() });
    let mut tasks = JoinSet::new();
    let mut kept = Vec::new();
    for pid in 1..=2 {
        let mut client = handshake(server.connect_as(PeerKey::Process(pid, 1000)), &mut tasks).await;
        client.send_request(post("/")).await.unwrap();
        kept.push(client);
    }
    let mut third = server.connect_as(PeerKey::Process(3, 1000));
    assert_eq!(third.read(&mut [0; 1]).await.unwrap(), 0, "closed at once");
    let mut other = handshake(server.connect_as(PeerKey::Process(4, 1001)), &mut tasks).await;
    assert_eq!(other.send_request(post("/")).await.unwrap().status(), 200);
    kept.pop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut again = handshake(server.connect_as(PeerKey::Process(3, 1000)), &mut tasks).await;
    assert_eq!(again.send_request(post("/")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_connections_wait_until_one_ends() {
    let server = Server::start(Options { max_connections: 1, keepalive: None, ..Options::default() });
    let mut tasks = JoinSet::new();
    let mut first = handshake(server.connect(1), &mut tasks).await;
    first.send_request(post("/")).await.unwrap();
    let mut second = handshake(server.connect(2), &mut tasks).await;
    let answer = second.send_request(post("/"));
    tokio::pin!(answer);
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut answer).await.is_err(), "it waits");
    drop(first);
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_ends_a_handler_that_hangs() {
    let server = Server::start(Options::default());
    let mut tasks = JoinSet::new();
    let mut client = handshake(server.connect(1), &mut tasks).await;
    let mut request = post("/hang");
    request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("250m"));
    let before = Instant::now();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "4");
    assert_eq!(before.elapsed().as_millis() / 10, 25);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_keepalive_is_cut_off() {
    let server = Server::start(Options::default());
    let mut deaf = server.connect(1);
    deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let before = Instant::now();
    let _all = deaf.read_to_end(&mut Vec::new()).await;
    assert_eq!(before.elapsed().as_secs(), 80);
}
