//! The discovery document: who issues tokens, and where their keys are (OpenID Connect Discovery 1.0 §3).

use bytes::Bytes;
use serde::Serialize;

use super::keys::go_indented;

/// What the document says besides what the request says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Discovery {
    /// `jwt_issuer`
    pub(crate) issuer: Option<Url>,
    /// `jwks_uri`
    pub(crate) jwks_uri: Option<Url>,
    /// `server_path_prefix`
    pub(crate) prefix: Prefix,
}

impl Discovery {
    /// The document for a client that came to `scheme://host`.
    pub(crate) fn document(&self, scheme: &str, host: &str) -> Bytes {
        let issuer = match &self.issuer {
            Some(issuer) => issuer.text.clone(),
            None => format!("{scheme}://{host}{}", self.prefix.0.as_deref().unwrap_or_default()),
        };
        let jwks_uri = match (&self.jwks_uri, &self.issuer) {
            (Some(uri), _) => uri.text.clone(),
            // SPIRE still lets the issuer say where the keys are.
            (None, Some(issuer)) => {
                format!("{}://{}{}", issuer.scheme, issuer.host, join(&issuer.path, "keys"))
            }
            (None, None) => format!("{scheme}://{host}{}", self.prefix.page("keys")),
        };
        go_indented(&Document {
            issuer,
            jwks_uri,
            authorization_endpoint: "",
            response_types_supported: ["id_token"],
            subject_types_supported: ["public"],
            id_token_signing_alg_values_supported: ["RS256", "ES256", "ES384"],
        })
    }
}

#[derive(Serialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
    authorization_endpoint: &'static str,
    response_types_supported: [&'static str; 1],
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: [&'static str; 3],
}

/// What stands before the path of every page. `None`: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefix(Option<String>);

impl Prefix {
    /// Reads `server_path_prefix`.
    ///
    /// # Errors
    ///
    /// It does not begin with a slash, or has something that a path should not have.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '.' | '_' | '~');
        let dots = text.split('/').any(|segment| matches!(segment, "." | ".."));
        if !text.starts_with('/') || !text.chars().all(plain) || dots {
            return Err("must begin with / and have only letters, digits, and - . _ ~ /".to_owned());
        }
        Ok(Self((text != "/").then(|| text.to_owned())))
    }

    /// The path of a page.
    pub(crate) fn page(&self, name: &str) -> String {
        join(self.0.as_deref().unwrap_or_default(), name)
    }
}

/// `name` below `path`, without empty segments.
fn join(path: &str, name: &str) -> String {
    let mut joined = String::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        joined.push('/');
        joined.push_str(segment);
    }
    format!("{joined}/{name}")
}

/// An absolute URL as it was written, and its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
}

impl Url {
    /// Reads a URL that is written in ASCII, with everything encoded that must be.
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        let odd = |c: char| {
            !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
        };
        if text.contains(odd) {
            return Err(UrlError::Character);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UrlError::NoScheme)?;
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(letter) {
            return Err(UrlError::NoScheme);
        }
        let rest = rest.strip_prefix("//").ok_or(UrlError::NoHost)?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let host = authority.rsplit('@').next().unwrap_or_default();
        if host.is_empty() {
            return Err(UrlError::NoHost);
        }
        let path = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
        let scheme = scheme.to_ascii_lowercase();
        Ok(Self {
            text: format!("{scheme}{}", &text[scheme.len()..]),
            scheme,
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// Why a text is no absolute URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    /// It must be encoded.
    #[error("it has a character that must be percent-encoded")]
    Character,
    /// `https:` is missing.
    #[error("must contain a scheme")]
    NoScheme,
    /// `//example.org` is missing.
    #[error("must contain a host")]
    NoHost,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(discovery: &Discovery) -> (String, String) {
        let document = discovery.document("https", "example.org:99");
        let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
        let text = |name: &str| document[name].as_str().unwrap().to_owned();
        (text("issuer"), text("jwks_uri"))
    }

    fn url(text: &str) -> Option<Url> {
        Some(Url::parse(text).unwrap())
    }

    #[test]
    fn the_document_is_that_of_spires_program() {
        let expected = r#"{
  "issuer": "https://localhost/instance/1",
  "jwks_uri": "https://localhost/instance/1/keys",
  "authorization_endpoint": "",
  "response_types_supported": [
    "id_token"
  ],
  "subject_types_supported": [
    "public"
  ],
  "id_token_signing_alg_values_supported": [
    "RS256",
    "ES256",
    "ES384"
  ]
}"#;
        let prefix = Prefix::parse("/instance/1").unwrap();
        let discovery = Discovery { prefix, ..Discovery::default() };
        assert_eq!(discovery.document("https", "localhost"), expected);
    }

    #[test]
    fn issuer_and_keys_follow_the_configuration_before_the_request() {
        let pair = |issuer: &str, keys: &str| (issuer.to_owned(), keys.to_owned());
        let mut discovery = Discovery::default();
        assert_eq!(places(&discovery), pair("https://example.org:99", "https://example.org:99/keys"));
        discovery.issuer = url("HTTPS://login.test/a/?q#f");
        discovery.prefix = Prefix::parse("/p/").unwrap();
        assert_eq!(places(&discovery), pair("https://login.test/a/?q#f", "https://login.test/a/keys"));
        discovery.jwks_uri = url("https://cdn.test/jwks.json");
        assert_eq!(places(&discovery).1, "https://cdn.test/jwks.json");
        discovery.issuer = None;
        assert_eq!(places(&discovery).0, "https://example.org:99/p/");
    }

    #[test]
    fn urls_and_prefixes_that_mean_nothing_are_refused() {
        assert_eq!(Url::parse("example.org/a"), Err(UrlError::NoScheme));
        assert_eq!(Url::parse("https:example.org"), Err(UrlError::NoHost));
        assert_eq!(Url::parse("https:///a"), Err(UrlError::NoHost));
        assert_eq!(Url::parse("https://a b"), Err(UrlError::Character));
        assert_eq!(Url::parse("://x"), Err(UrlError::NoScheme));
        for bad in ["foo", "", "/a/../b", "/a b", "/{x}"] {
            Prefix::parse(bad).unwrap_err();
        }
        assert_eq!(Prefix::parse("/").unwrap(), Prefix::default());
        assert_eq!(Prefix::parse("//a//").unwrap().page("keys"), "/a/keys");
    }
}
