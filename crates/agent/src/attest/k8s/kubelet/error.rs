//! Why a kubelet gives no list, and what helps. Pure.

use std::path::PathBuf;

use http::StatusCode;
use vouchsafe_identity::serving::CertificateError;
use vouchsafe_identity::web;
use vouchsafe_transport::fetch;

use crate::attest::k8s::scanner::ListError;

/// Why there is no list. The texts begin as SPIRE's do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeletError {
    /// A file of the configuration cannot be read.
    #[error("unable to load {what}: {}", path.display())]
    File {
        /// What is in it.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The authorities cannot be used.
    #[error("unable to parse kubelet CA")]
    Authorities {
        /// Why.
        source: web::Error,
    },
    /// The client certificate cannot be used.
    #[error("unable to load keypair")]
    KeyPair {
        /// Why.
        source: CertificateError,
    },
    /// The file has something else.
    #[error("unable to load token: it is no text")]
    Token,
    /// Nobody answers, or somebody else does.
    #[error("unable to perform request")]
    Request {
        /// Why.
        source: fetch::Error,
    },
    /// The answer broke off, took too long or is too long.
    #[error("unable to read pods response")]
    Body {
        /// Why.
        source: fetch::Error,
    },
    /// It refuses.
    #[error("unexpected status code on pods response: {} {said}", status.as_u16())]
    Status {
        /// How.
        status: StatusCode,
        /// What it says.
        said: String,
    },
    /// What it sends is no list of Pods.
    #[error(transparent)]
    List(#[from] ListError),
    /// Would be a bug.
    #[error("reading the credentials: {0}")]
    Thread(String),
}

impl KubeletError {
    pub(super) fn of_fetch(source: fetch::Error) -> Self {
        match source {
            fetch::Error::Refused { target, source } => match source.downcast::<ListError>() {
                Ok(error) => Self::List(*error),
                Err(source) => Self::Body { source: fetch::Error::Refused { target, source } },
            },
            fetch::Error::Http { .. } | fetch::Error::BodyTooLong { .. } => Self::Body { source },
            other => Self::Request { source: other },
        }
    }

    /// The kind of failure, in metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Authorities { .. } | Self::KeyPair { .. } | Self::Token => {
                "credentials"
            }
            Self::Request { source: fetch::Error::TimedOut { .. } } => "timeout",
            Self::Request { source: fetch::Error::Handshake { .. } } => "tls",
            Self::Request { .. } => "unreachable",
            Self::Status { status: StatusCode::UNAUTHORIZED, .. } => "unauthorized",
            Self::Status { status: StatusCode::FORBIDDEN, .. } => "forbidden",
            Self::Status { .. } => "status",
            Self::Body { .. } | Self::List(_) => "garbage",
            Self::Thread(_) => "internal",
        }
    }

    /// What a person does about it.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self.kind() {
            "credentials" => {
                "the agent needs a readable token (token_path, in a Pod the projected service account token) or client certificate, and the cluster's CA (kubelet_ca_path)"
            }
            "tls" => {
                "if the kubelet's certificate is self-signed or has another name: give its CA as kubelet_ca_path and the node's name as node_name (MY_NODE_NAME), or set skip_kubelet_verification"
            }
            "unauthorized" => {
                "the kubelet does not know the agent: it must run with --authentication-token-webhook, and the token must be of this cluster and not expired"
            }
            "forbidden" => {
                "the agent's service account may not list Pods at the kubelet: its ClusterRole needs `get` on `nodes/proxy` (or `nodes/pods`)"
            }
            "garbage" => {
                "whoever answers is no kubelet, or something between cuts its answer: compare kubelet_secure_port with the node's kubelet"
            }
            _ => {
                "see whether the kubelet runs and where it listens: `systemctl status kubelet`, `ss -ltn`; the agent's Pod needs hostNetwork, or the node's name in MY_NODE_NAME"
            }
        }
    }
}
