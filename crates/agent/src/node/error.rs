//! Why the agent has no identity.

use std::time::Duration;

use tonic::{Code, Status};
use vouchsafe_ca::key_manager::KeyManagerError;
use vouchsafe_ca::signer::SignError;
use vouchsafe_identity::own::OwnSvidError;
use vouchsafe_proto::denial::{self, Reason};
use vouchsafe_runtime::class::Class;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::attestor::{EvidenceError, NodeAttestor};
use crate::data_dir::DataDirError;
use crate::server_client::shown;

/// Why the agent has no identity, or loses it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The server refused to attest this node.
    #[error("node attestation was refused by the server: {message}; {advice}")]
    Refused {
        /// The server's words.
        message: String,
        /// What a person can do.
        advice: &'static str,
    },
    /// There is nothing to attest with.
    #[error(
        "this agent has no SVID and no join token to get one with; create a token on the server with `token generate` and give it as join_token"
    )]
    NoAttestor,
    /// What the agent would prove itself by cannot be read or used; a retry is sensible.
    #[error("this node cannot be attested: {0}")]
    Evidence(#[source] EvidenceError),
    /// The budget for attestations is spent for so long.
    #[error("this agent attested a moment ago; it attests again in {0:?}")]
    TooSoon(Duration),
    /// The operator wants the bundle to be replaced when the server is somebody else, which this agent cannot do.
    #[error(
        "you have requested rebootstrap support but the NodeAttestor plugin or the spire server configuration is not allowing it; use rebootstrap_mode \"auto\" or \"never\", or an attestor such as x509pop"
    )]
    CannotRebootstrap,
    /// The data directory is that of an agent of another trust domain.
    #[error(
        "the data directory holds the SVID of {id}, and this agent is configured for the trust domain {expected}; use another data_dir, or move agent-data.json away to attest anew"
    )]
    OtherTrustDomain {
        /// Whose SVID it is.
        id: Box<SpiffeId>,
        /// The configured trust domain.
        expected: TrustDomain,
    },
    /// The agent is banned.
    #[error(
        "the server has banned this agent; evict it there and give the agent a new join token to bring it back"
    )]
    Banned,
    /// The agent was evicted.
    #[error(
        "the server does not know this agent any more; let it attest again, for example with a new join token"
    )]
    Evicted,
    /// The server did not answer, or not usefully; a retry is sensible.
    #[error("{}", shown(.0))]
    Server(Status),
    /// The key manager failed.
    #[error("the agent's key cannot be used")]
    Key(#[source] KeyManagerError),
    /// The key manager keeps keys that cannot be used for TLS.
    #[error("the agent's key manager does not give TLS access to the key {0}")]
    ForeignKey(String),
    /// A request could not be signed.
    #[error("the request for the agent's certificate cannot be signed")]
    Sign(#[source] SignError),
    /// The server issued something that is not an SVID of this agent.
    #[error("the server issued an unusable agent SVID: {0}")]
    Unusable(String),
    /// See [`OwnSvidError`].
    #[error("the agent's SVID cannot be used")]
    Own(#[source] OwnSvidError),
    /// See [`DataDirError`].
    #[error(transparent)]
    DataDir(DataDirError),
}

impl NodeError {
    pub(super) fn refused(attestor: &NodeAttestor, status: &Status) -> Self {
        let advice = match attestor {
            NodeAttestor::JoinToken(_) => {
                "a join token works once and for a limited time, create another with `token generate`"
            }
            NodeAttestor::X509Pop(_) => {
                "the server's NodeAttestor \"x509pop\" must know an authority of the agent's certificate (ca_bundle_path), and the agent must not be banned"
            }
            NodeAttestor::K8sPsat(_) => {
                "the server's NodeAttestor \"k8s_psat\" must allow the service account of the agent's Pod (service_account_allow_list), and the agent must not be banned"
            }
        };
        Self::Refused { message: status.message().to_owned(), advice }
    }

    /// What the server denies this agent as a whole, if that is it.
    #[must_use]
    pub fn denial(&self) -> Option<Reason> {
        match self {
            Self::Server(status) => denial::reason(status),
            _ => None,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { .. }
            | Self::NoAttestor
            | Self::Banned
            | Self::Evicted
            | Self::CannotRebootstrap
            | Self::OtherTrustDomain { .. }
            | Self::ForeignKey(_) => Class::Permanent,
            Self::Server(_) | Self::TooSoon(_) => Class::Transient,
            Self::Evidence(error) => error.class(),
            Self::Unusable(_) => Class::Peer,
            Self::Key(error) => error.class(),
            Self::Sign(error) => error.class(),
            Self::Own(_) => Class::Bug,
            Self::DataDir(error) => error.class(),
        }
    }

    /// Whether trying again cannot help: an operator must do something.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.class() == Class::Permanent
    }

    /// The gRPC status that stands for it in metrics.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Server(status) => status.code(),
            Self::Refused { .. } | Self::Banned | Self::Evicted => Code::PermissionDenied,
            _ => Code::Unknown,
        }
    }
}
