//! Single objects of the folder: read, applied, deleted.

use std::collections::BTreeMap;
use std::path::Path;

use kube::core::PartialObjectMeta;
use serde_json::{Value, json};

use super::Folder;
use super::document::{Id, id};
use super::files::{own_file, status_of, write};
use super::view::{Entry, View, in_scope};
use crate::api::{call, partial, typed};
use crate::error::{Call, ClusterError};
use crate::kind::{Kind, Name};

impl Folder {
    pub(crate) async fn fetch<K: Kind>(&self, name: &Name) -> Result<Option<K>, ClusterError> {
        let call = call::<K>("get", Some(name));
        self.exclusively(&call.clone(), |_, _| Ok(())).await?;
        let name = in_scope::<K>(name);
        let view = self.view();
        let Some(entry) = view.of::<K>().remove(&name) else { return Ok(None) };
        read(&call, &entry, &name).map(Some)
    }

    pub(crate) async fn create<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        let name = in_scope::<K>(&Name::of(object));
        let call = call::<K>("create", Some(&name));
        let value = typed(&call, object)?;
        let (of, wanted) = (call.clone(), name.clone());
        self.exclusively(&call, move |root, view| {
            if view.of::<K>().contains_key(&wanted) {
                return Err(refused(&of, 409, "AlreadyExists", "it exists already".into()));
            }
            put(&of, root, value)
        })
        .await?;
        self.written(&call, &name)
    }

    /// Without managers of fields: what was applied before and is not in `fields` stays, unless `fields` is a whole object.
    pub(crate) async fn apply<K: Kind>(&self, name: &Name, fields: Value) -> Result<K, ClusterError> {
        let name = in_scope::<K>(name);
        let call = call::<K>("apply", Some(&name));
        let (of, wanted) = (call.clone(), name.clone());
        self.exclusively(&call, move |root, view| {
            let value = match view.of::<K>().remove(&wanted) {
                None => fields,
                Some(entry) if !entry.is_own() => return foreign(&of, &entry),
                Some(entry) => {
                    let mut merged = entry.value.clone();
                    merge(&mut merged, fields);
                    if merged == entry.value {
                        return Ok(());
                    }
                    merged
                }
            };
            put(&of, root, value)
        })
        .await?;
        self.written(&call, &name)
    }

    pub(crate) async fn patch<K: Kind>(&self, name: &Name, fields: Value) -> Result<(), ClusterError> {
        let call = call::<K>("patch", Some(name));
        if self.fetch::<PartialObjectMeta<K>>(name).await?.is_none() {
            return Err(refused(&call, 404, "NotFound", "there is no such object".into()));
        }
        self.apply::<PartialObjectMeta<K>>(name, partial::<K>(name, fields)).await.map(drop)
    }

    pub(crate) async fn apply_status<K: Kind>(&self, name: &Name, status: Value) -> Result<(), ClusterError> {
        let name = in_scope::<K>(name);
        let call = call::<K>("apply status", Some(&name));
        let of = call.clone();
        self.exclusively(&call, move |_, view| {
            let objects = view.of::<K>();
            let Some(entry) = objects.get(&name) else {
                return Err(refused(&of, 404, "NotFound", "there is no such object".into()));
            };
            if entry.value["status"] == status {
                return Ok(());
            }
            let beside = status_of(&entry.file);
            let mut statuses = statuses(view, &entry.file);
            statuses.insert(id(&entry.value).map_err(|detail| invalid(&of, detail))?, status);
            let documents: Vec<Value> = statuses.into_iter().map(document).collect();
            let text = serde_saphyr::to_string_multiple(&documents)
                .map_err(|error| invalid(&of, error.to_string()))?;
            write(&beside, &text).map_err(|source| ClusterError::File { call: of, path: beside, source })
        })
        .await
    }

    pub(crate) async fn delete<K: Kind>(&self, name: &Name, uid: Option<&str>) -> Result<(), ClusterError> {
        let name = in_scope::<K>(name);
        let call = call::<K>("delete", Some(&name));
        let (of, uid) = (call.clone(), uid.map(str::to_owned));
        self.exclusively(&call, move |_, view| {
            let Some(entry) = view.of::<K>().remove(&name) else { return Ok(()) };
            if uid.is_some_and(|uid| entry.value["metadata"]["uid"] != uid.as_str()) {
                return Err(refused(&of, 409, "Conflict", "there is another of this name".into()));
            }
            if !entry.is_own() {
                return foreign(&of, &entry);
            }
            std::fs::remove_file(status_of(&entry.file)).ok();
            let path = entry.file.clone();
            std::fs::remove_file(&path).map_err(|source| ClusterError::File { call: of, path, source })
        })
        .await
    }

    fn written<K: Kind>(&self, call: &Call, name: &Name) -> Result<K, ClusterError> {
        let found = self.view().of::<K>().remove(name);
        let entry = found.ok_or_else(|| invalid(call, "what was written is not an object".into()))?;
        read(call, &entry, name)
    }
}

fn read<K: Kind>(call: &Call, entry: &Entry, name: &Name) -> Result<K, ClusterError> {
    serde_json::from_value(entry.value_of::<K>(name)).map_err(|error| ClusterError::Garbled {
        call: call.clone(),
        detail: format!("{}: {:?}", entry.file.display(), error.classify()),
    })
}

/// Writes an object to the file of its own.
fn put(call: &Call, root: &Path, mut value: Value) -> Result<(), ClusterError> {
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    let id = id(&value).map_err(|detail| invalid(call, detail))?;
    let path = own_file(root, &id).map_err(|detail| invalid(call, detail))?;
    let text = serde_saphyr::to_string(&value).map_err(|error| invalid(call, error.to_string()))?;
    write(&path, &text).map_err(|source| ClusterError::File { call: call.clone(), path, source })
}

/// The statuses of all objects of a file.
fn statuses(view: &View, file: &Path) -> BTreeMap<Id, Value> {
    let of_file = view.entries().filter(|entry| entry.file == file && !entry.value["status"].is_null());
    of_file.filter_map(|entry| Some((id(&entry.value).ok()?, entry.value["status"].clone()))).collect()
}

fn document((id, status): (Id, Value)) -> Value {
    let mut metadata = json!({ "name": id.name.name });
    if let Some(namespace) = id.name.namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({ "apiVersion": id.api_version, "kind": id.kind, "metadata": metadata, "status": status })
}

fn foreign(call: &Call, entry: &Entry) -> Result<(), ClusterError> {
    let message = format!("{} gives this object: change it there", entry.file.display());
    Err(refused(call, 409, "Conflict", message))
}

fn refused(call: &Call, code: u16, reason: &str, message: String) -> ClusterError {
    ClusterError::Refused { call: call.clone(), code, reason: reason.into(), message, retry_after: None }
}

fn invalid(call: &Call, detail: String) -> ClusterError {
    ClusterError::Invalid { call: call.clone(), detail }
}

/// Puts `from` into `into` as server-side apply would: maps by key, lists of named things by name, the rest as it is.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) if from.iter().all(|item| item["name"].is_string()) => {
            for item in from {
                match into.iter_mut().find(|known| known["name"] == item["name"]) {
                    Some(known) => merge(known, item),
                    None => into.push(item),
                }
            }
        }
        (into, from) => *into = from,
    }
}
