//! The Pods of this node by UID and by container. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use vouchsafe_types::selector::Selector;

use super::pod::{ContainerId, Listed, Pod, Strings};
use super::scanner::{ListError, TakePod};

/// One list of Pods, with what is not completed in it.
#[derive(Debug, Default)]
pub struct Index {
    pods: BTreeMap<Arc<str>, Arc<Pod>>,
    /// In the order of IDs. An ID stands here once for each Pod that claims it.
    containers: Vec<(ContainerId, Arc<Pod>)>,
}

/// A container whose Pod is wanted.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Sought {
    /// The container.
    pub id: ContainerId,
    /// The UID of its Pod, where the cgroup says it.
    pub pod: Option<Arc<str>>,
}

/// What a list says of a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Nothing yet.
    Unlisted,
    /// This Pod's, and whether the container is listed in it.
    Of(Arc<Pod>, bool),
    /// Two Pods claim it.
    Contested,
}

impl Index {
    /// What is said of `sought`. With `pod_is_enough` the container need not be listed, if its Pod is known.
    #[must_use]
    pub fn find(&self, sought: &Sought, pod_is_enough: bool) -> Answer {
        if let Some(uid) = &sought.pod {
            return match self.pods.get(uid) {
                Some(pod) if pod.has(sought.id) => Answer::Of(Arc::clone(pod), true),
                Some(pod) if pod_is_enough => Answer::Of(Arc::clone(pod), false),
                _ => Answer::Unlisted,
            };
        }
        let first = self.containers.partition_point(|(id, _)| *id < sought.id);
        let mut of = self.containers[first..].iter().take_while(|(id, _)| *id == sought.id);
        match (of.next(), of.next()) {
            (None, _) => Answer::Unlisted,
            (Some((_, pod)), None) => Answer::Of(Arc::clone(pod), true),
            (Some(_), Some(_)) => Answer::Contested,
        }
    }

    /// How many Pods there are.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// How many containers there are.
    #[must_use]
    pub fn containers(&self) -> usize {
        self.containers.len()
    }
}

impl Answer {
    /// The selectors of a container of which this is said. `with_container`: those of the container too.
    #[must_use]
    pub fn selectors(&self, sought: &Sought, with_container: bool) -> Option<Vec<Selector>> {
        match self {
            Self::Of(pod, listed) => Some(pod.selectors((*listed && with_container).then_some(sought.id))),
            Self::Unlisted | Self::Contested => None,
        }
    }

    /// The image ID of a container of which this is said, if it is listed.
    #[must_use]
    pub fn image_id(&self, sought: &Sought) -> Option<&str> {
        match self {
            Self::Of(pod, true) => pod.image_id(sought.id),
            Self::Of(_, false) | Self::Unlisted | Self::Contested => None,
        }
    }
}

/// Makes an [`Index`] of a list, Pod by Pod. What did not change since the list before is shared with it.
#[derive(Debug)]
pub struct Builder {
    previous: Arc<Index>,
    strings: Strings,
    pods: BTreeMap<Arc<str>, Arc<Pod>>,
    seen: usize,
    /// Pods that cannot be understood, and the latest reason.
    pub unreadable: Option<(usize, String)>,
}

impl Builder {
    /// After `previous`.
    #[must_use]
    pub fn new(previous: Arc<Index>) -> Self {
        Self { previous, strings: Strings::default(), pods: BTreeMap::new(), seen: 0, unreadable: None }
    }

    /// All that was taken.
    #[must_use]
    pub fn finish(self) -> Index {
        let mut containers = Vec::new();
        for pod in self.pods.values() {
            let first = containers.len();
            containers.extend(pod.container_ids().map(|id| (id, Arc::clone(pod))));
            // The same container twice in one Pod is no contest.
            containers[first..].sort_unstable_by_key(|(id, _)| *id);
            let mut before = None;
            let mut kept = first;
            for at in first..containers.len() {
                if before.replace(containers[at].0) != Some(containers[at].0) {
                    containers.swap(kept, at);
                    kept += 1;
                }
            }
            containers.truncate(kept);
        }
        containers.sort_by_key(|(id, _)| *id);
        containers.shrink_to_fit();
        Index { pods: self.pods, containers }
    }

    fn passed_over(&mut self, why: String) {
        let count = self.unreadable.take().map_or(0, |(count, _)| count);
        self.unreadable = Some((count + 1, why));
    }
}

impl TakePod for Builder {
    fn take_pod(&mut self, json: &[u8]) -> Result<(), ListError> {
        self.seen += 1;
        if self.seen > MAX_PODS {
            return Err(ListError::TooManyPods { max: MAX_PODS });
        }
        let listed: Listed = match serde_json::from_slice(json) {
            Ok(listed) => listed,
            // JSON, but no Pod: that one is not known, and the others are.
            Err(error) if error.is_data() => {
                self.passed_over(error.to_string());
                return Ok(());
            }
            Err(error) => {
                return Err(ListError::Syntax { number: self.seen, problem: error.to_string() });
            }
        };
        if listed.is_completed() {
            return Ok(());
        }
        match listed.keep(&mut self.strings) {
            None => self.passed_over("it has no UID".to_owned()),
            Some(pod) => {
                let before = self.previous.pods.get(&pod.uid).filter(|before| ***before == pod);
                let pod = before.map_or_else(|| Arc::new(pod), Arc::clone);
                self.pods.insert(Arc::clone(&pod.uid), pod);
            }
        }
        Ok(())
    }
}

/// Pods in a list; the kubelet's own bound is 110 unless told otherwise. More fail the list.
pub const MAX_PODS: usize = 10_000;

#[cfg(test)]
mod tests;
