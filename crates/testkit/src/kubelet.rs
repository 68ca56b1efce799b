//! A kubelet that lists Pods: `GET /pods` over plain HTTP as on the read-only port, or over TLS with a bearer token or a
//! client certificate as on the secure port. What it lists, how large that is, how long it takes and how it fails are
//! changed while it runs; it counts what it is asked.

#![expect(clippy::expect_used, reason = "a test without its kubelet cannot go on")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

pub use self::cgroup::PodCgroup;
pub use self::files::KubeletFiles;
pub use self::pods::{FakeContainer, FakePod, list_json};

mod cgroup;
mod files;
mod pods;

/// A kubelet on a port of its own, until dropped.
#[derive(Debug)]
pub struct FakeKubelet {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

/// Whom a kubelet answers on its secure port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Admits {
    /// Anybody.
    Anybody,
    /// Whoever has the token that is in [`KubeletFiles::token`] now.
    Token,
    /// Whoever has a certificate of [`KubeletFiles::ca`].
    Certificate,
}

/// How it answers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Manner {
    /// As it should.
    #[default]
    Well,
    /// Not at all: the connection stays open.
    Hangs,
    /// It closes the connection.
    Closes,
    /// With this status and text.
    Status(u16, String),
    /// With these bytes in place of the list.
    Says(Vec<u8>),
    /// With a length that is right and half of the list.
    Half,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    manner: watch::Sender<(Manner, Duration)>,
    files: Option<KubeletFiles>,
    admits: Admits,
}

#[derive(Debug, Default)]
struct State {
    list: Arc<Vec<u8>>,
    generation: u64,
    requests: Vec<Instant>,
    answered: Vec<(u64, Instant)>,
}

impl FakeKubelet {
    /// On a read-only port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// When no port is free.
    pub async fn plain() -> Self {
        Self::start(0, None, Admits::Anybody).await
    }

    /// On a secure port of 127.0.0.1, with a certificate for the host name `node` and for no address.
    ///
    /// # Panics
    ///
    /// When no port is free.
    pub async fn secure(node: &str, admits: Admits) -> Self {
        Self::start(0, Some(KubeletFiles::make(node)), admits).await
    }

    /// On `port`; 0 for any.
    ///
    /// # Panics
    ///
    /// When it is in use.
    pub async fn start(port: u16, files: Option<KubeletFiles>, admits: Admits) -> Self {
        let listener =
            TcpListener::bind(("127.0.0.1", port)).await.expect("a free port for the fake kubelet");
        let address = listener.local_addr().expect("a bound port has an address");
        let tls =
            files.as_ref().map(|files| TlsAcceptor::from(files.server_config(admits == Admits::Certificate)));
        let list = Arc::new(list_json(&[], 0));
        let shared = Arc::new(Shared {
            state: Mutex::new(State { list, ..State::default() }),
            manner: watch::Sender::new((Manner::Well, Duration::ZERO)),
            files,
            admits,
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, tls, Arc::clone(&shared)));
        Self { address, shared, _serving: serving }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Certificates and token, if it is on a secure port.
    ///
    /// # Panics
    ///
    /// On a read-only port there are none.
    #[must_use]
    pub fn files(&self) -> &KubeletFiles {
        self.shared.files.as_ref().expect("a kubelet on a secure port")
    }

    /// Lists `pods` from now on, in `bytes` or more. Says which list that is; see [`FakeKubelet::answered`].
    pub fn lists(&self, pods: &[FakePod], bytes: usize) -> u64 {
        self.serves(list_json(pods, bytes))
    }

    /// Serves this text from now on.
    pub fn serves(&self, list: Vec<u8>) -> u64 {
        let mut state = self.shared.lock();
        state.list = Arc::new(list);
        state.generation += 1;
        state.generation
    }

    /// Answers like this from now on, also who waits already; each answer takes `latency`.
    pub fn answers(&self, manner: Manner, latency: Duration) {
        self.shared.manner.send_replace((manner, latency));
    }

    /// How many connections came, each for one request.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.lock().requests.len()
    }

    /// When each of them came.
    #[must_use]
    pub fn request_times(&self) -> Vec<Instant> {
        self.shared.lock().requests.clone()
    }

    /// Which lists were sent, and when the last byte of each was.
    #[must_use]
    pub fn answered(&self) -> Vec<(u64, Instant)> {
        self.shared.lock().answered.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status and the text of an answer to this head; `None`: none.
    fn answer(&self, head: &str, manner: Manner) -> Option<(u16, Arc<Vec<u8>>)> {
        let said = |status, text: &str| Some((status, Arc::new(text.as_bytes().to_vec())));
        if self.admits == Admits::Token {
            let token = self.files.as_ref().and_then(|files| std::fs::read_to_string(&files.token).ok());
            let wanted = format!("authorization: bearer {}", token.unwrap_or_default().trim());
            if !head.lines().any(|line| line.eq_ignore_ascii_case(&wanted)) {
                return said(401, "Unauthorized");
            }
        }
        if !head.starts_with("GET /pods HTTP/1.1\r\n") {
            return said(404, "404 page not found\n");
        }
        match manner {
            Manner::Status(status, text) => said(status, &text),
            Manner::Says(bytes) => Some((200, Arc::new(bytes))),
            Manner::Closes => None,
            Manner::Well | Manner::Half | Manner::Hangs => Some((200, Arc::clone(&self.lock().list))),
        }
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { continue };
                let (tls, shared) = (tls.clone(), Arc::clone(&shared));
                shared.lock().requests.push(Instant::now());
                connections.spawn(async move {
                    // A client that gives up is no concern of the kubelet's.
                    drop(match tls {
                        None => converse(tcp, &shared).await,
                        Some(tls) => match tls.accept(tcp).await {
                            Ok(stream) => converse(stream, &shared).await,
                            Err(error) => Err(error),
                        },
                    });
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 * 1024 {
        head.push(stream.read_u8().await?);
    }
    let mut manner = shared.manner.subscribe();
    let (manner, latency) = loop {
        let (now, latency) = manner.borrow_and_update().clone();
        if now != Manner::Hangs {
            break (now, latency);
        }
        if manner.changed().await.is_err() {
            return Ok(());
        }
    };
    tokio::time::sleep(latency).await;
    let generation = shared.lock().generation;
    let Some((status, body)) = shared.answer(&String::from_utf8_lossy(&head), manner.clone()) else {
        return Ok(());
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let sent = if manner == Manner::Half { &body[..body.len() / 2] } else { &body[..] };
    stream.write_all(sent).await?;
    stream.flush().await?;
    shared.lock().answered.push((generation, Instant::now()));
    stream.shutdown().await
}

/// A directory that lists process `pid` as one in this cgroup, as `/proc` does.
///
/// # Panics
///
/// When it cannot be written.
#[must_use]
pub fn proc_with(pid: u32, cgroup: &str) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().expect("a directory");
    let process = root.path().join(pid.to_string());
    std::fs::create_dir(&process).expect("a directory for the process");
    std::fs::write(process.join("cgroup"), format!("0::{cgroup}\n")).expect("its cgroup");
    let path = root.path().to_owned();
    (root, path)
}
