//! The definitions in `deploy/kubernetes/crds` say what is read and written, and nothing else.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use vouchsafe_registrar::ledger::{StaticStanding, Tally};
use vouchsafe_registrar::rule::{Rule, parse_static};
use vouchsafe_registrar::{federation, status};
use vouchsafe_types::TrustDomain;

fn definition(plural: &str) -> Json {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/kubernetes/crds");
    let text = std::fs::read_to_string(format!("{folder}/{plural}.yaml")).unwrap();
    let definition: Json = serde_saphyr::from_str(&text).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].clone()
}

fn properties(schema: &Json) -> BTreeSet<String> {
    schema["properties"].as_object().unwrap().keys().cloned().collect()
}

fn keys(value: &Json) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

/// What no property may hold.
fn wrong(schema: &Json) -> Json {
    match schema["type"].as_str().unwrap() {
        "object" => json!(5),
        _ => json!({ "wrong": true }),
    }
}

#[test]
fn every_property_of_a_spec_is_read() {
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let check = |plural: &str, read: &dyn Fn(&Json) -> Option<String>| {
        let spec = definition(plural)["spec"].clone();
        for (name, schema) in spec["properties"].as_object().unwrap() {
            if name == "className" {
                continue;
            }
            let error = read(&json!({ name.as_str(): wrong(schema) })).unwrap_or_default();
            assert!(error.contains("cannot be read"), "{plural} {name}: {error}");
        }
    };
    check("clusterspiffeids", &|spec| Rule::parse(spec).err().map(|error| error.to_string()));
    check("clusterstaticentries", &|spec| {
        parse_static(spec, &trust_domain).err().map(|error| error.to_string())
    });
    check("clusterfederatedtrustdomains", &|spec| {
        federation::parse(spec).err().map(|error| error.to_string())
    });
}

#[test]
fn every_property_of_a_status_is_written() {
    let rule = definition("clusterspiffeids")["status"].clone();
    let stats = status::stats(&Tally::default());
    assert_eq!(properties(&rule["properties"]["stats"]), keys(&stats["stats"]));
    assert_eq!(properties(&rule), ["conditions", "stats"].map(str::to_owned).into());
    let mut flags = keys(&status::flags(&StaticStanding::Unset, None));
    flags.insert("conditions".to_owned());
    assert_eq!(properties(&definition("clusterstaticentries")["status"]), flags);
}
