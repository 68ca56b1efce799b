//! What the rules make of each Pod.

use std::sync::Arc;

use vouchsafe_cluster::Name;

use super::Ledger;
use super::rules::HeldRule;
use super::slots::{Bid, Claimant};
use crate::draft::Draft;
use crate::objects::Pod;
use crate::render::{Subject, pod_objects, render};
use crate::rule::{Rule, RuleError};

/// A Pod, and what each rule that selects it has made of it.
#[derive(Debug)]
pub(super) struct HeldPod {
    pod: Arc<Pod>,
    uid: String,
    node: String,
    /// The rules that select it.
    selected: Vec<Arc<str>>,
    /// What those made of it; nothing of a fallback that was not needed.
    claims: Vec<Claim>,
}

/// What a rule has made of a Pod.
#[derive(Debug)]
struct Claim {
    rule: Arc<str>,
    /// The version of the rule that made the entry.
    by: Option<Arc<Rule>>,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// An entry, and which name of a service it lacks.
    Made(Arc<Draft>, Option<Arc<str>>),
    /// Nothing, because of this; what the rule's last good version makes of the Pod is in force, or what it made of it as it is.
    Kept(Arc<Draft>, Arc<str>),
    /// Nothing, because of this.
    Failed(Arc<str>),
    /// Nothing: the Pod has no node yet.
    Waiting,
}

impl Outcome {
    fn draft(&self) -> Option<&Arc<Draft>> {
        match self {
            Self::Made(draft, _) | Self::Kept(draft, _) => Some(draft),
            Self::Failed(_) | Self::Waiting => None,
        }
    }
}

/// Nothing because of `reason`, but what there was before stays.
fn kept(old: Option<&Claim>, reason: Arc<str>) -> (Option<Arc<Rule>>, Outcome) {
    match old.and_then(|old| Some((old, old.outcome.draft()?))) {
        Some((old, draft)) => (old.by.clone(), Outcome::Kept(draft.clone(), reason)),
        None => (None, Outcome::Failed(reason)),
    }
}

impl Ledger {
    /// Renders what the rules make of the Pod now, and takes back what they made of it before.
    pub(super) fn evaluate(&mut self, name: &Name) {
        let before = self.forget_pod(name);
        let Some(pod) = self.world.pods.get(name).cloned() else { return };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        // Another Pod of the same name has nothing to do with the one before.
        let before = before.filter(|before| before.uid == uid);
        let is_same = before.as_ref().is_some_and(|before| before.pod == pod);
        let before = before.map(|before| before.claims).unwrap_or_default();
        let objects = pod_objects(&pod);
        let node = objects.1.text("nodeName").unwrap_or_default().to_owned();
        let services = self.services_of(&uid, name);
        let subject = self.nodes.get(&node).cloned().map(|node| Subject {
            uid: uid.clone(),
            pod: objects,
            node,
            services,
        });
        let selected = self.selecting(name, &pod);
        let (mut claims, mut applied) = (Vec::with_capacity(selected.len()), false);
        for rule in &selected {
            let Some(held) = self.rules.get(rule) else { continue };
            if held.fallback && applied {
                continue;
            }
            let fallback = held.fallback;
            let old = before.iter().find(|claim| claim.rule == *rule);
            let made = match (&subject, node.as_str()) {
                (Some(subject), _) => Ok(subject),
                (None, "") => Err(None),
                (None, node) => Err(Some(RuleError::NoNode(node.to_owned()).to_string().into())),
            };
            let (by, outcome) = match made {
                Err(None) => (None, Outcome::Waiting),
                Err(Some(reason)) => kept(old.filter(|_| is_same), reason),
                Ok(subject) => self.outcome(held, subject, old, is_same),
            };
            applied |= !fallback && outcome.draft().is_some();
            claims.push(Claim { rule: rule.clone(), by, outcome });
        }
        self.hold(name, HeldPod { pod, uid, node, selected, claims });
    }

    /// Whether a rule has failed to make something of this Pod, so that an entry for it may be one that it made once.
    pub(super) fn may_have_had_more(&self, uid: &str) -> bool {
        let held = self.pods_by_uid.get(uid).and_then(|name| self.pods.get(name));
        let broken = |claim: &Claim| matches!(claim.outcome, Outcome::Failed(_) | Outcome::Kept(..));
        held.is_some_and(|held| held.claims.iter().any(broken))
    }

    /// How many Pods there are.
    #[must_use]
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// The rules that select the Pod, those with `fallback` last.
    fn selecting(&self, name: &Name, pod: &Pod) -> Vec<Arc<str>> {
        let namespace = name.namespace.as_deref().unwrap_or_default();
        let Some(object) = self.world.namespaces.get(&Name::cluster(namespace)) else { return Vec::new() };
        if self.terms.ignored.has(namespace) {
            return Vec::new();
        }
        let selects = |held: &HeldRule| {
            held.namespaces.matches(object.metadata.labels.as_ref())
                && held.pods.matches(pod.metadata.labels.as_ref())
        };
        let of = |fallback: bool| {
            let rules = self.rules.iter().filter(move |(_, held)| held.fallback == fallback && selects(held));
            rules.map(|(name, _)| name.clone())
        };
        of(false).chain(of(true)).collect()
    }

    /// What a rule makes of a Pod, and which version of it; `old` is what it made before, of the same Pod if `is_same`.
    ///
    /// Where the newest version makes nothing, the last good one does, of the Pod as it is now. Where that makes nothing either,
    /// what was made stays only if it is not the Pod that has changed.
    fn outcome(
        &self,
        held: &HeldRule,
        subject: &Subject,
        old: Option<&Claim>,
        is_same: bool,
    ) -> (Option<Arc<Rule>>, Outcome) {
        let rendered = |rule: &Rule| render(rule, subject, &self.terms.place);
        let share = |draft: Draft| match old.and_then(|old| old.outcome.draft()) {
            Some(old) if **old == draft => old.clone(),
            _ => Arc::new(draft),
        };
        let reason: Arc<str> = match &held.rule {
            None => held.error.clone().unwrap_or_default(),
            Some(rule) => match rendered(rule) {
                Ok(made) => {
                    let left_out = made.left_out.map(Into::into);
                    return (Some(rule.clone()), Outcome::Made(share(made.draft), left_out));
                }
                Err(error) => error.to_string().into(),
            },
        };
        let last = old.and_then(|old| old.by.as_ref());
        match last.map(|last| rendered(last)) {
            Some(Ok(made)) => (last.cloned(), Outcome::Kept(share(made.draft), reason)),
            _ => kept(old.filter(|_| is_same), reason),
        }
    }

    fn services_of(&self, uid: &str, name: &Name) -> Vec<(String, String)> {
        let services = self.services.get(uid).into_iter().flatten();
        services.filter(|(namespace, _)| Some(namespace) == name.namespace.as_ref()).cloned().collect()
    }

    fn hold(&mut self, name: &Name, held: HeldPod) {
        for rule in &held.selected {
            if let Some(rule) = self.rules.get_mut(rule) {
                rule.tally.pods_selected += 1;
            }
        }
        for claim in &held.claims {
            let Some(rule) = self.rules.get_mut(&claim.rule) else { continue };
            match &claim.outcome {
                Outcome::Kept(_, reason) | Outcome::Failed(reason) => {
                    rule.tally.failures.insert(name.clone(), reason.clone());
                }
                Outcome::Waiting => rule.tally.waiting += 1,
                Outcome::Made(_, Some(left_out)) => {
                    rule.tally.names_left_out.insert(name.clone(), left_out.clone());
                }
                Outcome::Made(_, None) => {}
            }
            if let Some(draft) = claim.outcome.draft() {
                let by = Claimant::Pod { rule: claim.rule.clone(), pod: name.clone() };
                let bid = Bid { rank: rule.rank.clone(), by, draft: draft.clone() };
                self.declare(bid);
            }
        }
        self.pods_by_uid.insert(held.uid.clone(), name.clone());
        self.pods_on.entry(held.node.clone()).or_default().insert(name.clone());
        self.pods.insert(name.clone(), held);
    }

    fn forget_pod(&mut self, name: &Name) -> Option<HeldPod> {
        let held = self.pods.remove(name)?;
        if self.pods_by_uid.get(&held.uid) == Some(name) {
            self.pods_by_uid.remove(&held.uid);
        }
        if let Some(on) = self.pods_on.get_mut(&held.node) {
            on.remove(name);
            if on.is_empty() {
                self.pods_on.remove(&held.node);
            }
        }
        for rule in &held.selected {
            if let Some(rule) = self.rules.get_mut(rule) {
                rule.tally.pods_selected = rule.tally.pods_selected.saturating_sub(1);
            }
        }
        for claim in &held.claims {
            if let Some(rule) = self.rules.get_mut(&claim.rule) {
                rule.tally.failures.remove(name);
                rule.tally.names_left_out.remove(name);
                if matches!(claim.outcome, Outcome::Waiting) {
                    rule.tally.waiting = rule.tally.waiting.saturating_sub(1);
                }
            }
            if let Some(draft) = claim.outcome.draft() {
                self.withdraw(draft, &Claimant::Pod { rule: claim.rule.clone(), pod: name.clone() });
            }
        }
        Some(held)
    }
}
