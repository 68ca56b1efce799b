//! What is in the file: as it is written, without a copy of what is served, and as it is read.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vouchsafe_proto::revisions::State;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::spiffe_id::SpiffeId;
use zeroize::Zeroizing;

use crate::bundles::Bundles;
use crate::entries::{EntryIndex, WorkloadEntry};
use crate::identities::{HeldSvid, Identities, Snapshot, secret_bytes};
use crate::jwt_cache::{CachedToken, JwtCache, JwtSlot, Token};
use crate::rotation::Lifetime;

/// What is written. Shares everything with what is served.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) shown: State,
    pub(super) tokens: Vec<(Arc<JwtSlot>, Arc<CachedToken>)>,
}

impl Serialize for Frozen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bundles = self.snapshot.bundles.as_deref();
        let svids = self.snapshot.svids.iter().map(|(entry_id, svid)| SvidRef {
            entry_id,
            spiffe_id: &svid.spiffe_id,
            issued_for: svid.issued_for,
            chain: &svid.chain,
            key: &svid.key,
            lifetime: svid.lifetime,
            authority_key_id: svid.authority_key_id.as_deref(),
        });
        let tokens = self.tokens.iter().map(|(slot, held)| TokenRef {
            entry_id: &slot.entry_id,
            audience: &slot.audience,
            issued_for: held.issued_for,
            token: &held.token,
        });
        let saved = SavedRef {
            own_bundle: bundles.map(|bundles| &bundles.own.bundle),
            federated: bundles
                .into_iter()
                .flat_map(|b| b.federated.values())
                .map(|view| &view.bundle)
                .collect(),
            entries: self.snapshot.index.iter().map(|slot| &slot.entry).collect(),
            svids: svids.collect(),
            tokens: tokens.collect(),
            shown: (self.shown.epoch, self.shown.position),
        };
        saved.serialize(serializer)
    }
}

#[derive(Serialize)]
struct SavedRef<'a> {
    own_bundle: Option<&'a Bundle>,
    federated: Vec<&'a Bundle>,
    entries: Vec<&'a WorkloadEntry>,
    svids: Vec<SvidRef<'a>>,
    tokens: Vec<TokenRef<'a>>,
    shown: (u64, u64),
}

#[derive(Serialize)]
struct SvidRef<'a> {
    entry_id: &'a EntryId,
    spiffe_id: &'a SpiffeId,
    issued_for: (i64, i64),
    chain: &'a [u8],
    key: &'a [u8],
    lifetime: Lifetime,
    authority_key_id: Option<&'a [u8]>,
}

#[derive(Serialize)]
struct TokenRef<'a> {
    entry_id: &'a EntryId,
    audience: &'a [String],
    issued_for: (i64, i64),
    token: &'a Token,
}

/// What is read: the same, owned.
#[derive(Deserialize)]
pub struct Saved {
    own_bundle: Option<Bundle>,
    federated: Vec<Bundle>,
    pub(super) entries: Vec<WorkloadEntry>,
    svids: Vec<SavedSvid>,
    tokens: Vec<SavedToken>,
    /// Epoch and position of [`Identities::shown`].
    shown: (u64, u64),
}

#[derive(Deserialize)]
struct SavedSvid {
    entry_id: EntryId,
    spiffe_id: SpiffeId,
    issued_for: (i64, i64),
    chain: Vec<u8>,
    #[serde(deserialize_with = "secret")]
    key: Zeroizing<Vec<u8>>,
    lifetime: Lifetime,
    authority_key_id: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct SavedToken {
    entry_id: EntryId,
    audience: Vec<String>,
    issued_for: (i64, i64),
    token: Token,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<Vec<u8>>, D::Error> {
    Vec::deserialize(deserializer).map(Zeroizing::new)
}

impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saved")
            .field("entries", &self.entries.len())
            .field("svids", &self.svids.len())
            .field("tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}

impl Saved {
    /// Serves what was saved. SVIDs whose entry changed meanwhile are renewed by the next plan.
    pub fn restore(self, identities: &Identities, cache: &JwtCache) {
        let index = EntryIndex::build(self.entries, &EntryIndex::default());
        for saved in self.tokens {
            let Some(slot) = index.get(saved.entry_id.as_str()) else { continue };
            let place = cache.slot(&saved.entry_id, &saved.audience, saved.token.lifetime.received_at);
            place.set(Arc::new(CachedToken::restored(saved.token, &slot.entry, saved.issued_for)));
        }
        let svids: HashMap<_, _> = self
            .svids
            .into_iter()
            .filter(|saved| {
                index.get(saved.entry_id.as_str()).is_some_and(|slot| slot.entry.spiffe_id == saved.spiffe_id)
            })
            .map(|saved| {
                let svid = HeldSvid {
                    spiffe_id: saved.spiffe_id,
                    issued_for: saved.issued_for,
                    chain: Bytes::from(saved.chain),
                    key: secret_bytes(saved.key),
                    lifetime: saved.lifetime,
                    authority_key_id: saved.authority_key_id.map(Vec::into_boxed_slice),
                };
                (saved.entry_id, Arc::new(svid))
            })
            .collect();
        identities.set_shown(State { epoch: self.shown.0, position: self.shown.1 });
        identities.edit(|snapshot| {
            snapshot.index = Arc::new(index);
            snapshot.svids = Arc::new(svids);
            snapshot.bundles =
                self.own_bundle.map(|own| Arc::new(Bundles::of(own.clone()).replace(own, self.federated).0));
            snapshot.synchronized = snapshot.bundles.is_some();
            true
        });
    }
}
