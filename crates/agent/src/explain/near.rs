//! Which entry fits a process best, and what the process lacks for it. Pure.

use std::sync::Arc;

use vouchsafe_types::selector::{Selector, SelectorSet};

use crate::entries::EntrySlot;

/// An entry that does not apply, but nearly.
#[derive(Clone, Debug)]
pub struct Near {
    /// The entry.
    pub slot: Arc<EntrySlot>,
    /// What the process lacks; never empty.
    pub missing: Vec<Difference>,
    shared: usize,
}

/// A selector that the process lacks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// What the entry wants.
    pub wanted: Selector,
    /// What the process has of the same kind and name.
    pub instead: Vec<Selector>,
    /// Nobody knows: the attestor that would say so failed.
    pub unknown: bool,
}

/// The entries that fit `selectors` best, the best first, at most `limit`: those that lack least, of these those whose lack is
/// another value of the same thing. Entries that have nothing in common with the process are not near it. What
/// attestors of the kinds `failed` would have found is unknown.
#[must_use]
pub fn nearest<'a>(
    entries: impl Iterator<Item = &'a Arc<EntrySlot>>,
    selectors: &SelectorSet,
    failed: &[&str],
    limit: usize,
) -> Vec<Near> {
    let mut best: Vec<Near> = Vec::with_capacity(limit + 1);
    for slot in entries.filter(|slot| !slot.entry.store_svid) {
        let wanted = &slot.entry.selectors;
        let missing = wanted.iter().filter(|selector| !selectors.contains(selector)).count();
        if missing == 0
            || (best.len() >= limit && best.last().is_some_and(|worst| worst.missing.len() < missing))
        {
            continue;
        }
        let near = Near {
            slot: Arc::clone(slot),
            missing: differences(wanted, selectors, failed),
            shared: wanted.len() - missing,
        };
        if near.shared == 0 && !near.missing.iter().any(Difference::is_explained) {
            continue;
        }
        let at = best.partition_point(|other| other.rank() <= near.rank());
        best.insert(at, near);
        best.truncate(limit);
    }
    best
}

fn differences(wanted: &SelectorSet, selectors: &SelectorSet, failed: &[&str]) -> Vec<Difference> {
    let missing = wanted.iter().filter(|selector| !selectors.contains(selector));
    missing
        .map(|wanted| Difference {
            instead: instead_of(wanted, selectors),
            unknown: failed.contains(&wanted.kind()),
            wanted: wanted.clone(),
        })
        .collect()
}

impl Near {
    fn rank(&self) -> (usize, usize, usize, &str) {
        let unexplained = self.missing.iter().filter(|difference| !difference.is_explained()).count();
        (self.missing.len(), unexplained, usize::MAX - self.shared, self.slot.entry.id.as_str())
    }
}

impl Difference {
    fn is_explained(&self) -> bool {
        self.unknown || !self.instead.is_empty()
    }
}

/// What is there in the place of `wanted`: selectors of the same kind and name, and of those the ones that agree with it
/// furthest, up to a colon or an equals sign (`docker:label:app:web` is in the place of `docker:label:app:shop`).
fn instead_of(wanted: &Selector, selectors: &SelectorSet) -> Vec<Selector> {
    let name = name_end(wanted);
    let mut furthest = name;
    let mut found: Vec<Selector> = Vec::new();
    for selector in selectors.iter() {
        let agreed = agreement(wanted.as_str(), selector.as_str());
        if agreed < name || agreed < furthest {
            continue;
        }
        if agreed > furthest {
            furthest = agreed;
            found.clear();
        }
        found.push(selector.clone());
    }
    // A container has dozens of labels: another one says nothing about the one that is wanted.
    if furthest == name && wanted.as_str()[name..].contains([':', '=']) && found.len() > 1 {
        return Vec::new();
    }
    found.truncate(MAX_INSTEAD);
    found
}

/// How many bytes of kind and name there are, with the colon: of `unix:uid:1000` it is those of `unix:uid:`.
fn name_end(selector: &Selector) -> usize {
    let kind = selector.kind().len() + 1;
    selector.value().find(':').map_or(kind, |colon| kind + colon + 1)
}

/// How far two texts are the same, up to and with a colon or an equals sign.
fn agreement(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    a.as_bytes()[..same].iter().rposition(|byte| matches!(byte, b':' | b'=')).map_or(0, |at| at + 1)
}

/// Selectors that are named in the place of one.
const MAX_INSTEAD: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::EntryIndex;
    use crate::entries::tests::entry;

    fn set(texts: &[&str]) -> SelectorSet {
        texts.iter().map(|text| Selector::parse(text).unwrap()).collect()
    }

    fn near(entries: &[(&str, &[&str])], process: &[&str], failed: &[&str]) -> Vec<String> {
        let index =
            EntryIndex::build(entries.iter().map(|(id, wants)| entry(id, wants)), &EntryIndex::default());
        nearest(index.iter(), &set(process), failed, 3)
            .into_iter()
            .map(|near| {
                let missing = near.missing.iter().map(|difference| {
                    let instead: Vec<_> = difference.instead.iter().map(Selector::as_str).collect();
                    format!("{}!{}", difference.wanted, instead.join(","))
                });
                format!("{} {}", near.slot.entry.id, missing.collect::<Vec<_>>().join(" "))
            })
            .collect()
    }

    #[test]
    fn the_entry_that_lacks_least_is_nearest_and_names_the_value_that_differs() {
        let entries: &[(&str, &[&str])] = &[
            ("other", &["unix:uid:7", "unix:gid:7"]),
            ("near", &["unix:uid:1000", "unix:gid:5"]),
            ("strange", &["docker:label:a:b"]),
        ];
        let found = near(entries, &["unix:uid:1001", "unix:gid:5", "unix:user:web"], &[]);
        assert_eq!(
            found,
            ["near unix:uid:1000!unix:uid:1001", "other unix:gid:7!unix:gid:5 unix:uid:7!unix:uid:1001"]
        );
    }

    #[test]
    fn a_label_differs_from_the_same_label_and_not_from_the_others() {
        let has = [
            "docker:label:app:shop",
            "docker:label:tier:front",
            "docker:env:MODE=test",
            "docker:image_id:nginx:1.28",
        ];
        let entries: &[(&str, &[&str])] = &[("a", &["docker:label:app:web", "docker:env:MODE=live"])];
        assert_eq!(
            near(entries, &has, &[]),
            ["a docker:env:MODE=live!docker:env:MODE=test docker:label:app:web!docker:label:app:shop"]
        );
        let entries: &[(&str, &[&str])] = &[("a", &["docker:label:region:eu", "docker:image_id:nginx:1.29"])];
        assert_eq!(
            near(entries, &has, &[]),
            ["a docker:image_id:nginx:1.29!docker:image_id:nginx:1.28 docker:label:region:eu!"]
        );
    }

    #[test]
    fn what_a_failed_attestor_would_have_said_is_unknown_and_not_absent() {
        let entries: &[(&str, &[&str])] = &[("a", &["docker:label:app:web"])];
        assert!(near(entries, &["unix:uid:1"], &[]).is_empty(), "nothing in common");
        assert_eq!(near(entries, &["unix:uid:1"], &["docker"]), ["a docker:label:app:web!"]);
    }

    #[test]
    fn an_entry_that_applies_is_not_near() {
        assert!(near(&[("a", &["unix:uid:1"])], &["unix:uid:1"], &[]).is_empty());
    }
}
