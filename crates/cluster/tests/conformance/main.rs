//! The conformance suite on a folder of manifests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use vouchsafe_cluster::{Cluster, Deps, Source};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;

mod suite;

#[tokio::test]
async fn a_folder_of_manifests_does_what_an_api_server_does() {
    let folder = tempfile::tempdir().unwrap();
    let deps =
        Deps { clock: Clock::system(), entropy: Entropy::from_seed(1), metrics: Registry::new("test", &[]) };
    let cluster = Cluster::open(&Source::Folder(folder.path().into()), deps).unwrap();
    suite::run(&cluster, "suite", "folder").await;
}
