//! Reading the files of processes, which blocks: on threads of their own, [`MAX_LOOKS`] at a time for one attestor.
//! Further callers wait, within their attestor's deadline.

use std::sync::Arc;

use tokio::sync::Semaphore;
use vouchsafe_runtime::blocking;

use super::AttestorError;
use super::container::LocateError;

/// The threads of one attestor.
#[derive(Debug)]
pub struct Looks(Arc<Semaphore>);

impl Default for Looks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKS)))
    }
}

impl Looks {
    /// Runs `look`, which looks at process `pid`.
    ///
    /// # Errors
    ///
    /// What `look` found wrong.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; a look that has begun runs to its end.
    pub async fn run<T: Send + 'static>(
        &self,
        pid: i32,
        look: impl FnOnce() -> Result<T, LocateError> + Send + 'static,
    ) -> Result<T, AttestorError> {
        let failed = |what: String| AttestorError::Lookup { what, source: None };
        let stopped = |error: String| failed(format!("attestation thread: {error}"));
        let permit = Arc::clone(&self.0).acquire_owned().await.map_err(|error| stopped(error.to_string()))?;
        let work = move || {
            let _held_to_the_end = permit;
            look()
        };
        let outcome = blocking::run(work).await.map_err(|error| stopped(error.to_string()))?;
        outcome.map_err(|error| match error {
            LocateError::Read { source, .. } => {
                AttestorError::Lookup { what: format!("cannot read process {pid}"), source: Some(source) }
            }
            other => failed(other.to_string()),
        })
    }
}

/// Threads that look at processes at a time.
const MAX_LOOKS: usize = 16;
