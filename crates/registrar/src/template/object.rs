//! Kubernetes objects as values of the template language. A struct is a function from the name of a field to its value, so
//! that only what a template asks for is converted.

use std::sync::Arc;

use gotmpl::{TemplateError, Value};
use serde_json::Value as Json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::{datetime, format_description};

use super::go_types::{self, EMBEDDED};

/// JSON of one of Kubernetes' types. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Object {
    json: Arc<Json>,
    of: &'static str,
}

impl Object {
    /// The metadata of an object.
    #[must_use]
    pub fn meta(json: Json) -> Self {
        Self { json: Arc::new(json), of: "ObjectMeta" }
    }

    /// The `spec` of a Pod.
    #[must_use]
    pub fn pod_spec(json: Json) -> Self {
        Self { json: Arc::new(json), of: "PodSpec" }
    }

    /// The `spec` of a node.
    #[must_use]
    pub fn node_spec(json: Json) -> Self {
        Self { json: Arc::new(json), of: "NodeSpec" }
    }

    /// A text at the top of the JSON.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.json.get(key).and_then(Json::as_str)
    }

    pub(super) fn into_value(self) -> Value {
        Value::Function(Arc::new(move |names| self.field(name_in(names)?)))
    }

    fn field(&self, name: &str) -> gotmpl::Result<Value> {
        let getter = name.strip_prefix("Get").filter(|_| self.of == "ObjectMeta");
        let found = go_types::field(self.of, name)
            .or_else(|| getter.and_then(|name| go_types::field(self.of, name)))
            .ok_or_else(|| failure(format!("can't evaluate field {name} in type v1.{}", self.of)))?;
        if found.key == EMBEDDED {
            return Ok(Self { json: self.json.clone(), of: found.kind }.into_value());
        }
        Ok(convert(self.json.get(found.key).filter(|json| !json.is_null()), found.kind))
    }
}

/// The value `.` at the top.
pub(super) fn root(fields: Vec<(&'static str, Value)>) -> Value {
    Value::Function(Arc::new(move |names| {
        let name = name_in(names)?;
        let mut found = fields.iter().filter(|(known, _)| *known == name);
        let unknown = || failure(format!("can't evaluate field {name} in the data of a template"));
        found.next().map(|(_, value)| value.clone()).ok_or_else(unknown)
    }))
}

/// Follows the names, all arguments but the last, from the last.
pub(super) fn field(arguments: &[Value]) -> gotmpl::Result<Value> {
    let Some((start, names)) = arguments.split_last() else {
        return Err(failure("no value to take a field of".to_owned()));
    };
    names.iter().try_fold(start.clone(), |value, name| match (&value, name) {
        (Value::Function(fields), name) => fields(std::slice::from_ref(name)),
        (Value::Map(map), Value::String(name)) => Ok(map.get(name).cloned().unwrap_or(Value::Nil)),
        (Value::Nil, name) => Err(failure(format!("nil pointer evaluating {name}"))),
        (value, name) => Err(failure(format!("can't evaluate field {name} in type {}", value.type_name()))),
    })
}

/// `index` of Go: what a map of texts does not have is the empty text.
pub(super) fn index(arguments: &[Value]) -> gotmpl::Result<Value> {
    let Some((start, keys)) = arguments.split_first() else {
        return Err(failure("wrong number of args for index: want at least 1 got 0".to_owned()));
    };
    keys.iter().try_fold(start.clone(), |value, key| match (&value, key) {
        (Value::Map(map), Value::String(key)) => {
            Ok(map.get(key).cloned().unwrap_or_else(|| Value::String("".into())))
        }
        (Value::Function(_), _) => Err(failure("can't index item of type struct".to_owned())),
        _ => value.index(key),
    })
}

fn convert(json: Option<&Json>, kind: &'static str) -> Value {
    let (first, rest) = kind.split_at(1);
    match (first, rest) {
        ("*", kind) => json.map_or(Value::Nil, |json| convert(Some(json), kind)),
        ("[", kind) => {
            let items = json.and_then(Json::as_array).into_iter().flatten();
            Value::List(items.map(|item| convert(Some(item), kind)).collect())
        }
        ("m", kind) => {
            let entries = json.and_then(Json::as_object).into_iter().flatten();
            Value::Map(Arc::new(
                entries.map(|(key, value)| (key.as_str().into(), convert(Some(value), kind))).collect(),
            ))
        }
        ("i", "") => Value::Int(json.and_then(Json::as_i64).unwrap_or_default()),
        ("b", "") => Value::Bool(json.and_then(Json::as_bool).unwrap_or_default()),
        ("t", "") => Value::String(time(json).into()),
        ("s" | "q" | "x" | "o", "") => match json {
            None => Value::String("".into()),
            Some(Json::String(text)) => Value::String(text.as_str().into()),
            Some(Json::Number(number)) if number.is_i64() => Value::Int(number.as_i64().unwrap_or_default()),
            Some(other) => Value::String(other.to_string().into()),
        },
        _ => Object { json: Arc::new(json.cloned().unwrap_or_default()), of: kind }.into_value(),
    }
}

/// As Go prints a `time.Time` in UTC.
fn time(json: Option<&Json>) -> String {
    let parsed = json.and_then(Json::as_str).and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    let time = parsed.unwrap_or(datetime!(0001-01-01 00:00 UTC));
    let layout = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
    time.to_offset(time::UtcOffset::UTC).format(&layout).unwrap_or_default()
}

fn name_in(arguments: &[Value]) -> gotmpl::Result<&str> {
    match arguments {
        [Value::String(name)] => Ok(name),
        _ => Err(failure("a struct is no function".to_owned())),
    }
}

fn failure(message: String) -> TemplateError {
    TemplateError::Exec(message)
}
