//! Workloads that we started, and what they met.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;

use crate::error::{Doing, Error};
use crate::process::wait_until;
use crate::workload::{Ask, COMMAND, Event, Job};

/// This program under names of its own, by which entries know it: one for each kind of workload.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// In `folder`.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The program called `name`, which need not be there yet.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The program called `name`. A link where the file system allows it, else a copy: a kernel names a running program by
    /// the link that it was started through.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf, Error> {
        let (path, own) = (self.path(name), std::env::current_exe().doing("find this program")?);
        if !path.exists() {
            let first = self.0.join("replay");
            if !first.exists() {
                fs::copy(own, &first).doing("copy this program")?;
            }
            fs::hard_link(first, &path).doing("link this program")?;
        }
        Ok(path)
    }
}

/// Running workloads. They end with the value.
#[derive(Default)]
pub(crate) struct Workloads {
    children: Vec<(Child, ChildStdin)>,
    /// Their targets, counted over all of them: [`Event::target`] is the place among these.
    targets: usize,
    events: Arc<Mutex<Vec<Event>>>,
    readers: JoinSet<()>,
}

impl Workloads {
    /// Starts a process that does `job`.
    pub(crate) async fn start(&mut self, program: &Path, job: &Job) -> Result<(), Error> {
        let mut command = Command::new(program);
        command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().doing("start a workload")?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::setup("start a workload", "it has no pipes"));
        };
        let mut line = serde_json::to_vec(job).doing("write a job")?;
        line.push(b'\n');
        input.write_all(&line).await.doing("write a job")?;
        self.readers.spawn(read(BufReader::new(output).lines(), self.targets, self.events.clone()));
        self.targets += job.targets.len();
        self.children.push((child, input));
        Ok(())
    }

    /// All events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what was until now.
    pub(crate) fn forget(&self) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Looks at the events so far until there is an answer.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut(&[Event]) -> Option<T>,
    ) -> Result<T, Error> {
        wait_until(what, patience, async || {
            Ok(look(&self.events.lock().unwrap_or_else(PoisonError::into_inner)))
        })
        .await
    }

    /// Until every target had a good answer to each of `asks`.
    pub(crate) async fn until_each_served(&self, asks: &[Ask], patience: Duration) -> Result<(), Error> {
        let mut problem = String::new();
        let served = self.until("every workload is served", patience, |events| {
            let last = events.iter().rev().find_map(|event| event.error.clone());
            problem = last.unwrap_or_default();
            let good = |ask| events.iter().filter(move |event| event.ask == ask && event.error.is_none());
            let all = asks.iter().all(|&ask| {
                let targets: HashSet<usize> = good(ask).map(|event| event.target).collect();
                targets.len() == self.targets
            });
            all.then_some(())
        });
        served.await.map_err(|error| Error::broken(format!("{error}; the last error: {problem}")))
    }

    /// Until there are so many events.
    pub(crate) async fn until_asked(&self, count: usize, patience: Duration) -> Result<(), Error> {
        self.until("the workloads have asked", patience, |events| (events.len() >= count).then_some(())).await
    }
}

async fn read(mut lines: Lines<BufReader<ChildStdout>>, before: usize, events: Arc<Mutex<Vec<Event>>>) {
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(mut event) = serde_json::from_str::<Event>(&line) {
            event.target += before;
            events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        }
    }
}
