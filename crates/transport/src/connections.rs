//! The running connections of a listener: bounded in total and by peer, ended together.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{Id, JoinError, JoinSet};

use crate::listener::PeerKey;

/// The running connections, by peer.
pub(crate) struct Connections {
    most: usize,
    per_peer: usize,
    tasks: JoinSet<()>,
    peers: HashMap<Id, PeerKey>,
    counts: HashMap<PeerKey, usize>,
}

impl Connections {
    /// None yet. One process or address may have `per_peer`, and all processes of one user half of `most`; keeping to
    /// `most` in total is up to the caller.
    pub(crate) fn new(most: usize, per_peer: usize) -> Self {
        Self { most, per_peer, tasks: JoinSet::new(), peers: HashMap::new(), counts: HashMap::new() }
    }

    /// Whether `peer` may have one more.
    pub(crate) fn may_have(&self, peer: PeerKey) -> bool {
        let of = |key| self.counts.get(&key).copied().unwrap_or(0);
        of(peer) < self.per_peer && peer.user().is_none_or(|user| of(user) < self.most.div_ceil(2))
    }

    /// Runs one more.
    pub(crate) fn start(&mut self, peer: PeerKey, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.peers.insert(id, peer);
        for key in [Some(peer), peer.user()].into_iter().flatten() {
            *self.counts.entry(key).or_insert(0) += 1;
        }
    }

    /// Waits until one ends; for ever when there is none.
    ///
    /// Cancel safe.
    pub(crate) async fn next_end(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.ended(ended),
            None => pending().await,
        }
    }

    /// Waits `grace` for all to end and cuts the rest. Says how many were open, and how many were cut.
    pub(crate) async fn drain(mut self, grace: Duration) -> (usize, usize) {
        let open = self.tasks.len();
        let ended = async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                self.ended(ended);
            }
        };
        let _over = tokio::time::timeout(grace, ended).await;
        let cut = self.tasks.len();
        self.tasks.shutdown().await;
        (open, cut)
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "connection panicked");
        }
        let Some(peer) = self.peers.remove(&id) else { return };
        for key in [Some(peer), peer.user()].into_iter().flatten() {
            if let Some(count) = self.counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&key);
                }
            }
        }
    }
}

/// Any connection: behind one type, because each type of connection would be another copy of all HTTP code.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<I: AsyncRead + AsyncWrite + Send + Unpin> Stream for I {}

/// How long to wait after accepting failed, which is mostly for want of file descriptors.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
