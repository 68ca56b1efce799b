//! Answers for images: from the cache, or after a look at the registry.
//!
//! Looks are made by the [`Worker`], a few at a time, in the order of `queue`; up to [`MAX_WAITING`] images wait,
//! [`MAX_OF_REGISTRY`] of one registry. All callers for an image share one look, and it goes on when they leave: an attestor's deadline that is too short for a slow registry costs the
//! workload its first attempt only.

mod error;
mod look;
mod queue;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};
use vouchsafe_runtime::clock::Clock;

use crate::cache::{Cache, Look, Outcome};
use crate::excerpt::excerpt;
use crate::image::ImageId;
use crate::registry::Web;
use crate::settings::Config;
use crate::trust::{Trust, TrustError};

pub use error::{Refusals, SigstoreError};
use queue::{Next, Queue};

/// What a verifier is built from.
pub struct Deps {
    /// Whom to believe.
    pub trust: Trust,
    /// The time, where signatures without a log entry are accepted.
    pub clock: Clock,
    /// The way to registries.
    pub web: Arc<dyn Web>,
}

/// Says who has signed an image. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

/// Looks at registries for a [`Verifier`]. Without it running, the verifier answers only that it does not.
pub struct Worker {
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
}

struct Shared {
    config: Config,
    deps: Deps,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cache: Cache,
    under_way: HashMap<String, UnderWay>,
}

/// A look that is waited for.
struct UnderWay {
    registry: String,
    done: watch::Receiver<Option<Outcome>>,
}

/// A look at the registry. Dropping it lets the next caller start another one.
struct Job {
    shared: Arc<Shared>,
    image_id: String,
    image: ImageId,
    done: watch::Sender<Option<Outcome>>,
}

impl Verifier {
    /// A verifier, and what works for it.
    ///
    /// # Errors
    ///
    /// [`TrustError`] when the roots have no key of a log that every signature must be in.
    pub fn new(config: Config, deps: Deps) -> Result<(Self, Worker), TrustError> {
        deps.trust.suffices(config.policy.tlog, config.policy.sct)?;
        if config.allows_everybody() {
            warn!(
                "allowed_identities of sigstore is empty: signatures of everybody with a certificate count"
            );
        }
        let shared = Arc::new(Shared { config, deps, state: Mutex::default() });
        let (sender, jobs) = mpsc::channel(MAX_WAITING);
        Ok((Self { shared: Arc::clone(&shared), jobs: sender }, Worker { shared, jobs }))
    }

    /// The selectors of the image `image_id` (`repository@sha256:…`), without their kind; none for a skipped one.
    ///
    /// # Errors
    ///
    /// [`SigstoreError`], also when only the attestations are missing, as in SPIRE.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the look at the registry going on; the next call finds what it found.
    pub async fn selectors(&self, image_id: &str) -> Result<Vec<String>, Arc<SigstoreError>> {
        if self.shared.config.skipped.contains(image_id) {
            return Ok(Vec::new());
        }
        let mut done = match self.begin(image_id)? {
            Begun::Held(outcome) => return outcome.map(|selectors| selectors.to_vec()),
            Begun::UnderWay(done) => done,
        };
        let outcome = done.wait_for(Option::is_some).await.map_err(|_| SigstoreError::Stopped)?.clone();
        outcome.unwrap_or(Err(Arc::new(SigstoreError::Stopped))).map(|selectors| selectors.to_vec())
    }

    fn begin(&self, image_id: &str) -> Result<Begun, SigstoreError> {
        let mut state = self.shared.state();
        let held = match state.cache.look(Instant::now(), image_id) {
            Look::Fresh(outcome) => return Ok(Begun::Held(outcome)),
            Look::Refresh(outcome) => Some(outcome),
            Look::Unknown => None,
        };
        let started = match state.under_way.get(image_id) {
            Some(look) => Ok(look.done.clone()),
            None => self.start(&mut state, image_id),
        };
        match held {
            Some(outcome) => Ok(Begun::Held(outcome)),
            None => started.map(Begun::UnderWay),
        }
    }

    fn start(
        &self,
        state: &mut State,
        image_id: &str,
    ) -> Result<watch::Receiver<Option<Outcome>>, SigstoreError> {
        let image = ImageId::parse(image_id)
            .map_err(|source| SigstoreError::Image { image: excerpt(image_id), source })?;
        let of_registry = state.under_way.values().filter(|look| look.registry == image.registry()).count();
        if state.under_way.len() >= MAX_WAITING || of_registry >= MAX_OF_REGISTRY {
            return Err(SigstoreError::Busy);
        }
        let (done, waiting) = watch::channel(None);
        // A place first: a job that is dropped takes the lock that is held here.
        let place = self.jobs.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => SigstoreError::Busy,
            mpsc::error::TrySendError::Closed(()) => SigstoreError::Stopped,
        })?;
        let look = UnderWay { registry: image.registry().to_owned(), done: waiting.clone() };
        place.send(Job { shared: Arc::clone(&self.shared), image_id: image_id.to_owned(), image, done });
        state.under_way.insert(image_id.to_owned(), look);
        Ok(waiting)
    }
}

enum Begun {
    Held(Outcome),
    UnderWay(watch::Receiver<Option<Outcome>>),
}

impl Worker {
    /// Looks at registries until `cancel`led.
    pub async fn run(mut self, cancel: CancellationToken) {
        let (mut queue, mut running, mut images) = (Queue::new(), JoinSet::new(), HashMap::new());
        loop {
            while let Some(next) = queue.next(Instant::now()) {
                match next {
                    Next::Look(image, job) => {
                        let shared = Arc::clone(&self.shared);
                        let task = running.spawn(async move { shared.work(job).await });
                        images.insert(task.id(), image);
                    }
                    Next::Refuse(job, pause) => self.shared.refuse(job, pause),
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(ended) = running.join_next_with_id() => {
                    let (task, in_time) = match ended {
                        Ok(ended) => ended,
                        Err(ended) => {
                            error!(error = %ended, "a look at the signatures of an image failed");
                            (ended.id(), true)
                        }
                    };
                    if let Some(image) = images.remove(&task) {
                        queue.ended(Instant::now(), &image, in_time);
                    }
                }
                job = self.jobs.recv() => match job {
                    Some(job) => queue.push(job.image.clone(), job),
                    None => return,
                },
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the look ended in time.
    async fn work(self: Arc<Self>, job: Job) -> bool {
        let outcome = timeout(DEADLINE, self.look(&job.image)).await;
        let in_time = outcome.is_ok();
        let outcome =
            outcome.unwrap_or_else(|_| Err(SigstoreError::TimedOut { image: job.image.to_string() }));
        match &outcome {
            Ok(selectors) => {
                debug!(image = %job.image, selectors = selectors.len(), "image signatures verified")
            }
            Err(error) => warn!(%error, "image signatures not verified"),
        }
        self.finish(job, outcome.map(Arc::from).map_err(Arc::new));
        in_time
    }

    fn refuse(&self, job: Job, pause: Duration) {
        let seconds = pause.as_secs();
        let error = SigstoreError::Slow { image: job.image.to_string(), seconds };
        debug!(%error, "image signatures not looked for");
        self.finish(job, Err(Arc::new(error)));
    }

    fn finish(&self, job: Job, outcome: Outcome) {
        self.state().cache.put(Instant::now(), &job.image_id, outcome.clone());
        job.done.send_replace(Some(outcome));
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.shared.state().under_way.remove(&self.image_id);
    }
}

/// Images that are looked at or wait for that. Above it callers get [`SigstoreError::Busy`].
const MAX_WAITING: usize = 256;
/// Of these, images of one registry.
const MAX_OF_REGISTRY: usize = 192;
/// For one image.
const DEADLINE: Duration = Duration::from_secs(60);
