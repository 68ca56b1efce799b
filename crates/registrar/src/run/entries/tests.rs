//! The loop against a server that refuses things, in a folder of objects.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value as Json, json};
use tokio_stream::Empty;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};
use vouchsafe_cluster::{Cluster, Name, Source};
use vouchsafe_proto::spire::api::server::entry::v1 as api;
use vouchsafe_proto::spire::api::server::entry::v1::entry_server::{Entry, EntryServer};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_runtime::readiness::{Readiness, State};
use vouchsafe_runtime::supervisor::Supervisor;
use vouchsafe_types::EntryId;

use super::*;
use crate::draft::Draft;
use crate::ledger::{Delete, Plan, Terms, World, test_terms};
use crate::run::{Deps, Reconcile};
use crate::settings::EntryIds;

/// Entries by id. New ones for paths with this word are refused.
#[derive(Clone, Debug, Default)]
struct Store {
    entries: Arc<Mutex<BTreeMap<String, types::Entry>>>,
    refuses: Arc<Mutex<&'static str>>,
}

type Answer<T> = Result<Response<T>, Status>;

fn status(code: Code) -> Option<types::Status> {
    Some(types::Status { code: code as i32, message: "told to".into() })
}

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented(""))
}

#[tonic::async_trait]
impl Entry for Store {
    type SyncAuthorizedEntriesStream = Empty<Result<api::SyncAuthorizedEntriesResponse, Status>>;

    async fn list_entries(&self, _: Request<api::ListEntriesRequest>) -> Answer<api::ListEntriesResponse> {
        let entries = self.entries.lock().unwrap().values().cloned().collect();
        Ok(Response::new(api::ListEntriesResponse { entries, ..Default::default() }))
    }

    async fn batch_create_entry(
        &self,
        request: Request<api::BatchCreateEntryRequest>,
    ) -> Answer<api::BatchCreateEntryResponse> {
        let (mut held, refuses) = (self.entries.lock().unwrap(), *self.refuses.lock().unwrap());
        let results = request.into_inner().entries.into_iter().map(|mut entry| {
            let path = entry.spiffe_id.clone().unwrap_or_default().path;
            if !refuses.is_empty() && path.contains(refuses) && !entry.id.starts_with("old.") {
                return api::batch_create_entry_response::Result {
                    status: status(Code::Internal),
                    entry: None,
                };
            }
            if entry.id.is_empty() {
                entry.id = format!("e{}", held.len());
            }
            held.insert(entry.id.clone(), entry.clone());
            api::batch_create_entry_response::Result { status: status(Code::Ok), entry: Some(entry) }
        });
        Ok(Response::new(api::BatchCreateEntryResponse { results: results.collect() }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<api::BatchDeleteEntryRequest>,
    ) -> Answer<api::BatchDeleteEntryResponse> {
        let mut held = self.entries.lock().unwrap();
        let results = request.into_inner().ids.into_iter().map(|id| {
            held.remove(&id);
            api::batch_delete_entry_response::Result { status: status(Code::Ok), id }
        });
        Ok(Response::new(api::BatchDeleteEntryResponse { results: results.collect() }))
    }

    async fn batch_update_entry(
        &self,
        _: Request<api::BatchUpdateEntryRequest>,
    ) -> Answer<api::BatchUpdateEntryResponse> {
        unused()
    }

    async fn count_entries(&self, _: Request<api::CountEntriesRequest>) -> Answer<api::CountEntriesResponse> {
        unused()
    }

    async fn get_entry(&self, _: Request<api::GetEntryRequest>) -> Answer<types::Entry> {
        unused()
    }

    async fn get_authorized_entries(
        &self,
        _: Request<api::GetAuthorizedEntriesRequest>,
    ) -> Answer<api::GetAuthorizedEntriesResponse> {
        unused()
    }

    async fn sync_authorized_entries(
        &self,
        _: Request<Streaming<api::SyncAuthorizedEntriesRequest>>,
    ) -> Answer<Self::SyncAuthorizedEntriesStream> {
        unused()
    }
}

struct Stage {
    store: Store,
    entries: Entries,
    readiness: Readiness,
    _folder: tempfile::TempDir,
    _tasks: Supervisor,
    _server: tokio::task::JoinSet<()>,
}

impl Stage {
    fn new(terms: Terms, lease: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, socket) = (Store::default(), folder.path().join("api.sock"));
        let listener = UnixListenerStream::new(tokio::net::UnixListener::bind(&socket).unwrap());
        let serving = tonic::transport::Server::builder().add_service(EntryServer::new(store.clone()));
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { serving.serve_with_incoming(listener).await.unwrap() });
        let source = Source::Folder(folder.path().join("manifests"));
        let clock = Clock::system();
        let (entropy, registry) = (Entropy::from_seed(1), Registry::new("t", &[]));
        let readiness = Readiness::new(clock.clone());
        let deps = vouchsafe_cluster::Deps {
            clock: clock.clone(),
            entropy: entropy.clone(),
            metrics: registry.clone(),
        };
        std::fs::create_dir(folder.path().join("manifests")).unwrap();
        let cluster = Cluster::open(&source, deps).unwrap();
        // Nobody keeps it, so that it is never held.
        let leadership = lease.then(|| cluster.lease(Name::new("a", "b"), "me".into()).0);
        let config = Config {
            source,
            server_socket: socket.clone(),
            max_answer_bytes: 1 << 20,
            terms,
            reconcile: Reconcile { spiffe_ids: true, static_entries: true, federated_trust_domains: false },
            gc_interval: Duration::from_secs(3_600),
            selections: Vec::new(),
            lease: None,
        };
        let mut tasks = Supervisor::new();
        let followed = Followed::start(&cluster, &config, &mut tasks);
        let (events, _) = cluster.events("test");
        let shared = Shared {
            config: Arc::new(config),
            deps: Deps { clock: clock.clone(), entropy, registry, readiness: readiness.clone() },
            server: Server::new(&socket, 1 << 20),
            reports: Reports::new(cluster, events, clock),
            leading: Leading::new(leadership),
        };
        let entries = Entries::new(shared, followed);
        Self { store, entries, readiness, _folder: folder, _tasks: tasks, _server: server }
    }

    async fn declare(&mut self, path: &str) {
        let object = json!({ "metadata": { "name": "s", "uid": "s" }, "spec": spec(path) });
        let mut world = World::default();
        world.statics.insert(Name::cluster("s"), Arc::new(serde_json::from_value(object).unwrap()));
        self.entries.ledger.observe(world);
        self.entries.reconcile().await.unwrap();
    }

    fn put(&self, id: &str, path: &str) -> Draft {
        let trust_domain = vouchsafe_types::TrustDomain::parse("example.org").unwrap();
        let draft = crate::rule::parse_static(&spec(path), &trust_domain).unwrap();
        self.store.entries.lock().unwrap().insert(id.to_owned(), draft.to_proto(id));
        draft
    }

    fn ids(&self) -> Vec<String> {
        self.store.entries.lock().unwrap().keys().cloned().collect()
    }

    fn state(&self) -> (State, String) {
        let part = self.readiness.report().parts.remove(0);
        (part.state, part.reason)
    }
}

fn spec(path: &str) -> Json {
    json!({
        "spiffeID": format!("spiffe://example.org{path}"), "parentID": "spiffe://example.org/node",
        "selectors": ["unix:uid:1"],
    })
}

#[tokio::test]
async fn an_entry_is_not_deleted_when_the_creation_before_it_is_refused() {
    let mut stage = Stage::new(test_terms(), false);
    stage.declare("/before").await;
    assert_eq!(stage.ids(), ["e0"]);
    *stage.store.refuses.lock().unwrap() = "after";
    stage.declare("/after").await;
    assert_eq!(stage.ids(), ["e0"]);
}

#[tokio::test]
async fn what_makes_way_for_an_entry_that_is_refused_is_created_again() {
    let entry_ids = EntryIds::new("new", Some("old")).unwrap();
    let mut stage = Stage::new(Terms { entry_ids, ..test_terms() }, false);
    stage.put("old.1", "/a");
    *stage.store.refuses.lock().unwrap() = "a";
    stage.declare("/a").await;
    assert_eq!(stage.ids(), ["old.1"]);
    *stage.store.refuses.lock().unwrap() = "";
    stage.entries.compare_at = Instant::now();
    stage.entries.reconcile().await.unwrap();
    assert!(matches!(stage.ids().as_slice(), [id] if id.starts_with("new.")), "{:?}", stage.ids());
}

#[tokio::test]
async fn a_plan_does_not_go_on_when_another_one_leads() {
    let mut stage = Stage::new(test_terms(), true);
    let key = stage.put("x", "/x").key();
    let delete = vec![Delete { key, id: EntryId::parse("x").unwrap() }];
    let done = stage.entries.execute(Plan { delete, ..Plan::default() }).await;
    assert!(matches!(done, Err(Halt::NotLeading)), "{done:?}");
    assert_eq!(stage.ids(), ["x"]);
    assert!(!stage.entries.leads());
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_known_whole_is_waited_for_and_then_named() {
    let mut stage = Stage::new(test_terms(), false);
    assert!(!stage.entries.bears_with(Some("pods"), true), "it may come in a moment");
    assert_eq!(stage.state().0, State::Pending);
    tokio::time::advance(PATIENCE).await;
    assert!(stage.entries.bears_with(Some("pods"), true));
    assert_eq!(stage.state().1, "pods: not all objects are known");
    assert!(!stage.entries.bears_with(Some("SPIFFE IDs"), false), "who is to get what is not known");
    assert!(stage.entries.bears_with(None, true));
}

#[tokio::test]
async fn a_view_says_what_it_lacks_and_since_when_it_is_confirmed() {
    let mut stage = Stage::new(test_terms(), false);
    let followed = &mut stage.entries.followed;
    assert!(!followed.is_confirmed_since(SystemTime::UNIX_EPOCH), "nothing is known yet");
    let view = followed.view();
    assert!(view.lacks.is_some() && !view.is_usable);
    while followed.view().lacks.is_some() {
        followed.changed().await;
    }
    assert!(followed.is_confirmed_since(SystemTime::UNIX_EPOCH) && followed.view().is_usable);
    let later = stage.entries.clock.now() + Duration::from_secs(60);
    assert!(!stage.entries.followed.is_confirmed_since(later));
}
