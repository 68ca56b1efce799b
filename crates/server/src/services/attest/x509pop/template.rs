//! `agent_path_template`: the path of an agent's SPIFFE ID, made from what its certificate says.
//!
//! A template is text with `{{ .Field }}` in it: the part of Go's `text/template` that such templates need. Pipelines,
//! functions, conditions and comments are refused by name when the configuration is read, never at an attestation. A
//! field that a certificate does not have refuses that node.

use std::collections::BTreeMap;
use std::fmt;

/// What a template may name.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) fingerprint: String,
    pub(crate) serial_number: String,
    pub(crate) serial_number_hex: String,
    pub(crate) trust_domain: String,
    pub(crate) svid_path_trimmed: String,
    pub(crate) subject_common_name: String,
    pub(crate) subject_serial_number: String,
    pub(crate) issuer_common_name: String,
    pub(crate) uri_san_selectors: BTreeMap<String, String>,
}

/// A template that was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AgentPath {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Field {
    PluginName,
    Fingerprint,
    SerialNumber,
    SerialNumberHex,
    TrustDomain,
    SvidPathTrimmed,
    SubjectCommonName,
    SubjectSerialNumber,
    IssuerCommonName,
    UriSanSelector(String),
}

/// Longest template, in bytes.
const MAX_TEMPLATE: usize = 2048;
const PLUGIN: &str = "x509pop";
const FIELDS: &str = "PluginName, Fingerprint, SerialNumber, SerialNumberHex, TrustDomain, SVIDPathTrimmed, \
                      Subject.CommonName, Subject.SerialNumber, Issuer.CommonName, URISanSelectors.KEY";

impl AgentPath {
    /// `/x509pop/<SHA-1 of the certificate>`, SPIRE's default for certificates of another PKI.
    #[must_use]
    pub fn by_fingerprint() -> Self {
        Self::of(Field::Fingerprint)
    }

    /// `/x509pop/<path of the SVID after the prefix>`, SPIRE's default for SVIDs.
    #[must_use]
    pub fn by_svid_path() -> Self {
        Self::of(Field::SvidPathTrimmed)
    }

    fn of(field: Field) -> Self {
        let text = |text: &str| Part::Text(text.to_owned());
        Self { parts: vec![text("/"), Part::Field(Field::PluginName), text("/"), Part::Field(field)] }
    }

    /// Reads a template.
    ///
    /// # Errors
    ///
    /// [`AgentPathError`] names what is not supported.
    pub fn parse(template: &str) -> Result<Self, AgentPathError> {
        if template.len() > MAX_TEMPLATE {
            return Err(AgentPathError::TooLong);
        }
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((text, after)) = rest.split_once("{{") {
            let (action, after) = after.split_once("}}").ok_or(AgentPathError::Unclosed)?;
            let (mut text, mut action, mut after) = (text, action, after);
            if let Some(trimmed) = action.strip_prefix("- ") {
                (text, action) = (text.trim_end(), trimmed);
            }
            if let Some(trimmed) = action.strip_suffix(" -") {
                (action, after) = (trimmed, after.trim_start());
            }
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            parts.push(Part::Field(Field::parse(action.trim())?));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The path for a node.
    ///
    /// # Errors
    ///
    /// [`MissingKey`] when its certificate has no such selector.
    pub(crate) fn render(&self, facts: &Facts) -> Result<String, MissingKey> {
        let mut path = String::new();
        for part in &self.parts {
            path.push_str(match part {
                Part::Text(text) => text,
                Part::Field(field) => field.value(facts)?,
            });
        }
        Ok(path)
    }
}

impl Field {
    fn parse(action: &str) -> Result<Self, AgentPathError> {
        let name = action.strip_prefix('.').filter(|name| !name.is_empty());
        let plain = |name: &str| name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
        let Some(name) = name.filter(|name| plain(name)) else {
            return Err(AgentPathError::Action(action.to_owned()));
        };
        Ok(match name {
            "PluginName" => Self::PluginName,
            "Fingerprint" => Self::Fingerprint,
            "SerialNumber" => Self::SerialNumber,
            "SerialNumberHex" => Self::SerialNumberHex,
            "TrustDomain" => Self::TrustDomain,
            "SVIDPathTrimmed" => Self::SvidPathTrimmed,
            "Subject.CommonName" => Self::SubjectCommonName,
            "Subject.SerialNumber" => Self::SubjectSerialNumber,
            "Issuer.CommonName" => Self::IssuerCommonName,
            _ => match name.strip_prefix("URISanSelectors.") {
                Some(key) if !key.is_empty() && !key.contains('.') => Self::UriSanSelector(key.to_owned()),
                _ => return Err(AgentPathError::Field(name.to_owned())),
            },
        })
    }

    fn value<'a>(&self, facts: &'a Facts) -> Result<&'a str, MissingKey> {
        Ok(match self {
            Self::PluginName => PLUGIN,
            Self::Fingerprint => &facts.fingerprint,
            Self::SerialNumber => &facts.serial_number,
            Self::SerialNumberHex => &facts.serial_number_hex,
            Self::TrustDomain => &facts.trust_domain,
            Self::SvidPathTrimmed => &facts.svid_path_trimmed,
            Self::SubjectCommonName => &facts.subject_common_name,
            Self::SubjectSerialNumber => &facts.subject_serial_number,
            Self::IssuerCommonName => &facts.issuer_common_name,
            Self::UriSanSelector(key) => {
                facts.uri_san_selectors.get(key).ok_or_else(|| MissingKey(key.clone()))?
            }
        })
    }
}

impl fmt::Display for MissingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.0;
        write!(
            f,
            "template: agent-path: executing \"agent-path\" at <.URISanSelectors.{key}>: \
             map has no entry for key {key:?}"
        )
    }
}

/// A certificate has no URI `x509pop://<trust domain>/<key>/…` for the key that the template names.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct MissingKey(String);

impl std::error::Error for MissingKey {}

/// A template that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentPathError {
    /// Longer than the bound.
    #[error("the template is longer than {MAX_TEMPLATE} bytes")]
    TooLong,
    /// `{{` without `}}`.
    #[error("unclosed action: \"{{{{\" without \"}}}}\"")]
    Unclosed,
    /// Something else than a field in braces.
    #[error(
        "\"{{{{ {0} }}}}\" is not supported: only fields are, such as \"{{{{ .Fingerprint }}}}\" (no functions, \
         pipelines or conditions)"
    )]
    Action(String),
    /// A field that there is not, or that does not fit into a path.
    #[error("field .{0} is not supported; use one of {FIELDS}")]
    Field(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            fingerprint: "ab12".into(),
            serial_number: "10".into(),
            serial_number_hex: "0a".into(),
            trust_domain: "example.org".into(),
            svid_path_trimmed: "rack/7".into(),
            subject_common_name: "node".into(),
            uri_san_selectors: [("datacenter".into(), "us-east-1/a".into())].into(),
            ..Facts::default()
        }
    }

    fn rendered(template: &str) -> String {
        AgentPath::parse(template).unwrap().render(&facts()).unwrap()
    }

    #[test]
    fn fields_are_put_in_their_places() {
        assert_eq!(rendered("/{{ .PluginName }}/{{ .Fingerprint }}"), "/x509pop/ab12");
        assert_eq!(rendered("/{{.PluginName}}/{{.SVIDPathTrimmed}}"), "/x509pop/rack/7");
        assert_eq!(rendered("/foo/{{ .Subject.CommonName }}-{{.SerialNumberHex}}"), "/foo/node-0a");
        assert_eq!(rendered("/{{ .URISanSelectors.datacenter }}/x"), "/us-east-1/a/x");
        assert_eq!(rendered("/{{- .TrustDomain -}} /{{ .SerialNumber }}"), "/example.org/10");
        assert_eq!(rendered("/static"), "/static");
        assert_eq!(
            AgentPath::by_fingerprint(),
            AgentPath::parse("/{{.PluginName}}/{{.Fingerprint}}").unwrap()
        );
        assert_eq!(AgentPath::by_svid_path().render(&facts()).unwrap(), "/x509pop/rack/7");
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let refused = |template: &str| AgentPath::parse(template).unwrap_err().to_string();
        assert!(refused("/{{ .Foo }}").starts_with("field .Foo is not supported; use one of PluginName"));
        assert!(refused("/{{ .Subject.Organization }}").contains(".Subject.Organization"));
        assert!(refused("/{{ .Fingerprint | upper }}").contains("{{ .Fingerprint | upper }}"));
        assert!(refused("/{{ if .Fingerprint }}x{{ end }}").contains("\"{{ if .Fingerprint }}\""));
        assert!(refused("/{{ .Fingerprint").contains("unclosed"));
        assert!(refused("/{{ . }}").contains("is not supported"));
        assert!(refused("/{{ .URISanSelectors. }}").contains("is not supported"));
        assert!(refused(&"x".repeat(MAX_TEMPLATE + 1)).contains("longer"));
    }

    #[test]
    fn a_selector_that_a_certificate_does_not_have_refuses_the_node() {
        let template = AgentPath::parse("/{{ .URISanSelectors.rack }}").unwrap();
        assert!(
            template.render(&facts()).unwrap_err().to_string().contains("map has no entry for key \"rack\"")
        );
    }
}
