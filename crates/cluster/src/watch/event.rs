//! What one line of a watch, or one item of a list, says.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::kind::{Kind, Name};
use crate::version::ResourceVersion;

/// An object as it came, or what is known of one that cannot be read.
#[derive(Debug)]
pub(crate) enum Arrived<K> {
    Object(Box<K>),
    Unreadable(Unreadable),
}

/// An object that is there and cannot be read.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Unreadable {
    /// `None` when not even that can be read.
    pub(crate) name: Option<Name>,
    pub(crate) version: Option<ResourceVersion>,
    /// Why, without the object's content.
    pub(crate) why: String,
}

/// One line of a watch.
#[derive(Debug)]
pub(crate) enum Event<K> {
    /// Added or modified.
    Changed(Arrived<K>),
    Deleted(Name, Option<ResourceVersion>),
    /// Everything up to `version` has been told. `is_complete`: it ends the list that a watch may begin with.
    Bookmark {
        version: Option<ResourceVersion>,
        is_complete: bool,
    },
    Error(Box<kube::core::Status>),
}

/// The line is none of a watch.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("no event of a watch at column {0}")]
pub(crate) struct NoEvent(usize);

/// Reads a line.
pub(crate) fn parse<K: Kind>(line: &[u8]) -> Result<Event<K>, NoEvent> {
    let envelope: Envelope<'_> = serde_json::from_slice(line).map_err(|error| NoEvent(error.column()))?;
    let head = || serde_json::from_str::<Head>(envelope.object.get()).ok().map(|head| head.metadata);
    Ok(match &*envelope.r#type {
        "ADDED" | "MODIFIED" => Event::Changed(object(envelope.object)),
        "DELETED" => {
            let meta = head().unwrap_or_default();
            let version = meta.version();
            Event::Deleted(meta.name().ok_or(NoEvent(0))?, version)
        }
        "BOOKMARK" => {
            let meta = head().unwrap_or_default();
            let is_complete =
                meta.annotations.as_ref().is_some_and(|a| a.complete.as_deref() == Some("true"));
            Event::Bookmark { version: meta.version(), is_complete }
        }
        "ERROR" => Event::Error(serde_json::from_str(envelope.object.get()).unwrap_or_default()),
        _ => return Err(NoEvent(0)),
    })
}

/// Reads one object.
pub(crate) fn object<K: Kind>(raw: &RawValue) -> Arrived<K> {
    match serde_json::from_str::<K>(raw.get()) {
        Ok(mut object) if object.meta().name.as_ref().is_some_and(|name| !name.is_empty()) => {
            object.meta_mut().managed_fields = None;
            Arrived::Object(Box::new(object))
        }
        outcome => {
            let meta =
                serde_json::from_str::<Head>(raw.get()).ok().map(|head| head.metadata).unwrap_or_default();
            let why = outcome.err().map_or_else(|| "it has no name".into(), |error| reason::<K>(&error));
            Arrived::Unreadable(Unreadable { version: meta.version(), name: meta.name(), why })
        }
    }
}

/// What is known of an object that is larger than is taken, from its metadata.
pub(crate) fn too_large(metadata: &RawValue, limit: usize) -> Unreadable {
    let meta =
        serde_json::from_str::<Head>(metadata.get()).ok().map(|head| head.metadata).unwrap_or_default();
    Unreadable { version: meta.version(), name: meta.name(), why: super::cut::too_large(limit) }
}

/// What is wrong with JSON. Of kinds that hold secrets, only where: the text may quote what was found.
fn reason<K: Kind>(error: &serde_json::Error) -> String {
    if K::kind(&()) == "Secret" {
        return format!("not what it should be at column {}", error.column());
    }
    error.to_string().chars().take(MAX_REASON).collect()
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Head {
    metadata: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    annotations: Option<Annotations>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    /// Kubernetes' word for the end of the list that a watch may begin with.
    #[serde(rename = "k8s.io/initial-events-end")]
    complete: Option<String>,
}

impl Meta {
    fn name(self) -> Option<Name> {
        let name = self.name.filter(|name| !name.is_empty())?;
        Some(Name { namespace: self.namespace, name })
    }

    fn version(&self) -> Option<ResourceVersion> {
        ResourceVersion::parse(self.resource_version.as_deref().unwrap_or_default())
    }
}

/// The most characters of a reason.
const MAX_REASON: usize = 512;

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};

    use super::*;

    fn config_map(line: &str) -> Event<ConfigMap> {
        parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn an_object_arrives_without_managed_fields() {
        let line = r#"{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"n",
            "resourceVersion":"7","managedFields":[{"manager":"kubectl"}]},"data":{"k":"v"}}}"#;
        let Event::Changed(Arrived::Object(object)) = config_map(line) else { panic!("no object") };
        assert_eq!(Name::of(&*object), Name::new("n", "a"));
        assert_eq!(object.metadata.managed_fields, None);
        assert_eq!(object.data.unwrap()["k"], "v");
    }

    #[test]
    fn an_object_that_cannot_be_read_still_has_its_name() {
        let line = r#"{"type":"MODIFIED","object":{"metadata":{"name":"a","namespace":"n","resourceVersion":"8"},"data":7}}"#;
        let Event::Changed(Arrived::Unreadable(unreadable)) = config_map(line) else { panic!("readable") };
        assert_eq!(unreadable.name, Some(Name::new("n", "a")));
        assert_eq!(unreadable.version, ResourceVersion::parse("8"));
        assert!(unreadable.why.contains("invalid type"), "{}", unreadable.why);
    }

    #[test]
    fn what_is_in_a_secret_is_not_told() {
        let line = r#"{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"n"},"data":"hunter2"}}"#;
        let Ok(Event::Changed(Arrived::Unreadable(unreadable))) = parse::<Secret>(line.as_bytes()) else {
            panic!("readable")
        };
        assert!(!unreadable.why.contains("hunter2"), "{}", unreadable.why);
    }

    #[test]
    fn the_end_of_the_list_is_a_bookmark_with_an_annotation() {
        let end = r#"{"type":"BOOKMARK","object":{"kind":"ConfigMap","metadata":{"resourceVersion":"9",
            "annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        assert!(
            matches!(config_map(end), Event::Bookmark { version: Some(v), is_complete: true } if v.as_str() == "9")
        );
        let plain = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#;
        assert!(matches!(config_map(plain), Event::Bookmark { is_complete: false, .. }));
    }

    #[test]
    fn a_line_of_something_else_is_no_event() {
        for line in
            ["<html>", "{}", r#"{"type":"NEWS","object":{}}"#, r#"{"type":"DELETED","object":{}}"#, ""]
        {
            assert!(parse::<ConfigMap>(line.as_bytes()).is_err(), "{line}");
        }
    }
}
