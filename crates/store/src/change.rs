//! Positions in the change feed, and what is read there.

use std::fmt;

use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::federation::FederationRelationship;
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::secret::SecretText;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::error::Error;
use crate::store::Store;

/// A place in the change feed of one epoch. Opaque: only order and equality mean something, and the numbers
/// may have holes.
///
/// A reader whose position is at or after the one that a write returned has seen that write.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position(pub u64);

impl Position {
    /// Before the first change of all.
    pub const START: Self = Self(0);
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// That something changed, and what it is now: `None` when it is gone.
///
/// The value is the current one, which may be newer than the change itself; its own change then follows
/// further on. Applying a change twice, or an older one after a newer one of the same reading, is harmless.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// A registration entry.
    Entry(EntryId, Option<Entry>),
    /// An attested agent.
    Agent(SpiffeId, Option<Agent>),
    /// The bundle of a trust domain.
    Bundle(TrustDomain, Option<Bundle>),
    /// A join token, by its value.
    JoinToken(SecretText, Option<JoinToken>),
    /// The federation relationship with a trust domain.
    Federation(TrustDomain, Option<FederationRelationship>),
}

/// One reading of the feed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changes {
    /// What changed, oldest first; at most one change per object.
    pub changes: Vec<Change>,
    /// Where to go on from.
    pub position: Position,
    /// Whether this was all there was. Otherwise read again from `position`.
    pub complete: bool,
}

/// One object, as [`Store::load`] delivers it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// A registration entry.
    Entry(Entry),
    /// An attested agent.
    Agent(Agent),
    /// The bundle of a trust domain.
    Bundle(Bundle),
    /// A join token that was neither used nor pruned.
    JoinToken(JoinToken),
    /// A federation relationship.
    Federation(FederationRelationship),
}

/// Everything, collected. For small stores, tests and tools; a server streams with [`Store::load`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// The position that the objects belong to.
    pub position: Position,
    /// In order of creation.
    pub entries: Vec<Entry>,
    /// In order of first attestation.
    pub agents: Vec<Agent>,
    /// In order of trust domain.
    pub bundles: Vec<Bundle>,
    /// In order of creation.
    pub join_tokens: Vec<JoinToken>,
    /// In order of trust domain.
    pub federation: Vec<FederationRelationship>,
}

impl Snapshot {
    /// Reads everything from `store` at one position.
    ///
    /// # Errors
    ///
    /// Those of [`Store::load`].
    pub async fn load(store: &dyn Store) -> Result<Self, Error> {
        let mut all = Self::default();
        let position = store
            .load(&mut |record| match record {
                Record::Entry(entry) => all.entries.push(entry),
                Record::Agent(agent) => all.agents.push(agent),
                Record::Bundle(bundle) => all.bundles.push(bundle),
                Record::JoinToken(token) => all.join_tokens.push(token),
                Record::Federation(relationship) => all.federation.push(relationship),
            })
            .await?;
        all.position = position;
        Ok(all)
    }
}
