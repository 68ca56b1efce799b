//! A PostgreSQL of our own, and a streaming replica of it: the test kit's, which block and panic, behind a thread.

use std::sync::Arc;

use vouchsafe_testkit::postgres;

use crate::error::{Doing, Error};
use crate::programs;

/// A running database server on a port of the loopback interface. It ends with the value.
pub(crate) struct Cluster(Arc<postgres::Cluster>);

/// A standby of a [`Cluster`].
pub(crate) struct Replica(Arc<postgres::Replica>);

impl Cluster {
    /// A new primary with the database [`DATABASE`], which flushes what it commits.
    pub(crate) async fn primary() -> Result<Self, Error> {
        Self::start(&[MAX_CONNECTIONS]).await
    }

    /// The same, with as many connections as a replica has by default: one with fewer than its primary does not start.
    pub(crate) async fn primary_of_a_replica() -> Result<Self, Error> {
        Self::start(&[]).await
    }

    async fn start(settings: &'static [(&str, &str)]) -> Result<Self, Error> {
        programs::postgres()?;
        let started = aside("start PostgreSQL", || {
            let cluster = postgres::Cluster::start_with(settings);
            cluster.create_database(DATABASE);
            cluster
        });
        Ok(Self(Arc::new(started.await?)))
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port()
    }

    /// How it is reached through `port`, as SPIRE's `connection_string` has it.
    pub(crate) fn connection_string(&self, port: u16) -> String {
        self.0.connection_string_by(port, DATABASE)
    }

    /// A replica that follows this one.
    pub(crate) async fn replica(&self) -> Result<Replica, Error> {
        let primary = self.0.clone();
        Ok(Replica(Arc::new(aside("start a replica", move || primary.replica()).await?)))
    }

    /// Ends it as a power cut would.
    pub(crate) async fn kill(&self) -> Result<(), Error> {
        let cluster = self.0.clone();
        aside("kill PostgreSQL", move || cluster.kill()).await
    }
}

impl Replica {
    pub(crate) fn port(&self) -> u16 {
        self.0.cluster().port()
    }

    /// Stops replaying, when it has all that the primary has now.
    pub(crate) async fn pause_after(&self, primary: &Cluster) -> Result<(), Error> {
        let (replica, primary) = (self.0.clone(), primary.0.clone());
        aside("pause the replica", move || {
            replica.wait_for(&primary);
            replica.pause();
        })
        .await
    }
}

async fn aside<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    vouchsafe_runtime::blocking::run(work).await.doing(doing)
}

const DATABASE: &str = "spire";
/// SPIRE opens up to 100 for each server.
const MAX_CONNECTIONS: (&str, &str) = ("max_connections", "400");
