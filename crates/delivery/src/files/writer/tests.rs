use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;
use tokio::time::timeout;
use vouchsafe_proto::workload::{JwtBundlesResponse, Jwtsvid, JwtsvidResponse};
use vouchsafe_runtime::clock::ClockHandle;

use super::*;
use crate::files::render::tests::{NOW, answer, authority, files, svid};
use crate::files::settings::{JwtBundleFile, JwtSvidFile, ProgramSettings, Replacement};

/// A writer with its answers in the test's hand.
struct World {
    folder: TempDir,
    clock: ClockHandle,
    answers: mpsc::Sender<Answer>,
    report: watch::Receiver<Report>,
    _tasks: JoinSet<()>,
}

/// Settings whose command notes each start.
fn settings(folder: &Path) -> Settings {
    let script = format!("echo start >> {}", folder.join("told").display());
    Settings {
        socket: folder.join("nobody.sock"),
        folder: folder.join("certs"),
        replacement: Replacement::EachFile,
        x509: Some(files()),
        jwt_bundle: None,
        jwt_svids: vec![],
        hint: String::new(),
        program: ProgramSettings {
            command: Some(("/bin/sh".into(), vec!["-c".to_owned(), script])),
            ..ProgramSettings::default()
        },
    }
}

impl World {
    fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        change(&mut settings);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.try_into().unwrap());
        let (clock, handle) = Clock::standing(now);
        let (writer, report) = Writer::new(settings, clock, Entropy::from_seed(1));
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.keep(receiver, CancellationToken::new()));
        Self { folder, clock: handle, answers, report, _tasks: tasks }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn make_folder(&self) {
        fs::create_dir(self.path("certs")).unwrap();
    }

    async fn send_identity(&self, path: &str) {
        let identity = svid(&authority(NOW + 7200), path, "", false);
        self.answers.send(Answer::X509(Box::new(answer(vec![identity], &[])))).await.unwrap();
    }

    async fn wait_for(&mut self, state: State) {
        let reached =
            |report: &Report| report.x509.iter().chain(report.jwt.values()).all(|kept| kept.state == state);
        timeout(PATIENCE, self.report.wait_for(reached)).await.unwrap().unwrap();
    }

    /// Waits until the command was started so many times, and no more.
    async fn wait_for_starts(&self, starts: usize) {
        until(|| self.starts() >= starts).await;
        assert_eq!(self.starts(), starts);
    }

    fn starts(&self) -> usize {
        fs::read_to_string(self.path("told")).unwrap_or_default().lines().count()
    }
}

/// Asks again and again until it is so.
async fn until(is_so: impl Fn() -> bool) {
    let asked = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asked).await.unwrap();
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_write_that_failed_is_repeated_without_another_answer_and_told_meanwhile() {
    let mut world = World::start(|_| {});
    world.send_identity("web").await;
    world.wait_for(State::Failed).await;
    assert!(!world.report.borrow().live());
    world.make_folder();
    world.wait_for(State::Written).await;
    assert!(world.path("certs/key.pem").exists());
    world.wait_for_starts(1).await;
}

#[tokio::test]
async fn the_program_is_told_at_first_and_then_only_of_what_is_new() {
    let mut world = World::start(|_| {});
    world.make_folder();
    let identity = answer(vec![svid(&authority(NOW + 7200), "web", "", false)], &[]);
    for _ in 0..3 {
        world.answers.send(Answer::X509(Box::new(identity.clone()))).await.unwrap();
        world.wait_for(State::Written).await;
    }
    world.wait_for_starts(1).await;
    // While the command is about to end it is not started again, so one renewal may not do.
    let again = async {
        while world.starts() < 2 {
            world.send_identity("web").await;
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_leaves_the_files_and_the_next_is_taken() {
    let mut world = World::start(|_| {});
    world.make_folder();
    world.send_identity("one").await;
    world.wait_for(State::Written).await;
    let before = fs::read(world.path("certs/svid.pem")).unwrap();
    world.answers.send(Answer::X509(Box::new(answer(vec![], &[])))).await.unwrap();
    world.send_identity("two").await;
    until(|| fs::read(world.path("certs/svid.pem")).unwrap() != before).await;
}

#[tokio::test]
async fn an_identity_that_ends_makes_it_not_ready_and_its_files_stay() {
    let mut world = World::start(|_| {});
    world.make_folder();
    world.send_identity("web").await;
    world.wait_for(State::Written).await;
    let ready = |world: &World, now| world.report.borrow().ready(now);
    assert!(ready(&world, NOW));
    world.clock.jump(3601);
    assert!(!ready(&world, NOW + 3601));
    assert!(world.path("certs/key.pem").exists() && world.report.borrow().live());
}

#[tokio::test]
async fn a_program_without_x509_files_is_told_once_all_others_are_there() {
    // {"alg":"RS256","kid":"k"} . {"sub":"spiffe://d.test/w","aud":["a"],"exp":1000} . signature
    const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.eyJzdWIiOiJzcGlmZmU6Ly9kLnRlc3QvdyIsImF1ZCI6WyJhIl0sImV4cCI6MTAwMH0.AAAA";
    let mut world = World::start(|settings| {
        settings.x509 = None;
        settings.jwt_bundle = Some(JwtBundleFile { name: "bundle.json".to_owned(), mode: 0o600 });
        let audience = vec!["a".to_owned()];
        settings.jwt_svids = vec![JwtSvidFile { name: "jwt.token".to_owned(), mode: 0o600, audience }];
    });
    world.make_folder();
    let svids = vec![Jwtsvid { svid: TOKEN.to_owned(), ..Jwtsvid::default() }];
    world.answers.send(Answer::JwtSvids(0, JwtsvidResponse { svids })).await.unwrap();
    world
        .report
        .wait_for(|report| report.jwt.values().any(|kept| kept.state == State::Written))
        .await
        .unwrap();
    assert!(!world.path("told").exists(), "the bundle is missing");
    let bundles = [("spiffe://d.test".to_owned(), "{\"keys\":[]}".into())].into();
    world.answers.send(Answer::JwtBundles(JwtBundlesResponse { bundles })).await.unwrap();
    world.wait_for(State::Written).await;
    world.wait_for_starts(1).await;
}
