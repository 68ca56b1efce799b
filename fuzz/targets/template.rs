//! A template of the registrar is refused, fails or gives a text within its bounds, and always the same one.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use vouchsafe_registrar::template::{Data, MAX_OUTPUT_BYTES, Object, Template};

static POD: LazyLock<(Object, Object)> = LazyLock::new(|| {
    let meta = json!({
        "name": "web-1", "namespace": "shop", "uid": "u-1", "labels": { "app": "web", "tier/x": "front" },
        "creationTimestamp": "2026-11-21T10:00:00Z",
    });
    let spec = json!({
        "serviceAccountName": "till", "nodeName": "node-1", "hostNetwork": true,
        "containers": [{ "name": "main", "image": "shop:1" }, { "name": "side", "image": "proxy:2" }],
        "securityContext": { "runAsUser": 1000 },
        "volumes": [{ "name": "s", "secret": { "secretName": "key" } }],
    });
    (Object::meta(meta), Object::pod_spec(spec))
});

static NODE: LazyLock<(Object, Object)> =
    LazyLock::new(|| (Object::meta(json!({ "name": "node-1", "uid": "n-1" })), Object::node_spec(json!({}))));

fuzz_target!(|text: &str| {
    let template = match Template::parse("t", text) {
        Ok(template) => template,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for pod in [Some(POD.clone()), None] {
        let data = Data {
            trust_domain: "example.org",
            cluster_name: "blue",
            cluster_domain: "cluster.local",
            pod,
            node: NODE.clone(),
        };
        let rendered = template.render(&data);
        if let Ok(output) = &rendered {
            assert!(output.len() <= MAX_OUTPUT_BYTES, "{} bytes", output.len());
        }
        assert_eq!(rendered, template.clone().render(&data));
    }
});
