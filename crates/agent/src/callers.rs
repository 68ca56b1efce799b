//! The process at the other end of a connection, and what it may have.
//!
//! One [`Caller`] belongs to one connection and travels with each of its requests as an extension. It remembers the
//! attested selectors for [`ATTESTATION_LIFETIME`] and the identity set that they lead to for as long as nothing
//! changes, so that the common request costs two atomic reads. One request at a time attests; the others wait for
//! its answer, good or bad. A connection that says nothing keeps no old state alive but its own.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tonic::transport::server::Connected;
use vouchsafe_transport::listener::{Connection, Listener, PeerKey};
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_types::selector::SelectorSet;

use crate::attest::{Attestors, Unattested};
use crate::entries::{EntryIndex, EntrySlot};
use crate::identities::Identities;
use crate::identity_set::{IdentitySet, IdentitySets};

/// The process behind a connection.
#[derive(Debug)]
pub struct Caller {
    /// Who connected.
    pub peer: PeerProcess,
    attested: ArcSwapOption<Attested>,
    /// Held by the request that attests; says when that last failed.
    one_at_a_time: tokio::sync::Mutex<Option<Instant>>,
    /// Held while this connection is given an explanation.
    pub explaining: tokio::sync::Mutex<()>,
}

/// What a process was found to be.
#[derive(Debug)]
pub struct Attested {
    /// Its selectors.
    pub selectors: SelectorSet,
    /// Its process id; 0 when somebody else vouches for it.
    pub pid: i32,
    until: Instant,
    every_hint: bool,
    matched: ArcSwapOption<Matched>,
}

/// The entries that the selectors lead to, and their set.
#[derive(Debug)]
struct Matched {
    version: u64,
    /// Which index it was; weak, because connections may be many and silent for days.
    index: Weak<EntryIndex>,
    slots: Vec<Arc<EntrySlot>>,
    set: Arc<IdentitySet>,
}

impl Caller {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(peer: PeerProcess) -> Self {
        Self {
            peer,
            attested: ArcSwapOption::empty(),
            one_at_a_time: tokio::sync::Mutex::new(None),
            explaining: tokio::sync::Mutex::new(()),
        }
    }

    /// What the process is, as of at most [`ATTESTATION_LIFETIME`] ago.
    ///
    /// # Errors
    ///
    /// [`Unattested`]; the next request tries again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn attested(&self, attestors: &Attestors) -> Result<Arc<Attested>, Unattested> {
        if let Some(attested) = self.fresh() {
            return Ok(attested);
        }
        let asked = Instant::now();
        let mut failed = self.one_at_a_time.lock().await;
        if let Some(attested) = self.fresh() {
            return Ok(attested);
        }
        if failed.is_some_and(|failed| failed >= asked) {
            return Err(Unattested);
        }
        let selectors = attestors.attest(&self.peer).await.inspect_err(|_| *failed = Some(Instant::now()))?;
        let until = Instant::now() + ATTESTATION_LIFETIME;
        // Same selectors as before: what was matched and encoded for them is still good.
        let matched = self
            .attested
            .load()
            .as_ref()
            .filter(|before| before.selectors == selectors)
            .map_or_else(ArcSwapOption::empty, |before| ArcSwapOption::new(before.matched.load_full()));
        let attested =
            Arc::new(Attested { selectors, pid: self.peer.pid, until, every_hint: false, matched });
        self.attested.store(Some(Arc::clone(&attested)));
        Ok(attested)
    }

    fn fresh(&self) -> Option<Arc<Attested>> {
        let attested = self.attested.load();
        attested.as_ref().filter(|attested| Instant::now() < attested.until).cloned()
    }
}

impl Attested {
    /// A workload that somebody else vouches for. Its entries are told apart by their SPIFFE IDs, so one that repeats
    /// another one's hint is not left out.
    #[must_use]
    pub fn vouched_for(selectors: SelectorSet) -> Self {
        Self { selectors, pid: 0, until: Instant::now(), every_hint: true, matched: ArcSwapOption::empty() }
    }

    /// The same process for an API that tells identities apart by their SPIFFE IDs.
    #[must_use]
    pub fn with_every_hint(&self) -> Self {
        let selectors = self.selectors.clone();
        Self { selectors, every_hint: true, matched: ArcSwapOption::empty(), ..*self }
    }

    /// The identities of the process now.
    #[must_use]
    pub fn identities(&self, identities: &Identities, sets: &IdentitySets) -> Arc<IdentitySet> {
        let version = identities.version();
        let before = self.matched.load();
        if let Some(before) = before.as_ref()
            && before.version == version
        {
            return Arc::clone(&before.set);
        }
        let snapshot = identities.load();
        let slots = match before.as_ref() {
            Some(before) if Weak::as_ptr(&before.index) == Arc::as_ptr(&snapshot.index) => {
                before.slots.clone()
            }
            _ if self.every_hint => snapshot.index.matching_with_every_hint(&self.selectors),
            _ => snapshot.index.matching(&self.selectors),
        };
        let set = sets.of(&snapshot, &slots);
        let index = Arc::downgrade(&snapshot.index);
        let matched = Matched { version: snapshot.version, index, slots, set: Arc::clone(&set) };
        self.matched.store(Some(Arc::new(matched)));
        set
    }
}

/// Gives each accepted connection its [`Caller`].
#[derive(Debug)]
pub struct CallerListener<L>(pub L);

impl<L> Listener for CallerListener<L>
where
    L: Listener,
    L::Io: Connected<ConnectInfo = PeerProcess>,
{
    type Io = CallerConnection<L::Io>;

    async fn accept(&mut self) -> io::Result<Self::Io> {
        let io = self.0.accept().await?;
        let caller = Arc::new(Caller::new(io.connect_info()));
        Ok(CallerConnection { io, caller })
    }
}

/// A connection with its [`Caller`] as connection information.
#[derive(Debug)]
pub struct CallerConnection<I> {
    io: I,
    caller: Arc<Caller>,
}

impl<I: Connection> Connection for CallerConnection<I> {
    fn peer_key(&self) -> PeerKey {
        self.io.peer_key()
    }
}

impl<I> Connected for CallerConnection<I> {
    type ConnectInfo = Arc<Caller>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.caller)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for CallerConnection<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for CallerConnection<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// How long a process is believed to be what it was found to be. Short, because a process may change its user or
/// program; not zero, because looking costs far more than answering.
pub const ATTESTATION_LIFETIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use vouchsafe_runtime::metrics::Registry;
    use vouchsafe_types::selector::Selector;

    use crate::attest::{ATTESTOR_DEADLINE, AttestorError, WorkloadAttestor};
    use crate::entries::tests::entry;
    use crate::metrics::Metrics;

    /// Hangs as long as it is told to.
    struct Fake {
        asked: AtomicUsize,
        hangs: AtomicUsize,
    }

    #[async_trait]
    impl WorkloadAttestor for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }

        async fn attest(&self, _: &PeerProcess) -> Result<Vec<Selector>, AttestorError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.hangs.load(Ordering::SeqCst) > 0 {
                std::future::pending::<()>().await;
            }
            Ok(vec![Selector::parse("unix:uid:1").unwrap()])
        }
    }

    fn caller() -> (Arc<Fake>, Attestors, Caller) {
        let fake = Arc::new(Fake { asked: AtomicUsize::new(0), hangs: AtomicUsize::new(0) });
        let metrics = Metrics::new(Registry::new("spire_agent", &[]));
        let attestors = Attestors::new(vec![Arc::clone(&fake) as Arc<dyn WorkloadAttestor>], &metrics);
        let (socket, _other_end) = std::os::unix::net::UnixStream::pair().unwrap();
        (fake, attestors, Caller::new(PeerProcess::of(&socket).unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_wait_share_one_answer_good_or_bad() {
        let (fake, attestors, caller) = caller();
        fake.hangs.store(1, Ordering::SeqCst);
        let start = Instant::now();
        let all = futures_util::future::join_all((0..100).map(|_| caller.attested(&attestors))).await;
        assert!(all.iter().all(Result::is_err));
        assert_eq!((start.elapsed(), fake.asked.load(Ordering::SeqCst)), (ATTESTOR_DEADLINE, 1));
        fake.hangs.store(0, Ordering::SeqCst);
        tokio::time::advance(Duration::from_millis(1)).await;
        let all = futures_util::future::join_all((0..100).map(|_| caller.attested(&attestors))).await;
        assert!(all.iter().all(Result::is_ok), "the next request tries again");
        assert_eq!(fake.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_silent_connection_keeps_no_old_index_alive() {
        let (_, attestors, caller) = caller();
        let (identities, sets) = (Identities::default(), IdentitySets::default());
        let index = |ids: &[&str]| {
            let entries = ids.iter().map(|id| entry(id, &["unix:uid:1"]));
            identities.edit(|snapshot| {
                snapshot.index = Arc::new(EntryIndex::build(entries, &snapshot.index));
                true
            });
        };
        index(&["a"]);
        let attested = caller.attested(&attestors).await.unwrap();
        assert_eq!(attested.identities(&identities, &sets).members.len(), 1);
        let old = Arc::downgrade(&identities.load().index);
        index(&["a", "b"]);
        assert!(old.upgrade().is_none());
        assert_eq!(attested.identities(&identities, &sets).members.len(), 2);
    }
}
