//! The fields of Kubernetes' types by their names in Go.
//!
//! `go_types.txt` has what `ObjectMeta`, `PodSpec` and `NodeSpec` of k8s.io/api v0.36.3 lead to: a type, then its fields, one
//! a line, with name, JSON key and kind. It was made by walking the three types with Go's reflection.
//!
//! A kind is `s` text (`q` quantity, `x` bytes: as JSON has them), `i` number, `b` flag, `t` time, `o` number or text, `*k`
//! pointer, `[k` list, `mk` map from text, or the name of a type. The key `~` says that the fields of that type stand in
//! this one, as Go embeds them.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A field of a type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Field {
    /// Its key in JSON. [`EMBEDDED`] when the value's own JSON is meant.
    pub(super) key: &'static str,
    /// What it holds.
    pub(super) kind: &'static str,
}

/// The key of a field whose fields are also those of the type that has it.
pub(super) const EMBEDDED: &str = "~";

type Fields = HashMap<&'static str, Field>;

static TYPES: LazyLock<HashMap<&'static str, Fields>> = LazyLock::new(|| {
    let mut types: HashMap<&'static str, Fields> = HashMap::new();
    let mut current = "";
    for line in include_str!("go_types.txt").lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(name), Some(key), Some(kind)) => {
                types.entry(current).or_default().insert(name, Field { key, kind });
            }
            (Some(name), ..) => current = name,
            _ => {}
        }
    }
    types
});

/// The field `name` of the type, or of one that is embedded in it.
pub(super) fn field(of: &str, name: &str) -> Option<Field> {
    let fields = TYPES.get(of)?;
    let embedded = || {
        let mut types = fields.values().filter(|field| field.key == EMBEDDED);
        types.find_map(|embedded| field(embedded.kind, name))
    };
    fields.get(name).copied().or_else(embedded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_names_in_go_also_through_embedded_types() {
        assert_eq!(field("ObjectMeta", "UID"), Some(Field { key: "uid", kind: "s" }));
        assert_eq!(field("PodSpec", "Containers"), Some(Field { key: "containers", kind: "[Container" }));
        assert_eq!(field("Volume", "Secret"), Some(Field { key: "secret", kind: "*SecretVolumeSource" }));
        assert_eq!(field("ObjectMeta", "uid"), None);
        assert_eq!(field("Nothing", "Name"), None);
    }

    #[test]
    fn every_kind_that_a_field_has_is_known() {
        for field in TYPES.values().flat_map(HashMap::values) {
            let kind = field.kind.trim_start_matches(['*', '[', 'm']);
            assert!(
                matches!(kind, "s" | "i" | "b" | "t" | "o" | "q" | "x") || TYPES.contains_key(kind),
                "{}",
                field.kind
            );
        }
    }
}
