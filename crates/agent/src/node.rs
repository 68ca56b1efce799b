//! The agent's own identity: attested once, renewed for ever.
//!
//! An agent whose own SVID ended stays up and serves what is valid: it goes on asking for a renewal with the ended
//! SVID, which a server of ours grants for a while (its constant `RENEWAL_GRACE`), and attests anew with a
//! join token that was not used yet, if it has one. Only two answers of the server end an agent: that it is banned,
//! and that it was evicted and cannot attest again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{error, info, warn};
use vouchsafe_ca::key::KeyType;
use vouchsafe_ca::key_manager::KeyManager;
use vouchsafe_ca::signer::Signer;
use vouchsafe_ca::x509::csr::create_csr;
use vouchsafe_identity::own::{OwnSvid, SvidCell};
use vouchsafe_proto::denial::{self, Reason};

use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::secret::SecretText;
use vouchsafe_types::x509_svid::X509Svid;

use crate::bundles::Bundles;
use crate::data_dir::DataDir;
use crate::denials::{Denial, Denials};
use crate::identities::Identities;
use crate::metrics::{Metrics, status_name};
use crate::rotation::{Lifetime, Standing};
use crate::server_client::{ServerClient, retry_backoff, shown};
use crate::status::{Phase, StatusBoard};
use crate::trust::{Trust, error_source};

pub mod error;

pub use error::NodeError;

/// The agent's own SVID as it is kept here.
#[derive(Clone, Debug)]
struct Own {
    key_id: &'static str,
    reattestable: bool,
    lifetime: Lifetime,
    suffix: String,
}

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
    /// The token to attest with.
    pub join_token: Option<SecretText>,
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
    /// The server refused the join token: there is no use in showing it again.
    pub token_refused: AtomicBool,
}

impl Node {
    /// Takes over the SVID that the data directory and the key manager hold, if it can be used. Ended or not.
    ///
    /// # Errors
    ///
    /// [`NodeError::DataDir`], [`NodeError::Key`].
    pub async fn restore(&self) -> Result<Option<Restored>, NodeError> {
        let Some((svid, reattestable)) = self.data_dir.svid().map_err(NodeError::DataDir)? else {
            return Ok(None);
        };
        let leaf =
            Certificate::parse(&svid.chain[0]).map_err(|error| NodeError::Unusable(error.to_string()))?;
        let keys = self.key_manager.list().await.map_err(NodeError::Key)?;
        let key_id = keys.iter().find_map(|(id, key)| {
            let slot = KEY_SLOTS.iter().find(|slot| *slot == id)?;
            (key.public_key_der() == leaf.public_key_der).then_some(*slot)
        });
        let Some(key_id) = key_id else {
            warn!("SVID recovered, but no SVID key found. Generating new keypair");
            return Ok(None);
        };
        // When it arrived is not known any more; it was valid then.
        let own = self.install(&svid, key_id, reattestable, self.clock.unix_now().max(svid.not_before))?;
        info!(spiffe_id = %svid.id, "SVID loaded");
        Ok(Some(Restored { own }))
    }

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
        let mut own = match restored {
            Some(restored) => restored.own,
            None => self.attest_until_done().await?,
        };
        self.metrics.bootstrapped();
        let mut denials = self.denials.watch();
        let mut posted = false;
        let mut failures = 0;
        loop {
            if let Err(error) = self.data_dir.store_again() {
                warn!(error = %error, cause = error_source(&error), "Could not store SVID");
            }
            if !posted {
                posted = self.post_status().await;
            }
            if own.lifetime.standing(self.clock.unix_now()) != Standing::Good {
                match self.renew(&own).await {
                    Ok(renewed) => {
                        self.denials.admitted();
                        (own, failures) = (renewed, 0);
                    }
                    Err(failure) => {
                        error!(error = %failure, cause = error_source(&failure), "Could not rotate agent SVID");
                        failures += 1;
                        if let NodeError::Server(status) = &failure
                            && denial::reason(status).is_some()
                        {
                            self.denials.hear(status);
                            // Heard here and acted on here: it must not end the wait below.
                            denials.mark_unchanged();
                            own = self.on_denial(own).await?;
                        }
                        // A server that does not take ended SVIDs refuses the connection and says nothing else.
                        if own.lifetime.expired(self.clock.unix_now())
                            && let Some(attested) = self.reattest(&own).await
                        {
                            (own, failures) = (attested, 0);
                        }
                        if let Err(status) = self.trust.recover() {
                            warn!(error = shown(&status), "cannot bootstrap again");
                        }
                    }
                }
            }
            let wait = match failures {
                0 => TICK,
                failures => retry_backoff().delay(failures, self.client.jitter()).min(MAX_WAIT),
            };
            tokio::select! {
                () = sleep(wait) => {}
                Ok(()) = denials.changed() => own = self.on_denial(own).await?,
            }
        }
    }

    async fn post_status(&self) -> bool {
        match self.client.post_status(&self.version).await {
            Ok(()) => true,
            // Tried again only while the server cannot be reached: an older server does not have the call.
            Err(status) => {
                warn!(error = shown(&status), "Failed to post agent status");
                !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
            }
        }
    }

    /// What the agent does when the server denies it something as an agent.
    async fn on_denial(&self, own: Own) -> Result<Own, NodeError> {
        let Some(Denial { reason, since, .. }) = self.denials.latest() else { return Ok(own) };
        if reason == Reason::AgentBanned {
            error!("Agent is banned: removing SVID and shutting down");
            self.forget();
            return Err(NodeError::Banned);
        }
        if let Some(own) = self.reattest(&own).await {
            return Ok(own);
        }
        // One server that has not heard of a new agent yet must not end it.
        if reason == Reason::AgentNotAttested && since.elapsed() >= EVICTED_AFTER {
            error!("Agent needs to re-attest: removing SVID and shutting down");
            self.forget();
            return Err(NodeError::Evicted);
        }
        // Renew now, whatever our clock says: either it helps, or the server says again what it thinks.
        let renew_at = own.lifetime.renew_at.min(self.clock.unix_now());
        Ok(Own { lifetime: Lifetime { renew_at, ..own.lifetime }, ..own })
    }

    /// Attests anew if there is something to attest with: a join token that was neither used nor refused.
    async fn reattest(&self, own: &Own) -> Option<Own> {
        let fresh = self.join_token.as_deref().is_some_and(|token| token != own.suffix);
        if !fresh || self.token_refused.load(Ordering::Relaxed) {
            return None;
        }
        warn!("Agent needs to re-attest; will attempt to re-attest");
        match self.attest(own.key_id).await {
            Ok(own) => Some(own),
            Err(failure) => {
                self.token_refused.store(failure.is_final(), Ordering::Relaxed);
                error!(error = %failure, cause = error_source(&failure), "Agent failed re-attestation");
                None
            }
        }
    }

    fn forget(&self) {
        if let Err(error) = self.data_dir.delete_svid() {
            error!(error = %error, cause = error_source(&error), "Failed to remove SVID");
        }
        self.identities.close();
    }

    async fn attest_until_done(&self) -> Result<Own, NodeError> {
        info!("SVID is not found. Starting node attestation");
        let start = Instant::now();
        let mut attempts = 0;
        loop {
            match self.attest(KEY_SLOTS[1]).await {
                Ok(own) => {
                    self.metrics.bootstrap(start.elapsed(), attempts + 1);
                    return Ok(own);
                }
                Err(failure) if failure.is_final() => return Err(failure),
                Err(failure) => {
                    let wait = retry_backoff().delay(attempts, self.client.jitter());
                    warn!(error = %failure, cause = error_source(&failure), retry_interval = ?wait, "Failed to retrieve attestation result");
                    sleep(wait).await;
                    attempts += 1;
                }
            }
        }
    }

    /// Attests with a new key in the slot that `current` is not in.
    async fn attest(&self, current: &'static str) -> Result<Own, NodeError> {
        let start = Instant::now();
        let outcome = self.attest_once(current).await;
        let status = outcome.as_ref().map_or_else(|error| status_name(error.code()), |_| "OK");
        self.metrics.new_svid().observe(&[("attestor", "join_token")], status, start.elapsed());
        outcome
    }

    async fn attest_once(&self, current: &'static str) -> Result<Own, NodeError> {
        let token = self.join_token.as_ref().ok_or(NodeError::NoToken)?;
        let channel = self.trust.attestation_channel().map_err(NodeError::Server)?;
        let (slot, csr) = self.new_request(current).await?;
        let data = types::AttestationData {
            r#type: "join_token".to_owned(),
            payload: token.as_bytes().to_vec().into(),
        };
        let result =
            self.client.attest(channel.clone(), data, csr).await.map_err(|status| match status.code() {
                Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition => {
                    NodeError::Refused { message: status.message().to_owned() }
                }
                _ => NodeError::Server(status),
            })?;
        let svid = read_svid(result.svid.unwrap_or_default())?;
        let bundle = self.client.bundle_over(channel).await.map_err(NodeError::Server)?;
        self.trust.adopt(&bundle);
        self.identities.edit(|snapshot| {
            snapshot.bundles = Some(Arc::new(Bundles::of(bundle)));
            true
        });
        let own = self.keep(&svid, slot, result.reattestable)?;
        info!(spiffe_id = %svid.id, reattestable = result.reattestable, "Node attestation was successful");
        Ok(own)
    }

    async fn renew(&self, own: &Own) -> Result<Own, NodeError> {
        let start = Instant::now();
        let outcome = self.renew_once(own).await;
        let status = outcome.as_ref().map_or_else(|error| status_name(error.code()), |_| "OK");
        self.metrics.rotate().observe(&[], status, start.elapsed());
        outcome
    }

    async fn renew_once(&self, own: &Own) -> Result<Own, NodeError> {
        let (slot, csr) = self.new_request(own.key_id).await?;
        let issued = self.client.renew_agent(csr).await.map_err(NodeError::Server)?;
        let svid = read_svid(issued)?;
        let own = self.keep(&svid, slot, own.reattestable)?;
        info!(spiffe_id = %svid.id, "Successfully rotated agent SVID");
        Ok(own)
    }

    async fn new_request(&self, current: &'static str) -> Result<(&'static str, Vec<u8>), NodeError> {
        let slot = if current == KEY_SLOTS[0] { KEY_SLOTS[1] } else { KEY_SLOTS[0] };
        let start = Instant::now();
        let key = self.key_manager.generate(slot, KeyType::EcP256).await;
        let status = if key.is_ok() { "OK" } else { "Unknown" };
        self.metrics.generate_key().observe(&[], status, start.elapsed());
        let key: Arc<dyn Signer> = key.map_err(NodeError::Key)?;
        let csr = create_csr(key.as_ref(), None).await.map_err(NodeError::Sign)?;
        Ok((slot, csr))
    }

    /// Uses `svid` from now on and stores it.
    fn keep(&self, svid: &X509Svid, slot: &'static str, reattestable: bool) -> Result<Own, NodeError> {
        let own = self.install(svid, slot, reattestable, self.clock.unix_now())?;
        if let Err(error) = self.data_dir.store_svid(svid, reattestable) {
            warn!(error = %error, cause = error_source(&error), "Could not store SVID");
        }
        self.client.reconnect();
        Ok(own)
    }

    fn install(
        &self,
        svid: &X509Svid,
        slot: &'static str,
        reattestable: bool,
        received_at: i64,
    ) -> Result<Own, NodeError> {
        let key = self.key_manager.private_key(slot).ok_or_else(|| NodeError::ForeignKey(slot.to_owned()))?;
        let pkcs8 = key.pkcs8().map_err(|error| NodeError::Unusable(error.to_string()))?;
        self.cell.set(OwnSvid::from_pkcs8(&svid.chain, &pkcs8)).map_err(NodeError::Own)?;
        self.status.set(|status| {
            (status.id, status.svid_expires_at) = (Some(svid.id.clone()), Some(svid.not_after));
            if status.phase == Phase::Attesting {
                status.phase = Phase::Synchronizing;
            }
        });
        let key = svid.id.as_str().as_bytes();
        let lifetime = Lifetime::new(svid.not_before, svid.not_after, received_at, key);
        let suffix = svid.id.path().rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Own { key_id: slot, reattestable, lifetime, suffix })
    }
}

/// An SVID that was taken over at start.
#[derive(Clone, Debug)]
pub struct Restored {
    own: Own,
}

fn read_svid(svid: types::X509svid) -> Result<X509Svid, NodeError> {
    let chain = svid.cert_chain.iter().map(|der| Arc::from(der.as_ref())).collect();
    let svid = X509Svid::parse(chain).map_err(|error| NodeError::Unusable(error.to_string()))?;
    if !svid.id.is_agent() {
        return Err(NodeError::Unusable(format!("{} is not an agent", svid.id)));
    }
    Ok(svid)
}

/// SPIRE's names of the two keys that take turns.
const KEY_SLOTS: [&str; 2] = ["agent-svid-A", "agent-svid-B"];

/// The own SVID is looked at this often: the clock may jump.
const TICK: Duration = Duration::from_secs(5);

/// An agent that the server does not know for so long was evicted.
const EVICTED_AFTER: Duration = Duration::from_secs(10);

/// Longest wait between attempts to renew.
const MAX_WAIT: Duration = Duration::from_secs(10);
