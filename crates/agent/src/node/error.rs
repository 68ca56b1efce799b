//! Why the agent has no identity.

use tonic::{Code, Status};
use vouchsafe_ca::key_manager::KeyManagerError;
use vouchsafe_ca::signer::SignError;
use vouchsafe_identity::own::OwnSvidError;
use vouchsafe_runtime::class::Class;

use crate::data_dir::DataDirError;
use crate::server_client::shown;

/// Why the agent has no identity, or loses it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The server refused to attest this node.
    #[error(
        "node attestation was refused by the server: {message}; a join token works once and for a limited time, create another with `token generate`"
    )]
    Refused {
        /// The server's words.
        message: String,
    },
    /// There is no token.
    #[error(
        "this agent has no SVID and no join token to get one with; create a token on the server with `token generate` and give it as join_token"
    )]
    NoToken,
    /// The agent is banned.
    #[error(
        "the server has banned this agent; evict it there and give the agent a new join token to bring it back"
    )]
    Banned,
    /// The agent was evicted.
    #[error("the server does not know this agent any more; give it a new join token")]
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
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { .. } | Self::NoToken | Self::Banned | Self::Evicted | Self::ForeignKey(_) => {
                Class::Permanent
            }
            Self::Server(_) => Class::Transient,
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
