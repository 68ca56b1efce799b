//! An agent without workloads.
//!
//! Speaks as ours does: one connection, the revision stream on it, a synchronization when the digest of the first message
//! is another one than its own, SVIDs for every new entry at once, renewals at half of their life. A session that breaks
//! is followed by the next one after the delay that real agents take.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval_at, sleep, sleep_until};
use tokio_stream::once;
use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_agent::entries::output_mask;
use vouchsafe_agent::server_client::retry_backoff;
use vouchsafe_proto::revisions::entries_digest;
use vouchsafe_proto::spire::api::server::bundle::v1 as bundle_api;
use vouchsafe_proto::spire::api::server::entry::v1 as entry_api;
use vouchsafe_proto::spire::api::server::svid::v1 as svid_api;
use vouchsafe_proto::spire::api::types::Entry;
use vouchsafe_proto::vouchsafe::server::v1 as revisions_api;
use vouchsafe_runtime::entropy::{Entropy, spread};

use crate::client::{Node, Remote};

/// How agents learn what is new.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    /// By the revision stream.
    Push,
    /// By asking every [`POLL`].
    Poll,
}

/// What all agents of the fleet share.
pub(crate) struct Shared {
    pub(crate) remote: Remote,
    /// One request for all: what a signature costs the server does not depend on the key.
    csr: Bytes,
    mode: watch::Receiver<Mode>,
    arrived: mpsc::UnboundedSender<Arrival>,
    /// SVIDs held by all.
    pub(crate) held: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    /// Sessions that ended in another way than by the age of their connection.
    pub(crate) failures: AtomicUsize,
    pub(crate) sync_latencies: Mutex<Vec<Duration>>,
}

/// An SVID came.
pub(crate) struct Arrival {
    pub(crate) entry_id: String,
    pub(crate) at: Instant,
}

/// Whether an agent is in touch with the server, and since when.
pub(crate) struct Seen {
    in_touch: AtomicBool,
    since: Mutex<Instant>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { in_touch: AtomicBool::new(false), since: Mutex::new(Instant::now()) }
    }
}

impl Seen {
    pub(crate) fn in_touch(&self) -> bool {
        self.in_touch.load(Ordering::Relaxed)
    }

    pub(crate) fn since(&self) -> Instant {
        *self.since.lock().unwrap()
    }

    fn set(&self, in_touch: bool) {
        if self.in_touch.swap(in_touch, Ordering::Relaxed) != in_touch {
            *self.since.lock().unwrap() = Instant::now();
        }
    }
}

impl Shared {
    pub(crate) fn new(
        remote: Remote,
        csr: Bytes,
        mode: watch::Receiver<Mode>,
        arrived: mpsc::UnboundedSender<Arrival>,
    ) -> Self {
        Self {
            remote,
            csr,
            mode,
            arrived,
            held: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            sync_latencies: Mutex::default(),
        }
    }

    fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lives until the fleet ends.
pub(crate) async fn live(node: Node, shared: Arc<Shared>, seen: Arc<Seen>) {
    let mut entropy = Entropy::from_seed(node.path.bytes().fold(0, |seed, byte| seed * 31 + u64::from(byte)));
    let mut agent = Agent { node, shared, seen, held: BTreeMap::new(), mode: Mode::Push };
    let mut failures = 0;
    loop {
        let started = Instant::now();
        let Err(ended) = agent.session().await;
        agent.seen.set(false);
        if ended.code() == Code::Ok {
            failures = 0;
            continue;
        }
        agent.shared.failures.fetch_add(1, Ordering::Relaxed);
        failures = if started.elapsed() > STABLE { 1 } else { failures + 1 };
        sleep(retry_backoff().delay(failures, entropy.fraction())).await;
    }
}

struct Agent {
    node: Node,
    shared: Arc<Shared>,
    seen: Arc<Seen>,
    /// Entries by ID, with revision and time of creation.
    held: BTreeMap<String, (i64, i64)>,
    mode: Mode,
}

impl Agent {
    /// One connection; ends with `OK` when it only became too old.
    async fn session(&mut self) -> Result<Infallible, Status> {
        let channel = self.shared.remote.channel_of(&self.node);
        self.mode = *self.shared.mode.borrow();
        match self.mode {
            Mode::Push => self.listen(channel).await,
            Mode::Poll => self.poll(channel).await,
        }
    }

    async fn listen(&mut self, channel: Channel) -> Result<Infallible, Status> {
        let mut client = revisions_api::revisions_client::RevisionsClient::new(channel.clone());
        let heartbeat_millis = u32::try_from(POLL.as_millis()).unwrap();
        let request = revisions_api::WatchRequest { heartbeat_millis, output_mask: Some(output_mask()) };
        self.shared.called();
        let mut messages = client.watch(request).await?.into_inner();
        let mut mode = self.shared.mode.clone();
        let mut renewal = self.first_renewal();
        loop {
            tokio::select! {
                message = messages.message() => {
                    let Some(message) = message? else { return Err(Status::ok("the connection is old")) };
                    self.hear(&channel, message).await?;
                    self.seen.set(true);
                }
                () = sleep_until(renewal) => {
                    renewal += HALF_LIFE;
                    let ids = self.held.keys().cloned().collect();
                    self.sign(&channel, ids).await?;
                }
                Ok(()) = mode.changed() => return Err(Status::ok("another mode")),
            }
        }
    }

    async fn hear(&mut self, channel: &Channel, message: revisions_api::WatchResponse) -> Result<(), Status> {
        let digest = &message.entries_digest;
        let mut new = Vec::new();
        if !digest.is_empty() && *digest != self.digest() {
            new = self.synchronize(channel).await?;
        }
        new.extend(message.changed.iter().filter(|entry| self.hold(entry)).map(|entry| entry.id.clone()));
        for id in &message.removed {
            if self.held.remove(id).is_some() {
                self.shared.held.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.sign(channel, new).await
    }

    async fn poll(&mut self, channel: Channel) -> Result<Infallible, Status> {
        let offset = POLL.mul_f64(spread(self.node.path.as_bytes()));
        let mut ticks = interval_at(Instant::now() + offset, POLL);
        let mut renewal = self.first_renewal();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let new = self.synchronize(&channel).await?;
                    self.shared.called();
                    let mut client = bundle_api::bundle_client::BundleClient::new(channel.clone());
                    client.get_bundle(bundle_api::GetBundleRequest::default()).await?;
                    self.sign(&channel, new).await?;
                    self.seen.set(true);
                }
                () = sleep_until(renewal) => {
                    renewal += HALF_LIFE;
                    let ids = self.held.keys().cloned().collect();
                    self.sign(&channel, ids).await?;
                }
            }
        }
    }

    /// Everything, as a stock agent asks for it. Gives the entries that are new.
    async fn synchronize(&mut self, channel: &Channel) -> Result<Vec<String>, Status> {
        let start = Instant::now();
        self.shared.called();
        let request =
            entry_api::SyncAuthorizedEntriesRequest { output_mask: Some(output_mask()), ids: Vec::new() };
        let mut client = entry_api::entry_client::EntryClient::new(channel.clone());
        let mut answers = client.sync_authorized_entries(once(request)).await?.into_inner();
        let mut new = Vec::new();
        while let Some(answer) = answers.message().await? {
            assert!(answer.entry_revisions.is_empty(), "few entries are sent whole");
            new.extend(answer.entries.iter().filter(|entry| self.hold(entry)).map(|entry| entry.id.clone()));
            if !answer.more {
                break;
            }
        }
        self.shared.sync_latencies.lock().unwrap().push(start.elapsed());
        Ok(new)
    }

    async fn sign(&self, channel: &Channel, ids: Vec<String>) -> Result<(), Status> {
        if ids.is_empty() {
            return Ok(());
        }
        self.shared.called();
        let params = ids
            .iter()
            .map(|id| svid_api::NewX509svidParams { entry_id: id.clone(), csr: self.shared.csr.clone() })
            .collect();
        let mut client = svid_api::svid_client::SvidClient::new(channel.clone());
        let answer = client.batch_new_x509svid(svid_api::BatchNewX509svidRequest { params }).await?;
        // An entry that was removed while its SVID was asked for is no entry any more; the message about it is on its way.
        let mut states = answer.get_ref().results.iter().filter_map(|result| result.status.as_ref());
        let refused = states.find(|state| ![Code::Ok as i32, Code::NotFound as i32].contains(&state.code));
        assert!(refused.is_none(), "an SVID was refused: {refused:?}");
        let at = Instant::now();
        for entry_id in ids {
            // Nobody listens but while entries are followed.
            self.shared.arrived.send(Arrival { entry_id, at }).unwrap_or_default();
        }
        Ok(())
    }

    /// Whether the entry is new.
    fn hold(&mut self, entry: &Entry) -> bool {
        let version = (entry.revision_number, entry.created_at);
        let new = self.held.insert(entry.id.clone(), version).is_none();
        if new {
            self.shared.held.fetch_add(1, Ordering::Relaxed);
        }
        new
    }

    fn digest(&self) -> Vec<u8> {
        entries_digest(self.held.iter().map(|(id, (revision, created))| (id.as_str(), *revision, *created)))
    }

    /// Somewhere in the first half of the SVIDs' life, as if they had been issued at all times.
    fn first_renewal(&self) -> Instant {
        Instant::now() + HALF_LIFE.mul_f64(spread(self.node.path.as_bytes()))
    }
}

/// What a stock agent does, and the heartbeat that ours asks for.
const POLL: Duration = Duration::from_secs(5);
/// Of an SVID's hour.
const HALF_LIFE: Duration = Duration::from_secs(1800);
/// A session that lasted so long was a good one.
const STABLE: Duration = Duration::from_secs(30);
