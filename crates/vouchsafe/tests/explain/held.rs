//! Faults that an agent finds in what it holds, so that they have the same answer while its server is stopped.

use crate::ask::{Workload, ask, expect, stop_and_edit};
use crate::process::eventually;
use crate::world::{Agent, AgentSettings, Server, ServerSettings, World};

/// One question with its answer.
struct Fault<'a> {
    flags: &'a [&'a str],
    code: &'static str,
    exit: i32,
    next: &'a [&'a str],
}

/// Asks all of it, stops the server, and asks all of it again.
fn with_the_server_up_and_stopped(server: &Server, agent: &Agent, faults: &[Fault<'_>]) {
    let all = || {
        faults.iter().for_each(|fault| {
            expect(&agent.socket, fault.flags, fault.code, fault.exit, fault.next);
        })
    };
    all();
    server.stop();
    eventually("the agent notices", || {
        ask(&agent.socket, faults[0].flags).has("server-unreachable").then_some(())
    });
    all();
}

fn own_uid() -> String {
    format!("unix:uid:{}", nix::unistd::geteuid())
}

/// Entries with a mistake each, which have reached the agent; one is removed again.
fn seed(server: &Server, agent: &Agent) {
    let group = format!("unix:gid:{}", nix::unistd::getegid());
    server.entry("wrong", "node", "unix:uid:4294967290", &["-selector", &group]);
    server.entry("strict", "node", "unix:uid:77", &["-selector", "unix:gid:77"]);
    let gone = server.entry("gone", "node", "unix:uid:78", &["-selector", "unix:gid:78"]);
    server.entry("elder", "node", "unix:uid:79", &["-hint", "main"]);
    // Which one is older is a matter of seconds.
    eventually("another second", || {
        (server.json(&["entry", "show", "-spiffeID", &server.id("elder")])["entries"][0]["created_at"]
            .as_str()?
            < now().as_str())
        .then_some(())
    });
    server.entry("younger", "node", "unix:uid:79", &["-hint", "main"]);
    eventually("the entries arrive", || {
        let seen = ["gone", "younger", "strict", "wrong"]
            .iter()
            .all(|path| !ask(&agent.socket, &["-spiffeID", &server.id(path)]).has("no-entry"));
        seen.then_some(())
    });
    server.cli(&["entry", "delete", "-entryID", &gone]).ok();
}

#[test]
fn entries_that_are_missing_wrong_gone_or_in_each_others_way() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    let (workload, mut ended) = (Workload::start(), Workload::start());
    let agent_id = agent_id(&agent);
    expect(
        &agent.socket,
        &["-pid", &workload.pid()],
        "no-entry",
        1,
        &["vouchsafe server entry create", "-parentID", &agent_id],
    );

    seed(&server, &agent);
    ended.end();

    let pid = workload.pid();
    let (wrong, missing) = (["-pid", pid.as_str()], server.id("nobody"));
    let near =
        expect(&agent.socket, &wrong, "selector-differs", 1, &["vouchsafe server entry show -entryID"]);
    let difference = &near.json["explanations"][0]["near"][0]["differences"][0];
    assert_eq!(difference["wanted"], "unix:uid:4294967290", "{near:?}");
    assert_eq!(difference["instead"][0], own_uid(), "{near:?}");
    let faults = [
        Fault { flags: &wrong, code: "selector-differs", exit: 1, next: &["vouchsafe server entry update"] },
        Fault {
            flags: &["-selector", "docker:label:app:web"],
            code: "no-entry",
            exit: 1,
            next: &["vouchsafe server entry create", "-selector docker:label:app:web"],
        },
        Fault {
            flags: &["-spiffeID", &missing],
            code: "no-entry",
            exit: 1,
            next: &["vouchsafe server entry show -spiffeID", &missing],
        },
        Fault {
            flags: &["-selector", "unix:uid:77", "-selector", "unix:gid:7"],
            code: "selector-differs",
            exit: 1,
            next: &["vouchsafe server entry show -entryID"],
        },
        Fault {
            flags: &["-selector", "unix:uid:78", "-selector", "unix:gid:78"],
            code: "entry-removed",
            exit: 1,
            next: &["vouchsafe server entry show -entryID", "-entryExpiry"],
        },
        Fault {
            flags: &["-selector", "unix:uid:79"],
            code: "hint-taken",
            exit: 1,
            next: &["vouchsafe server entry update -entryID", "-hint"],
        },
        Fault { flags: &["-pid", &ended.pid()], code: "process-gone", exit: 1, next: &["ps -p"] },
        Fault {
            flags: &["-podUID", "2c48913c-b29f-11e7-9350-020968147796"],
            code: "pod-not-here",
            exit: 1,
            next: &["kubectl get pod"],
        },
        Fault {
            flags: &["-spiffeID", "spiffe://elsewhere.test/a"],
            code: "foreign-trust-domain",
            exit: 1,
            next: &["spelling"],
        },
    ];
    with_the_server_up_and_stopped(&server, &agent, &faults);
}

#[test]
fn an_identity_that_is_held_and_a_caller_that_asks_for_it_too_often() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let settings = AgentSettings {
        agent: "experimental { ratelimit { fetch_x509_svid = 1 } }".to_owned(),
        ..AgentSettings::default()
    };
    let agent = world.agent("a", &server, &settings);
    server.entry_for_this_user("workload", &[]);
    agent.wait_for_svid("workload");
    let workload = Workload::start();
    let pid = workload.pid();
    let held = Fault { flags: &["-pid", &pid], code: "identity-held", exit: 0, next: &[] };
    let limited = Fault { code: "caller-rate-limited", exit: 1, next: &["experimental.ratelimit"], ..held };
    expect(&agent.socket, &[], "identity-held", 0, &[]);
    with_the_server_up_and_stopped(&server, &agent, &[held]);
    let fetch = ["api", "fetch", "x509"];
    eventually("a refusal", || (agent.cli(&fetch).stderr.contains("rate limit exceeded")).then_some(()));
    expect(&agent.socket, limited.flags, limited.code, limited.exit, limited.next);
    server.start_again();
    expect(&agent.socket, limited.flags, limited.code, limited.exit, limited.next);
}

#[test]
fn an_attestor_that_has_no_answer() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry("w", "node", "unix:path:/somewhere", &[]);
    stop_and_edit(
        &agent,
        "WorkloadAttestor \"unix\" { plugin_data {} }",
        "WorkloadAttestor \"unix\" { plugin_data { discover_workload_path = true workload_size_limit = 1 } }",
    );
    agent.start_again(&[]);
    agent.wait_until_healthy();
    let workload = Workload::start();
    let flags = ["-pid", &workload.pid()];
    let failed = Fault { flags: &flags, code: "attestor-failed", exit: 1, next: &["workload_size_limit"] };
    with_the_server_up_and_stopped(&server, &agent, &[failed]);
}

#[test]
fn an_svid_that_the_server_did_not_sign_or_did_not_renew_before_it_was_stopped() {
    let world = World::new();
    let settings = ServerSettings { server: "agent_ttl = \"20s\"".to_owned(), ..ServerSettings::default() };
    let server = world.server("s", &settings);
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("lazy", &["-disableX509SVIDPrefetch"]);
    server.entry("short", "node", "unix:uid:77", &["-x509SVIDTTL", "15"]);
    expect(&agent.socket, &["-spiffeID", &server.id("short")], "identity-held", 0, &[]);
    expect(&agent.socket, &[], "svid-on-demand", 1, &["the first request"]);
    server.stop();
    let workload = agent.cli(&["api", "fetch", "x509", "-timeout", "2s"]);
    assert_ne!(workload.code, 0, "{workload:?}");
    let unsigned = expect(&agent.socket, &[], "server-unreachable", 1, &["vouchsafe server healthcheck"]);
    assert_eq!(unsigned.codes()[..2], ["server-unreachable", "svid-not-signed"], "{unsigned:?}");
    let id = server.id("short");
    let expired = eventually("the SVIDs expire", || {
        let answer = ask(&agent.socket, &["-spiffeID", &id]);
        (answer.has("svid-expired") && answer.has("agent-svid-expired")).then_some(answer)
    });
    assert_eq!(expired.codes(), ["server-unreachable", "agent-svid-expired", "svid-expired"], "{expired:?}");
    server.start_again();
    expect(&agent.socket, &["-spiffeID", &id], "identity-held", 0, &[]);
}

fn agent_id(agent: &Agent) -> String {
    ask(&agent.socket, &[]).json["agent"]["spiffe_id"].as_str().unwrap().to_owned()
}

fn now() -> String {
    #[allow(clippy::disallowed_methods, reason = "compared with what a server wrote")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_secs().to_string()
}
