//! What the agent tries again, and what it puts right by itself.

/// What is tried again after a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retry {
    /// Synchronization.
    Synchronize,
    /// A batch of X.509-SVIDs.
    Issue,
    /// A JWT-SVID that is renewed in the background.
    IssueJwt,
    /// Renewal, or repeated attestation, of the agent's own SVID.
    RenewAgent,
    /// The first attestation.
    Attest,
}

impl Retry {
    pub(super) const ALL: [Self; 5] =
        [Self::Synchronize, Self::Issue, Self::IssueJwt, Self::RenewAgent, Self::Attest];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Synchronize => "synchronize",
            Self::Issue => "issue",
            Self::IssueJwt => "issue_jwt",
            Self::RenewAgent => "renew_agent",
            Self::Attest => "attest",
        }
    }
}

/// What the agent puts right without anyone's help.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Repair {
    /// A server that had failed answers again, over a new connection if it needed one.
    Reconnect,
    /// Another server is used from now on.
    Takeover,
    /// The state of the last run is served after a start.
    Reload,
    /// The agent attested again, because the server no longer took its SVID.
    Reattest,
    /// The server is known by the configured bundle again.
    Rebootstrap,
    /// SVIDs of an authority that is tainted or gone are replaced, counted per batch.
    ReplaceDistrusted,
    /// An older state of the server is believed, because it did not go away.
    AcceptOlder,
}

impl Repair {
    pub(super) const ALL: [Self; 7] = [
        Self::Reconnect,
        Self::Takeover,
        Self::Reload,
        Self::Reattest,
        Self::Rebootstrap,
        Self::ReplaceDistrusted,
        Self::AcceptOlder,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reconnect => "reconnect",
            Self::Takeover => "takeover",
            Self::Reload => "reload",
            Self::Reattest => "reattest",
            Self::Rebootstrap => "rebootstrap",
            Self::ReplaceDistrusted => "replace_distrusted",
            Self::AcceptOlder => "accept_older",
        }
    }
}
