//! Servers whose clocks are wrong: a library in front of the C library's moves the wall clock of one process.

use std::process::Command;

use tempfile::TempDir;

use crate::ask::{ask, expect};
use crate::process::run;
use crate::world::{AgentSettings, ServerSettings, World};

/// Moves what `clock_gettime(CLOCK_REALTIME)` says by `CLOCK_OFFSET` seconds.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *ts) {
    long failed = syscall(SYS_clock_gettime, id, ts);
    const char *offset = getenv("CLOCK_OFFSET");
    if (!failed && id == CLOCK_REALTIME && offset) ts->tv_sec += atol(offset);
    return (int)failed;
}
"#;

/// The environment of a process whose clock is ahead by `offset` seconds, and where the library for it is: a world may be
/// on a file system that no code is loaded from.
fn off_by(offset: i64) -> (Vec<(String, String)>, TempDir) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (source, library) = (folder.path().join("clock.c"), folder.path().join("clock.so"));
    std::fs::write(&source, SHIM).unwrap();
    run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source])).ok();
    let environment = vec![
        ("LD_PRELOAD".to_owned(), library.display().to_string()),
        ("CLOCK_OFFSET".to_owned(), offset.to_string()),
    ];
    (environment, folder)
}

#[test]
fn a_server_that_is_behind_is_noticed_by_what_it_issues() {
    let world = World::new();
    let (environment, _library) = off_by(-600);
    let server = world.server("s", &ServerSettings { environment, ..ServerSettings::default() });
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("workload", &[]);
    agent.wait_for_svid("workload");
    let answer = expect(&agent.socket, &[], "clock-skew", 1, &["date -u"]);
    assert!(answer.has("identity-held"), "{answer:?}");
    let ahead: i64 = answer.json["agent"]["server_clock_ahead_secs"].as_str().unwrap().parse().unwrap();
    assert!((-605..=-595).contains(&ahead), "{ahead}");
    server.stop();
    expect(&agent.socket, &[], "clock-skew", 1, &["date -u"]);
}

#[test]
fn a_server_that_is_ahead_is_refused_for_its_certificate_and_that_is_a_clock_too() {
    let world = World::new();
    let (environment, _library) = off_by(600);
    let server = world.server("s", &ServerSettings { environment, ..ServerSettings::default() });
    let token = server.join_token(Some("node"));
    let agent = world.agent_with("a", &server, &AgentSettings::default(), &["-joinToken", &token]);
    agent.wait_for_log(&["attestation"]);
    let answer = expect(&agent.socket, &[], "clock-skew", 1, &["date -u"]);
    assert!(answer.has("agent-not-attested"), "{answer:?}");
    assert_eq!(ask(&agent.socket, &[]).json["agent"]["phase"], "attesting");
}
