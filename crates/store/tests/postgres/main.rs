//! PostgreSQL with several servers, and when it is away, slow, foreign or half there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod feed;
mod outages;
mod proxy;
mod reach;
mod standby;
mod tls;
mod together;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_store::postgres::Settings;
use vouchsafe_store::{Error, Outcome, Postgres, Store};
use vouchsafe_testkit::postgres::{Cluster, PASSWORD};

pub(crate) fn open_with(settings: &Settings) -> Arc<Postgres> {
    Arc::new(Postgres::open(settings, Clock::system(), Entropy::from_seed(7)).unwrap())
}

pub(crate) fn open(cluster: &Cluster, database: &str) -> Arc<Postgres> {
    open_with(&Settings::new(cluster.connection_string(database)))
}

/// Every cause of an error, as an operator reads it.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(deeper) = source {
        text = format!("{text}: {deeper}");
        source = deeper.source();
    }
    text
}

/// What comes of a call that is made again while the database does not do it in the time that a server gives it: this machine
/// may be slow.
pub(crate) async fn settled<T, F: Future<Output = Result<T, Error>>>(call: impl FnMut() -> F) -> T {
    outcome(call).await.unwrap_or_else(|error| panic!("{}", told(&error)))
}

/// The same for a call that may be refused.
pub(crate) async fn outcome<T, F: Future<Output = Result<T, Error>>>(
    mut call: impl FnMut() -> F,
) -> Result<T, Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Err(Error::Unavailable { outcome: Outcome::NotWritten, .. }) if Instant::now() < until => {
                sleep(PAUSE).await;
            }
            settled => return settled,
        }
    }
}

/// Waits for what comes by itself.
pub(crate) fn in_time<T>(what: &str, coming: impl Future<Output = T>) -> impl Future<Output = T> {
    let what = format!("still not after {PATIENCE:?}: {what}");
    async move { timeout(PATIENCE, coming).await.expect(&what) }
}

/// The database is refused for a reason that has all of `parts`, which a machine that is slow may say after others.
pub(crate) async fn refused(settings: &Settings, parts: &[&str]) {
    let until = Instant::now() + PATIENCE;
    loop {
        let error = open_with(settings).ping().await.unwrap_err();
        let text = format!("{} {error:?}", told(&error));
        assert!(!text.contains(PASSWORD) && !text.contains("hunter2"), "{text}");
        let told = told(&error);
        if parts.iter().all(|part| told.contains(part)) {
            return;
        }
        assert!(Instant::now() < until, "{told} has not {parts:?}");
        sleep(PAUSE).await;
    }
}

/// A wait that shows nothing.
const PATIENCE: Duration = Duration::from_secs(300);
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
