//! Listening to the server instead of asking it.
//!
//! * A stream that ends because of its connection's age, or because this agent has a new SVID or uses another server, is
//!   opened again at once. Its first message says whether anything was missed.
//! * One that breaks, or that says nothing for two heartbeats, is followed by a synchronization of everything after a
//!   random part of 5 s: a server that restarts is not met by all agents at once.
//! * A server without the stream is asked again after [`ASK_AGAIN`], or when the agent uses another one.
//! * At least every [`FULL_EVERY`] everything is synchronized, whatever was heard.

use std::collections::BTreeSet;
use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};
use vouchsafe_proto::revisions::State;
use vouchsafe_proto::vouchsafe::server::v1::WatchResponse;
use vouchsafe_types::trust_domain::TrustDomain;

use super::apply::is_older;
use super::{Progress, SyncLoop};
use crate::push::{Delta, Entries, Follower, Heard};
use crate::server_client::{retry_backoff, shown};
use crate::sync::Stats;

/// Where listening stands.
#[derive(Debug, Default)]
pub(super) struct Following {
    pub(super) follower: Follower,
    /// Streams in a row that broke or were not opened.
    failures: u32,
    /// No stream of this server before then.
    refused: Option<(Option<SocketAddr>, Instant)>,
}

/// Why a stream is not heard any more.
#[derive(Debug)]
enum End {
    /// Open it again: the connection is old, or another one is the right one.
    Again,
    /// It broke.
    Broken(Status),
}

/// A server without the stream is asked again after this time, ± 10 %.
const ASK_AGAIN: Duration = Duration::from_secs(300);
/// Everything is synchronized at least this often, ± 10 %.
const FULL_EVERY: Duration = Duration::from_secs(300);
/// A stream that ends sooner, without a reason of ours, counts as broken.
const SHORT: Duration = Duration::from_secs(5);
/// Agents whose streams broke together come back within this time, or `sync_interval` if that is shorter.
const SPREAD: Duration = Duration::from_secs(5);
/// How much later than asked for a heartbeat may come.
const GRACE: Duration = Duration::from_secs(5);

impl Following {
    /// Goes on from what an earlier run was shown.
    pub(super) fn since(state: State) -> Self {
        Self { follower: Follower::since(state), ..Self::default() }
    }

    /// Whether it is time to open a stream of `server`.
    pub(super) fn may_try(&self, server: Option<SocketAddr>) -> bool {
        self.refused.is_none_or(|(by, until)| by != server || until <= Instant::now())
    }
}

impl SyncLoop {
    /// Listens for as long as it goes. Returns how long to wait before the next synchronization of everything, unless it is
    /// due sooner; `None` for the usual time, because the server does not push.
    pub(super) async fn follow(&self, progress: &mut Progress) -> Option<Duration> {
        loop {
            progress.own.mark_unchanged();
            let mut server = self.client.pool().changed();
            let opened = Instant::now();
            let stream = match self.client.watch_revisions(self.interval).await {
                Ok(stream) => stream,
                Err(status) => {
                    return self.not_opened(&status, &mut progress.following);
                }
            };
            server.mark_unchanged();
            debug!("listening to the server for changes");
            self.metrics.push_connected(true);
            let moved = async {
                if server.changed().await.is_err() {
                    pending::<()>().await;
                }
            };
            let end = self.listen(stream, progress, moved).await;
            self.metrics.push_connected(false);
            let status = match end {
                End::Again => continue,
                End::Broken(status) => status,
            };
            debug!(error = shown(&status), "the server's changes are not heard any more");
            self.denials.hear(&status);
            let following = &mut progress.following;
            following.failures = if opened.elapsed() < SHORT { following.failures + 1 } else { 0 };
            let backoff = retry_backoff().delay(following.failures, self.client.jitter());
            return Some(backoff.max(self.interval.min(SPREAD).mul_f64(self.client.jitter())));
        }
    }

    fn not_opened(&self, status: &Status, following: &mut Following) -> Option<Duration> {
        let server = *self.client.pool().changed().borrow();
        let pushes = status.code() != Code::Unimplemented;
        let wait = if !pushes {
            if following.refused.is_none_or(|(by, _)| by != server) {
                info!("the server does not tell of changes by itself; it is asked every sync_interval");
            }
            ASK_AGAIN.mul_f64(0.9 + 0.2 * self.client.jitter())
        } else {
            warn!(error = shown(status), "cannot listen to the server for changes");
            self.denials.hear(status);
            following.failures += 1;
            self.client.wait_after(status, following.failures)
        };
        following.refused = Some((server, Instant::now() + wait));
        pushes.then_some(wait)
    }

    async fn listen(
        &self,
        mut stream: Streaming<WatchResponse>,
        progress: &mut Progress,
        moved: impl Future<Output = ()>,
    ) -> End {
        let mut moved = std::pin::pin!(moved);
        progress.following.follower.restart();
        let mut full_at = self.next_full();
        let opened = Instant::now();
        let mut heartbeat = self.interval;
        loop {
            let silent_at = Instant::now() + heartbeat + heartbeat.max(GRACE);
            let message = tokio::select! {
                message = stream.message() => message,
                () = sleep_until(silent_at) => {
                    return End::Broken(Status::deadline_exceeded("the server says nothing any more"));
                }
                () = sleep_until(full_at) => {
                    full_at = Instant::now() + self.poll(progress).await;
                    if progress.failures == 0 {
                        full_at = self.next_full();
                    }
                    continue;
                }
                Ok(()) = progress.own.changed() => return End::Again,
                () = moved.as_mut() => return End::Again,
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) if opened.elapsed() < SHORT => {
                    return End::Broken(Status::unavailable("the server ended a stream that had just begun"));
                }
                Ok(None) => return End::Again,
                Err(status) => return End::Broken(status),
            };
            if message.heartbeat_millis != 0 {
                heartbeat = Duration::from_millis(message.heartbeat_millis.into());
            }
            match self.hear(message, progress).await {
                Ok(None) => {}
                Ok(Some(wait)) => full_at = full_at.min(Instant::now() + wait),
                Err(status) => return End::Broken(status),
            }
        }
    }

    fn next_full(&self) -> Instant {
        Instant::now() + FULL_EVERY.mul_f64(0.9 + 0.2 * self.client.jitter())
    }

    /// Does what a message asks for. Returns when to synchronize everything, if that is needed.
    ///
    /// # Errors
    ///
    /// The stream is of no more use.
    async fn hear(
        &self,
        message: WatchResponse,
        progress: &mut Progress,
    ) -> Result<Option<Duration>, Status> {
        let index = self.identities.load().index.clone();
        let heard = progress.following.follower.hear(message, &index);
        let Heard { entries, bundles } = heard.map_err(|gap| Status::data_loss(gap.to_string()))?;
        let delta = match entries {
            // An attempt that failed has its own time.
            Entries::Unknown if progress.failures > 0 => return Ok(None),
            Entries::Unknown => {
                let wait = self.poll(progress).await;
                return Ok((progress.failures > 0).then_some(wait));
            }
            // It confirms nothing. What it tells of bundles is looked at with the next one.
            Entries::Overtaken => return Ok(None),
            Entries::Same => Delta::default(),
            Entries::Changed(delta) => delta,
        };
        let start = Instant::now();
        let outcome = self.take(delta, &bundles).await;
        self.observe(outcome.as_ref().err(), start, progress);
        match outcome {
            Ok(missing) => {
                (progress.failures, progress.following.failures) = (0, 0);
                progress.following.follower.fetched(&bundles);
                progress.following.follower.missed(&missing);
                self.identities.set_shown(progress.following.follower.state());
                Ok(None)
            }
            Err(status) => Ok(Some(self.failed(&status, progress).await)),
        }
    }

    /// Changes some of what is held, and fetches the bundles of `told` and those that are missing. Returns those that could not
    /// be fetched: the next message is the time to try again.
    async fn take(&self, delta: Delta, told: &BTreeSet<TrustDomain>) -> Result<Vec<TrustDomain>, Status> {
        let before = self.identities.load();
        if delta == Delta::default() && told.is_empty() {
            self.confirmed(Stats { total: before.index.len(), ..Stats::default() }, &[]);
            return Ok(Vec::new());
        }
        let Some(held) = before.bundles.clone() else {
            return Err(Status::internal("changes came before the first synchronization"));
        };
        let names = federated_after(&before.index, &delta);
        let own_name = &held.own.bundle.trust_domain;
        let mut own = held.own.bundle.clone();
        if told.contains(own_name) {
            own = self.client.bundle().await?;
            if is_older(Some(&held), &own) {
                return Err(Status::unavailable("the server shows an older bundle than this agent holds"));
            }
        }
        let (mut kept, mut fetch) = (Vec::new(), BTreeSet::new());
        for name in &names {
            match held.federated.get(name) {
                Some(view) if !told.contains(name) => kept.push(view.bundle.clone()),
                _ => drop(fetch.insert(name.clone())),
            }
        }
        let same = fetch.is_empty() && !told.contains(own_name) && names.len() == held.federated.len();
        let (fetched, missing) = self.federated(&before, fetch).await;
        if own != held.own.bundle {
            self.trust.adopt(&own);
        }
        kept.extend(fetched);
        let stats = self.apply_delta(delta, (!same).then_some((own, kept)));
        self.confirmed(stats, &missing);
        Ok(missing)
    }
}

/// The trust domains that entries federate with after `delta`.
fn federated_after(index: &crate::entries::EntryIndex, delta: &Delta) -> BTreeSet<TrustDomain> {
    let replaced = |id| delta.removed.contains(id) || delta.changed.iter().any(|entry| entry.id == *id);
    let stay = index.iter().map(|slot| &slot.entry).filter(|entry| !entry.federates_with.is_empty());
    let stay = stay.filter(|entry| !replaced(&entry.id));
    stay.chain(&delta.changed).flat_map(|entry| entry.federates_with.iter().cloned()).collect()
}
