//! What is written about each object: the counts that spire-controller-manager writes, and one condition, `Ready`, that says
//! in words what is wrong.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::time::{Duration, SystemTime};

use serde_json::{Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::ledger::{StaticStanding, Tally};
use crate::objects::Declaring;

/// How an object fares, in one word and one sentence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// Whether all that it declares is so.
    pub ready: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl Verdict {
    fn ready(reason: &'static str, message: impl Into<String>) -> Self {
        Self { ready: true, reason, message: message.into() }
    }

    pub(crate) fn not(reason: &'static str, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self { ready: false, reason, message: message.chars().take(MAX_MESSAGE_CHARS).collect() }
    }
}

/// What was said about objects of one kind that are not ready.
#[derive(Debug, Default)]
pub struct Complaints {
    said: HashMap<(String, &'static str), (Instant, String)>,
}

impl Complaints {
    /// Whether to say `verdict` now. The same reason for the same object is said again only when the message has changed, as
    /// counts in it do, and no more often than [`REPEAT`].
    pub fn is_due(&mut self, object: &str, verdict: &Verdict, now: Instant) -> bool {
        let key = (object.to_owned(), verdict.reason);
        let said = self.said.get(&key);
        if said.is_some_and(|(at, message)| now < *at + REPEAT || *message == verdict.message) {
            return false;
        }
        self.said.insert(key, (now, verdict.message.clone()));
        true
    }

    /// Forgets objects that are gone.
    pub fn keep(&mut self, exists: impl Fn(&str) -> bool) {
        self.said.retain(|(object, _), _| exists(object));
    }
}

/// How a `ClusterSPIFFEID` fares. `error` is what is wrong with its spec.
#[must_use]
pub fn of_rule(tally: &Tally, error: Option<&str>) -> Verdict {
    if let Some(error) = error {
        return Verdict::not("InvalidSpec", format!("{error}. What its last good version declared stays."));
    }
    if let Some(example) = example(&tally.failures) {
        let (failed, of) = (tally.failures.len(), tally.pods_selected);
        return Verdict::not(
            "RenderFailed",
            format!("no entry for {failed} of {of} Pods, such as {example}"),
        );
    }
    if let Some(example) = example(&tally.refused) {
        let (refused, of) = (tally.refused.len(), tally.to_set);
        return Verdict::not(
            "EntriesRefused",
            format!("the server refuses {refused} of {of} entries, such as that of {example}"),
        );
    }
    if let Some(example) = example(&tally.names_left_out) {
        let pods = tally.names_left_out.len();
        return Verdict::not(
            "DNSNamesLeftOut",
            format!("entries of {pods} Pods lack names of services, such as {example}"),
        );
    }
    if let Some((pod, by)) = tally.masked.first_key_value() {
        let masked = tally.masked.len();
        return Verdict::not(
            "EntriesMasked",
            format!("{masked} entries are declared by older objects, such as that of {pod} by {by}"),
        );
    }
    Verdict::ready("Applied", "all entries are set")
}

/// How a `ClusterStaticEntry` fares. `error` is what is wrong with its spec.
#[must_use]
pub fn of_static(standing: &StaticStanding, error: Option<&str>) -> Verdict {
    match (error, standing) {
        (Some(error), _) => {
            Verdict::not("InvalidSpec", format!("{error}. What its last good version declared stays."))
        }
        (None, StaticStanding::Set) => Verdict::ready("Applied", "the entry is set"),
        (None, StaticStanding::Unset) => Verdict::not("Pending", "the entry is not set yet"),
        (None, StaticStanding::Masked(by)) => {
            Verdict::not("EntryMasked", format!("the entry is declared by an older object, {by}"))
        }
        (None, StaticStanding::Refused(reason)) => {
            Verdict::not("EntryRefused", format!("the server refuses the entry: {reason}"))
        }
    }
}

/// The counts of a `ClusterSPIFFEID`.
#[must_use]
pub fn stats(tally: &Tally) -> Json {
    json!({ "stats": {
        "namespacesSelected": tally.namespaces_selected,
        "namespacesIgnored": tally.namespaces_ignored,
        "podsSelected": tally.pods_selected,
        "podEntryRenderFailures": tally.failures.len() + tally.waiting,
        "entriesMasked": tally.masked.len(),
        "entriesToSet": tally.to_set,
        "entryFailures": tally.refused.len(),
    } })
}

/// The three flags of a `ClusterStaticEntry`.
#[must_use]
pub fn flags(standing: &StaticStanding, error: Option<&str>) -> Json {
    json!({
        "rendered": error.is_none(),
        "masked": matches!(standing, StaticStanding::Masked(_)),
        "set": matches!(standing, StaticStanding::Set),
    })
}

/// `counts` with the condition. The time of its last change is kept while it says the same.
#[must_use]
pub fn with_condition<K: Declaring>(object: &K, counts: Json, verdict: &Verdict, now: SystemTime) -> Json {
    let status = if verdict.ready { "True" } else { "False" };
    let conditions = object.status().and_then(|status| status.get("conditions")).and_then(Json::as_array);
    let held =
        conditions.into_iter().flatten().find(|held| held["type"] == "Ready" && held["status"] == status);
    let since = held.and_then(|held| held["lastTransitionTime"].as_str()).map(str::to_owned);
    let mut whole = counts;
    whole["conditions"] = json!([{
        "type": "Ready",
        "status": status,
        "reason": verdict.reason,
        "message": verdict.message,
        "lastTransitionTime": since.unwrap_or_else(|| written(now)),
        "observedGeneration": object.meta().generation.unwrap_or_default(),
    }]);
    whole
}

/// Whether the object's status says all of `wanted` already.
#[must_use]
pub fn says<K: Declaring>(object: &K, wanted: &Json) -> bool {
    let held = |key: &String| object.status().and_then(|status| status.get(key));
    wanted.as_object().is_some_and(|fields| fields.iter().all(|(key, value)| held(key) == Some(value)))
}

fn example<K: Display + Ord>(of: &BTreeMap<K, std::sync::Arc<str>>) -> Option<String> {
    of.first_key_value().map(|(name, reason)| format!("{name}: {reason}"))
}

/// As Kubernetes writes times: whole seconds.
fn written(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time).replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

/// Longest message of a condition or event. A longer one is cut.
const MAX_MESSAGE_CHARS: usize = 1024;
/// An object is complained about no more often than this, for one reason.
const REPEAT: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_changes_each_second_is_said_every_five_minutes() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let verdict = |n: u64| Verdict::not("RenderFailed", format!("no entry for {n} Pods"));
        let said = (0..900).filter(|n| {
            let now = start + Duration::from_secs(*n);
            // Others between do not make it new.
            complaints.is_due("web", &Verdict::not("EntriesMasked", "always the same"), now);
            complaints.is_due("web", &verdict(*n), now)
        });
        assert_eq!(said.collect::<Vec<_>>(), [0, 300, 600]);
        let late = start + Duration::from_secs(9_000);
        assert!(!complaints.is_due("web", &verdict(600), late), "nothing is new");
        assert!(complaints.is_due("db", &verdict(600), late));
        complaints.keep(|name| name != "web");
        assert!(complaints.is_due("web", &verdict(600), late));
    }
}
