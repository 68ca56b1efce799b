//! Which events are the same, and what is written when: pure.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::time::Instant;

use super::{SERIES, Told};
use crate::kind::Name;

/// Something to be written.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// The event's own name.
    pub(crate) name: Name,
    /// As it was told last.
    pub(crate) told: Told,
    /// How often it was told.
    pub(crate) count: u32,
}

/// The events of the last minutes.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    known: HashMap<u64, Known>,
}

#[derive(Debug)]
struct Known {
    write: Write,
    written: Instant,
    is_new: bool,
    last: Instant,
}

impl Ledger {
    /// Takes in what was told. The first of its kind is written at once, repetitions when they are [`Ledger::due`].
    pub(crate) fn tell(&mut self, told: Told, now: Instant) -> Option<Write> {
        let key = key(&told);
        if let Some(known) = self.known.get_mut(&key) {
            known.write.count = known.write.count.saturating_add(1);
            known.write.told = told;
            (known.is_new, known.last) = (true, now);
            return None;
        }
        self.make_room();
        let write = Write { name: name(&told, key), told, count: 1 };
        self.known.insert(key, Known { write: write.clone(), written: now, is_new: false, last: now });
        Some(write)
    }

    /// Series that have grown and have not been written for a while. Forgets what has not been told for long.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Write> {
        let mut due = Vec::new();
        for known in self.known.values_mut() {
            if known.is_new && now.duration_since(known.written) >= SERIES {
                (known.is_new, known.written) = (false, now);
                due.push(known.write.clone());
            }
        }
        self.known.retain(|_, known| known.is_new || now.duration_since(known.last) < SERIES * FORGOTTEN);
        due
    }

    fn make_room(&mut self) {
        if self.known.len() < MAX_KNOWN {
            return;
        }
        let oldest = self.known.iter().min_by_key(|(_, known)| known.last).map(|(key, _)| *key);
        if let Some(key) = oldest {
            self.known.remove(&key);
        }
    }
}

fn key(told: &Told) -> u64 {
    let mut hasher = DefaultHasher::new();
    let object = &told.object;
    (&object.api_version, &object.kind, &object.namespace, &object.name, &object.uid).hash(&mut hasher);
    (told.kind, &told.reason, &told.note).hash(&mut hasher);
    hasher.finish()
}

/// Events of objects of the whole cluster live in the namespace `default`.
fn name(told: &Told, key: u64) -> Name {
    let namespace = told.object.namespace.as_deref().unwrap_or("default");
    let object = super::cut(told.object.name.as_deref().unwrap_or("object"), MAX_NAME);
    let mut hasher = DefaultHasher::new();
    (key, told.at).hash(&mut hasher);
    Name::new(namespace, format!("{object}.{:016x}", hasher.finish()))
}

/// Different events that are remembered. At the bound the one that was told longest ago is forgotten.
const MAX_KNOWN: usize = 1_000;

/// After this many times the pace of series without a repetition an event is a new one again.
const FORGOTTEN: u32 = 6;

/// What is left of Kubernetes' 253 bytes for the name of the object.
const MAX_NAME: usize = 230;
