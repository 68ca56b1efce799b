//! etcd, the API server and the controller manager as processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Settings;
use super::api::{self, Api, Request};
use super::programs::programs;
use crate::kept::Kept;
use crate::ports::free_port;

/// A part of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The store of all objects.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controllers, if the cluster has any.
    ControllerManager,
}

/// The processes, and what starts them again.
pub(super) struct ControlPlane {
    folder: PathBuf,
    pub(super) api_port: u16,
    etcd_port: u16,
    kcm_port: u16,
    settings: Settings,
    running: Mutex<[Option<Kept>; 3]>,
}

impl ControlPlane {
    pub(super) fn new(folder: &Path, settings: Settings) -> Self {
        Self {
            folder: folder.to_owned(),
            api_port: free_port(),
            etcd_port: free_port(),
            kcm_port: free_port(),
            settings,
            running: Mutex::default(),
        }
    }

    /// The parts that this cluster has, in the order in which they start.
    pub(super) fn parts(&self) -> &'static [Part] {
        let all = &[Part::Etcd, Part::ApiServer, Part::ControllerManager];
        if self.settings.controllers.is_empty() { &all[..2] } else { all }
    }

    /// Starts `part` and waits until it answers.
    pub(super) fn start(&self, part: Part, api: &Api) {
        let command = match part {
            Part::Etcd => self.etcd(),
            Part::ApiServer => self.api_server(),
            Part::ControllerManager => self.controller_manager(),
        };
        let kept = Kept::start(&command, &self.log_path(part), "KILL");
        let until = Instant::now() + START;
        while !self.answers(part, api) {
            if kept.ended() || Instant::now() > until {
                panic!("{part:?} does not start: {}", tail(&self.log(part)));
            }
            std::thread::sleep(PAUSE);
        }
        self.running()[part as usize] = Some(kept);
    }

    /// Ends `part` as a crash does, and waits until it is gone.
    pub(super) fn kill(&self, part: Part) {
        let kept = self.running()[part as usize].take();
        if let Some(mut kept) = kept {
            kept.signal("KILL");
            kept.wait();
        }
    }

    /// Sends `part` a signal, if it runs.
    pub(super) fn signal(&self, part: Part, name: &str) {
        if let Some(kept) = &self.running()[part as usize] {
            kept.signal(name);
        }
    }

    pub(super) fn pid(&self, part: Part) -> Option<u32> {
        self.running()[part as usize].as_ref().map(Kept::pid)
    }

    pub(super) fn log(&self, part: Part) -> String {
        fs::read_to_string(self.log_path(part)).unwrap_or_default()
    }

    fn log_path(&self, part: Part) -> PathBuf {
        self.folder.join(format!("{part:?}.log"))
    }

    fn answers(&self, part: Part, api: &Api) -> bool {
        let get = |path| Request { method: "GET", path, content_type: "", body: None };
        match part {
            Part::Etcd => api::answers(self.etcd_port, "/health"),
            Part::ApiServer => api.send(get("/readyz")).is_ok_and(|answer| answer.status == 200),
            // Its port has TLS, and being there is what counts.
            Part::ControllerManager => std::net::TcpStream::connect(("127.0.0.1", self.kcm_port)).is_ok(),
        }
    }

    fn etcd(&self) -> Command {
        let clients = format!("http://127.0.0.1:{}", self.etcd_port);
        let peers = format!("http://127.0.0.1:{}", free_port());
        let mut etcd = Command::new(self.settings.etcd.program());
        etcd.args(["--name=default", "--logger=zap", "--log-level=warn"]).args(PATIENT);
        etcd.arg(format!("--data-dir={}", self.folder.join("etcd").display()));
        etcd.arg(format!("--listen-client-urls={clients}")).arg(format!("--advertise-client-urls={clients}"));
        etcd.arg(format!("--listen-peer-urls={peers}")).arg(format!("--initial-advertise-peer-urls={peers}"));
        etcd.arg(format!("--initial-cluster=default={peers}")).args(self.settings.etcd.flags());
        etcd
    }

    fn api_server(&self) -> Command {
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.folder.join(name).display());
        let mut server = Command::new(programs().join("kube-apiserver"));
        server.arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port));
        server.arg(format!("--secure-port={}", self.api_port)).args(API_SERVER);
        for (flag, name) in API_SERVER_FILES {
            server.arg(file(flag, name));
        }
        server.args(&self.settings.api_server_flags);
        server
    }

    fn controller_manager(&self) -> Command {
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.folder.join(name).display());
        let mut manager = Command::new(programs().join("kube-controller-manager"));
        for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            manager.arg(file(flag, "kcm.kubeconfig"));
        }
        manager.arg(file("service-account-private-key-file", "sa.key")).arg(file("root-ca-file", "ca.crt"));
        manager
            .arg(file("tls-cert-file", "apiserver.crt"))
            .arg(file("tls-private-key-file", "apiserver.key"));
        manager.arg(format!("--controllers={}", self.settings.controllers.join(",")));
        manager.arg(format!("--secure-port={}", self.kcm_port)).args(CONTROLLER_MANAGER);
        manager
    }

    fn running(&self) -> MutexGuard<'_, [Option<Kept>; 3]> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// etcd gives up a request after 5 s and twice the time of an election (1 s by default): a machine that is busy takes longer.
const PATIENT: [&str; 2] = ["--heartbeat-interval=500", "--election-timeout=5000"];

/// The advertised address is nobody's: nothing looks the server up, but it refuses a loopback address there.
const API_SERVER: &[&str] = &[
    "--bind-address=127.0.0.1",
    "--advertise-address=192.0.2.1",
    "--endpoint-reconciler-type=none",
    "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
    "--authorization-mode=Node,RBAC",
    "--service-cluster-ip-range=10.96.0.0/16",
    "--allow-privileged=true",
    "--enable-aggregator-routing=true",
    "--feature-gates=ClusterTrustBundle=true",
    "--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true",
    "--requestheader-allowed-names=front-proxy",
    "--requestheader-username-headers=X-Remote-User",
    "--requestheader-group-headers=X-Remote-Group",
    "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    "--profiling=false",
    "--v=1",
];

const API_SERVER_FILES: &[(&str, &str)] = &[
    ("tls-cert-file", "apiserver.crt"),
    ("tls-private-key-file", "apiserver.key"),
    ("client-ca-file", "ca.crt"),
    ("requestheader-client-ca-file", "ca.crt"),
    ("token-auth-file", "tokens.csv"),
    ("service-account-key-file", "sa.pub"),
    ("service-account-signing-key-file", "sa.key"),
    ("proxy-client-cert-file", "proxy.crt"),
    ("proxy-client-key-file", "proxy.key"),
    ("kubelet-client-certificate", "kubelet-client.crt"),
    ("kubelet-client-key", "kubelet-client.key"),
    ("kubelet-certificate-authority", "ca.crt"),
];

const CONTROLLER_MANAGER: &[&str] = &[
    "--leader-elect=false",
    // Without it the one user has too few rights, and garbage collection fails silently.
    "--use-service-account-credentials=true",
    "--kube-api-qps=200",
    "--kube-api-burst=400",
    "--bind-address=127.0.0.1",
    "--profiling=false",
    "--v=1",
];

/// On a machine that compiles something else meanwhile.
const START: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(50);
const LOG_LINES: usize = 30;
