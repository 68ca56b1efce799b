//! An entry as SPIRE prints it.

use std::fmt::Write;

use vouchsafe_proto::spire::api::types::Entry;

use super::super::id_text;
use crate::go;

/// The entry, one line a value, and an empty line.
pub(super) fn render(entry: &Entry) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{label:<24}: {value}");
    };
    line("Entry ID", if entry.id.is_empty() { &"(none)" } else { &entry.id });
    line("SPIFFE ID", &id_text(entry.spiffe_id.as_ref()));
    line("Parent ID", &id_text(entry.parent_id.as_ref()));
    line("Revision", &entry.revision_number);
    if entry.downstream {
        line("Downstream", &true);
    }
    for (label, ttl) in [("X509-SVID TTL", &entry.x509_svid_ttl), ("JWT-SVID TTL", &entry.jwt_svid_ttl)] {
        line(label, if *ttl == 0 { &"default" } else { ttl });
    }
    if entry.expires_at != 0 {
        line("Expiration time", &go::time_string(entry.expires_at));
    }
    for selector in &entry.selectors {
        line("Selector", &format_args!("{}:{}", selector.r#type, selector.value));
    }
    for trust_domain in &entry.federates_with {
        line("FederatesWith", trust_domain);
    }
    for name in &entry.dns_names {
        line("DNS name", name);
    }
    if entry.admin {
        line("Admin", &true);
    }
    if entry.store_svid {
        line("StoreSvid", &true);
    }
    if !entry.hint.is_empty() {
        line("Hint", &entry.hint);
    }
    if entry.additional_attributes.as_ref().is_some_and(|attributes| attributes.disable_x509_svid_prefetch) {
        line("DisableX509SvidPrefetch", &true);
    }
    if entry.additional_attributes.as_ref().is_some_and(|attributes| attributes.jwt_svid_include_jti) {
        line("JwtSvidIncludeJti", &true);
    }
    text.push('\n');
    text
}
