//! Where the bundle of a foreign trust domain is to be had, and how to tell that it is the right place
//! (SPIFFE Federation §5).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::spiffe_id::SpiffeId;
use crate::trust_domain::TrustDomain;

/// That the bundle of a trust domain is fetched, and from where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FederationRelationship {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// Where it is served.
    pub bundle_endpoint_url: EndpointUrl,
    /// How the endpoint proves that it is the right one.
    pub bundle_endpoint_profile: EndpointProfile,
}

/// How a bundle endpoint proves who it is (SPIFFE Federation §5.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EndpointProfile {
    /// By a certificate for its host name from an authority of the web.
    HttpsWeb,
    /// By the X.509-SVID of this SPIFFE ID, which may be of any trust domain whose bundle is held.
    HttpsSpiffe {
        /// Whom the endpoint must be.
        endpoint_spiffe_id: SpiffeId,
    },
}

impl EndpointProfile {
    /// The name that configurations and logs have for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::HttpsWeb => "https_web",
            Self::HttpsSpiffe { .. } => "https_spiffe",
        }
    }
}

/// The URL of a bundle endpoint: `https`, with a host and without a user name.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct EndpointUrl(Arc<str>);

impl EndpointUrl {
    /// Reads a URL. The scheme may be in any case and comes out in lower case.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, EndpointUrlError> {
        let malformed = |problem| EndpointUrlError::Malformed { url: text.to_owned(), problem };
        if text.len() > MAX_ENDPOINT_URL_BYTES {
            return Err(EndpointUrlError::TooLong);
        }
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(malformed("invalid control character in URL"));
        }
        // SPIFFE Federation §5.2: both profiles are over HTTPS.
        let Some((scheme, rest)) = text.split_once(':') else { return Err(EndpointUrlError::Scheme) };
        if !scheme.eq_ignore_ascii_case("https") {
            return Err(EndpointUrlError::Scheme);
        }
        let Some(rest) = rest.strip_prefix("//") else { return Err(EndpointUrlError::NoHost) };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        // SPIFFE Federation §5.2.1.1 and §5.2.2.1: no user info.
        if authority.contains('@') {
            return Err(EndpointUrlError::UserInfo);
        }
        check_authority(authority).map_err(|problem| match problem {
            Some(problem) => malformed(problem),
            None => EndpointUrlError::NoHost,
        })?;
        Ok(Self(format!("https:{}", &text[scheme.len() + 1..]).into()))
    }

    /// The URL as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `None` as error says that there is no host.
fn check_authority(authority: &str) -> Result<(), Option<&'static str>> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(address) => {
            let (address, after) = address.split_once(']').ok_or(Some("missing ']' in host"))?;
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(Some("invalid IPv6 address in host"));
            }
            (address, after)
        }
        None => authority.find(':').map_or((authority, ""), |colon| authority.split_at(colon)),
    };
    if host.is_empty() {
        return Err(None);
    }
    let allowed = |byte: u8| {
        byte > b' ' && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    };
    if !host.bytes().all(allowed) {
        return Err(Some("invalid character in host name"));
    }
    match port.strip_prefix(':') {
        Some(number) if number.is_empty() || number.parse::<u16>().is_ok() => Ok(()),
        None if port.is_empty() => Ok(()),
        _ => Err(Some("invalid port after host")),
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "EndpointUrl({})", self.0)
    }
}

impl FromStr for EndpointUrl {
    type Err = EndpointUrlError;

    fn from_str(text: &str) -> Result<Self, EndpointUrlError> {
        Self::parse(text)
    }
}

/// Why a URL cannot be that of a bundle endpoint. SPIRE's tools show these sentences, so they are interface.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointUrlError {
    /// Not a URL.
    #[error("failed to parse bundle endpoint URL: parse {url:?}: {problem}")]
    Malformed {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Longer than [`MAX_ENDPOINT_URL_BYTES`].
    #[error("bundle endpoint URL is longer than {MAX_ENDPOINT_URL_BYTES} bytes")]
    TooLong,
    /// Another scheme, or none.
    #[error("bundle endpoint URL must use the https scheme")]
    Scheme,
    /// No host.
    #[error("bundle endpoint URL must specify the host")]
    NoHost,
    /// A user name.
    #[error("bundle endpoint URL must not contain user info")]
    UserInfo,
}

/// Longest URL of a bundle endpoint. A longer one is refused.
pub const MAX_ENDPOINT_URL_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let parsed = EndpointUrl::parse(text);
        let told = parsed.as_ref().map(EndpointUrl::as_str).map_err(ToString::to_string);
        assert_eq!(told.as_ref().copied().map_err(String::as_str), expected, "{text:?}");
    }

    #[test]
    fn https_urls_with_a_host_are_taken_as_they_are() {
        for url in [
            "https://example.org",
            "https://example.org:8443/bundle.json?x=1#y",
            "https://10.0.0.1:8443",
            "https://[2001:db8::1]:8443/",
            "https://example.org:",
        ] {
            check(url, Ok(url));
        }
        check("HTTPS://Example.org/", Ok("https://Example.org/"));
    }

    #[test]
    fn others_are_refused_in_the_words_of_spire() {
        check("http://example.org", Err("bundle endpoint URL must use the https scheme"));
        check("example.org/path", Err("bundle endpoint URL must use the https scheme"));
        check("", Err("bundle endpoint URL must use the https scheme"));
        check("https:///path", Err("bundle endpoint URL must specify the host"));
        check("https://", Err("bundle endpoint URL must specify the host"));
        check("https:opaque", Err("bundle endpoint URL must specify the host"));
        check("https://user:pw@example.org", Err("bundle endpoint URL must not contain user info"));
        let malformed = |url: &str, problem: &str| {
            check(url, Err(&format!("failed to parse bundle endpoint URL: parse {url:?}: {problem}")));
        };
        malformed("https://exa mple.org", "invalid character in host name");
        malformed("https://example.org:port", "invalid port after host");
        malformed("https://[::1", "missing ']' in host");
        malformed("https://[::1]x", "invalid port after host");
        malformed("https://a\n", "invalid control character in URL");
        let long = format!("https://{}", "a".repeat(MAX_ENDPOINT_URL_BYTES));
        check(&long, Err("bundle endpoint URL is longer than 2048 bytes"));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_reads_back_the_same(text in "(https|HTTPS|http)?:?/{0,3}\\PC{0,20}") {
            if let Ok(url) = EndpointUrl::parse(&text) {
                prop_assert_eq!(EndpointUrl::parse(url.as_str()).unwrap(), url);
            }
        }
    }
}
