//! What was found out, as a message, less what the caller may not know.

use std::time::UNIX_EPOCH;

use vouchsafe_proto::vouchsafe::agent::v1 as proto;
use vouchsafe_types::selector::SelectorSet;

use super::causes::{AgentFacts, Finding, Severity};
use super::diagnosis::Diagnosis;
use super::near::Near;
use super::sight::Sight;
use crate::status::Phase;

pub(super) fn explanation(diagnosis: Diagnosis, sight: Sight) -> proto::Explanation {
    let well = diagnosis.is_well();
    let identities = diagnosis.identities.iter().map(|(slot, svid)| {
        let life = svid.as_ref().map(|svid| svid.lifetime);
        proto::Identity {
            spiffe_id: slot.entry.spiffe_id.to_string(),
            entry_id: slot.entry.id.to_string(),
            not_before: life.map_or(0, |life| life.not_before),
            expires_at: life.map_or(0, |life| life.not_after),
            selectors: shown(&slot.entry.selectors),
        }
    });
    let attestors = diagnosis.attestors.iter().map(|(name, outcome)| proto::Attestor {
        name: (*name).to_owned(),
        found: outcome.as_ref().map_or(0, |found| u32::try_from(*found).unwrap_or(u32::MAX)),
        error: match (outcome, sight) {
            (Ok(_), _) => String::new(),
            (Err(error), Sight::Everything) => error.clone(),
            (Err(_), Sight::Itself) => "it failed".to_owned(),
        },
    });
    let near = match sight {
        Sight::Everything => diagnosis.near.iter().map(near_entry).collect(),
        Sight::Itself => Vec::new(),
    };
    proto::Explanation {
        subject: diagnosis.subject.clone(),
        well,
        identities: identities.collect(),
        selectors: shown(&diagnosis.selectors),
        attestors: attestors.collect(),
        near,
        findings: diagnosis.findings.iter().map(|found| finding(found, sight)).collect(),
    }
}

fn finding(finding: &Finding, sight: Sight) -> proto::Finding {
    let severity = match finding.severity {
        Severity::Good => proto::finding::Severity::Good,
        Severity::Notice => proto::finding::Severity::Notice,
        Severity::Problem => proto::finding::Severity::Problem,
    };
    let (text, next_step) = match (sight, finding.severity) {
        (Sight::Everything, _) if finding.detail.is_empty() => (finding.text.clone(), finding.next.clone()),
        (Sight::Everything, _) => (format!("{}: {}", finding.text, finding.detail), finding.next.clone()),
        (Sight::Itself, Severity::Good) => (finding.text.clone(), String::new()),
        // Next steps name entries of others.
        (Sight::Itself, _) => (
            finding.text.clone(),
            "as root on the agent's machine, `vouchsafe explain -pid <number>` says more".to_owned(),
        ),
    };
    proto::Finding { code: finding.code.to_owned(), severity: severity.into(), text, next_step }
}

fn near_entry(near: &Near) -> proto::NearEntry {
    let differences = near.missing.iter().map(|difference| proto::Difference {
        wanted: difference.wanted.to_string(),
        instead: difference.instead.iter().map(ToString::to_string).collect(),
    });
    proto::NearEntry {
        spiffe_id: near.slot.entry.spiffe_id.to_string(),
        entry_id: near.slot.entry.id.to_string(),
        differences: differences.collect(),
    }
}

pub(super) fn agent_state(agent: &AgentFacts) -> proto::AgentState {
    let status = &agent.status;
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let last = status.last_sync.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let servers = agent.servers.iter().map(|server| proto::Server {
        address: server.server.clone(),
        score: server.score,
        in_use: server.in_use,
    });
    let phase = match status.phase {
        Phase::Attesting => "attesting",
        Phase::Synchronizing => "synchronizing",
        Phase::Serving => "serving",
        Phase::Refused => "refused",
    };
    proto::AgentState {
        phase: phase.to_owned(),
        spiffe_id: status.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        svid_expires_at: status.svid_expires_at.unwrap_or(0),
        last_sync: last.map_or(0, |at| i64::try_from(at.as_secs()).unwrap_or(i64::MAX)),
        sync_error: status.sync_error.clone().unwrap_or_default(),
        entries: count(status.entries),
        x509_svids: count(status.x509_svids),
        server_clock_ahead_secs: agent.server_clock_ahead,
        servers: servers.collect(),
    }
}

fn shown(selectors: &SelectorSet) -> Vec<String> {
    selectors.iter().map(ToString::to_string).collect()
}
