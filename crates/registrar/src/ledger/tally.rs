//! How each object fares.

use std::collections::BTreeMap;
use std::sync::Arc;

use vouchsafe_cluster::Name;

use super::Ledger;
use super::slots::{Claimant, Standing};
use crate::objects::{ClusterSpiffeId, ClusterStaticEntry};

/// How a `ClusterSPIFFEID` fares.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Namespaces that it selects.
    pub namespaces_selected: usize,
    /// Those of them that are ignored.
    pub namespaces_ignored: usize,
    /// Pods that it selects, without those in ignored namespaces.
    pub pods_selected: usize,
    /// Pods that have no node yet.
    pub waiting: usize,
    /// Pods that it could not be applied to, and why.
    pub failures: BTreeMap<Name, Arc<str>>,
    /// Pods whose entries lack names of services, and one of those.
    pub names_left_out: BTreeMap<Name, Arc<str>>,
    /// Entries that are to be on the server.
    pub to_set: usize,
    /// Entries that another object declares, by Pod, and that object.
    pub masked: BTreeMap<Name, Arc<str>>,
    /// Entries that the server would not take, by Pod, and why.
    pub refused: BTreeMap<Name, Arc<str>>,
}

/// How a `ClusterStaticEntry` fares.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum StaticStanding {
    /// It is not on the server yet, or there is nothing to set.
    #[default]
    Unset,
    /// It is on the server.
    Set,
    /// Another object declares it: this one.
    Masked(Arc<str>),
    /// The server would not take it.
    Refused(Arc<str>),
}

impl Ledger {
    /// Every rule with how it fares, and what is wrong with its newest version.
    pub fn rules(&self) -> impl Iterator<Item = (&Arc<ClusterSpiffeId>, &Tally, Option<&Arc<str>>)> {
        self.rules.values().map(|held| (&held.object, &held.tally, held.error.as_ref()))
    }

    /// Every static entry with how it fares, and what is wrong with its newest version.
    pub fn statics(
        &self,
    ) -> impl Iterator<Item = (&Arc<ClusterStaticEntry>, &StaticStanding, Option<&Arc<str>>)> {
        self.statics.values().map(|held| (&held.object, &held.standing, held.error.as_ref()))
    }

    /// Whether there is such a rule.
    #[must_use]
    pub fn has_rule(&self, name: &str) -> bool {
        self.rules.contains_key(name)
    }

    /// Whether there is such a static entry.
    #[must_use]
    pub fn has_static(&self, name: &str) -> bool {
        self.statics.contains_key(name)
    }

    /// Counts how a bid stands.
    pub(super) fn book(&mut self, by: &Claimant, standing: &Standing) {
        match by {
            Claimant::Static(name) => {
                if let Some(held) = self.statics.get_mut(name) {
                    held.standing = match standing {
                        Standing::Set => StaticStanding::Set,
                        Standing::Pending => StaticStanding::Unset,
                        Standing::Masked(by) => StaticStanding::Masked(by.clone()),
                        Standing::Refused(reason) => StaticStanding::Refused(reason.clone()),
                    };
                }
            }
            Claimant::Pod { rule, pod } => {
                let Some(held) = self.rules.get_mut(rule) else { return };
                match standing {
                    Standing::Set | Standing::Pending => held.tally.to_set += 1,
                    Standing::Masked(by) => drop(held.tally.masked.insert(pod.clone(), by.clone())),
                    Standing::Refused(reason) => {
                        held.tally.to_set += 1;
                        held.tally.refused.insert(pod.clone(), reason.clone());
                    }
                }
            }
        }
    }

    /// Takes back what [`Ledger::book`] counted.
    pub(super) fn unbook(&mut self, by: &Claimant, standing: &Standing) {
        let Claimant::Pod { rule, pod } = by else { return };
        let Some(held) = self.rules.get_mut(rule) else { return };
        match standing {
            Standing::Masked(_) => drop(held.tally.masked.remove(pod)),
            Standing::Refused(_) => {
                held.tally.refused.remove(pod);
                held.tally.to_set = held.tally.to_set.saturating_sub(1);
            }
            Standing::Set | Standing::Pending => held.tally.to_set = held.tally.to_set.saturating_sub(1),
        }
    }
}
