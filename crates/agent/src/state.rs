//! What an agent remembers across its own restarts: entries, bundles, SVIDs with their keys, JWT-SVIDs.
//!
//! Sealed under a key that the key manager holds, so a key manager that forgets (memory) has nothing to remember.
//! Written in the background after changes, at most every [`MIN_GAP`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use vouchsafe_ca::key_manager::KeyManager;
use vouchsafe_lastgood::{Persister, Saver, SealKey, SealedFile, Version};
use vouchsafe_proto::revisions::State;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::spiffe_id::SpiffeId;
use zeroize::Zeroizing;

use crate::bundles::Bundles;
use crate::data_dir::DataDir;
use crate::entries::{EntryIndex, WorkloadEntry};
use crate::identities::{HeldSvid, Identities, Snapshot, secret_bytes};
use crate::jwt_cache::{CachedToken, JwtCache, JwtSlot, Token};
use crate::jwt_issue::JwtIssuer;
use crate::rotation::Lifetime;
use crate::status::StatusBoard;

/// The file, if the key manager has a key for it.
#[must_use]
pub fn file(data_dir: &Path, key_manager: &dyn KeyManager) -> Option<SealedFile> {
    let key = SealKey::new(*key_manager.seal_key(KIND)?);
    Some(SealedFile::open(data_dir.join(FILE), key, MAX_BYTES, KIND))
}

/// What is written. Shares everything with what is served.
#[derive(Clone, Debug)]
pub struct Frozen {
    snapshot: Arc<Snapshot>,
    shown: State,
    tokens: Vec<(Arc<JwtSlot>, Arc<CachedToken>)>,
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
    entries: Vec<WorkloadEntry>,
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

/// Reads the file and serves what it holds. A file that cannot be used is said so in the log and left alone.
///
/// Returns the position to continue counting from, and when the server last confirmed the state.
#[must_use]
pub fn restore(file: &SealedFile, identities: &Identities, cache: &JwtCache) -> Option<(u64, SystemTime)> {
    match file.restore::<Saved>() {
        Ok(Some(restored)) => {
            info!(state = ?restored.value, confirmed_at = ?restored.confirmed_at, "serving from the state of the last run");
            let at = (restored.version.position, restored.confirmed_at);
            restored.value.restore(identities, cache);
            Some(at)
        }
        Ok(None) => None,
        Err(error) => {
            warn!(%error, "the state of the last run cannot be used; asking the server for everything");
            None
        }
    }
}

/// Hands changes to the writer.
pub struct StateLoop {
    /// What is served.
    pub identities: Arc<Identities>,
    /// The tokens.
    pub jwt: JwtIssuer,
    /// Writes.
    pub saver: Saver<Frozen>,
    /// The newest position on disk.
    pub position: u64,
    /// When the server confirmed the state.
    pub status: StatusBoard,
    /// Whose SVID says whether this agent may have a state.
    pub data_dir: Arc<DataDir>,
}

impl StateLoop {
    /// Saves changes until `cancel`. The writer ends after the last of them was handed to it, so that it is written too.
    ///
    /// # Errors
    ///
    /// Never; the signature is that of a supervised task.
    pub async fn run(
        mut self,
        persister: Persister<Frozen>,
        cancel: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        let (file, data_dir) = (persister.file().clone(), Arc::clone(&self.data_dir));
        // Whoever is banned or evicted does not come back with what it had.
        let is_forgotten = || matches!(data_dir.svid(), Ok(None));
        let handed_over = CancellationToken::new();
        let hand_over = async {
            cancel.run_until_cancelled(self.live()).await;
            if !is_forgotten() {
                self.submit();
            }
            handed_over.cancel();
        };
        tokio::join!(hand_over, persister.run(handed_over.clone()));
        if is_forgotten() {
            // Best effort: an agent without an SVID of its own serves nothing of it.
            drop(tokio::task::spawn_blocking(move || file.remove()).await);
        }
        Ok(())
    }

    /// Submits changes until the agent stops.
    async fn live(&mut self) {
        let (mut changes, mut issued) = (self.identities.watch(), self.jwt.issued());
        while !self.identities.is_closed() {
            tokio::select! {
                Ok(()) = changes.changed() => {}
                Ok(()) = issued.changed() => {}
                else => return,
            }
            changes.mark_unchanged();
            issued.mark_unchanged();
            self.submit();
            sleep(MIN_GAP).await;
        }
    }

    fn submit(&mut self) {
        // In this order: what is saved reflects at least that state.
        let shown = self.identities.shown();
        let snapshot = self.identities.load();
        let Some(confirmed_at) = self.status.watch().borrow().last_sync else { return };
        let tokens =
            self.jwt.cache().all().into_iter().filter_map(|slot| slot.held().map(|held| (slot, held)));
        let frozen = Frozen { tokens: tokens.collect(), snapshot, shown };
        self.position += 1;
        let version = Version { epoch: EPOCH, position: self.position };
        self.saver.submit(version, confirmed_at, Arc::new(frozen));
    }
}

const FILE: &str = "agent-state.sealed";

const KIND: &str = "agent-state";

/// The agent's own counting never starts anew: it continues from the file.
const EPOCH: u64 = 1;

/// A larger state is not written.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Shortest time between two writes.
pub const MIN_GAP: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::tests::entry;
    use crate::identities::tests::svid;
    use crate::server_client::ServerClient;
    use vouchsafe_identity::own::SvidCell;
    use vouchsafe_identity::roots::RootsCell;
    use vouchsafe_runtime::clock::Clock;
    use vouchsafe_runtime::entropy::Entropy;
    use vouchsafe_types::trust_domain::TrustDomain;

    #[test]
    fn what_was_served_before_a_restart_is_served_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = SealedFile::open(dir.path().join(FILE), SealKey::new([7; 32]), MAX_BYTES, KIND);
        let a = entry("a", &["unix:uid:1"]);
        let lifetime = Lifetime::new(0, 1_000, 0, b"t");
        let token = Token {
            text: "secret-token".into(),
            spiffe_id: a.spiffe_id.clone(),
            lifetime,
            key_id: "k".into(),
        };
        let cache = JwtCache::new(10);
        let audience = vec!["x".to_owned()];
        cache.slot(&a.id, &audience, 0).set(Arc::new(CachedToken::new(token, &a)));
        let bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
        let snapshot = Snapshot {
            version: 3,
            index: Arc::new(EntryIndex::build([a.clone()], &EntryIndex::default())),
            svids: Arc::new(HashMap::from([(a.id.clone(), svid("a", 1_000))])),
            bundles: Some(Arc::new(Bundles::of(bundle.clone()))),
            synchronized: true,
        };
        let tokens =
            cache.all().into_iter().filter_map(|slot| slot.held().map(|held| (slot, held))).collect();
        let shown = State { epoch: 5, position: 6 };
        let frozen = Frozen { snapshot: Arc::new(snapshot), tokens, shown };
        file.save(Version { epoch: EPOCH, position: 9 }, SystemTime::UNIX_EPOCH, &frozen).unwrap();
        let raw = std::fs::read(dir.path().join(FILE)).unwrap();
        assert!(!raw.windows(12).any(|window| window == b"secret-token"), "the token is in the clear");

        let (identities, cache) = (Identities::default(), JwtCache::new(10));
        let (position, _) = restore(&file, &identities, &cache).unwrap();
        assert_eq!((position, identities.shown()), (9, shown));
        let snapshot = identities.load();
        assert_eq!(snapshot.index.get("a").unwrap().entry, a);
        assert_eq!(snapshot.svids["a"].key, Bytes::from_static(b"key"));
        assert_eq!(snapshot.svids["a"].lifetime, svid("a", 1_000).lifetime);
        assert_eq!(snapshot.bundles.as_ref().unwrap().own.bundle, bundle);
        assert!(cache.token(&a, &audience, 10).is_some());
    }

    /// No certificate, and not nothing.
    const OWN_SVID: &str = "b2xk";

    #[tokio::test]
    async fn what_changes_right_before_the_end_is_saved() {
        let dir = tempfile::tempdir().unwrap();
        let file = || SealedFile::open(dir.path().join(FILE), SealKey::new([7; 32]), MAX_BYTES, KIND);
        let identities = Arc::new(Identities::default());
        let clock = Clock::derived(SystemTime::UNIX_EPOCH);
        let address = ("localhost:1".to_owned(), TrustDomain::parse("example.org").unwrap());
        let cells = (SvidCell::empty(), RootsCell::default());
        let client = Arc::new(ServerClient::new(address, cells, clock.clone(), Entropy::from_seed(1)));
        let jwt = JwtIssuer::new(JwtCache::new(1), client, Arc::clone(&identities), clock);
        let status = StatusBoard::default();
        status.set(|status| status.last_sync = Some(SystemTime::UNIX_EPOCH));
        let (persister, saver) = Persister::new(file());
        // With an SVID of its own.
        std::fs::write(dir.path().join("agent-data.json"), format!(r#"{{"svid":["{OWN_SVID}"]}}"#)).unwrap();
        let data_dir = Arc::new(DataDir::open(dir.path()).unwrap());
        let state =
            StateLoop { identities: Arc::clone(&identities), jwt, saver, position: 0, status, data_dir };
        let cancel = CancellationToken::new();
        let end = async {
            identities.edit(|snapshot| {
                let a = entry("a", &["unix:uid:1"]);
                snapshot.index = Arc::new(EntryIndex::build([a], &EntryIndex::default()));
                true
            });
            // As the Workload API and the supervisor do when the agent stops.
            identities.close();
            cancel.cancel();
        };
        let (ended, ()) = tokio::join!(state.run(persister, cancel.clone()), end);
        ended.unwrap();
        assert_eq!(file().restore::<Saved>().unwrap().unwrap().value.entries.len(), 1);
    }
}
