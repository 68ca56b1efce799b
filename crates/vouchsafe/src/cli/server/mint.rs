//! What `x509 mint` and `jwt mint` share.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use tonic::transport::Channel;
use tonic::{Response, Status};
use vouchsafe_types::SpiffeId;

use super::ServerCall;
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(super) struct MintFlags {
    /// SPIFFE ID of the SVID
    #[arg(long = "spiffeID", value_name = "id", default_value = "", hide_default_value = true)]
    spiffe_id: String,
    /// TTL of the SVID
    #[arg(long = "ttl", value_name = "duration", default_value = "0s", value_parser = go::parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    pub(super) call: ServerCall,
}

impl MintFlags {
    /// Refuses a command without a SPIFFE ID, before anything else is looked at.
    pub(super) fn require_id(&self) -> anyhow::Result<()> {
        if self.spiffe_id.is_empty() {
            bail!("spiffeID must be specified");
        }
        Ok(())
    }

    pub(super) fn id(&self) -> anyhow::Result<SpiffeId> {
        Ok(SpiffeId::parse(&self.spiffe_id)?)
    }

    /// Whole seconds of the lifetime, rounded up, as SPIRE does.
    pub(super) fn ttl_seconds(&self) -> anyhow::Result<i32> {
        let seconds = self.ttl.as_secs() + u64::from(self.ttl.subsec_nanos() > 0);
        i32::try_from(seconds).map_err(|_| {
            // SPIRE prints the number of seconds as one of nanoseconds.
            let printed = go::format_duration(Duration::from_nanos(seconds));
            anyhow!("invalid value for TTL: overflow converting time.Duration({printed}) to int32")
        })
    }

    pub(super) async fn mint<T>(
        &self,
        console: &Console<'_>,
        call: impl AsyncFnOnce(Channel) -> Result<Response<T>, Status>,
    ) -> anyhow::Result<T> {
        self.call.call("unable to mint SVID", console, call).await
    }

    /// Says so when an SVID lives for less than was asked for.
    pub(super) fn warn_if_capped(
        &self,
        kind: &str,
        expires_at: i64,
        console: &mut Console<'_>,
    ) -> anyhow::Result<()> {
        let remaining = u64::try_from(expires_at - console.clock.unix_now()).unwrap_or(0);
        // The token says whole seconds, and a moment has passed since it was made.
        if Duration::from_secs(remaining + 2) < self.ttl {
            let end = go::quote(&go::rfc3339(expires_at));
            writeln!(console.stderr, "{kind} lifetime was capped shorter than specified ttl; expires {end}")?;
        }
        Ok(())
    }
}
