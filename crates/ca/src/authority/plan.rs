//! When the next authority is prepared and activated. Pure.
//!
//! Rules, as the reference has them: the next authority is prepared when less than half of the active one's life
//! (at most 30 days) is left, and activated when less than a sixth (at most 7 days) is left. Beyond them: an
//! active authority that is not valid at all, because the clock jumped in either direction, or because it is
//! tainted, is replaced at once.

use std::time::SystemTime;

use super::Authority;
use super::slots::{SlotId, Slots};
use crate::der::time;

/// The next authority is prepared when this part of the life of the active one is left, …
pub const PREPARATION_DIVISOR: i64 = 2;
/// … or this many seconds, whichever is less (30 days).
pub const PREPARATION_CAP_SECS: i64 = 30 * 24 * 3600;
/// The next authority is activated when this part of the life of the active one is left, …
pub const ACTIVATION_DIVISOR: i64 = 6;
/// … or this many seconds, whichever is less (7 days).
pub const ACTIVATION_CAP_SECS: i64 = 7 * 24 * 3600;

/// One thing to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Make an authority in this slot and publish it.
    Prepare(SlotId),
    /// Let the authority that is prepared in this slot sign.
    Activate(SlotId),
}

/// What is due at `now`, in order. Applying all of it leaves an active authority that is valid at `now`, provided
/// that new authorities are.
#[must_use]
pub fn plan<A: Authority>(now: SystemTime, slots: &Slots<A>) -> Vec<Step> {
    let now = time::unix(now);
    let prepared = slots.prepared().filter(|(slot, authority)| {
        valid::<A>(authority, now) && !past_activation::<A>(authority, now) && !slots.is_tainted(*slot)
    });
    let make = slots.preparation_slot();
    let activate = match slots.active_slot() {
        Some((slot, active)) => {
            slots.is_tainted(slot) || !valid::<A>(active, now) || past_activation::<A>(active, now)
        }
        None => true,
    };
    match (activate, prepared) {
        (true, Some((slot, _))) => vec![Step::Activate(slot)],
        (true, None) => vec![Step::Prepare(make), Step::Activate(make)],
        (false, None) if slots.active().is_some_and(|active| past_preparation::<A>(active, now)) => {
            vec![Step::Prepare(make)]
        }
        (false, _) => Vec::new(),
    }
}

/// Whether `authority` may sign at `now`.
fn valid<A: Authority>(authority: &A, now: i64) -> bool {
    (authority.not_before()..authority.not_after()).contains(&now)
}

fn past_preparation<A: Authority>(authority: &A, now: i64) -> bool {
    now > threshold(authority, PREPARATION_DIVISOR, PREPARATION_CAP_SECS)
}

fn past_activation<A: Authority>(authority: &A, now: i64) -> bool {
    now > threshold(authority, ACTIVATION_DIVISOR, ACTIVATION_CAP_SECS)
}

fn threshold<A: Authority>(authority: &A, divisor: i64, cap: i64) -> i64 {
    let lifetime = authority.not_after().saturating_sub(authority.issued_at()).max(0);
    authority.not_after().saturating_sub((lifetime / divisor).min(cap))
}

#[cfg(test)]
mod tests;
