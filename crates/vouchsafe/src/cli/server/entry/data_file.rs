//! The JSON files of `entry create -data`, `entry update -data` and `entry delete -file`.
//!
//! Their shape is SPIRE's older `common.RegistrationEntries`, read as Go's `encoding/json` reads it: keys in any case,
//! what is unknown is ignored, null is absent.

use anyhow::{Context, bail};
use vouchsafe_proto::spire::api::types::{self, entry::AdditionalAttributes};
use vouchsafe_types::TrustDomain;

use super::super::json_file::{self, Object};
use super::super::parse_id;
use crate::console::Console;

/// The entries of a file, or of standard input if the path is `-`.
pub(super) fn entries(path: &str, console: &mut Console<'_>) -> anyhow::Result<Vec<types::Entry>> {
    let document = json_file::read(path, console)?;
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
    let document = json_file::read(path, console)?;
    Object::new(&document, path)?.texts("ids")
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
