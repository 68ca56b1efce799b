//! The last good state: everything that the server answers from, in a sealed file, so that a server that starts while the
//! database is away serves at once.
//!
//! Written in the background, soon after a change, at [`BYTES_PER_SEC`] in the long run (every 4 s with 10,000 entries and
//! 5,000 agents), every [`REFRESH`] if nothing changes, so that
//! its age is honest, and when the server stops. It has the position that it belongs to, and whether the database was seen
//! to have been set back from there, so that a restart does not make such a database believable ([`crate::history`]).
//!
//! Without a key to seal with (key manager `memory`) nothing is saved.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Deserialize, Serialize, Serializer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use vouchsafe_ca::key_manager::KeyManager;
use vouchsafe_lastgood::{RestoreError, SaveError, SealKey, SealedFile, Version};
use vouchsafe_runtime::blocking;
use vouchsafe_store::{JournalRecord, Position, Record, Store};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::Entry;
use vouchsafe_types::federation::{EndpointProfile, EndpointUrl, FederationRelationship};
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::confirmed::Confirmed;
use crate::model::{ReadModel, Snapshot};
use crate::status::Chain;

/// The file's name in the data directory.
pub(crate) const FILE: &str = "read-model.sealed";
/// From a change to the write, so that changes which come together are written together.
const SETTLE: Duration = Duration::from_secs(1);
/// What a disk can be asked for day and night.
const BYTES_PER_SEC: u64 = 512 << 10;
/// Longest time from one write to the next when something changes.
const MAX_GAP: Duration = Duration::from_secs(30);
/// Longest time between two writes while the database answers.
const REFRESH: Duration = Duration::from_secs(300);
/// What the file holds. Another number for another layout: an older file is then ignored.
const KIND: &str = "read-model-2";
/// Largest file: about half a million entries. Above it the state is not saved, and a warning says so.
const MAX_BYTES: u64 = 256 << 20;

/// What an earlier run left.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) snapshot: Snapshot,
    /// The journal of this server's authorities.
    pub(crate) journal: Option<JournalRecord>,
    pub(crate) confirmed_at: i64,
    /// Whether the database was seen not to go on from here.
    pub(crate) set_back: bool,
    /// What tells the history of the database from others, at the snapshot's position.
    pub(crate) mark: Option<i64>,
}

/// The file, if the key manager has a key for it.
pub(crate) fn file(data_dir: &Path, keys: &dyn KeyManager) -> Option<SealedFile> {
    let key = SealKey::new(*keys.seal_key(KIND)?);
    Some(SealedFile::open(data_dir.join(FILE), key, MAX_BYTES, KIND))
}

/// Reads the file. Blocks on the disk.
///
/// # Errors
///
/// The file is damaged, or of another version.
pub(crate) fn restore(file: &SealedFile) -> Result<Option<Restored>, RestoreError> {
    let Some(found) = file.restore::<Saved>()? else { return Ok(None) };
    let since_epoch = found.confirmed_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let Saved { entries, agents, bundles, join_tokens, federation, journal, set_back, mark } = found.value;
    let federation = federation.into_iter().filter_map(SavedFederation::relationship).map(Record::Federation);
    let records = entries.into_iter().map(Record::Entry);
    let records = records.chain(agents.into_iter().map(Record::Agent));
    let records = records.chain(bundles.into_iter().map(Record::Bundle));
    let records = records.chain(join_tokens.into_iter().map(Record::JoinToken)).chain(federation);
    let Version { epoch, position } = found.version;
    Ok(Some(Restored {
        snapshot: Snapshot::collect(epoch, Position(position), records),
        journal: journal.map(|(key, data)| JournalRecord { key, data }),
        confirmed_at: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        set_back,
        mark,
    }))
}

/// Writes the file in the background.
pub(crate) struct Saving {
    pub(crate) file: SealedFile,
    pub(crate) model: Arc<ReadModel>,
    /// The journal of this server's authorities, as it is now.
    pub(crate) journal: Arc<ArcSwapOption<JournalRecord>>,
    pub(crate) confirmed: Arc<Confirmed>,
    pub(crate) store: Arc<dyn Store>,
}

impl Saving {
    /// Runs until `cancel`, and writes what is not written yet before it returns.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut changed = self.model.watch();
        let mut failing = false;
        loop {
            let written = self.save().await;
            self.tell(&written, &mut failing);
            let bytes = std::fs::metadata(self.file.path()).map_or(0, |file| file.len());
            let gap = Instant::now() + Duration::from_millis(1_000 * bytes / BYTES_PER_SEC).min(MAX_GAP);
            let stop = tokio::select! {
                () = cancel.cancelled() => true,
                () = tokio::time::sleep_until(gap + REFRESH) => false,
                change = changed.changed() => {
                    let settled = (Instant::now() + SETTLE).max(gap);
                    change.is_err() || cancel.run_until_cancelled(tokio::time::sleep_until(settled)).await.is_none()
                }
            };
            if stop {
                let written = self.save().await;
                self.tell(&written, &mut failing);
                return;
            }
        }
    }

    async fn save(&self) -> Result<(), SaveError> {
        let doubt = self.model.doubt();
        let set_back = doubt.past().set_back;
        let snapshot = self.model.load();
        let mark = doubt.mark(&*self.store, snapshot.position());
        let frozen = Frozen { snapshot, journal: self.journal.load_full(), set_back, mark };
        let version = Version { epoch: frozen.snapshot.epoch(), position: frozen.snapshot.position().0 };
        let confirmed = Duration::from_secs(u64::try_from(self.confirmed.load()).unwrap_or_default());
        let file = self.file.clone();
        let began = Instant::now();
        let write = move || file.save(version, SystemTime::UNIX_EPOCH + confirmed, &frozen);
        // A task that was aborted belongs to a process that ends.
        let written = blocking::run(write).await.unwrap_or(Ok(()));
        debug!(elapsed = ?began.elapsed(), position = version.position, "Saved the last good state");
        written
    }

    fn tell(&self, written: &Result<(), SaveError>, failing: &mut bool) {
        match written {
            Ok(()) if *failing => info!("The last good state is saved again"),
            Err(cause) if !*failing => {
                let error = Chain(cause).to_string();
                warn!(
                    error,
                    "Cannot save the last good state; a restart while the database is away would not have it"
                );
            }
            Ok(()) | Err(_) => {}
        }
        *failing = written.is_err();
    }
}

/// What is written; shares everything with what is served.
struct Frozen {
    snapshot: Arc<Snapshot>,
    journal: Option<Arc<JournalRecord>>,
    set_back: bool,
    mark: Option<i64>,
}

/// What is read: the same, owned.
#[derive(Deserialize)]
struct Saved {
    entries: Vec<Entry>,
    agents: Vec<Agent>,
    bundles: Vec<Bundle>,
    join_tokens: Vec<JoinToken>,
    federation: Vec<SavedFederation>,
    journal: Option<(String, Vec<u8>)>,
    set_back: bool,
    mark: Option<i64>,
}

#[derive(Deserialize, Serialize)]
struct SavedFederation {
    trust_domain: TrustDomain,
    url: String,
    /// Of `https_spiffe`; `None` means `https_web`.
    endpoint_spiffe_id: Option<SpiffeId>,
}

impl SavedFederation {
    fn of(held: &FederationRelationship) -> Self {
        let endpoint_spiffe_id = match &held.bundle_endpoint_profile {
            EndpointProfile::HttpsWeb => None,
            EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => Some(endpoint_spiffe_id.clone()),
        };
        let url = held.bundle_endpoint_url.to_string();
        Self { trust_domain: held.trust_domain.clone(), url, endpoint_spiffe_id }
    }

    /// `None` for a URL that this version does not accept: it is fetched again when the database returns.
    fn relationship(self) -> Option<FederationRelationship> {
        let bundle_endpoint_profile = match self.endpoint_spiffe_id {
            None => EndpointProfile::HttpsWeb,
            Some(endpoint_spiffe_id) => EndpointProfile::HttpsSpiffe { endpoint_spiffe_id },
        };
        let bundle_endpoint_url = EndpointUrl::parse(&self.url).ok()?;
        let trust_domain = self.trust_domain;
        Some(FederationRelationship { trust_domain, bundle_endpoint_url, bundle_endpoint_profile })
    }
}

impl Serialize for Frozen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Snapshot { entries, agents, bundles, join_tokens, federation, .. } = &*self.snapshot;
        let mut saved = serializer.serialize_struct("Saved", 8)?;
        saved
            .serialize_field("entries", &List(entries.len(), || entries.after(None).map(|entry| &**entry)))?;
        saved.serialize_field("agents", &List(agents.len(), || agents.values().map(|agent| &**agent)))?;
        saved
            .serialize_field("bundles", &List(bundles.len(), || bundles.values().map(|bundle| &**bundle)))?;
        saved.serialize_field("join_tokens", &List(join_tokens.len(), || join_tokens.values()))?;
        let federation = List(federation.len(), || federation.values().map(|held| SavedFederation::of(held)));
        saved.serialize_field("federation", &federation)?;
        let journal = self.journal.as_ref().map(|journal| (&journal.key, &journal.data));
        saved.serialize_field("journal", &journal)?;
        saved.serialize_field("set_back", &self.set_back)?;
        saved.serialize_field("mark", &self.mark)?;
        saved.end()
    }
}

/// A sequence of a known length that is never collected.
struct List<F>(usize, F);

impl<T: Serialize, I: Iterator<Item = T>, F: Fn() -> I> Serialize for List<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(self.0))?;
        for each in (self.1)() {
            sequence.serialize_element(&each)?;
        }
        sequence.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_runtime::clock::Clock;
    use vouchsafe_store::sqlite::Sqlite;
    use vouchsafe_testkit::{FaultStore, samples};
    use vouchsafe_types::selector::{Selector, SelectorSet};

    fn file(folder: &Path) -> SealedFile {
        SealedFile::open(folder.join(FILE), SealKey::new([7; 32]), MAX_BYTES, KIND)
    }

    fn agent(number: usize) -> Agent {
        let selector = |value: &str| Selector::new("x509pop", value).unwrap();
        Agent {
            id: SpiffeId::parse(&format!("spiffe://example.org/spire/agent/x509pop/{number:040}")).unwrap(),
            attestation_type: "x509pop".into(),
            serial_number: format!("{number:038}"),
            expires_at: 1_900_003_600,
            new_serial_number: String::new(),
            new_expires_at: 0,
            can_reattest: true,
            selectors: SelectorSet::from_iter([selector("subject:cn:node"), selector("serialnumber:0a")]),
            agent_version: "1.15.3".into(),
        }
    }

    fn filled(entries: usize, agents: usize) -> Snapshot {
        let federation = FederationRelationship {
            trust_domain: TrustDomain::parse("other.org").unwrap(),
            bundle_endpoint_url: EndpointUrl::parse("https://other.org/bundle").unwrap(),
            bundle_endpoint_profile: EndpointProfile::HttpsSpiffe {
                endpoint_spiffe_id: SpiffeId::parse("spiffe://other.org/server").unwrap(),
            },
        };
        let records = (0..entries).map(|number| Record::Entry(samples::entry(&format!("{number:06}"))));
        let records = records.chain((0..agents).map(|number| Record::Agent(agent(number))));
        let records = records.chain([
            Record::Bundle(Bundle::new(TrustDomain::parse("example.org").unwrap())),
            Record::JoinToken(samples::join_token("secret-of-a-node", 1)),
            Record::Federation(federation),
        ]);
        Snapshot::collect(7, Position(42), records)
    }

    async fn saving(folder: &Path, model: &Arc<ReadModel>) -> Saving {
        let clock = Clock::derived(SystemTime::UNIX_EPOCH);
        let store = Sqlite::open(folder.join("registry.db"), clock).await.unwrap();
        let (store, faults) = FaultStore::new(Arc::new(store));
        faults.history(5);
        let store = Arc::new(store);
        let journal = JournalRecord { key: "own".into(), data: vec![1, 2, 3] };
        Saving {
            file: file(folder),
            model: model.clone(),
            journal: Arc::new(ArcSwapOption::from_pointee(journal)),
            confirmed: Arc::new(Confirmed::new(1_000)),
            store,
        }
    }

    #[tokio::test]
    async fn what_was_saved_is_there_after_a_restart_and_no_secret_is_in_the_clear() {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(ReadModel::new(filled(3, 2)));
        let cancel = CancellationToken::new();
        cancel.cancel();
        saving(folder.path(), &model).await.run(cancel).await;
        let bytes = std::fs::read(folder.path().join(FILE)).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));

        let found = restore(&file(folder.path())).unwrap().unwrap();
        let held = model.load();
        let entries = |snapshot: &Snapshot| snapshot.entries.after(None).cloned().collect::<Vec<_>>();
        assert_eq!(entries(&found.snapshot), entries(&held));
        assert_eq!(found.snapshot.agents, held.agents);
        assert_eq!(found.snapshot.bundles, held.bundles);
        assert_eq!(found.snapshot.join_tokens, held.join_tokens);
        assert_eq!(found.snapshot.federation, held.federation);
        assert_eq!((found.snapshot.epoch(), found.snapshot.position()), (7, Position(42)));
        assert_eq!(found.journal.unwrap().data, [1, 2, 3]);
        assert_eq!((found.confirmed_at, found.set_back, found.mark), (1_000, false, Some(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_written_soon_and_not_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(ReadModel::new(filled(1, 0)));
        let cancel = CancellationToken::new();
        let task = saving(folder.path(), &model).await.run(cancel.clone());
        let look = async {
            let held = || restore(&file(folder.path())).ok().flatten().map(|found| found.snapshot.position());
            let began = Instant::now();
            for position in 43..=60 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                model.apply(Vec::new(), Position(position));
            }
            while held() != Some(Position(60)) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let took = began.elapsed();
            assert!((SETTLE..4 * SETTLE).contains(&took), "{took:?}");
            cancel.cancel();
        };
        tokio::join!(task, look);
    }

    /// The figures of docs/outages.md: `cargo test -p vouchsafe-server --release size_and_time -- --nocapture`.
    #[test]
    fn size_and_time_of_ten_thousand_entries_and_five_thousand_agents() {
        let folder = tempfile::tempdir().unwrap();
        let frozen =
            Frozen { snapshot: Arc::new(filled(10_000, 5_000)), journal: None, set_back: false, mark: None };
        let file = file(folder.path());
        let began = Instant::now();
        file.save(Version { epoch: 7, position: 42 }, SystemTime::UNIX_EPOCH, &frozen).unwrap();
        let saved = began.elapsed();
        let began = Instant::now();
        let found = restore(&file).unwrap().unwrap();
        let (restored, bytes) = (began.elapsed(), std::fs::metadata(file.path()).unwrap().len());
        println!("{bytes} bytes, saved in {saved:?}, restored in {restored:?}");
        assert_eq!((found.snapshot.entries.len(), found.snapshot.agents.len()), (10_000, 5_000));
        assert!(bytes < 8 << 20, "{bytes}");
    }
}
