//! How an agent proves which node it is: the first message of an attestation, and the answers to the server's challenges.
//!
//! Everything that a proof is made of is read anew for each attestation, so that a certificate or token that was
//! replaced is found without a restart.

use std::fmt;

use vouchsafe_runtime::class::Class;
use vouchsafe_types::secret::SecretText;
use zeroize::Zeroizing;

use super::k8s_psat::K8sPsat;
use super::x509pop::{self, X509Pop};

/// The ways of proving it.
#[derive(Clone, Debug)]
pub enum NodeAttestor {
    /// By a token that the server gave out, and that it takes once.
    JoinToken(SecretText),
    /// By a certificate and its key.
    X509Pop(X509Pop),
    /// By the service account token of the agent's Pod.
    K8sPsat(K8sPsat),
}

/// One attestation: what is said first, and what answers challenges.
pub struct Evidence {
    /// The first message, in the attestor's own form.
    pub payload: Zeroizing<Vec<u8>>,
    proof: Proof,
}

/// What can be answered.
enum Proof {
    /// No challenge is expected.
    None,
    /// That we have the key of the certificate in the payload.
    Key(Box<x509pop::ProofKey>),
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Evidence([redacted])")
    }
}

impl NodeAttestor {
    /// The name that the server knows it by.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::JoinToken(_) => "join_token",
            Self::X509Pop(_) => "x509pop",
            Self::K8sPsat(_) => "k8s_psat",
        }
    }

    /// Whether what it proves by can be shown any number of times. The server may see that differently for one agent,
    /// and says so with each SVID.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        match self {
            Self::JoinToken(_) => false,
            Self::X509Pop(_) | Self::K8sPsat(_) => true,
        }
    }

    /// Begins an attestation.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`]: what cannot be read or used.
    pub async fn begin(&self) -> Result<Evidence, EvidenceError> {
        match self {
            Self::JoinToken(token) => {
                Ok(Evidence { payload: Zeroizing::new(token.as_bytes().to_vec()), proof: Proof::None })
            }
            Self::X509Pop(settings) => {
                let (payload, key) = settings.load().await?;
                Ok(Evidence { payload: Zeroizing::new(payload), proof: Proof::Key(Box::new(key)) })
            }
            Self::K8sPsat(settings) => Ok(Evidence { payload: settings.load().await?, proof: Proof::None }),
        }
    }
}

impl Evidence {
    /// Answers one challenge of the server.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`] for a challenge that this kind of proof has no answer to.
    pub fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, EvidenceError> {
        match &self.proof {
            Proof::None => Err(EvidenceError::Challenge("none was expected".to_owned())),
            Proof::Key(key) => key.answer(challenge),
        }
    }
}

/// Why nothing can be proved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// A file cannot be read.
    #[error("cannot read {path} ({key})")]
    Read {
        /// The configuration key that names it.
        key: &'static str,
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What a file holds cannot be used.
    #[error("{path} ({key}) cannot be used: {problem}")]
    Unusable {
        /// The configuration key that names it.
        key: &'static str,
        /// Which.
        path: std::path::PathBuf,
        /// In what way.
        problem: String,
    },
    /// The Workload API that the proof comes from did not give it.
    #[error("unable to fetch SVID from workload API: {0}")]
    WorkloadApi(String),
    /// The server asked something that has no answer.
    #[error("the server's challenge cannot be answered: {0}")]
    Challenge(String),
}

impl EvidenceError {
    /// Whose fault it is. Files are put right while the agent runs, so nothing is final.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Read { .. } | Self::Unusable { .. } | Self::WorkloadApi(_) => Class::Transient,
            Self::Challenge(_) => Class::Peer,
        }
    }
}
