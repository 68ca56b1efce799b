//! One log line.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::Value;

use crate::config::LogFormat;
use crate::go;

/// Fields in order of their names, and the message among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    values: BTreeMap<String, Value>,
}

impl Fields {
    pub(super) fn set(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }

    pub(super) fn set_text(&mut self, name: &str, text: String) {
        self.set(name, Value::String(text));
    }

    pub(super) fn extend(&mut self, other: &Self) {
        for (name, value) in &other.values {
            self.set(name, value.clone());
        }
    }

    pub(super) fn take_message(&mut self) -> String {
        match self.values.remove("message") {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }
}

pub(super) struct Line {
    pub(super) time: SystemTime,
    pub(super) level: &'static str,
    pub(super) message: String,
    pub(super) fields: Fields,
}

impl Line {
    /// The line with its line feed.
    pub(super) fn render(self, format: LogFormat) -> String {
        let since = self.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let time = match format {
            LogFormat::Default => go::rfc3339(seconds),
            LogFormat::Text | LogFormat::Json => go::rfc3339_nanos(seconds, since.subsec_nanos()),
        };
        let own = [("level", self.level.to_owned()), ("msg", self.message), ("time", time)];
        let own = own.map(|(name, text)| (name.to_owned(), Value::String(text)));
        let fields = self.fields.values.into_iter().map(|(name, value)| {
            let clash = own.iter().any(|(taken, _)| *taken == name);
            (if clash { format!("fields.{name}") } else { name }, value)
        });
        let fields: BTreeMap<String, Value> = fields.collect();
        if format == LogFormat::Json {
            let object: serde_json::Map<_, _> = own.into_iter().chain(fields).collect();
            return go::to_json(&Value::Object(object)) + "\n";
        }
        let [level, message, time] = own;
        let mut line = String::new();
        for (name, value) in
            [(time.0, time.1), (level.0, level.1), (message.0, message.1)].into_iter().chain(fields)
        {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&name);
            line.push('=');
            append_value(&mut line, &value);
        }
        line.push('\n');
        line
    }
}

fn append_value(line: &mut String, value: &Value) {
    match value {
        Value::String(text) if is_plain(text) => line.push_str(text),
        Value::String(text) => line.push_str(&go::quote(text)),
        other => line.push_str(&other.to_string()),
    }
}

/// Whether a value stands without quotes.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'/' | b'@' | b'^' | b'+'))
}
