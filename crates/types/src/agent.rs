//! An attested node.

use serde::{Deserialize, Serialize};

use crate::selector::SelectorSet;
use crate::spiffe_id::SpiffeId;

/// What the server knows about an agent.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its identity, under `/spire/agent/`.
    pub id: SpiffeId,
    /// Name of the node attestor that admitted it, such as `join_token`.
    pub attestation_type: String,
    /// Serial number of its current X.509-SVID in decimal. Empty means that the agent is banned.
    pub serial_number: String,
    /// When its current X.509-SVID expires, in Unix seconds.
    pub expires_at: i64,
    /// Serial number of the X.509-SVID issued to it that it has not used yet, in decimal. May be empty.
    pub new_serial_number: String,
    /// When the X.509-SVID that it has not used yet expires, in Unix seconds. 0 if there is none.
    pub new_expires_at: i64,
    /// Whether it renews by attesting again instead of by its current SVID.
    pub can_reattest: bool,
    /// What its attestor found out about the node.
    pub selectors: SelectorSet,
    /// The version that it reported last. Empty until it reports one.
    pub agent_version: String,
}

impl Agent {
    /// Whether the agent is banned: known, and refused until it is evicted.
    #[must_use]
    pub fn is_banned(&self) -> bool {
        self.serial_number.is_empty()
    }

    /// Whether `serial` (decimal) belongs to an X.509-SVID that this agent may use now.
    #[must_use]
    pub fn owns_serial(&self, serial: &str) -> bool {
        !serial.is_empty() && (serial == self.serial_number || serial == self.new_serial_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(serial: &str, new_serial: &str) -> Agent {
        Agent {
            id: SpiffeId::parse("spiffe://td/spire/agent/join_token/a").unwrap(),
            attestation_type: "join_token".into(),
            serial_number: serial.into(),
            expires_at: 1,
            new_serial_number: new_serial.into(),
            new_expires_at: 0,
            can_reattest: false,
            selectors: SelectorSet::default(),
            agent_version: String::new(),
        }
    }

    #[test]
    fn an_agent_without_a_serial_is_banned() {
        assert!(agent("", "").is_banned());
        assert!(!agent("7", "").is_banned());
    }

    #[test]
    fn an_agent_may_use_its_current_and_its_next_svid_and_no_empty_serial() {
        let both = agent("7", "8");
        assert!(both.owns_serial("7") && both.owns_serial("8"));
        assert!(!both.owns_serial("9"));
        assert!(!agent("", "").owns_serial(""));
        assert!(!agent("7", "").owns_serial(""));
    }
}
