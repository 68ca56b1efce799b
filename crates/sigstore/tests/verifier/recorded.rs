//! A registry as it was recorded in `vectors.json`, and whom to believe about it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_sigstore::{
    Deps, Settings, SigstoreError, Trust, TrustFiles, Verifier, Web, WebAnswer, WebError, WebRequest,
};

#[derive(Deserialize)]
pub(crate) struct Document {
    pub(crate) roots: String,
    pub(crate) rekor: String,
    pub(crate) ct: String,
    pub(crate) registry: HashMap<String, String>,
    pub(crate) cases: Vec<Case>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) settings: CaseSettings,
    pub(crate) selectors: Option<Vec<String>>,
    pub(crate) error: Option<String>,
    pub(crate) stricter: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub(crate) struct CaseSettings {
    allowed: BTreeMap<String, Vec<String>>,
    skipped: Vec<String>,
    ignore_sct: bool,
    ignore_tlog: bool,
    ignore_attestations: bool,
}

impl Case {
    pub(crate) fn settings(&self) -> Settings {
        let given = self.settings.clone();
        Settings {
            allowed_identities: given.allowed.into_iter().collect(),
            skipped_images: given.skipped,
            ignore_sct: given.ignore_sct,
            ignore_tlog: given.ignore_tlog,
            ignore_attestations: given.ignore_attestations,
            ..Settings::default()
        }
    }
}

/// The registry as it was.
pub(crate) struct Recorded(pub(crate) HashMap<String, String>);

#[async_trait]
impl Web for Recorded {
    async fn get(&self, request: &WebRequest) -> Result<WebAnswer, WebError> {
        let path = request.url.strip_prefix("http://127.0.0.1:5177").unwrap();
        let body = self.0.get(path);
        Ok(WebAnswer {
            status: if body.is_some() { 200 } else { 404 },
            location: None,
            challenges: Vec::new(),
            body: body.cloned().unwrap_or_default().into(),
        })
    }
}

pub(crate) fn document() -> Document {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn trust(document: &Document) -> Trust {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    Trust::load(&TrustFiles {
        trusted_root: None,
        root_certificates: file("roots.pem", &document.roots),
        rekor_key: file("rekor.pem", &document.rekor),
        ct_key: file("ct.pem", &document.ct),
    })
    .unwrap()
}

/// The day after everything was signed.
pub(crate) fn day_after() -> Clock {
    Clock::standing(SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_401_600)).0
}

pub(crate) async fn ask(
    document: &Document,
    case: &Case,
    web: Arc<dyn Web>,
) -> Result<Vec<String>, Arc<SigstoreError>> {
    let deps = Deps { trust: trust(document), clock: day_after(), web };
    let (verifier, worker) = Verifier::new(case.settings().check().unwrap(), deps).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(worker.run(CancellationToken::new()));
    verifier.selectors(&case.image).await
}
