//! One SVID: what is sent for it, and whether what comes back is it.

use std::sync::Arc;

use bytes::Bytes;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::x509::csr::{CsrTemplate, create_csr_local};
use vouchsafe_ca::x509::subject::Subject;
use vouchsafe_proto::spire::api::types;
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::x509_svid::X509Svid;
use zeroize::Zeroizing;

use super::plan::Ask;
use crate::entries::EntrySlot;
use crate::identities::{HeldSvid, secret_bytes};
use crate::rotation::Policy;
use crate::taint;

/// A key and the request for its certificate.
pub(super) struct Ready {
    pub(super) slot: Arc<EntrySlot>,
    key: Zeroizing<Vec<u8>>,
    public_key: Vec<u8>,
    pub(super) csr: Vec<u8>,
}

/// Makes a key and a request for each. Takes the processor for tens of microseconds each (EC) or far longer (RSA).
pub(super) fn prepare(asks: Vec<Ask>, key_type: KeyType) -> Result<Vec<Ready>, String> {
    let subject = Subject::svid_default();
    let ready = |ask: Ask| {
        let key = PrivateKey::generate(key_type).map_err(|error| error.to_string())?;
        let uri = Some(&ask.slot.entry.spiffe_id);
        let template = CsrTemplate { subject: &subject, uri, dns_names: &[] };
        let csr = create_csr_local(&key, &template).map_err(|error| error.to_string())?;
        let public_key = vouchsafe_ca::signer::Signer::public_key_der(&key).to_vec();
        let key = key.pkcs8().map_err(|error| error.to_string())?;
        Ok(Ready { slot: ask.slot, key, public_key, csr })
    };
    asks.into_iter().map(ready).collect()
}

/// Checks that what the server issued is what was asked for.
pub(super) fn accept(
    ready: Ready,
    svid: &types::X509svid,
    now: i64,
    (place, policy): (&str, Policy),
) -> Result<HeldSvid, String> {
    let chain = svid.cert_chain.iter().map(|der| Arc::from(der.as_ref())).collect();
    let svid = X509Svid::parse(chain).map_err(|error| error.to_string())?;
    let leaf = Certificate::parse(&svid.chain[0]).map_err(|error| error.to_string())?;
    let entry = &ready.slot.entry;
    if svid.id != entry.spiffe_id {
        return Err(format!("the certificate is for {} and not for {}", svid.id, entry.spiffe_id));
    }
    if leaf.public_key_der != ready.public_key {
        return Err("the certificate is for another key".to_owned());
    }
    let key = format!("{place}\n{}", entry.id);
    if policy.falls_back(svid.not_before, svid.not_after) {
        tracing::warn!(spiffe_id = %svid.id, entry_id = %entry.id, "X509 SVID lifetime isn't long enough to guarantee the availability_target, falling back to the default rotation strategy");
    }
    Ok(HeldSvid {
        issued_for: (entry.revision_number, entry.created_at),
        chain: Bytes::from(svid.concatenated()),
        key: secret_bytes(ready.key),
        lifetime: policy.lifetime((svid.not_before, svid.not_after), now, key.as_bytes()),
        authority_key_id: taint::root_key_id(&svid.chain),
        spiffe_id: svid.id,
    })
}
