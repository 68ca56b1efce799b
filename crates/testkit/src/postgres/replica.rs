//! A standby server.

use std::time::Duration;

use super::{Cluster, PASSWORD, START_ATTEMPTS, USER, programs};

/// A standby that follows a [`Cluster`] by streaming, and may be held back.
#[derive(Debug)]
pub struct Replica(Cluster);

impl Replica {
    pub(super) fn of(primary: &Cluster) -> Self {
        let cluster = Cluster::prepare(&[("fsync", "off"), ("hot_standby", "on")]);
        let source = format!("host=127.0.0.1 port={} user={USER} password={PASSWORD}", primary.port);
        let mut backup = cluster.programs.command("pg_basebackup", cluster.account.as_ref());
        // -R writes standby.signal and how to reach the primary.
        backup.args(["-R", "-X", "stream", "--checkpoint=fast", "--no-sync", "-d", &source]);
        programs::run(backup.arg("-D").arg(cluster.data()));
        cluster.start_again();
        Self(cluster)
    }

    /// The server itself: connection strings, stop, kill.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.0
    }

    /// Holds the standby at what it has: it goes on answering with older and older data.
    ///
    /// # Panics
    ///
    /// When it goes on following.
    pub fn pause(&self) {
        self.0.sql("postgres", "SELECT pg_wal_replay_pause()");
        for _ in 0..START_ATTEMPTS {
            if self.0.sql("postgres", "SELECT pg_get_wal_replay_pause_state()") == "paused" {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the replica is not held back");
    }

    /// Lets it catch up.
    pub fn resume(&self) {
        self.0.sql("postgres", "SELECT pg_wal_replay_resume()");
    }

    /// Waits until it has everything that the primary has now.
    ///
    /// # Panics
    ///
    /// When that takes longer than half a minute.
    pub fn wait_for(&self, primary: &Cluster) {
        let wanted = primary.sql("postgres", "SELECT pg_current_wal_lsn()");
        for _ in 0..START_ATTEMPTS {
            let there = self.0.sql("postgres", &format!("SELECT pg_last_wal_replay_lsn() >= '{wanted}'"));
            if there == "t" {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the replica does not catch up");
    }
}
