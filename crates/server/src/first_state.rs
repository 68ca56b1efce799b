//! What a server starts from: the database if it answers, the last good state if it does not or lags behind.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};
use vouchsafe_lastgood::SealedFile;
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::{Error as StoreError, JournalRecord, Outcome, Store};

use crate::acceptance::{ADVICE, Acceptance};
use crate::history::{Doubt, Past, Verdict, is_on_the_way, judge};
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

/// What was decided, and why: what is known against the database.
type Decided = (FirstState, Verdict, Past);

/// What the decision is taken with.
pub(crate) struct Sources<'a> {
    pub(crate) store: &'a dyn Store,
    /// The last good state.
    pub(crate) file: Option<&'a SealedFile>,
    pub(crate) acceptance: Acceptance,
    pub(crate) doubt: &'a Doubt,
    pub(crate) clock: &'a Clock,
}

/// Reads the database, and decides between it and the last good state.
///
/// # Errors
///
/// The database does not answer, and there is no last good state.
pub(crate) async fn find(sources: Sources<'_>) -> Result<FirstState, StoreError> {
    let Sources { store, file, acceptance, doubt, clock } = sources;
    if acceptance.is_given()
        && let Some(accepted) = take_accepted(store, acceptance, clock).await?
    {
        return Ok(accepted);
    }
    let mut saved = match file {
        Some(file) => restore(file.clone()).await,
        None => None,
    };
    let read = read(store, saved.as_mut()).await;
    let mark = saved.as_ref().and_then(|saved| saved.mark);
    let (first, verdict, past) = decide(read, saved, clock.unix_now())?;
    doubt.note(&verdict, past);
    if let Some(mark) = mark.filter(|_| first.stale.is_some()) {
        doubt.remember(first.snapshot.position(), mark);
    }
    Ok(first)
}

/// The database as it is, because an operator said so; `None` if it does not answer, or the word cannot be used up.
async fn take_accepted(
    store: &dyn Store,
    acceptance: Acceptance,
    clock: &Clock,
) -> Result<Option<FirstState>, StoreError> {
    let (snapshot, journals) = match read_within(DEADLINE, store, None).await {
        Ok(read) => read,
        Err(StoreError::Unavailable { .. }) => {
            warn!("The database that an operator has accepted does not answer; it counts for the next start");
            return Ok(None);
        }
        Err(cause) => return Err(cause),
    };
    let used = blocking::run(move || acceptance.use_up()).await;
    if let Err(cause) = used.unwrap_or_else(|cause| Err(std::io::Error::other(cause))) {
        warn!(error = %cause, "Cannot put the last good state aside; not accepting the database yet");
        return Ok(None);
    }
    let (entries, agents) = (snapshot.entries.len(), snapshot.agents.len());
    warn!(entries, agents, "Taking the database as it is, as an operator has accepted it");
    Ok(Some(FirstState { snapshot, journals, confirmed_at: clock.unix_now(), stale: None }))
}

/// Everything of the database, and the journals in it.
type Read = Result<(Snapshot, Vec<JournalRecord>), StoreError>;

async fn read(store: &dyn Store, saved: Option<&mut Restored>) -> Read {
    read_within(if saved.is_some() { DEADLINE } else { PATIENCE }, store, saved).await
}

async fn read_within(deadline: Duration, store: &dyn Store, mut saved: Option<&mut Restored>) -> Read {
    let until = Instant::now() + deadline;
    let mut told = false;
    loop {
        let all = async {
            if let Some(saved) = saved.as_deref_mut() {
                look_at_history(store, saved).await?;
            }
            Ok((Snapshot::read(store).await?, store.load_journals().await?))
        };
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

/// Has the store say, if it can, whether the database went on from what is saved. Before it is read whole: then the store
/// knows the history that there is.
async fn look_at_history(store: &dyn Store, saved: &mut Restored) -> Result<(), StoreError> {
    let Some(mark) = saved.mark else { return Ok(()) };
    if store.epoch().await? != saved.snapshot.epoch() {
        return Ok(());
    }
    let on_the_way = is_on_the_way(store, saved.snapshot.position(), Some(mark)).await?;
    saved.set_back = on_the_way.map_or(saved.set_back, |is| !is);
    Ok(())
}

fn late() -> StoreError {
    let retry_after = Duration::from_secs(1);
    StoreError::Unavailable { operation: "load", outcome: Outcome::NotWritten, retry_after, source: None }
}

async fn restore(file: SealedFile) -> Option<Restored> {
    let path = file.path().display().to_string();
    match blocking::run(move || saved::restore(&file)).await {
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

/// The rule. A database wins unless what is saved says that it may not ([`judge`]). Who has nothing loses nothing.
fn decide(read: Read, saved: Option<Restored>, now: i64) -> Result<Decided, StoreError> {
    let fresh = |(snapshot, journals)| FirstState { snapshot, journals, confirmed_at: now, stale: None };
    let Some(mut saved) = saved else { return Ok((fresh(read?), Verdict::Taken, Past::default())) };
    let past = Past { set_back: saved.set_back, whole_at: None };
    let (mut journals, stale, verdict, past) = match read {
        Ok((snapshot, mut journals)) => {
            let same = snapshot.epoch() == saved.snapshot.epoch();
            let nothing_held = saved.snapshot.entries.is_empty() && saved.snapshot.agents.is_empty();
            let verdict = judge(&saved.snapshot, &snapshot, past, now);
            if verdict == Verdict::Taken || nothing_held {
                // What this server did to its own authorities last may not have reached the database.
                journals.extend(saved.journal.filter(|_| same));
                return Ok((fresh((snapshot, journals)), Verdict::Taken, Past::default()));
            }
            let journals = if same { journals } else { Vec::new() };
            let past = past.after(&verdict, same.then_some(snapshot.position()));
            (journals, tell_doubt(&saved, &verdict), verdict, past)
        }
        Err(cause) => {
            let why = "the database was set back before this server started".to_owned();
            let verdict = if saved.set_back { Verdict::Behind(why) } else { Verdict::Taken };
            (Vec::new(), tell_away(&saved, &cause, now), verdict, past)
        }
    };
    journals.extend(saved.journal.take());
    let Restored { snapshot, confirmed_at, .. } = saved;
    Ok((FirstState { snapshot, journals, confirmed_at, stale: Some(stale) }, verdict, past))
}

/// Tells of a database that is not believed; gives the reason for who asks.
fn tell_doubt(saved: &Restored, verdict: &Verdict) -> String {
    let as_of = when::rfc3339(saved.confirmed_at);
    match verdict {
        Verdict::Refused(cause) => {
            error!(
                cause,
                as_of,
                "The database lacks what is held; serving the last good state, and writing nothing. If it is as it should be, \
                 run `vouchsafe server datastore accept` on each server and restart it"
            );
            format!("{cause}; {ADVICE}")
        }
        Verdict::Behind(cause) => {
            warn!(
                cause,
                as_of, "The database was set back; serving the last good state until it has caught up"
            );
            cause.clone()
        }
        Verdict::Taken => String::new(),
    }
}

/// Tells that there is no database; gives the reason for who asks.
fn tell_away(saved: &Restored, cause: &StoreError, now: i64) -> String {
    let as_of = when::rfc3339(saved.confirmed_at);
    let age_secs = now.saturating_sub(saved.confirmed_at);
    let (entries, agents) = (saved.snapshot.entries.len(), saved.snapshot.agents.len());
    let error = Chain(cause).to_string();
    warn!(
        error,
        as_of, age_secs, entries, agents, "The database does not answer; serving the last good state"
    );
    format!("the database is away, answering from what was known at {as_of}: {error}")
}

#[cfg(test)]
mod tests;
