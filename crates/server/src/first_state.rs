//! What a server starts from: the database if it answers, the last good state if it does not or lags behind.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};
use vouchsafe_lastgood::SealedFile;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::{Error as StoreError, JournalRecord, Outcome, Store};

use crate::model::Snapshot;
use crate::saved::{self, Restored};
use crate::status::Chain;
use crate::when;

/// How long the database may take to answer before the last good state is served.
pub(crate) const DEADLINE: Duration = Duration::from_secs(3);
/// The same without a last good state: there is nothing to serve yet.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(200);

/// Where a server starts.
pub(crate) struct FirstState {
    pub(crate) snapshot: Snapshot,
    /// Journals of authorities: of all servers, or this server's alone.
    pub(crate) journals: Vec<JournalRecord>,
    pub(crate) confirmed_at: i64,
    /// Why this is not what the database has, if it is not.
    pub(crate) stale: Option<String>,
}

/// Reads the database, and decides between it and what `file` has.
///
/// # Errors
///
/// The database does not answer, and there is no last good state.
pub(crate) async fn find(
    store: &dyn Store,
    file: Option<&SealedFile>,
    clock: &Clock,
) -> Result<FirstState, StoreError> {
    let saved = match file {
        Some(file) => restore(file.clone()).await,
        None => None,
    };
    let read = read(store, saved.is_some()).await;
    let path = file.map(SealedFile::path);
    decide(read, saved, path, clock.unix_now())
}

/// Everything of the database, and the journals in it.
type Read = Result<(Snapshot, Vec<JournalRecord>), StoreError>;

async fn read(store: &dyn Store, may_do_without: bool) -> Read {
    let until = Instant::now() + if may_do_without { DEADLINE } else { PATIENCE };
    let mut told = false;
    loop {
        let all = async { Ok((Snapshot::read(store).await?, store.load_journals().await?)) };
        let last = match timeout_at(until, all).await {
            Ok(Err(cause @ StoreError::Unavailable { .. })) => cause,
            Ok(read) => return read,
            Err(_) => late(),
        };
        if Instant::now() + RETRY >= until {
            return Err(last);
        }
        if !std::mem::replace(&mut told, true) {
            info!(error = %last, "The database does not answer yet; trying again");
        }
        sleep(RETRY).await;
    }
}

fn late() -> StoreError {
    let retry_after = Duration::from_secs(1);
    StoreError::Unavailable { operation: "load", outcome: Outcome::NotWritten, retry_after, source: None }
}

async fn restore(file: SealedFile) -> Option<Restored> {
    let path = file.path().display().to_string();
    match tokio::task::spawn_blocking(move || saved::restore(&file)).await {
        Ok(Ok(saved)) => saved,
        Ok(Err(cause)) => {
            let error = Chain(&cause).to_string();
            warn!(error, "Cannot use the last good state; it is written anew when the database answers");
            None
        }
        Err(cause) => {
            warn!(error = %cause, path, "Cannot use the last good state");
            None
        }
    }
}

/// The rule. A database wins unless it ends, in the same epoch, before what is saved.
fn decide(
    read: Read,
    saved: Option<Restored>,
    path: Option<&Path>,
    now: i64,
) -> Result<FirstState, StoreError> {
    let (read, saved) = match (read, saved) {
        (Ok(read), Some(saved)) => (Ok(read), saved),
        (Ok((snapshot, journals)), None) => {
            return Ok(FirstState { snapshot, journals, confirmed_at: now, stale: None });
        }
        (Err(cause), None) => return Err(cause),
        (Err(cause), Some(saved)) => (Err(cause), saved),
    };
    let held = saved.snapshot.position();
    let (entries, agents) = (saved.snapshot.entries.len(), saved.snapshot.agents.len());
    let as_of = when::rfc3339(saved.confirmed_at);
    let age_secs = now.saturating_sub(saved.confirmed_at);
    let (journals, why) = match read {
        Ok((snapshot, journals)) => {
            let other = snapshot.epoch() != saved.snapshot.epoch();
            if other {
                warn!(
                    "This is another database than the one that this server had before; taking what it has"
                );
            }
            // What this server did to its own authorities last may not have reached the database.
            let mut journals = journals;
            journals.extend(saved.journal.filter(|_| !other));
            if other || snapshot.position() >= held {
                return Ok(FirstState { snapshot, journals, confirmed_at: now, stale: None });
            }
            let found = snapshot.position();
            let remove = path.map(|path| path.display().to_string());
            error!(
                %found, %held, as_of, remove,
                "The database is older than the last good state; serving the last good state. If a backup was \
                 restored, stop every server, remove the file named here, and start them again to accept it"
            );
            (
                journals,
                format!(
                    "the database is older than what is held: it ends at position {found}, and {held} is held"
                ),
            )
        }
        Err(cause) => {
            let error = Chain(&cause).to_string();
            warn!(
                error,
                as_of, age_secs, entries, agents, "The database does not answer; serving the last good state"
            );
            let why = format!("the database is away, answering from what was known at {as_of}: {error}");
            (saved.journal.into_iter().collect(), why)
        }
    };
    Ok(FirstState { snapshot: saved.snapshot, journals, confirmed_at: saved.confirmed_at, stale: Some(why) })
}

#[cfg(test)]
mod tests;
