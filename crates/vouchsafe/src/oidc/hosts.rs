//! Which hosts the provider answers for.
//!
//! A verifier takes the issuer of the discovery document for true if it is the one that it asked for. So the document is
//! written for configured domains only, whatever a client or a proxy puts into `Host` or `X-Forwarded-Host`.

use std::collections::BTreeSet;

use http::Request;
use http::header::HOST;

use crate::go;

/// The configured domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hosts(BTreeSet<String>);

impl Hosts {
    /// Allows these domains, each of which [`check_domain`] found good.
    pub(crate) fn new(domains: impl IntoIterator<Item = String>) -> Self {
        Self(domains.into_iter().collect())
    }

    /// Refuses a host (`domain` or `domain:port`) whose domain is not configured.
    pub(crate) fn check(&self, host: &str) -> Result<(), HostError> {
        let (domain, port) = split_port(host);
        check_domain(domain)?;
        // Anything else behind the colon would become part of the issuer.
        let is_port = port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        if is_port && !host.starts_with('[') && self.0.contains(domain) {
            Ok(())
        } else {
            Err(HostError::NotAllowed { domain: domain.to_owned() })
        }
    }
}

/// The host that a request is for: as a proxy tells, or as the client does. Empty if nobody does.
pub(crate) fn requested(request: &Request<()>) -> String {
    let header = |name: &str| request.headers().get(name).filter(|value| !value.is_empty());
    let forwarded = header("x-forwarded-host");
    match (forwarded, request.uri().authority(), header(HOST.as_str())) {
        (Some(value), _, _) | (None, None, Some(value)) => {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        }
        (None, Some(authority), _) => authority.as_str().to_owned(),
        (None, None, None) => String::new(),
    }
}

/// The scheme by which a proxy says that the client came, in lower case. Empty if nobody says.
pub(crate) fn scheme(request: &Request<()>) -> String {
    let header = |name: &str| {
        let value = request.headers().get(name)?.to_str().ok()?;
        (!value.is_empty()).then(|| value.to_ascii_lowercase())
    };
    let told = header("x-forwarded-proto").or_else(|| header("x-forwarded-scheme"));
    let told = told.or_else(|| match header("forwarded")?.split_once("proto=")?.1 {
        value if value.starts_with("https") => Some("https".to_owned()),
        value if value.starts_with("http") => Some("http".to_owned()),
        _ => None,
    });
    told.unwrap_or_else(|| request.uri().scheme_str().unwrap_or_default().to_owned())
}

/// Whether a domain is one, in the form in which it travels: lower case, other scripts as punycode.
///
/// # Errors
///
/// What is wrong with it, in SPIRE's words.
pub(crate) fn check_domain(domain: &str) -> Result<(), HostError> {
    let wrong = |reason: String| HostError::Invalid { domain: domain.to_owned(), reason };
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.') || !c.is_ascii();
    if let Some(rune) = domain.chars().find(|c| !allowed(c)) {
        return Err(wrong(format!("disallowed rune U+{:04X}", rune as u32)));
    }
    for label in domain.split('.') {
        let reserved = label.len() > 4 && label.as_bytes().get(2..4) == Some(b"--");
        let reserved = reserved && !label.to_ascii_lowercase().starts_with("xn--");
        if label.starts_with('-') || label.ends_with('-') || reserved {
            return Err(wrong(format!("invalid label {}", go::quote(&label.to_ascii_lowercase()))));
        }
    }
    if domain.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
        return Err(HostError::NotEncoded { domain: domain.to_owned() });
    }
    Ok(())
}

/// Splits `host:port` as Go's `net.SplitHostPort`; what has not that form is a host without a port.
fn split_port(host: &str) -> (&str, Option<&str>) {
    let bracket = |c| matches!(c, '[' | ']');
    let split = match host.strip_prefix('[') {
        Some(rest) => rest
            .split_once(']')
            .and_then(|(domain, rest)| rest.strip_prefix(':').map(|port| (domain, port)))
            .filter(|(_, port)| !port.contains(':')),
        None => host.rsplit_once(':').filter(|(domain, _)| !domain.contains(':')),
    };
    match split.filter(|(domain, port)| !domain.contains(bracket) && !port.contains(bracket)) {
        Some((domain, port)) => (domain, Some(port)),
        None => (host, None),
    }
}

/// Why a host is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    /// It is not a domain name.
    #[error("domain {} is not a valid domain name: idna: {reason}", go::quote(domain))]
    Invalid {
        /// What was asked for.
        domain: String,
        /// Why.
        reason: String,
    },
    /// It has upper case or another script.
    #[error("domain {} must already be punycode encoded", go::quote(domain))]
    NotEncoded {
        /// What was asked for.
        domain: String,
    },
    /// It is not configured.
    #[error("domain {} is not allowed", go::quote(domain))]
    NotAllowed {
        /// What was asked for.
        domain: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(host: &str) -> String {
        let hosts =
            Hosts::new(["localhost", "example.org", "127.0.0.1", "xn--bcher-kva.de"].map(str::to_owned));
        hosts.check(host).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn only_configured_domains_are_answered_for_in_spires_words() {
        for good in ["localhost", "localhost:8080", "localhost:", "127.0.0.1:443", "xn--bcher-kva.de"] {
            assert_eq!(said(good), "", "{good}");
        }
        assert_eq!(said("foo"), "domain \"foo\" is not allowed");
        assert_eq!(said("foo:80"), "domain \"foo\" is not allowed");
        assert_eq!(said("a..b"), "domain \"a..b\" is not allowed");
        assert_eq!(said(""), "domain \"\" is not allowed");
        assert_eq!(said("EXAMPLE.org"), "domain \"EXAMPLE.org\" must already be punycode encoded");
        assert_eq!(said("bücher.de"), "domain \"bücher.de\" must already be punycode encoded");
        let invalid = |host: &str, reason| {
            let expected = format!("domain {host:?} is not a valid domain name: idna: {reason}");
            assert!(said(host) == expected || said(&format!("[{host}]:80")) == expected, "{}", said(host));
        };
        invalid("fo_o", "disallowed rune U+005F");
        invalid("::1", "disallowed rune U+003A");
        invalid("a.-b", "invalid label \"-b\"");
        invalid("ab--c", "invalid label \"ab--c\"");
    }

    #[test]
    fn nothing_but_a_port_may_follow_a_configured_domain() {
        for bad in ["localhost:80/x", "localhost:evil", "[localhost]:80", "localhost:80:80", "x@localhost"] {
            assert_ne!(said(bad), "", "{bad}");
        }
    }

    #[test]
    fn a_proxy_tells_host_and_scheme() {
        let request = |headers: &[(&str, &str)]| {
            let mut request = Request::get("/").header("host", "inside");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(()).unwrap();
            (requested(&request), scheme(&request))
        };
        let pair = |host: &str, scheme: &str| (host.to_owned(), scheme.to_owned());
        assert_eq!(request(&[]), pair("inside", ""));
        assert_eq!(
            request(&[("x-forwarded-host", "out:1"), ("x-forwarded-proto", "HTTPS")]),
            pair("out:1", "https")
        );
        assert_eq!(request(&[("x-forwarded-scheme", "https")]), pair("inside", "https"));
        assert_eq!(request(&[("forwarded", "host=x;Proto=https")]), pair("inside", "https"));
        assert_eq!(request(&[("x-forwarded-host", "")]), pair("inside", ""));
    }
}
