//! How the SVID of an entry stands.

use tonic::Code;

use super::Facts;
use crate::entries::EntrySlot;
use crate::explain::causes::{Finding, duration, time};
use crate::explain::codes::{
    IDENTITY_HELD, ISSUE_REFUSED, RENEWAL_OVERDUE, SERVER_RATE_LIMITED, SVID_CACHE_FULL, SVID_DISTRUSTED,
    SVID_EXPIRED, SVID_NOT_SIGNED, SVID_NOT_YET_VALID, SVID_ON_DEMAND,
};
use crate::explain::notes::Trouble;
use crate::identities::HeldSvid;
use crate::rotation::Standing;
use crate::taint::Distrust;

/// What there is to say about it.
pub(super) fn svid_finding(facts: &Facts<'_>, slot: &EntrySlot, svid: Option<&HeldSvid>) -> Finding {
    let trouble = facts.notes.trouble(slot.entry.id.as_str());
    match svid {
        Some(svid) => held(facts, slot, svid, trouble.as_ref()),
        None => lacking(facts, slot, trouble.as_ref()),
    }
}

fn lacking(facts: &Facts<'_>, slot: &EntrySlot, trouble: Option<&Trouble>) -> Finding {
    let id = &slot.entry.spiffe_id;
    let finding = match trouble.map(Whose::of) {
        Some(Whose::Limit) => Finding::problem(
            SERVER_RATE_LIMITED,
            format!("{id} is not signed yet: the server limits how often this agent may ask"),
        ),
        Some(Whose::Entry) => {
            Finding::problem(ISSUE_REFUSED, format!("the server does not issue an X.509-SVID for {id}"))
        }
        None if slot.entry.disable_x509_svid_prefetch => {
            let text = format!("{id} is signed when a workload asks for it, as its entry says");
            return Finding::notice(SVID_ON_DEMAND, text).next("nothing: the first request waits for it");
        }
        None if facts.snapshot.svids.len() >= facts.svid_limit => {
            let limit = facts.svid_limit;
            let text = format!(
                "{id} is signed when a workload asks for it: the agent keeps {limit} SVIDs and no more"
            );
            return Finding::notice(SVID_CACHE_FULL, text)
                .next("nothing, or raise x509_svid_cache_max_size in the agent's configuration");
        }
        Some(Whose::Server) | None => {
            Finding::problem(SVID_NOT_SIGNED, format!("{id} is known and not signed yet"))
        }
    };
    because(facts, slot, trouble, finding)
}

fn held(facts: &Facts<'_>, slot: &EntrySlot, svid: &HeldSvid, trouble: Option<&Trouble>) -> Finding {
    let (id, life) = (&slot.entry.spiffe_id, svid.lifetime);
    let until = format!("until {}", time(life.not_after));
    if life.expired(facts.now) {
        let text = format!("the X.509-SVID of {id} expired at {}", time(life.not_after));
        return because(facts, slot, trouble, Finding::problem(SVID_EXPIRED, text));
    }
    if facts.now < life.not_before {
        let from = time(life.not_before);
        let text = format!(
            "the X.509-SVID of {id} is valid from {from}, which is later than this machine's clock says"
        );
        return Finding::problem(SVID_NOT_YET_VALID, text)
            .next("compare `date -u` on this machine with the server's");
    }
    if life.standing(facts.now) == Standing::Due && trouble.is_some() {
        let text = format!("{id} is held {until} and its renewal fails");
        return because(facts, slot, trouble, Finding::problem(RENEWAL_OVERDUE, text));
    }
    let bundle = facts.snapshot.bundles.as_ref().map(|bundles| Distrust::of(&bundles.own.bundle));
    if bundle.unwrap_or_default().covers(svid.authority_key_id.as_deref()) {
        let text =
            format!("{id} is held {until}, signed by an authority that is tainted or gone from the bundle");
        return Finding::notice(SVID_DISTRUSTED, text).next(
            "nothing: it is replaced by itself. If it stays, `vouchsafe server localauthority x509 show` says which authority signs",
        );
    }
    Finding::good(IDENTITY_HELD, format!("{id} is held {until}, renewed at {}", time(life.renew_at)))
}

/// What a failure to issue is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Whose {
    /// This entry: others are issued.
    Entry,
    /// How often the agent asks.
    Limit,
    /// The server, which does not answer.
    Server,
}

impl Whose {
    fn of(trouble: &Trouble) -> Self {
        match trouble.failure.code {
            Code::ResourceExhausted => Self::Limit,
            Code::Unavailable | Code::DeadlineExceeded => Self::Server,
            _ => Self::Entry,
        }
    }
}

/// `finding` with what the server said last, and what to do about that.
fn because(facts: &Facts<'_>, slot: &EntrySlot, trouble: Option<&Trouble>, finding: Finding) -> Finding {
    let finding = match trouble {
        None => finding,
        Some(Trouble { failure, since, retry_at }) => {
            let since = duration(facts.instant.saturating_duration_since(*since));
            let wait = duration(retry_at.saturating_duration_since(facts.instant));
            let said = format!("{:?}: {}", failure.code, failure.message);
            finding.detail(format!("{said}; it has failed for {since} and is asked again in {wait}"))
        }
    };
    match trouble.map(Whose::of) {
        Some(Whose::Limit) => finding.next(
            "the server limits how often this agent may ask; it is asked again by itself. If it lasts, look at `ratelimit` in the \
             server's configuration",
        ),
        Some(Whose::Entry) => finding.next(format!(
            "the server refuses this one: look at `vouchsafe server entry show -entryID {}` and at the server's log",
            slot.entry.id
        )),
        Some(Whose::Server) | None => {
            finding.next("it is asked for again by itself as soon as the server answers")
        }
    }
}
