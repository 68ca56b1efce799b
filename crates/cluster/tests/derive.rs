//! A kind that another crate derives through this one, without a dependency on kube or `k8s_openapi`.

use serde::{Deserialize, Serialize};
use vouchsafe_cluster::{CustomResource, Kind, Name};

#[derive(CustomResource, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "spire.spiffe.io",
    version = "v1alpha1",
    kind = "ClusterStaticEntry",
    status = "Status",
    schema = "disabled",
    crates(
        kube = "::vouchsafe_cluster",
        kube_core = "::vouchsafe_cluster::core",
        k8s_openapi = "::vouchsafe_cluster::k8s_openapi"
    )
)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "spiffeID")]
    spiffe_id: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    set: bool,
}

#[test]
fn a_kind_is_derived_through_this_crate() {
    let json = r#"{"apiVersion":"spire.spiffe.io/v1alpha1","kind":"ClusterStaticEntry",
        "metadata":{"name":"db"},"spec":{"spiffeID":"spiffe://example.org/db"}}"#;
    let object: ClusterStaticEntry = serde_json::from_str(json).unwrap();
    assert_eq!(object.spec.spiffe_id, "spiffe://example.org/db");
    assert_eq!(Name::of(&object), Name::cluster("db"));
    assert_eq!(ClusterStaticEntry::label(), "clusterstaticentries.spire.spiffe.io");
    assert!(!ClusterStaticEntry::is_namespaced());
}
