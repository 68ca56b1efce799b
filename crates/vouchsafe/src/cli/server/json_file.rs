//! Files that commands read: registrations, federation relationships, bundles.
//!
//! JSON is read as Go's `encoding/json` reads it: keys in any case, what is unknown is ignored, null is absent.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde_json::{Map, Value};

use crate::console::Console;
use crate::go;

/// The largest file that is read. A larger one is refused.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The JSON of a file, or of standard input if the path is `-`.
pub(super) fn read(path: &str, console: &mut Console<'_>) -> anyhow::Result<Value> {
    let bytes = read_bytes((path != "-").then_some(path), console)?;
    serde_json::from_slice(&bytes).with_context(|| format!("{path} is not JSON"))
}

/// The bytes of a file, or of standard input without a path.
pub(super) fn read_bytes(path: Option<&str>, console: &mut Console<'_>) -> anyhow::Result<Vec<u8>> {
    let Some(path) = path else { return Ok(console.read_input(MAX_FILE_BYTES)?) };
    let failed =
        |operation| move |error: std::io::Error| anyhow!(go::file_error(operation, Path::new(path), &error));
    let file = File::open(path).map_err(failed("open"))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed("read"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        bail!("{path} has more than {MAX_FILE_BYTES} bytes");
    }
    Ok(bytes)
}

/// A JSON object whose keys match in any case.
pub(super) struct Object<'a>(&'a Map<String, Value>);

impl<'a> Object<'a> {
    pub(super) fn new(value: &'a Value, place: &str) -> anyhow::Result<Self> {
        value.as_object().map(Self).ok_or_else(|| anyhow!("{place} must be an object"))
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        let exact = self.0.get(key);
        let found =
            exact.or_else(|| self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, v)| v));
        found.filter(|value| !value.is_null())
    }

    pub(super) fn list(&self, key: &str) -> anyhow::Result<&'a [Value]> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => bail!("{key} must be a list"),
        }
    }

    pub(super) fn text(&self, key: &str) -> anyhow::Result<String> {
        match self.get(key) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => bail!("{key} must be a string"),
        }
    }

    pub(super) fn texts(&self, key: &str) -> anyhow::Result<Vec<String>> {
        let texts = self.list(key)?.iter().map(|value| value.as_str().map(str::to_owned));
        texts.map(|text| text.ok_or_else(|| anyhow!("{key} must be a list of strings"))).collect()
    }

    pub(super) fn flag(&self, key: &str) -> anyhow::Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => bail!("{key} must be true or false"),
        }
    }

    pub(super) fn integer(&self, key: &str) -> anyhow::Result<i64> {
        match self.get(key) {
            None => Ok(0),
            Some(value) => value.as_i64().ok_or_else(|| anyhow!("{key} must be a whole number")),
        }
    }

    pub(super) fn integer32(&self, key: &str) -> anyhow::Result<i32> {
        i32::try_from(self.integer(key)?).map_err(|_| anyhow!("{key} is out of range"))
    }
}
