use super::*;

use std::collections::HashMap;
use std::time::SystemTime;

use bytes::Bytes;
use vouchsafe_ca::key_manager::Disk;
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::RootsCell;
use vouchsafe_proto::revisions::State;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::bundles::Bundles;
use crate::entries::EntryIndex;
use crate::entries::tests::entry;
use crate::identities::Snapshot;
use crate::identities::tests::svid;
use crate::jwt_cache::{CachedToken, Token};
use crate::rotation::Lifetime;
use crate::server_client::ServerClient;

#[test]
fn what_was_served_before_a_restart_is_served_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = SealedFile::open(dir.path().join(FILE), SealKey::new([7; 32]), MAX_BYTES, KIND);
    let a = entry("a", &["unix:uid:1"]);
    let lifetime = Lifetime::new(0, 1_000, 0, b"t");
    let token =
        Token { text: "secret-token".into(), spiffe_id: a.spiffe_id.clone(), lifetime, key_id: "k".into() };
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
    let tokens = cache.all().into_iter().filter_map(|slot| slot.held().map(|held| (slot, held))).collect();
    let shown = State { epoch: 5, position: 6 };
    let frozen = Frozen { snapshot: Arc::new(snapshot), tokens, shown };
    file.save(Version { epoch: EPOCH, position: 9 }, SystemTime::UNIX_EPOCH, &frozen).unwrap();
    let raw = std::fs::read(dir.path().join(FILE)).unwrap();
    assert!(!raw.windows(12).any(|window| window == b"secret-token"), "the token is in the clear");

    let (identities, cache) = (Identities::default(), JwtCache::new(10));
    let (position, _) = restore((&file, None), &identities, &cache).unwrap();
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

/// Over what is in `dir`, for an agent with an SVID of its own.
fn state_loop(dir: &Path, mark: Option<Mark>) -> (StateLoop, Persister<Frozen>) {
    let file = SealedFile::open(dir.join(FILE), SealKey::new([7; 32]), MAX_BYTES, KIND);
    let identities = Arc::new(Identities::default());
    let clock = Clock::derived(SystemTime::UNIX_EPOCH);
    let address = ("localhost:1".to_owned(), TrustDomain::parse("example.org").unwrap());
    let cells = (SvidCell::empty(), RootsCell::default());
    let client = Arc::new(ServerClient::new(address, cells, clock.clone(), Entropy::from_seed(1)));
    let jwt = JwtIssuer::new(JwtCache::new(1), client, Arc::clone(&identities), clock);
    let status = StatusBoard::default();
    status.set(|status| status.last_sync = Some(SystemTime::UNIX_EPOCH));
    let (persister, saver) = Persister::new(file);
    std::fs::write(dir.join("agent-data.json"), format!(r#"{{"svid":["{OWN_SVID}"]}}"#)).unwrap();
    let data_dir = Arc::new(DataDir::open(dir).unwrap());
    (StateLoop { identities, jwt, saver, mark, position: 0, status, data_dir }, persister)
}

fn hold(identities: &Identities, id: &str) {
    identities.edit(|snapshot| {
        snapshot.index = Arc::new(EntryIndex::build([entry(id, &["unix:uid:1"])], &EntryIndex::default()));
        true
    });
}

#[tokio::test]
async fn what_changes_right_before_the_end_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (state, persister) = state_loop(dir.path(), None);
    let identities = Arc::clone(&state.identities);
    let cancel = CancellationToken::new();
    let end = async {
        hold(&identities, "a");
        // As the Workload API and the supervisor do when the agent stops.
        identities.close();
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(state.run(persister, cancel.clone()), end);
    ended.unwrap();
    let file = SealedFile::open(dir.path().join(FILE), SealKey::new([7; 32]), MAX_BYTES, KIND);
    assert_eq!(file.restore::<Saved>().unwrap().unwrap().value.entries.len(), 1);
}

#[tokio::test]
async fn a_change_that_is_not_on_disk_yet_keeps_the_mark_from_what_is() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Disk::open(dir.path().join("keys.json")).unwrap();
    let mark = || Mark::open(dir.path(), &keys).unwrap();
    let (state, _persister) = state_loop(dir.path(), Some(mark()));
    let mut changes = state.identities.watch();
    let version = Version { epoch: EPOCH, position: 0 };
    hold(&state.identities, "a");
    state.mark(&changes).await;
    assert!(mark().restore(version).is_none(), "a state was confirmed that was not on disk");
    changes.mark_unchanged();
    state.mark(&changes).await;
    assert!(mark().restore(version).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_killed_knows_when_a_state_that_stands_for_long_was_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Disk::open(dir.path().join("keys.json")).unwrap();
    let mark = || Mark::open(dir.path(), &keys);
    let (mut state, persister) = state_loop(dir.path(), mark());
    let (board, identities) = (state.status.clone(), Arc::clone(&state.identities));
    let mut written = state.saver.outcome();
    let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let confirm = async {
        hold(&identities, "a");
        written.wait_for(|outcome| matches!(outcome, Outcome::Saved(_))).await.unwrap();
        for seconds in 1..=600 {
            board.set(|status| status.last_sync = Some(second(seconds)));
            sleep(Duration::from_secs(1)).await;
        }
    };
    // Killed: nothing is handed over at the end.
    tokio::select! {
        // It looks for changes before there is one.
        biased;
        () = state.live() => panic!("it ended"),
        () = persister.run(CancellationToken::new()) => panic!("it ended"),
        () = confirm => {}
    }
    let file = SealedFile::open(dir.path().join(FILE), SealKey::new([7; 32]), MAX_BYTES, KIND);
    let restored = |mark: Option<&Mark>| {
        let (_, confirmed) = restore((&file, mark), &Identities::default(), &JwtCache::new(1)).unwrap();
        confirmed.at
    };
    assert_eq!(restored(None), second(0));
    assert!(
        (second(539)..=second(600)).contains(&restored(mark().as_ref())),
        "{:?}",
        restored(mark().as_ref())
    );
}
