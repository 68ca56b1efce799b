//! The objects that get the bundle: how they are called, read and written.
//!
//! Objects that are made for the bundle (ConfigMap, ClusterTrustBundle) are written by server-side apply of our fields alone,
//! which makes them if they are not there. In objects of somebody else (webhook configurations, API services) one field is
//! patched: an apply would make us an owner of the webhook too, and its owner could no longer remove it by an apply of its own.
//! Either way the API server merges; there is no version to lose a race with, and nothing else of the object is touched.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use vouchsafe_cluster::k8s_openapi::Resource as K8s;
use vouchsafe_cluster::k8s_openapi::api::core::v1::ObjectReference;
use vouchsafe_cluster::{Cluster, ClusterError, FieldManager, Kind, Name};

use super::sight::{
    ApiService, ConfigMap, Digest, Held, Mutating, Seen, TrustBundle, V1, V1Alpha1, V1Beta1, Validating,
    Version, Webhooks,
};
use crate::config::publication::{ConfigMapKey, TrustBundleName};

/// An object, and where in it the bundle goes.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Object {
    ConfigMap { namespace: String, name: String, key: String },
    Validating(String),
    Mutating(String),
    ApiService(String),
    TrustBundle { name: String, signer: Option<String> },
}

/// The kinds of objects, for metrics.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Target {
    ConfigMap,
    Validating,
    Mutating,
    ApiService,
    TrustBundle,
}

impl Target {
    /// As `kubectl get` calls them.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Validating => "validatingwebhookconfigurations",
            Self::Mutating => "mutatingwebhookconfigurations",
            Self::ApiService => "apiservices",
            Self::TrustBundle => "clustertrustbundles",
        }
    }
}

impl From<&ConfigMapKey> for Object {
    fn from(key: &ConfigMapKey) -> Self {
        Self::ConfigMap { namespace: key.namespace.clone(), name: key.name.clone(), key: key.key.clone() }
    }
}

impl From<&TrustBundleName> for Object {
    fn from(name: &TrustBundleName) -> Self {
        Self::TrustBundle { name: name.name().to_owned(), signer: name.signer().map(str::to_owned) }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.target().as_str(), self.name())
    }
}

impl Object {
    pub(super) fn target(&self) -> Target {
        match self {
            Self::ConfigMap { .. } => Target::ConfigMap,
            Self::Validating(_) => Target::Validating,
            Self::Mutating(_) => Target::Mutating,
            Self::ApiService(_) => Target::ApiService,
            Self::TrustBundle { .. } => Target::TrustBundle,
        }
    }

    fn name(&self) -> Name {
        match self {
            Self::ConfigMap { namespace, name, .. } => Name::new(namespace, name),
            Self::Validating(name)
            | Self::Mutating(name)
            | Self::ApiService(name)
            | Self::TrustBundle { name, .. } => Name::cluster(name),
        }
    }

    /// Points at it, for an event. An object that is not there has no `uid`.
    pub(super) fn reference(&self, uid: &str) -> ObjectReference {
        let (api_version, kind) = match self {
            Self::ConfigMap { .. } => (ConfigMap::API_VERSION, ConfigMap::KIND),
            Self::Validating(_) => kind_of::<Webhooks<Validating>>(),
            Self::Mutating(_) => kind_of::<Webhooks<Mutating>>(),
            Self::ApiService(_) => kind_of::<ApiService>(),
            Self::TrustBundle { .. } => kind_of::<TrustBundle<V1Beta1>>(),
        };
        let Name { namespace, name } = self.name();
        ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name),
            namespace,
            uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        }
    }
}

fn kind_of<K: K8s>() -> (&'static str, &'static str) {
    (K::API_VERSION, K::KIND)
}

/// Reads and writes objects of one cluster.
#[derive(Debug)]
pub(super) struct Access {
    cluster: Cluster,
    /// Which version of ClusterTrustBundle the API server was last seen to serve: an index of the calls below.
    served: AtomicUsize,
}

impl Access {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self { cluster, served: AtomicUsize::new(0) }
    }

    /// What the object holds now. For those that are not watched.
    ///
    /// # Errors
    ///
    /// Those of [`Cluster::fetch`].
    pub(super) async fn look(&self, object: &Object) -> Result<Held, ClusterError> {
        // Objects of somebody else are not made: one that is gone has no place for a bundle.
        let places = match object {
            Object::ConfigMap { .. } | Object::TrustBundle { .. } => vec![Digest::NONE],
            Object::Validating(_) | Object::Mutating(_) | Object::ApiService(_) => Vec::new(),
        };
        let absent = || Held { places, ..Held::default() };
        let name = object.name();
        let held = match object {
            Object::ConfigMap { key, .. } => {
                self.cluster.fetch::<ConfigMap>(&name).await?.map(|found| found.key(key))
            }
            Object::TrustBundle { .. } => self.look_for_trust_bundle(&name).await?,
            Object::Validating(_) => self.held::<Webhooks<Validating>>(&name).await?,
            Object::Mutating(_) => self.held::<Webhooks<Mutating>>(&name).await?,
            Object::ApiService(_) => self.held::<ApiService>(&name).await?,
        };
        Ok(held.unwrap_or_else(absent))
    }

    async fn held<K: Kind + Seen>(&self, name: &Name) -> Result<Option<Held>, ClusterError> {
        Ok(self.cluster.fetch::<K>(name).await?.map(|found| found.held()))
    }

    async fn look_for_trust_bundle(&self, name: &Name) -> Result<Option<Held>, ClusterError> {
        let first = self.served.load(Ordering::Relaxed);
        for version in (0..VERSIONS).map(|step| (first + step) % VERSIONS) {
            let held = match version {
                0 => self.held::<TrustBundle<V1>>(name).await?,
                1 => self.held::<TrustBundle<V1Beta1>>(name).await?,
                _ => self.held::<TrustBundle<V1Alpha1>>(name).await?,
            };
            if held.is_some() {
                self.served.store(version, Ordering::Relaxed);
                return Ok(held);
            }
        }
        Ok(None)
    }

    /// Puts `text` into the object, which holds `held`.
    ///
    /// # Errors
    ///
    /// Those of [`Cluster::apply_fields`] and [`Cluster::patch_fields`].
    pub(super) async fn write(&self, object: &Object, held: &Held, text: &str) -> Result<(), ClusterError> {
        let name = object.name();
        match object {
            Object::ConfigMap { key, .. } => {
                let manager = FieldManager::forcing(config_map_manager(key));
                let fields = json!({ "data": { key.as_str(): text } });
                self.cluster.apply_fields::<ConfigMap>(&name, fields, &manager).await
            }
            Object::Validating(_) => self.patch::<Webhooks<Validating>>(&name, webhooks(held, text)).await,
            Object::Mutating(_) => self.patch::<Webhooks<Mutating>>(&name, webhooks(held, text)).await,
            Object::ApiService(_) => {
                self.patch::<ApiService>(&name, json!({ "spec": { "caBundle": text } })).await
            }
            Object::TrustBundle { signer, .. } => {
                self.write_trust_bundle(&name, signer.as_deref(), text).await
            }
        }
    }

    async fn patch<K: Kind>(&self, name: &Name, fields: Value) -> Result<(), ClusterError> {
        self.cluster.patch_fields::<K>(name, fields, MANAGER).await
    }

    async fn write_trust_bundle(
        &self,
        name: &Name,
        signer: Option<&str>,
        text: &str,
    ) -> Result<(), ClusterError> {
        let mut spec = json!({ "trustBundle": text });
        if let Some(signer) = signer {
            spec["signerName"] = signer.into();
        }
        let first = self.served.load(Ordering::Relaxed);
        let mut outcome = Ok(());
        // An apply makes the object, so "not found" means that this version is not served.
        for version in (0..VERSIONS).map(|step| (first + step) % VERSIONS) {
            let fields = json!({ "spec": spec });
            outcome = match version {
                0 => self.apply_trust_bundle::<V1>(name, fields).await,
                1 => self.apply_trust_bundle::<V1Beta1>(name, fields).await,
                _ => self.apply_trust_bundle::<V1Alpha1>(name, fields).await,
            };
            match &outcome {
                Err(error) if error.is_not_found() => {}
                _ => {
                    self.served.store(version, Ordering::Relaxed);
                    break;
                }
            }
        }
        outcome
    }

    async fn apply_trust_bundle<V: Version>(&self, name: &Name, fields: Value) -> Result<(), ClusterError> {
        let manager = FieldManager::forcing(MANAGER);
        self.cluster.apply_fields::<TrustBundle<V>>(name, fields, &manager).await
    }
}

/// The patch that puts `text` into every webhook that is there.
fn webhooks(held: &Held, text: &str) -> Value {
    let entry = |name: &String| json!({ "name": name, "clientConfig": { "caBundle": text } });
    let uid = Some(&held.uid).filter(|uid| !uid.is_empty());
    // With another `uid` it is another object, and the API server refuses.
    json!({ "metadata": { "uid": uid }, "webhooks": held.names.iter().map(entry).collect::<Vec<_>>() })
}

/// Each key has a manager of its own, so that servers which write other keys of the same ConfigMap leave each other's alone.
fn config_map_manager(key: &str) -> String {
    let name = format!("{MANAGER}/{key}");
    if name.len() <= MAX_MANAGER { name } else { format!("{MANAGER}/{:?}", Digest::of(key)) }
}

/// Who we are to the API server, in `metadata.managedFields`.
const MANAGER: &str = "vouchsafe";
/// Longest name of a field manager.
const MAX_MANAGER: usize = 128;
/// Versions of `certificates.k8s.io` that may have ClusterTrustBundle: v1, v1beta1, v1alpha1.
const VERSIONS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_names_every_webhook_and_nothing_else_of_it() {
        let held = Held {
            uid: "u".into(),
            places: vec![Digest::NONE; 2],
            names: vec!["a.b.c".into(), "d.e.f".into()],
        };
        assert_eq!(
            webhooks(&held, "QUJD"),
            json!({"metadata": {"uid": "u"}, "webhooks": [
                {"name": "a.b.c", "clientConfig": {"caBundle": "QUJD"}},
                {"name": "d.e.f", "clientConfig": {"caBundle": "QUJD"}},
            ]})
        );
    }

    #[test]
    fn the_manager_of_a_key_fits_where_managers_are_kept() {
        assert_eq!(config_map_manager("bundle.crt"), "vouchsafe/bundle.crt");
        assert!(config_map_manager(&"k".repeat(253)).len() <= MAX_MANAGER);
        assert_ne!(config_map_manager(&"k".repeat(253)), config_map_manager(&"k".repeat(252)));
    }
}
