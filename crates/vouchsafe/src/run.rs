//! Starts the parts.

use crate::config;

/// Runs a server until it is told to stop.
///
/// # Errors
///
/// It could not start, or one of its tasks failed.
pub fn server(config: config::server::Config) -> anyhow::Result<()> {
    anyhow::bail!("cannot run a server for {} yet", config.trust_domain)
}

/// Runs an agent until it is told to stop.
///
/// # Errors
///
/// It could not start, or one of its tasks failed.
pub fn agent(config: config::agent::Config) -> anyhow::Result<()> {
    anyhow::bail!("cannot run an agent for {} yet", config.trust_domain)
}

/// Runs server and agent in this process until told to stop.
///
/// # Errors
///
/// A part could not start, or one of its tasks failed.
pub fn up(config: config::up::Config) -> anyhow::Result<()> {
    anyhow::bail!("cannot run a server and an agent for {} yet", config.trust_domain)
}
