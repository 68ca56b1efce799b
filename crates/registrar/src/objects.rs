//! The objects that are followed: the three kinds that declare something, and the little of Pods, nodes, namespaces and
//! endpoints that a declaration can see.
//!
//! A `spec` that declares something is kept as JSON, so that one that makes no sense is a condition on its object and never
//! spoils the list that it stands in. Of Pods and nodes metadata and `spec` are kept, the `spec` as text: most templates
//! never look at it.

mod compact;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use vouchsafe_cluster::k8s_openapi::api::core::v1::ObjectReference;
use vouchsafe_cluster::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use vouchsafe_cluster::{Kind, kind, reference};

pub use self::compact::Compact;

macro_rules! declaring {
    ($type:ident, $kind:literal, $plural:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct $type {
            /// Name, age and the like.
            #[serde(default)]
            pub metadata: ObjectMeta,
            /// What it declares, not looked at yet.
            #[serde(default)]
            pub spec: Json,
            /// What was last written about it.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub status: Option<Json>,
        }

        kind!($type, Cluster, "spire.spiffe.io", "v1alpha1", $kind, $plural);

        impl Declaring for $type {
            fn spec(&self) -> &Json {
                &self.spec
            }
            fn status(&self) -> Option<&Json> {
                self.status.as_ref()
            }
        }
    };
}

/// An object that declares something.
pub trait Declaring: Kind {
    /// What it declares.
    fn spec(&self) -> &Json;
    /// What was last written about it.
    fn status(&self) -> Option<&Json>;
    /// Its name. These objects belong to the whole cluster.
    fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }
    /// The class that it is for.
    fn class_name(&self) -> &str {
        self.spec().get("className").and_then(Json::as_str).unwrap_or_default()
    }
    /// For events about it.
    fn reference(&self) -> ObjectReference {
        reference(self)
    }
}

declaring!(ClusterSpiffeId, "ClusterSPIFFEID", "clusterspiffeids", "An entry for each Pod that it selects.");
declaring!(ClusterStaticEntry, "ClusterStaticEntry", "clusterstaticentries", "One entry.");
declaring!(
    ClusterFederatedTrustDomain,
    "ClusterFederatedTrustDomain",
    "clusterfederatedtrustdomains",
    "One federation relationship."
);

/// What is kept of a Pod. Two are equal when a template could not tell them apart, but for `ResourceVersion`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pod {
    /// Name, labels and the like.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What runs in it.
    #[serde(default)]
    pub spec: Compact,
}

kind!(Pod, Namespaced, "", "v1", "Pod", "pods");

/// What is kept of a node. Equal as [`Pod`]s are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Name, labels and the like.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// How it is set up.
    #[serde(default)]
    pub spec: Compact,
}

kind!(Node, Cluster, "", "v1", "Node", "nodes");

/// What is kept of a namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Namespace {
    /// Name and labels.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

kind!(Namespace, Cluster, "", "v1", "Namespace", "namespaces");

/// What is kept of the endpoints of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoints {
    /// The name of the service.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Who serves.
    #[serde(default)]
    pub subsets: Vec<Subset>,
}

kind!(Endpoints, Namespaced, "", "v1", "Endpoints", "endpoints");

/// Endpoints with the same ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subset {
    /// Those that take traffic.
    pub addresses: Vec<Address>,
    /// Those that do not yet.
    pub not_ready_addresses: Vec<Address>,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Address {
    /// What is behind it.
    pub target_ref: Option<Target>,
}

/// What is behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    /// Such as `Pod`.
    pub kind: String,
    /// Which one.
    pub uid: String,
}

impl Endpoints {
    /// The UIDs of the Pods behind the service, ready or not.
    pub fn pods(&self) -> impl Iterator<Item = &str> {
        let addresses =
            self.subsets.iter().flat_map(|set| set.addresses.iter().chain(&set.not_ready_addresses));
        let targets = addresses.filter_map(|address| address.target_ref.as_ref());
        targets.filter(|target| target.kind == "Pod").map(|target| target.uid.as_str())
    }
}

impl PartialEq for Pod {
    fn eq(&self, other: &Self) -> bool {
        alike(&self.metadata, &other.metadata) && self.spec == other.spec
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        alike(&self.metadata, &other.metadata) && self.spec == other.spec
    }
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.metadata.uid == other.metadata.uid && self.metadata.labels == other.metadata.labels
    }
}

impl PartialEq for Endpoints {
    fn eq(&self, other: &Self) -> bool {
        self.subsets == other.subsets
    }
}

/// Whether the metadata of two versions of an object agree in all but what changes with each version.
fn alike(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    a.uid == b.uid
        && a.labels == b.labels
        && a.annotations == b.annotations
        && a.owner_references == b.owner_references
        && a.finalizers == b.finalizers
        && a.deletion_timestamp == b.deletion_timestamp
}
