//! What can go wrong between here and the cluster, and whose fault it is.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_runtime::class::Class;

/// Why a [`Cluster`](crate::Cluster) could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no service account, or no address of the API server, in this process's surroundings.
    #[error(
        "not in a cluster: no KUBERNETES_SERVICE_HOST or no service account token is mounted (set a kubeconfig file to reach a cluster from outside)"
    )]
    NotInCluster(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kubeconfig file cannot be read or lacks something.
    #[error("kubeconfig {} cannot be used", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Certificates or credentials that the configuration names cannot be used.
    #[error("credentials for the Kubernetes API cannot be used")]
    Credentials(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The folder of manifests cannot be read or written.
    #[error("folder {} cannot be used", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        Class::Caller
    }
}

/// What was being done, to say so in an error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// `get`, `list`, `watch`, `create`, `apply`, `apply status`, `delete`, `review`.
    pub verb: &'static str,
    /// The kind, as in `kubectl get KIND`.
    pub kind: Box<str>,
    /// The object, when there is one.
    pub name: Option<Box<str>>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.kind)?;
        match &self.name {
            Some(name) => write!(f, " {name}"),
            None => Ok(()),
        }
    }
}

/// Why a call to the cluster has no good answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The API server answered with an error.
    #[error("{call}: {code} {reason}: {message}")]
    Refused {
        /// What was being done.
        call: Call,
        /// The HTTP status.
        code: u16,
        /// Kubernetes' word for it, such as `NotFound`. May be empty.
        reason: String,
        /// What the API server says. Cut at 1,024 characters.
        message: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// No answer: the API server cannot be reached, or the connection broke.
    #[error("{call}: the Kubernetes API cannot be reached")]
    Unreachable {
        /// What was being done.
        call: Call,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{call}: no answer within {after:?}")]
    TimedOut {
        /// What was being done.
        call: Call,
        /// How long was waited.
        after: Duration,
    },
    /// An answer that is larger than what is taken.
    #[error("{call}: the answer is larger than {limit} bytes")]
    TooLarge {
        /// What was being done.
        call: Call,
        /// The most that is taken.
        limit: usize,
    },
    /// An answer that cannot be read.
    #[error("{call}: the answer cannot be read: {detail}")]
    Garbled {
        /// What was being done.
        call: Call,
        /// Where and why, without what was in it.
        detail: String,
    },
    /// A request that cannot be made, such as for an object without a name.
    #[error("{call}: {detail}")]
    Invalid {
        /// What was being done.
        call: Call,
        /// What is wrong with it.
        detail: String,
    },
    /// A file of the folder of manifests could not be read or written.
    #[error("{call}: {}", path.display())]
    File {
        /// What was being done.
        call: Call,
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

impl ClusterError {
    /// Whose fault it is: decides retry, log level and status.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { code, .. } => match code {
                401 | 403 => Class::Permanent,
                408 | 409 | 410 | 425 | 429 | 500..=599 => Class::Transient,
                _ => Class::Caller,
            },
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::File { .. } => Class::Transient,
            Self::TooLarge { .. } | Self::Garbled { .. } => Class::Peer,
            Self::Invalid { .. } => Class::Caller,
        }
    }

    /// The HTTP status that the API server answered with, or would have.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Another field manager or another version is in the way, or it exists already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// RBAC does not allow it, or an admission policy refused it.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    /// There is no such object, or no such kind.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The position is gone: `410 Gone` or `Expired`.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }

    /// The API server as a whole gave no answer, or does not know who asks: not a trouble of one kind.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Refused { code: 401, .. })
    }

    /// What lies under it, for a log: the innermost cause, or nothing.
    #[must_use]
    pub fn cause(&self) -> String {
        let mut cause = std::error::Error::source(self);
        while let Some(next) = cause.and_then(std::error::Error::source) {
            cause = Some(next);
        }
        cause.map(ToString::to_string).unwrap_or_default()
    }

    /// How long the API server asks to wait before the next attempt.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16) -> ClusterError {
        let call = Call { verb: "get", kind: "pods".into(), name: Some("a/b".into()) };
        ClusterError::Refused { call, code, reason: "R".into(), message: "m".into(), retry_after: None }
    }

    #[test]
    fn what_the_api_server_refuses_is_sorted_by_whose_fault_it_is() {
        for (code, class) in [
            (400, Class::Caller),
            (401, Class::Permanent),
            (403, Class::Permanent),
            (404, Class::Caller),
            (409, Class::Transient),
            (410, Class::Transient),
            (422, Class::Caller),
            (429, Class::Transient),
            (500, Class::Transient),
            (503, Class::Transient),
            (504, Class::Transient),
        ] {
            assert_eq!(refused(code).class(), class, "{code}");
        }
    }

    #[test]
    fn an_error_says_what_was_being_done_to_what() {
        assert_eq!(refused(404).to_string(), "get pods a/b: 404 R: m");
    }
}
