//! Where the trust bundle is put, in Kubernetes clusters (`Notifier "k8sbundle"`, `BundlePublisher "k8s_configmap"`).

use std::time::Duration;

pub use vouchsafe_cluster::Source;

/// The objects of one cluster that get the bundle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Publication {
    /// Whose settings these are: `k8sbundle` or `k8s_configmap`. Servers with the same share a lease.
    pub plugin: &'static str,
    /// How logs and metrics call the cluster.
    pub cluster: String,
    /// How to reach it.
    pub source: Source,
    /// Keys of ConfigMaps, which are made if they are not there.
    pub config_maps: Vec<ConfigMapKey>,
    /// Validating and mutating webhook configurations that have this label with the value `true`.
    pub webhook_label: Option<String>,
    /// API services that have this label with the value `true`.
    pub api_service_label: Option<String>,
    /// A ClusterTrustBundle, which is made if it is not there.
    pub trust_bundle: Option<TrustBundleName>,
}

/// One key of a ConfigMap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigMapKey {
    /// The ConfigMap's namespace.
    pub namespace: String,
    /// The ConfigMap's name.
    pub name: String,
    /// The key in its `data`.
    pub key: String,
    /// What is written there.
    pub format: Format,
}

/// In which form a bundle is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// The X.509 authorities, in PEM.
    Pem,
    /// The SPIFFE bundle document.
    Spiffe {
        /// Instead of the bundle's own.
        refresh_hint: Option<Duration>,
    },
    /// A plain JWK set.
    Jwks,
}

/// The name of a ClusterTrustBundle, and the signer that the name says it is of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustBundleName {
    name: String,
    signer: Option<String>,
}

/// Why a name cannot be that of a ClusterTrustBundle.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "is no name of a ClusterTrustBundle: use \"name\", or \"signer-domain:signer-path:name\" for the signer \
     \"signer-domain/signer-path\"; each part has lower-case letters, digits, \"-\" and \".\", and begins and ends with a \
     letter or digit"
)]
pub struct InvalidTrustBundleName;

impl TrustBundleName {
    /// Reads a name. Kubernetes wants one without colons where there is no signer, and the signer's name, with a colon for its
    /// slash, as the prefix where there is one; so the name alone says which signer it is.
    ///
    /// # Errors
    ///
    /// [`InvalidTrustBundleName`].
    pub fn parse(text: &str) -> Result<Self, InvalidTrustBundleName> {
        let parts: Vec<&str> = text.split(':').collect();
        if text.len() > MAX_NAME || !parts.iter().all(|part| is_subdomain(part)) {
            return Err(InvalidTrustBundleName);
        }
        let signer = match parts[..] {
            [_] => None,
            // A signer's domain has at least two labels.
            [domain, path, _] if domain.contains('.') => Some(format!("{domain}/{path}")),
            _ => return Err(InvalidTrustBundleName),
        };
        Ok(Self { name: text.to_owned(), signer })
    }

    /// The object's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `spec.signerName`.
    #[must_use]
    pub fn signer(&self) -> Option<&str> {
        self.signer.as_deref()
    }
}

/// RFC 1123 §2.1, as Kubernetes reads it.
fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|label| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    })
}

/// Longest name of an object.
const MAX_NAME: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_cluster_trust_bundle_says_which_signer_it_is_of() {
        let signer = |text| TrustBundleName::parse(text).map(|name| name.signer().map(str::to_owned));
        assert_eq!(signer("spire-bundle"), Ok(None));
        assert_eq!(signer("example.org:spire:bundle.v1"), Ok(Some("example.org/spire".to_owned())));
        for wrong in
            ["", ":", "a:b", "example:spire:bundle", "a.b:c:", "a.b:c:d:e", "Example.org", "-a", "a..b"]
        {
            assert_eq!(signer(wrong), Err(InvalidTrustBundleName), "{wrong}");
        }
        assert!(TrustBundleName::parse(&"a".repeat(254)).is_err());
    }
}
