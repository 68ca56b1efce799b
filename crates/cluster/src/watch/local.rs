//! Following a kind in a folder of manifests.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::time::sleep;
use tracing::error;

use super::event::{Arrived, Unreadable};
use super::held::Held;
use super::meters::Meters;
use super::{Objects, Selection, Snapshot, is_equal};
use crate::folder::{Folder, Selector, TICK, View};
use crate::kind::{Kind, Name};
use crate::source::Deps;
use crate::version::ResourceVersion;

/// One follower at work.
pub(crate) struct Local<'a, K> {
    folder: &'a Folder,
    deps: Deps,
    selection: &'a Selection,
    objects: &'a Objects<K>,
    held: Held<K>,
    /// The version of each object at which it was last read.
    versions: BTreeMap<Name, u64>,
    meters: Meters,
    /// Whether what was told last was all; nothing has been told before.
    told: Option<bool>,
}

impl<'a, K: Kind> Local<'a, K> {
    pub(crate) fn new(
        folder: &'a Folder,
        deps: Deps,
        selection: &'a Selection,
        objects: &'a Objects<K>,
    ) -> Self {
        let meters = Meters::new(&deps.metrics, &K::label(), selection);
        let (held, versions) = (Held::new(), BTreeMap::new());
        Self { folder, deps, selection, objects, held, versions, meters, told: None }
    }

    /// Follows for ever.
    pub(crate) async fn run(mut self) {
        let selector = match Selector::parse(self.selection) {
            Ok(selector) => selector,
            Err(detail) => {
                error!(kind = K::label(), detail, "selector cannot be read, nothing is followed");
                return std::future::pending().await;
            }
        };
        loop {
            self.folder.refresh().await;
            let view = self.folder.view();
            // Before the first look, and while the folder cannot be looked through, what is held stays.
            if view.is_whole {
                self.take(&view, &selector);
            }
            sleep(TICK).await;
        }
    }

    fn take(&mut self, view: &View, selector: &Selector) {
        let (mut list, mut versions) = (Held::new(), BTreeMap::new());
        for (name, entry) in view.of::<K>() {
            let known =
                self.held.objects.get(&name).filter(|_| self.versions.get(&name) == Some(&entry.version()));
            match known {
                Some(known) => {
                    list.objects.insert(name.clone(), Arc::clone(known));
                    if let Some(why) = self.held.unreadable.get(&name) {
                        list.unreadable.insert(name.clone(), Arc::clone(why));
                    }
                }
                None => {
                    let value = entry.value_of::<K>(&name);
                    if !selector.matches(&value) {
                        continue;
                    }
                    list.put(read(&name, value), Some(&self.held));
                }
            }
            versions.insert(name, entry.version());
        }
        let complete = view.is_complete && !list.is_partial;
        let changed = self.told.replace(complete) != Some(complete) || !is_equal(&self.held, &list);
        (self.held, self.versions) = (list, versions);
        let now = self.deps.clock.now();
        self.meters.show(&self.held, now);
        let snapshot = Snapshot {
            objects: self.held.objects.clone(),
            unreadable: self.held.unreadable.clone(),
            complete,
            confirmed_at: Some(now),
            resource_version: ResourceVersion::parse(&view.generation.to_string()),
        };
        self.objects.set(snapshot, changed);
    }
}

fn read<K: Kind>(name: &Name, value: Value) -> Arrived<K> {
    match serde_json::from_value::<K>(value) {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            Arrived::Object(Box::new(object))
        }
        Err(error) => {
            let why =
                if K::kind(&()) == "Secret" { "not what it should be".into() } else { error.to_string() };
            Arrived::Unreadable(Unreadable { name: Some(name.clone()), version: None, why })
        }
    }
}
