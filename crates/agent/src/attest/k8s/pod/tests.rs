use serde_json::json;

use super::*;

const ID: &str = "09bc3d7ade839efec32b6bec4ec79d099027a668ddba043083ec21d3c3b8f1e6";
const OTHER: &str = "9bca8d63d5fa610783847915bcff0ecac1273e5b4bed3f6fa1b07350e0135961";

fn kept(pod: &serde_json::Value) -> Option<Pod> {
    let listed: Listed = serde_json::from_value(pod.clone()).unwrap();
    listed.keep(&mut Strings::default())
}

fn values(selectors: &[Selector]) -> Vec<&str> {
    selectors.iter().map(Selector::value).collect()
}

fn id(text: &str) -> ContainerId {
    ContainerId::parse(text).unwrap()
}

/// Of two containers and an init container; the images are those of SPIRE's documentation.
fn envoy() -> serde_json::Value {
    let digest = "docker.io/envoyproxy/envoy-alpine@sha256:bf862e5f5eca0a73e7e538224578c5cf867ce2be91b5eaed22afc153c00363eb";
    let envoy = json!({ "containerID": format!("docker://{ID}"), "name": "envoy",
        "image": "docker.io/envoyproxy/envoy-alpine:v1.16.0", "imageID": digest });
    let same_image = json!({ "containerID": format!("containerd://{OTHER}"), "name": "second",
        "image": "docker.io/envoyproxy/envoy-alpine:v1.16.0", "imageID": digest });
    let init = json!({ "name": "init", "image": "busybox", "imageID": "" });
    json!({
        "metadata": { "uid": "2c48913c-b29f-11e7-9350-020968147796", "name": "blog-24ck7", "namespace": "default",
            "labels": { "k8s-app": "blog", "version": "v0", "empty": "" },
            "ownerReferences": [{ "kind": "ReplicationController", "name": "blog", "uid": "2c401175-b29f-11e7-9350-020968147796" }] },
        "spec": { "serviceAccountName": "default", "nodeName": "k8s-node-1", "containers": [{}] },
        "status": { "phase": "Running", "containerStatuses": [envoy, same_image], "initContainerStatuses": [init] },
    })
}

#[test]
fn a_pod_has_the_selectors_that_spire_documents() {
    let pod = kept(&envoy()).unwrap();
    let of_pod = [
        "sa:default",
        "ns:default",
        "node-name:k8s-node-1",
        "pod-uid:2c48913c-b29f-11e7-9350-020968147796",
        "pod-name:blog-24ck7",
        "pod-image-count:2",
        "pod-init-image-count:1",
        "pod-image:docker.io/envoyproxy/envoy-alpine@sha256:bf862e5f5eca0a73e7e538224578c5cf867ce2be91b5eaed22afc153c00363eb",
        "pod-image:docker.io/envoyproxy/envoy-alpine:v1.16.0",
        "pod-init-image:",
        "pod-init-image:busybox",
    ];
    let rest = [
        "pod-label:empty:",
        "pod-label:k8s-app:blog",
        "pod-label:version:v0",
        "pod-owner:ReplicationController:blog",
        "pod-owner-uid:ReplicationController:2c401175-b29f-11e7-9350-020968147796",
    ];
    let of_container = [
        "container-image:docker.io/envoyproxy/envoy-alpine@sha256:bf862e5f5eca0a73e7e538224578c5cf867ce2be91b5eaed22afc153c00363eb",
        "container-image:docker.io/envoyproxy/envoy-alpine:v1.16.0",
        "container-name:envoy",
    ];
    assert_eq!(values(&pod.selectors(None)), [&of_pod[..], &rest].concat());
    assert_eq!(values(&pod.selectors(Some(id(ID)))), [&of_pod[..], &of_container, &rest].concat());
    assert!(pod.selectors(None).iter().all(|selector| selector.kind() == "k8s"));
    assert!(values(&pod.selectors(Some(id(OTHER)))).contains(&"container-name:second"));
}

#[test]
fn container_ids_of_every_runtime_are_read_and_others_are_none() {
    for runtime in ["docker", "containerd", "cri-o"] {
        assert_eq!(ContainerId::of_status(&format!("{runtime}://{ID}")), Some(id(ID)));
    }
    for other in ["", ID, "docker://", "docker://abc", "fakeRuntime://web_shop_uid_0_c_0"] {
        assert_eq!(ContainerId::of_status(other), None, "{other}");
    }
    assert_eq!(id(ID).to_string(), ID);
}

#[test]
fn a_pod_that_is_barely_there_is_kept_and_one_without_uid_is_not() {
    let pod = kept(&json!({ "metadata": { "uid": "u" } })).unwrap();
    assert!(values(&pod.selectors(None)).contains(&"pod-image-count:0"));
    assert!(kept(&json!({ "metadata": { "name": "x" } })).is_none());
    assert!(
        kept(&json!({ "metadata": null, "spec": null, "status": { "containerStatuses": null } })).is_none()
    );
}

#[test]
fn only_what_has_ended_for_good_is_completed() {
    let completed = |phase: &str| {
        let listed: Listed = serde_json::from_value(json!({ "status": { "phase": phase } })).unwrap();
        listed.is_completed()
    };
    assert!(completed("Succeeded") && completed("Failed"));
    assert!(!completed("Running") && !completed("Pending") && !completed("Unknown") && !completed(""));
}

#[test]
fn what_pods_have_in_common_is_kept_once() {
    let mut strings = Strings::default();
    let mut keep = |name: &str| {
        let mut pod = envoy();
        pod["metadata"]["uid"] = json!(name);
        serde_json::from_value::<Listed>(pod).unwrap().keep(&mut strings).unwrap()
    };
    let (one, two) = (keep("one"), keep("two"));
    assert!(Arc::ptr_eq(&one.namespace, &two.namespace));
    assert!(Arc::ptr_eq(&one.labels[1].0, &two.labels[1].0));
    assert!(Arc::ptr_eq(&one.containers[0].image_id, &two.containers[1].image_id));
}
