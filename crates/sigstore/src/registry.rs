//! What there is beside an image in its registry, by the OCI distribution API.
//!
//! Policy: a registry may be broken or hostile. Each request has a deadline and a bound, a redirect is followed at most
//! [`MAX_REDIRECTS`] times, only to `https` and not into the node's own network, and what was meant for the registry
//! (credentials, its token) never goes with it to another host, nor does another host say where to get a token. `http` is
//! spoken with loopback addresses only.

mod address;
mod challenge;
mod session;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tracing::warn;
use vouchsafe_runtime::class::Class;

use crate::excerpt::excerpt;
use crate::image::ImageId;
use crate::manifest::{Layer, ManifestError};
pub(crate) use session::Session;

/// One GET request. Who implements it has the HTTP client, and gives every answer as it is, redirects too.
#[async_trait]
pub trait Web: Send + Sync + 'static {
    /// Asks once.
    async fn get(&self, request: &WebRequest) -> Result<WebAnswer, WebError>;
}

/// What to ask for. `Debug` shows no credentials.
#[derive(Clone)]
pub struct WebRequest {
    /// `https://…`, or `http://` of a loopback address.
    pub url: String,
    /// The header `Accept`.
    pub accept: Option<&'static str>,
    /// The header `Authorization`: a secret.
    pub authorization: Option<zeroize::Zeroizing<String>>,
    /// From the first step to the last byte.
    pub deadline: Duration,
    /// Bytes of the body; a longer one is an error.
    pub body: usize,
}

impl fmt::Debug for WebRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebRequest").field("url", &self.url).finish_non_exhaustive()
    }
}

/// An answer with any status.
#[derive(Clone, Debug)]
pub struct WebAnswer {
    /// The status.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<String>,
    /// The headers `WWW-Authenticate`.
    pub challenges: Vec<String>,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct WebError {
    /// With its causes, without secrets.
    pub message: String,
    /// Whose fault it is.
    pub class: Class,
}

/// What is stored beside an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Beside {
    Signatures,
    Attestations,
}

impl Beside {
    fn suffix(self) -> &'static str {
        match self {
            Self::Signatures => "sig",
            Self::Attestations => "att",
        }
    }

    /// Bytes of a payload.
    fn payload(self) -> u64 {
        match self {
            Self::Signatures => MAX_CLAIM,
            Self::Attestations => MAX_ATTESTATION,
        }
    }
}

impl Session<'_> {
    /// The newest of what `image` has of `beside`; nothing when the registry does not know the tag.
    pub(crate) async fn layers(
        &mut self,
        image: &ImageId,
        beside: Beside,
    ) -> Result<Vec<Layer>, RegistryError> {
        let path = format!("/v2/{}/manifests/{}", image.repository(), image.tag_beside(beside.suffix()));
        let answer = self.get(&path, Some(MANIFEST_TYPES), MAX_MANIFEST).await?;
        match answer.status {
            200 => {
                let listed = crate::manifest::layers(&answer.body);
                let (layers, older) = listed.map_err(|source| RegistryError::Manifest { source })?;
                if older > 0 {
                    warn!(%image, tag = beside.suffix(), older, "only the newest signatures of an image are looked at");
                }
                Ok(layers)
            }
            404 => Ok(Vec::new()),
            status => Err(RegistryError::Status { what: path, status }),
        }
    }

    /// The payload of one of them, which has the digest that the manifest says. All signatures of an image by one
    /// version of cosign have the same payload: what is small is fetched once.
    pub(crate) async fn payload(
        &mut self,
        image: &ImageId,
        beside: Beside,
        layer: &Layer,
    ) -> Result<Bytes, RegistryError> {
        let max = beside.payload();
        let path = format!("/v2/{}/blobs/{}", image.repository(), layer.digest);
        let hexadecimal = layer.digest.strip_prefix("sha256:").unwrap_or_default();
        if hexadecimal.len() != 64 || !hexadecimal.bytes().all(|b| b.is_ascii_hexdigit()) || layer.size > max
        {
            return Err(RegistryError::Layer { digest: excerpt(&layer.digest), max });
        }
        if let Some(payload) = self.held(&layer.digest) {
            return Ok(payload);
        }
        let answer = self.get(&path, None, usize::try_from(layer.size).unwrap_or(usize::MAX)).await?;
        if answer.status != 200 {
            return Err(RegistryError::Status { what: path, status: answer.status });
        }
        if hex::encode(crate::digest::sha256(&answer.body)) != hexadecimal {
            return Err(RegistryError::Digest { what: path });
        }
        self.hold(&layer.digest, &answer.body);
        Ok(answer.body)
    }
}

const MANIFEST_TYPES: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// Bytes of a manifest: signatures, certificates and log entries are in it, about 8 KiB each.
const MAX_MANIFEST: usize = 2 * 1024 * 1024;
/// Bytes of a claim; cosign's has 250.
const MAX_CLAIM: u64 = 64 * 1024;
/// Bytes of an attestation. Lists of the parts of an image are long.
const MAX_ATTESTATION: u64 = 8 * 1024 * 1024;
/// Bytes of a token service's answer.
const MAX_TOKEN_ANSWER: usize = 64 * 1024;
/// Of one request, to storage elsewhere.
const MAX_REDIRECTS: usize = 3;
/// For each request.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why the registry has not told what is beside an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("no answer to {what}: {source}")]
    Web { what: String, source: WebError },
    #[error("the registry answers {what} with the status {status}")]
    Status { what: String, status: u16 },
    #[error("the registry refuses access (status {status}): see registry_credentials")]
    Denied { status: u16 },
    #[error("the registry asks for credentials in a way that is not known")]
    Challenge,
    #[error("the registry's token service {url} gives no token (status {status})")]
    NoToken { url: String, status: u16 },
    #[error("the registry redirects {what} {problem}")]
    Redirect { what: String, problem: &'static str },
    #[error("{source}")]
    Manifest { source: ManifestError },
    #[error("the payload {digest:?} has another kind of digest or is longer than {max} bytes")]
    Layer { digest: String, max: u64 },
    #[error("the registry answers {what} with something else")]
    Digest { what: String },
}

impl RegistryError {
    /// Whether it says what a payload is, or that there is none, and not only that it could not be had.
    pub(crate) fn is_about_content(&self) -> bool {
        match self {
            Self::Layer { .. } | Self::Digest { .. } => true,
            // Access and load can be otherwise the next time.
            Self::Status { status, .. } => {
                matches!(status, 400..=499) && !matches!(status, 401 | 403 | 408 | 425 | 429)
            }
            Self::Web { .. }
            | Self::Denied { .. }
            | Self::Challenge
            | Self::NoToken { .. }
            | Self::Redirect { .. }
            | Self::Manifest { .. } => false,
        }
    }

    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Web { source, .. } => source.class,
            Self::Status { status, .. } | Self::NoToken { status, .. } => match status {
                429 | 500..=599 => Class::Transient,
                _ => Class::Peer,
            },
            Self::Denied { .. } => Class::Permanent,
            Self::Challenge
            | Self::Redirect { .. }
            | Self::Manifest { .. }
            | Self::Layer { .. }
            | Self::Digest { .. } => Class::Peer,
        }
    }
}
