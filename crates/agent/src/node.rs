//! The agent's own identity: attested once, and then renewed for ever, or attested again for ever.
//!
//! An SVID that was attested in a way that can be repeated is replaced by attesting again; the server refuses to renew
//! it. Any other one is renewed. Either happens at half of the SVID's life, when an authority that signed it is tainted or
//! gone, and when the server denies the agent something as an agent: evicted, expired, not active.
//!
//! An agent whose own SVID ended stays up and serves what is valid: it goes on asking for a renewal with the ended
//! SVID, which a server of ours grants for a while (its constant `RENEWAL_GRACE`), and attests anew if it has something
//! to attest with. Only two answers of the server end an agent: that it is banned, and that it was evicted and may not
//! attest again.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{error, info, warn};
use vouchsafe_ca::key_manager::KeyManager;
use vouchsafe_identity::own::SvidCell;
use vouchsafe_proto::denial::{self, Reason};
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::budget::Budget;
use vouchsafe_runtime::chain::Chain;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::config::RebootstrapMode;
use crate::data_dir::DataDir;
use crate::denials::{Denial, Denials};
use crate::explain::Notes;
use crate::identities::Identities;
use crate::metrics::{Metrics, Repair, Retry};
use crate::rotation::{Policy, Standing};
use crate::server_client::{ServerClient, hint, look_again, shown};
use crate::status::{Phase, StatusBoard};
use crate::taint::Distrust;
use crate::trust::{Trust, error_source};
use attestor::NodeAttestor;
use own::Own;
pub use own::Restored;

mod attest;
pub mod attestor;
pub mod error;
pub mod k8s_psat;
mod own;
pub mod x509pop;

pub use error::NodeError;

/// What the node task works with.
#[derive(Debug)]
pub struct Node {
    /// Holds the agent's keys.
    pub key_manager: Arc<dyn KeyManager>,
    /// Keeps the SVID across restarts.
    pub data_dir: Arc<DataDir>,
    /// Presents the SVID.
    pub cell: SvidCell,
    /// Speaks with the server.
    pub client: Arc<ServerClient>,
    /// Knows the server.
    pub trust: Arc<Trust>,
    /// Where the first bundle goes.
    pub identities: Arc<Identities>,
    /// Whose agent this is.
    pub trust_domain: TrustDomain,
    /// Proves which node this is.
    pub attestor: Option<NodeAttestor>,
    /// When SVIDs are renewed.
    pub policy: Policy,
    /// What the server is told.
    pub version: String,
    /// Time.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Metrics,
    /// Status.
    pub status: StatusBoard,
    /// What the server denied to other tasks.
    pub denials: Denials,
    /// What goes wrong is noted for whoever asks why.
    pub notes: Notes,
    /// The server refused what can be shown once: there is no use in showing it again.
    pub refused: AtomicBool,
    /// How often this agent attests again.
    pub budget: Mutex<Budget>,
}

/// What the loop remembers.
#[derive(Debug)]
struct Progress {
    own: Own,
    failures: u32,
    /// Not before this.
    next_try: Instant,
    posted: bool,
    next_post: Instant,
}

impl Node {
    /// Gets and renews the agent's SVID until `cancel`.
    ///
    /// # Errors
    ///
    /// What the operator must do something about: the server refuses this agent.
    pub async fn run(
        self: Arc<Self>,
        restored: Option<Restored>,
        cancel: CancellationToken,
    ) -> Result<(), NodeError> {
        tokio::select! {
            () = cancel.cancelled() => Ok(()),
            outcome = self.live(restored) => {
                self.status.set(|status| status.phase = Phase::Refused);
                outcome
            }
        }
    }

    async fn live(&self, restored: Option<Restored>) -> Result<(), NodeError> {
        let own = match restored {
            Some(restored) => restored.own,
            None => self.attest_until_done().await?,
        };
        self.check_rebootstrap(&own)?;
        let mut denials = self.denials.watch();
        let mut changes = self.identities.watch();
        let mut life = self.client.signs_of_life();
        let now = Instant::now();
        let mut progress = Progress { own, failures: 0, next_try: now, posted: false, next_post: now };
        loop {
            if !progress.posted && Instant::now() >= progress.next_post {
                progress.posted = self.post_status().await;
                progress.next_post = Instant::now() + TICK;
            }
            self.store_again().await;
            if Instant::now() >= progress.next_try && self.must_replace(&progress.own) {
                self.replace(&mut progress).await?;
                // What was heard meanwhile was heard of the SVID that is gone, or acted on just now.
                denials.mark_unchanged();
            }
            let look = Instant::now() + TICK;
            let until = if progress.failures == 0 { look } else { look.min(progress.next_try) };
            tokio::select! {
                () = sleep_until(until) => {}
                Ok(()) = changes.changed() => {}
                Ok(()) = life.changed() => {
                    let soon = Instant::now() + WAKE_SPREAD.mul_f64(self.client.jitter());
                    progress.next_try = progress.next_try.min(soon);
                }
                Ok(()) = denials.changed() => self.on_denial(&mut progress.own)?,
            }
        }
    }

    /// Whether the SVID must be replaced now.
    fn must_replace(&self, own: &Own) -> bool {
        if own.lifetime.standing(self.clock.unix_now()) != Standing::Good || own.denied {
            return true;
        }
        if self.trust.rebootstrap_is_due() {
            warn!("Trust Bundle and Server don't agree, rebootstrapping");
            return true;
        }
        if !self.is_distrusted(own) || Instant::now() < own.tolerated_until {
            return false;
        }
        info!("Agent SVID is tainted by a root authority, forcing rotation");
        true
    }

    /// Whether the authority that the SVID leads to is tainted or gone.
    fn is_distrusted(&self, own: &Own) -> bool {
        let held = self.trust.held();
        held.is_some_and(|held| Distrust::of(&held.own.bundle).covers(own.authority_key_id.as_deref()))
    }

    /// Gets a new SVID and does what its failure asks for.
    async fn replace(&self, progress: &mut Progress) -> Result<(), NodeError> {
        match self.refresh(&progress.own).await {
            Ok((mut own, attested)) => {
                self.denials.admitted();
                // The server gives what it has: asking at once again would bring the same.
                if self.is_distrusted(&own) {
                    own.tolerated_until = Instant::now() + TOLERATED_FOR;
                }
                self.check_rebootstrap(&own)?;
                let now = Instant::now();
                // An agent that was evicted is a new one to the server.
                let posted = progress.posted && !attested;
                *progress = Progress { own, failures: 0, next_try: now, posted, next_post: now };
                Ok(())
            }
            Err(failure) => self.failed(progress, failure).await,
        }
    }

    /// A new SVID, and whether it was attested.
    async fn refresh(&self, own: &Own) -> Result<(Own, bool), NodeError> {
        let again = self.can_attest_again(own);
        let renewed = match again && (own.reattestable || own.denied) {
            true => return self.reattest(own).await.map(|own| (own, true)),
            false => self.renew(own).await,
        };
        match renewed {
            // A server that does not take ended SVIDs refuses the connection and says nothing else.
            Err(failure)
                if again
                    && (own.lifetime.expired(self.clock.unix_now())
                        || failure.denial() == Some(Reason::AgentMustReattest)) =>
            {
                warn!(error = %failure, "Agent needs to re-attest; will attempt to re-attest");
                self.reattest(own).await.map(|own| (own, true))
            }
            renewed => renewed.map(|own| (own, false)),
        }
    }

    async fn failed(&self, progress: &mut Progress, failure: NodeError) -> Result<(), NodeError> {
        let cause = error_source(&failure);
        self.notes.node_failed(failure.code(), &Chain(&failure).to_string());
        match progress.own.reattestable {
            true => error!(error = %failure, cause, "Could not reattest agent"),
            false => error!(error = %failure, cause, "Could not rotate agent SVID"),
        }
        if let NodeError::Server(status) = &failure {
            self.denials.hear(status);
        }
        if failure.denial().is_some() {
            self.on_denial(&mut progress.own)?;
        }
        // One server that has not heard of a new agent yet must not end it.
        if let Some(Denial { reason: Reason::AgentNotAttested, since, .. }) = self.denials.latest()
            && since.elapsed() >= EVICTED_AFTER
            && (failure.is_final() || !self.can_attest_again(&progress.own))
        {
            error!("Agent failed re-attestation; removing SVID and shutting down");
            self.forget();
            return Err(NodeError::Evicted);
        }
        self.metrics.retried(Retry::RenewAgent);
        // At first, and then less and less often.
        if progress.own.lifetime.expired(self.clock.unix_now()) && (progress.failures + 1).is_power_of_two() {
            let can_attest_again = self.can_attest_again(&progress.own);
            let expired_at = progress.own.lifetime.not_after;
            warn!(
                expired_at,
                can_attest_again,
                "the agent's own SVID has ended; what is valid is served, and the agent goes on trying. If it cannot attest again and the server does not renew it any more, start it with a new join token"
            );
        }
        match self.trust.recover().await {
            Ok(true) => self.metrics.repaired(Repair::Rebootstrap),
            Ok(false) => {}
            Err(status) => warn!(error = shown(&status), "cannot bootstrap again"),
        }
        let wait = match failure {
            NodeError::TooSoon(wait) => wait,
            NodeError::Server(status) if hint::of(&status).is_some() => self.client.wait_after(&status, 0),
            _ => look_again().delay(progress.failures, self.client.jitter()),
        };
        progress.failures += 1;
        progress.next_try = Instant::now() + wait;
        Ok(())
    }

    /// What the agent does when the server denies it something as an agent.
    fn on_denial(&self, own: &mut Own) -> Result<(), NodeError> {
        let Some(Denial { reason, .. }) = self.denials.latest() else { return Ok(()) };
        if reason == Reason::AgentBanned {
            error!("Agent is banned: removing SVID and shutting down");
            self.forget();
            return Err(NodeError::Banned);
        }
        // Now, whatever our clock says: either it helps, or the server says again what it thinks.
        if !own.denied && self.can_attest_again(own) {
            warn!("Agent needs to re-attest; will attempt to re-attest");
        }
        own.denied = true;
        Ok(())
    }

    /// Rebootstrapping needs an attestation that can be repeated.
    fn check_rebootstrap(&self, own: &Own) -> Result<(), NodeError> {
        match self.trust.rebootstrap_mode() {
            RebootstrapMode::Never => Ok(()),
            _ if own.reattestable => Ok(()),
            RebootstrapMode::Always => Err(NodeError::CannotRebootstrap),
            RebootstrapMode::Auto => {
                warn!(
                    "you have requested rebootstrap support but the NodeAttestor plugin or the spire server configuration is not allowing it. Disabling"
                );
                self.trust.never_rebootstrap();
                Ok(())
            }
        }
    }

    /// Writes what could not be written before.
    async fn store_again(&self) {
        if self.data_dir.is_stored() {
            return;
        }
        let data_dir = Arc::clone(&self.data_dir);
        let stored = blocking::run(move || data_dir.store_again()).await;
        if let Ok(Err(error)) = stored {
            warn!(error = %error, cause = error_source(&error), "Could not store SVID");
        }
    }

    async fn post_status(&self) -> bool {
        match self.client.post_status(&self.version).await {
            Ok(()) => true,
            // Tried again only while the server cannot be reached: an older server does not have the call.
            Err(status) => {
                warn!(agent_version = self.version, error = shown(&status), "Failed to post agent status");
                denial::reason(&status).is_none()
                    && !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
            }
        }
    }

    fn forget(&self) {
        if let Err(error) = self.data_dir.delete_svid() {
            error!(error = %error, cause = error_source(&error), "Failed to remove SVID");
        }
        self.identities.close();
    }
}

/// The own SVID is looked at this often: the clock may jump.
const TICK: Duration = Duration::from_secs(5);

/// An agent that the server does not know for so long was evicted.
const EVICTED_AFTER: Duration = Duration::from_secs(10);

/// An attempt that a sign of life brings forward begins within this time.
const WAKE_SPREAD: Duration = Duration::from_millis(500);

/// A new SVID that a tainted authority signed like the one before is kept for so long before another is asked for.
const TOLERATED_FOR: Duration = Duration::from_secs(60);
