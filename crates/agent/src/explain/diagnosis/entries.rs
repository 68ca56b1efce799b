//! Why no entry applies, or one of several does not.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::{Diagnosis, Facts, MAX_SHOWN};
use crate::entries::{EntrySlot, WorkloadEntry};
use crate::explain::causes::{Finding, duration, time};
use crate::explain::codes::{ENTRY_FOR_STORE, ENTRY_REMOVED, HINT_TAKEN, NO_ENTRY, SELECTOR_DIFFERS};
use crate::explain::near::Near;

/// Of two identities of one process with one hint, the one that is left out.
pub(super) fn hint_taken(slot: &EntrySlot, kept: &[Arc<EntrySlot>]) -> Finding {
    let entry = &slot.entry;
    let older = kept.iter().find(|kept| kept.entry.hint == entry.hint);
    let older = older
        .map_or_else(String::new, |older| format!(", {} (entry {})", older.entry.spiffe_id, older.entry.id));
    Finding::problem(
        HINT_TAKEN,
        format!(
            "{} is left out: its hint {:?} is that of an older identity of the same process{older}",
            entry.spiffe_id, entry.hint
        ),
    )
    .next(format!(
        "give it another hint: `vouchsafe server entry update -entryID {} … -hint <other>`",
        entry.id
    ))
}

/// Why no entry applies.
pub(super) fn no_entry(facts: &Facts<'_>, diagnosis: &Diagnosis) -> Finding {
    let agent = facts.agent.status.id.as_ref().map_or_else(|| "<agent>".to_owned(), ToString::to_string);
    let held = match facts.snapshot.index.len() {
        1 => "1 entry".to_owned(),
        held => format!("{held} entries"),
    };
    let asof = facts.agent.status.last_sync.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let asof = asof.map_or_else(String::new, |at| {
        format!(", as of {}", time(i64::try_from(at.as_secs()).unwrap_or(i64::MAX)))
    });
    let applied = |entry: &WorkloadEntry| {
        diagnosis.selectors.contains_all(&entry.selectors)
            && facts.snapshot.index.get(entry.id.as_str()).is_none()
    };
    if let Some(finding) = gone(facts, applied) {
        return finding;
    }
    let stored = |slot: &&Arc<EntrySlot>| {
        slot.entry.store_svid && diagnosis.selectors.contains_all(&slot.entry.selectors)
    };
    if let Some(slot) = facts.snapshot.index.iter().find(stored) {
        return Finding::problem(
            ENTRY_FOR_STORE,
            "the entry that applies is for an SVID store, and not handed to workloads",
        )
        .detail(format!("{} (entry {})", slot.entry.spiffe_id, slot.entry.id))
        .next(format!(
            "`vouchsafe server entry update -entryID {} … -storeSVID=false`, or another entry",
            slot.entry.id
        ));
    }
    let telling = diagnosis.selectors.iter().find(|selector| selector.value().starts_with("uid:"));
    let telling = telling
        .or(diagnosis.selectors.iter().next())
        .map_or_else(String::new, |selector| format!(" -selector {selector}"));
    let create = format!("`vouchsafe server entry create -parentID {agent} -spiffeID <id>{telling}`");
    let Some(nearest) = diagnosis.near.first() else {
        let text =
            format!("no entry fits: this agent has {held}{asof}, and none has a selector in common with it");
        return Finding::problem(NO_ENTRY, text).next(format!(
            "{create}. If there is an entry already (`vouchsafe server entry show`), its parent must be {agent} or a node alias of this agent"
        ));
    };
    differs(nearest, (&held, &asof), &create)
}

fn differs(nearest: &Near, (held, asof): (&str, &str), create: &str) -> Finding {
    let entry = &nearest.slot.entry;
    let count = nearest.missing.len();
    let shown: Vec<_> = nearest.missing.iter().take(MAX_SHOWN).map(ToString::to_string).collect();
    let more = count.saturating_sub(MAX_SHOWN);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    // Not how many, nor of which kind: who can choose selectors of its own must not be told how close it comes.
    Finding::problem(SELECTOR_DIFFERS, format!("no entry fits: this agent has {held}{asof}, and one comes near"))
        .detail(format!("{} (entry {}) differs in {count}: {}{more}", entry.spiffe_id, entry.id, shown.join("; ")))
        .next(format!(
            "if the entry is wrong: `vouchsafe server entry show -entryID {}`, then `vouchsafe server entry update`. If the process is \
             wrong: start it as the entry says. If neither is meant: {create}",
            entry.id
        ))
}

/// The newest of the entries that this agent had, and that are as `wanted`.
pub(super) fn gone(facts: &Facts<'_>, wanted: impl Fn(&WorkloadEntry) -> bool) -> Option<Finding> {
    let removed = facts.notes.removed_entries(wanted).into_iter().next()?;
    let (id, entry_id) = (&removed.entry.spiffe_id, &removed.entry.id);
    let ago = duration(facts.instant.saturating_duration_since(removed.at));
    let text = format!(
        "the entry that applied is gone since {ago}: it expired or was deleted on the server, or got another parent"
    );
    Some(
        Finding::problem(ENTRY_REMOVED, text)
            .detail(format!("{id} (entry {entry_id})"))
            .next(format!("`vouchsafe server entry show -entryID {entry_id}` says whether it is still there; if it expired, create it anew with a later -entryExpiry or none")),
    )
}
