//! Asks the source for keys, and publishes what changed.
//!
//! A poll that fails changes nothing: the keys of the last good answer stay, for as long as it takes. Readiness turns to
//! *degraded* and says how old they are; it stays ready, because a verifier with old keys is better off than one with
//! none, and a new key is published long before it signs. Without any keys the process is not ready, and after
//! [`Poller::patience`] not live either.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::readiness::Token;

use super::keys::{Fetched, Held, algorithm};
use super::source::{FetchError, KeySource};
use crate::go;

/// How long one poll may take.
pub(crate) const POLL_DEADLINE: Duration = Duration::from_secs(10);
/// How soon is asked again while there are no keys at all.
const FIRST_KEYS: Duration = Duration::from_secs(1);
/// The least time after which a process without keys is better restarted.
const MIN_PATIENCE: Duration = Duration::from_secs(180);
/// The same in polls.
const PATIENCE_POLLS: u32 = 5;

/// The loop's state.
pub(crate) struct Poller<S> {
    source: S,
    settings: Polling,
    clock: Clock,
    readiness: Token,
    published: watch::Sender<Option<Arc<Held>>>,
    /// The last good answer, and when it came.
    last: Option<(Fetched, Instant)>,
}

/// How keys are asked for and written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Polling {
    /// How often.
    pub(crate) interval: Duration,
    /// Whether each key says that it is for signatures.
    pub(crate) set_key_use: bool,
}

impl<S: KeySource> Poller<S> {
    /// The poller, and the keys that it will publish.
    pub(crate) fn new(
        source: S,
        settings: Polling,
        clock: Clock,
        readiness: Token,
    ) -> (Self, watch::Receiver<Option<Arc<Held>>>) {
        let (published, keys) = watch::channel(None);
        (Self { source, settings, clock, readiness, published, last: None }, keys)
    }

    /// Polls until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let began = Instant::now();
        tracing::debug!(interval = ?self.settings.interval, "Polling started");
        let polls = async {
            loop {
                match timeout(POLL_DEADLINE, self.source.fetch()).await.unwrap_or(Err(FetchError::Late)) {
                    Ok(fetched) => self.take(fetched),
                    Err(error) => self.failed(&error, began),
                }
                let first = self.last.is_none();
                sleep(if first { self.settings.interval.min(FIRST_KEYS) } else { self.settings.interval })
                    .await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = polls => {}
        }
        tracing::debug!("Polling done");
    }

    fn take(&mut self, fetched: Fetched) {
        let changed = self.last.as_ref().is_none_or(|(last, _)| *last != fetched);
        if changed {
            for (kid, error) in &fetched.malformed {
                tracing::warn!(%error, %kid, "Malformed public key in bundle");
            }
            for key in fetched.keys.iter().filter(|key| algorithm(&key.public).is_none()) {
                tracing::error!(kid = %key.id, "Failed to get public key algorithm");
            }
            let held = Held::new(&fetched.keys, self.settings.set_key_use, self.clock.now());
            self.published.send_replace(Some(Arc::new(held)));
        }
        self.last = Some((fetched, Instant::now()));
        self.readiness.mark();
    }

    fn failed(&self, error: &FetchError, began: Instant) {
        log(error);
        let cause = chain(error);
        match &self.last {
            Some((_, since)) => {
                let age = go::format_duration(Duration::from_secs(since.elapsed().as_secs()));
                self.readiness.degrade(&format!("the keys are {age} old: {cause}"));
            }
            None if began.elapsed() >= self.patience() => {
                self.readiness.fail(&format!("there are no keys: {cause}"));
            }
            None => self.readiness.degrade(&format!("there are no keys yet: {cause}")),
        }
    }

    /// How long the process may be without keys before it is better restarted.
    fn patience(&self) -> Duration {
        self.settings.interval.saturating_mul(PATIENCE_POLLS).max(MIN_PATIENCE)
    }
}

fn log(error: &FetchError) {
    let cause = chain(error);
    match error {
        FetchError::ServerApi { .. } => tracing::warn!(error = cause, "Failed to fetch bundle"),
        FetchError::WorkloadApi { .. } => {
            tracing::warn!(error = cause, "Failed to fetch JWKS from the Workload API");
        }
        FetchError::NoBundle { trust_domain_id } => {
            tracing::error!(trust_domain_id, "No bundle for trust domain in Workload API response");
        }
        FetchError::Jwks { .. } => {
            tracing::error!(
                error = cause,
                "Failed to parse trust domain bundle received from the Workload API"
            );
        }
        FetchError::File { .. } | FetchError::Bundle { .. } => {
            tracing::warn!(error = cause, "Failed to load SPIFFE trust bundle");
        }
        FetchError::Late => tracing::warn!(deadline = ?POLL_DEADLINE, "The source of keys does not answer"),
    }
}

/// The error with its causes; that of a call in SPIRE's words.
fn chain(error: &FetchError) -> String {
    if let FetchError::ServerApi { source } | FetchError::WorkloadApi { source } = error {
        return go::rpc_error(source);
    }
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use tokio::sync::mpsc;
    use vouchsafe_runtime::readiness::{Readiness, Report};
    use vouchsafe_types::jwk::{Curve, PublicKey};

    use super::super::keys::Key;
    use super::*;

    /// A source that answers as it is told, and stalls when it is told nothing.
    struct Told(mpsc::UnboundedReceiver<Result<Fetched, FetchError>>);

    impl KeySource for Told {
        async fn fetch(&mut self) -> Result<Fetched, FetchError> {
            match self.0.recv().await {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
    }

    fn keys(ids: &[&str]) -> Fetched {
        let public = || PublicKey::Ec { curve: Curve::P256, x: vec![1; 32], y: vec![2; 32] };
        let keys = ids.iter().map(|id| Key { id: (*id).to_owned(), public: public() }).collect();
        Fetched { keys, malformed: vec![] }
    }

    struct Rig {
        tell: mpsc::UnboundedSender<Result<Fetched, FetchError>>,
        keys: watch::Receiver<Option<Arc<Held>>>,
        readiness: Readiness,
        tasks: tokio::task::JoinSet<()>,
        cancel: CancellationToken,
    }

    const INTERVAL: Duration = Duration::from_secs(30);

    impl Rig {
        fn start() -> Self {
            let (tell, told) = mpsc::unbounded_channel();
            let clock = Clock::derived(UNIX_EPOCH);
            let readiness = Readiness::new(clock.clone());
            let settings = Polling { interval: INTERVAL, set_key_use: false };
            let (poller, keys) = Poller::new(Told(told), settings, clock, readiness.token("keys"));
            let (cancel, mut tasks) = (CancellationToken::new(), tokio::task::JoinSet::new());
            tasks.spawn(poller.run(cancel.clone()));
            Self { tell, keys, readiness, tasks, cancel }
        }

        fn served(&self) -> String {
            let held = self.keys.borrow().clone();
            let document = held.and_then(|held| held.document.clone()).unwrap_or_default();
            String::from_utf8(document.to_vec()).unwrap()
        }

        fn report(&self) -> (Report, String) {
            let report = self.readiness.report();
            let reason = report.parts[0].reason.clone();
            (report, reason)
        }
    }

    fn away() -> Result<Fetched, FetchError> {
        Err(FetchError::ServerApi { source: Box::new(tonic::Status::unavailable("away")) })
    }

    #[tokio::test(start_paused = true)]
    async fn keys_stay_while_the_source_is_away_and_readiness_says_how_old_they_are() {
        let rig = Rig::start();
        rig.tell.send(Ok(keys(&["one"]))).unwrap();
        sleep(Duration::from_secs(1)).await;
        assert!(rig.served().contains("one"));
        assert_eq!(rig.report().1, "");

        for _ in 0..20 {
            rig.tell.send(away()).unwrap();
            sleep(INTERVAL).await;
        }
        assert!(rig.served().contains("one"), "ten minutes later");
        let (report, reason) = rig.report();
        assert!(report.ready && report.live, "{report:?}");
        assert!(reason.starts_with("the keys are 10m0s old: ") && reason.contains("away"), "{reason}");

        rig.tell.send(Ok(keys(&["one", "two"]))).unwrap();
        sleep(INTERVAL).await;
        assert!(rig.served().contains("two"));
        assert_eq!(rig.report().1, "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_stalls_is_given_up_and_asked_again() {
        let rig = Rig::start();
        rig.tell.send(Ok(keys(&["one"]))).unwrap();
        sleep(INTERVAL + POLL_DEADLINE + Duration::from_secs(1)).await;
        let (report, reason) = rig.report();
        assert!(report.ready && reason.ends_with("no answer in time"), "{reason}");
        rig.tell.send(Ok(keys(&["two"]))).unwrap();
        sleep(INTERVAL).await;
        assert!(rig.served().contains("two"));
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_keys_it_is_not_ready_and_in_the_end_not_live() {
        let rig = Rig::start();
        let tell_every_second = async |seconds| {
            for _ in 0..seconds {
                rig.tell.send(away()).unwrap();
                sleep(FIRST_KEYS).await;
            }
        };
        tell_every_second(100).await;
        let (report, reason) = rig.report();
        assert!(!report.ready && report.live && reason.starts_with("there are no keys yet"), "{report:?}");
        tell_every_second(100).await;
        let (report, _) = rig.report();
        assert!(!report.ready && !report.live, "{report:?}");
        rig.tell.send(Ok(keys(&["one"]))).unwrap();
        sleep(FIRST_KEYS * 2).await;
        assert!(rig.report().0.ready && rig.served().contains("one"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_keys_are_no_change_and_it_ends_when_told() {
        let mut rig = Rig::start();
        rig.tell.send(Ok(keys(&["one"]))).unwrap();
        sleep(Duration::from_secs(1)).await;
        let before = rig.keys.borrow_and_update().clone().unwrap();
        rig.tell.send(Ok(keys(&["one"]))).unwrap();
        sleep(INTERVAL).await;
        assert!(!rig.keys.has_changed().unwrap());
        assert_eq!(before.modified, rig.keys.borrow().clone().unwrap().modified);
        rig.cancel.cancel();
        rig.tasks.join_next().await.unwrap().unwrap();
    }
}
