//! What is seen of objects: their names and what they hold of a bundle, as digests.
//!
//! Webhook configurations and ConfigMaps may be large, and belong to others. Of what the API server sends, only this is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use aws_lc_rs::digest::{SHA256, digest};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use vouchsafe_cluster::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use vouchsafe_cluster::k8s_openapi::{ClusterResourceScope, Metadata, NamespaceResourceScope, Resource};

/// What a text is known by.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub(super) struct Digest(Option<[u8; 32]>);

impl Digest {
    /// Of a text. The empty one counts as none.
    pub(super) fn of(text: &str) -> Self {
        if text.is_empty() {
            return Self::NONE;
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Self(Some(bytes))
    }

    /// Of no text.
    pub(super) const NONE: Self = Self(None);
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("none"),
            Some(bytes) => f.write_str(&hex::encode(&bytes[..4])),
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(TextVisitor)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        self.0.map(hex::encode).serialize(output)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Digest, E> {
        Ok(Digest::of(text))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Digest, E> {
        Ok(Digest::NONE)
    }
}

/// What one object holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Held {
    /// Which of several objects of that name it is.
    pub(super) uid: String,
    /// In each place for a bundle, in the object's order, what is there.
    pub(super) places: Vec<Digest>,
    /// The names of the places, where they have names.
    pub(super) names: Vec<String>,
}

impl Held {
    /// Whether every place has `wanted`.
    pub(super) fn has(&self, wanted: Digest) -> bool {
        self.places.iter().all(|place| *place == wanted)
    }
}

/// A type of objects that a bundle is put into.
pub(super) trait Seen {
    fn held(&self) -> Held;
}

fn uid(metadata: &ObjectMeta) -> String {
    metadata.uid.clone().unwrap_or_default()
}

/// Metadata without what its owner keeps there.
fn lean<'de, D: Deserializer<'de>>(input: D) -> Result<ObjectMeta, D::Error> {
    let full = ObjectMeta::deserialize(input)?;
    Ok(ObjectMeta {
        name: full.name,
        namespace: full.namespace,
        uid: full.uid,
        resource_version: full.resource_version,
        ..ObjectMeta::default()
    })
}

/// A ConfigMap.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct ConfigMap {
    #[serde(default, deserialize_with = "lean")]
    metadata: ObjectMeta,
    #[serde(default)]
    data: Option<BTreeMap<String, Digest>>,
}

impl ConfigMap {
    /// What is under one key.
    pub(super) fn key(&self, key: &str) -> Held {
        let there = self.data.as_ref().and_then(|data| data.get(key)).copied().unwrap_or_default();
        Held { uid: uid(&self.metadata), places: vec![there], names: Vec::new() }
    }
}

/// An APIService.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct ApiService {
    #[serde(default, deserialize_with = "lean")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: CaBundle,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct CaBundle {
    #[serde(default, rename = "caBundle")]
    ca_bundle: Digest,
}

impl Seen for ApiService {
    fn held(&self) -> Held {
        Held { uid: uid(&self.metadata), places: vec![self.spec.ca_bundle], names: Vec::new() }
    }
}

/// A webhook configuration: [`Validating`] or [`Mutating`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(bound = "")]
pub(super) struct Webhooks<W> {
    #[serde(default, deserialize_with = "lean")]
    metadata: ObjectMeta,
    #[serde(default)]
    webhooks: Option<Vec<Webhook>>,
    #[serde(skip)]
    kind: PhantomData<fn() -> W>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Webhook {
    name: String,
    #[serde(default, rename = "clientConfig")]
    client_config: CaBundle,
}

/// Which of the two kinds of webhook configurations.
pub(super) trait WebhookKind: fmt::Debug + Clone + Send + Sync + 'static {
    const KIND: &'static str;
    const PLURAL: &'static str;
}

#[derive(Clone, Debug)]
pub(super) struct Validating;

#[derive(Clone, Debug)]
pub(super) struct Mutating;

impl WebhookKind for Validating {
    const KIND: &'static str = "ValidatingWebhookConfiguration";
    const PLURAL: &'static str = "validatingwebhookconfigurations";
}

impl WebhookKind for Mutating {
    const KIND: &'static str = "MutatingWebhookConfiguration";
    const PLURAL: &'static str = "mutatingwebhookconfigurations";
}

impl<W: WebhookKind> Seen for Webhooks<W> {
    fn held(&self) -> Held {
        let webhooks = self.webhooks.as_deref().unwrap_or_default();
        Held {
            uid: uid(&self.metadata),
            places: webhooks.iter().map(|webhook| webhook.client_config.ca_bundle).collect(),
            names: webhooks.iter().map(|webhook| webhook.name.clone()).collect(),
        }
    }
}

/// A ClusterTrustBundle of one version of its API.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(bound = "")]
pub(super) struct TrustBundle<V> {
    #[serde(default, deserialize_with = "lean")]
    metadata: ObjectMeta,
    spec: TrustBundleSpec,
    #[serde(skip)]
    version: PhantomData<fn() -> V>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct TrustBundleSpec {
    #[serde(default, rename = "trustBundle")]
    trust_bundle: Digest,
}

/// A version of `certificates.k8s.io`.
pub(super) trait Version: fmt::Debug + Clone + Send + Sync + 'static {
    const VERSION: &'static str;
    const API_VERSION: &'static str;
}

macro_rules! versions {
    ($($name:ident $version:literal;)*) => {$(
        #[derive(Clone, Debug)]
        pub(super) struct $name;

        impl Version for $name {
            const VERSION: &'static str = $version;
            const API_VERSION: &'static str = concat!("certificates.k8s.io/", $version);
        }
    )*};
}

versions! {
    V1 "v1";
    V1Beta1 "v1beta1";
    V1Alpha1 "v1alpha1";
}

impl<V: Version> Seen for TrustBundle<V> {
    fn held(&self) -> Held {
        Held { uid: uid(&self.metadata), places: vec![self.spec.trust_bundle], names: Vec::new() }
    }
}

macro_rules! resources {
    ($($(@ $var:ident: $bound:ident,)? $type:ty, $scope:ident, $group:expr, $version:expr, $api:expr, $kind:expr, $plural:expr;)*) => {$(
        impl$(<$var: $bound>)? Resource for $type {
            const API_VERSION: &'static str = $api;
            const GROUP: &'static str = $group;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = $scope;
        }

        impl$(<$var: $bound>)? Metadata for $type {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    )*};
}

resources! {
    ConfigMap, NamespaceResourceScope, "", "v1", "v1", "ConfigMap", "configmaps";
    ApiService, ClusterResourceScope, "apiregistration.k8s.io", "v1", "apiregistration.k8s.io/v1", "APIService", "apiservices";
    @ W: WebhookKind, Webhooks<W>, ClusterResourceScope, "admissionregistration.k8s.io", "v1",
        "admissionregistration.k8s.io/v1", W::KIND, W::PLURAL;
    @ V: Version, TrustBundle<V>, ClusterResourceScope, "certificates.k8s.io", V::VERSION, V::API_VERSION,
        "ClusterTrustBundle", "clustertrustbundles";
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_a_webhook_configuration_only_names_and_digests_are_kept() {
        let read: Webhooks<Validating> = serde_json::from_value(json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "w", "uid": "u", "annotations": {"large": "x".repeat(100_000)}, "labels": {"a": "b"}},
            "webhooks": [
                {"name": "a.b.c", "clientConfig": {"url": "https://x", "caBundle": "QUJD"}, "sideEffects": "None"},
                {"name": "d.e.f", "clientConfig": {"service": {"name": "s", "namespace": "n"}}},
            ],
        }))
        .unwrap();
        let held = read.held();
        assert_eq!(held.names, ["a.b.c", "d.e.f"]);
        assert_eq!(held.places, [Digest::of("QUJD"), Digest::NONE]);
        assert!(!held.has(Digest::of("QUJD")));
        assert!(serde_json::to_string(&read).unwrap().len() < 500);
    }

    #[test]
    fn a_configuration_without_webhooks_lacks_nothing() {
        for webhooks in [json!(null), json!([])] {
            let read: Webhooks<Mutating> =
                serde_json::from_value(json!({"metadata": {"name": "w"}, "webhooks": webhooks})).unwrap();
            assert!(read.held().has(Digest::of("x")));
        }
    }

    #[test]
    fn a_key_of_a_config_map_that_is_not_there_is_empty() {
        let read: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": "c"}, "data": {"bundle.crt": "x"}})).unwrap();
        assert!(read.key("bundle.crt").has(Digest::of("x")));
        assert!(read.key("other").has(Digest::NONE));
        let empty: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": "c"}, "data": null})).unwrap();
        assert!(empty.key("bundle.crt").has(Digest::NONE));
    }
}
