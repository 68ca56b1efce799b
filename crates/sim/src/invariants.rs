//! What must hold, whatever goes wrong. Each is a function of facts; DESIGN §1 numbers the promises.
//!
//! | function | promise |
//! |---|---|
//! | [`answers_from_what_it_holds`] | 1: a fetch with a valid SVID held is answered at once, also after a restart |
//! | [`withdraws_nothing`] | 2: no identity goes that the operator did not take away |
//! | [`never_goes_backwards`] | 2: no entry and no bundle gets older |
//! | [`does_not_stampede`] | 3: calls in a window have a bound, after an outage too |
//! | [`stays_within_bounds`] | 4: tasks, connections and bytes have bounds |
//! | [`knows_its_age`] | 5: nothing looks fresher than it is |
//! | [`says_when_it_is_degraded`] | 5: a server without its store says so, and one with it does not |
//! | [`hands_out_what_is_valid`] | 1: whoever gets an SVID can use it, by the bundle that comes with it |
//! | [`gives_nothing_new_to_the_banned`] | an agent that was banned gets nothing more |
//! | [`signs_what_can_be_verified`] | whoever signed an SVID is in the bundle of record |
//! | [`lives_on`] | no part ends by itself |
//! | [`recovers`], [`forgets`] | in the end everything that was acknowledged is served, and nothing that was deleted |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// A promise that was not kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Name of the function below.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

type Verdict = Result<(), Violation>;

fn unless(holds: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Violation { invariant, what: what() }) }
}

/// How long a fetch may take, in virtual time, when something valid is held. On one host there is no delay, so only waiting
/// for something else takes time.
pub const AT_ONCE: Duration = Duration::from_millis(100);

/// A workload asked for its SVIDs, and these paths were handed to it before and are still valid.
///
/// # Errors
///
/// It was refused, or had to wait.
pub fn answers_from_what_it_holds(
    agent: &str,
    held: &BTreeSet<String>,
    took: Duration,
    refused: Option<&str>,
) -> Verdict {
    if held.is_empty() {
        return Ok(());
    }
    let name = "answers_from_what_it_holds";
    if let Some(why) = refused {
        return unless(false, name, || format!("{agent} holds {held:?} and answers: {why}"));
    }
    unless(took <= AT_ONCE, name, || format!("{agent} holds {held:?} and takes {took:?}"))
}

/// What was served must hold all of what was handed out before, is valid, and was not taken away.
///
/// # Errors
///
/// Something is missing.
pub fn withdraws_nothing(agent: &str, held: &BTreeSet<String>, served: &BTreeSet<String>) -> Verdict {
    let missing: Vec<_> = held.difference(served).collect();
    unless(missing.is_empty(), "withdraws_nothing", || format!("{agent} no longer serves {missing:?}"))
}

/// What an agent serves from, by name: entries with their revisions, the bundle with its sequence number.
pub type Versions = BTreeMap<String, u64>;

/// # Errors
///
/// Something is older than `before`.
pub fn never_goes_backwards(agent: &str, before: &Versions, now: &Versions) -> Verdict {
    let older = now.iter().find(|(name, version)| before.get(*name).is_some_and(|before| before > *version));
    unless(older.is_none(), "never_goes_backwards", || format!("{agent}: {older:?} was {before:?}"))
}

/// How many calls came in a window of time.
///
/// # Errors
///
/// More than the bound.
pub fn does_not_stampede(what: &str, calls: u64, bound: u64) -> Verdict {
    unless(calls <= bound, "does_not_stampede", || format!("{calls} {what} in a window; {bound} are allowed"))
}

/// # Errors
///
/// More of `what` than `bound`.
pub fn stays_within_bounds(what: &str, count: usize, bound: usize) -> Verdict {
    unless(count <= bound, "stays_within_bounds", || format!("{count} {what}; {bound} are allowed"))
}

/// How old an agent says that its state is, and how long nobody could have confirmed it.
///
/// # Errors
///
/// It looks fresher than it can be.
pub fn knows_its_age(agent: &str, claimed: Duration, at_least: Duration) -> Verdict {
    let slack = Duration::from_secs(2);
    unless(claimed + slack >= at_least, "knows_its_age", || {
        format!("{agent} claims {claimed:?} and had no server for {at_least:?}")
    })
}

/// Whether a server's store has been away (`Some(true)`) or there (`Some(false)`) for long enough to know.
///
/// # Errors
///
/// The server says otherwise.
pub fn says_when_it_is_degraded(server: &str, away: Option<bool>, degraded: bool) -> Verdict {
    unless(away.is_none_or(|away| away == degraded), "says_when_it_is_degraded", || {
        format!("{server} is degraded: {degraded}; its store is away: {away:?}")
    })
}

/// An SVID as a workload got it, judged by a workload's own eyes.
///
/// # Errors
///
/// It is of no use.
pub fn hands_out_what_is_valid(agent: &str, path: &str, judgement: Result<(), String>) -> Verdict {
    let why = judgement.err();
    unless(why.is_none(), "hands_out_what_is_valid", || {
        format!("{agent} hands out {path}: {}", why.unwrap_or_default())
    })
}

/// `issued_after` the ban was acknowledged, by the wall clock.
///
/// # Errors
///
/// It is newer than the ban.
pub fn gives_nothing_new_to_the_banned(agent: &str, path: &str, issued_after: Option<i64>) -> Verdict {
    let name = "gives_nothing_new_to_the_banned";
    unless(issued_after.is_none_or(|seconds| seconds <= 0), name, || {
        format!("{agent} got {path} {issued_after:?} s after it was banned")
    })
}

/// # Errors
///
/// Always: a part ended that nobody told to.
pub fn lives_on(part: &str, how: &str) -> Verdict {
    unless(false, "lives_on", || format!("{part} ended: {how}"))
}

/// After everything was repaired: what an agent (or the database) should have, and what it has.
///
/// # Errors
///
/// They differ.
pub fn recovers(agent: &str, expected: &BTreeSet<String>, found: &BTreeSet<String>) -> Verdict {
    let missing: Vec<_> = expected.difference(found).collect();
    unless(missing.is_empty(), "recovers", || format!("{agent} lacks {missing:?}"))
}

/// After everything was repaired: what was deleted, and what an agent serves.
///
/// # Errors
///
/// Something is still served.
pub fn forgets(agent: &str, deleted: &BTreeSet<String>, served: &BTreeSet<String>) -> Verdict {
    let left: Vec<_> = deleted.intersection(served).collect();
    unless(left.is_empty(), "forgets", || format!("{agent} still serves {left:?}"))
}

/// An SVID, judged by the bundle in the database.
///
/// # Errors
///
/// Who signed it is not there: nobody else can verify it.
pub fn signs_what_can_be_verified(agent: &str, path: &str, judgement: Result<(), String>) -> Verdict {
    let why = judgement.err();
    unless(why.is_none(), "signs_what_can_be_verified", || {
        format!("{agent} has {path}, and the bundle of record says: {}", why.unwrap_or_default())
    })
}
