use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use vouchsafe_cluster::{Cluster, Deps, FieldManager, Name, Source};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_runtime::readiness::Readiness;
use vouchsafe_types::bundle::{Bundle, X509Authority};
use vouchsafe_types::trust_domain::TrustDomain;

use crate::config::publication::{ConfigMapKey, Format, Publication};
use crate::confirmed::Confirmed;
use crate::model::{ReadModel, Snapshot};
use crate::publish::sight::{ConfigMap, Digest};
use crate::publish::{Publisher, Setup, Standing};

/// A publisher of one key of a ConfigMap, in a folder that stands for a cluster.
struct World {
    _folder: tempfile::TempDir,
    confirmed: Arc<Confirmed>,
    readiness: Readiness,
    metrics: Registry,
    cluster: Cluster,
    tasks: JoinSet<()>,
}

const PATIENCE: Duration = Duration::from_secs(30);

fn deps() -> Deps {
    Deps { clock: Clock::system(), entropy: Entropy::from_seed(1), metrics: Registry::new("test", &[]) }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

/// A bundle with this certificate.
fn bundle(certificate: &[u8]) -> Bundle {
    let authority = X509Authority { der: certificate.into(), tainted: false };
    Bundle { x509_authorities: vec![authority], ..Bundle::new(trust_domain()) }
}

fn publication(folder: &Path) -> Publication {
    let [namespace, name, key] = ["spire", "bundle", "k"].map(str::to_owned);
    Publication {
        plugin: "k8sbundle",
        cluster: "demo".to_owned(),
        source: Source::Folder(folder.into()),
        config_maps: vec![ConfigMapKey { namespace, name, key, format: Format::Jwks }],
        webhook_label: None,
        api_service_label: None,
        trust_bundle: None,
    }
}

impl World {
    /// A server that has `bundle`.
    fn new(bundle: Option<Bundle>) -> (Self, Setup) {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::open(&Source::Folder(folder.path().into()), deps()).unwrap();
        let mut snapshot = Snapshot::default();
        snapshot.bundles.extend(bundle.map(|bundle| (trust_domain(), Arc::new(bundle))));
        let readiness = Readiness::new(Clock::system());
        let (confirmed, metrics) = (Arc::new(Confirmed::new(0)), Registry::new("test", &[]));
        let setup = Setup {
            publication: publication(folder.path()),
            trust_domain: trust_domain(),
            server_key: "one".to_owned(),
            model: Arc::new(ReadModel::new(snapshot)),
            confirmed: confirmed.clone(),
            clock: Clock::system(),
            entropy: Entropy::from_seed(2),
            metrics: metrics.clone(),
            standing: Standing::new(readiness.token("bundle")),
        };
        (Self { _folder: folder, confirmed, readiness, metrics, cluster, tasks: JoinSet::new() }, setup)
    }

    fn start(&mut self, setup: Setup) {
        self.tasks.spawn(Publisher::new(setup).run(CancellationToken::new()));
    }

    /// What somebody else puts there.
    async fn put(&self, text: &str) {
        let manager = FieldManager::forcing("somebody");
        let fields = json!({ "data": { "k": text } });
        self.cluster
            .apply_fields::<ConfigMap>(&Name::new("spire", "bundle"), fields, &manager)
            .await
            .unwrap();
    }

    async fn has(&self, text: &str) -> bool {
        let found = self.cluster.fetch::<ConfigMap>(&Name::new("spire", "bundle")).await.unwrap();
        found.is_some_and(|found| found.key("k").has(Digest::of(text)))
    }

    /// Waits until readiness says `text`.
    async fn says(&self, text: &str) {
        let mut report = self.readiness.watch();
        let said = report.wait_for(|report| format!("{report:?}").contains(text));
        timeout(PATIENCE, said).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_may_be_newer_stays_until_the_database_was_asked() {
    let (mut world, mut setup) = World::new(Some(bundle(b"any")));
    setup.publication.config_maps[0].format = Format::Pem;
    world.put("newer?").await;
    world.start(setup);
    // It asks, and does not write before the answer; the answer to an older question is none.
    timeout(PATIENCE, world.confirmed.asked()).await.unwrap();
    world.confirmed.end(0);
    assert!(world.has("newer?").await);
    let look = world.confirmed.begin();
    world.confirmed.end(look);
    let written = async {
        while world.has("newer?").await {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, written).await.unwrap();
}

#[tokio::test]
async fn a_bundle_that_is_not_there_is_not_in_place() {
    let (mut world, setup) = World::new(None);
    world.start(setup);
    world.says("there is no trust bundle yet").await;
    let text = world.metrics.render();
    let line = |name: &str| text.lines().find(|line| !line.starts_with('#') && line.contains(name));
    let value = |name: &str| line(name).and_then(|line| line.rsplit(' ').next());
    assert_eq!(value("vouchsafe_bundle_objects_behind{"), Some("1"), "{text}");
    assert_eq!(value("vouchsafe_bundle_in_place_seconds{"), Some("0"), "{text}");
}

#[tokio::test]
async fn a_bundle_that_has_no_such_form_is_not_in_place() {
    // Not a certificate: there is no JWK of it.
    let (mut world, setup) = World::new(Some(bundle(b"broken")));
    world.start(setup);
    world.says("cannot be written in this form").await;
}
