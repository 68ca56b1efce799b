//! What is held of a kind while it changes: pure.

use std::sync::Arc;

use imbl::OrdMap;

use super::event::{Arrived, Unreadable};
use crate::kind::{Kind, Name};

/// The objects of a kind. Copies share what is equal.
#[derive(Clone, Debug)]
pub(crate) struct Held<K> {
    pub(crate) objects: OrdMap<Name, Arc<K>>,
    /// Objects that are there and cannot be read, and why.
    pub(crate) unreadable: OrdMap<Name, Arc<str>>,
    /// There are objects that are not here: more than are taken, or some that have no readable name.
    pub(crate) is_partial: bool,
}

impl<K: Kind> Held<K> {
    pub(crate) fn new() -> Self {
        Self { objects: OrdMap::new(), unreadable: OrdMap::new(), is_partial: false }
    }

    /// Takes what arrived. What cannot be read leaves the object of that name as it was here, or as it is in `before`
    /// while a list is read that will replace `before`.
    pub(crate) fn put(&mut self, arrived: Arrived<K>, before: Option<&Self>) {
        match arrived {
            Arrived::Object(object) => {
                let name = Name::of(&*object);
                if self.refuses(&name) {
                    return;
                }
                let known = before.unwrap_or(self).objects.get(&name);
                let object = match known {
                    Some(known) if is_same(&**known, &*object) => Arc::clone(known),
                    _ => Arc::from(object),
                };
                self.unreadable.remove(&name);
                self.objects.insert(name, object);
            }
            Arrived::Unreadable(Unreadable { name: Some(name), why, .. }) => {
                if self.refuses(&name) {
                    return;
                }
                if let Some(known) = before.and_then(|before| before.objects.get(&name)) {
                    self.objects.insert(name.clone(), Arc::clone(known));
                }
                self.unreadable.insert(name, why.into());
            }
            Arrived::Unreadable(Unreadable { name: None, .. }) => self.is_partial = true,
        }
    }

    pub(crate) fn remove(&mut self, name: &Name) {
        self.objects.remove(name);
        self.unreadable.remove(name);
    }

    /// A list that has been read to its end takes the place of `before`. One that lacks objects withdraws none, as far as there
    /// is room.
    pub(crate) fn replacing(mut self, before: &Self) -> Self {
        if self.is_partial {
            let room = MAX_OBJECTS.saturating_sub(self.objects.len().max(self.unreadable.len()));
            fill(&mut self.objects, &before.objects, room);
            fill(&mut self.unreadable, &before.unreadable, room);
        }
        self
    }

    fn refuses(&mut self, name: &Name) -> bool {
        let is_new = !self.objects.contains_key(name) && !self.unreadable.contains_key(name);
        let refuses = is_new && self.objects.len().max(self.unreadable.len()) >= MAX_OBJECTS;
        self.is_partial |= refuses;
        refuses
    }
}

/// Adds at most `room` that are not there.
fn fill<T: Clone>(into: &mut OrdMap<Name, T>, from: &OrdMap<Name, T>, room: usize) {
    let lacking: Vec<_> = from.iter().filter(|(name, _)| !into.contains_key(*name)).take(room).collect();
    into.extend(lacking.into_iter().map(|(name, value)| (name.clone(), value.clone())));
}

/// Whether both are the same version of the same object.
fn is_same<K: Kind>(a: &K, b: &K) -> bool {
    let (a, b) = (a.meta(), b.meta());
    a.uid == b.uid && a.resource_version == b.resource_version && a.resource_version.is_some()
}

/// The most objects that are held of one watch: as many as a cluster of Kubernetes' largest supported size has Pods,
/// and a third more. More are not taken; a snapshot then says that it is not complete.
pub(crate) const MAX_OBJECTS: usize = 200_000;

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, version: &str) -> Arrived<ConfigMap> {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(version.into());
        Arrived::Object(Box::new(object))
    }

    fn unreadable(name: Option<&str>) -> Arrived<ConfigMap> {
        Arrived::Unreadable(Unreadable { name: name.map(Name::cluster), version: None, why: "bad".into() })
    }

    fn versions(held: &Held<ConfigMap>) -> Vec<String> {
        let text = |(name, object): (&Name, &Arc<ConfigMap>)| {
            format!("{name}@{}", object.metadata.resource_version.as_deref().unwrap())
        };
        held.objects.iter().map(text).collect()
    }

    #[test]
    fn an_object_that_becomes_unreadable_stays_as_it_was_until_it_is_readable_or_gone() {
        let mut held = Held::new();
        held.put(object("a", "1"), None);
        held.put(unreadable(Some("a")), None);
        assert_eq!((versions(&held), held.unreadable.len()), (vec!["a@1".to_owned()], 1));
        held.put(object("a", "3"), None);
        assert_eq!((versions(&held), held.unreadable.len()), (vec!["a@3".to_owned()], 0));
        held.put(unreadable(Some("a")), None);
        held.remove(&Name::cluster("a"));
        assert!(held.objects.is_empty() && held.unreadable.is_empty());
    }

    #[test]
    fn a_list_withdraws_what_is_not_in_it_and_keeps_what_is_unreadable_in_it() {
        let mut before = Held::new();
        for name in ["a", "b", "c"] {
            before.put(object(name, "1"), None);
        }
        let mut list = Held::new();
        list.put(object("a", "1"), Some(&before));
        list.put(unreadable(Some("b")), Some(&before));
        let after = list.replacing(&before);
        assert_eq!(versions(&after), ["a@1", "b@1"]);
        let (name, is_same) = (Name::cluster("a"), Arc::ptr_eq);
        assert!(is_same(&after.objects[&name], &before.objects[&name]), "an unchanged object is held once");
    }

    #[test]
    fn a_list_with_a_nameless_object_withdraws_nothing() {
        let mut before = Held::new();
        before.put(object("a", "1"), None);
        let mut list = Held::new();
        list.put(object("b", "2"), Some(&before));
        list.put(unreadable(None), Some(&before));
        let after = list.replacing(&before);
        assert_eq!(versions(&after), ["a@1", "b@2"]);
        assert!(after.is_partial);
    }

    #[test]
    fn lists_that_lack_objects_do_not_grow_beyond_the_bound_one_after_another() {
        let mut held = Held::new();
        for round in 0..2 {
            let mut list = Held::new();
            for index in 0..=MAX_OBJECTS {
                list.put(object(&format!("{round}-{index}"), "1"), Some(&held));
            }
            held = list.replacing(&held);
        }
        assert_eq!((held.objects.len(), held.is_partial), (MAX_OBJECTS, true));
    }

    #[test]
    fn at_the_bound_known_objects_change_and_new_ones_are_not_taken() {
        let mut held = Held::new();
        for index in 0..MAX_OBJECTS {
            held.put(object(&index.to_string(), "1"), None);
        }
        assert!(!held.is_partial);
        held.put(object("new", "2"), None);
        held.put(object("7", "3"), None);
        assert_eq!((held.objects.len(), held.is_partial), (MAX_OBJECTS, true));
        assert_eq!(held.objects[&Name::cluster("7")].metadata.resource_version.as_deref(), Some("3"));
    }
}
