//! One line that says how things are: redrawn on a terminal, printed when it changes elsewhere.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vouchsafe_agent::{AgentStatus, Phase};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_server::Running;

/// What is shown.
pub(super) struct View {
    pub(super) server: Arc<Running>,
    pub(super) status: watch::Receiver<AgentStatus>,
    pub(super) clock: Clock,
    pub(super) terminal: bool,
}

impl View {
    /// Shows until `cancel`. A reader that has gone is not an error.
    pub(super) async fn run(self, cancel: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut shown = String::new();
        loop {
            let line = self.line();
            let mut out = std::io::stdout();
            let written = if self.terminal {
                write!(out, "\r\x1b[K{line}").and_then(|()| out.flush())
            } else if line == shown {
                Ok(())
            } else {
                writeln!(out, "{line}")
            };
            shown = line;
            tokio::select! {
                () = cancel.cancelled() => {
                    if self.terminal && written.is_ok() {
                        writeln!(out).unwrap_or_default();
                    }
                    return Ok(());
                }
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    fn line(&self) -> String {
        let status = self.status.borrow().clone();
        let (entries, agents) = self.server.counts();
        let phase = match status.phase {
            Phase::Attesting => "attesting",
            Phase::Synchronizing => "synchronizing",
            Phase::Serving => "serving",
            Phase::Refused => "refused",
        };
        let mut line = format!(
            "server: {entries} entries, {agents} agents | agent: {phase}, {} X.509-SVIDs, {} JWT-SVIDs",
            status.x509_svids, status.jwt_svids
        );
        if let Some(expires_at) = status.svid_expires_at.filter(|_| self.terminal) {
            line += &format!(", own SVID for {} s", (expires_at - self.clock.unix_now()).max(0));
        }
        if let Some(synced) = status.last_sync.filter(|_| self.terminal) {
            let age = self.clock.now().duration_since(synced).unwrap_or_default().as_secs();
            line += &format!(", synchronized {age} s ago");
        }
        if let Some(error) = status.sync_error {
            line += &format!(" | {error}");
        }
        line
    }
}
