//! Findings from facts. Pure.
//!
//! The order is that of causes: a process that is not there, an agent that cannot know, an attestor that failed and whose
//! selectors an entry wants, the entry that is missing, gone, or nearly fits, the SVID that is missing or has ended behind
//! what keeps the server from signing one, a caller that asks too often. What is as it should be comes last.

use std::sync::Arc;

use tokio::time::Instant;
use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;

use super::causes::{AgentFacts, Finding, Severity, causes, duration};
use super::codes::{
    AGENT_BANNED, AGENT_EVICTED, ATTESTOR_FAILED, CALLER_RATE_LIMITED, CLOCK_SKEW, ENTRY_FOR_STORE,
    FOREIGN_TRUST_DOMAIN, NO_ENTRY, POD_NOT_HERE, PROCESS_GONE,
};
use super::near::{Near, nearest};
use super::notes::Notes;
use crate::attest::Examined;
use crate::entries::EntrySlot;
use crate::identities::{HeldSvid, Snapshot};
use crate::limits::CallerLimits;
use entries::{gone, hint_taken, no_entry};
use svids::svid_finding;

mod entries;
mod svids;
#[cfg(test)]
mod tests;

/// Everything that is known when somebody asks.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Unix seconds.
    pub now: i64,
    /// The same moment by a clock that does not jump.
    pub instant: Instant,
    /// Entries, SVIDs, bundles.
    pub snapshot: &'a Snapshot,
    /// How the agent is.
    pub agent: &'a AgentFacts,
    /// What went wrong lately.
    pub notes: &'a Notes,
    /// How often callers may ask.
    pub limits: &'a CallerLimits,
    /// How many SVIDs the agent keeps.
    pub svid_limit: usize,
}

/// What is asked about.
#[derive(Debug)]
pub enum About {
    /// A process that was looked at.
    Process {
        /// Its number.
        pid: i32,
        /// What it goes by.
        name: String,
        /// What the attestors say.
        examined: Examined,
    },
    /// A number that no process has, or not any more.
    NoProcess(i32),
    /// A process that would have these.
    Selectors(SelectorSet),
    /// Whoever is to have this.
    Id(SpiffeId),
    /// A Pod without a process here.
    NoPod(String),
}

/// What there is to say.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// What it is about.
    pub subject: String,
    /// The cause first. Never empty.
    pub findings: Vec<Finding>,
    /// Entries that apply, with their SVIDs.
    pub identities: Vec<(Arc<EntrySlot>, Option<Arc<HeldSvid>>)>,
    /// What the process is.
    pub selectors: SelectorSet,
    /// Each attestor with what it found.
    pub attestors: Vec<(&'static str, Result<usize, String>)>,
    /// Entries that nearly apply.
    pub near: Vec<Near>,
}

/// Finds out.
#[must_use]
pub fn diagnose(facts: &Facts<'_>, about: About) -> Diagnosis {
    match about {
        About::Process { pid, name, examined } => of_process(facts, pid, &name, examined),
        About::NoProcess(pid) => alone(
            format!("process {pid}"),
            Finding::problem(PROCESS_GONE, format!("the agent sees no process {pid}"))
                .next("check the number (`ps -p`): it counts in the agent's PID namespace, and a process that was started again has another one"),
        ),
        About::Selectors(selectors) => {
            let mut diagnosis = Diagnosis { subject: "a process with these selectors".to_owned(), ..Diagnosis::default() };
            diagnosis.selectors = selectors;
            of_selectors(facts, &[], &mut diagnosis);
            diagnosis
        }
        About::Id(id) => of_id(facts, &id),
        About::NoPod(uid) => alone(
            format!("Pod {uid}"),
            Finding::problem(POD_NOT_HERE, format!("no process on this machine belongs to the Pod {uid}, going by the cgroups that the agent sees"))
                .next("`kubectl get pod -A -o wide` says which node it is on: ask that node's agent. The agent must run in the host's PID namespace"),
        ),
    }
}

fn alone(subject: String, finding: Finding) -> Diagnosis {
    Diagnosis { subject, findings: vec![finding], ..Diagnosis::default() }
}

fn of_process(facts: &Facts<'_>, pid: i32, name: &str, examined: Examined) -> Diagnosis {
    let mut diagnosis = Diagnosis { subject: format!("process {pid} ({name})"), ..Diagnosis::default() };
    let count =
        |outcome: &Result<Vec<Selector>, String>| outcome.as_ref().map(Vec::len).map_err(Clone::clone);
    diagnosis.attestors = examined.outcomes.iter().map(|(name, outcome)| (*name, count(outcome))).collect();
    let failed: Vec<_> =
        examined.outcomes.iter().filter(|(_, outcome)| outcome.is_err()).map(|(name, _)| *name).collect();
    if !examined.still_same {
        let text = format!("process {pid} ended while the agent looked at it, or became another user's");
        diagnosis.findings = vec![
            Finding::problem(PROCESS_GONE, text).next("ask again with the number that it has now (`pgrep`)"),
        ];
        return diagnosis;
    }
    let all_failed = !examined.outcomes.is_empty() && failed.len() == examined.outcomes.len();
    diagnosis.selectors =
        examined.outcomes.into_iter().filter_map(|(_, outcome)| outcome.ok()).flatten().collect();
    of_selectors(facts, &failed, &mut diagnosis);
    if failed.is_empty() {
        return diagnosis;
    }
    let why: Vec<_> = diagnosis
        .attestors
        .iter()
        .filter_map(|(name, outcome)| Some(format!("{name}: {}", outcome.as_ref().err()?)))
        .collect();
    let finding = attestor_failed(&failed, &why.join("; "));
    // It is the cause when all of them failed, or when the entry that fits best wants what this one would have said.
    let wanted = |near: &Near| near.missing.iter().any(|difference| difference.unknown);
    match (all_failed || diagnosis.near.first().is_some_and(wanted), diagnosis.identities.is_empty()) {
        (true, true) => diagnosis.findings.insert(0, finding),
        (_, true) => diagnosis.findings.push(finding),
        (_, false) => diagnosis.findings.push(Finding { severity: Severity::Notice, ..finding }),
    }
    diagnosis
}

fn attestor_failed(failed: &[&str], why: &str) -> Finding {
    let next = match failed {
        ["docker"] => {
            "check that the agent may open the container daemon's socket (docker_socket_path) and that the daemon answers: `docker ps`. docs/workload-attestation.md lists what it says and what helps"
        }
        ["k8s"] => {
            "put right what it says of the kubelet; a container that no Pod has is another runtime's, or the kubelet does not list it yet: `kubectl get pods -A --field-selector spec.nodeName=<node>`. docs/kubernetes-workloads.md lists what it says and what helps"
        }
        ["unix"] => {
            "check that the agent may look into this process: /proc mounted with hidepid, a program of another user with discover_workload_path, or a program above workload_size_limit"
        }
        _ => "put right what the attestor says; docs/workload-attestation.md lists what helps",
    };
    Finding::problem(
        ATTESTOR_FAILED,
        format!("the workload attestor {} has no answer about this process", failed.join(", ")),
    )
    .detail(why)
    .next(next)
}

/// What follows from `diagnosis.selectors`.
fn of_selectors(facts: &Facts<'_>, failed: &[&str], diagnosis: &mut Diagnosis) {
    let causes = causes(facts.agent, facts.snapshot, (facts.now, facts.instant));
    if !facts.snapshot.synchronized {
        diagnosis.findings = causes;
        return;
    }
    let index = &facts.snapshot.index;
    let selectors = diagnosis.selectors.clone();
    let matching = index.matching(&selectors);
    let every = index.matching_with_every_hint(&selectors);
    if every.is_empty() {
        diagnosis.near = nearest(index.iter(), &selectors, failed, MAX_SHOWN);
        diagnosis.findings = vec![no_entry(facts, diagnosis)];
        diagnosis.findings.extend(causes);
        return;
    }
    let shadowed: Vec<_> =
        every.iter().filter(|slot| !matching.iter().any(|kept| Arc::ptr_eq(kept, slot))).collect();
    let hints = shadowed.iter().take(MAX_SHOWN).map(|slot| hint_taken(slot, &matching));
    diagnosis.findings.extend(hints);
    add_identities(facts, &matching, causes, diagnosis);
    if let Some(refused) = facts.limits.refused_lately(&selectors) {
        let text = format!(
            "this caller asks more often than the agent allows: {} was refused {} ago",
            refused.method,
            duration(refused.ago)
        );
        let next = "let the workload keep its stream open instead of asking again and again, or raise experimental.ratelimit in the agent's configuration";
        diagnosis.findings.insert(0, Finding::problem(CALLER_RATE_LIMITED, text).next(next));
    }
}

/// Adds what there is to say about each entry's SVID, behind `causes` where they matter.
fn add_identities(
    facts: &Facts<'_>,
    slots: &[Arc<EntrySlot>],
    causes: Vec<Finding>,
    diagnosis: &mut Diagnosis,
) {
    let mut lacking = Vec::new();
    let mut good = Vec::new();
    for slot in slots {
        let svid = facts.snapshot.svids.get(&slot.entry.id).cloned();
        let finding = svid_finding(facts, slot, svid.as_deref());
        if finding.severity == Severity::Good {
            good.push(finding)
        } else {
            lacking.push(finding)
        }
        if diagnosis.identities.len() < MAX_SHOWN {
            diagnosis.identities.push((Arc::clone(slot), svid));
        }
    }
    let harmed = lacking.iter().any(|finding| finding.severity == Severity::Problem);
    let weighed = |cause: Finding| match cause.code {
        CLOCK_SKEW | AGENT_BANNED | AGENT_EVICTED => cause,
        _ if harmed => cause,
        _ => Finding { severity: Severity::Notice, ..cause },
    };
    let (first, later): (Vec<_>, Vec<_>) =
        causes.into_iter().map(weighed).partition(|cause| cause.severity == Severity::Problem);
    for part in [first, lacking, good, later] {
        let left = MAX_FINDINGS.saturating_sub(diagnosis.findings.len());
        diagnosis.findings.extend(part.into_iter().take(left));
    }
}

fn of_id(facts: &Facts<'_>, id: &SpiffeId) -> Diagnosis {
    let mut diagnosis = Diagnosis { subject: id.to_string(), ..Diagnosis::default() };
    let causes = causes(facts.agent, facts.snapshot, (facts.now, facts.instant));
    let mut slots: Vec<_> =
        facts.snapshot.index.iter().filter(|slot| slot.entry.spiffe_id == *id).cloned().collect();
    slots.sort_unstable_by(|a, b| a.entry.id.cmp(&b.entry.id));
    if !slots.is_empty() {
        let (stored, slots): (Vec<_>, Vec<_>) = slots.into_iter().partition(|slot| slot.entry.store_svid);
        add_identities(facts, &slots, causes, &mut diagnosis);
        if slots.is_empty() && !stored.is_empty() {
            let text = "its entry is for an SVID store, and not handed to workloads";
            diagnosis.findings.insert(
                0,
                Finding::problem(ENTRY_FOR_STORE, text)
                    .next("create another entry without -storeSVID for workloads"),
            );
        }
        return diagnosis;
    }
    if !facts.snapshot.synchronized {
        diagnosis.findings = causes;
        return diagnosis;
    }
    let own = facts.agent.status.id.as_ref();
    let agent = own.map_or_else(|| "<agent>".to_owned(), ToString::to_string);
    let finding = if own.is_some_and(|own| own.trust_domain() != id.trust_domain()) {
        Finding::problem(FOREIGN_TRUST_DOMAIN, format!("{id} is of another trust domain than this agent"))
            .next("check the spelling; an agent hands out identities of its own trust domain alone")
    } else if let Some(finding) = gone(facts, |entry| entry.spiffe_id == *id) {
        finding
    } else {
        let held = facts.snapshot.index.len();
        Finding::problem(NO_ENTRY, format!("none of the {held} entries that this agent has is for {id}")).next(format!(
            "`vouchsafe server entry show -spiffeID {id}` on the server: if it is there, its parent must be {agent} or a node alias of this agent; if not, `vouchsafe server entry create`"
        ))
    };
    diagnosis.findings = vec![finding];
    diagnosis.findings.extend(causes);
    diagnosis
}

impl Diagnosis {
    /// Whether there is an identity and nothing is wrong.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let worst = self.findings.iter().map(|finding| finding.severity).max();
        let good = self.findings.iter().any(|finding| finding.severity == Severity::Good);
        good && worst < Some(Severity::Problem)
    }
}

impl std::fmt::Display for super::near::Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it wants {}", self.wanted)?;
        if self.unknown {
            return f.write_str(", which nobody knows because the attestor failed");
        }
        match self.instead.as_slice() {
            [] => f.write_str(", and the process has nothing of the kind"),
            instead => {
                let instead: Vec<_> = instead.iter().map(Selector::as_str).collect();
                write!(f, ", and the process has {}", instead.join(", "))
            }
        }
    }
}

/// Entries and identities that are told of one by one.
pub const MAX_SHOWN: usize = 3;

/// Findings in one answer.
const MAX_FINDINGS: usize = 16;
