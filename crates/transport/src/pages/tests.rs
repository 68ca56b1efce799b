use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;

use super::*;
use crate::fetch::{self, Target, fetch};
use crate::tls::tests::configs;
use crate::tls::{Limits, TlsListener};
use crate::unix::UnixListener;

struct Echo;

impl Site for Echo {
    fn answer(&self, request: &Request<()>) -> Page {
        page(StatusCode::OK, TEXT, request.uri().to_string())
    }
}

const BOUNDS: fetch::Bounds = fetch::Bounds { deadline: Duration::from_secs(10), body: 1000 };

fn start(listener: impl Listener + 'static, bounds: Bounds) -> (CancellationToken, JoinSet<()>) {
    let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(serve(listener, Arc::new(Echo), bounds, cancel.clone()));
    (cancel, tasks)
}

async fn tcp(bounds: Bounds) -> (std::net::SocketAddr, CancellationToken, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cancel, tasks) = start(listener, bounds);
    (address, cancel, tasks)
}

#[tokio::test]
async fn the_same_site_is_served_over_tls_tcp_and_a_unix_socket() {
    let (server, client) = configs();
    let tls = TlsListener::bind(([127, 0, 0, 1], 0).into(), server, Limits::default()).await.unwrap();
    let tls_port = tls.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _tls = start(tls, Bounds::default());
    let _unix = start(UnixListener::bind(&socket, 0o700, 0o700).unwrap(), Bounds::default());
    let (address, cancel, mut tasks) = tcp(Bounds::default()).await;
    let targets = [
        Target::https(&format!("https://localhost:{tls_port}/a?b"), &client).unwrap(),
        Target::plain(&format!("http://{address}/a?b")).unwrap(),
        Target::unix(&socket, "/a?b").unwrap(),
    ];
    for target in targets {
        let answer = fetch(&target, BOUNDS).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, b"/a?b".as_slice()));
        assert_eq!(answer.content_type.as_deref(), Some(TEXT));
    }
    cancel.cancel();
    tasks.join_next().await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_client_that_says_nothing_and_one_that_does_not_end_its_request_are_cut_off() {
    let bounds = Bounds { exchange: Duration::from_millis(100), ..Bounds::default() };
    let (address, _cancel, _tasks) = tcp(bounds).await;
    for said in ["", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(said.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(!answer.contains(" 200 "), "{answer}");
    }
}

#[tokio::test]
async fn one_peer_gets_its_share_of_connections_and_a_place_is_free_again_when_one_ends() {
    let bounds = Bounds { per_peer: 2, ..Bounds::default() };
    let (address, _cancel, _tasks) = tcp(bounds).await;
    let ask = async |said: &str| -> io::Result<String> {
        let mut client = TcpStream::connect(address).await?;
        client.write_all(said.as_bytes()).await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let (first, mut second) =
        (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
    let refused = ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(refused.as_ref().map_or(true, String::is_empty), "{refused:?}");
    second.write_all(b"GET /mine HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("/mine"), "{answer}");
    drop(first);
    drop(second);
    while !ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    {}
}

#[tokio::test]
async fn an_endless_head_is_answered_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _serving = start(UnixListener::bind(&socket, 0o700, 0o700).unwrap(), Bounds::default());
    let mut client = UnixStream::connect(&socket).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut sent = 0;
    while sent < 2 * MAX_HEAD && client.write_all(b"X-Filler: 01234567890123456789\r\n").await.is_ok() {
        sent += 32;
    }
    let mut answer = vec![0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 431");
}
