//! A reader that follows a store as a server does.

use std::collections::BTreeMap;

use vouchsafe_store::{Change, Error, Position, Snapshot, Store};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::federation::FederationRelationship;
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::secret::SecretText;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Replica {
    pub(super) position: Position,
    entries: BTreeMap<EntryId, Entry>,
    agents: BTreeMap<SpiffeId, Agent>,
    bundles: BTreeMap<TrustDomain, Bundle>,
    join_tokens: BTreeMap<SecretText, JoinToken>,
    federation: BTreeMap<TrustDomain, FederationRelationship>,
}

impl Replica {
    pub(super) async fn load(store: &dyn Store) -> Self {
        let all = Snapshot::load(store).await.expect("a snapshot");
        Self {
            position: all.position,
            entries: all.entries.into_iter().map(|entry| (entry.id.clone(), entry)).collect(),
            agents: all.agents.into_iter().map(|agent| (agent.id.clone(), agent)).collect(),
            bundles: all.bundles.into_iter().map(|bundle| (bundle.trust_domain.clone(), bundle)).collect(),
            join_tokens: all.join_tokens.into_iter().map(|token| (token.value.clone(), token)).collect(),
            federation: all.federation.into_iter().map(|held| (held.trust_domain.clone(), held)).collect(),
        }
    }

    /// Reads on, `limit` events at a time, until there is nothing more. Says how many changes there were.
    pub(super) async fn follow(&mut self, store: &dyn Store, limit: usize) -> Result<usize, Error> {
        let mut seen = 0;
        loop {
            let read = store.changes_after(self.position, limit).await?;
            assert!(read.position >= self.position, "the feed went back");
            seen += read.changes.len();
            read.changes.into_iter().for_each(|change| self.apply(change));
            self.position = read.position;
            if read.complete {
                return Ok(seen);
            }
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Entry(id, now) => set(&mut self.entries, id, now),
            Change::Agent(id, now) => set(&mut self.agents, id, now),
            Change::Bundle(trust_domain, now) => set(&mut self.bundles, trust_domain, now),
            Change::JoinToken(value, now) => set(&mut self.join_tokens, value, now),
            Change::Federation(trust_domain, now) => set(&mut self.federation, trust_domain, now),
        }
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, now: Option<V>) {
    match now {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
