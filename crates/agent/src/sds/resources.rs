//! The secrets of an answer, encoded once for all streams that ask for the same of the same identities.
//!
//! Names are looked for in this order, and each is answered once:
//!
//! * the own trust domain's bundle: as `spiffe://<trust domain>`, else under the default bundle's name, else (all
//!   bundles) under the name for that. Of these three a request gets the first; asking for a second one is refused;
//! * each federated bundle as `spiffe://<trust domain>`;
//! * each identity by its SPIFFE ID, else the first one under the default SVID's name.
//!
//! That is what SPIRE does. A name that is left over refuses the whole request.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use prost::Message;
use prost_types::Any;
use tonic::Status;
use vouchsafe_proto::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use vouchsafe_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use vouchsafe_types::bundle::format;
use vouchsafe_types::{certificate, pem};
use zeroize::Zeroizing;

use super::asked::{Asked, Listed, Validator};
use crate::bundles::BundleView;
use crate::config::Sds;
use crate::identities::{HeldSvid, secret_bytes};
use crate::identity_set::IdentitySet;

/// Encoded secrets.
#[derive(Debug)]
pub struct Resources {
    /// Field `resources` of a `DiscoveryResponse`, as often as there are secrets. Wiped when the last user lets go.
    pub encoded: Bytes,
    /// How many secrets.
    pub count: usize,
    /// When the first certificate among them ends, Unix seconds.
    ends: i64,
}

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Names that are none of the caller's.
    #[error("workload is not authorized for the requested identities {}", Listed(.0))]
    Unauthorized(Vec<Box<str>>),
    /// All bundles at once need the validator.
    #[error("unable to use \"SPIFFE validator\" on Envoy below 1.17")]
    NeedsValidator,
    /// A certificate that was asked for is not issued yet.
    #[error("the X.509-SVID is not issued yet")]
    NotIssued,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Unauthorized(_) => Self::invalid_argument(text),
            Refusal::NeedsValidator => Self::internal(text),
            Refusal::NotIssued => Self::unavailable(text),
        }
    }
}

/// What is looked at for an answer.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The caller's identities and bundles.
    pub set: &'a IdentitySet,
    /// Names.
    pub config: &'a Sds,
    /// Unix seconds.
    pub now: i64,
    /// A request for everything does not wait for certificates that are not issued yet.
    pub partial: bool,
}

impl View<'_> {
    /// The secrets for `asked`; those that were made for somebody else who asked the same, if there are any.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn resources(&self, asked: &Asked) -> Result<Arc<Resources>, Refusal> {
        let shared = &self.set.sds;
        if let Some(held) = shared.find(asked, self.now) {
            return Ok(held);
        }
        let (resources, complete) = self.encode(asked)?;
        let resources = Arc::new(resources);
        if complete {
            shared.keep(asked, &resources);
        }
        Ok(resources)
    }

    fn encode(&self, asked: &Asked) -> Result<(Resources, bool), Refusal> {
        let mut out = Encoder::default();
        let mut rest: BTreeSet<&str> = asked.names.iter().map(AsRef::as_ref).collect();
        let all = rest.is_empty();
        if let Some(own) = self.set.own_bundle() {
            if all || rest.remove(own.id.as_str()) {
                out.secret(&own.id, context([own], asked.validator));
            } else if rest.remove(self.config.default_bundle_name.as_str()) {
                out.secret(&self.config.default_bundle_name, context([own], asked.validator));
            } else if rest.remove(self.config.default_all_bundles_name.as_str()) {
                if asked.validator == Validator::TrustedCa {
                    return Err(Refusal::NeedsValidator);
                }
                let context = context(self.set.bundles(), asked.validator);
                out.secret(&self.config.default_all_bundles_name, context);
            }
        }
        for view in self.set.federated_bundles() {
            if all || rest.remove(view.id.as_str()) {
                out.secret(&view.id, context([view], asked.validator));
            }
        }
        let mut missing = 0;
        for (place, member) in self.set.members.iter().enumerate() {
            let id = member.slot.entry.spiffe_id.as_str();
            let name = if all || rest.remove(id) {
                id
            } else if place == 0 && rest.remove(self.config.default_svid_name.as_str()) {
                &self.config.default_svid_name
            } else {
                continue;
            };
            // What is held was parsed when it came; a chain that is none counts as not issued.
            match member.usable(self.now).and_then(|svid| Some((svid, chain(svid)?))) {
                Some((svid, chain)) => out.certificate(name, svid, chain),
                None => missing += 1,
            }
        }
        if !rest.is_empty() {
            return Err(Refusal::Unauthorized(rest.into_iter().map(Box::from).collect()));
        }
        if missing > 0 && !(self.partial && all && missing < self.set.members.len()) {
            return Err(Refusal::NotIssued);
        }
        Ok((out.finish(), missing == 0))
    }
}

/// Answers that several streams may share. [`MAX_SHARED`] are kept for each set of identities; a further one is made
/// for its stream alone.
#[derive(Debug, Default)]
pub struct Shared {
    held: Mutex<Vec<(Asked, Arc<Resources>)>>,
}

impl Shared {
    fn find(&self, asked: &Asked, now: i64) -> Option<Arc<Resources>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, found) = held.iter().find(|(key, resources)| key == asked && now < resources.ends)?;
        Some(Arc::clone(found))
    }

    fn keep(&self, asked: &Asked, resources: &Arc<Resources>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(key, _)| key != asked);
        if held.len() < MAX_SHARED {
            held.push((asked.clone(), Arc::clone(resources)));
        }
    }
}

/// Different requests of the same identities whose answers are kept: one for each listener's certificate and each
/// validation context of a busy Envoy.
const MAX_SHARED: usize = 16;

/// Collects secrets.
struct Encoder {
    /// Each is wiped; nothing is copied before the whole size is known.
    secrets: Vec<Zeroizing<Vec<u8>>>,
    ends: i64,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { secrets: Vec::new(), ends: i64::MAX }
    }
}

impl Encoder {
    fn secret(&mut self, name: &str, kind: tls::secret::Type) {
        let secret = tls::Secret { name: name.to_owned(), r#type: Some(kind) };
        let any = Any { type_url: SECRET.to_owned(), value: secret.encode_to_vec() };
        let mut field =
            Zeroizing::new(Vec::with_capacity(prost::encoding::message::encoded_len(RESOURCES, &any)));
        prost::encoding::message::encode(RESOURCES, &any, &mut *field);
        drop(Zeroizing::new(any.value));
        self.secrets.push(field);
    }

    fn certificate(&mut self, name: &str, svid: &HeldSvid, chain: String) {
        // With room for all of it, so that growing leaves no copy behind.
        let mut key = String::with_capacity(2 * svid.key.len() + 128);
        pem::append(&mut key, PRIVATE_KEY, &svid.key);
        let key = secret_bytes(Zeroizing::new(key.into_bytes()));
        let certificate =
            tls::TlsCertificate { certificate_chain: source(chain.into()), private_key: source(key) };
        self.secret(name, tls::secret::Type::TlsCertificate(certificate));
        self.ends = self.ends.min(svid.lifetime.not_after);
    }

    fn finish(self) -> Resources {
        let mut encoded =
            Zeroizing::new(Vec::with_capacity(self.secrets.iter().map(|secret| secret.len()).sum()));
        self.secrets.iter().for_each(|secret| encoded.extend_from_slice(secret));
        Resources { encoded: secret_bytes(encoded), count: self.secrets.len(), ends: self.ends }
    }
}

fn context<'a>(
    bundles: impl IntoIterator<Item = &'a Arc<BundleView>>,
    validator: Validator,
) -> tls::secret::Type {
    let mut bundles = bundles.into_iter();
    let context = match validator {
        Validator::TrustedCa => tls::CertificateValidationContext {
            trusted_ca: bundles.next().and_then(|view| authorities(view)),
            custom_validator_config: None,
        },
        Validator::Spiffe => {
            let mut trust_domains: Vec<_> = bundles
                .map(|view| tls::spiffe_cert_validator_config::TrustDomain {
                    name: view.bundle.trust_domain.to_string(),
                    trust_bundle: authorities(view),
                })
                .collect();
            trust_domains.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            let config = tls::SpiffeCertValidatorConfig { trust_domains };
            let typed_config = Any { type_url: VALIDATOR_CONFIG.to_owned(), value: config.encode_to_vec() };
            tls::CertificateValidationContext {
                trusted_ca: None,
                custom_validator_config: Some(TypedExtensionConfig {
                    name: VALIDATOR.to_owned(),
                    typed_config: Some(typed_config),
                }),
            }
        }
    };
    tls::secret::Type::ValidationContext(context)
}

fn chain(svid: &HeldSvid) -> Option<String> {
    let mut text = String::new();
    for certificate in certificate::split(&svid.chain).ok()? {
        pem::append(&mut text, CERTIFICATE, &certificate);
    }
    Some(text)
}

fn authorities(view: &BundleView) -> Option<DataSource> {
    source(format::to_pem(&view.bundle).into())
}

fn source(bytes: Bytes) -> Option<DataSource> {
    Some(DataSource { inline_bytes: bytes })
}

/// The field's number in a `DiscoveryResponse`.
const RESOURCES: u32 = 2;
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const VALIDATOR_CONFIG: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
const CERTIFICATE: &str = "CERTIFICATE";
const PRIVATE_KEY: &str = "PRIVATE KEY";

#[cfg(test)]
pub(crate) mod tests;
