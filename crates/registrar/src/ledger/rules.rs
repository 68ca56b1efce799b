//! The declarations as they are held: the version in force, and what is wrong with the newest.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use vouchsafe_cluster::Name;
use vouchsafe_cluster::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::slots::{Bid, Claimant};
use super::tally::{StaticStanding, Tally};
use super::{Ledger, changed};
use crate::draft::Draft;
use crate::label_selector::LabelSelector;
use crate::objects::{ClusterSpiffeId, ClusterStaticEntry, Declaring};
use crate::rule::{Rule, parse_static, reach};

/// A `ClusterSPIFFEID`.
#[derive(Debug)]
pub(super) struct HeldRule {
    pub(super) object: Arc<ClusterSpiffeId>,
    /// The newest version that made sense. `None` when none has since this process started.
    pub(super) rule: Option<Arc<Rule>>,
    /// What is wrong with the newest version.
    pub(super) error: Option<Arc<str>>,
    /// Whom it selects: by the rule in force, or by what can be read of a broken one.
    pub(super) namespaces: LabelSelector,
    pub(super) pods: LabelSelector,
    pub(super) fallback: bool,
    pub(super) rank: Arc<Rank>,
    pub(super) tally: Tally,
}

/// A `ClusterStaticEntry`.
#[derive(Debug)]
pub(super) struct HeldStatic {
    pub(super) object: Arc<ClusterStaticEntry>,
    /// The newest version that made sense. `None` when none has since this process started.
    pub(super) draft: Option<Arc<Draft>>,
    /// What is wrong with the newest version.
    pub(super) error: Option<Arc<str>>,
    rank: Arc<Rank>,
    pub(super) standing: StaticStanding,
}

/// Whose of two similar entries is set; the lesser one wins: the older object; of two of an age the one that is not being
/// deleted, or was deleted later; then by UID, and by name where there are none.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Rank {
    created: Option<Time>,
    deleted: Option<Reverse<Time>>,
    uid: String,
    name: String,
}

impl Rank {
    fn of(meta: &ObjectMeta) -> Self {
        Self {
            created: meta.creation_timestamp.clone(),
            deleted: meta.deletion_timestamp.clone().map(Reverse),
            uid: meta.uid.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl Ledger {
    /// Takes up changed rules. Whether any Pod may be concerned.
    pub(super) fn take_rules(
        &mut self,
        old: &OrdMap<Name, Arc<ClusterSpiffeId>>,
        now: &OrdMap<Name, Arc<ClusterSpiffeId>>,
    ) -> bool {
        let mut concerned = false;
        for change in old.diff(now) {
            let (name, object) = changed(change);
            concerned |= match object.filter(|object| self.terms.class.has(&***object)) {
                Some(object) => self.take_rule(object),
                None => self.rules.remove(name.name.as_str()).is_some(),
            };
        }
        concerned
    }

    fn take_rule(&mut self, object: &Arc<ClusterSpiffeId>) -> bool {
        let rank = Rank::of(&object.metadata);
        let mut held = self.rules.remove(object.name());
        if let Some(held) = &mut held
            && held.object.spec == object.spec
            && *held.rank == rank
        {
            held.object = object.clone();
        }
        let (held, concerned) = match held {
            Some(held) if Arc::ptr_eq(&held.object, object) => (held, false),
            held => (Self::read_rule(object, rank, held), true),
        };
        self.rules.insert(object.name().into(), held);
        concerned
    }

    fn read_rule(object: &Arc<ClusterSpiffeId>, rank: Rank, held: Option<HeldRule>) -> HeldRule {
        // Counts what the Pods that it selects take back when they are looked at again.
        let tally = held.as_ref().map(|held| held.tally.clone()).unwrap_or_default();
        let held = held.filter(|held| held.object.metadata.uid == object.metadata.uid);
        let (rule, error) = match (Rule::parse(&object.spec), held) {
            (Ok(rule), _) => (Some(Arc::new(rule)), None),
            (Err(error), held) => (held.and_then(|held| held.rule), Some(error.to_string().into())),
        };
        let ((namespaces, pods), fallback) = match &rule {
            Some(rule) => ((rule.namespaces.clone(), rule.pods.clone()), rule.fallback),
            None => (reach(&object.spec), false),
        };
        let rank = Arc::new(rank);
        HeldRule { object: object.clone(), rule, error, namespaces, pods, fallback, rank, tally }
    }

    /// Takes up changed static entries.
    pub(super) fn take_statics(
        &mut self,
        old: &OrdMap<Name, Arc<ClusterStaticEntry>>,
        now: &OrdMap<Name, Arc<ClusterStaticEntry>>,
    ) {
        let names: BTreeSet<_> = old.diff(now).map(|change| changed(change).0.clone()).collect();
        for name in names {
            let object = now.get(&name).filter(|object| self.terms.class.has(&***object)).cloned();
            let unchanged = |held: &HeldStatic, object: &ClusterStaticEntry| {
                held.object.spec == object.spec && *held.rank == Rank::of(&object.metadata)
            };
            match (self.statics.remove(name.name.as_str()), object) {
                (Some(mut held), Some(object)) if unchanged(&held, &object) => {
                    held.object = object;
                    self.statics.insert(name.name.as_str().into(), held);
                }
                (held, object) => {
                    if let Some(draft) = held.as_ref().and_then(|held| held.draft.as_ref()) {
                        self.withdraw(draft, &Claimant::Static(name.name.as_str().into()));
                    }
                    if let Some(object) = object {
                        self.declare_static(object, held);
                    }
                }
            }
        }
    }

    fn declare_static(&mut self, object: Arc<ClusterStaticEntry>, held: Option<HeldStatic>) {
        let name: Arc<str> = object.name().into();
        let rank = Arc::new(Rank::of(&object.metadata));
        let before = held.filter(|held| held.object.metadata.uid == object.metadata.uid);
        let (draft, error) = match parse_static(&object.spec, &self.terms.place.trust_domain) {
            Ok(draft) => (Some(Arc::new(draft)), None),
            Err(error) => (before.and_then(|held| held.draft), Some(error.to_string().into())),
        };
        let bid =
            draft.clone().map(|draft| Bid { rank: rank.clone(), by: Claimant::Static(name.clone()), draft });
        let standing = StaticStanding::default();
        self.statics.insert(name, HeldStatic { object, draft, error, rank, standing });
        if let Some(bid) = bid {
            self.declare(bid);
        }
    }

    /// Whether a static entry is broken and nothing is known of what it said before.
    pub(super) fn misses_a_static_entry(&self) -> bool {
        self.statics.values().any(|held| held.error.is_some() && held.draft.is_none())
    }

    /// How many namespaces each rule selects, and how many of those are ignored.
    pub(super) fn count_namespaces(&mut self) {
        for held in self.rules.values_mut() {
            let all = self.world.namespaces.iter();
            let selected = all.filter(|(_, object)| held.namespaces.matches(object.metadata.labels.as_ref()));
            let ignored = selected.map(|(name, _)| self.terms.ignored.has(&name.name));
            let ignored: Vec<bool> = ignored.collect();
            held.tally.namespaces_selected = ignored.len();
            held.tally.namespaces_ignored = ignored.iter().filter(|ignored| **ignored).count();
        }
    }
}
