//! What a process learns that may ask about itself alone.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tonic::Code;
use vouchsafe_proto::vouchsafe::agent::v1::ExplainRequest;
use vouchsafe_proto::vouchsafe::agent::v1::explain_client::ExplainClient;
use vouchsafe_transport::connect::uds_channel;

use crate::ask::{Workload, ask};
use crate::process::{Outcome, eventually, run};
use crate::programs::Programs;
use crate::world::{AgentSettings, ServerSettings, World};

/// A user that owns nothing.
const NOBODY: &str = "65534";

/// Asks as somebody else. Needs root.
fn ask_as_nobody(socket: &Path, flags: &[&str]) -> Outcome {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
    command
        .arg(Programs::ours())
        .arg("explain")
        .args(flags)
        .args(["-output", "json", "-socketPath"])
        .arg(socket);
    run(&mut command)
}

#[test]
fn another_user_learns_of_itself_and_nothing_of_others() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can ask as somebody else");
        return;
    }
    let world = World::new();
    std::fs::set_permissions(world.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry("secret", "node", "unix:uid:77", &["-selector", "unix:gid:65534"]);
    eventually("the entry arrives", || {
        ask(&agent.socket, &["-spiffeID", &server.id("secret")]).has("identity-held").then_some(())
    });

    let said = ask_as_nobody(&agent.socket, &[]);
    if said.stderr.contains("Permission denied") {
        eprintln!("skipped: that user may not run the program");
        return;
    }
    let answer: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    assert_eq!(said.code, 1, "{said:?}");
    let about = &answer["explanations"][0];
    assert_eq!(about["findings"][0]["code"], "selector-differs", "{said:?}");
    assert!(
        about["selectors"].as_array().unwrap().iter().any(|selector| selector == "unix:uid:65534"),
        "{said:?}"
    );
    for secret in ["unix:uid:77", "secret", "entryID", "join_token"] {
        assert!(!said.stdout.contains(secret), "{secret}: {said:?}");
    }
    assert!(answer.get("agent").is_none() && about["near"].as_array().unwrap().is_empty(), "{said:?}");

    let workload = Workload::start();
    for flags in
        [["-pid", &workload.pid()], ["-selector", "unix:uid:77"], ["-spiffeID", &server.id("secret")]]
    {
        let refused = ask_as_nobody(&agent.socket, &flags);
        assert_eq!(refused.code, 3, "{refused:?}");
        assert!(refused.stderr.contains("may ask about anything but themselves"), "{refused:?}");
    }
}

#[test]
fn a_caller_that_asks_without_end_is_refused_and_an_agent_goes_on() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    let flood = async {
        let channel = uds_channel(&agent.socket).await.unwrap();
        let ask = || {
            let mut client = ExplainClient::new(channel.clone());
            let mut request = tonic::Request::new(ExplainRequest { subject: None });
            request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
            async move { client.explain(request).await.map_err(|status| status.code()) }
        };
        let without_header =
            ExplainClient::new(channel.clone()).explain(ExplainRequest { subject: None }).await;
        assert_eq!(without_header.unwrap_err().code(), Code::InvalidArgument);
        let at_once = futures(100, &ask).await;
        let mut one_by_one = Vec::new();
        let began = tokio::time::Instant::now();
        for _ in 0..100 {
            one_by_one.push(ask().await);
        }
        (at_once, one_by_one, began.elapsed())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (at_once, one_by_one, took) = runtime.block_on(flood);
    // One after the other on a slow machine may be no more than the ten a second that everybody has.
    for (answers, too_many) in [(&at_once, true), (&one_by_one, took < Duration::from_secs(5))] {
        let refused = answers.iter().filter(|answer| matches!(answer, Err(Code::ResourceExhausted))).count();
        assert!(refused > 0 || !too_many, "nobody was refused");
        let failed = answers
            .iter()
            .filter_map(|answer| answer.as_ref().err())
            .any(|code| *code != Code::ResourceExhausted);
        assert!(!failed, "another failure");
    }
    assert!(at_once.iter().any(Result::is_ok), "somebody is answered");
    assert!(agent.is_running() && agent.cli(&["healthcheck"]).code == 0);
}

/// The answers of `count` calls that are made at once.
async fn futures<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    count: usize,
    ask: &impl Fn() -> F,
) -> Vec<T> {
    let mut calls = tokio::task::JoinSet::new();
    (0..count).for_each(|_| drop(calls.spawn(ask())));
    calls.join_all().await
}
