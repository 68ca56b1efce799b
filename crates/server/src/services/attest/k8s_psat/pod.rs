//! What is looked at of the Pod that a token belongs to.

use serde::{Deserialize, Serialize};
use vouchsafe_cluster::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use vouchsafe_cluster::kind;

/// An agent's Pod.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: ObjectMeta,
    pub(super) spec: Spec,
    pub(super) status: Status,
}

/// Where it runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    /// Empty while it has no node.
    pub(super) node_name: String,
}

/// What its node says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    /// The node's address; empty before the node has taken it.
    #[serde(rename = "hostIP")]
    pub(super) host_ip: String,
}

kind!(Pod, Namespaced, "", "v1", "Pod", "pods");
