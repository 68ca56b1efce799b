//! What can be known of a line of a watch that is larger than is taken: what stands in its beginning.
//!
//! Kubernetes writes an object's kind, name and version before its content, so that the beginning says which object it is.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::event::{Arrived, Event, Unreadable};
use crate::kind::{Kind, Name};
use crate::version::ResourceVersion;

/// Reads the beginning of a line; the rest of it is gone.
pub(crate) fn parse<K: Kind>(beginning: &[u8], limit: usize) -> Event<K> {
    let mut found = Found::default();
    let mut json = serde_json::Deserializer::from_slice(beginning);
    // It ends in the middle: what was found until there stays.
    Part { found: &mut found, place: Place::Line }.deserialize(&mut json).ok();
    let version = ResourceVersion::parse(found.version.as_deref().unwrap_or_default());
    let is_told = found.namespace.is_some() == K::is_namespaced();
    let name = found.name.filter(|name| is_told && !name.is_empty());
    let name = name.map(|name| Name { namespace: found.namespace, name });
    match (found.r#type.as_deref(), name) {
        (Some("DELETED"), Some(name)) => Event::Deleted(name, version),
        (Some("ADDED" | "MODIFIED"), name @ Some(_)) => {
            Event::Changed(Arrived::Unreadable(Unreadable { name, version, why: too_large(limit) }))
        }
        _ => {
            let (name, version) = (None, None);
            Event::Changed(Arrived::Unreadable(Unreadable { name, version, why: too_large(limit) }))
        }
    }
}

/// Why an object that is larger than is taken cannot be read.
pub(crate) fn too_large(limit: usize) -> String {
    format!("it is larger than {limit} bytes")
}

#[derive(Default)]
struct Found {
    r#type: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
    version: Option<String>,
}

#[derive(Clone, Copy)]
enum Place {
    Line,
    Object,
    Metadata,
}

/// A map of the line, read as far as it is there.
struct Part<'f> {
    found: &'f mut Found,
    place: Place,
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let found = self.found;
        while let Some(key) = map.next_key::<String>()? {
            match (self.place, key.as_str()) {
                (Place::Line, "type") => found.r#type = Some(map.next_value()?),
                (Place::Line, "object") => map.next_value_seed(Part { found, place: Place::Object })?,
                (Place::Object, "metadata") => {
                    map.next_value_seed(Part { found, place: Place::Metadata })?;
                }
                (Place::Metadata, "name") => found.name = Some(map.next_value()?),
                (Place::Metadata, "namespace") => found.namespace = Some(map.next_value()?),
                (Place::Metadata, "resourceVersion") => found.version = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Node};

    use super::*;

    const LINE: &str = r#"{"type":"MODIFIED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"n","resourceVersion":"8","labels":{"name":"no"}},"data":{"k":"<<<"#;

    #[test]
    fn the_beginning_of_a_line_says_which_object_it_is_about() {
        let Event::Changed(Arrived::Unreadable(found)) = parse::<ConfigMap>(LINE.as_bytes(), 9) else {
            panic!("readable")
        };
        assert_eq!((found.name, found.version), (Some(Name::new("n", "a")), ResourceVersion::parse("8")));
        assert_eq!(found.why, "it is larger than 9 bytes");
        let gone = LINE.replace("MODIFIED", "DELETED");
        let event = parse::<ConfigMap>(gone.as_bytes(), 9);
        assert!(matches!(event, Event::Deleted(name, _) if name == Name::new("n", "a")));
    }

    #[test]
    fn a_beginning_that_does_not_say_the_whole_name_names_nobody() {
        let cut = LINE.find(r#","namespace""#).unwrap();
        let named = |event| match event {
            Event::<ConfigMap>::Changed(Arrived::Unreadable(found)) => found.name.is_some(),
            _ => true,
        };
        for text in [&LINE[..cut], "xxxxx", "", r#"{"type":"BOOKMARK","object":{"metadata":{"#] {
            assert!(!named(parse(text.as_bytes(), 9)), "{text}");
        }
        let Event::Changed(Arrived::Unreadable(node)) = parse::<Node>(&LINE.as_bytes()[..cut], 9) else {
            panic!("readable")
        };
        assert_eq!(node.name, Some(Name::cluster("a")), "a kind without namespaces needs none");
    }
}
