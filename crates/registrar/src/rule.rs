//! What a `ClusterSPIFFEID` or a `ClusterStaticEntry` says, read once per version.

mod error;
mod fields;

use serde::Deserialize;
use serde_json::Value as Json;
use vouchsafe_types::TrustDomain;

use self::fields::{labels, lifetime, read, template, trust_domains};
use crate::draft::Draft;
use crate::label_selector::{LabelSelector, Written};
use crate::template::Template;

pub use self::error::RuleError;
pub(crate) use self::fields::{each_once, selector, spiffe_id, trust_domain};

/// A `ClusterSPIFFEID`, ready to be applied to Pods.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are those of the kind")]
pub struct Rule {
    pub spiffe_id: Template,
    pub dns_names: Vec<Template>,
    pub workload_selectors: Vec<Template>,
    pub x509_svid_ttl: u32,
    pub jwt_svid_ttl: u32,
    pub federates_with: Vec<TrustDomain>,
    pub namespaces: LabelSelector,
    pub pods: LabelSelector,
    pub admin: bool,
    pub downstream: bool,
    pub auto_populate_dns_names: bool,
    pub fallback: bool,
    pub hint: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SpiffeIdSpec {
    #[serde(rename = "spiffeIDTemplate")]
    spiffe_id_template: String,
    ttl: String,
    jwt_ttl: String,
    dns_name_templates: Vec<String>,
    workload_selector_templates: Vec<String>,
    federates_with: Vec<String>,
    namespace_selector: Option<Written>,
    pod_selector: Option<Written>,
    admin: bool,
    downstream: bool,
    #[serde(rename = "autoPopulateDNSNames")]
    auto_populate_dns_names: bool,
    fallback: bool,
    hint: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StaticSpec {
    #[serde(rename = "spiffeID")]
    spiffe_id: String,
    #[serde(rename = "parentID")]
    parent_id: String,
    selectors: Vec<String>,
    federates_with: Vec<String>,
    #[serde(rename = "x509SVIDTTL")]
    x509_svid_ttl: String,
    #[serde(rename = "jwtSVIDTTL")]
    jwt_svid_ttl: String,
    dns_names: Vec<String>,
    hint: String,
    admin: bool,
    downstream: bool,
    #[serde(rename = "storeSVID")]
    store_svid: bool,
}

impl Rule {
    /// Reads the `spec` of a `ClusterSPIFFEID`.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn parse(spec: &Json) -> Result<Self, RuleError> {
        let spec: SpiffeIdSpec = read(spec)?;
        if spec.spiffe_id_template.is_empty() {
            return Err(RuleError::Empty("spiffeIDTemplate"));
        }
        let templates = |field, texts: &[String]| -> Result<Vec<_>, _> {
            texts.iter().map(|text| template(field, text)).collect()
        };
        Ok(Self {
            spiffe_id: template("spiffeIDTemplate", &spec.spiffe_id_template)?,
            dns_names: templates("dnsNameTemplates", &spec.dns_name_templates)?,
            workload_selectors: templates("workloadSelectorTemplates", &spec.workload_selector_templates)?,
            x509_svid_ttl: lifetime("ttl", &spec.ttl)?,
            jwt_svid_ttl: lifetime("jwtTtl", &spec.jwt_ttl)?,
            federates_with: trust_domains(&spec.federates_with)?,
            namespaces: labels("namespaceSelector", spec.namespace_selector)?,
            pods: labels("podSelector", spec.pod_selector)?,
            admin: spec.admin,
            downstream: spec.downstream,
            auto_populate_dns_names: spec.auto_populate_dns_names,
            fallback: spec.fallback,
            hint: spec.hint,
        })
    }
}

/// The selectors of a `spec` that cannot be used otherwise: of namespaces and of Pods. One that makes no sense selects all.
#[must_use]
pub fn reach(spec: &Json) -> (LabelSelector, LabelSelector) {
    let selector = |key| {
        let written = spec.get(key).and_then(|json| Written::deserialize(json).ok());
        written.and_then(|written| LabelSelector::try_from(written).ok()).unwrap_or_default()
    };
    (selector("namespaceSelector"), selector("podSelector"))
}

/// Reads the `spec` of a `ClusterStaticEntry`.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn parse_static(spec: &Json, trust_domain: &TrustDomain) -> Result<Draft, RuleError> {
    let spec: StaticSpec = read(spec)?;
    let draft = Draft {
        spiffe_id: spiffe_id("spiffeID", &spec.spiffe_id)?,
        parent_id: spiffe_id("parentID", &spec.parent_id)?,
        selectors: spec.selectors.iter().map(|text| selector("selectors", text)).collect::<Result<_, _>>()?,
        x509_svid_ttl: lifetime("x509SVIDTTL", &spec.x509_svid_ttl)?,
        jwt_svid_ttl: lifetime("jwtSVIDTTL", &spec.jwt_svid_ttl)?,
        federates_with: trust_domains(&spec.federates_with)?,
        admin: spec.admin,
        downstream: spec.downstream,
        dns_names: each_once(spec.dns_names),
        hint: spec.hint,
        store_svid: spec.store_svid,
    };
    draft.check(trust_domain).map_err(RuleError::Entry)?;
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_spec_that_makes_no_sense_says_which_field_and_why() {
        let id = "spiffe://example.org/x";
        for (spec, expected) in [
            (json!({}), "spiffeIDTemplate is empty"),
            (
                json!({ "spiffeIDTemplate": 5 }),
                "the spec cannot be read: invalid type: integer `5`, expected a string",
            ),
            (
                json!({ "spiffeIDTemplate": "{{ .X" }),
                "invalid spiffeIDTemplate: template: spiffeIDTemplate:1",
            ),
            (json!({ "spiffeIDTemplate": id, "ttl": "1d" }), "invalid ttl: \"1d\" is not a duration"),
            (json!({ "spiffeIDTemplate": id, "federatesWith": ["A b"] }), "invalid federatesWith \"A b\": "),
            (
                json!({ "spiffeIDTemplate": id, "podSelector": { "matchExpressions": [{ "key": "a", "operator": "In" }] } }),
                "invalid podSelector: for In the values of \"a\" must be set",
            ),
            (
                json!({ "spiffeIDTemplate": id, "dnsNameTemplates": ["{{ nope }}"] }),
                "function \"nope\" not defined",
            ),
        ] {
            let error = Rule::parse(&spec).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_static_entry_is_checked_as_the_server_would() {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let good = json!({
            "spiffeID": "spiffe://example.org/db", "parentID": "spiffe://example.org/node",
            "selectors": ["unix:uid:1", "unix:uid:1"], "x509SVIDTTL": "90s", "dnsNames": ["db", "db"], "futureField": 1,
        });
        let draft = parse_static(&good, &trust_domain).unwrap();
        assert_eq!((draft.selectors.len(), draft.x509_svid_ttl, draft.dns_names.len()), (1, 90, 1));
        let check = |key: &str, value: Json, expected: &str| {
            let mut spec = good.clone();
            spec[key] = value;
            let error = parse_static(&spec, &trust_domain).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("spiffeID", json!("spiffe://other.org/db"), "is not a member of trust domain \"example.org\"");
        check("parentID", json!("node"), "invalid parentID \"node\"");
        check("selectors", json!([]), "selector list is empty");
        check("selectors", json!(["unix"]), "invalid selectors \"unix\": must be formatted as type:value");
        check("dnsNames", json!(["a b"]), "invalid DNS name");
    }
}
