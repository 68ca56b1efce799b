//! Authorities above this server's own: who certifies an X.509 authority instead of itself.
//!
//! An upstream authority is asked only when a new authority is prepared. One that is away delays that, and nothing
//! else: what is active goes on signing. Callers put a deadline on every call.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::watch;
use vouchsafe_runtime::class::Class;
use vouchsafe_types::bundle::{Bundle, JwtAuthority, X509Authority};

mod disk;

pub use disk::{Disk, DiskCa, DiskError, MAX_FILE_BYTES};

/// Certifies X.509 authorities.
#[async_trait]
pub trait UpstreamAuthority: Send + Sync + fmt::Debug {
    /// Its name in configuration files.
    fn name(&self) -> &'static str;

    /// Certifies the X.509 authority that asks with `csr` ([`crate::x509::csr::create_ca_csr`]).
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]; its class says whether a retry is sensible.
    async fn mint_x509_ca(
        &self,
        csr: &[u8],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<MintedCa, UpstreamError>;

    /// Makes a JWT authority known to whoever trusts the upstream authority.
    ///
    /// # Errors
    ///
    /// As [`UpstreamAuthority::mint_x509_ca`].
    async fn publish_jwt_key(&self, key: &JwtAuthority) -> Result<Published, UpstreamError>;

    /// Follows the authorities above. `None` if it never tells of changes; holds `None` until it has told once.
    fn watch(&self) -> Option<watch::Receiver<Option<Arc<Bundle>>>> {
        None
    }
}

/// What an upstream authority has certified.
#[derive(Clone, Debug)]
pub struct MintedCa {
    /// The CA certificate, then what leads to a root, without the root.
    pub chain: Vec<Arc<[u8]>>,
    /// All roots that the trust domain should have, with their taint.
    pub roots: Vec<X509Authority>,
}

/// What became of a JWT authority.
#[derive(Clone, Debug)]
pub enum Published {
    /// It is known, and these are all that are.
    Known(Vec<JwtAuthority>),
    /// The upstream authority knows nothing of JWT authorities.
    Unsupported,
}

/// An upstream authority did not do it.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The files of the `disk` authority.
    #[error(transparent)]
    Disk(DiskError),
    /// It did not answer in time.
    #[error("no answer from the upstream authority within {0:?}")]
    Deadline(Duration),
    /// Another server, or what leads to it.
    #[error("{what}")]
    Remote {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl UpstreamError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Disk(error) => error.class(),
            Self::Deadline(_) => Class::Transient,
            Self::Remote { .. } => Class::Peer,
        }
    }
}
