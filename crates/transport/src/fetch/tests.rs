use std::error::Error as _;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::tests::configs;

const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(10), body: 1000 };

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap()
}

/// Reads a request and writes `answer`, then closes.
async fn answer_once(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
    let request = read_request(&mut stream).await;
    stream.write_all(answer).await.unwrap();
    // The other end may already have gone.
    drop(stream.shutdown().await);
    request
}

/// A port where each connection is handled by `server`.
async fn port<F: Future<Output = ()> + Send + 'static>(
    tasks: &mut JoinSet<()>,
    server: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(async move { server(listener.accept().await.unwrap().0).await });
    port
}

async fn plain(answer: &'static [u8]) -> Result<Answer, Error> {
    let mut tasks = JoinSet::new();
    let port = port(&mut tasks, move |tcp| async move {
        answer_once(tcp, answer).await;
    });
    fetch(&Target::plain(&format!("http://127.0.0.1:{}/", port.await)).unwrap(), BOUNDS).await
}

#[tokio::test]
async fn a_page_comes_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer_once(
            stream,
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        )
        .await
    });
    let target = Target::unix(&socket, "/containers/json?all=1").unwrap();
    let answer = fetch(&target, BOUNDS).await.unwrap();
    assert_eq!((answer.status, &*answer.body), (StatusCode::OK, b"{}".as_slice()));
    assert_eq!(answer.content_type.as_deref(), Some("application/json"));
    let request = tasks.join_next().await.unwrap().unwrap();
    assert!(request.starts_with("GET /containers/json?all=1 HTTP/1.1\r\nhost: localhost\r\n"), "{request}");
}

#[tokio::test]
async fn a_page_comes_over_tls_and_alpn_asks_for_http_1() {
    let (server, client) = configs();
    let mut server = (*server).clone();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let mut tasks = JoinSet::new();
    let port = port(&mut tasks, move |tcp| {
        let acceptor = acceptor.clone();
        async move {
            let stream = acceptor.accept(tcp).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
            let request = answer_once(
                stream,
                b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            );
            assert!(request.await.starts_with("GET / HTTP/1.1\r\n"));
        }
    })
    .await;
    let target = Target::https(&format!("https://localhost:{port}"), &client).unwrap();
    let answer = fetch(&target, BOUNDS).await.unwrap();
    assert_eq!((answer.status.as_u16(), &*answer.body), (404, b"hi".as_slice()));
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let answer =
        plain(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answer.unwrap().status, StatusCode::FOUND);
}

#[tokio::test]
async fn a_body_above_the_bound_is_refused_whatever_its_length_claims() {
    let claims = plain(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\nabc").await.unwrap_err();
    assert!(matches!(claims, Error::Http { .. } | Error::BodyTooLong { .. }), "{claims}");
    static LONG: [u8; 4000] = [b'x'; 4000];
    let mut tasks = JoinSet::new();
    let port = port(&mut tasks, |tcp| async move {
        let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        answer.extend(LONG);
        answer_once(tcp, &answer).await;
    });
    let target = Target::plain(&format!("http://127.0.0.1:{}/", port.await)).unwrap();
    let error = fetch(&target, BOUNDS).await.unwrap_err();
    assert!(matches!(error, Error::BodyTooLong { max: 1000, .. }), "{error}");
    assert_eq!(error.class(), Class::Peer);
}

#[tokio::test]
async fn a_torn_body_is_no_answer() {
    let error = plain(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await.unwrap_err();
    assert!(matches!(error, Error::Http { .. }), "{error}");
    assert!(error.source().is_some());
    let error = plain(b"SSH-2.0-OpenSSH\r\n").await.unwrap_err();
    assert!(matches!(error, Error::Http { .. }), "{error}");
}

#[tokio::test]
async fn an_endless_head_is_refused() {
    let mut tasks = JoinSet::new();
    let port = port(&mut tasks, |mut tcp| async move {
        read_request(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while tcp.write_all(b"X-Filler: 0123456789012345678901234567890123456789\r\n").await.is_ok() {}
    });
    let target = Target::plain(&format!("http://127.0.0.1:{}/", port.await)).unwrap();
    let error = fetch(&target, BOUNDS).await.unwrap_err();
    assert!(matches!(error, Error::Http { .. }), "{error}");
}

#[tokio::test]
async fn the_deadline_covers_a_server_that_says_nothing_and_one_that_dribbles() {
    let short = Bounds { deadline: Duration::from_millis(200), body: 1000 };
    let mut tasks = JoinSet::new();
    let silent = port(&mut tasks, |tcp| async move {
        std::future::pending::<()>().await;
        drop(tcp);
    })
    .await;
    let dribbling = port(&mut tasks, |mut tcp| async move {
        read_request(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n").await.unwrap();
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            if tcp.write_all(b"x").await.is_err() {
                return;
            }
        }
    })
    .await;
    for port in [silent, dribbling] {
        let target = Target::plain(&format!("http://127.0.0.1:{port}/")).unwrap();
        let error = fetch(&target, short).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert_eq!(error.class(), Class::Transient);
    }
    // Also while the handshake hangs.
    let (_, client) = configs();
    let hanging = port(&mut tasks, |tcp| async move {
        std::future::pending::<()>().await;
        drop(tcp);
    });
    let target = Target::https(&format!("https://127.0.0.1:{}", hanging.await), &client).unwrap();
    assert!(matches!(fetch(&target, short).await, Err(Error::TimedOut { .. })));
}

#[test]
fn urls_that_cannot_be_fetched_are_refused_by_name() {
    let (_, client) = configs();
    for (url, problem) in [
        ("http://example.org/", "it must begin with https://"),
        ("example.org", "it must begin with https://"),
        ("https://user@example.org/", "a user name in it is not supported"),
        ("https://exa mple.org/", "it cannot be read"),
        ("", "it cannot be read"),
    ] {
        let error = Target::https(url, &client).unwrap_err();
        assert_eq!(error.to_string(), format!("URL {url:?} cannot be fetched: {problem}"));
    }
    assert!(Target::plain("https://example.org").is_err());
    assert!(Target::unix("/s", "no/slash").is_err());
}

#[test]
fn an_ipv6_address_keeps_its_brackets_in_the_host_header_only() {
    let (_, client) = configs();
    let target = Target::https("https://[::1]:8443/a?b=c", &client).unwrap();
    assert_eq!(target.authority, "[::1]:8443");
    assert_eq!(target.resource, "/a?b=c");
    assert!(matches!(target.via, Via::Tls { ref host, port: 8443, .. } if host == "::1"));
}

/// Notes what it is given, and refuses a piece with an exclamation mark.
#[derive(Default)]
struct Pieces {
    status: Option<StatusCode>,
    taken: Vec<u8>,
}

impl Reader for Pieces {
    fn begin(&mut self, head: &Head) {
        assert!(self.taken.is_empty());
        self.status = Some(head.status);
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if bytes.contains(&b'!') {
            return Err("no exclamations".into());
        }
        self.taken.extend_from_slice(bytes);
        Ok(())
    }
}

async fn read_pieces(answer: &'static [u8], token: Option<&str>) -> (Result<Head, Error>, Pieces, String) {
    let (sender, request) = tokio::sync::oneshot::channel();
    let mut tasks = JoinSet::new();
    let port = port(&mut tasks, move |tcp| async move {
        drop(sender.send(answer_once(tcp, answer).await));
    })
    .await;
    let mut target = Target::plain(&format!("http://127.0.0.1:{port}/pods")).unwrap();
    if let Some(token) = token {
        target = target.with_bearer(token).unwrap();
        assert!(!format!("{target:?}").contains(token), "a token is in no message");
    }
    let mut pieces = Pieces::default();
    let head = read(&target, BOUNDS, &mut pieces).await;
    (head, pieces, request.await.unwrap())
}

#[tokio::test]
async fn a_reader_gets_the_body_as_it_arrives_and_may_refuse_the_rest() {
    let (head, pieces, request) = read_pieces(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
        Some("s3cret"),
    )
    .await;
    assert_eq!(head.unwrap().status, StatusCode::OK);
    assert_eq!((pieces.status, pieces.taken.as_slice()), (Some(StatusCode::OK), b"onetwo".as_slice()));
    assert!(request.contains("authorization: Bearer s3cret\r\n"), "{request}");
    let (head, pieces, request) =
        read_pieces(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n1\r\n!\r\n", None)
            .await;
    let error = head.unwrap_err();
    assert!(matches!(&error, Error::Refused { source, .. } if source.to_string() == "no exclamations"));
    assert_eq!(pieces.status, Some(StatusCode::INTERNAL_SERVER_ERROR));
    assert!(!request.contains("authorization"), "{request}");
    let target = Target::plain("http://127.0.0.1/").unwrap();
    assert!(matches!(target.with_bearer("two\nlines"), Err(Error::Token { .. })));
}
