//! What a `ClusterSPIFFEID` or a `ClusterStaticEntry` says, read once per version.

use serde::Deserialize;
use serde_json::Value as Json;
use vouchsafe_types::entry::EntryError;
use vouchsafe_types::selector::SelectorError as EntrySelectorError;
use vouchsafe_types::spiffe_id::SpiffeIdError;
use vouchsafe_types::{Selector, SpiffeId, TrustDomain};

use crate::draft::Draft;
use crate::duration::{DurationError, parse_seconds};
use crate::label_selector::{LabelSelector, SelectorError, Written};
use crate::template::{Template, TemplateError};

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

/// What is wrong with a declaration, by the field that it stands in.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// Fields of the wrong kind.
    #[error("the spec cannot be read: {0}")]
    Malformed(String),
    /// A field that must be set.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A template that does not parse.
    #[error("invalid {field}: {source}")]
    Template {
        /// Where.
        field: &'static str,
        /// What is wrong with it.
        source: TemplateError,
    },
    /// A selector of Pods or namespaces.
    #[error("invalid {field}: {source}")]
    Labels {
        /// Where.
        field: &'static str,
        /// What is wrong with it.
        source: SelectorError,
    },
    /// A lifetime.
    #[error("invalid {field}: {source}")]
    Lifetime {
        /// Where.
        field: &'static str,
        /// What is wrong with it.
        source: DurationError,
    },
    /// A SPIFFE ID or trust domain.
    #[error("invalid {field} {text:?}: {source}")]
    Id {
        /// Where.
        field: &'static str,
        /// What it says.
        text: String,
        /// What is wrong with it.
        source: SpiffeIdError,
    },
    /// A SPIFFE ID of somebody else.
    #[error("invalid {field} {text:?}: expected trust domain \"{expected}\"")]
    Foreign {
        /// Where.
        field: &'static str,
        /// What it says.
        text: String,
        /// Where it should belong.
        expected: TrustDomain,
    },
    /// A selector of the entry.
    #[error("invalid {field} {text:?}: {source}")]
    Selector {
        /// Where.
        field: &'static str,
        /// What it says.
        text: String,
        /// What is wrong with it.
        source: EntrySelectorError,
    },
    /// An entry that no server would take.
    #[error("the entry cannot be: {}", chain(.0))]
    Entry(EntryError),
    /// A template that gave nothing for this Pod.
    #[error("failed to render {field}: {source}")]
    Render {
        /// Where.
        field: &'static str,
        /// What happened.
        source: TemplateError,
    },
    /// The Pod's node is not known (yet).
    #[error("node {0:?} is not known")]
    NoNode(String),
}

fn chain(error: &EntryError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
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

/// A trust domain, as a name or as a SPIFFE ID.
pub(crate) fn trust_domain(field: &'static str, text: &str) -> Result<TrustDomain, RuleError> {
    let parsed = match text.contains("://") {
        true => SpiffeId::parse(text).map(|id| id.trust_domain()),
        false => TrustDomain::parse(text),
    };
    parsed.map_err(|source| RuleError::Id { field, text: text.to_owned(), source })
}

pub(crate) fn spiffe_id(field: &'static str, text: &str) -> Result<SpiffeId, RuleError> {
    SpiffeId::parse(text).map_err(|source| RuleError::Id { field, text: text.to_owned(), source })
}

pub(crate) fn selector(field: &'static str, text: &str) -> Result<Selector, RuleError> {
    Selector::parse(text).map_err(|source| RuleError::Selector { field, text: text.to_owned(), source })
}

/// The values without those that were there before, in order.
pub(crate) fn each_once<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(values.len());
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

fn read<T: Default + for<'de> Deserialize<'de>>(spec: &Json) -> Result<T, RuleError> {
    if spec.is_null() {
        return Ok(T::default());
    }
    T::deserialize(spec).map_err(|error| RuleError::Malformed(error.to_string()))
}

fn template(field: &'static str, text: &str) -> Result<Template, RuleError> {
    Template::parse(field, text).map_err(|source| RuleError::Template { field, source })
}

fn lifetime(field: &'static str, text: &str) -> Result<u32, RuleError> {
    if text.is_empty() {
        return Ok(0);
    }
    parse_seconds(text).map_err(|source| RuleError::Lifetime { field, source })
}

fn trust_domains(texts: &[String]) -> Result<Vec<TrustDomain>, RuleError> {
    let parsed: Result<Vec<_>, _> = texts.iter().map(|text| trust_domain("federatesWith", text)).collect();
    parsed.map(each_once)
}

fn labels(field: &'static str, written: Option<Written>) -> Result<LabelSelector, RuleError> {
    let selector = LabelSelector::try_from(written.unwrap_or_default());
    selector.map_err(|source| RuleError::Labels { field, source })
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
