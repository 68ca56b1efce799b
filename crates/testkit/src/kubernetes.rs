//! Private Kubernetes API servers for tests, replays and benchmarks: the real programs, as processes.
//!
//! [`Kubernetes::start`] runs etcd, `kube-apiserver` and `kube-controller-manager` on free loopback ports with a PKI and a
//! folder of their own. There is no scheduler and no kubelet: Pods are objects, and what runs for them is what the test
//! starts. [`Kubernetes::shared`] is one for all tests of a process; each takes a namespace of its own. Everything ends with
//! its value, and also when this process is killed.
//!
//! Everything blocks and everything that fails panics: this is for tests.

#![expect(clippy::expect_used, clippy::panic, reason = "a test cannot go on without its cluster")]

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use tempfile::TempDir;

use crate::kept::Kept;

mod access;
mod api;
mod client;
mod control_plane;
mod denial;
mod front;
mod listener;
mod objects;
mod patience;
mod pki;
mod programs;

pub use access::TokenSettings;
pub use api::Answer;
pub use control_plane::Part;
pub use denial::{Denial, Denied};
pub use front::{Fault, Front, Rule};
pub use objects::{Created, PodObject};
pub use programs::{Etcd, programs};

/// One cluster.
pub struct Kubernetes {
    control_plane: control_plane::ControlPlane,
    api: api::Api,
    pki: pki::Pki,
    names: AtomicU32,
    /// Removes the folder when this process is killed, or ends without dropping what it shares.
    broom: Kept,
    folder: TempDir,
}

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which etcd.
    pub etcd: Etcd,
    /// The controllers of `kube-controller-manager`. None: it is not started.
    pub controllers: Vec<&'static str>,
    /// Further flags of the API server.
    pub api_server_flags: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { etcd: Etcd::default(), controllers: CONTROLLERS.to_vec(), api_server_flags: vec![] }
    }
}

impl Settings {
    /// The API server ends each watch after five to ten seconds.
    #[must_use]
    pub fn closing_watches(mut self) -> Self {
        self.api_server_flags.push("--min-request-timeout=5".to_owned());
        self
    }
}

impl Kubernetes {
    /// A new cluster on Debian's etcd with all [`CONTROLLERS`].
    ///
    /// # Panics
    ///
    /// When a program is missing; the text says how to get it.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Settings::default())
    }

    /// A new cluster.
    ///
    /// # Panics
    ///
    /// As [`Kubernetes::start`].
    #[must_use]
    pub fn start_with(settings: Settings) -> Self {
        let folder = crate::folder("vk");
        let broom = Kept::broom(folder.path());
        let pki = pki::Pki::create(folder.path());
        let tokens = "admin-token,admin,admin-uid,\"system:masters\"\n";
        fs::write(folder.path().join("tokens.csv"), tokens).expect("room for a file");
        let control_plane = control_plane::ControlPlane::new(folder.path(), settings);
        let api = api::Api::new(control_plane.api_port, pki.ca(), ADMIN_TOKEN);
        let cluster = Self { control_plane, api, pki, names: AtomicU32::new(0), broom, folder };
        cluster.write_kubeconfig("admin", &json!({"token": ADMIN_TOKEN}));
        let file = |name: &str| cluster.folder.path().join(name).display().to_string();
        let user = json!({"client-certificate": file("kcm.crt"), "client-key": file("kcm.key")});
        cluster.write_kubeconfig("kcm", &user);
        for part in cluster.control_plane.parts() {
            cluster.start_part(*part);
        }
        cluster
    }

    /// The cluster that all tests of this process share: Debian's etcd, all [`CONTROLLERS`]. No test may stop it, and each
    /// takes a [`Kubernetes::namespace`] of its own and names for what has no namespace from [`Kubernetes::unique`].
    ///
    /// # Panics
    ///
    /// As [`Kubernetes::start`].
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kubernetes> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// The folder with its files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `https://127.0.0.1:<port>`
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port())
    }

    /// The port of the API server.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.control_plane.api_port
    }

    /// The cluster's authority, in PEM. It signs the API server and clients.
    #[must_use]
    pub fn ca(&self) -> &str {
        self.pki.ca()
    }

    /// A name that no other test of this process has, such as `<prefix>-3`.
    #[must_use]
    pub fn unique(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Kills the API server: an outage begins. What etcd has stays.
    pub fn stop_api_server(&self) {
        self.control_plane.kill(Part::ApiServer);
    }

    /// Starts it again on the same port. Watches that resume from a version before get 410 ("too old resource version").
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn start_api_server(&self) {
        self.start_part(Part::ApiServer);
    }

    /// Kills `part`.
    pub fn kill_part(&self, part: Part) {
        self.control_plane.kill(part);
    }

    /// Starts `part` after it was killed.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn start_part(&self, part: Part) {
        self.control_plane.start(part, &self.api);
    }

    /// Stops `part` where it is: connections stay open, new ones are accepted, and nothing answers.
    pub fn freeze(&self, part: Part) {
        self.control_plane.signal(part, "STOP");
    }

    /// Undoes [`Kubernetes::freeze`].
    pub fn thaw(&self, part: Part) {
        self.control_plane.signal(part, "CONT");
    }

    /// The process id of a part that runs.
    #[must_use]
    pub fn pid(&self, part: Part) -> Option<u32> {
        self.control_plane.pid(part)
    }

    /// What `part` logged.
    #[must_use]
    pub fn log(&self, part: Part) -> String {
        self.control_plane.log(part)
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        for part in self.control_plane.parts().iter().rev() {
            self.control_plane.kill(*part);
        }
        self.broom.wait();
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("port", &self.port()).finish_non_exhaustive()
    }
}

/// What makes a cluster behave as people expect: owned objects go with their owner, namespaces get their service account and
/// CA, Deployments and DaemonSets get Pods (which stay without a node), Services get Endpoints and EndpointSlices. A set of
/// custom resources should be there before garbage collection of them is expected: it looks for new kinds every 30 s.
pub const CONTROLLERS: &[&str] = &[
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "deployment-controller",
    "replicaset-controller",
    "daemonset-controller",
    "endpoints-controller",
    "endpointslice-controller",
];
const ADMIN_TOKEN: &str = "admin-token";

#[cfg(test)]
mod tests;
