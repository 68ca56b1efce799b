//! What stands between a server and the database.

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes bytes on until it is told to hold them back, for ever.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) hold: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (hold, held) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut held = held.clone();
                connections.spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => return,
                        () = async { drop(held.wait_for(|held| *held).await) } => {}
                    }
                    // The server's end stays open, as when the machine of the client stands still.
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { port: own, hold, _task: task }
    }

    /// Ends a connection when the database has carried out what it was sent with `text` in it and before it has answered.
    /// Once; from then on bytes are passed on.
    pub(crate) async fn swallowing_the_answer_to(text: &'static str, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (hold, swallowed) = (watch::Sender::new(false), watch::Sender::new(false));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let swallowed = swallowed.clone();
                connections.spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let mut sent = vec![0; 64 << 10];
                    let asks = async {
                        while let Ok(count @ 1..) = from_client.read(&mut sent).await {
                            let has_it =
                                sent[..count].windows(text.len()).any(|part| part == text.as_bytes());
                            if has_it && !swallowed.send_replace(true) {
                                return Some(sent[..count].to_vec());
                            }
                            to_server.write_all(&sent[..count]).await.unwrap();
                        }
                        None
                    };
                    let last = tokio::select! {
                        last = asks => last,
                        _ = copy(&mut from_server, &mut to_client) => None,
                    };
                    if let Some(last) = last {
                        to_server.write_all(&last).await.unwrap();
                        read_to_idle(&mut from_server).await;
                    }
                });
            }
        });
        Self { port: own, hold, _task: task }
    }
}

/// Reads to `ReadyForQuery` with no transaction open: what was sent before is carried out. That something is readable
/// says less, since readiness may be stale and since what came before is answered too.
async fn read_to_idle(from_server: &mut OwnedReadHalf) {
    const IDLE: &[u8] = b"Z\0\0\0\x05I";
    let mut answer = Vec::new();
    while !answer.windows(IDLE.len()).any(|part| part == IDLE) {
        assert_ne!(from_server.read_buf(&mut answer).await.unwrap(), 0, "the database answers");
    }
}
