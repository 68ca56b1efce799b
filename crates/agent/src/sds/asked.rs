//! What a client asks for: names, and the form of validation contexts that it understands. Pure.

use std::fmt;

use prost_types::value::Kind;
use vouchsafe_proto::envoy::config::core::v3::Node;

/// What the answer depends on besides the caller's identities.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    /// Resource names, sorted, each once. None means everything that the caller may have.
    pub names: Box<[Box<str>]>,
    /// How bundles are sent.
    pub validator: Validator,
}

/// How a bundle is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Validator {
    /// For Envoy's `envoy.tls.cert_validator.spiffe`, which checks that a peer's SVID is signed by an authority of the
    /// trust domain that it names.
    Spiffe,
    /// As `trusted_ca`: any authority may sign any name.
    TrustedCa,
}

/// The distinct names of a request. Empty ones count for nothing.
#[must_use]
pub fn names(mut requested: Vec<String>) -> Box<[Box<str>]> {
    requested.retain(|name| !name.is_empty());
    requested.sort_unstable();
    requested.dedup();
    requested.into_iter().map(String::into_boxed_str).collect()
}

impl Validator {
    /// For `node`. `disabled` is what the agent's configuration says; the node's metadata may say otherwise. Envoy has
    /// had the validator since 1.18; a client that does not say what it is, is not that old.
    #[must_use]
    pub fn of(node: &Node, disabled: bool) -> Self {
        let metadata = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(DISABLE));
        let disabled = metadata.and_then(|value| boolean(value.kind.as_ref())).unwrap_or(disabled);
        let version = node.user_agent_build_version.as_ref().and_then(|build| build.version.as_ref());
        let too_old = version
            .is_some_and(|version| (version.major_number, version.minor_number) < FIRST_WITH_VALIDATOR);
        if disabled || too_old { Self::TrustedCa } else { Self::Spiffe }
    }
}

/// Go's spelling of a boolean. Anything else says nothing.
fn boolean(value: Option<&Kind>) -> Option<bool> {
    match value? {
        Kind::BoolValue(value) => Some(*value),
        Kind::StringValue(text) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Names as they are written into a message or a log line: quoted, and no more of them than fit into
/// [`MAX_LISTED_BYTES`]; then how many others there are.
pub struct Listed<'a, T>(pub &'a [T]);

impl<T: AsRef<str>> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut room = MAX_LISTED_BYTES;
        f.write_str("[")?;
        for (place, name) in self.0.iter().enumerate() {
            let name = name.as_ref();
            if name.len() > room {
                return write!(f, "] and {} more", self.0.len() - place);
            }
            room -= name.len();
            let separator = if place == 0 { "" } else { " " };
            write!(f, "{separator}{name:?}")?;
        }
        f.write_str("]")
    }
}

/// Room for the names themselves in one text. A status travels in a header, and clients bound those.
pub const MAX_LISTED_BYTES: usize = 2048;

/// Key of a node's metadata, and of the agent's configuration.
const DISABLE: &str = "disable_spiffe_cert_validation";

const FIRST_WITH_VALIDATOR: (u32, u32) = (1, 18);

#[cfg(test)]
mod tests {
    use prost_types::{Struct, Value};
    use vouchsafe_proto::envoy::config::core::v3::BuildVersion;
    use vouchsafe_proto::envoy::r#type::v3::SemanticVersion;

    use super::*;

    fn node(version: Option<(u32, u32)>, metadata: Option<Kind>) -> Node {
        let version = version.map(|(major_number, minor_number)| BuildVersion {
            version: Some(SemanticVersion { major_number, minor_number, patch: 0 }),
        });
        let metadata =
            metadata.map(|kind| Struct { fields: [(DISABLE.to_owned(), Value { kind: Some(kind) })].into() });
        Node { id: String::new(), metadata, user_agent_build_version: version }
    }

    #[test]
    fn an_envoy_of_before_the_validator_gets_plain_authorities() {
        let check = |version, expected| {
            assert_eq!(Validator::of(&node(version, None), false), expected, "{version:?}")
        };
        check(None, Validator::Spiffe);
        check(Some((1, 17)), Validator::TrustedCa);
        check(Some((1, 18)), Validator::Spiffe);
        check(Some((2, 0)), Validator::Spiffe);
        check(Some((0, 99)), Validator::TrustedCa);
        let unsaid =
            Node { user_agent_build_version: Some(BuildVersion { version: None }), ..Node::default() };
        assert_eq!(Validator::of(&unsaid, false), Validator::Spiffe);
    }

    #[test]
    fn the_nodes_metadata_overrules_the_configuration_when_it_is_a_boolean() {
        let text = |text: &str| Kind::StringValue(text.to_owned());
        let check = |value: Kind, configured, expected| {
            assert_eq!(Validator::of(&node(None, Some(value.clone())), configured), expected, "{value:?}");
        };
        check(Kind::BoolValue(true), false, Validator::TrustedCa);
        check(Kind::BoolValue(false), true, Validator::Spiffe);
        check(text("True"), false, Validator::TrustedCa);
        check(text("0"), true, Validator::Spiffe);
        check(text("yes"), true, Validator::TrustedCa);
        check(text("yes"), false, Validator::Spiffe);
        check(Kind::NumberValue(1.0), false, Validator::Spiffe);
        assert_eq!(Validator::of(&node(None, None), true), Validator::TrustedCa);
    }

    #[test]
    fn names_count_once_and_empty_ones_not_at_all() {
        let list = ["b", "", "a", "b"].map(str::to_owned).to_vec();
        assert_eq!(names(list).iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["a", "b"]);
    }

    #[test]
    fn a_list_of_a_million_names_is_short() {
        assert_eq!(Listed(&["a", "b\"c"]).to_string(), r#"["a" "b\"c"]"#);
        let many: Vec<String> = (0..1_000_000).map(|n| format!("name-{n}")).collect();
        let text = Listed(&many).to_string();
        assert!(text.len() < 2 * MAX_LISTED_BYTES && text.ends_with(" more"), "{text}");
        assert_eq!(Listed(&["x".repeat(5_000)]).to_string(), "[] and 1 more");
    }
}
