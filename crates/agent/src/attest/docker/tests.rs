use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_runtime::metrics::Registry;

use super::containers::tests::{CONTAINER, Daemon};
use super::*;
use crate::attest::Attestors;
use crate::attest::unix::{UnixAttestor, UnixAttestorConfig};
use crate::metrics::Metrics;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "deadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef";

fn this_process() -> PeerProcess {
    PeerProcess::of(&std::os::unix::net::UnixStream::pair().unwrap().0).unwrap()
}

/// A directory that lists this process as one in these cgroups, with these mounts.
fn proc_root(cgroup: Option<&str>, mountinfo: Option<&str>) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let process = root.path().join(std::process::id().to_string());
    std::fs::create_dir(&process).unwrap();
    for (name, text) in [("cgroup", cgroup), ("mountinfo", mountinfo)] {
        if let Some(text) = text {
            std::fs::write(process.join(name), text).unwrap();
        }
    }
    root
}

fn located(cgroup: Option<&str>, mountinfo: Option<&str>) -> Result<Option<Place>, LocateError> {
    let root = proc_root(cgroup, mountinfo);
    let config = DockerConfig { proc_root: root.path().to_owned(), verbose: true, ..DockerConfig::default() };
    config.locate(i32::try_from(std::process::id()).unwrap())
}

fn in_cgroup(path: &str) -> String {
    format!("0::{path}\n")
}

#[test]
fn what_the_kernel_says_counts_before_what_a_workload_can_arrange() {
    let mounts = format!("1 2 0:30 /../{OTHER} /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
    let kernel = in_cgroup(&format!("/docker/{ID}"));
    let id =
        |cgroup: Option<&str>, mounts: Option<&str>| located(cgroup, mounts).unwrap().map(|place| place.id);
    assert_eq!(id(Some(&kernel), Some(&mounts)).as_deref(), Some(ID));
    assert_eq!(id(Some(&in_cgroup("/")), Some(&mounts)).as_deref(), Some(OTHER));
    assert_eq!(id(None, Some(&mounts)).as_deref(), Some(OTHER));
    assert_eq!(id(Some(&kernel), Some("nonsense")).as_deref(), Some(ID));
    assert_eq!(id(Some(&in_cgroup("/user.slice")), None), None);
    assert_eq!(id(None, None), None);
    assert!(located(Some("nonsense"), Some(&mounts)).is_err(), "no way around the kernel's word");
}

#[test]
fn each_container_is_asked_for_at_its_own_daemon() {
    let socket = |path: &str| located(Some(&in_cgroup(path)), None).unwrap().unwrap().socket;
    assert_eq!(socket(&format!("/docker/{ID}")), PathBuf::from("/var/run/docker.sock"));
    assert_eq!(
        socket(&format!("/machine.slice/libpod-{ID}.scope")),
        PathBuf::from("/run/podman/podman.sock")
    );
    assert_eq!(
        socket(&format!("/user.slice/user-1000.slice/user@1000.service/libpod-{ID}.scope")),
        PathBuf::from("/run/user/1000/podman/podman.sock")
    );
}

#[test]
fn configured_patterns_replace_the_rules() {
    let matchers = Matchers::parse(&["/my/<id>".to_owned()]).unwrap();
    let find = |paths: &[&str]| {
        matched(&matchers, &paths.iter().map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>())
    };
    assert_eq!(find(&["/", "/my/a", "/my/a"]).unwrap().as_deref(), Some("a"));
    assert_eq!(find(&[&format!("/docker/{ID}")]).unwrap(), None);
    assert!(matches!(find(&["/my/a", "/my/b"]), Err(LocateError::Conflict(..))));
    assert!(matches!(find(&["/my/"]), Err(LocateError::Blank)));
}

#[test]
fn settings_are_checked_all_at_once() {
    let settings = DockerSettings {
        docker_socket_path: Some("tcp://127.0.0.1:2375".to_owned()),
        docker_version: Some("latest".to_owned()),
        podman_socket_path_template: Some("unix:///run/podman.sock".to_owned()),
        container_id_cgroup_matchers: vec!["/a".to_owned()],
        ..DockerSettings::default()
    };
    let problems: Vec<_> = settings.check().unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 5, "{problems:?}");
    assert!(problems[0].starts_with("docker_socket_path: \"tcp://127.0.0.1:2375\" is not the URL"));
    assert_eq!(DockerSettings::default().check(), Ok(DockerConfig::default()));
    let settings = DockerSettings {
        docker_socket_path: Some("unix:///run/d.sock".to_owned()),
        docker_version: Some("v1.41".to_owned()),
        container_id_cgroup_matchers: vec!["/a/<id>".to_owned()],
        use_new_container_locator: Some(false),
        ..DockerSettings::default()
    };
    let config = settings.check().unwrap();
    assert_eq!((config.socket, config.api_version.as_deref()), ("/run/d.sock".into(), Some("1.41")));
    assert!(config.matchers.is_some());
}

#[tokio::test]
async fn a_process_in_no_container_is_none_of_dockers_business() {
    let root = proc_root(Some("0::/user.slice\n"), None);
    let config = DockerConfig {
        proc_root: root.path().to_owned(),
        socket: "/nonexistent".into(),
        ..DockerConfig::default()
    };
    assert!(DockerAttestor::new(config).attest(&this_process()).await.unwrap().is_empty());
}

/// Both attestors on this process, which is in a container.
fn attestors(daemon: &Daemon, root: &tempfile::TempDir) -> Attestors {
    let docker = DockerConfig {
        proc_root: root.path().to_owned(),
        socket: daemon.socket(),
        ..DockerConfig::default()
    };
    let unix = UnixAttestor::new(UnixAttestorConfig::default());
    let metrics = Metrics::new(Registry::new("spire_agent", &[]));
    Attestors::new(vec![Arc::new(unix), Arc::new(DockerAttestor::new(docker))], &metrics)
}

#[tokio::test]
async fn a_process_in_a_container_has_the_selectors_of_both_attestors() {
    let daemon = Daemon::start();
    daemon.has(&format!("/containers/{ID}/json"), CONTAINER);
    let root = proc_root(Some(&in_cgroup(&format!("/docker/{ID}"))), None);
    let selectors = attestors(&daemon, &root).attest(&this_process()).await.unwrap();
    assert!(selectors.contains(&Selector::parse("docker:label:org.example.name:web").unwrap()));
    let own = format!("unix:uid:{}", nix::unistd::geteuid());
    assert!(selectors.contains(&Selector::parse(&own).unwrap()));
}

#[tokio::test]
async fn a_docker_that_hangs_does_not_hold_up_the_answer_of_the_others() {
    let daemon = Daemon::start();
    daemon.hang(true);
    let root = proc_root(Some(&in_cgroup(&format!("/docker/{ID}"))), None);
    let attestors = attestors(&daemon, &root);
    let began = Instant::now();
    let selectors = attestors.attest(&this_process()).await.unwrap();
    assert!(
        selectors.iter().any(|one| one.kind() == "unix")
            && !selectors.iter().any(|one| one.kind() == "docker")
    );
    assert!(began.elapsed() < containers::PATIENCE * 2);
    let began = Instant::now();
    assert!(attestors.attest(&this_process()).await.is_ok());
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}
