//! `healthcheck` of both parts.

use anyhow::bail;
use clap::Args;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::socket::Target;
use super::told;
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(super) struct HealthFlags {
    /// Perform a less stringent health check
    #[arg(long = "shallow")]
    shallow: bool,
    /// Print verbose information
    #[arg(long = "verbose")]
    pub(super) verbose: bool,
}

/// Asks whoever listens at `target` how it is. `part` is its name: `server` or `agent`.
pub(super) async fn check(
    part: &str,
    target: &Target,
    flags: &HealthFlags,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    if flags.verbose {
        writeln!(console.stdout, "Checking {part} health...")?;
    }
    // There is only one depth of checks; the flag is accepted for scripts that set it.
    let _shallow = flags.shallow;
    let answer = match target.connect().await {
        Ok(channel) => HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await,
        Err(status) => Err(status),
    };
    let status = match answer {
        Ok(answer) => answer.into_inner().status,
        Err(status) => {
            if flags.verbose {
                let error = go::rpc_error(&status);
                writeln!(console.stderr, "Failed to check health: {}", told(&error, console))?;
            }
            bail!("unable to determine health");
        }
    };
    match ServingStatus::try_from(status) {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(other) => bail!("{part} returned status {}", go::quote(other.as_str_name())),
        Err(_) => bail!("{part} returned status {}", go::quote(&status.to_string())),
    }
}
