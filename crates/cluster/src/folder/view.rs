//! The objects that all files give together: pure.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::Problem;
use super::document::{Document, Id};
use super::files::is_own;
use super::scan::File;
use crate::kind::{Kind, Name};

/// What was found in the folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Grows with each change.
    pub(crate) generation: u64,
    /// By apiVersion and kind, in order of their names.
    objects: HashMap<(String, String), BTreeMap<Name, Arc<Entry>>>,
    pub(crate) problems: Vec<Problem>,
    /// Whether the folder could be looked through, last time.
    pub(crate) is_whole: bool,
    /// Whether each file could be read at some time, so that these are all objects.
    pub(crate) is_complete: bool,
}

/// One object.
#[derive(Debug)]
pub(crate) struct Entry {
    /// With its status, and with what an API server would add.
    pub(crate) value: Value,
    pub(crate) file: PathBuf,
    /// The generation at which it became so.
    version: u64,
}

impl View {
    /// The same objects, when the folder could not be looked through.
    pub(crate) fn with_trouble(&self, problem: Problem) -> Self {
        Self { problems: vec![problem], is_whole: false, ..self.clone() }
    }

    /// The objects of a kind, by the names that they have there.
    pub(crate) fn of<K: Kind>(&self) -> BTreeMap<Name, Arc<Entry>> {
        let key = (K::api_version(&()).into_owned(), K::kind(&()).into_owned());
        let mut named = BTreeMap::new();
        for (name, entry) in self.objects.get(&key).into_iter().flatten() {
            named.entry(in_scope::<K>(name)).or_insert_with(|| Arc::clone(entry));
        }
        named
    }
}

impl View {
    /// All objects.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.objects.values().flat_map(BTreeMap::values)
    }
}

impl Entry {
    /// The object as kind `K` has it.
    pub(crate) fn value_of<K: Kind>(&self, name: &Name) -> Value {
        let mut value = self.value.clone();
        match &name.namespace {
            Some(namespace) => value["metadata"]["namespace"] = namespace.as_str().into(),
            None => {
                if let Some(metadata) = value["metadata"].as_object_mut() {
                    metadata.remove("namespace");
                }
            }
        }
        if K::metadata_api() {
            value = serde_json::json!({ "apiVersion": value["apiVersion"], "kind": value["kind"], "metadata": value["metadata"] });
        }
        value
    }
}

/// Objects of a namespaced kind are in `default` when they do not say; others are in none whatever they say.
pub(crate) fn in_scope<K: Kind>(name: &Name) -> Name {
    let namespace = name.namespace.clone().or_else(|| Some("default".into()));
    Name { namespace: namespace.filter(|_| K::is_namespaced()), name: name.name.clone() }
}

/// Puts together what the files give. Of two files that give the same object, the first in order counts.
pub(crate) fn build(before: &View, files: &BTreeMap<PathBuf, File>, mut problems: Vec<Problem>) -> View {
    let generation = before.generation + 1;
    let is_complete = files.values().all(|file| file.is_known);
    let mut view =
        View { generation, objects: HashMap::new(), problems: Vec::new(), is_whole: true, is_complete };
    let mut changed = false;
    // What may come back counts where nothing else gives the object.
    let (gone, present): (Vec<_>, Vec<_>) = files.iter().partition(|(_, file)| file.gone.is_some());
    for (path, file) in present.into_iter().chain(gone) {
        for Document { id, value } in &file.documents {
            let key = (id.api_version.clone(), id.kind.clone());
            let kind = view.objects.entry(key.clone()).or_default();
            if let Some(first) = kind.get(&id.name) {
                if file.gone.is_some() {
                    continue;
                }
                let detail =
                    format!("{} {} is in {} as well, which counts", id.kind, id.name, first.file.display());
                problems.push(Problem { path: path.clone(), detail });
                continue;
            }
            let known = before.objects.get(&key).and_then(|kind| kind.get(&id.name));
            let value = completed(id, value, file.statuses.get(id));
            let entry = match known {
                Some(known) if is_same(&known.value, &value) && known.file == *path => Arc::clone(known),
                _ => {
                    changed = true;
                    let mut value = value;
                    value["metadata"]["resourceVersion"] = generation.to_string().into();
                    Arc::new(Entry { value, file: path.clone(), version: generation })
                }
            };
            kind.insert(id.name.clone(), entry);
        }
    }
    let count =
        |objects: &HashMap<_, BTreeMap<Name, Arc<Entry>>>| objects.values().map(BTreeMap::len).sum::<usize>();
    if !changed && count(&before.objects) == count(&view.objects) {
        view.generation = before.generation;
    }
    view.problems = problems;
    view
}

/// Adds what an API server adds to every object.
fn completed(id: &Id, value: &Value, status: Option<&Value>) -> Value {
    let mut value = value.clone();
    if value["metadata"]["uid"].is_null() {
        value["metadata"]["uid"] = uid(id).into();
    }
    if value["metadata"]["generation"].is_null() {
        value["metadata"]["generation"] = 1.into();
    }
    if let Some(status) = status {
        value["status"] = status.clone();
    }
    value
}

/// Whether both are the same apart from their version.
fn is_same(known: &Value, new: &Value) -> bool {
    let mut new = new.clone();
    new["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"].clone();
    *known == new
}

/// The same for the same object on every machine: FNV-1a of 128 bits, in the shape of a UUID.
fn uid(id: &Id) -> String {
    let text = format!("{} {} {}", id.api_version, id.kind, id.name);
    let hash = text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    let hex = format!("{hash:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

impl Entry {
    /// Whether this program wrote it.
    pub(crate) fn is_own(&self) -> bool {
        is_own(&self.file)
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }
}
