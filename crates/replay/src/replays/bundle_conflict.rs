//! Somebody else writes the same Kubernetes objects 20 times a second while the signing keys rotate.
//!
//! A webhook configuration and a ConfigMap, in each of which the server keeps its bundle. A controller of somebody else
//! reads each, changes fields of its own, and replaces the object with the version that it read, 20 times a second. Then the
//! server prepares one authority after the other, each of which must be in both objects a second later; and at each of its turns the
//! controller looks whether everything is as it last wrote it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use vouchsafe_runtime::blocking;
use vouchsafe_testkit::kubernetes::{Etcd, Kubernetes, Settings};

use super::Scene;
use crate::error::Error;
use crate::measure::{Bound, Measured, quantile};
use crate::programs;
use crate::stack::{Server, ServerSettings};

pub(super) async fn run(scene: &Scene<'_>) -> Result<Vec<Measured>, Error> {
    programs::kubernetes()?;
    let (database, proxy) = scene.database().await?;
    scene.step("starting etcd and a Kubernetes API server");
    // From this thread: what it starts ends with it.
    let cluster = Kubernetes::start_with(Settings {
        etcd: Etcd::Module,
        controllers: Vec::new(),
        ..Settings::default()
    });
    let objects = Objects::create(cluster);
    let settings = ServerSettings {
        plugins: objects.notifier(),
        ..ServerSettings::on(database.connection_string(proxy.port))
    };
    let server = Server::start(&scene.place, scene.side, "server", &settings).await?;
    let mut log = Log::default();
    let first = server.bundle().await?;
    if objects.until_all_have(&first, Instant::now(), START).await?.is_none() {
        return Err(Error::broken("the objects did not get the first bundle"));
    }

    let rotations = scene.pick(40, 10);
    scene.step(format!(
        "somebody else writes both objects {PER_SECOND} times a second; {rotations} rotations"
    ));
    let mut writers = JoinSet::new();
    let theirs: Vec<Arc<Theirs>> = Kind::BOTH.iter().map(|_| Arc::default()).collect();
    for (kind, theirs) in Kind::BOTH.into_iter().zip(&theirs) {
        writers.spawn(write_until_stopped(objects.clone(), kind, theirs.clone()));
    }
    for _ in 0..rotations {
        sleep(PAUSE).await;
        let began = Instant::now();
        server.prepare_authority().await?;
        let bundle = server.bundle().await?;
        log.took.push(objects.until_all_have(&bundle, began, PATIENCE).await?);
    }
    for theirs in &theirs {
        theirs.stop.store(true, Ordering::Relaxed);
    }
    while let Some(ended) = writers.join_next().await {
        ended.map_err(|panic| Error::broken(format!("the other writer ended: {panic}")))??;
    }
    Ok(log.measured(&theirs))
}

/// What happened.
#[derive(Default)]
struct Log {
    /// How long each rotation took, if it ended in time.
    took: Vec<Option<Duration>>,
}

impl Log {
    fn measured(&self, theirs: &[Arc<Theirs>]) -> Vec<Measured> {
        let mut seconds: Vec<f64> = self.took.iter().flatten().map(Duration::as_secs_f64).collect();
        seconds.sort_by(f64::total_cmp);
        let missed = self.took.iter().filter(|took| took.is_none_or(|took| took > BOUND)).count();
        // One that never came has no time.
        let worst = if seconds.len() < self.took.len() { f64::NAN } else { quantile(&seconds, 1.0) };
        let sum = |of: fn(&Theirs) -> &AtomicUsize| {
            theirs.iter().map(|theirs| of(theirs).load(Ordering::Relaxed)).sum::<usize>()
        };
        let rotations = self.took.len();
        vec![
            Measured::never("late", format!("bundles not in both objects after 1 s, of {rotations}"), missed),
            Measured::told("in_place_p100", "until a new bundle is in both objects, p100", "s", worst)
                .bound(Bound::AtMost(BOUND.as_secs_f64())),
            Measured::told("in_place_p50", "and at the median", "s", quantile(&seconds, 0.5)),
            Measured::never(
                "lost",
                "fields of the other writer that were not as it wrote them",
                sum(|t| &t.lost),
            ),
            Measured::told("their_writes", "writes of the other writer", "", sum(|t| &t.written) as f64),
            Measured::told(
                "their_conflicts",
                "of its attempts that were refused because the object was modified",
                "",
                sum(|t| &t.conflicts) as f64,
            ),
        ]
    }
}

/// The objects.
#[derive(Clone)]
struct Objects(Arc<Kubernetes>);

#[derive(Clone, Copy)]
enum Kind {
    Webhooks,
    ConfigMap,
}

impl Kind {
    const BOTH: [Self; 2] = [Self::Webhooks, Self::ConfigMap];

    fn path(self) -> &'static str {
        match self {
            Self::Webhooks => {
                "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/conflict"
            }
            Self::ConfigMap => "/api/v1/namespaces/spire/configmaps/spire-bundle",
        }
    }

    /// The texts of the bundle in it.
    fn bundles(self, object: &Value) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match self {
            Self::ConfigMap => vec![text(&object["data"]["bundle.crt"])],
            Self::Webhooks => {
                let webhooks = object["webhooks"].as_array().cloned().unwrap_or_default();
                let decoded = |webhook: &Value| {
                    let bytes =
                        STANDARD.decode(text(&webhook["clientConfig"]["caBundle"])).unwrap_or_default();
                    String::from_utf8(bytes).unwrap_or_default()
                };
                webhooks.iter().map(decoded).collect()
            }
        }
    }

    /// What the other writer has in it, at its `turn`th turn.
    fn fields(self, turn: usize) -> Vec<(&'static str, Value)> {
        let mut fields = vec![
            ("/metadata/annotations/other~1turn", json!(turn.to_string())),
            ("/metadata/labels/other", json!(format!("turn-{turn}"))),
        ];
        match self {
            Self::ConfigMap => fields.push(("/data/other", json!("x".repeat(turn % 50)))),
            Self::Webhooks => {
                fields.push(("/webhooks/0/timeoutSeconds", json!(1 + turn % 30)));
                fields
                    .push(("/webhooks/1/objectSelector", json!({"matchLabels": {"turn": turn.to_string()}})));
                fields.push(("/webhooks/1/clientConfig/url", json!(format!("https://127.0.0.1:9/{turn}"))));
            }
        }
        fields
    }
}

impl Objects {
    fn create(cluster: Kubernetes) -> Self {
        cluster.apply(OBJECTS);
        Self(Arc::new(cluster))
    }

    fn notifier(&self) -> String {
        let kubeconfig = self.0.admin();
        format!(
            "Notifier \"k8sbundle\" {{ plugin_data {{ kube_config_file_path = \"{}\" webhook_label = \"spiffe.io/webhook\" }} }}",
            kubeconfig.display()
        )
    }

    /// How long after `began` each object had `bundle`. `None`: not within `patience`.
    async fn until_all_have(
        &self,
        bundle: &str,
        began: Instant,
        patience: Duration,
    ) -> Result<Option<Duration>, Error> {
        let mut left = Kind::BOTH.to_vec();
        while began.elapsed() < patience {
            let mut still = Vec::new();
            for kind in left {
                let bundles = kind.bundles(&self.read(kind).await?);
                if bundles.is_empty() || bundles.iter().any(|there| there.trim() != bundle.trim()) {
                    still.push(kind);
                }
            }
            if still.is_empty() {
                return Ok(Some(began.elapsed()));
            }
            left = still;
            sleep(LOOK).await;
        }
        Ok(None)
    }

    async fn read(&self, kind: Kind) -> Result<Value, Error> {
        let cluster = self.0.clone();
        let answer = blocking::run(move || cluster.try_request("GET", kind.path(), None)).await;
        let answer = answer.ok().flatten().filter(|answer| answer.status == 200);
        answer.map(|answer| answer.body).ok_or_else(|| Error::broken("the API server does not answer"))
    }

    async fn replace(&self, kind: Kind, object: Value) -> Result<u16, Error> {
        let cluster = self.0.clone();
        let path = format!("{}?fieldManager=other", kind.path());
        let answer = blocking::run(move || cluster.try_request("PUT", &path, Some(&object))).await;
        answer
            .ok()
            .flatten()
            .map(|answer| answer.status)
            .ok_or_else(|| Error::broken("the API server does not answer"))
    }
}

/// What the other writer met.
#[derive(Default)]
struct Theirs {
    stop: AtomicBool,
    written: AtomicUsize,
    conflicts: AtomicUsize,
    lost: AtomicUsize,
}

/// A controller of somebody else. Ends when it is told to, or when the API server does not answer.
async fn write_until_stopped(objects: Objects, kind: Kind, theirs: Arc<Theirs>) -> Result<(), Error> {
    let mut ticks = interval(Duration::from_secs(1) / PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written: Option<usize> = None;
    let mut turn = 0;
    while !theirs.stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        turn += 1;
        write_once(&objects, kind, (turn, &mut written), &theirs).await?;
    }
    Ok(())
}

/// One turn: read, look, change, replace; again with a newer version if it was modified meanwhile.
async fn write_once(
    objects: &Objects,
    kind: Kind,
    (turn, written): (usize, &mut Option<usize>),
    theirs: &Theirs,
) -> Result<(), Error> {
    loop {
        let mut object = objects.read(kind).await?;
        if let Some(before) = *written {
            let is_lost = |(path, value): &(&str, Value)| object.pointer(path) != Some(value);
            let lost = kind.fields(before).iter().filter(|field| is_lost(field)).count();
            theirs.lost.fetch_add(lost, Ordering::Relaxed);
        }
        for (path, value) in kind.fields(turn) {
            set(&mut object, path, value);
        }
        match objects.replace(kind, object).await? {
            200 => {
                theirs.written.fetch_add(1, Ordering::Relaxed);
                *written = Some(turn);
                return Ok(());
            }
            409 => {
                theirs.conflicts.fetch_add(1, Ordering::Relaxed);
            }
            status => return Err(Error::broken(format!("the other writer was answered {status}"))),
        }
    }
}

/// Sets the member at `path`, whose object is there.
fn set(object: &mut Value, path: &str, value: Value) {
    let Some((parent, member)) = path.rsplit_once('/') else { return };
    if let Some(parent) = object.pointer_mut(parent) {
        parent[member.replace("~1", "/")] = value;
    }
}

/// Both as their owner made them. The API server asks no webhook of `selector: no`.
const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: spire}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: spire-bundle, namespace: spire, labels: {other: new}, annotations: {other/turn: new}}
data: {other: new}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: conflict, labels: {spiffe.io/webhook: "true", other: new}, annotations: {other/turn: new}}
webhooks:
- name: a.hooks.test
  clientConfig: {url: "https://127.0.0.1:9/a"}
  rules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]
  sideEffects: None
  failurePolicy: Ignore
  admissionReviewVersions: [v1]
- name: b.hooks.test
  clientConfig: {url: "https://127.0.0.1:9/b"}
  rules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]
  sideEffects: None
  failurePolicy: Ignore
  admissionReviewVersions: [v1]
"#;

const PER_SECOND: u32 = 20;
/// What a new bundle may take.
const BOUND: Duration = Duration::from_secs(1);
/// When a rotation is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two rotations, uneven to the other writer's turns.
const PAUSE: Duration = Duration::from_millis(731);
/// Between two looks at the objects.
const LOOK: Duration = Duration::from_millis(10);
const START: Duration = Duration::from_secs(30);
