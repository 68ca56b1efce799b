//! Everything that the server answers from, in memory.
//!
//! A [`Snapshot`] is immutable and shared; a change makes a new one that shares what did not change, so a reader
//! never waits for a writer and a writer copies a handful of nodes. It knows the feed position that it reflects and
//! only moves forward (DESIGN §4).

mod entries;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use imbl::{HashMap, OrdMap};
use tokio::sync::watch;
use vouchsafe_store::{Change, Error as StoreError, Position, Record, Store};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::federation::FederationRelationship;
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::secret::SecretText;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::history::{Doubt, Verdict, judge};

pub use entries::Entries;
pub(crate) use entries::{is_alias, is_live};

/// The held state, swapped as a whole.
#[derive(Debug)]
pub struct ReadModel {
    snapshot: ArcSwap<Snapshot>,
    position: watch::Sender<Position>,
    doubt: Arc<Doubt>,
}

/// State at one feed position.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Registration entries and their indexes.
    pub entries: Entries,
    /// Attested agents by SPIFFE ID.
    pub agents: OrdMap<SpiffeId, Arc<Agent>>,
    /// Bundles by trust domain, the server's own among them.
    pub bundles: HashMap<TrustDomain, Arc<Bundle>>,
    /// Join tokens that have not been used.
    pub join_tokens: HashMap<SecretText, JoinToken>,
    /// Where bundles of foreign trust domains are fetched from.
    pub federation: OrdMap<TrustDomain, Arc<FederationRelationship>>,
    /// Which database this is of: positions of two do not compare.
    epoch: u64,
    position: Position,
}

impl ReadModel {
    /// A model that holds what one complete read of `store` finds.
    ///
    /// # Errors
    ///
    /// Those of [`Store::load`].
    pub async fn read(store: &dyn Store) -> Result<Self, StoreError> {
        Ok(Self::new(Snapshot::read(store).await?))
    }

    /// A model that holds `snapshot`.
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self::with_doubt(snapshot, Arc::default())
    }

    /// The same, with what is known against the database.
    pub(crate) fn with_doubt(snapshot: Snapshot, doubt: Arc<Doubt>) -> Self {
        let position = watch::Sender::new(snapshot.position);
        Self { position, snapshot: ArcSwap::from_pointee(snapshot), doubt }
    }

    /// What is known against the database.
    pub(crate) fn doubt(&self) -> &Doubt {
        &self.doubt
    }

    /// The newest snapshot.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Follows the position, for whoever waits for a change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// Applies contiguous changes that lead to `position`. Called by the feed alone; changes that the model already
    /// holds are ignored, so it never goes back.
    pub(crate) fn apply(&self, changes: Vec<Change>, position: Position) {
        let held = self.load();
        if position <= held.position {
            return;
        }
        let mut next = Snapshot::clone(&held);
        for change in changes {
            next.apply(change);
        }
        next.position = position;
        self.publish(next);
    }

    /// Replaces everything by a complete read, if it may ([`judge`]). Otherwise nothing changes but the doubt.
    pub(crate) fn replace(&self, next: Snapshot, now: i64) -> Verdict {
        let held = self.load();
        let past = self.doubt.past();
        let verdict = judge(&held, &next, past, now);
        let at = (next.epoch == held.epoch).then_some(next.position);
        self.doubt.note(&verdict, past.after(&verdict, at));
        match verdict {
            Verdict::Taken => self.publish(next),
            // Who saves the state saves the doubt with it.
            Verdict::Behind(_) | Verdict::Refused(_) => self.position.send_modify(|_| {}),
        }
        verdict
    }

    /// Waits until the model reflects `position`, so that a caller reads what it has just written.
    ///
    /// Returns `false` when that took longer than [`SETTLE_TIMEOUT`]: the write is durable all the same. What is written to a
    /// database that was set back is not in what is held, whatever its position.
    pub async fn settled(&self, position: Position) -> bool {
        let mut watch = self.watch();
        let reached = watch.wait_for(|held| *held >= position && !self.doubt.exists());
        tokio::time::timeout(SETTLE_TIMEOUT, reached).await.is_ok_and(|held| held.is_ok())
    }

    fn publish(&self, next: Snapshot) {
        let position = next.position;
        self.snapshot.store(Arc::new(next));
        self.position.send_replace(position);
    }
}

/// Longest wait of [`ReadModel::settled`].
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

impl Snapshot {
    /// Reads everything from `store`, object by object.
    pub(crate) async fn read(store: &dyn Store) -> Result<Self, StoreError> {
        let mut snapshot = Self { epoch: store.epoch().await?, ..Self::default() };
        snapshot.position = store.load(&mut |record| snapshot.add(record)).await?;
        Ok(snapshot)
    }

    /// What was read from somewhere else, as of `position` of the database `epoch`.
    pub(crate) fn collect(epoch: u64, position: Position, records: impl Iterator<Item = Record>) -> Self {
        let mut snapshot = Self { epoch, position, ..Self::default() };
        records.for_each(|record| snapshot.add(record));
        snapshot
    }

    /// Which database this is of.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    fn add(&mut self, record: Record) {
        self.apply(match record {
            Record::Entry(entry) => Change::Entry(entry.id.clone(), Some(entry)),
            Record::Agent(agent) => Change::Agent(agent.id.clone(), Some(agent)),
            Record::Bundle(bundle) => Change::Bundle(bundle.trust_domain.clone(), Some(bundle)),
            Record::JoinToken(token) => Change::JoinToken(token.value.clone(), Some(token)),
            Record::Federation(held) => Change::Federation(held.trust_domain.clone(), Some(held)),
        });
    }

    /// The feed position that this snapshot reflects.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Entry(id, None) => self.entries.remove(&id),
            Change::Entry(_, Some(entry)) => self.entries.insert(Arc::new(entry)),
            Change::Agent(id, agent) => match agent {
                Some(agent) => drop(self.agents.insert(id, Arc::new(agent))),
                None => drop(self.agents.remove(&id)),
            },
            Change::Bundle(trust_domain, bundle) => match bundle {
                Some(bundle) => drop(self.bundles.insert(trust_domain, Arc::new(bundle))),
                None => drop(self.bundles.remove(&trust_domain)),
            },
            Change::JoinToken(value, token) => match token {
                Some(token) => drop(self.join_tokens.insert(value, token)),
                None => drop(self.join_tokens.remove(&*value)),
            },
            Change::Federation(trust_domain, held) => match held {
                Some(held) => drop(self.federation.insert(trust_domain, Arc::new(held))),
                None => drop(self.federation.remove(&trust_domain)),
            },
        }
    }
}
