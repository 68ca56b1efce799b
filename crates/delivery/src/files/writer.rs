//! The loop that joins the Workload API, the folder and the program.
//!
//! Everything that is to be written is kept until it is on disk: a write that fails is repeated after a random time of at
//! most [`MAX_PAUSE`], with what is newest then. Every [`LOOK`] it looks at what ends: an identity that was not renewed in
//! time is told once when a sixth of its life is left, and once when it has ended. Its files stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;

use super::folder::{Folder, WriteError, Written};
use super::health::{Kept, Report, State};
use super::program::Program;
use super::render::{Rendered, Validity};
use super::settings::Settings;
use super::slot::{Slot, folder, render, slots};
use super::source::{Answer, Source};

/// Keeps the files until it is cancelled.
#[derive(Debug)]
pub struct Writer {
    settings: Arc<Settings>,
    clock: Clock,
    entropy: Entropy,
    folder: Arc<Folder>,
    program: Program,
    health: watch::Sender<Report>,
    slots: BTreeMap<Slot, Holding>,
    failures: u32,
    retry_at: Instant,
}

/// What is known of a slot.
#[derive(Debug, Default)]
struct Holding {
    /// Not on disk yet.
    pending: Option<Rendered>,
    state: State,
    /// Of what is on disk.
    validity: Option<Validity>,
    age: Age,
    /// Whether the program knows of it.
    told: bool,
}

/// How far an identity is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Age {
    #[default]
    Fresh,
    Ending,
    Ended,
}

impl Writer {
    /// The writer, and what it knows of the files.
    #[must_use]
    pub fn new(settings: Settings, clock: Clock, entropy: Entropy) -> (Self, watch::Receiver<Report>) {
        let settings = Arc::new(settings);
        let slots = slots(&settings).map(|slot| (slot, Holding::default())).collect();
        let (health, report) = watch::channel(Report::default());
        let folder = Arc::new(folder(&settings));
        let program = Program::new(settings.program.clone());
        let writer = Self {
            settings,
            clock,
            entropy,
            folder,
            program,
            health,
            slots,
            failures: 0,
            retry_at: Instant::now(),
        };
        writer.publish();
        (writer, report)
    }

    /// Keeps the files until `cancel`.
    ///
    /// # Errors
    ///
    /// A task of it died, which is a bug.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), WriterError> {
        let (sender, answers) = mpsc::channel(ANSWERS);
        let mut sources = self.start_sources(&sender);
        drop(sender);
        tokio::select! {
            biased;
            () = self.keep(answers, cancel) => Ok(()),
            Some(ended) = sources.join_next() => ended.map_err(WriterError),
        }
    }

    /// Writes what `answers` say until `cancel`.
    async fn keep(mut self, mut answers: mpsc::Receiver<Answer>, cancel: CancellationToken) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let pending = self.slots.values().any(|holding| holding.pending.is_some());
            let retry_at = self.retry_at;
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(answer) = answers.recv() => {
                    self.take(&answer);
                    self.write().await;
                }
                () = sleep_until(retry_at), if pending => self.write().await,
                () = self.program.attend() => {}
                _ = look.tick() => self.look(),
            }
        }
    }

    fn start_sources(&self, answers: &mpsc::Sender<Answer>) -> JoinSet<()> {
        let mut sources = JoinSet::new();
        for slot in self.slots.keys() {
            let entropy = self.entropy.fork(&format!("{slot:?}"));
            let source = Source::new(&self.settings.socket, self.clock.clone(), entropy);
            let answers = answers.clone();
            match *slot {
                Slot::X509 => sources.spawn(source.follow_x509(answers)),
                Slot::JwtBundles => sources.spawn(source.follow_jwt_bundles(answers)),
                Slot::JwtSvid(number) => {
                    let audience = self.settings.jwt_svids[number].audience.clone();
                    sources.spawn(source.follow_jwt_svids(number, audience, answers))
                }
            };
        }
        sources
    }

    /// Turns an answer into what is to be written.
    fn take(&mut self, answer: &Answer) {
        let (slot, rendered) = render(answer, &self.settings, self.clock.unix_now());
        match (rendered, self.slots.get_mut(&slot)) {
            (Ok(rendered), Some(holding)) => {
                let (spiffe_id, until) =
                    (&rendered.spiffe_id, rendered.validity.map(|validity| validity.until));
                tracing::debug!(?slot, spiffe_id, until, "Received an update");
                holding.pending = Some(rendered);
            }
            (Err(error), Some(_)) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    ?slot,
                    error,
                    "An answer of the Workload API is not written; the files stay as they are"
                );
            }
            (_, None) => {}
        }
    }

    /// Writes everything that waits for it.
    async fn write(&mut self) {
        let mut failed = false;
        let waiting: Vec<Slot> = self
            .slots
            .iter()
            .filter(|(_, holding)| holding.pending.is_some())
            .map(|(slot, _)| *slot)
            .collect();
        for slot in waiting {
            let Some(rendered) = self.slots.get_mut(&slot).and_then(|holding| holding.pending.take()) else {
                continue;
            };
            let folder = Arc::clone(&self.folder);
            let put = blocking::run(move || (folder.put(&rendered.files), rendered)).await;
            let Ok((written, rendered)) = put else { continue };
            failed |= written.is_err();
            self.written(slot, written, rendered);
        }
        self.failures = if failed { self.failures.saturating_add(1) } else { 0 };
        self.retry_at =
            Instant::now() + BACKOFF.delay(self.failures.saturating_sub(1), self.entropy.fraction());
        self.look();
        self.publish();
    }

    fn written(&mut self, slot: Slot, written: Result<Written, WriteError>, rendered: Rendered) {
        let Some(holding) = self.slots.get_mut(&slot) else { return };
        match written {
            Ok(written) => {
                if written == Written::Changed {
                    tracing::info!(?slot, spiffe_id = rendered.spiffe_id, "Files updated");
                }
                holding.state = State::Written;
                holding.validity = rendered.validity;
                if written == Written::Changed || !holding.told {
                    holding.told = true;
                    self.tell(slot);
                }
            }
            Err(error) => {
                let class = error.class();
                let error = &error as &dyn std::error::Error;
                tracing::error!(?slot, ?class, error, "Cannot write files; the old ones stay, trying again");
                holding.state = State::Failed;
                holding.pending = Some(rendered);
            }
        }
    }

    /// Tells the program of new files: of X.509-SVIDs, as spiffe-helper does. One that wants no X.509-SVID is told of
    /// everything, once everything is there.
    fn tell(&mut self, slot: Slot) {
        let complete = || self.slots.values().all(|holding| holding.state == State::Written);
        if slot == Slot::X509 || (self.settings.x509.is_none() && complete()) {
            self.program.renewed();
        }
    }

    /// Looks at what ends, and says so once.
    fn look(&mut self) {
        let now = self.clock.unix_now();
        for (slot, holding) in &mut self.slots {
            let age = holding.validity.map_or(Age::Fresh, |validity| age(validity, now));
            if age == holding.age {
                continue;
            }
            let until = holding.validity.map(|validity| validity.until);
            match age {
                Age::Fresh => tracing::info!(?slot, until, "The identity in the files is renewed"),
                Age::Ending => {
                    tracing::warn!(?slot, until, "The identity in the files ends soon and was not renewed")
                }
                Age::Ended => tracing::error!(
                    ?slot,
                    until,
                    "The identity in the files has ended; they stay until there is a new one"
                ),
            }
            holding.age = age;
        }
    }

    fn publish(&self) {
        let path = |name: &str| self.settings.folder.join(name).display().to_string();
        let mut report = Report::default();
        for (slot, holding) in &self.slots {
            let kept = Kept { state: holding.state, validity: holding.validity };
            match slot {
                Slot::X509 => report.x509 = Some(kept),
                Slot::JwtBundles => {
                    report.jwt.extend(self.settings.jwt_bundle.iter().map(|file| (path(&file.name), kept)));
                }
                Slot::JwtSvid(number) => {
                    report.jwt.extend([(path(&self.settings.jwt_svids[*number].name), kept)])
                }
            }
        }
        self.health.send_replace(report);
    }
}

fn age(validity: Validity, now: i64) -> Age {
    let left = validity.until.saturating_sub(now);
    let whole = validity.until.saturating_sub(validity.from);
    match left {
        left if left < 0 => Age::Ended,
        left if left < whole / ENDING_PART => Age::Ending,
        _ => Age::Fresh,
    }
}

/// A task died.
#[derive(Debug, thiserror::Error)]
#[error("a task of the file writer died")]
pub struct WriterError(#[source] pub(super) tokio::task::JoinError);

/// How often is looked at what ends.
const LOOK: Duration = Duration::from_secs(10);
/// An identity is ending when less than this part of its life is left: the agent renews at half.
const ENDING_PART: i64 = 6;
/// Longest time before a write is repeated.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Answers that wait to be written. Their senders wait beyond it.
const ANSWERS: usize = 4;
const BACKOFF: Backoff = match Backoff::new(Duration::from_secs(1), MAX_PAUSE) {
    Ok(backoff) => backoff,
    Err(_) => panic!("a second is less than the longest pause"),
};

#[cfg(test)]
mod tests;
