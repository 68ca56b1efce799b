//! One of several: leader election by a Lease object, compatible with client-go's.
//!
//! The holder writes the lease every few seconds. It counts itself as holder only until a while after its last write began,
//! which ends before anybody else may take the lease; so there is never a moment with two. When it is told to stop it
//! gives the lease back, and the next holder need not wait.

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::api::{Api, Urgency};
use crate::cluster::{Backend, Cluster};
use crate::error::ClusterError;
use crate::kind::Name;
use crate::source::Deps;
use plan::{LASTS, Plan, Record, Seen, observe, plan};

mod plan;

/// Whether this process leads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    state: watch::Receiver<LeaseState>,
    until: watch::Receiver<Option<Instant>>,
}

/// What is known about the lease.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LeaseState {
    /// Nothing, or nothing any more: the source does not answer.
    Unknown,
    /// This process holds it.
    Held,
    /// Another process holds it.
    Other(String),
    /// RBAC does not allow to take part: the caller may decide to go on without.
    Forbidden,
}

/// Holds the lease while it runs, or waits for it. A task for the supervisor.
#[derive(Debug)]
pub struct LeaseKeeper {
    cluster: Cluster,
    name: Name,
    holder: String,
    state: watch::Sender<LeaseState>,
    until: watch::Sender<Option<Instant>>,
}

pub(crate) fn open(cluster: Cluster, name: Name, holder: String) -> (Leadership, LeaseKeeper) {
    let (state, seen) = watch::channel(LeaseState::Unknown);
    let (until, seen_until) = watch::channel(None);
    (Leadership { state: seen, until: seen_until }, LeaseKeeper { cluster, name, holder, state, until })
}

impl Leadership {
    /// Whether this process leads now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        *self.state.borrow() == LeaseState::Held
            && self.until.borrow().is_none_or(|until| Instant::now() < until)
    }

    /// What is known now.
    #[must_use]
    pub fn state(&self) -> LeaseState {
        self.state.borrow().clone()
    }

    /// Sees each change.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }
}

impl LeaseKeeper {
    /// Runs until `stop`; then the lease is given back.
    ///
    /// # Errors
    ///
    /// None.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let cluster = self.cluster.clone();
        match &cluster.shared.backend {
            Backend::Api(api) => Keeper::new(self, api, cluster.shared.deps.clone()).run(stop).await,
            Backend::Folder(folder) => {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = folder.hold_lease(&self.name, |held| { self.tell(held); }) => {}
                }
            }
        }
        Ok(())
    }

    fn tell(&self, state: LeaseState) {
        self.state.send_if_modified(|known| {
            let changed = *known != state;
            if changed {
                info!(lease = %self.name, holder = self.holder, ?state, "leadership changed");
                *known = state;
            }
            changed
        });
    }
}

struct Keeper<'a> {
    told: LeaseKeeper,
    api: &'a Api,
    deps: Deps,
    /// The lease as last read or written.
    lease: Option<Lease>,
    seen: Option<Seen>,
}

impl<'a> Keeper<'a> {
    fn new(told: LeaseKeeper, api: &'a Api, mut deps: Deps) -> Self {
        deps.entropy = deps.entropy.fork(&format!("lease {} {}", told.name, told.holder));
        Self { told, api, deps, lease: None, seen: None }
    }

    async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = tokio::select! {
                () = stop.cancelled() => break,
                pause = self.turn() => pause,
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        if self.is_ours() {
            self.told.tell(LeaseState::Unknown);
            self.give_back().await;
        }
    }

    /// One look at the lease. Gives the time until the next.
    async fn turn(&mut self) -> Duration {
        // A holder whose time runs out in the middle of a call stops being one then, not when the call ends.
        let until = self.told.until.borrow().filter(|_| self.is_ours());
        let patience = until.map_or(PATIENCE, |until| until.saturating_duration_since(Instant::now()));
        let outcome = match timeout(patience, self.look()).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(None),
        };
        let retry = RETRY.mul_f64(1.0 + self.deps.entropy.fraction() / 2.0);
        match outcome {
            Ok(Some(state)) => self.told.tell(state),
            Ok(None) => self.lose(),
            Err(error) if error.is_forbidden() => {
                warn!(lease = %self.told.name, %error, "leases are forbidden: RBAC must allow get, create and update");
                self.told.tell(LeaseState::Forbidden);
                return FORBIDDEN_RETRY;
            }
            Err(error) => {
                debug!(lease = %self.told.name, %error, "lease not renewed");
                self.lose();
                return retry.max(error.retry_after().unwrap_or_default().min(PATIENCE));
            }
        }
        retry
    }

    /// Reads the lease and writes it when it is or can be ours. `None`: somebody else was faster.
    async fn look(&mut self) -> Result<Option<LeaseState>, ClusterError> {
        if !self.is_ours() || self.lease.is_none() {
            self.take_in(self.api.fetch(&self.told.name).await?);
        }
        let began = Instant::now();
        let written = match plan(&self.told.holder, self.seen.as_ref(), began) {
            Plan::Wait => {
                let holder = self.seen.as_ref().map(|seen| seen.record.holder.clone());
                return Ok(Some(LeaseState::Other(holder.unwrap_or_default())));
            }
            Plan::Create => self.api.create(&self.next(&self.told.holder, LASTS), Urgency::Interactive).await,
            Plan::Take | Plan::Renew => self.api.replace(&self.next(&self.told.holder, LASTS)).await,
        };
        match written {
            Ok(lease) => {
                self.take_in(Some(lease));
                self.told.until.send_replace(Some(began + TRUSTED));
                Ok(Some(LeaseState::Held))
            }
            Err(error) if error.is_conflict() || error.is_not_found() => {
                self.lease = None;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Nobody knows whether the lease is ours: it is for as long as the last write said.
    fn lose(&self) {
        if self.is_ours() && self.told.until.borrow().is_some_and(|until| Instant::now() >= until) {
            self.told.tell(LeaseState::Unknown);
        }
    }

    fn is_ours(&self) -> bool {
        *self.told.state.borrow() == LeaseState::Held
    }

    fn take_in(&mut self, lease: Option<Lease>) {
        let record = lease.as_ref().map(|lease| {
            let spec = lease.spec.clone().unwrap_or_default();
            let lasts = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
            Record {
                holder: spec.holder_identity.unwrap_or_default(),
                lasts: Duration::from_secs(lasts),
                version: lease.metadata.resource_version.clone().unwrap_or_default(),
            }
        });
        self.seen = record.map(|record| observe(self.seen.take(), record, Instant::now()));
        self.lease = lease;
    }

    /// The lease as `holder` writes it now.
    fn next(&self, holder: &str, lasts: Duration) -> Lease {
        let now = Timestamp::try_from(self.deps.clock.now()).ok().map(MicroTime);
        let mut lease = self.lease.clone().unwrap_or_default();
        lease.metadata.name = Some(self.told.name.name.clone());
        lease.metadata.namespace = self.told.name.namespace.clone();
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(holder) {
            spec.holder_identity = Some(holder.into());
            spec.acquire_time = now.clone();
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
        }
        spec.renew_time = now;
        spec.lease_duration_seconds = i32::try_from(lasts.as_secs()).ok();
        lease
    }

    async fn give_back(&self) {
        let given = timeout(RELEASE, self.api.replace(&self.next("", Duration::from_secs(1)))).await;
        match given {
            Ok(Ok(_)) => debug!(lease = %self.told.name, "lease given back"),
            Ok(Err(error)) => debug!(lease = %self.told.name, %error, "lease not given back"),
            Err(_) => debug!(lease = %self.told.name, "lease not given back in time"),
        }
    }
}

/// How long the holder counts itself as such after its last write began. Less than the lease lasts.
const TRUSTED: Duration = Duration::from_secs(10);

/// How often the lease is looked at, and half as long again.
const RETRY: Duration = Duration::from_secs(2);

/// How often it is tried again where RBAC does not allow it.
const FORBIDDEN_RETRY: Duration = Duration::from_secs(30);

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long giving it back may take.
const RELEASE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
