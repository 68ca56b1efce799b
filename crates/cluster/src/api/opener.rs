//! The client, and reading its configuration again.
//!
//! A kubeconfig may name a program that gives credentials. Such a program may take long or never end: it runs on a thread of
//! its own when the first call needs it, one at a time, and a call waits for it so long and no longer. kube runs it again before
//! a token that tells its end runs out; what tells no end is asked for again when the API server refuses it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use kube::Client;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tower::BoxError;
use tracing::{debug, info, warn};

use super::connection::{self, Place};
use crate::error::{Call, ClusterError, OpenError};

/// Opens the client, once or again.
pub(super) struct Opener {
    place: Option<Place>,
    runs_program: bool,
    client: ArcSwapOption<Client>,
    opening: Mutex<Opening>,
}

#[derive(Default)]
struct Opening {
    work: Option<JoinHandle<Result<Client, OpenError>>>,
    ended: Option<Instant>,
}

impl Opener {
    /// Reads configuration; runs no program and contacts nobody.
    pub(super) fn new(place: Place) -> Result<Self, OpenError> {
        let config = connection::read(&place)?;
        if let (true, Place::Kubeconfig(path)) = (config.accept_invalid_certs, &place) {
            warn!(kubeconfig = %path.display(), "insecure-skip-tls-verify: the API server's certificate is not checked, anybody can answer in its place");
        }
        let runs_program = connection::runs_program(&config);
        let client = if runs_program { None } else { Some(Arc::new(connection::client(&config)?)) };
        let client = ArcSwapOption::new(client);
        Ok(Self { place: Some(place), runs_program, client, opening: Mutex::default() })
    }

    #[cfg(test)]
    pub(super) fn over(client: Client) -> Self {
        let client = ArcSwapOption::from_pointee(client);
        Self { place: None, runs_program: false, client, opening: Mutex::default() }
    }

    pub(super) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// The client; on first use this may have to wait for a program.
    pub(super) async fn client(&self, call: &Call) -> Result<Arc<Client>, ClusterError> {
        if let Some(client) = self.client.load_full() {
            return Ok(client);
        }
        let mut opening = self.opening.lock().await;
        if let Some(client) = self.client.load_full() {
            return Ok(client);
        }
        let unreachable = |source| ClusterError::Unreachable { call: call.clone(), source };
        self.open(&mut opening, PROGRAM_FAILED).await.map_err(unreachable)
    }

    /// A rotated certificate authority, client certificate or address is in the file before it is here.
    pub(super) async fn reopen(&self, is_refused: bool) {
        if self.place.is_none() || (self.runs_program && !is_refused) {
            return;
        }
        let pause = if self.runs_program { PROGRAM_AGAIN } else { Duration::ZERO };
        match self.open(&mut *self.opening.lock().await, pause).await {
            Ok(_) => info!("configuration of the Kubernetes API read again"),
            Err(error) => debug!(%error, "configuration of the Kubernetes API cannot be read again"),
        }
    }

    /// Opens, unless that ended less than `pause` ago; waits for what is under way already.
    async fn open(&self, opening: &mut Opening, pause: Duration) -> Result<Arc<Client>, BoxError> {
        let place = self.place.clone().ok_or("there is no configuration")?;
        if opening.work.is_none() && opening.ended.is_some_and(|at| at.elapsed() < pause) {
            return Err("credentials were asked for a moment ago".into());
        }
        let start =
            || vouchsafe_runtime::blocking::run(move || connection::client(&connection::read(&place)?));
        let work = opening.work.get_or_insert_with(start);
        let Ok(joined) = timeout(OPEN, work).await else {
            return Err(format!("the kubeconfig's program has given no credentials within {OPEN:?}").into());
        };
        (opening.work, opening.ended) = (None, Some(Instant::now()));
        let client = Arc::new(joined??);
        self.client.store(Some(Arc::clone(&client)));
        Ok(client)
    }
}

/// How long a call waits for configuration and for the program that it names.
const OPEN: Duration = Duration::from_secs(10);

/// How soon a program that gave no credentials is run again.
const PROGRAM_FAILED: Duration = Duration::from_secs(10);

/// How soon a program whose credentials are refused is run again.
const PROGRAM_AGAIN: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use k8s_openapi::api::core::v1::ConfigMap;
    use vouchsafe_runtime::chain::Chain;

    use super::super::Api;
    use super::*;
    use crate::kind::Name;

    struct World {
        folder: tempfile::TempDir,
        api: Api,
    }

    impl World {
        /// A kubeconfig for a server that is not there.
        fn new(user: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("config");
            let text = format!(
                r#"{{"apiVersion": v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: k, user: u}}}}],
                clusters: [{{name: k, cluster: {{server: "https://127.0.0.1:1"}}}}], users: [{{name: u, user: {user}}}]}}"#
            );
            fs::write(&path, text.replace("FOLDER", &folder.path().display().to_string())).unwrap();
            fs::write(folder.path().join("token"), "abc\n").unwrap();
            Self { api: Api::open(Place::Kubeconfig(path)).unwrap(), folder }
        }

        /// With a program that notes that it ran, and then does what `script` says.
        fn running(script: &str) -> Self {
            let script = format!("echo ran >> FOLDER/runs; {script}");
            Self::new(&format!(
                r#"{{exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: sh, args: ["-c", '{script}']}}}}"#
            ))
        }

        fn runs(&self) -> usize {
            let path: PathBuf = self.folder.path().join("runs");
            fs::read_to_string(path).unwrap_or_default().lines().count()
        }

        /// The error of a call, with all its causes.
        async fn call(&self) -> String {
            let error = self.api.fetch::<ConfigMap>(&Name::new("n", "a")).await.unwrap_err();
            Chain(&error).to_string()
        }
    }

    #[tokio::test]
    async fn what_a_program_prints_is_in_no_error() {
        let world = World::running("echo hunter2; echo hunter3 >&2; exit 3");
        assert_eq!(world.runs(), 0, "to open runs no program");
        let text = world.call().await;
        assert!(text.contains("exit status: 3") && !text.contains("hunter"), "{text}");
        let runs = world.runs();
        assert!(runs > 0);
        world.call().await;
        assert_eq!(world.runs(), runs, "it is not run again at once");
        let text = World::running("echo hunter2: [").call().await;
        assert!(text.contains("cannot be read") && !text.contains("hunter"), "{text}");
    }

    #[tokio::test]
    async fn a_server_that_is_away_does_not_run_the_program_again() {
        let world = World::running(
            r#"echo "{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"t\"}}""#,
        );
        let text = world.call().await;
        assert!(text.contains("cannot be reached") && !text.contains("program"), "{text}");
        let runs = world.runs();
        world.api.opener.reopen(false).await;
        world.call().await;
        assert_eq!(world.runs(), runs);
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_does_not_end_holds_up_no_call_and_runs_once() {
        let world = World::running("sleep 1");
        for _ in 0..3 {
            let call = world.call();
            let later = async {
                for _ in 0..11 {
                    tokio::time::advance(Duration::from_secs(1)).await;
                }
                std::future::pending::<()>().await
            };
            tokio::select! {
                text = call => assert!(text.contains("within 10s"), "{text}"),
                () = later => {}
            }
        }
        let work = world.api.opener.opening.lock().await.work.take();
        assert!(work.unwrap().await.unwrap().is_err(), "it says nothing in the end");
        assert_eq!(
            world.runs(),
            2,
            "kube runs it twice when it opens: once for a certificate, once for a token"
        );
    }

    #[tokio::test]
    async fn a_token_file_may_end_in_a_line_end() {
        let text = World::new("{tokenFile: FOLDER/token}").call().await;
        assert!(text.contains("refused") && !text.contains("header"), "{text}");
    }
}
