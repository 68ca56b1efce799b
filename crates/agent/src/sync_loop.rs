//! Keeps entries and bundles current.
//!
//! At first by synchronizing everything. From then on, by listening to the server ([`crate::push`]): it says what changes
//! as it changes, and every [`Config::sync_interval`](crate::config::Config::sync_interval) that nothing has. A server that
//! has no such stream is asked every `sync_interval` instead.
//!
//! After a failure the next attempt comes at a random time that never lies more than
//! [`RETRY_MAX`](crate::server_client::RETRY_MAX) ahead, or 10 seconds when the server is away, so that a server that comes
//! back is noticed within seconds and is not met by all agents at once. A failure changes nothing that is served. While the
//! agent polls, a caller without identity makes the next attempt come at once ([`SyncSoon`]), also after failures: its entry
//! may have been written a moment ago.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{error, warn};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::readiness::Token;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::denials::Denials;
use crate::explain::Notes;
use crate::identities::{Identities, Snapshot};
use crate::metrics::{Metrics, Repair, Retry, status_name};
use crate::server_client::{ServerClient, shown};
use crate::servers::Kind;
use crate::status::{Phase, StatusBoard};
use crate::sync::{ACCEPT_OLDER_AFTER, Insistence, Stats};
use crate::trust::Trust;
use apply::is_older;
use follow::Following;
pub use soon::{SOON_PER_INTERVAL, SyncSoon};

mod apply;
mod follow;
mod soon;

/// What synchronization works with.
#[derive(Debug)]
pub struct SyncLoop {
    /// Speaks with the server.
    pub client: Arc<ServerClient>,
    /// What is served.
    pub identities: Arc<Identities>,
    /// Knows the server.
    pub trust: Arc<Trust>,
    /// The agent's own SVID: nothing to do before there is one.
    pub cell: SvidCell,
    /// Where denials go.
    pub denials: Denials,
    /// What goes wrong is noted for whoever asks why.
    pub notes: Notes,
    /// Time between synchronizations.
    pub interval: Duration,
    /// Time.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Metrics,
    /// Status.
    pub status: StatusBoard,
    /// Marked when the agent can do its job.
    pub ready: Token,
    /// Asks for a synchronization before the next one is due.
    pub soon: SyncSoon,
}

/// Where the loop stands.
#[derive(Debug)]
struct Progress {
    started: Instant,
    failures: u32,
    older: Insistence,
    own: watch::Receiver<u64>,
    life: watch::Receiver<u64>,
    following: Following,
}

impl SyncLoop {
    /// Synchronizes until `cancel`.
    ///
    /// # Errors
    ///
    /// Never; the signature is that of a supervised task.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), std::convert::Infallible> {
        cancel.run_until_cancelled(self.live()).await;
        Ok(())
    }

    async fn live(&self) {
        let started = Instant::now();
        self.metrics.push_connected(false);
        let mut own = self.cell.watch();
        while self.cell.load().is_none() {
            if own.changed().await.is_err() {
                return;
            }
        }
        let mut progress = Progress {
            started,
            failures: 0,
            older: Insistence::default(),
            own,
            life: self.client.signs_of_life(),
            following: Following::since(self.identities.shown()),
        };
        loop {
            let mut wait = self.poll(&mut progress).await;
            let server = *self.client.pool().changed().borrow();
            if progress.failures == 0 && progress.following.may_try(server) {
                // Polling goes on at its own pace, however often streams break.
                wait = wait.min(self.follow(&mut progress).await.unwrap_or(wait));
                // What callers asked for meanwhile was heard of.
                self.soon.forget();
            }
            tokio::select! {
                () = self.client.rest(wait, &mut progress.life) => {}
                () = self.soon.asked() => {}
                // A new SVID of our own: what was refused before may work now.
                Ok(()) = progress.own.changed(), if progress.failures > 0 => {}
            }
        }
    }

    /// One synchronization of everything. Returns how long to wait before the next if nothing else happens.
    async fn poll(&self, progress: &mut Progress) -> Duration {
        progress.own.mark_unchanged();
        progress.life.mark_unchanged();
        let start = Instant::now();
        let outcome = self.synchronize(progress).await;
        self.observe(outcome.as_ref().err(), start, progress);
        match outcome {
            Ok(()) => {
                progress.failures = 0;
                self.interval.mul_f64(0.9 + 0.2 * self.client.jitter())
            }
            Err(status) => self.failed(&status, progress).await,
        }
    }

    /// Counts a synchronization, or what stands for one.
    fn observe(&self, failure: Option<&Status>, start: Instant, progress: &Progress) {
        let status = failure.map_or("OK", |status| status_name(status.code()));
        self.metrics.sync().observe(&[], status, start.elapsed());
        self.metrics.uptime(progress.started.elapsed());
    }

    /// Returns how long to wait before the next attempt.
    async fn failed(&self, status: &Status, progress: &mut Progress) -> Duration {
        error!(error = shown(status), "Synchronize failed");
        self.status.set(|board| board.sync_error = Some(status.message().to_owned()));
        self.ready.degrade(status.message());
        self.notes.sync_failed(status);
        self.denials.hear(status);
        self.metrics.retried(Retry::Synchronize);
        match self.trust.recover().await {
            Ok(true) => self.metrics.repaired(Repair::Rebootstrap),
            Ok(false) => {}
            Err(status) => warn!(error = shown(&status), "cannot bootstrap again"),
        }
        progress.following.follower.lost();
        progress.failures += 1;
        self.client.wait_to_reach(status, progress.failures)
    }

    async fn synchronize(&self, progress: &mut Progress) -> Result<(), Status> {
        let before = self.identities.load();
        let outcome = self.client.sync_entries(&before.index).await?;
        let own = self.client.bundle().await?;
        let names: BTreeSet<_> =
            outcome.entries.iter().flat_map(|entry| entry.federates_with.iter().cloned()).collect();
        let (federated, missing) = self.federated(&before, names).await;
        // A probe may have brought a newer one meanwhile.
        let held = self.identities.load().bundles.clone();
        let older = outcome.older.is_some()
            || is_older(held.as_deref(), &own)
            || progress.following.follower.is_behind(outcome.state);
        if older && !self.believe_older(&mut progress.older) {
            // Another one may be further.
            self.client.pool().blame(Kind::Entries);
            return Err(Status::unavailable(
                "the server shows an older state than this agent holds; keeping what is held",
            ));
        }
        if !older {
            progress.older = Insistence::default();
        }
        progress.following.follower.synchronized(outcome.state);
        progress.following.follower.missed(&missing);
        if held.as_ref().is_none_or(|held| held.own.bundle != own) {
            self.trust.adopt(&own);
        }
        let stats = outcome.stats;
        self.apply(outcome, own, federated);
        self.identities.set_shown(progress.following.follower.state());
        self.confirmed(stats, &missing);
        Ok(())
    }

    /// The server has confirmed what is held, except for the bundles of the trust domains in `missing`.
    fn confirmed(&self, stats: Stats, missing: &[TrustDomain]) {
        self.denials.admitted();
        self.notes.synchronized();
        self.trust.confirmed();
        let now = self.identities.load();
        let bundles = now.bundles.as_ref().map_or(0, |bundles| bundles.len());
        self.metrics.synchronized(stats, bundles);
        self.status.set(|status| {
            status.last_sync = Some(self.clock.now());
            if missing.is_empty() {
                status.bundles_confirmed = status.last_sync;
            }
            status.sync_error = None;
            status.entries = now.index.len();
            status.phase = Phase::Serving;
        });
        match missing.is_empty() {
            true => self.ready.mark(),
            false => {
                let missing: Vec<_> = missing.iter().map(TrustDomain::as_str).collect();
                self.ready.degrade(&format!("no current bundle of {}", missing.join(", ")));
            }
        }
    }

    fn believe_older(&self, older: &mut Insistence) -> bool {
        let believed = older.again(Instant::now());
        if believed {
            self.metrics.repaired(Repair::AcceptOlder);
            warn!("the server has shown an older state for {ACCEPT_OLDER_AFTER:?}; taking it for the truth");
        }
        believed
    }

    /// The bundles of the trust domains `names`. One that cannot be fetched now stays as it is; the second part of the
    /// answer names those.
    async fn federated(
        &self,
        before: &Snapshot,
        names: BTreeSet<TrustDomain>,
    ) -> (Vec<Bundle>, Vec<TrustDomain>) {
        let (mut bundles, mut failed) = (Vec::new(), Vec::new());
        for (name, fetched) in self.client.federated_bundles(names.into_iter().collect()).await {
            match fetched {
                Ok(bundle) if bundle.trust_domain == name => bundles.push(bundle),
                Ok(bundle) => {
                    warn!(trust_domain = %name, got = %bundle.trust_domain, "the server sent another bundle")
                }
                Err(status) if status.code() == Code::NotFound => {
                    warn!(trust_domain = %name, "Federated bundle not found");
                }
                Err(status) => {
                    warn!(trust_domain = %name, error = shown(&status), "Failed to fetch federated bundle");
                    let held = before.bundles.as_ref().and_then(|held| held.federated.get(&name));
                    bundles.extend(held.map(|view| view.bundle.clone()));
                    failed.push(name);
                }
            }
        }
        (bundles, failed)
    }
}
