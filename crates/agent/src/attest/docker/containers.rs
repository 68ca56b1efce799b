//! What the daemons say about containers, asked once and remembered.
//!
//! A container's labels, environment and image name never change, so an answer is good for as long as the container is
//! there. Policy:
//!
//! * one request at a time for a container; whoever wants to know the same waits for the same answer;
//! * an answer is asked for again after [`FRESH`], in the background: the old one is handed out meanwhile, also while
//!   the daemon does not answer;
//! * a request runs to its end ([`DEADLINE`]) even if nobody waits any more, and a caller waits [`PATIENCE`] at most.
//!   From then on the daemon counts as hanging, and until it has said something nobody waits for it at all: one request
//!   every [`PROBE_INTERVAL`] finds out whether it is back. So a daemon that hangs holds nobody up, whose identity does
//!   not depend on it;
//! * other failures are tried again three times within a second, as in SPIRE: a container may be so new that the daemon
//!   does not show it yet;
//! * every daemon has a share of its own of what is asked and remembered. Podman's daemons belong to the users that run
//!   them: one that lies or hangs harms the containers of its user only.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use vouchsafe_runtime::chain::Chain;
use vouchsafe_transport::fetch::{self, Bounds, Target, fetch};
use vouchsafe_types::selector::Selector;

use remembered::{Remembered, weight};

mod remembered;

/// A container of a daemon.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Place {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The container's ID.
    pub id: String,
}

/// What is known of a container.
pub type Found = Arc<[Selector]>;

/// Why nothing is known of a container.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The daemon could not be asked, or its answer not be read.
    #[error("cannot ask for container {id}: {problem}")]
    Failed {
        /// The container.
        id: String,
        /// Why, with what is behind it.
        problem: String,
    },
    /// The daemon does not answer in time.
    #[error("{} does not answer; container {id} is not known yet", socket.display())]
    Hangs {
        /// The daemon's socket.
        socket: PathBuf,
        /// The container.
        id: String,
    },
    /// More containers than are remembered are being asked for.
    #[error("too many containers are being asked for")]
    TooMany,
}

type Outcome = Result<Found, ContainerError>;
type Landing = watch::Receiver<Option<Outcome>>;

/// Asks and remembers.
#[derive(Debug)]
pub struct Containers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `/v1.41`, or nothing.
    prefix: String,
    state: Mutex<State>,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    known: Remembered,
    flights: HashMap<Place, Landing>,
    /// For each daemon that is being asked, who may ask it now.
    turns: HashMap<PathBuf, Arc<Semaphore>>,
    /// Daemons that do not answer, and when they are asked the next time.
    hanging: HashMap<PathBuf, Instant>,
}

/// What is to be done for a caller.
enum Step {
    Answer(Found),
    Wait(Landing),
    Refuse(ContainerError),
}

impl Containers {
    /// Speaks `api_version`, or whatever the daemon prefers.
    #[must_use]
    pub fn new(api_version: Option<String>) -> Self {
        let prefix = api_version.map_or_else(String::new, |version| format!("/v{version}"));
        let shared = Shared { prefix, state: Mutex::default(), tasks: TaskTracker::new() };
        Self { shared: Arc::new(shared) }
    }

    /// The selectors of a container.
    ///
    /// # Errors
    ///
    /// [`ContainerError`]; a later call may succeed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the request goes on, and the next caller finds its answer.
    pub async fn selectors(&self, place: &Place) -> Result<Found, ContainerError> {
        let mut landing = match self.step(place) {
            Step::Answer(found) => return Ok(found),
            Step::Refuse(error) => return Err(error),
            Step::Wait(landing) => landing,
        };
        let landed = timeout_at(Instant::now() + PATIENCE, landing.wait_for(Option::is_some)).await;
        match landed {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Err(ContainerError::TooMany)),
            // The request ended without an answer, or goes on without this caller.
            Ok(Err(_)) | Err(_) => {
                self.shared.hangs(&place.socket);
                Err(hangs(place))
            }
        }
    }

    fn step(&self, place: &Place) -> Step {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let state = &mut *state;
        let held = state.known.recall(place, now).map(|(found, at)| (found, now < at + FRESH));
        if let Some((found, true)) = held {
            return Step::Answer(found);
        }
        let hanging = match state.hanging.get_mut(&place.socket) {
            Some(next) if now < *next => {
                return held.map_or_else(|| Step::Refuse(hangs(place)), |(found, _)| Step::Answer(found));
            }
            Some(next) => {
                *next = now + PROBE_INTERVAL;
                true
            }
            None => false,
        };
        let landing = match state.flights.get(place) {
            Some(landing) => Some(landing.clone()),
            None if state.has_room_for(&place.socket) => Some(self.start(state, place)),
            None => None,
        };
        match (held, landing) {
            (Some((found, _)), _) => Step::Answer(found),
            (None, _) if hanging => Step::Refuse(hangs(place)),
            (None, Some(landing)) => Step::Wait(landing),
            (None, None) => Step::Refuse(ContainerError::TooMany),
        }
    }

    fn start(&self, state: &mut State, place: &Place) -> Landing {
        let (sender, landing) = watch::channel(None);
        state.flights.insert(place.clone(), landing.clone());
        let turns = state.turns.entry(place.socket.clone());
        let turns = Arc::clone(turns.or_insert_with(|| Arc::new(Semaphore::new(MAX_ASKED))));
        let (shared, place) = (Arc::clone(&self.shared), place.clone());
        self.shared.tasks.spawn(async move {
            let outcome = shared.ask(&place, &turns).await;
            drop(turns);
            shared.land(&place, &outcome);
            sender.send_replace(Some(outcome));
        });
        landing
    }
}

impl State {
    fn has_room_for(&self, socket: &Path) -> bool {
        let of_daemon = || self.flights.keys().filter(|place| place.socket == socket).count();
        self.flights.len() < MAX_FLIGHTS && of_daemon() < MAX_FLIGHTS_OF_DAEMON
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hangs(&self, socket: &Path) {
        let mut state = self.lock();
        if state.hanging.len() >= MAX_DAEMONS {
            state.hanging.clear();
        }
        if state.hanging.insert(socket.to_owned(), Instant::now() + PROBE_INTERVAL).is_none() {
            warn!(socket = %socket.display(), "The container daemon does not answer; workloads do not wait for it");
        }
    }

    fn land(&self, place: &Place, outcome: &Outcome) {
        let now = Instant::now();
        let mut state = self.lock();
        state.flights.remove(place);
        state.turns.retain(|_, turns| Arc::strong_count(turns) > 1);
        if !matches!(outcome, Err(ContainerError::Hangs { .. })) {
            state.hanging.remove(&place.socket);
        }
        if let Ok(found) = outcome {
            state.known.remember(place, found, now);
        }
    }

    /// Asks until there is an answer, at most [`DEADLINE`] from the first turn on.
    async fn ask(&self, place: &Place, turns: &Semaphore) -> Outcome {
        let mut wait = FIRST_RETRY;
        let mut end = None;
        for attempt in 0..=RETRIES {
            // Given back between attempts: containers that the daemon does not have must not keep others waiting.
            let Ok(turn) = turns.acquire().await else { return Err(hangs(place)) };
            let end = *end.get_or_insert_with(|| Instant::now() + DEADLINE);
            let outcome = self.inspect(place, end).await;
            drop(turn);
            match outcome {
                Err(ContainerError::Failed { problem, .. }) if attempt < RETRIES => {
                    debug!(container_id = place.id, problem, "Container not known yet; asking again");
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                outcome => return outcome,
            }
        }
        Err(hangs(place))
    }

    async fn inspect(&self, place: &Place, end: Instant) -> Outcome {
        if !place.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            return Err(failed(place, "the container ID is malformed"));
        }
        let container: Container =
            self.get(place, &format!("{}/containers/{}/json", self.prefix, place.id), end).await?;
        let mut values = container.config.values();
        let image = &container.config.image;
        if !image.is_empty()
            && let Some(name) = in_path(image)
        {
            // An image that is not there any more costs this one selector only.
            let resource = format!("{}/images/{name}/json", self.prefix);
            match self.get::<Image>(place, &resource, end).await {
                Ok(image) if !image.id.is_empty() => values.push(format!("image_config_digest:{}", image.id)),
                Ok(_) => {}
                Err(error) => debug!(image, %error, "Image not inspected"),
            }
        }
        let too_many = || Err(failed(place, "it has too many labels and variables"));
        if values.len() > MAX_SELECTORS {
            return too_many();
        }
        // What is too long for a selector can be in no entry either.
        let found: Found = values.iter().filter_map(|value| Selector::new(super::KIND, value).ok()).collect();
        if weight(&found) > MAX_WEIGHT { too_many() } else { Ok(found) }
    }

    async fn get<T: DeserializeOwned>(
        &self,
        place: &Place,
        resource: &str,
        end: Instant,
    ) -> Result<T, ContainerError> {
        let target = Target::unix(&place.socket, resource)
            .map_err(|error| failed(place, &Chain(&error).to_string()))?;
        let deadline = end.saturating_duration_since(Instant::now());
        let answer =
            fetch(&target, Bounds { deadline, body: MAX_BODY }).await.map_err(|error| match error {
                fetch::Error::TimedOut { .. } => hangs(place),
                other => failed(place, &Chain(&other).to_string()),
            })?;
        if answer.status != StatusCode::OK {
            let said: Refusal = serde_json::from_slice(&answer.body).unwrap_or_default();
            let said: String = said.message.chars().take(MAX_MESSAGE).collect();
            return Err(failed(place, &format!("status {}: {said}", answer.status.as_u16())));
        }
        serde_json::from_slice(&answer.body).map_err(|error| failed(place, &error.to_string()))
    }
}

/// Of `GET /containers/<id>/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    config: ContainerConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ContainerConfig {
    labels: Option<BTreeMap<String, String>>,
    env: Option<Vec<String>>,
    image: String,
}

impl ContainerConfig {
    fn values(&self) -> Vec<String> {
        let labels = self.labels.iter().flatten().map(|(name, value)| format!("label:{name}:{value}"));
        let env = self.env.iter().flatten().map(|variable| format!("env:{variable}"));
        let image = (!self.image.is_empty()).then(|| format!("image_id:{}", self.image));
        labels.chain(env).chain(image).collect()
    }
}

/// Of `GET /images/<name>/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Image {
    #[serde(rename = "Id")]
    id: String,
}

/// What a daemon says instead.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    message: String,
}

/// An image's name as a part of a path, unless it has characters that no such name has.
fn in_path(name: &str) -> Option<&str> {
    let good =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b':' | b'@');
    (name.bytes().all(good) && !name.split('/').any(|segment| matches!(segment, "" | "." | "..")))
        .then_some(name)
}

fn failed(place: &Place, problem: &str) -> ContainerError {
    ContainerError::Failed { id: place.id.clone(), problem: problem.to_owned() }
}

fn hangs(place: &Place) -> ContainerError {
    ContainerError::Hangs { socket: place.socket.clone(), id: place.id.clone() }
}

/// How long a caller waits for a daemon.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How long a request goes on, with its repetitions.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A daemon that does not answer is asked this often.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// How long an answer is believed without asking again.
pub const FRESH: Duration = Duration::from_secs(60);

const RETRIES: u32 = 3;

/// Doubles from one repetition to the next.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// Containers of one daemon that it is asked for at a time. The others wait.
const MAX_ASKED: usize = 32;

/// Containers of one daemon that are being asked for. Above it a caller is refused; it tries again.
const MAX_FLIGHTS_OF_DAEMON: usize = 512;

/// Containers of all daemons that are being asked for.
const MAX_FLIGHTS: usize = 4096;

/// Daemons that are remembered as hanging. Above it all are asked again.
const MAX_DAEMONS: usize = 256;

/// Labels, variables and the rest of one container. One with more has no selectors.
const MAX_SELECTORS: usize = 1024;

/// Bytes of the selectors of one container. One with more has none.
const MAX_WEIGHT: usize = 256 * 1024;

/// Bytes of one answer. A longer one is a failure.
const MAX_BODY: usize = 1024 * 1024;

/// Characters of a daemon's message that are repeated.
const MAX_MESSAGE: usize = 256;

#[cfg(test)]
pub(super) mod tests;
