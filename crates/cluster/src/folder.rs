//! A folder of manifests that stands for a cluster.
//!
//! Each `*.yaml`, `*.yml` and `*.json` file below it holds objects, one or several (`---`, or `kind: List`). The folder is
//! looked through each second. A file that cannot be read or parsed keeps the objects that it gave last, and the reason is a
//! [`Problem`]; a folder that is gone keeps all. While there is a file that could never be read nothing is complete: after a
//! restart it is not known what it gave before. A file must be gone for two looks: some programs remove a file and write it
//! again. A file that was changed a moment ago is left alone until it has settled, so
//! that half a file is not taken for the whole.
//!
//! What is written goes to files of its own, whole or not at all: an object to `KIND.NAMESPACE.NAME.applied.yaml`, the status
//! of objects of `FILE` to `FILE.status.yaml`. What people wrote is never touched; applying to it is a conflict.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::clock::Clock;

use crate::error::{Call, ClusterError, OpenError};
use crate::kind::Name;
use crate::lease::LeaseState;
pub(crate) use selector::Selector;
pub(crate) use view::View;

mod document;
mod files;
mod lock;
mod scan;
mod selector;
mod view;
mod write;

/// What is wrong with a manifest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it. What it gave last stays.
    pub detail: String,
}

/// The folder, and what was last found there.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    clock: Clock,
    scanner: Mutex<scan::Scanner>,
    view: ArcSwap<View>,
}

impl Folder {
    pub(crate) fn open(root: &Path, clock: Clock) -> Result<Self, OpenError> {
        std::fs::read_dir(root).map_err(|source| OpenError::Folder { path: root.into(), source })?;
        let (scanner, view) = (Mutex::default(), ArcSwap::from_pointee(View::default()));
        let inner = Inner { root: root.into(), clock, scanner, view };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What was last found.
    pub(crate) fn view(&self) -> Arc<View> {
        self.inner.view.load_full()
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.view().problems.clone()
    }

    /// Looks through the folder, unless that was done a moment ago.
    pub(crate) async fn refresh(&self) {
        let inner = Arc::clone(&self.inner);
        // It runs to its end, also when nobody waits any more.
        if let Err(error) = blocking::run(move || inner.scan(Look::IfDue)).await {
            warn!(%error, "folder was not looked through");
        }
    }

    /// Holds the lease `name` once it is free. Never returns; let go when dropped.
    pub(crate) async fn hold_lease(&self, name: &Name, tell: impl Fn(LeaseState)) {
        loop {
            let (root, file) = (self.inner.root.clone(), lock::file_of(name));
            match blocking::run(move || lock::take(&root, &file)).await {
                Ok(Ok(Some(_held))) => {
                    tell(LeaseState::Held);
                    return std::future::pending().await;
                }
                Ok(Ok(None)) => tell(LeaseState::Other("another process on this machine".into())),
                Ok(Err(error)) => warn!(%error, lease = %name, "lease cannot be locked"),
                Err(error) => warn!(%error, lease = %name, "lease was not locked"),
            }
            sleep(LEASE_RETRY).await;
        }
    }

    /// Does something with the files while nobody else does, and then looks at them again.
    async fn exclusively<R: Send + 'static>(
        &self,
        call: &Call,
        work: impl FnOnce(&Path, &View) -> Result<R, ClusterError> + Send + 'static,
    ) -> Result<R, ClusterError> {
        let inner = Arc::clone(&self.inner);
        let done = blocking::run(move || {
            inner.scan(Look::Now);
            let alone = inner.scanner.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = work(&inner.root, &inner.view.load());
            drop(alone);
            inner.scan(Look::Now);
            outcome
        });
        let lost = |error: tokio::task::JoinError| std::io::Error::other(error.to_string());
        done.await.unwrap_or_else(|error| {
            let path = self.inner.root.clone();
            Err(ClusterError::File { call: call.clone(), path, source: lost(error) })
        })
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Look {
    Now,
    IfDue,
}

impl Inner {
    fn scan(&self, look: Look) {
        let mut scanner = self.scanner.lock().unwrap_or_else(PoisonError::into_inner);
        if look == Look::IfDue && scanner.looked.is_some_and(|at| at.elapsed() < TICK / 2) {
            return;
        }
        let before = self.view.load_full();
        let looked = scanner.look(&self.root, self.clock.now());
        scanner.looked = Some(Instant::now());
        let view = match looked {
            Ok(problems) => view::build(&before, &scanner.files, problems),
            Err(problem) => before.with_trouble(problem),
        };
        tell(&before.problems, &view.problems);
        self.view.store(Arc::new(view));
    }
}

/// A problem is told when it comes and when it goes.
fn tell(before: &[Problem], after: &[Problem]) {
    for problem in after.iter().filter(|problem| !before.contains(problem)) {
        warn!(path = %problem.path.display(), detail = problem.detail, "manifest cannot be used, what it gave last stays");
    }
    for gone in before.iter().filter(|gone| !after.iter().any(|problem| problem.path == gone.path)) {
        info!(path = %gone.path.display(), "manifest can be used again");
    }
}

/// How often the folder is looked through.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// How often a lease that another process holds is tried.
const LEASE_RETRY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
