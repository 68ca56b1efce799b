//! Names that an entry may add to an X.509-SVID.

/// Checks a DNS name as it may stand in a certificate, optionally with `*.` in front.
///
/// Labels hold letters, digits, dashes and underscores (an internationalized name is written in its `xn--` form).
/// What SPIRE issues without a complaint and no resolver can look up, such as a blank inside a label, is refused.
///
/// # Errors
///
/// The first rule that the name breaks.
pub fn check_dns_name(name: &str) -> Result<(), DnsNameError> {
    if !name.is_ascii() {
        return Err(DnsNameError::NotAscii);
    }
    let stars = name.bytes().filter(|byte| *byte == b'*').count();
    let rest = match stars {
        0 => name,
        1 => name.strip_prefix("*.").ok_or(DnsNameError::WildcardPlace)?,
        _ => return Err(DnsNameError::Wildcards),
    };
    if rest.trim().is_empty() {
        return Err(DnsNameError::Empty);
    }
    if rest.ends_with('.') {
        return Err(DnsNameError::TrailingDot);
    }
    // RFC 1035 §2.3.4: "labels 63 octets or less", "names 255 octets or less", which is 253 characters of text.
    if name.len() > MAX_DNS_NAME_BYTES {
        return Err(DnsNameError::TooLong);
    }
    rest.split('.').try_for_each(check_label)
}

/// Finds a name that a wildcard of the same list covers already (`a.example` beside `*.example`).
#[must_use]
pub fn wildcard_overlap(names: &[String]) -> Option<&str> {
    let covered = |name: &&String| {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        !name.starts_with('*')
            && names.iter().any(|other| other.strip_prefix("*.").is_some_and(|p| Some(p) == parent))
    };
    names.iter().find(covered).map(String::as_str)
}

fn check_label(label: &str) -> Result<(), DnsNameError> {
    if label.is_empty() {
        return Err(DnsNameError::EmptyLabel);
    }
    if label.len() > MAX_LABEL_BYTES {
        return Err(DnsNameError::TooLong);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !label.bytes().all(allowed) {
        return Err(DnsNameError::Character);
    }
    let ends = label.starts_with('-') || label.ends_with('-');
    let reserved = label.as_bytes().get(2..4) == Some(b"--") && !label.starts_with("xn--");
    if ends || reserved {
        return Err(DnsNameError::Hyphen);
    }
    Ok(())
}

/// Why a text is no DNS name for a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsNameError {
    /// Not ASCII.
    #[error("name must be ascii")]
    NotAscii,
    /// More than one `*`.
    #[error("too many wildcards")]
    Wildcards,
    /// A `*` that is not the whole first label.
    #[error("wildcard must be first label")]
    WildcardPlace,
    /// Nothing but white space.
    #[error("empty or only whitespace")]
    Empty,
    /// The root label is written out.
    #[error("domain ends with dot")]
    TrailingDot,
    /// The name or a label is too long.
    #[error("name is longer than {MAX_DNS_NAME_BYTES} characters or a label longer than {MAX_LABEL_BYTES}")]
    TooLong,
    /// Two dots in a row, or one at the start.
    #[error("label is empty")]
    EmptyLabel,
    /// Something else than a letter, digit, dash or underscore.
    #[error("label characters are limited to letters, numbers, dashes, and underscores")]
    Character,
    /// A dash at the start or end of a label, or at its third and fourth place.
    #[error("label has a hyphen at its start, its end, or at its third and fourth place")]
    Hyphen,
}

/// Longest DNS name in characters. A longer one is refused.
pub const MAX_DNS_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Result<(), DnsNameError>) {
        assert_eq!(check_dns_name(name), expected, "{name:?}");
    }

    #[test]
    fn names_and_leading_wildcards_are_accepted() {
        let long = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        for name in [
            "com",
            "example.com",
            "*.example.com",
            "xn--ls8h.org",
            "a-hello.com",
            "_spiffe._tcp.a",
            "A.b",
            "1.2.3.4",
            &long,
        ] {
            check(name, Ok(()));
        }
    }

    #[test]
    fn names_that_no_certificate_should_carry_are_refused() {
        check("", Err(DnsNameError::Empty));
        check(" ", Err(DnsNameError::Empty));
        check("*.", Err(DnsNameError::Empty));
        check(".", Err(DnsNameError::TrailingDot));
        check("example.com.", Err(DnsNameError::TrailingDot));
        check("*.foo.*.bar", Err(DnsNameError::Wildcards));
        check("foo.*.bar", Err(DnsNameError::WildcardPlace));
        check("*", Err(DnsNameError::WildcardPlace));
        check("a*.b", Err(DnsNameError::WildcardPlace));
        check("💩.com", Err(DnsNameError::NotAscii));
        check("a..b", Err(DnsNameError::EmptyLabel));
        check(".a", Err(DnsNameError::EmptyLabel));
        check("-hello.com", Err(DnsNameError::Hyphen));
        check("hello-.com", Err(DnsNameError::Hyphen));
        check("ab--c.com", Err(DnsNameError::Hyphen));
        check("a b.com", Err(DnsNameError::Character));
        check("a\n.com", Err(DnsNameError::Character));
        check("a/b", Err(DnsNameError::Character));
        check(&"a".repeat(64), Err(DnsNameError::TooLong));
        check("a.".repeat(130).trim_end_matches('.'), Err(DnsNameError::TooLong));
    }

    #[test]
    fn a_name_beside_its_own_wildcard_is_found() {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(wildcard_overlap(&names(&["*.example.com", "a.example.com"])), Some("a.example.com"));
        assert_eq!(wildcard_overlap(&names(&["example.com", "*.example.com", "a.b.example.com"])), None);
    }
}
