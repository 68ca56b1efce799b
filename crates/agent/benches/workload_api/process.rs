//! The servers: this program again, each with one thread on the server core.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceBuilder;
use vouchsafe_agent::callers::CallerListener;
use vouchsafe_agent::workload_api::WorkloadApi;
use vouchsafe_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_transport::grpc;
use vouchsafe_transport::rpc_metrics::RpcMetrics;
use vouchsafe_transport::unix::UnixListener;

use crate::empty::Empty;
use crate::held;

/// First argument of a server process.
pub(crate) const SERVE: &str = "serve";

const SERVER_CORE: &str = "0";
const CLIENT_CORE: &str = "1";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Empty,
    Held,
    Stock,
}

impl Kind {
    /// The limit is first.
    pub(crate) const ALL: [Self; 3] = [Self::Empty, Self::Held, Self::Stock];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Held => "held",
            Self::Stock => "stock",
        }
    }

    pub(crate) fn parse(name: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.name() == name).unwrap()
    }
}

/// A running server process. Ends when dropped.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) socket: PathBuf,
    child: Child,
}

impl Server {
    pub(crate) fn start(kind: Kind, dir: &Path) -> Self {
        let socket = dir.join(kind.name());
        let child = Command::new("taskset")
            .args(["-c", SERVER_CORE])
            .arg(std::env::current_exe().unwrap())
            .args([SERVE, kind.name()])
            .arg(&socket)
            .stdin(Stdio::piped())
            .spawn()
            .expect("taskset (util-linux) is needed");
        while !socket.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { kind, socket, child }
    }

    /// CPU time of all its threads so far, user and kernel, by the scheduler's own account.
    pub(crate) fn cpu_time(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanos = threads.map(|thread| {
            let text = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(nanos.sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// Keeps this process off the server core.
pub(crate) fn stay_on_client_core() {
    let pid = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-cp", CLIENT_CORE, &pid]).stdout(Stdio::null()).status();
    assert!(moved.expect("taskset (util-linux) is needed").success());
}

/// A server process, until its standard input ends.
pub(crate) fn serve(kind: Kind, socket: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cancel = CancellationToken::new();
    let parent_ended = cancel.clone();
    std::thread::spawn(move || {
        let _end = std::io::stdin().read(&mut [0]);
        parent_ended.cancel();
    });
    runtime.block_on(async {
        let empty = SpiffeWorkloadApiServer::new(Empty);
        let (options, entropy) = (grpc::Options::unix(), Entropy::from_seed(1));
        match kind {
            Kind::Empty => {
                let routes = Routes::new(empty).prepare();
                grpc::serve(listener(socket), routes, cancel, options, entropy).await;
            }
            Kind::Held => {
                let layer = RpcMetrics::new(Registry::new("bench", &[]));
                let routes = Routes::new(WorkloadApi::new(held::api().await)).prepare();
                let service = ServiceBuilder::new().layer(layer).service(routes);
                grpc::serve(CallerListener(listener(socket)), service, cancel, options, entropy).await;
            }
            Kind::Stock => {
                let incoming = UnixListenerStream::new(tokio::net::UnixListener::bind(socket).unwrap());
                let server = tonic::transport::Server::builder().add_service(empty);
                let served = server.serve_with_incoming(incoming);
                tokio::select! {
                    ended = served => ended.unwrap(),
                    () = cancel.cancelled() => {}
                }
            }
        }
    });
}

fn listener(socket: &Path) -> UnixListener {
    UnixListener::bind(socket, 0o600, 0o700).unwrap()
}
