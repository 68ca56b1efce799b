//! Starts the parts.
//!
//! Each part is one narrative: logging, data directory, dependencies bottom-up, start, supervise, drain.

mod agent;
mod csi;
mod data_dir;
mod helper;
mod http;
pub(crate) mod last_words;
mod measured;
mod metrics_tls;
mod oidc;
mod registrar;
mod server;
pub(crate) mod switch;
mod up;

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::lookup_host;
use tokio::runtime::Builder;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::log_level::LogLevelControl;
use vouchsafe_runtime::readiness::Readiness;
use vouchsafe_runtime::signals::{self, Shutdown};
use vouchsafe_runtime::supervisor::Supervisor;

pub use self::csi::CsiConfig;
use crate::config::{self, LogConfig};
use crate::logging::{self, Output, Stream};

/// Runs a server until it is told to stop.
///
/// # Errors
///
/// It could not start, or one of its tasks failed.
pub fn server(config: config::server::Config) -> anyhow::Result<()> {
    block_on(&mut Builder::new_multi_thread(), server::run(config))
}

/// Runs an agent until it is told to stop.
///
/// # Errors
///
/// It could not start, or one of its tasks failed.
pub fn agent(config: config::agent::Config) -> anyhow::Result<()> {
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_AGENT_WORKERS);
    block_on(Builder::new_multi_thread().worker_threads(workers), agent::run(config))
}

/// Runs an OIDC discovery provider until it is told to stop.
///
/// # Errors
///
/// It could not start, or one of its tasks failed.
pub fn oidc(config: config::oidc::Config) -> anyhow::Result<()> {
    block_on(&mut Builder::new_multi_thread(), oidc::run(config))
}

/// Runs a CSI driver until it is told to stop.
///
/// # Errors
///
/// It could not start, or one of its tasks failed.
pub fn csi(config: CsiConfig) -> anyhow::Result<()> {
    block_on(&mut Builder::new_current_thread(), csi::run(config))
}

/// Keeps identities in files until it is told to stop, or writes them once.
///
/// # Errors
///
/// It could not start, one of its tasks failed, or the files were not written.
pub fn helper(config: config::helper::Config) -> anyhow::Result<()> {
    block_on(&mut Builder::new_current_thread(), helper::run(config))
}

/// Runs a registrar until it is told to stop. Without a kubeconfig the cluster is the one that it runs in.
///
/// # Errors
///
/// It could not start, or one of its tasks failed.
pub fn registrar(
    config: config::registrar::Config,
    kubeconfig: Option<std::path::PathBuf>,
) -> anyhow::Result<()> {
    block_on(Builder::new_multi_thread().worker_threads(2), registrar::run(config, kubeconfig))
}

/// Runs server and agent in this process until told to stop.
///
/// # Errors
///
/// A part could not start, or one of its tasks failed.
pub fn up(config: config::up::Config) -> anyhow::Result<()> {
    block_on(&mut Builder::new_multi_thread(), up::run(config))
}

/// An agent shares its machine with what it serves. One core answers over 100,000 requests per second; every thread
/// more would only take memory.
const MAX_AGENT_WORKERS: usize = 2;

/// How long tasks have to end after the first signal; as in SPIRE.
const GRACE: Duration = Duration::from_secs(10);

/// What every part is built on.
struct Host {
    clock: Clock,
    entropy: Entropy,
    readiness: Readiness,
    tasks: Supervisor,
    log: Arc<Output>,
    log_level: LogLevelControl,
    shutdown: Shutdown,
}

impl Host {
    fn new(log: &LogConfig, warnings: &[String]) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let (log, log_level) = logging::start(log, Stream::Stdout, clock.clone())?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let entropy = Entropy::from_os().context("the operating system gives no randomness")?;
        tracing::debug!(seed = entropy.seed(), "Seeded");
        raise_open_files();
        // From here on a signal is kept for `run`, also one that comes while the part starts.
        let shutdown = signals::shutdown()?;
        let mut reconfigure = signals::user1()?;
        let mut tasks = Supervisor::new();
        // SPIRE reads `plugin_data_file` again. Uncaught, the signal would end the process.
        tasks.start("reconfigure", |cancel| async move {
            while cancel.run_until_cancelled(reconfigure.recv()).await.is_some() {
                tracing::warn!("Plugins are configured at start; restart to read plugin_data_file again");
            }
            Ok::<_, std::convert::Infallible>(())
        });
        let readiness = Readiness::new(clock.clone());
        Ok(Self { clock, entropy, readiness, tasks, log, log_level, shutdown })
    }

    /// Runs until the first signal, then drains; a second signal skips to the end.
    async fn run(mut self) -> anyhow::Result<()> {
        let mut reopen = signals::user2()?;
        let log = self.log.clone();
        self.tasks.start("log file", |cancel| async move {
            loop {
                tokio::select! {
                    () = cancel.cancelled() => return Ok::<_, std::convert::Infallible>(()),
                    () = reopen.recv() => match log.reopen() {
                        Ok(()) => tracing::info!("Reopened the log file"),
                        Err(error) => tracing::error!(%error, "Cannot reopen the log file"),
                    },
                }
            }
        });
        let Shutdown { first, second, .. } = self.shutdown;
        let readiness = self.readiness.clone();
        let first = async move {
            first.await;
            readiness.drain();
        };
        Ok(self.tasks.run_hurried(first, second, GRACE).await?)
    }
}

/// Raises the number of files this process may have open as far as it may: every connection is one, and the usual 1,024
/// are fewer than the listeners' own bounds.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(now, most)| setrlimit(Resource::RLIMIT_NOFILE, now.max(most.min(OPEN_FILES)), most));
    if let Err(error) = raised {
        tracing::warn!(%error, "Cannot raise the limit of open files");
    }
}

/// Connections of both listeners, and room for the rest.
const OPEN_FILES: u64 = 32_768;

fn block_on(runtime: &mut Builder, part: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = runtime.enable_all().build();
    runtime.context("cannot start the asynchronous runtime")?.block_on(part)
}

/// The first address of `host`.
async fn resolve(host: &str, port: u16) -> anyhow::Result<std::net::SocketAddr> {
    let mut found = lookup_host((host, port)).await.with_context(|| format!("cannot resolve {host:?}"))?;
    found.next().with_context(|| format!("{host:?} has no address"))
}

fn key_type(kind: config::KeyType) -> vouchsafe_ca::key::KeyType {
    use vouchsafe_ca::key::KeyType;
    match kind {
        config::KeyType::Rsa2048 => KeyType::Rsa2048,
        config::KeyType::Rsa4096 => KeyType::Rsa4096,
        config::KeyType::EcP256 => KeyType::EcP256,
        config::KeyType::EcP384 => KeyType::EcP384,
    }
}
