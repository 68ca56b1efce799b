//! The JSON files of `entry create -data`, `entry update -data` and `entry delete -file`.
//!
//! Their shape is SPIRE's older `common.RegistrationEntries`, read as Go's `encoding/json` reads it: keys in any case,
//! what is unknown is ignored, null is absent.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, anyhow, bail};
use serde_json::{Map, Value};
use vouchsafe_proto::spire::api::types::{self, entry::AdditionalAttributes};
use vouchsafe_types::TrustDomain;

use super::super::parse_id;
use crate::console::Console;

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The entries of a file, or of standard input if the path is `-`.
pub(super) fn entries(path: &str, console: &mut Console<'_>) -> anyhow::Result<Vec<types::Entry>> {
    let document = read(path, console)?;
    let document = Object::new(&document, path)?;
    let mut entries = Vec::new();
    for (index, value) in document.list("entries")?.iter().enumerate() {
        let place = format!("{path}: entry {}", index + 1);
        entries.push(entry(&Object::new(value, &place)?).with_context(|| place.clone())?);
    }
    if entries.is_empty() {
        bail!("{path} has no entries; it should look like {{\"entries\": [{{\"spiffe_id\": …}}]}}");
    }
    Ok(entries)
}

/// The ids of a deletion file, or of standard input if the path is `-`.
pub(super) fn ids(path: &str, console: &mut Console<'_>) -> anyhow::Result<Vec<String>> {
    let document = read(path, console)?;
    Object::new(&document, path)?.texts("ids")
}

fn read(path: &str, console: &mut Console<'_>) -> anyhow::Result<Value> {
    let bytes = if path == "-" {
        console.read_input(MAX_FILE_BYTES)?
    } else {
        let file = File::open(path).map_err(|error| anyhow!("open {path}: {}", without_code(&error)))?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("read {path}"))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            bail!("{path} has more than {MAX_FILE_BYTES} bytes");
        }
        bytes
    };
    serde_json::from_slice(&bytes).with_context(|| format!("{path} is not JSON"))
}

/// `No such file or directory (os error 2)` in the words of Go.
fn without_code(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text[..1].to_lowercase() + &text[1..]
}

fn entry(object: &Object<'_>) -> anyhow::Result<types::Entry> {
    let mut selectors = Vec::new();
    for value in object.list("selectors")? {
        let selector = Object::new(value, "selectors")?;
        selectors.push(types::Selector { r#type: selector.text("type")?, value: selector.text("value")? });
    }
    let mut federates_with = Vec::new();
    for text in object.texts("federates_with")? {
        let trust_domain = TrustDomain::parse(&text).context("invalid federated trust domain")?;
        federates_with.push(trust_domain.as_str().to_owned());
    }
    let additional_attributes = match object.get("additional_attributes") {
        None => None,
        Some(value) => {
            let attributes = Object::new(value, "additional_attributes")?;
            Some(AdditionalAttributes {
                disable_x509_svid_prefetch: attributes.flag("disable_x509_svid_prefetch")?,
                jwt_svid_include_jti: attributes.flag("jwt_svid_include_jti")?,
            })
        }
    };
    Ok(types::Entry {
        id: object.text("entry_id")?,
        spiffe_id: Some(parse_id(&object.text("spiffe_id")?).context("invalid SPIFFE ID")?),
        parent_id: Some(parse_id(&object.text("parent_id")?).context("invalid parent ID")?),
        selectors,
        x509_svid_ttl: object.integer32("x509_svid_ttl")?,
        jwt_svid_ttl: object.integer32("jwt_svid_ttl")?,
        federates_with,
        admin: object.flag("admin")?,
        downstream: object.flag("downstream")?,
        expires_at: object.integer("entryExpiry")?,
        dns_names: object.texts("dns_names")?,
        revision_number: object.integer("revision_number")?,
        store_svid: object.flag("store_svid")?,
        hint: object.text("hint")?,
        created_at: object.integer("created_at")?,
        additional_attributes,
    })
}

/// A JSON object whose keys match in any case.
struct Object<'a>(&'a Map<String, Value>);

impl<'a> Object<'a> {
    fn new(value: &'a Value, place: &str) -> anyhow::Result<Self> {
        value.as_object().map(Self).ok_or_else(|| anyhow!("{place} must be an object"))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        let exact = self.0.get(key);
        let found =
            exact.or_else(|| self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, v)| v));
        found.filter(|value| !value.is_null())
    }

    fn list(&self, key: &str) -> anyhow::Result<&'a [Value]> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => bail!("{key} must be a list"),
        }
    }

    fn text(&self, key: &str) -> anyhow::Result<String> {
        match self.get(key) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => bail!("{key} must be a string"),
        }
    }

    fn texts(&self, key: &str) -> anyhow::Result<Vec<String>> {
        let texts = self.list(key)?.iter().map(|value| value.as_str().map(str::to_owned));
        texts.map(|text| text.ok_or_else(|| anyhow!("{key} must be a list of strings"))).collect()
    }

    fn flag(&self, key: &str) -> anyhow::Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => bail!("{key} must be true or false"),
        }
    }

    fn integer(&self, key: &str) -> anyhow::Result<i64> {
        match self.get(key) {
            None => Ok(0),
            Some(value) => value.as_i64().ok_or_else(|| anyhow!("{key} must be a whole number")),
        }
    }

    fn integer32(&self, key: &str) -> anyhow::Result<i32> {
        i32::try_from(self.integer(key)?).map_err(|_| anyhow!("{key} is out of range"))
    }
}
