//! The task that knows whether the database is there.
//!
//! It holds one connection: brings the schema up to date, hears what other servers write, and asks from time to time
//! whether the database still answers. While it does not, calls fail at once instead of each waiting for a deadline of its
//! own.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::entropy::Entropy;

use super::fail::Fail;
use super::session::{Session, explain};
use super::{Shared, feed, migrate};
use crate::error::Cause;

/// What is known about the database.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Nothing yet: calls wait.
    Starting,
    /// It answers.
    Ready,
    /// It does not answer: calls fail.
    Down(Cause),
    /// It is not ours to use: calls fail until somebody did something about it.
    Refused(Cause),
}

/// Keeps the state of `shared` true, for as long as it is polled.
pub(super) async fn keep(shared: Arc<Shared>, mut entropy: Entropy) {
    let Ok(backoff) = Backoff::new(FIRST_RETRY, LAST_RETRY) else { return };
    let mut attempt = 0;
    let mut told = String::new();
    loop {
        let Err(fail) = follow(&shared, &mut attempt).await;
        shared.primary.clear();
        if attempt == 0 {
            told.clear();
        }
        let state = match fail {
            Fail::Refused(why) => {
                if is_news(&mut told, why.to_string()) {
                    tracing::error!(database = %shared.primary.target.place, error = %why, "Database refused");
                }
                State::Refused(why)
            }
            fail => {
                let why = explain(&shared.primary.target, &fail);
                if is_news(&mut told, why.clone()) {
                    tracing::warn!(error = %why, "Database is not available");
                }
                State::Down(Fail::said(why).cause())
            }
        };
        shared.state.send_replace(state);
        sleep(backoff.delay(attempt, entropy.fraction())).await;
        attempt = attempt.saturating_add(1);
    }
}

/// Whether `why` is another reason than the last, so that an outage of hours is not told each second.
fn is_news(told: &mut String, why: String) -> bool {
    let news = *told != why;
    *told = why;
    news
}

/// Connects and stays until something fails.
async fn follow(shared: &Shared, attempt: &mut u32) -> Result<Infallible, Fail> {
    let (sender, mut notices) = mpsc::unbounded_channel();
    let pool = &shared.primary;
    let session = Session::connect(&pool.target, &pool.tasks, Some(sender)).await?;
    // A schema that vanished is not made anew: every server would take the empty registry for the truth.
    let had_one = shared.epoch.load(Ordering::Relaxed) != 0;
    migrate::migrate(&session, shared.disable_migration, had_one).await?;
    // Engines that only speak the protocol may not have it.
    let listen = session.batch("LISTEN vouchsafe_changes");
    let listens = matches!(timeout(HEARTBEAT_DEADLINE, listen).await, Ok(Ok(())));
    shared.listens.store(listens, Ordering::Relaxed);
    // Nobody takes the lock alone, so this waits for nobody; without such locks there is nothing to count.
    drop(timeout(HEARTBEAT_DEADLINE, session.batch(PRESENT)).await);
    heartbeat(shared, &session).await?;
    // What connected in the meantime may have met another one than this.
    pool.clear();
    shared.state.send_replace(State::Ready);
    tracing::info!(database = %pool.target.place, listens, "Database is available");
    *attempt = 0;
    let interval = if listens { HEARTBEAT } else { POLL };
    let mut next = Instant::now() + interval;
    loop {
        tokio::select! {
            notice = notices.recv() => match notice {
                Some(position) => shared.publish(crate::change::Position(position)),
                None => return Err(Fail::said("the connection ended")),
            },
            () = shared.suspect.notified() => next = next.min(Instant::now()),
            () = sleep_until(next) => {
                heartbeat(shared, &session).await?;
                next = Instant::now() + interval;
            }
        }
    }
}

async fn heartbeat(shared: &Shared, session: &Session) -> Result<(), Fail> {
    let before = *shared.newest.borrow();
    let Ok(head) = timeout(HEARTBEAT_DEADLINE, feed::head(session)).await else {
        return Err(Fail::said(format!("no answer within {HEARTBEAT_DEADLINE:?}")));
    };
    let head = head?;
    shared.epoch.store(head.epoch, Ordering::Relaxed);
    if head.newest < before {
        // Whoever reads on from later than this has to hear that the database was set back.
        tracing::warn!(known = before.0, found = head.newest.0, "Database was set back");
        shared.newest.send_replace(head.newest);
    } else {
        shared.publish(head.newest);
    }
    Ok(())
}

/// Held for as long as the connection lives: who uses the database is seen by it.
const PRESENT: &str = "SELECT pg_advisory_lock_shared(1447249991)";
/// How many hold it.
pub(super) const COUNT_PRESENT: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND classid = 0 AND objid = 1447249991 AND objsubid = 1 AND mode = 'ShareLock'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
/// How often the database is asked whether it is there.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often it is asked for changes when it cannot tell.
const POLL: Duration = Duration::from_millis(500);
/// Longest that the answer takes.
const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(5);
/// First and last pause between attempts to connect.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(1);
