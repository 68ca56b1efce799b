//! An explanation for people, and for programs.

use std::fmt::{self, Write};

use serde_json::{Value, json};
use vouchsafe_proto::vouchsafe::agent::v1 as proto;
use vouchsafe_proto::vouchsafe::agent::v1::finding::Severity;

use crate::go;

/// With names as in the `.proto`.
pub(super) fn json(answer: &proto::ExplainResponse) -> Value {
    let explanations: Value = answer.explanations.iter().map(explanation).collect();
    json!({ "explanations": explanations, "agent": answer.agent.as_ref().map_or(Value::Null, agent) })
}

fn explanation(explanation: &proto::Explanation) -> Value {
    let findings = explanation.findings.iter().map(|finding| {
        json!({
            "code": finding.code,
            "severity": severity(finding),
            "text": finding.text,
            "next_step": finding.next_step,
        })
    });
    let identities = explanation.identities.iter().map(|identity| {
        json!({
            "spiffe_id": identity.spiffe_id,
            "entry_id": identity.entry_id,
            "not_before": identity.not_before.to_string(),
            "expires_at": identity.expires_at.to_string(),
            "selectors": identity.selectors,
        })
    });
    let attestors = explanation
        .attestors
        .iter()
        .map(|attestor| json!({ "name": attestor.name, "error": attestor.error, "found": attestor.found }));
    let near = explanation.near.iter().map(|near| {
        let differences = near.differences.iter();
        let differences: Value =
            differences.map(|found| json!({ "wanted": found.wanted, "instead": found.instead })).collect();
        json!({ "spiffe_id": near.spiffe_id, "entry_id": near.entry_id, "differences": differences })
    });
    json!({
        "subject": explanation.subject,
        "well": explanation.well,
        "findings": findings.collect::<Value>(),
        "identities": identities.collect::<Value>(),
        "selectors": explanation.selectors,
        "attestors": attestors.collect::<Value>(),
        "near": near.collect::<Value>(),
    })
}

fn agent(agent: &proto::AgentState) -> Value {
    let servers = agent.servers.iter();
    let servers: Value = servers
        .map(|server| json!({ "address": server.address, "score": server.score, "in_use": server.in_use }))
        .collect();
    json!({
        "phase": agent.phase,
        "spiffe_id": agent.spiffe_id,
        "svid_expires_at": agent.svid_expires_at.to_string(),
        "last_sync": agent.last_sync.to_string(),
        "sync_error": agent.sync_error,
        "entries": agent.entries,
        "x509_svids": agent.x509_svids,
        "server_clock_ahead_secs": agent.server_clock_ahead_secs.map(|secs| secs.to_string()),
        "servers": servers,
    })
}

fn severity(finding: &proto::Finding) -> &'static str {
    match finding.severity() {
        Severity::Good => "good",
        Severity::Notice => "notice",
        Severity::Problem | Severity::Unspecified => "problem",
    }
}

/// For people: what it is about, why, what to do, and what that was concluded from. `asked`: an agent
/// answered.
pub(super) fn pretty(answer: &proto::ExplainResponse, asked: bool) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _infallible =
        answer.explanations.iter().try_for_each(|explanation| one(explanation, asked, &mut text));
    if let Some(agent) = &answer.agent {
        let _infallible = of_agent(agent, &mut text);
    }
    text
}

fn of_agent(agent: &proto::AgentState, out: &mut String) -> fmt::Result {
    let known = if agent.spiffe_id.is_empty() { "without an SVID of its own" } else { &agent.spiffe_id };
    let last = if agent.last_sync == 0 { "never".to_owned() } else { go::rfc3339(agent.last_sync) };
    writeln!(
        out,
        "Agent: {}, {known}, {} entries, {} X.509-SVIDs, last confirmed by the server: {last}",
        agent.phase, agent.entries, agent.x509_svids
    )?;
    for server in agent.servers.iter().filter(|_| agent.servers.len() > 1) {
        let used = if server.in_use { ", in use" } else { "" };
        writeln!(out, "Server: {} (score {:.2}{used})", server.address, server.score)?;
    }
    Ok(())
}

fn one(explanation: &proto::Explanation, asked: bool, out: &mut String) -> fmt::Result {
    let held = explanation.identities.iter().any(|identity| identity.expires_at > 0);
    let state = match (explanation.well, held) {
        _ if !asked => "does not answer",
        (true, _) => "has an identity",
        (false, true) => "has an identity, and something is wrong",
        (false, false) => "has no identity",
    };
    writeln!(out, "{} {state}\n", plain(&explanation.subject))?;
    for (number, finding) in explanation.findings.iter().enumerate() {
        let mark = if finding.severity() == Severity::Notice { " (notice)" } else { "" };
        writeln!(out, "  {}. {}{mark}: {}", number + 1, plain(&finding.code), plain(&finding.text))?;
        if !finding.next_step.is_empty() {
            writeln!(out, "     Next: {}", plain(&finding.next_step))?;
        }
    }
    let concluded_from = concluded_from(explanation);
    if !concluded_from.is_empty() {
        writeln!(out)?;
    }
    for (name, text) in concluded_from {
        writeln!(out, "  {name:<10}{}", plain(&text))?;
    }
    writeln!(out)
}

/// Without control characters: names, paths and labels of processes are chosen by whoever runs them, and this is read on a
/// terminal, often by root.
fn plain(text: &str) -> String {
    text.chars().map(|found| if found.is_control() { char::REPLACEMENT_CHARACTER } else { found }).collect()
}

fn concluded_from(explanation: &proto::Explanation) -> Vec<(&'static str, String)> {
    let mut table = Vec::new();
    for proto::Identity { spiffe_id, entry_id, expires_at, selectors, .. } in &explanation.identities {
        let until = if *expires_at == 0 {
            "no SVID yet".to_owned()
        } else {
            format!("until {}", go::rfc3339(*expires_at))
        };
        table.push((
            "Identity",
            format!("{spiffe_id} (entry {entry_id}), {until}; wants {}", selectors.join(", ")),
        ));
    }
    for near in &explanation.near {
        let differences = near.differences.iter().map(|found| match found.instead.as_slice() {
            [] => format!("wants {}", found.wanted),
            instead => format!("wants {}, not {}", found.wanted, instead.join(", ")),
        });
        let differences: Vec<_> = differences.collect();
        table.push((
            "Near",
            format!("{} (entry {}): {}", near.spiffe_id, near.entry_id, differences.join("; ")),
        ));
    }
    if !explanation.selectors.is_empty() {
        table.push(("Selectors", explanation.selectors.join(", ")));
    }
    for attestor in &explanation.attestors {
        let said = match attestor.error.as_str() {
            "" => format!("{} selectors", attestor.found),
            error => error.to_owned(),
        };
        table.push(("Attestor", format!("{}: {said}", attestor.name)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_write_on_the_terminal_by_its_name_or_its_path() {
        let finding = proto::Finding { text: "no\u{7}".to_owned(), ..proto::Finding::default() };
        let explanation = proto::Explanation {
            subject: "process 7 (\u{1b}]0;x\n  1. identity-held)".to_owned(),
            findings: vec![finding],
            selectors: vec!["unix:path:/tmp/\u{1b}[2J\r".to_owned()],
            ..proto::Explanation::default()
        };
        let shown = pretty(&proto::ExplainResponse { explanations: vec![explanation], agent: None }, true);
        assert!(!shown.chars().any(|found| found.is_control() && found != '\n'), "{shown:?}");
        assert!(!shown.lines().any(|line| line.starts_with("  1. identity-held")), "{shown:?}");
    }
}
