//! The life of the signing keys: made, published, activated, retired, in step with the bundle and the store.
//!
//! Every [`TICK`] the slot machine of `vouchsafe-ca` says what is due; here is what it does to the world. A store that
//! is away delays a new authority and nothing else: what is active goes on signing from memory.
//!
//! One task owns the slots. Operators send it commands ([`control`]), which it carries out between two ticks, and it follows
//! the upstream authority, if there is one ([`upstream`]).
//!
//! When an authority has to sign at once although nobody can know it yet (the first one after the clock jumped past the
//! life of all others), the one before it certifies it: who still has the old bundle reaches the new authority
//! through that certificate, and through it the new bundle.

mod bundle;
mod control;
mod effects;
mod keep;
mod operator;
mod own_journal;
mod own_svid;
mod upstream;

use std::sync::{Arc, Once};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use vouchsafe_ca::authority::rotation::{self, RotateError};
use vouchsafe_ca::authority::slots::Overview;
use vouchsafe_ca::authority::{AuthorityKind, Recipe, Slots};
use vouchsafe_ca::journal;
use vouchsafe_ca::jwt::JwtKey;
use vouchsafe_ca::key_manager::{KeyManager, KeyManagerError};
use vouchsafe_ca::upstream::UpstreamAuthority;
use vouchsafe_ca::x509::{Subject, X509Ca};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::RootsCell;
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::{Registry, sanitize};
use vouchsafe_runtime::readiness::Token;
use vouchsafe_store::{JournalRecord, Store};
use vouchsafe_types::trust_domain::TrustDomain;

use crate::issuer::Issuer;
use crate::model::ReadModel;
use control::{MAX_WAITING, Picture, Request};
use effects::{JwtEffects, X509Effects};
use keep::{keep_issued, keep_trusted, refresh};
use own_journal::OwnJournal;
use own_svid::OwnSvidRotation;
use upstream::Above;

pub(crate) use bundle::JwtPublisher;
pub(crate) use control::{Command, Control, Refusal};

/// How often the slot machine is asked what is due. Asking costs nothing, and a clock that jumped is noticed at once.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// How often expired authorities are looked for in the bundle.
pub(crate) const PRUNE_EVERY: Duration = Duration::from_secs(6 * 3600);
/// How long an authority stays in the bundle after it expired. SPIRE keeps it for a day; four days also cover a clock
/// that jumps by three, so that who was vouched for before can still be recognized after (see
/// [`crate::authorize::RENEWAL_GRACE`]).
pub(crate) const KEEP_EXPIRED: Duration = Duration::from_secs(96 * 3600);

/// How authorities are made.
pub(crate) struct Plan {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) x509: Recipe,
    pub(crate) jwt: Recipe,
    pub(crate) subject: Subject,
    /// Whether there are JWT authorities.
    pub(crate) has_jwt: bool,
}

/// Everything that the authorities act on.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    pub(crate) keys: Arc<dyn KeyManager>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) metrics: Registry,
    pub(crate) upstream: Option<Arc<dyn UpstreamAuthority>>,
    /// This server's journal as bytes, for who saves the last good state.
    pub(crate) own_journal: Arc<ArcSwapOption<JournalRecord>>,
    /// Said once: an upstream authority that takes no JWT authorities.
    pub(crate) jwt_stays_local: Once,
}

/// The slots of both kinds, and the server's own SVID, which they sign.
pub(crate) struct Authorities {
    shared: Arc<Shared>,
    journal: Arc<OwnJournal>,
    x509: Slots<X509Ca>,
    jwt: Slots<JwtKey>,
    own: Arc<Mutex<OwnSvidRotation>>,
    roots: RootsCell,
    above: Above,
    control: Control,
    requests: mpsc::Receiver<Request>,
}

/// The authorities cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The key manager cannot be asked which keys it has.
    #[error("cannot list the keys of the key manager")]
    Keys(#[source] KeyManagerError),
    /// There is nothing to sign with, and none could be made.
    #[error("cannot make the first signing authority")]
    First(#[source] RotateError),
    /// The server has no certificate of its own.
    #[error("cannot issue the server's own SVID: {0}")]
    OwnSvid(String),
}

impl Authorities {
    /// Takes up the authorities of an earlier run, which one of `journals` tells of, makes what is missing, and issues
    /// the server's own SVID into `cell`.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`]: without an authority a server cannot start.
    pub(crate) async fn load(
        shared: Arc<Shared>,
        journals: &[JournalRecord],
        cell: SvidCell,
        roots: RootsCell,
    ) -> Result<Self, AuthorityError> {
        let journal = OwnJournal::find(journals, &*shared.keys, shared.own_journal.clone()).await?;
        let (x509, jwt) = {
            let Shared { plan, keys, clock, model, .. } = &*shared;
            let (journal, now) = (journal.journal.lock().await, clock.now());
            // One that expired while the server was off is replaced at once, and certifies the one that replaces it.
            let recently = now.checked_sub(KEEP_EXPIRED).unwrap_or(now);
            let bundle = model.load().bundles.get(&plan.trust_domain).cloned();
            let (keys, bundle, has_upstream) = (&**keys, bundle.as_deref(), shared.upstream.is_some());
            (
                journal::load_x509(&journal, keys, &plan.trust_domain, (bundle, has_upstream), recently)
                    .await,
                journal::load_jwt(&journal, keys, &plan.trust_domain, bundle, now).await,
            )
        };
        let (sender, requests) = mpsc::channel(MAX_WAITING);
        let control =
            Control { requests: sender, picture: Arc::new(ArcSwap::default()), has_jwt: shared.plan.has_jwt };
        let mut it = Self {
            x509: x509.map_err(AuthorityError::Keys)?,
            jwt: jwt.map_err(AuthorityError::Keys)?,
            own: Arc::new(Mutex::new(OwnSvidRotation::new(shared.clone(), cell))),
            journal: Arc::new(journal),
            above: Above::new(shared.upstream.as_ref().and_then(|upstream| upstream.watch())),
            shared,
            roots,
            control,
            requests,
        };
        rotation::resume(&it.x509, &it.x509_effects());
        if it.shared.plan.has_jwt {
            rotation::resume(&it.jwt, &it.jwt_effects());
        }
        it.rotate_first().await.map_err(AuthorityError::First)?;
        refresh(&it.roots, &it.shared.model);
        it.own
            .lock()
            .await
            .rotate_if_due()
            .await
            .map_err(|cause| AuthorityError::OwnSvid(cause.to_string()))?;
        Ok(it)
    }

    /// What tells this server from the others on the same database, also after a restart.
    pub(crate) fn server_key(&self) -> &str {
        &self.journal.key
    }

    /// A handle for the services.
    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }

    /// Keeps the authorities, the server's own SVID and the trusted roots current until `cancel`.
    ///
    /// Side by side: a rotation that waits for a store or an upstream authority that hangs must not keep the server's own
    /// SVID from being renewed, without which no agent could connect.
    pub(crate) async fn run(mut self, readiness: Token, entropy: Entropy, cancel: CancellationToken) {
        let (shared, own, roots) = (self.shared.clone(), self.own.clone(), self.roots.clone());
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.keep_rotating(readiness, entropy) => {}
            () = keep_issued(&own) => {}
            () = keep_trusted(&shared, &roots) => {}
        }
    }

    async fn keep_rotating(&mut self, readiness: Token, mut entropy: Entropy) {
        let mut prune_at = Instant::now() + PRUNE_EVERY;
        let (mut retry_at, mut failures) = (Instant::now(), 0_u32);
        let mut tick = ticks();
        readiness.mark();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Some(Request { command, answer }) = self.requests.recv() => {
                    // Nobody waits any more for the answer of a caller that left.
                    drop(answer.send(self.execute(command).await));
                    continue;
                }
                () = self.above.news() => {
                    self.follow_upstream().await;
                    continue;
                }
            }
            self.tell_ttl();
            if Instant::now() < retry_at {
                continue;
            }
            let has_followed = self.follow_upstream().await;
            let rotated = self.rotate().await;
            if let Err(cause) = &rotated {
                error!(error = chain(cause), "Cannot rotate signing authorities; trying again");
                readiness.degrade(&format!("cannot rotate signing authorities: {}", chain(cause)));
            } else {
                readiness.mark();
            }
            if has_followed && rotated.is_ok() {
                failures = 0;
            } else {
                retry_at = Instant::now() + retry().delay(failures, entropy.fraction());
                failures = failures.saturating_add(1);
            }
            if Instant::now() >= prune_at {
                prune_at = Instant::now() + PRUNE_EVERY;
                bundle::prune(&self.shared).await;
            }
        }
    }

    /// Rotates at start, when only a kind that nothing is active of is a reason to fail.
    async fn rotate_first(&mut self) -> Result<(), RotateError> {
        let done = self.rotate().await;
        let has_all = self.x509.active().is_some() && (self.jwt.active().is_some() || !self.control.has_jwt);
        match done {
            Err(cause) if has_all => {
                warn!(error = chain(&cause), "Cannot rotate signing authorities; those of before sign on");
                Ok(())
            }
            done => done,
        }
    }

    /// Does what is due for both kinds; one that fails does not hold up the other.
    async fn rotate(&mut self) -> Result<(), RotateError> {
        let now = self.shared.clock.now();
        let effects = self.x509_effects();
        let x509 = rotation::rotate(&mut self.x509, now, &effects).await;
        self.cross(effects).await;
        let mut jwt = Ok(Vec::new());
        if self.shared.plan.has_jwt {
            let effects = self.jwt_effects();
            jwt = rotation::rotate(&mut self.jwt, now, &effects).await;
        }
        self.show();
        x509.and(jwt).map(drop)
    }

    /// Lets the server be reached by who does not know yet what was just activated.
    async fn cross(&self, effects: X509Effects) {
        if let Some(bridge) = effects.bridge().await {
            self.own.lock().await.cross(bridge);
        }
    }

    /// Shows the authorities to who holds a [`Control`].
    fn show(&self) {
        let picture = Picture { x509: self.x509.overview(), jwt: self.jwt.overview() };
        self.control.picture.store(Arc::new(picture));
    }

    fn overview(&self, kind: AuthorityKind) -> Overview {
        match kind {
            AuthorityKind::X509 => self.x509.overview(),
            AuthorityKind::Jwt => self.jwt.overview(),
        }
    }

    /// How long the active X.509 authority still signs.
    fn tell_ttl(&self) {
        let Shared { metrics, plan, clock, .. } = &*self.shared;
        let trust_domain = sanitize(plan.trust_domain.as_str());
        let left = self.x509.active().map_or(0, |active| active.not_after() - clock.unix_now());
        metrics.gauge("manager_x509_ca_rotate_ttl", &[("trust_domain_id", &trust_domain)]).set(left as f64);
    }

    fn x509_effects(&self) -> X509Effects {
        X509Effects::new(self.shared.clone(), self.journal.clone(), self.x509.active().cloned())
    }

    fn jwt_effects(&self) -> JwtEffects {
        JwtEffects::new(self.shared.clone(), self.journal.clone())
    }
}

/// Not a sleep, so that what is done at a tick does not put the next one off.
fn ticks() -> tokio::time::Interval {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// Between attempts of a rotation that failed: an upstream authority that is away is asked rarely, and the active
/// authority signs meanwhile.
fn retry() -> Backoff {
    #[expect(clippy::expect_used, reason = "the two constants are a range")]
    Backoff::new(TICK, MAX_RETRY).expect("a range")
}

/// Longest time between two attempts.
const MAX_RETRY: Duration = Duration::from_secs(10);

fn chain(error: &dyn std::error::Error) -> String {
    crate::status::Chain(error).to_string()
}
