//! What is to be done.

use std::sync::Arc;

use vouchsafe_types::EntryId;

use crate::draft::{Draft, Key};

/// What to do on the server, so that it has what is declared.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Entries to create.
    pub create: Vec<Create>,
    /// Entries to change.
    pub update: Vec<Update>,
    /// Entries to delete, last.
    pub delete: Vec<Delete>,
}

/// An entry to create.
#[derive(Clone, Debug)]
pub struct Create {
    /// What it is known by.
    pub key: Key,
    /// What it says.
    pub draft: Arc<Draft>,
    /// Similar entries under ids of old, to delete just before, and to create again when it is refused.
    pub replaces: Vec<(EntryId, Arc<Draft>)>,
}

/// An entry to change.
#[derive(Clone, Debug)]
pub struct Update {
    /// What it is known by.
    pub key: Key,
    /// Which one.
    pub id: EntryId,
    /// What it is to say.
    pub draft: Arc<Draft>,
}

/// An entry to delete.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Delete {
    /// What it is known by.
    pub key: Key,
    /// Which one.
    pub id: EntryId,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }
}
