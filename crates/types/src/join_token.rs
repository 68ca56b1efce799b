//! The one-time secret of a node that has no better proof of who it is.

use serde::{Deserialize, Serialize};

use crate::secret::SecretText;

/// A join token: whoever presents it first becomes the agent `/spire/agent/join_token/<value>`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The secret, redacted in `Debug` and cleared when dropped.
    pub value: SecretText,
    /// Unix seconds after which the token no longer admits anyone.
    pub expires_at: i64,
}

impl JoinToken {
    /// Whether the token no longer admits anyone at `now` (Unix seconds).
    #[must_use]
    pub fn is_expired(&self, now: i64) -> bool {
        self.expires_at < now
    }
}
