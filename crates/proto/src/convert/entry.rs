//! Registration entries.

use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::selector::SelectorSet;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::ConvertError;
use super::identity::{selector_to_proto, selectors_from_proto, spiffe_id_from_proto, spiffe_id_to_proto};
use crate::spire::api::types;

/// An entry, reduced to the fields of `mask`.
#[must_use]
pub fn entry_to_proto(entry: &Entry, mask: Option<&types::EntryMask>) -> types::Entry {
    let wants = |field: fn(&types::EntryMask) -> bool| mask.is_none_or(field);
    let mut message = types::Entry { id: entry.id.to_string(), ..types::Entry::default() };
    if wants(|m| m.spiffe_id) {
        message.spiffe_id = Some(spiffe_id_to_proto(&entry.spiffe_id));
    }
    if wants(|m| m.parent_id) {
        message.parent_id = Some(spiffe_id_to_proto(&entry.parent_id));
    }
    if wants(|m| m.selectors) {
        message.selectors = entry.selectors.iter().map(selector_to_proto).collect();
    }
    if wants(|m| m.x509_svid_ttl) {
        message.x509_svid_ttl = ttl_to_proto(entry.x509_svid_ttl);
    }
    if wants(|m| m.jwt_svid_ttl) {
        message.jwt_svid_ttl = ttl_to_proto(entry.jwt_svid_ttl);
    }
    if wants(|m| m.federates_with) {
        message.federates_with = entry.federates_with.iter().map(|td| td.as_str().to_owned()).collect();
    }
    message.admin = wants(|m| m.admin) && entry.admin;
    message.downstream = wants(|m| m.downstream) && entry.downstream;
    message.store_svid = wants(|m| m.store_svid) && entry.store_svid;
    if wants(|m| m.expires_at) {
        message.expires_at = entry.expires_at;
    }
    if wants(|m| m.dns_names) {
        message.dns_names.clone_from(&entry.dns_names);
    }
    if wants(|m| m.revision_number) {
        message.revision_number = entry.revision_number;
    }
    if wants(|m| m.hint) {
        message.hint.clone_from(&entry.hint);
    }
    if wants(|m| m.created_at) {
        message.created_at = entry.created_at;
    }
    if wants(|m| m.additional_attributes) && (entry.disable_x509_svid_prefetch || entry.jwt_svid_include_jti)
    {
        message.additional_attributes = Some(types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
            jwt_svid_include_jti: entry.jwt_svid_include_jti,
        });
    }
    message
}

/// A complete entry, as a create request or another server's answer carries it. The caller checks it against its
/// trust domain ([`Entry::validate`]).
///
/// # Errors
///
/// What is missing, malformed or there twice, by field.
pub fn entry_from_proto(message: &types::Entry) -> Result<Entry, ConvertError> {
    let patch = entry_patch_from_proto(message, None)?;
    let (Some(spiffe_id), Some(parent_id)) = (patch.spiffe_id.clone(), patch.parent_id.clone()) else {
        return Err(ConvertError::MissingSpiffeId);
    };
    let id = EntryId::parse(&message.id).map_err(|e| ConvertError::field("entry ID", e))?;
    let mut entry = Entry::new(id, spiffe_id, parent_id, SelectorSet::default());
    (entry.revision_number, entry.created_at) = (message.revision_number, message.created_at);
    patch.apply(&mut entry);
    Ok(entry)
}

/// The fields of an entry that an update sets. A field that is `None` stays as it is.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the fields are those of Entry")]
pub struct EntryPatch {
    pub spiffe_id: Option<SpiffeId>,
    pub parent_id: Option<SpiffeId>,
    pub selectors: Option<SelectorSet>,
    pub x509_svid_ttl: Option<u32>,
    pub jwt_svid_ttl: Option<u32>,
    pub federates_with: Option<Vec<TrustDomain>>,
    pub admin: Option<bool>,
    pub downstream: Option<bool>,
    pub store_svid: Option<bool>,
    pub expires_at: Option<i64>,
    pub dns_names: Option<Vec<String>>,
    pub hint: Option<String>,
    pub disable_x509_svid_prefetch: Option<bool>,
    pub jwt_svid_include_jti: Option<bool>,
}

impl EntryPatch {
    /// Sets the fields that the patch carries.
    pub fn apply(self, entry: &mut Entry) {
        set(&mut entry.spiffe_id, self.spiffe_id);
        set(&mut entry.parent_id, self.parent_id);
        set(&mut entry.selectors, self.selectors);
        set(&mut entry.x509_svid_ttl, self.x509_svid_ttl);
        set(&mut entry.jwt_svid_ttl, self.jwt_svid_ttl);
        set(&mut entry.federates_with, self.federates_with);
        set(&mut entry.admin, self.admin);
        set(&mut entry.downstream, self.downstream);
        set(&mut entry.store_svid, self.store_svid);
        set(&mut entry.expires_at, self.expires_at);
        set(&mut entry.dns_names, self.dns_names);
        set(&mut entry.hint, self.hint);
        set(&mut entry.disable_x509_svid_prefetch, self.disable_x509_svid_prefetch);
        set(&mut entry.jwt_svid_include_jti, self.jwt_svid_include_jti);
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// The fields of `message` that `mask` names; an absent mask names all.
///
/// # Errors
///
/// What is missing, malformed or there twice among them, by field.
pub fn entry_patch_from_proto(
    message: &types::Entry,
    mask: Option<&types::EntryMask>,
) -> Result<EntryPatch, ConvertError> {
    let wants = |field: fn(&types::EntryMask) -> bool| mask.is_none_or(field);
    let mut patch = EntryPatch::default();
    if wants(|m| m.parent_id) {
        let id = spiffe_id_from_proto(message.parent_id.as_ref());
        patch.parent_id = Some(id.map_err(|e| ConvertError::field("parent ID", e))?);
    }
    if wants(|m| m.spiffe_id) {
        let id = spiffe_id_from_proto(message.spiffe_id.as_ref());
        patch.spiffe_id = Some(id.map_err(|e| ConvertError::field("spiffe ID", e))?);
    }
    if wants(|m| m.selectors) {
        if message.selectors.is_empty() {
            return Err(ConvertError::NoSelectors);
        }
        patch.selectors = Some(selectors_from_proto(&message.selectors)?);
    }
    if wants(|m| m.x509_svid_ttl) {
        patch.x509_svid_ttl = Some(ttl_from_proto("X509-SVID TTL", message.x509_svid_ttl)?);
    }
    if wants(|m| m.jwt_svid_ttl) {
        patch.jwt_svid_ttl = Some(ttl_from_proto("JWT-SVID TTL", message.jwt_svid_ttl)?);
    }
    if wants(|m| m.federates_with) {
        patch.federates_with = Some(trust_domains_from_proto(&message.federates_with)?);
    }
    if wants(|m| m.dns_names) {
        patch.dns_names = Some(unique("DNS name", &message.dns_names)?);
    }
    if wants(|m| m.expires_at) {
        if message.expires_at < 0 {
            return Err(ConvertError::Negative { field: "expiry", value: message.expires_at });
        }
        patch.expires_at = Some(message.expires_at);
    }
    patch.admin = wants(|m| m.admin).then_some(message.admin);
    patch.downstream = wants(|m| m.downstream).then_some(message.downstream);
    patch.store_svid = wants(|m| m.store_svid).then_some(message.store_svid);
    patch.hint = wants(|m| m.hint).then(|| message.hint.clone());
    if wants(|m| m.additional_attributes) {
        let attributes = message.additional_attributes.unwrap_or_default();
        patch.disable_x509_svid_prefetch = Some(attributes.disable_x509_svid_prefetch);
        patch.jwt_svid_include_jti = Some(attributes.jwt_svid_include_jti);
    }
    Ok(patch)
}

fn trust_domains_from_proto(names: &[String]) -> Result<Vec<TrustDomain>, ConvertError> {
    unique("federated trust domain", names)?
        .iter()
        .map(|name| TrustDomain::parse(name).map_err(|e| ConvertError::field("federated trust domain", e)))
        .collect()
}

fn unique(field: &'static str, values: &[String]) -> Result<Vec<String>, ConvertError> {
    for (at, value) in values.iter().enumerate() {
        if values[..at].contains(value) {
            return Err(ConvertError::Duplicate { field, value: value.clone() });
        }
    }
    Ok(values.to_vec())
}

fn ttl_from_proto(field: &'static str, seconds: i32) -> Result<u32, ConvertError> {
    u32::try_from(seconds).map_err(|_| ConvertError::Negative { field, value: seconds.into() })
}

fn ttl_to_proto(seconds: u32) -> i32 {
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(path: &str) -> Option<types::Spiffeid> {
        Some(types::Spiffeid { trust_domain: "example.org".into(), path: path.into() })
    }

    fn message() -> types::Entry {
        types::Entry {
            id: "e1".into(),
            spiffe_id: id("/workload"),
            parent_id: id("/agent"),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:1000".into() }],
            x509_svid_ttl: 60,
            jwt_svid_ttl: 30,
            federates_with: vec!["other.org".into()],
            admin: true,
            downstream: true,
            expires_at: 99,
            dns_names: vec!["db".into()],
            revision_number: 4,
            store_svid: false,
            hint: "internal".into(),
            created_at: 7,
            additional_attributes: Some(types::entry::AdditionalAttributes {
                disable_x509_svid_prefetch: true,
                jwt_svid_include_jti: true,
            }),
        }
    }

    #[test]
    fn an_entry_survives_the_round_trip() {
        assert_eq!(entry_to_proto(&entry_from_proto(&message()).unwrap(), None), message());
    }

    #[test]
    fn an_empty_mask_leaves_only_the_id() {
        let masked =
            entry_to_proto(&entry_from_proto(&message()).unwrap(), Some(&types::EntryMask::default()));
        assert_eq!(masked, types::Entry { id: "e1".into(), ..types::Entry::default() });
    }

    #[test]
    fn a_patch_touches_only_what_its_mask_names() {
        let mut entry = entry_from_proto(&message()).unwrap();
        let mask = types::EntryMask { hint: true, ..types::EntryMask::default() };
        let update = types::Entry { hint: "external".into(), ..types::Entry::default() };
        entry_patch_from_proto(&update, Some(&mask)).unwrap().apply(&mut entry);
        assert_eq!(entry_to_proto(&entry, None), types::Entry { hint: "external".into(), ..message() });
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: fn(&mut types::Entry), expected: &str| {
            let mut message = message();
            change(&mut message);
            assert_eq!(entry_from_proto(&message).unwrap_err().to_string(), expected);
        };
        check(|m| m.parent_id = None, "invalid parent ID: request must specify SPIFFE ID");
        check(|m| m.spiffe_id = None, "invalid spiffe ID: request must specify SPIFFE ID");
        check(|m| m.selectors.clear(), "selector list is empty");
        check(|m| m.selectors[0].r#type.clear(), "missing selector type");
        check(|m| m.selectors[0].value.clear(), "missing selector value");
        check(|m| m.selectors[0].r#type = "a:b".into(), "selector type contains ':'");
        check(
            |m| m.selectors = vec![m.selectors[0].clone(); 2],
            "duplicate selector \"unix:uid:1000\"; name it once",
        );
        check(|m| m.dns_names = vec!["db".into(); 2], "duplicate DNS name \"db\"; name it once");
        check(|m| m.x509_svid_ttl = -1, "X509-SVID TTL must not be negative (got -1)");
        check(|m| m.expires_at = -5, "expiry must not be negative (got -5)");
    }
}
