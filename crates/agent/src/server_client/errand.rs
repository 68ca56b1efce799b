//! How a call finds a server that answers.
//!
//! A call goes to the server in use. If that cannot be reached, or does not begin to answer within the call's patience
//! ([`PATIENCE`], longer for large batches), or says that it is going away, the next best server is asked, [`MAX_ATTEMPTS`]
//! servers in all and [`RPC_DEADLINE`] together; the last one has all the time that is left. So has the only one. The same
//! goes for an answer that says that the server is broken ([`is_broken`]). Any other answer counts, also one that asks to come
//! again later: all servers of a trust domain would say the same.
//!
//! That is safe for every call that comes here: they read, or they issue something that the first server may have issued
//! too and that nobody will use then. `AttestAgent` does not come here: a join token is spent by the first server that
//! sees it. It goes over a [`Line`] that was made, and that answered, before.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_identity::config::{Expect, ServerTrust, client_config_with};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::verify::VerifyError;
use vouchsafe_transport::connect::Dial;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::{Anonymous, ServerClient, get_bundle, hint, with_causes};
use crate::metrics::Repair;
use crate::servers::{Ended, Kind, Server, is_broken, is_unreachable};

/// How a call is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Errand {
    kind: Kind,
    /// How long one server may take to begin to answer while there is another one.
    patience: Duration,
    /// Whether how long it takes can be compared between servers.
    comparable: bool,
}

impl Errand {
    /// Small.
    pub(super) const fn short(kind: Kind) -> Self {
        Self { kind, patience: PATIENCE, comparable: false }
    }

    /// `GetBundle`: small, and asked of every server.
    pub(super) const COMPARABLE: Self = Self { kind: Kind::Bundle, patience: PATIENCE, comparable: true };

    /// A renewal of the agent's own SVID. A server that is late may still carry it out, and of two that do the last one counts:
    /// another server is asked only when this one was not reached or says that it is broken.
    pub(super) const RENEWAL: Self = Self { kind: Kind::Renewal, patience: RPC_DEADLINE, comparable: false };

    /// An attestation, with challenges.
    pub(super) const CONVERSATION: Self =
        Self { kind: Kind::Attestation, patience: Duration::from_secs(10), comparable: false };

    /// `count` signatures, which a server may put in a queue.
    pub(super) fn of_batch(count: usize) -> Self {
        let more = PATIENCE_PER_SIGNATURE * u32::try_from(count).unwrap_or(u32::MAX);
        Self { kind: Kind::X509, patience: PATIENCE + more, comparable: false }
    }
}

/// A connection to one server.
#[derive(Clone, Debug)]
pub struct Line {
    /// For any number of calls.
    pub channel: Channel,
    server: Arc<Server>,
    /// Others used it before.
    kept: bool,
    /// The answer has begun: it may take its time.
    heard: Arc<AtomicBool>,
}

impl Line {
    /// Says that the answer has begun.
    pub(super) fn heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Where it leads.
    #[must_use]
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }
}

impl ServerClient {
    /// See the module.
    pub(super) async fn call<T, Fut>(
        &self,
        errand: Errand,
        attempt: impl Fn(Line) -> Fut,
    ) -> Result<T, Status>
    where
        Fut: Future<Output = Result<T, Status>>,
    {
        self.pool.prepare().await?;
        let started = Instant::now();
        let (mut tried, mut last) = (Vec::new(), Status::unavailable("no server is known"));
        while let Some(server) = self.pool.pick(&tried) {
            tried.push(server.address());
            let others = tried.len() < MAX_ATTEMPTS && self.pool.has_other(&tried);
            let limits = || {
                let left = RPC_DEADLINE.saturating_sub(started.elapsed());
                (if others { errand.patience.min(left) } else { left }, left)
            };
            if limits().1.is_zero() {
                // Nobody is blamed for a question that was never put.
                break;
            }
            let mut line = self.line_to(&server)?;
            let (mut outcome, mut ended) = wait(&line, attempt(line.clone()), (errand, limits())).await;
            // A connection that was kept may have been cut long ago; that says nothing of the server.
            if line.kept && outcome.as_ref().is_err_and(is_cut) {
                self.disconnect(&server);
                line = self.line_to(&server)?;
                (outcome, ended) = wait(&line, attempt(line.clone()), (errand, limits())).await;
            }
            self.note(&server, outcome.as_ref().err(), ended);
            match outcome {
                Err(status) if others && (is_unreachable(&status) || is_broken(&status)) => last = status,
                outcome => return outcome.map_err(with_causes),
            }
        }
        Err(with_causes(last))
    }

    /// One call over `line`, which stays with its server.
    pub(super) async fn call_over<T, Fut>(
        &self,
        line: &Line,
        errand: Errand,
        attempt: impl FnOnce(Line) -> Fut,
    ) -> Result<T, Status>
    where
        Fut: Future<Output = Result<T, Status>>,
    {
        let others = self.pool.has_other(&[line.server.address()]);
        let patience = if others { errand.patience } else { RPC_DEADLINE };
        let limits = (patience, RPC_DEADLINE);
        let (outcome, ended) = wait(line, attempt(line.clone()), (errand, limits)).await;
        self.note(&line.server, outcome.as_ref().err(), ended);
        outcome.map_err(with_causes)
    }

    /// Takes note of how a call to `server` ended; the next one connects anew if this one found no connection.
    pub(super) fn note(&self, server: &Server, failure: Option<&Status>, ended: Ended) {
        self.pool.observe(server, failure, ended);
        if failure.is_some_and(is_leaving) {
            self.disconnect(server);
        }
    }

    fn disconnect(&self, server: &Server) {
        if server.links().since().is_some()
            && let Some(metrics) = &self.pool.settings().metrics
        {
            metrics.repaired(Repair::Reconnect);
        }
        server.disconnect();
    }

    /// A line to the server in use.
    ///
    /// # Errors
    ///
    /// There is no address.
    pub async fn line(&self) -> Result<Line, Status> {
        self.pool.prepare().await?;
        let server = self.pool.pick(&[]).ok_or_else(|| Status::unavailable("no server is known"))?;
        self.line_to(&server)
    }

    fn line_to(&self, server: &Arc<Server>) -> Result<Line, Status> {
        let make = || {
            let dial = self.dial(server, self.verified(), Some(&self.own))?;
            dial.lazy().map_err(|error| Status::invalid_argument(error.to_string()))
        };
        let (channel, kept) = server.channel(make)?;
        Ok(Line { channel, server: Arc::clone(server), kept, heard: Arc::default() })
    }

    /// A connection of its own without the agent's SVID, to the best server that is there.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an address that is none; why the last server that was tried cannot be reached.
    pub async fn anonymous(&self, who: Anonymous) -> Result<Line, Status> {
        self.pool.prepare().await?;
        let id = SpiffeId::server(&self.trust_domain);
        let (mut tried, mut last) = (Vec::new(), Status::unavailable("no server is known"));
        while tried.len() < MAX_ATTEMPTS
            && let Some(server) = self.pool.pick(&tried)
        {
            tried.push(server.address());
            let trust = match &who {
                Anonymous::Verified(roots) => ServerTrust::Verified(roots.clone(), Expect::Id(id.clone())),
                Anonymous::Insecure => ServerTrust::InsecureBootstrap(id.clone()),
            };
            match self.connected(&server, (trust, None), Kind::Attestation).await {
                Ok(line) => return Ok(line),
                Err(status) => last = status,
            }
        }
        Err(with_causes(last))
    }

    /// The bundle that `server` has. `used`: over the connection that calls share; otherwise over one for this alone.
    pub(crate) async fn probe(&self, server: &Arc<Server>, used: bool) -> Result<Bundle, Status> {
        let line = match used {
            true => self.line_to(server)?,
            false => {
                let who = (self.verified(), Some(&self.own));
                self.connected(server, who, Kind::Bundle).await.map_err(with_causes)?
            }
        };
        let limits = (Errand::COMPARABLE, (UNHURRIED, UNHURRIED));
        let (outcome, ended) = wait(&line, get_bundle(line.clone()), limits).await;
        self.note(server, outcome.as_ref().err(), ended);
        self.own_bundle(&outcome.map_err(with_causes)?)
    }

    async fn connected(
        &self,
        server: &Arc<Server>,
        (trust, own): (ServerTrust, Option<&SvidCell>),
        kind: Kind,
    ) -> Result<Line, Status> {
        let start = Instant::now();
        let dial = self.dial(server, trust, own)?;
        // The connector's own deadline does not know of a simulated clock's traps, and says less.
        match timeout(UNHURRIED, dial.connected()).await {
            Ok(Ok(channel)) => {
                Ok(Line { channel, server: Arc::clone(server), kept: false, heard: Arc::default() })
            }
            failed => {
                let status = match failed {
                    Ok(Err(error)) => Status::from_error(Box::new(error)),
                    _ => Status::deadline_exceeded(format!(
                        "no connection to {} within {} s",
                        server.name(),
                        UNHURRIED.as_secs()
                    )),
                };
                let elapsed = start.elapsed();
                let ended = Ended { kind, elapsed, comparable: false, code: Code::Unavailable };
                self.note(server, Some(&status), ended);
                Err(status)
            }
        }
    }

    fn dial(&self, server: &Server, trust: ServerTrust, own: Option<&SvidCell>) -> Result<Dial, Status> {
        let settings = self.pool.settings();
        let config = client_config_with(self.key_exchange, trust, own, settings.clock.clone())
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Dial {
            network: settings.network.clone(),
            authority: server.authority().to_owned(),
            address: server.address(),
            config: Arc::new(config),
            timeout: UNHURRIED,
            links: server.links().clone(),
        })
    }
}

/// Waits for `call` over `line`, `left` if the answer begins within `patience`.
async fn wait<T>(
    line: &Line,
    call: impl Future<Output = Result<T, Status>>,
    (errand, (patience, left)): (Errand, (Duration, Duration)),
) -> (Result<T, Status>, Ended) {
    let (start, connected) = (Instant::now(), line.server.links().since().is_some());
    let mut call = pin!(call);
    let late = |waited: Duration| {
        Status::deadline_exceeded(format!("no answer from the server within {} s", waited.as_secs()))
    };
    let outcome = match timeout(patience, &mut call).await {
        Ok(outcome) => outcome,
        Err(_) if patience < left && line.heard.load(Ordering::Relaxed) => {
            timeout(left - patience, call).await.unwrap_or_else(|_| Err(late(left)))
        }
        Err(_) => Err(late(patience)),
    };
    let code = outcome.as_ref().map_or_else(Status::code, |_| Code::Ok);
    // A call that had to connect first took longer than the server did.
    let comparable = connected && errand.comparable;
    (outcome, Ended { kind: errand.kind, elapsed: start.elapsed(), comparable, code })
}

/// Whether the connection broke, and not because of who is at its other end.
fn is_cut(status: &Status) -> bool {
    is_unreachable(status) && status.code() != Code::DeadlineExceeded && VerifyError::behind(status).is_none()
}

/// Whether the connection is of no more use: the server is away, or going.
fn is_leaving(status: &Status) -> bool {
    is_unreachable(status) || status.code() == Code::Unavailable && hint::of(status).is_none()
}

/// How long one call may take, all servers together.
pub const RPC_DEADLINE: Duration = Duration::from_secs(30);

/// How long one server may take to begin to answer while there is another one.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How long a server may take to shake hands, unless a call runs out of patience before, and to answer a probe. Giving up
/// sooner, while a server is busy admitting everybody after a restart, would make it do the same work again.
const UNHURRIED: Duration = Duration::from_secs(5);

/// What each signature of a batch adds to [`PATIENCE`].
const PATIENCE_PER_SIGNATURE: Duration = Duration::from_millis(10);

/// Servers that one call tries.
pub const MAX_ATTEMPTS: usize = 3;
