//! Asking, and judging the answer.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::time::Instant;

use crate::process::{Outcome, run, within};
use crate::programs::Programs;
use crate::world::Agent;

/// What `vouchsafe explain -output json` says.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) json: Value,
    pub(crate) took: Duration,
}

/// Runs `vouchsafe explain` with these flags on an agent's socket.
pub(crate) fn outcome(socket: &Path, flags: &[&str]) -> (Outcome, Duration) {
    let mut command = Command::new(Programs::ours());
    command.arg("explain").args(flags).arg("-socketPath").arg(socket);
    let began = Instant::now();
    let outcome = run(&mut command);
    (outcome, began.elapsed())
}

/// The same as JSON.
#[track_caller]
pub(crate) fn ask(socket: &Path, flags: &[&str]) -> Answer {
    let (outcome, took) = outcome(socket, &[flags, &["-output", "json"]].concat());
    let json = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{flags:?}: {outcome:?}"));
    Answer { code: outcome.code, json, took }
}

/// How long a health check takes, whatever it says.
fn health_check(socket: &Path) -> Duration {
    let began = Instant::now();
    run(Command::new(Programs::ours()).args(["agent", "healthcheck", "-socketPath"]).arg(socket));
    began.elapsed()
}

/// Asks until `code` is the first finding, and checks the answer: the exit code, a next step that has all of `next`, and
/// that the fastest of a few answers came in time. Whatever else the machine does takes longer, never shorter; where that makes
/// even a health check slow, the time is a multiple of that.
#[track_caller]
pub(crate) fn expect(socket: &Path, flags: &[&str], code: &str, exit: i32, next: &[&str]) -> Answer {
    let mut last = String::new();
    let found = within(PATIENCE, || {
        let answer = ask(socket, flags);
        last = format!("{:#}", answer.json);
        (answer.codes().first().map(String::as_str) == Some(code)).then_some(answer)
    });
    let Some(mut answer) = found else { panic!("{flags:?} never said {code} first: {last}") };
    assert_eq!(answer.code, exit, "{last}");
    let step = answer.json["explanations"][0]["findings"][0]["next_step"].as_str().unwrap().to_owned();
    assert!(next.iter().all(|part| step.contains(part)), "{code}: {step}");
    let mut checked = Duration::MAX;
    for _ in 0..TRIES {
        if answer.took < ALLOWED {
            break;
        }
        answer.took = answer.took.min(ask(socket, flags).took);
        checked = checked.min(health_check(socket));
    }
    println!("{code}: {:?}", answer.took);
    let allowed = ALLOWED.max(checked.saturating_mul(ALLOWED_IN_CHECKS));
    assert!(answer.took < allowed, "{code} took {:?}, a health check {checked:?}", answer.took);
    answer
}

impl Answer {
    /// The codes of all findings.
    pub(crate) fn codes(&self) -> Vec<String> {
        let findings = self.json["explanations"][0]["findings"].as_array().unwrap();
        findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn has(&self, code: &str) -> bool {
        self.codes().iter().any(|found| found == code)
    }
}

/// Stops an agent in order, so that its state is saved, and replaces a part of its configuration file.
#[track_caller]
pub(crate) fn stop_and_edit(agent: &Agent, from: &str, to: &str) {
    let pid = std::fs::read_to_string(agent.folder.join("agent.lock")).unwrap();
    kill(Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGTERM).unwrap();
    agent.wait_until_it_ends();
    let file = agent.folder.join("agent.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&file, text.replace(from, to)).unwrap();
}

/// A workload that does nothing.
pub(crate) struct Workload(Child);

impl Workload {
    pub(crate) fn start() -> Self {
        Self(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }

    pub(crate) fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // Mostly it still runs.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The whole command: the program starts, asks, prints and ends.
const ALLOWED: Duration = Duration::from_millis(100);

/// The same as a multiple of the simplest command that asks an agent.
const ALLOWED_IN_CHECKS: u32 = 6;

const TRIES: usize = 15;

const PATIENCE: Duration = Duration::from_secs(180);
