//! The stream of changes. It tells of one change at a time, or of all that is there.

use std::sync::atomic::AtomicU8;

use vouchsafe_proto::revisions::entries_digest;
use vouchsafe_proto::vouchsafe::server::v1::revisions_server::Revisions;
use vouchsafe_proto::vouchsafe::server::v1::{BundleRevision, WatchRequest, WatchResponse};

use super::*;

/// What the fake does with streams of changes.
pub(crate) struct Pushing {
    /// Whether it knows of such streams.
    pub(crate) on: AtomicBool,
    /// It says nothing any more.
    pub(crate) mute: AtomicBool,
    /// Streams opened, refused ones included.
    pub(crate) streams: AtomicUsize,
    /// Synchronizations.
    pub(crate) syncs: AtomicUsize,
    /// Skips so many numbers before the next message.
    pub(crate) skip: AtomicU8,
    /// The next streams are refused with this.
    pub(crate) refusal: Mutex<Option<Status>>,
    changed: tokio::sync::watch::Sender<u64>,
    /// Every open stream ends with this.
    end: tokio::sync::watch::Sender<Option<Option<Status>>>,
}

impl Default for Pushing {
    fn default() -> Self {
        Self {
            on: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            syncs: AtomicUsize::new(0),
            skip: AtomicU8::new(0),
            refusal: Mutex::default(),
            changed: tokio::sync::watch::Sender::new(1),
            end: tokio::sync::watch::Sender::new(None),
        }
    }
}

impl Pushing {
    /// Something has changed.
    pub(crate) fn changed(&self) {
        self.changed.send_modify(|position| *position += 1);
    }

    /// Ends all streams, with or without a status.
    pub(crate) fn end(&self, status: Option<Status>) {
        self.end.send_replace(Some(status));
    }
}

/// One stream of the fake.
struct Told {
    fake: Arc<Fake>,
    heartbeat: Duration,
    sequence: u64,
    changes: tokio::sync::watch::Receiver<u64>,
    end: tokio::sync::watch::Receiver<Option<Option<Status>>>,
    entries: BTreeMap<String, types::Entry>,
    bundle: u64,
    over: bool,
}

impl Told {
    fn message(&mut self) -> WatchResponse {
        let first = self.sequence == 0;
        let skip = if first { 0 } else { self.fake.pushing.skip.swap(0, Ordering::SeqCst) };
        self.sequence += 1 + u64::from(skip);
        let position = *self.changes.borrow_and_update();
        let mut message = WatchResponse { sequence: self.sequence, epoch: 1, position, ..Default::default() };
        let (entries, bundle) = (self.fake.entries.lock().unwrap().clone(), self.fake.bundle());
        if first {
            message.heartbeat_millis = u32::try_from(self.heartbeat.as_millis()).unwrap();
            let all = entries.values().map(|e| (e.id.as_str(), e.revision_number, e.created_at));
            message.entries_digest = entries_digest(all).into();
        } else {
            let new = entries.values().filter(|entry| self.entries.get(&entry.id) != Some(entry));
            message.changed = new.cloned().collect();
            message.removed = self.entries.keys().filter(|id| !entries.contains_key(*id)).cloned().collect();
        }
        if self.bundle != bundle.sequence_number {
            message.bundles.push(BundleRevision {
                trust_domain: bundle.trust_domain.to_string(),
                revision: bundle.sequence_number.to_be_bytes().to_vec().into(),
            });
        }
        (self.entries, self.bundle) = (entries, bundle.sequence_number);
        message
    }

    async fn next(&mut self) -> Option<Result<WatchResponse, Status>> {
        if self.over {
            return None;
        }
        if self.sequence > 0 {
            tokio::select! {
                _ = self.changes.changed() => {}
                () = tokio::time::sleep(self.heartbeat) => {}
                _ = self.end.changed() => {
                    self.over = true;
                    return self.end.borrow().clone().unwrap().map(Err);
                }
            }
        }
        if self.fake.pushing.mute.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Some(Ok(self.message()))
    }
}

#[tonic::async_trait]
impl Revisions for Fake {
    type WatchStream = Answers<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.pushing.streams.fetch_add(1, Ordering::SeqCst);
        if !self.pushing.on.load(Ordering::SeqCst) {
            return Err(Status::unimplemented("unknown service vouchsafe.server.v1.Revisions"));
        }
        self.admit(&request, false).await?;
        if let Some(status) = self.pushing.refusal.lock().unwrap().clone() {
            return Err(status);
        }
        let mut end = self.pushing.end.subscribe();
        end.mark_unchanged();
        let told = Told {
            fake: Arc::clone(self.this.get().unwrap()),
            heartbeat: Duration::from_millis(request.get_ref().heartbeat_millis.into()),
            sequence: 0,
            changes: self.pushing.changed.subscribe(),
            end,
            entries: BTreeMap::new(),
            bundle: 0,
            over: false,
        };
        let stream = stream::unfold(told, |mut told| async move { Some((told.next().await?, told)) });
        Ok(Response::new(stream.boxed()))
    }
}
