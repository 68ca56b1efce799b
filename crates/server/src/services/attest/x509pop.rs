//! `x509pop`: a node proves itself with a certificate and its key.
//!
//! The certificate is one of a PKI that the operator has (`external_pki`), or an X.509-SVID of this trust domain whose path
//! begins with a prefix (`spiffe`). What is read, decided and answered, with which code and text, is as SPIRE's
//! built-in plugin has it; a node can attest again whenever it likes.

mod certificate;
mod proof;
pub(crate) mod template;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::UnixTime;
use serde::Deserialize;
use tonic::{Code, Status};
use tracing::warn;
use vouchsafe_ca::public_key::{Kind, PublicKey};
use vouchsafe_identity::path::Authorities;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::certificate::MAX_CERTIFICATE_BYTES;
use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::{Attested, Exchange};
use crate::config::admission::{X509Pop as Settings, X509PopMode};
use crate::model::ReadModel;
use certificate::{Leaf, fingerprint};
use template::Facts;

/// The name that agents and configurations have for it.
pub(crate) const NAME: &str = "x509pop";

/// Attests by certificate.
pub(crate) struct X509Pop {
    pub(crate) settings: Settings,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) clock: Clock,
    pub(crate) model: Arc<ReadModel>,
}

#[derive(Debug, Deserialize)]
struct Payload {
    #[serde(default)]
    certificates: Option<Vec<Option<String>>>,
}

impl X509Pop {
    pub(super) async fn attest(
        &self,
        payload: &[u8],
        client: Option<IpAddr>,
        exchange: &mut Exchange,
    ) -> Result<Attested, Status> {
        let chain = self.chain(payload)?;
        let leaf = self.leaf(&chain)?;
        let issuers = self.authorities()?.issuers_of(&chain, self.now()).map_err(|cause| {
            refused(Code::PermissionDenied, format!("certificate verification failed: {cause}"))
        })?;
        self.check_address(&leaf, client)?;
        let key = self.provable(&leaf)?;
        let mut nonce = [0; proof::NONCE];
        rand::fill(&mut nonce)
            .map_err(|_| refused(Code::Internal, "unable to generate challenge: no randomness".into()))?;
        let challenge = serde_json::to_vec(&proof::Challenge::new(key.kind(), &nonce))
            .map_err(|cause| refused(Code::Internal, format!("unable to marshal challenge: {cause}")))?;
        let response = exchange.challenge(challenge).await?;
        let response: proof::Response = serde_json::from_slice(&response).map_err(|cause| {
            refused(Code::InvalidArgument, format!("unable to unmarshal challenge response: {cause}"))
        })?;
        proof::verify(&key, &nonce, &response).map_err(|why| {
            refused(Code::PermissionDenied, format!("challenge response verification failed: {why}"))
        })?;
        self.attested(&leaf, &issuers)
    }

    /// The certificates that the node presents, leaf first.
    fn chain(&self, payload: &[u8]) -> Result<Vec<Arc<[u8]>>, Status> {
        let invalid = |text: String| refused(Code::InvalidArgument, text);
        let payload: Payload = serde_json::from_slice(payload)
            .map_err(|cause| invalid(format!("failed to unmarshal data: {cause}")))?;
        let certificates = payload.certificates.unwrap_or_default();
        if certificates.is_empty() {
            return Err(invalid("no certificate to attest".into()));
        }
        if certificates.len() - 1 > self.settings.max_intermediates {
            return Err(invalid("too many intermediate certificates".into()));
        }
        let decode = |text: Option<String>| {
            let der = STANDARD.decode(text.unwrap_or_default()).map_err(|cause| cause.to_string())?;
            let fits = der.len() <= MAX_CERTIFICATE_BYTES;
            fits.then(|| Arc::from(der)).ok_or_else(|| "a certificate is too long".to_owned())
        };
        let decoded: Result<Vec<_>, String> = certificates.into_iter().map(decode).collect();
        decoded.map_err(|cause| invalid(format!("failed to unmarshal data: {cause}")))
    }

    /// Reads the leaf, and checks that no key of the chain is larger than is allowed.
    fn leaf(&self, chain: &[Arc<[u8]>]) -> Result<Leaf, Status> {
        let invalid = |text: String| refused(Code::InvalidArgument, text);
        let most = self.settings.max_rsa_key_bits;
        let leaf = Leaf::parse(&chain[0])
            .map_err(|cause| invalid(format!("unable to parse leaf certificate: {cause}")))?;
        if leaf.rsa_bits.is_some_and(|bits| bits > most) {
            return Err(invalid("leaf certificate key size too large".into()));
        }
        for (index, der) in chain[1..].iter().enumerate() {
            let bits = certificate::rsa_bits_of(der).map_err(|cause| {
                invalid(format!("unable to parse intermediate certificate {index}: {cause}"))
            })?;
            if bits.is_some_and(|bits| bits > most) {
                return Err(invalid(format!("intermediate certificate {index} key size too large")));
            }
        }
        Ok(leaf)
    }

    fn authorities(&self) -> Result<Authorities, Status> {
        match &self.settings.mode {
            X509PopMode::ExternalPki(authorities) => Ok(authorities.clone()),
            X509PopMode::Spiffe(_) => {
                let bundle = self.model.load().bundles.get(&self.trust_domain).cloned();
                let bundle = bundle.ok_or_else(|| {
                    refused(Code::Internal, "failed to get trust bundle: there is none yet".into())
                })?;
                Ok(Authorities::new(bundle.x509_authorities.iter().map(|authority| authority.der.clone())))
            }
        }
    }

    fn check_address(&self, leaf: &Leaf, client: Option<IpAddr>) -> Result<(), Status> {
        if !self.settings.verify_client_ip {
            return Ok(());
        }
        let client = client
            .map(|address| address.to_canonical())
            .ok_or_else(|| refused(Code::Internal, "client IP not available for verification".into()))?;
        if leaf.addresses.contains(&client) {
            return Ok(());
        }
        Err(refused(
            Code::PermissionDenied,
            format!("client IP {client} does not match any certificate IP SAN"),
        ))
    }

    /// The key whose possession can be proved.
    fn provable<'a>(&self, leaf: &'a Leaf) -> Result<PublicKey<'a>, Status> {
        let unable = |why: String| refused(Code::Internal, format!("unable to generate challenge: {why}"));
        if !leaf.signs {
            return Err(unable("certificate not intended for digital signature use".into()));
        }
        let key = PublicKey::parse(&leaf.public_key_der)
            .map_err(|cause| unable(format!("unsupported public key type: {cause}")))?;
        match key.kind() {
            Kind::Rsa(_) | Kind::P256 | Kind::P384 | Kind::P521 => Ok(key),
        }
    }

    /// Who the node is, once everything is proved.
    fn attested(&self, leaf: &Leaf, issuers: &[Arc<[u8]>]) -> Result<Attested, Status> {
        let sans = self.san_selectors(leaf);
        let internal = |cause: &dyn std::fmt::Display| {
            refused(Code::Internal, format!("failed to make spiffe id: {cause}"))
        };
        let facts = Facts {
            fingerprint: leaf.fingerprint.clone(),
            serial_number: leaf.serial.clone(),
            serial_number_hex: leaf.serial_hex.clone(),
            trust_domain: self.trust_domain.to_string(),
            svid_path_trimmed: self.svid_path(leaf)?,
            subject_common_name: leaf.common_name.clone(),
            subject_serial_number: leaf.subject_serial_number.clone(),
            issuer_common_name: leaf.issuer_common_name.clone(),
            uri_san_selectors: sans.clone(),
        };
        let path = self.settings.agent_path.render(&facts).map_err(|cause| internal(&cause))?;
        let id = SpiffeId::new(&self.trust_domain, &format!("/spire/agent{path}"));
        let id = id.map_err(|cause| internal(&cause))?;
        let selectors = selector_values(leaf, issuers, &sans)
            .iter()
            .map(|value| Selector::new(NAME, value))
            .collect::<Result<SelectorSet, _>>()
            .map_err(|cause| internal(&cause))?;
        Ok(Attested { id, selectors, can_reattest: true, token: None })
    }

    /// The path of the SVID after the prefix; empty for certificates of another PKI.
    fn svid_path(&self, leaf: &Leaf) -> Result<String, Status> {
        let X509PopMode::Spiffe(prefix) = &self.settings.mode else { return Ok(String::new()) };
        let denied = |text: &str| refused(Code::PermissionDenied, text.to_owned());
        let uri = leaf.uris.iter().find(|uri| uri.starts_with("spiffe://"));
        // An authority of ours may be one of a larger PKI, which certifies members of other trust domains too.
        let id =
            uri.and_then(|uri| SpiffeId::parse(uri).ok()).filter(|id| id.is_member_of(&self.trust_domain));
        let id = id.ok_or_else(|| denied("valid SVID x509 cert not found"))?;
        let path = id.path().strip_prefix(prefix.as_str());
        Ok(path.ok_or_else(|| denied("x509 cert doesnt match SVID prefix"))?.to_owned())
    }

    /// `x509pop://<trust domain>/<key>/<value>` among the URIs of the certificate.
    fn san_selectors(&self, leaf: &Leaf) -> BTreeMap<String, String> {
        let prefix = format!("x509pop://{}/", self.trust_domain);
        let mut found = BTreeMap::new();
        for uri in &leaf.uris {
            let Some(path) = uri.strip_prefix(&prefix) else { continue };
            let path = path.split(['?', '#']).next().unwrap_or_default();
            match path.trim_matches('/').split_once('/') {
                Some((key, value)) => drop(found.insert(key.to_owned(), value.to_owned())),
                None => warn!(uri, "Cannot extract x509pop SAN selectors from a URI"),
            }
        }
        found
    }

    fn now(&self) -> UnixTime {
        let since = self.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        UnixTime::since_unix_epoch(since)
    }
}

fn selector_values(leaf: &Leaf, issuers: &[Arc<[u8]>], sans: &BTreeMap<String, String>) -> Vec<String> {
    let subject = (!leaf.common_name.is_empty()).then(|| format!("subject:cn:{}", leaf.common_name));
    let issuers = issuers.iter().map(|der| format!("ca:fingerprint:{}", fingerprint(der)));
    let serial = format!("serialnumber:{}", leaf.serial_hex);
    let sans = sans.iter().map(|(key, value)| format!("san:{key}:{value}"));
    subject.into_iter().chain(issuers).chain([serial]).chain(sans).collect()
}

/// A refusal, in the words of SPIRE's plugin.
fn refused(code: Code, text: String) -> Status {
    Status::new(code, format!("nodeattestor({NAME}): {text}"))
}
