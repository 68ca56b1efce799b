//! Writes everything once and ends, for init containers and scripts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;

use super::folder::WriteError;
use super::render::{RenderError, Rendered};
use super::settings::Settings;
use super::slot::{Slot, folder, render, slots};
use super::source::{Answer, Source};
use super::writer::WriterError;

/// Writes everything once. An agent that is away, fails or has not the identity that is wanted is asked for up to [`PATIENCE`].
///
/// # Errors
///
/// The first file that could not be had or written.
pub async fn write_once(settings: &Settings, clock: Clock, entropy: Entropy) -> Result<(), OnceError> {
    let folder = Arc::new(folder(settings));
    let until = Instant::now() + PATIENCE;
    for slot in slots(settings) {
        let source = Source::new(&settings.socket, clock.clone(), entropy.fork(&format!("{slot:?}")));
        let asked = || ask(source.clone(), slot, settings, clock.unix_now());
        let rendered = repeat(source.clone(), until, asked).await?;
        let put = {
            let folder = Arc::clone(&folder);
            blocking::run(move || folder.put(&rendered.files)).await
        };
        put.map_err(|error| OnceError::Bug(WriterError(error)))?
            .map_err(|source| OnceError::Unwritten { source })?;
        tracing::info!(?slot, "Files are up to date");
    }
    Ok(())
}

/// What `ask` gives, or its last failure once it is `until`.
async fn repeat<T, A: Future<Output = Result<T, OnceError>>>(
    mut pauses: Source,
    until: Instant,
    ask: impl Fn() -> A,
) -> Result<T, OnceError> {
    let mut failures = 0;
    let mut last = OnceError::refused(Status::deadline_exceeded("it did not answer"));
    loop {
        match timeout_at(until, ask()).await {
            Ok(Ok(given)) => return Ok(given),
            Ok(Err(error)) if !error.may_pass() => return Err(error),
            Ok(Err(error)) => last = error,
            Err(_) => return Err(last),
        }
        let status = match &last {
            OnceError::Refused { source } => (**source).clone(),
            OnceError::Unusable { source } => Status::permission_denied(source.to_string()),
            other => Status::internal(other.to_string()),
        };
        if timeout_at(until, pauses.pause("once", &status, &mut failures)).await.is_err() {
            return Err(last);
        }
    }
}

async fn ask(mut source: Source, slot: Slot, settings: &Settings, now: i64) -> Result<Rendered, OnceError> {
    let answer = match slot {
        Slot::X509 => source.fetch_x509().await.map(|answer| Answer::X509(Box::new(answer))),
        Slot::JwtBundles => source.fetch_jwt_bundles().await.map(Answer::JwtBundles),
        Slot::JwtSvid(number) => {
            let answer = source.fetch_jwt_svids(&settings.jwt_svids[number].audience).await;
            answer.map(|answer| Answer::JwtSvids(number, answer))
        }
    };
    let (_, rendered) = render(&answer.map_err(OnceError::refused)?, settings, now);
    rendered.map_err(|source| OnceError::Unusable { source })
}

/// Why files were not written once.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    /// The Workload API did not give it.
    #[error("the Workload API gave no identity: {}", source.message())]
    Refused {
        /// What it said.
        source: Box<Status>,
    },
    /// It gave something that nobody could use.
    #[error("the Workload API's answer cannot be used")]
    Unusable {
        /// Why.
        source: RenderError,
    },
    /// The disk.
    #[error("the files were not written")]
    Unwritten {
        /// Why.
        source: WriteError,
    },
    /// Should be impossible.
    #[error(transparent)]
    Bug(WriterError),
}

impl OnceError {
    fn refused(status: Status) -> Self {
        Self::Refused { source: Box::new(status) }
    }

    /// Whether another question may have another answer. A request that is wrong stays wrong.
    fn may_pass(&self) -> bool {
        match self {
            Self::Refused { source } => !matches!(source.code(), Code::InvalidArgument | Code::Unimplemented),
            Self::Unusable { .. } => true,
            Self::Unwritten { .. } | Self::Bug(_) => false,
        }
    }
}

/// How long the agent is asked.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
