//! What was signed by an authority that the operator declared tainted.

use vouchsafe_types::bundle::Bundle;

use crate::bundles::Bundles;

/// Key identifiers of the tainted JWT authorities of the own trust domain.
#[must_use]
pub fn jwt_keys(bundles: Option<&Bundles>) -> Vec<&str> {
    let authorities = bundles.into_iter().flat_map(|bundles| &bundles.own.bundle.jwt_authorities);
    authorities.filter(|authority| authority.tainted).map(|authority| authority.key_id.as_str()).collect()
}

/// Subject key identifiers of the tainted X.509 authorities of a bundle.
#[must_use]
pub fn x509_authorities(bundle: &Bundle) -> Vec<Box<[u8]>> {
    let tainted = bundle.x509_authorities.iter().filter(|authority| authority.tainted);
    tainted
        .filter_map(|authority| authority.parsed().ok())
        .map(|parsed| parsed.subject_key_id.into())
        .collect()
}
