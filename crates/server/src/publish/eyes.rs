//! What is watched of a cluster, as one list of objects and what they hold.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::stream::{BoxStream, SelectAll, StreamExt as _, select_all};
use tokio::task::JoinSet;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use vouchsafe_cluster::{Cluster, Kind, Objects, Selection, Snapshot};

use super::object::{Object, Target};
use super::sight::{ApiService, ConfigMap, Digest, Held, Mutating, Seen, Validating, Webhooks};
use crate::config::publication::{ConfigMapKey, Format, Publication, TrustBundleName};

/// The followed objects of one publication.
pub(super) struct Eyes {
    config_maps: Vec<(ConfigMapKey, Objects<ConfigMap>)>,
    validating: Option<Objects<Webhooks<Validating>>>,
    mutating: Option<Objects<Webhooks<Mutating>>>,
    api_services: Option<Objects<ApiService>>,
    trust_bundle: Option<TrustBundleName>,
    /// Whether the log has that there are too many.
    is_told: AtomicBool,
}

/// In which form an object has the bundle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    Text(Format),
    CaBundle,
}

/// An object and what is seen of it.
pub(super) struct Sighting {
    pub(super) object: Object,
    pub(super) shape: Shape,
    /// `None`: it is not watched, so somebody has to look.
    pub(super) held: Option<Held>,
}

/// Wakes when something changed.
pub(super) type Changes = SelectAll<BoxStream<'static, ()>>;

impl Eyes {
    /// Starts to follow what `publication` names; the tasks end with `stop`.
    pub(super) fn open(
        cluster: &Cluster,
        publication: &Publication,
        tasks: &mut JoinSet<Result<(), Infallible>>,
        stop: &CancellationToken,
    ) -> (Self, Changes) {
        let mut changes: Changes = select_all([]);
        let config_maps = publication.config_maps.iter().map(|key| {
            let selection =
                Selection::namespace(&key.namespace).with_fields(format!("metadata.name={}", key.name));
            (key.clone(), follow(cluster, selection, (&mut *tasks, stop, &mut changes)))
        });
        let config_maps = config_maps.collect();
        let labelled = |label: &String| Selection::all().with_labels(format!("{label}=true"));
        let webhooks = publication.webhook_label.as_ref().map(labelled);
        let services = publication.api_service_label.as_ref().map(labelled);
        let validating =
            webhooks.clone().map(|selection| follow(cluster, selection, (&mut *tasks, stop, &mut changes)));
        let mutating =
            webhooks.map(|selection| follow(cluster, selection, (&mut *tasks, stop, &mut changes)));
        let api_services =
            services.map(|selection| follow(cluster, selection, (&mut *tasks, stop, &mut changes)));
        let trust_bundle = publication.trust_bundle.clone();
        (
            Self {
                config_maps,
                validating,
                mutating,
                api_services,
                trust_bundle,
                is_told: AtomicBool::new(false),
            },
            changes,
        )
    }

    /// Every object, in a fixed order, [`MAX_OBJECTS`] at most.
    pub(super) fn sightings(&self, now: SystemTime) -> Vec<Sighting> {
        let mut all = Vec::new();
        for (key, objects) in &self.config_maps {
            let snapshot = objects.snapshot();
            let held = is_known(&snapshot, now).then(|| match snapshot.objects.values().next() {
                Some(found) => found.key(&key.key),
                None => Held { places: vec![Digest::NONE], ..Held::default() },
            });
            all.push(Sighting { object: key.into(), shape: Shape::Text(key.format), held });
        }
        if let Some(name) = &self.trust_bundle {
            all.push(Sighting { object: name.into(), shape: Shape::Text(Format::Pem), held: None });
        }
        add(&mut all, (self.validating.as_ref(), now), Object::Validating);
        add(&mut all, (self.mutating.as_ref(), now), Object::Mutating);
        add(&mut all, (self.api_services.as_ref(), now), Object::ApiService);
        if all.len() > MAX_OBJECTS && !self.is_told.swap(true, Ordering::Relaxed) {
            warn!(
                count = all.len(),
                most = MAX_OBJECTS,
                "Too many objects have the label; not all get the bundle"
            );
        }
        all.truncate(MAX_OBJECTS);
        all
    }

    /// The kinds that are configured, and whether all their objects are known.
    pub(super) fn targets(&self, now: SystemTime) -> Vec<(Target, bool)> {
        // Those that have names are known without a watch.
        let named = [
            (!self.config_maps.is_empty()).then_some((Target::ConfigMap, true)),
            self.trust_bundle.as_ref().map(|_| (Target::TrustBundle, true)),
        ];
        let labelled = [
            self.validating.as_ref().map(|seen| (Target::Validating, is_known(&seen.snapshot(), now))),
            self.mutating.as_ref().map(|seen| (Target::Mutating, is_known(&seen.snapshot(), now))),
            self.api_services.as_ref().map(|seen| (Target::ApiService, is_known(&seen.snapshot(), now))),
        ];
        named.into_iter().chain(labelled).flatten().collect()
    }
}

/// Whether the snapshot has all there is, and the API server has said so lately. It keeps what it had when the right to
/// watch is lost.
fn is_known<K>(snapshot: &Snapshot<K>, now: SystemTime) -> bool {
    let is_recent = |at: SystemTime| {
        let age = now.duration_since(at).unwrap_or_else(|ahead| ahead.duration());
        age < MAX_SILENCE
    };
    snapshot.complete && snapshot.confirmed_at.is_some_and(is_recent)
}

fn follow<K: Kind>(
    cluster: &Cluster,
    selection: Selection,
    (tasks, stop, changes): (&mut JoinSet<Result<(), Infallible>>, &CancellationToken, &mut Changes),
) -> Objects<K> {
    let (objects, follower) = cluster.watch::<K>(selection);
    changes.push(WatchStream::from_changes(objects.changed()).map(drop).boxed());
    tasks.spawn(follower.run(stop.clone()));
    objects
}

fn add<K: Seen>(
    all: &mut Vec<Sighting>,
    (objects, now): (Option<&Objects<K>>, SystemTime),
    object: fn(String) -> Object,
) {
    let Some(objects) = objects else { return };
    let snapshot = objects.snapshot();
    // A first list that is not read to its end has objects that are as they are.
    let is_silent = snapshot.complete && !is_known(&snapshot, now);
    all.extend(snapshot.objects.iter().map(|(name, found)| Sighting {
        object: object(name.name.clone()),
        shape: Shape::CaBundle,
        held: (!is_silent).then(|| found.held()),
    }));
}

/// An API server confirms a watch every minute; who has heard nothing for longer looks for itself.
const MAX_SILENCE: Duration = Duration::from_secs(180);

/// Labelled objects of a cluster that get the bundle. Those beyond it do not.
const MAX_OBJECTS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_has_not_confirmed_for_minutes_is_not_known() {
        let (second, at) = (Duration::from_secs(1), SystemTime::UNIX_EPOCH + Duration::from_secs(10_000));
        let with =
            |complete, confirmed_at| Snapshot::<ConfigMap> { complete, confirmed_at, ..Snapshot::default() };
        assert!(is_known(&with(true, Some(at)), at + MAX_SILENCE - second));
        assert!(!is_known(&with(true, Some(at)), at + MAX_SILENCE));
        assert!(!is_known(&with(true, Some(at + MAX_SILENCE)), at), "a clock that was set back");
        assert!(!is_known(&with(false, Some(at)), at) && !is_known(&with(true, None), at));
    }
}
