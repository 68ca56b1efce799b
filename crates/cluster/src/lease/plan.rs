//! Who leads: pure.
//!
//! Clocks of different machines are never compared. What counts is for how long, on this machine's clock, the lease has not
//! changed: its holder writes it anew every few seconds, and loses it when it has not for the whole time it is good for.

use std::time::Duration;

use tokio::time::Instant;

/// What the lease says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    /// Empty when nobody holds it.
    pub(crate) holder: String,
    /// How long it is good for since it was written.
    pub(crate) lasts: Duration,
    /// Its version: changes with each write.
    pub(crate) version: String,
}

/// A record, and since when it has been so, on this machine's clock.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) record: Record,
    pub(crate) since: Instant,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Plan {
    /// There is none.
    Create,
    /// Nobody holds it, or its holder has let it run out.
    Take,
    /// It is ours.
    Renew,
    /// Somebody else has it.
    Wait,
}

/// Takes in what the lease says at `now`.
pub(crate) fn observe(before: Option<Seen>, record: Record, now: Instant) -> Seen {
    match before {
        Some(seen) if seen.record == record => seen,
        _ => Seen { record, since: now },
    }
}

/// What `me` does at `now` about the lease as it was seen.
pub(crate) fn plan(me: &str, seen: Option<&Seen>, now: Instant) -> Plan {
    let Some(Seen { record, since }) = seen else { return Plan::Create };
    match record.holder.as_str() {
        "" => Plan::Take,
        holder if holder == me => Plan::Renew,
        _ if now.duration_since(*since) >= record.lasts.max(LASTS).min(MAX_LASTS) => Plan::Take,
        _ => Plan::Wait,
    }
}

/// How long the lease is good for.
pub(crate) const LASTS: Duration = Duration::from_secs(15);

/// The longest that another holder's word about it is believed.
const MAX_LASTS: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, version: &str) -> Record {
        Record { holder: holder.into(), lasts: LASTS, version: version.into() }
    }

    #[test]
    fn a_lease_is_taken_when_it_has_not_changed_for_as_long_as_it_is_good_for() {
        let now = Instant::now();
        let seen = observe(None, record("other", "1"), now);
        let seen = observe(Some(seen), record("other", "1"), now + LASTS / 2);
        assert_eq!(plan("me", Some(&seen), now + LASTS - Duration::from_millis(1)), Plan::Wait);
        assert_eq!(plan("me", Some(&seen), now + LASTS), Plan::Take);
        let renewed = observe(Some(seen), record("other", "2"), now + LASTS);
        assert_eq!(plan("me", Some(&renewed), now + LASTS + LASTS / 2), Plan::Wait);
    }

    #[test]
    fn a_holder_who_asks_for_longer_gets_longer_up_to_a_bound() {
        let now = Instant::now();
        let long = Record { lasts: Duration::from_secs(60), ..record("other", "1") };
        let seen = observe(None, long, now);
        assert_eq!(plan("me", Some(&seen), now + Duration::from_secs(59)), Plan::Wait);
        let for_ever = Record { lasts: Duration::MAX, ..record("other", "1") };
        assert_eq!(plan("me", Some(&observe(None, for_ever, now)), now + MAX_LASTS), Plan::Take);
    }

    #[test]
    fn what_is_free_is_taken_what_is_ours_is_renewed_and_what_is_not_there_is_made() {
        let now = Instant::now();
        assert_eq!(plan("me", None, now), Plan::Create);
        assert_eq!(plan("me", Some(&observe(None, record("", "1"), now)), now), Plan::Take);
        assert_eq!(plan("me", Some(&observe(None, record("me", "1"), now)), now), Plan::Renew);
    }
}
