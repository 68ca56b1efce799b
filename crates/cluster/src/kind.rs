//! What an object is called and of what kind it is.

use std::any::TypeId;
use std::fmt;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A type of Kubernetes objects: those of [`k8s_openapi`], and those derived with [`crate::CustomResource`].
pub trait Kind:
    Resource<DynamicType = (), Scope: 'static>
    + Clone
    + fmt::Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// `configmaps` or `clusterspiffeids.spire.spiffe.io`: how logs, errors and metrics call this kind.
    #[must_use]
    fn label() -> String {
        let (plural, group) = (Self::plural(&()), Self::group(&()));
        if group.is_empty() { plural.into_owned() } else { format!("{plural}.{group}") }
    }

    /// Whether its objects live in namespaces.
    #[must_use]
    fn is_namespaced() -> bool {
        TypeId::of::<Self::Scope>() == TypeId::of::<NamespaceResourceScope>()
    }
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope: 'static>
        + Clone
        + fmt::Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Makes a struct with a field `metadata` a [`Kind`]: `kind!(Pod, Namespaced, "", "v1", "Pod", "pods")`, where the scope is
/// `Namespaced` or `Cluster`. For what a part keeps of a kind that has much more: code that reads all of a Pod's fields is
/// large.
#[macro_export]
macro_rules! kind {
    ($type:ident, Namespaced, $($names:literal),+) => {
        $crate::kind!($type, $crate::k8s_openapi::NamespaceResourceScope, $($names),+);
    };
    ($type:ident, Cluster, $($names:literal),+) => {
        $crate::kind!($type, $crate::k8s_openapi::ClusterResourceScope, $($names),+);
    };
    ($type:ident, $scope:path, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        impl $crate::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> ::std::borrow::Cow<'_, str> {
                $kind.into()
            }
            fn group((): &()) -> ::std::borrow::Cow<'_, str> {
                $group.into()
            }
            fn version((): &()) -> ::std::borrow::Cow<'_, str> {
                $version.into()
            }
            fn plural((): &()) -> ::std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &$crate::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut $crate::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

/// The name of an object within its kind.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name {
    /// `None` for objects of the whole cluster.
    pub namespace: Option<String>,
    /// Unique in its namespace.
    pub name: String,
}

impl Name {
    /// An object in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), name: name.into() }
    }

    /// An object of the whole cluster.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self { namespace: None, name: name.into() }
    }

    /// What `object` is called. Empty when it has no name yet.
    #[must_use]
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self { namespace: meta.namespace.clone(), name: meta.name.clone().unwrap_or_default() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Points at `object`, for an event about it.
#[must_use]
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    object.object_ref(&())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Node};
    use kube::core::PartialObjectMeta;

    use super::*;

    #[test]
    fn a_kind_knows_whether_its_objects_live_in_namespaces() {
        assert!(ConfigMap::is_namespaced());
        assert!(PartialObjectMeta::<ConfigMap>::is_namespaced());
        assert!(!Node::is_namespaced());
    }

    #[test]
    fn names_are_shown_as_kubectl_takes_them() {
        assert_eq!(Name::new("spire", "bundle").to_string(), "spire/bundle");
        assert_eq!(Name::cluster("node-1").to_string(), "node-1");
        assert_eq!(ConfigMap::label(), "configmaps");
        assert_eq!(
            k8s_openapi::api::discovery::v1::EndpointSlice::label(),
            "endpointslices.discovery.k8s.io"
        );
    }
}
