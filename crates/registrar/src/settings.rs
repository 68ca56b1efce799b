//! What is configured: which objects and which entries are whose.

use regex::Regex;

use crate::objects::Declaring;

/// Whose objects are followed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Class {
    /// The objects with this `className`.
    pub name: String,
    /// And those without.
    pub classless: bool,
}

impl Class {
    /// Whether the object is one of them.
    pub fn has<K: Declaring>(&self, object: &K) -> bool {
        let name = object.class_name();
        name == self.name || (name.is_empty() && self.classless)
    }
}

/// Namespaces whose Pods get nothing.
#[derive(Clone, Debug, Default)]
pub struct IgnoredNamespaces(pub Vec<Regex>);

impl IgnoredNamespaces {
    /// Whether a pattern occurs in the name. A pattern that means the whole name says so (`^name$`), as in
    /// spire-controller-manager.
    #[must_use]
    pub fn has(&self, namespace: &str) -> bool {
        self.0.iter().any(|pattern| pattern.is_match(namespace))
    }
}

/// Which entries are ours, by their ids.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EntryIds {
    /// Ends in a dot. Empty: all entries of the server are.
    prefix: String,
    /// Entries to remove: those whose id starts so, or when it is empty, those without a dot.
    cleanup: Option<String>,
}

/// Whose an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
    /// Ours to change and to delete.
    Ours,
    /// Ours to delete.
    Outdated,
    /// Not ours.
    Other,
}

impl EntryIds {
    /// `entryIDPrefix` and `entryIDPrefixCleanup` as configured.
    ///
    /// # Errors
    ///
    /// Both are the same.
    pub fn new(prefix: &str, cleanup: Option<&str>) -> Result<Self, SamePrefix> {
        let dotted = |text: &str| match text.is_empty() || text.ends_with('.') {
            true => text.to_owned(),
            false => format!("{text}."),
        };
        let (prefix, cleanup) = (dotted(prefix), cleanup.map(dotted));
        if !prefix.is_empty() && cleanup.as_ref() == Some(&prefix) {
            return Err(SamePrefix);
        }
        Ok(Self { prefix, cleanup })
    }

    /// What a new entry's id starts with; the server chooses the id when it is empty.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whose the entry with this id is.
    #[must_use]
    pub fn owner(&self, id: &str) -> Owner {
        if self.prefix.is_empty() || id.starts_with(&self.prefix) {
            return Owner::Ours;
        }
        match self.cleanup.as_deref() {
            Some("") if !id.contains('.') => Owner::Outdated,
            Some(cleanup) if !cleanup.is_empty() && id.starts_with(cleanup) => Owner::Outdated,
            _ => Owner::Other,
        }
    }
}

/// The prefix of entries to keep and of those to remove are the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("if entryIDPrefixCleanup is specified, it can not be the same value as entryIDPrefix")]
pub struct SamePrefix;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_belongs_to_whose_prefix_its_id_has() {
        let ids = |prefix: &str, cleanup| EntryIds::new(prefix, cleanup).unwrap();
        for (ids, id, owner) in [
            (ids("", None), "anything", Owner::Ours),
            (ids("blue", None), "blue.1", Owner::Ours),
            (ids("blue", None), "blue1", Owner::Other),
            (ids("blue", None), "1", Owner::Other),
            (ids("blue", Some("")), "1", Owner::Outdated),
            (ids("blue", Some("")), "green.1", Owner::Other),
            (ids("blue", Some("green")), "green.1", Owner::Outdated),
            (ids("blue", Some("green")), "1", Owner::Other),
        ] {
            assert_eq!(ids.owner(id), owner, "{ids:?} {id}");
        }
        assert_eq!(EntryIds::new("blue", Some("blue.")), Err(SamePrefix));
    }
}
