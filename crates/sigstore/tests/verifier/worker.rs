//! Looks are shared, bounded and outlive those who asked.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, timeout};
use tokio_util::sync::CancellationToken;
use vouchsafe_runtime::class::Class;
use vouchsafe_sigstore::{Deps, SigstoreError, Verifier, Web, WebAnswer, WebError, WebRequest, Worker};

use crate::recorded::{Recorded, day_after, document, trust};

/// A recorded registry that can be slow, hang, break off or be away, and counts. At 127.0.0.2 is one that always hangs.
struct Unruly {
    registry: Recorded,
    requests: AtomicUsize,
    away: AtomicBool,
    hangs: AtomicBool,
    /// The end of the URL whose body breaks off.
    torn: Mutex<Option<String>>,
    /// Instead of each manifest.
    manifest: Mutex<Option<String>>,
}

#[async_trait]
impl Web for Unruly {
    async fn get(&self, request: &WebRequest) -> Result<WebAnswer, WebError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(3)).await;
        if self.hangs.load(Ordering::Relaxed) || request.url.starts_with("http://127.0.0.2:1/") {
            std::future::pending::<()>().await;
        }
        if self.away.load(Ordering::Relaxed) {
            return Err(WebError { message: "connection refused".to_owned(), class: Class::Transient });
        }
        if self.torn.lock().unwrap().as_deref().is_some_and(|digest| request.url.ends_with(digest)) {
            return Err(WebError { message: "connection reset".to_owned(), class: Class::Peer });
        }
        let mut answer = self.registry.get(request).await?;
        if let Some(manifest) = self.manifest.lock().unwrap().clone()
            && request.url.contains("/manifests/")
        {
            answer.body = manifest.into();
        }
        Ok(answer)
    }
}

struct World {
    web: Arc<Unruly>,
    verifier: Verifier,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    signed: String,
    unsigned: String,
}

impl World {
    fn new() -> Self {
        let (mut world, worker) = Self::unstarted();
        world.tasks.spawn(worker.run(world.cancel.clone()));
        world
    }

    fn unstarted() -> (Self, Worker) {
        let document = document();
        let find = |name: &str| document.cases.iter().find(|case| case.name == name).unwrap();
        let (signed, unsigned) = (find("signed"), find("unsigned"));
        let web = Arc::new(Unruly {
            registry: Recorded(document.registry.clone()),
            requests: AtomicUsize::new(0),
            away: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
            torn: Mutex::default(),
            manifest: Mutex::default(),
        });
        let deps = Deps { trust: trust(&document), clock: day_after(), web: web.clone() };
        let (verifier, worker) = Verifier::new(signed.settings().check().unwrap(), deps).unwrap();
        let world = Self {
            web,
            verifier,
            cancel: CancellationToken::new(),
            tasks: JoinSet::new(),
            signed: signed.image.clone(),
            unsigned: unsigned.image.clone(),
        };
        (world, worker)
    }

    fn requests(&self) -> usize {
        self.web.requests.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn all_callers_share_one_look() {
    let world = World::new();
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let (verifier, image) = (world.verifier.clone(), world.signed.clone());
        callers.spawn(async move { verifier.selectors(&image).await.unwrap().len() });
    }
    assert_eq!(callers.join_all().await, [8; 100]);
    assert_eq!(world.requests(), 2, "manifest and payload");
    world.verifier.selectors(&world.signed).await.unwrap();
    assert_eq!(world.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_look_goes_on_when_the_caller_leaves() {
    let world = World::new();
    assert!(timeout(Duration::from_secs(5), world.verifier.selectors(&world.signed)).await.is_err());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.verifier.selectors(&world.signed).await.unwrap().len(), 8);
    assert_eq!(world.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_withdraws_nothing() {
    let world = World::new();
    world.verifier.selectors(&world.signed).await.unwrap();
    world.web.away.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        advance(Duration::from_secs(4000)).await;
        assert_eq!(world.verifier.selectors(&world.signed).await.unwrap().len(), 8);
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    assert_eq!(world.requests(), 7, "looked again each time");
    assert_eq!(world.verifier.selectors(&world.unsigned).await.unwrap_err().class(), Class::Transient);
    world.web.away.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let error = world.verifier.selectors(&world.unsigned).await.unwrap_err();
    assert!(matches!(*error, SigstoreError::Unsigned { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_unsigned_image_is_not_asked_for_again_and_again() {
    let world = World::new();
    for _ in 0..50 {
        world.verifier.selectors(&world.unsigned).await.unwrap_err();
    }
    assert_eq!(world.requests(), 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.verifier.selectors(&world.unsigned).await.unwrap_err();
    assert_eq!(world.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_costs_its_images_their_answer_and_nobody_else() {
    let world = World::new();
    let digest = &world.signed[world.signed.find('@').unwrap()..];
    let mut waiting = JoinSet::new();
    for number in 0..8 {
        let (verifier, image) = (world.verifier.clone(), format!("127.0.0.2:1/slow/{number}{digest}"));
        waiting.spawn(async move { verifier.selectors(&image).await.unwrap_err() });
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let good = timeout(Duration::from_secs(10), world.verifier.selectors(&world.signed)).await;
    assert_eq!(good.unwrap().unwrap().len(), 8);
    let start = Instant::now();
    let errors = waiting.join_all().await;
    assert!(start.elapsed() < Duration::from_secs(61), "nobody is asked in vain");
    let count = |of: fn(&SigstoreError) -> bool| errors.iter().filter(|error| of(error)).count();
    assert_eq!(count(|error| matches!(error, SigstoreError::TimedOut { .. })), 2);
    assert_eq!(count(|error| matches!(error, SigstoreError::Slow { .. })), 6);
    // After the pause it is tried again.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let error = world.verifier.selectors(&format!("127.0.0.2:1/slow/0{digest}")).await.unwrap_err();
    assert!(matches!(*error, SigstoreError::TimedOut { .. }), "{error}");
}

/// A refresh that could not see everything may have missed a signature that is still there.
#[tokio::test(start_paused = true)]
async fn a_payload_that_breaks_off_withdraws_no_other_signature() {
    let world = World::new();
    let document = document();
    let case = document.cases.iter().find(|case| case.name == "signed-twice").unwrap();
    let before = world.verifier.selectors(&case.image).await.unwrap();
    assert_eq!(before.len(), 15);
    let (repository, digest) = case.image.split_once("@sha256:").unwrap();
    let name = repository.rsplit('/').next().unwrap();
    let recorded = &document.registry[&format!("/v2/{name}/manifests/sha256-{digest}.sig")];
    let mut manifest: serde_json::Value = serde_json::from_str(recorded).unwrap();
    let torn = format!("sha256:{}", "5".repeat(64));
    manifest["layers"][1]["digest"] = torn.clone().into();
    *world.web.manifest.lock().unwrap() = Some(manifest.to_string());
    *world.web.torn.lock().unwrap() = Some(torn);
    for _ in 0..2 {
        advance(Duration::from_secs(4000)).await;
        world.verifier.selectors(&case.image).await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(world.verifier.selectors(&case.image).await.unwrap(), before);
    }
    // Once it is known that the second one is not there, it is gone.
    *world.web.torn.lock().unwrap() = None;
    advance(Duration::from_secs(4000)).await;
    world.verifier.selectors(&case.image).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.verifier.selectors(&case.image).await.unwrap().len(), 8);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_waiting_images_is_bounded() {
    let (world, worker) = World::unstarted();
    let digest = &world.signed[world.signed.find('@').unwrap()..];
    for (registry, room) in [("127.0.0.1:5177", 192), ("127.0.0.1:5178", 256 - 192)] {
        let mut busy = 0;
        for number in 0..300 {
            let image = format!("{registry}/image{number}{digest}");
            let asked = timeout(Duration::from_millis(1), world.verifier.selectors(&image)).await;
            busy += usize::from(matches!(asked, Ok(Err(error)) if matches!(*error, SigstoreError::Busy)));
        }
        assert_eq!(busy, 300 - room);
    }
    drop(worker);
    let error = world.verifier.selectors(&world.signed).await.unwrap_err();
    assert!(matches!(*error, SigstoreError::Stopped), "{error}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_the_agent_stops() {
    let mut world = World::new();
    world.web.hangs.store(true, Ordering::Relaxed);
    let cancel = world.cancel.clone();
    world.tasks.spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        cancel.cancel();
    });
    let error = world.verifier.selectors(&world.signed).await.unwrap_err();
    assert!(matches!(*error, SigstoreError::Stopped), "{error}");
}
