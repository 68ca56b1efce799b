use super::framing::{Framer, Piece};
use super::*;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

fn start() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0postgres\0\0";
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes()[..], body].concat()
}

fn ends(pieces: &[Piece]) -> usize {
    pieces.iter().filter(|piece| piece.ends_call).count()
}

#[test]
fn an_exchange_of_several_messages_is_one_call() {
    let exchange = [
        message(b'P', b"\0SELECT 1\0\0\0"),
        message(b'B', b"\0\0\0\0\0\0"),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
    ]
    .concat();
    let mut framer = Framer::default();
    assert_eq!(ends(&framer.split(&start())), 1);
    assert_eq!(framer.split(&exchange), [Piece { bytes: exchange.clone(), ends_call: true }]);
    let two = [message(b'Q', b"BEGIN\0"), exchange].concat();
    assert_eq!(ends(&framer.split(&two)), 2);
}

#[test]
fn calls_are_found_however_the_bytes_are_cut() {
    let ssl = [&8u32.to_be_bytes()[..], &80_877_103u32.to_be_bytes()].concat();
    let all =
        [ssl, start(), message(b'Q', b"SELECT 'Q S'\0"), message(b'S', b""), message(b'X', b"")].concat();
    for size in 1..all.len() {
        let mut framer = Framer::default();
        let pieces: Vec<Piece> = all.chunks(size).flat_map(|chunk| framer.split(chunk)).collect();
        let passed: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
        assert_eq!(passed, all, "chunks of {size}");
        assert_eq!(ends(&pieces), 3, "chunks of {size}");
    }
}

/// A server that answers each byte with the same byte.
async fn echo() -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            open.spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
    (port, tasks)
}

async fn answers(stream: &mut TcpStream, patience: Duration) -> bool {
    let exchange = async {
        stream.write_all(b"x").await.ok()?;
        stream.read_exact(&mut [0]).await.ok()
    };
    tokio::time::timeout(patience, exchange).await.ok().flatten().is_some()
}

const SOON: Duration = Duration::from_secs(5);
const BRIEFLY: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_link_falls_silent_and_speaks_again() {
    let (port, _echo) = echo().await;
    let proxy = Proxy::start(loopback(0), loopback(port), Protocol::Bytes).await.unwrap();
    let mut open = TcpStream::connect(loopback(proxy.port)).await.unwrap();
    assert!(answers(&mut open, SOON).await);
    proxy.set_link(Link::Silent);
    assert!(!answers(&mut open, BRIEFLY).await);
    let mut new = TcpStream::connect(loopback(proxy.port)).await.unwrap();
    assert!(!answers(&mut new, BRIEFLY).await);
    proxy.set_link(Link::Up);
    assert!(answers(&mut open, SOON).await);
    assert!(answers(&mut new, SOON).await);
}

#[tokio::test]
async fn a_refused_link_cuts_what_is_open_and_comes_back_at_its_port() {
    let (port, _echo) = echo().await;
    let proxy = Proxy::start(loopback(0), loopback(port), Protocol::Bytes).await.unwrap();
    let mut open = TcpStream::connect(loopback(proxy.port)).await.unwrap();
    assert!(answers(&mut open, SOON).await);
    proxy.set_link(Link::Refused);
    assert_eq!(open.read(&mut [0]).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(loopback(proxy.port)).await.is_err());
    proxy.set_link(Link::Up);
    let back = async {
        loop {
            if let Ok(mut stream) = TcpStream::connect(loopback(proxy.port)).await {
                return answers(&mut stream, SOON).await;
            }
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(SOON, back).await.unwrap());
}

#[tokio::test]
async fn a_call_is_held_back_once_and_counted() {
    let (port, _echo) = echo().await;
    let proxy = Proxy::before_postgres(port).await.unwrap();
    let mut stream = TcpStream::connect(loopback(proxy.port)).await.unwrap();
    proxy.set_per_call(Duration::from_millis(200));
    let sent = [start(), message(b'P', b"\0\0"), message(b'S', b"")].concat();
    let began = tokio::time::Instant::now();
    stream.write_all(&sent).await.unwrap();
    stream.read_exact(&mut vec![0; sent.len()]).await.unwrap();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(600), "{took:?}");
    assert_eq!(proxy.calls(), 2);
}
