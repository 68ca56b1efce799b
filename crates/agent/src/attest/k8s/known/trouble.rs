//! What keeps the kubelet from answering, remembered for those who ask, and logged now and then.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;
use vouchsafe_runtime::chain::Chain;

use crate::attest::k8s::kubelet::{Kubelet, KubeletError};

/// Why nothing is known of a container. The first two texts are SPIRE's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// No list had it in time.
    #[error(
        "no selectors found after max poll attempts: no pod that the kubelet lists has container {id}; it is another runtime's, or the kubelet is slow"
    )]
    Unlisted {
        /// Its ID.
        id: String,
    },
    /// Two Pods claim it.
    #[error("two pods found with same container Id")]
    Contested,
    /// The kubelet does not say.
    #[error("the kubelet at {place} gives no list of pods: {what}; {next}")]
    Kubelet {
        /// Where it is.
        place: String,
        /// What went wrong.
        what: String,
        /// What a person does about it.
        next: &'static str,
    },
    /// More containers than are remembered are being waited for.
    #[error("too many containers are being waited for")]
    TooMany,
}

/// What has kept the kubelet from answering, since when.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) since: Instant,
    logged: Instant,
    pub(super) what: String,
    pub(super) next: &'static str,
}

/// Remembers what is wrong; the log has it when it begins, when it becomes something else, and once a minute.
pub(super) fn note_trouble(
    trouble: &mut Option<Trouble>,
    error: &KubeletError,
    (start, now): (Instant, Instant),
    kubelet: &Kubelet,
) {
    let what = Chain(error).to_string();
    let before = trouble.take();
    let since = before.as_ref().map_or(start, |before| before.since);
    let quiet = before.filter(|before| before.what == what && now < before.logged + LOG_INTERVAL);
    if quiet.is_none() {
        let seconds = (now - since).as_secs();
        warn!(
            kubelet = kubelet.place(),
            error = what,
            seconds,
            "Unable to get pod list; will retry after backoff"
        );
    }
    let logged = quiet.map_or(now, |before| before.logged);
    *trouble = Some(Trouble { since, logged, what, next: error.next_step() });
}

/// What in the list could not be understood.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    latest: Option<(usize, String)>,
    logged: Option<Instant>,
}

impl Unreadable {
    /// Remembers it; the log has it when it becomes something else, and once a minute. Says whether it has it.
    pub(super) fn note(&mut self, unreadable: Option<(usize, String)>, now: Instant) -> bool {
        let due = self.logged.is_none_or(|logged| now >= logged + LOG_INTERVAL);
        let changed = self.latest != unreadable;
        self.latest = unreadable;
        let Some((count, why)) = self.latest.as_ref().filter(|_| changed || due) else { return false };
        self.logged = Some(now);
        warn!(
            count,
            why, "Pods in the kubelet's list cannot be understood; their workloads get no k8s selectors"
        );
        true
    }
}

/// How often the same trouble is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
