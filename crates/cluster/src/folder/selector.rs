//! Label and field selectors, as an API server understands them: pure.

use std::collections::BTreeMap;

use kube::core::{Expression, Selector as Labels, SelectorExt as _};
use serde_json::Value;

use crate::watch::Selection;

/// Decides which objects a selection means.
#[derive(Debug)]
pub(crate) struct Selector {
    namespace: Option<String>,
    labels: Labels,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    path: String,
    value: String,
    is_equal: bool,
}

impl Selector {
    /// Reads the selectors of `selection`.
    pub(crate) fn parse(selection: &Selection) -> Result<Self, String> {
        let labels = selection.labels.as_deref().map(parts).unwrap_or_default();
        let labels: Result<Vec<Expression>, String> = labels.into_iter().map(expression).collect();
        let fields = selection.fields.as_deref().map(parts).unwrap_or_default();
        let fields: Result<Vec<Field>, String> = fields.into_iter().map(field).collect();
        Ok(Self {
            namespace: selection.namespace.clone(),
            labels: labels?.into_iter().collect(),
            fields: fields?,
        })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        if self
            .namespace
            .as_deref()
            .is_some_and(|namespace| metadata["namespace"].as_str() != Some(namespace))
        {
            return false;
        }
        let labels: BTreeMap<String, String> = metadata["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        self.labels.matches(&labels) && self.fields.iter().all(|field| field.matches(object))
    }
}

impl Field {
    fn matches(&self, object: &Value) -> bool {
        let found = self.path.split('.').try_fold(object, |value, key| value.get(key));
        let text = match found {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        };
        (text == self.value) == self.is_equal
    }
}

/// Cuts at commas that are not within brackets.
fn parts(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let cut = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    text.split(cut).map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn expression(part: &str) -> Result<Expression, String> {
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Expression::NotEqual(key.trim().into(), value.trim().into()));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Expression::Equal(key.trim().into(), value.trim().into()));
    }
    if let Some((head, values)) = part.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(|| format!("{part}: no closing bracket"))?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let words: Vec<&str> = head.split_whitespace().collect();
        return match words[..] {
            [key, "in"] => Ok(Expression::In(key.into(), values)),
            [key, "notin"] => Ok(Expression::NotIn(key.into(), values)),
            _ => Err(format!("{part}: neither in nor notin")),
        };
    }
    match part.strip_prefix('!') {
        Some(key) => Ok(Expression::DoesNotExist(key.trim().into())),
        None if part.contains(char::is_whitespace) => Err(format!("{part}: no selector")),
        None => Ok(Expression::Exists(part.into())),
    }
}

fn field(part: &str) -> Result<Field, String> {
    let field = |(path, value): (&str, &str), is_equal| Field {
        path: path.trim().into(),
        value: value.trim().into(),
        is_equal,
    };
    if let Some(pair) = part.split_once("!=") {
        return Ok(field(pair, false));
    }
    let pair = part.split_once("==").or_else(|| part.split_once('='));
    pair.map(|pair| field(pair, true)).ok_or_else(|| format!("{part}: no field selector"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_mean_what_they_mean_to_an_api_server() {
        let object = json!({ "metadata": { "namespace": "n", "name": "x", "labels": { "app": "web", "tier": "front" } },
            "spec": { "nodeName": "node-1", "count": 3 } });
        let check = |labels: &str, fields: &str, expected: bool| {
            let selection = Selection::all().with_labels(labels).with_fields(fields);
            assert_eq!(Selector::parse(&selection).unwrap().matches(&object), expected, "{labels} {fields}");
        };
        check("app=web", "", true);
        check("app==web,tier!=back", "", true);
        check("app in (db, web),tier", "", true);
        check("app notin (web)", "", false);
        check("!app", "", false);
        check("!gone", "", true);
        check("gone!=x", "", true);
        check("", "spec.nodeName=node-1,metadata.name!=y", true);
        check("", "spec.nodeName=node-2", false);
        check("", "spec.gone=", true);
        check("", "spec.count==3", true);
        assert!(Selector::parse(&Selection::namespace("n")).unwrap().matches(&object));
        assert!(!Selector::parse(&Selection::namespace("m")).unwrap().matches(&object));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for labels in ["a in (b", "a of (b)", "a b"] {
            assert!(Selector::parse(&Selection::all().with_labels(labels)).is_err(), "{labels}");
        }
        assert!(Selector::parse(&Selection::all().with_fields("a")).is_err());
    }
}
