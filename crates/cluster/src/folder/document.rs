//! What a manifest says: pure.

use serde_json::Value;

use crate::kind::Name;

/// An object as a file gives it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    pub(crate) id: Id,
    pub(crate) value: Value,
}

/// Which object.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Id {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// As it is written: without a namespace when none is written.
    pub(crate) name: Name,
}

/// The objects of a file's text: YAML or JSON, one or several documents, lists unfolded.
pub(crate) fn parse(text: &str) -> Result<Vec<Document>, String> {
    let values: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| first_line(&error.to_string()))?;
    let mut documents = Vec::new();
    for value in values {
        unfold(value, &mut documents)?;
    }
    Ok(documents)
}

fn unfold(value: Value, into: &mut Vec<Document>) -> Result<(), String> {
    match value {
        Value::Null => Ok(()),
        Value::Object(mut fields) if is_list(&fields) => {
            let items = fields.remove("items");
            let Some(Value::Array(items)) = items else { return Ok(()) };
            items.into_iter().try_for_each(|item| unfold(item, into))
        }
        value => {
            into.push(Document { id: id(&value)?, value });
            if into.len() > MAX_DOCUMENTS {
                return Err(format!("more than {MAX_DOCUMENTS} objects in one file"));
            }
            Ok(())
        }
    }
}

fn is_list(fields: &serde_json::Map<String, Value>) -> bool {
    let kind = fields.get("kind").and_then(Value::as_str);
    kind.is_some_and(|kind| kind.ends_with("List")) && fields.contains_key("items")
}

/// Which object `value` is.
pub(crate) fn id(value: &Value) -> Result<Id, String> {
    let text = |value: &Value, what: &str| match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("an object has no {what}")),
    };
    let namespace = match &value["metadata"]["namespace"] {
        Value::Null => None,
        Value::String(namespace) => Some(namespace).filter(|namespace| !namespace.is_empty()),
        // YAML takes n, y, no, on and their like for something else than text.
        _ => return Err("an object's metadata.namespace is not text: put it in quotes".into()),
    };
    Ok(Id {
        api_version: text(&value["apiVersion"], "apiVersion")?,
        kind: text(&value["kind"], "kind")?,
        name: Name {
            namespace: namespace.cloned(),
            name: text(&value["metadata"]["name"], "metadata.name")?,
        },
    })
}

/// Parsers quote the file in further lines; a manifest may hold a secret.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(MAX_REASON).collect()
}

/// The most objects in one file.
const MAX_DOCUMENTS: usize = 50_000;

/// The most characters of a reason.
const MAX_REASON: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        let documents = parse(text)?;
        Ok(documents.iter().map(|d| format!("{} {} {}", d.id.api_version, d.id.kind, d.id.name)).collect())
    }

    #[test]
    fn documents_and_lists_are_unfolded_and_empty_ones_skipped() {
        let text = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: ns}\n---\n# nothing\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: b}}\n";
        assert_eq!(names(text).unwrap(), ["v1 Pod ns/a", "v1 Node b"]);
        let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#;
        assert_eq!(names(json).unwrap(), ["v1 Pod a"]);
        assert_eq!(names("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_object_is_refused_by_name() {
        assert_eq!(names("apiVersion: v1\nkind: Pod\n").unwrap_err(), "an object has no metadata.name");
        assert_eq!(names("kind: Pod\nmetadata: {name: a}\n").unwrap_err(), "an object has no apiVersion");
        let namespace = names("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: n}\n");
        assert!(namespace.unwrap_err().contains("quotes"));
        assert!(names("just text").is_err());
        assert!(names("a: [1, 2").is_err());
    }
}
