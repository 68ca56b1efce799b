//! `-output pretty|json`.

use std::io;

use clap::Args;
use serde_json::Value;

use crate::console::Console;
use crate::go;

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// For people.
    Pretty,
    /// For programs: the message of the API as JSON.
    Json,
}

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct OutputArgs {
    /// Desired output format: pretty or json
    #[arg(long = "output", value_name = "format", default_value = "pretty", value_parser = parse_format)]
    pub(super) output: Format,
}

pub(super) fn parse_format(text: &str) -> Result<Format, String> {
    match text.to_ascii_lowercase().as_str() {
        "json" => Ok(Format::Json),
        "pretty" | "prettyprint" => Ok(Format::Pretty),
        _ => Err(format!("bad formatter flag: unknown format option: {}", go::quote(text))),
    }
}

impl OutputArgs {
    /// Prints a result: as JSON, or as `pretty` does.
    pub(super) fn print(
        self,
        console: &mut Console<'_>,
        json: impl FnOnce() -> Value,
        pretty: impl FnOnce(&mut Console<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match self.output {
            Format::Json => Ok(print_json(console, vec![json()])?),
            Format::Pretty => pretty(console),
        }
    }
}

/// Prints one message as an object, or several as an array, without absent fields.
pub(super) fn print_json(console: &mut Console<'_>, messages: Vec<Value>) -> io::Result<()> {
    let mut messages: Vec<Value> = messages.into_iter().map(without_nulls).collect();
    let printed = match messages.len() {
        1 => messages.remove(0),
        _ => Value::Array(messages),
    };
    writeln!(console.stdout, "{}", go::to_json(&printed))
}

/// Prints what is no message of an API: its keys stay in their order. None of the texts may need an escape of Go's.
pub(super) fn print_struct(console: &mut Console<'_>, value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(writeln!(console.stdout, "{}", serde_json::to_string(value)?)?)
}

/// The same value without the keys and elements that are null, at every depth.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(values) => {
            Value::Array(values.into_iter().filter(|value| !value.is_null()).map(without_nulls).collect())
        }
        other => other,
    }
}

/// `1 entry`, `2 entries`.
pub(super) fn counted(count: usize, before: &str, one: &str, many: &str) -> String {
    format!("{count} {before}{}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nulls_disappear_from_objects_and_lists_at_every_depth() {
        let value = json!({"a": null, "b": [null, {"c": null, "d": 0}, [null]], "e": ""});
        assert_eq!(without_nulls(value), json!({"b": [{"d": 0}, []], "e": ""}));
    }
}
