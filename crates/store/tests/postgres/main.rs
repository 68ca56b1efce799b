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

use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_store::postgres::Settings;
use vouchsafe_store::{Postgres, Store};
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

pub(crate) async fn refusal(settings: &Settings) -> String {
    let error = open_with(settings).ping().await.unwrap_err();
    let text = format!("{} {error:?}", told(&error));
    assert!(!text.contains(PASSWORD) && !text.contains("hunter2"), "{text}");
    told(&error)
}
