//! `$NAME` and `${NAME}` in a text, replaced before it is parsed (`-expandEnv`).

/// Replaces `$NAME` and `${NAME}` by what `lookup` gives, or by nothing where it gives nothing. `$$` is a dollar sign.
///
/// The rules are those of Go's `os.Expand`, which SPIRE uses: a `$` that no name follows stays, `${}` and an unclosed
/// `${` vanish, and a digit or one of `*#$@!?-` is a name of one character.
pub fn expand_environment(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, taken) = name_after_dollar(after);
        match (name, taken) {
            ("", 0) => expanded.push('$'),
            ("", _) => {}
            ("$", _) => expanded.push('$'),
            (name, _) => expanded.push_str(&lookup(name).unwrap_or_default()),
        }
        rest = &after[taken..];
    }
    expanded.push_str(rest);
    expanded
}

/// The name that starts `text`, and how many bytes belong to it. No name and no bytes: the dollar stands for itself.
fn name_after_dollar(text: &str) -> (&str, usize) {
    let Some(first) = text.chars().next() else { return ("", 0) };
    if let Some(braced) = text.strip_prefix('{') {
        return match braced.find('}') {
            Some(0) => ("", 2),
            Some(end) => (&braced[..end], end + 2),
            None => ("", 1),
        };
    }
    if is_special(first) {
        return (&text[..1], 1);
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    (&text[..end], end)
}

fn is_special(c: char) -> bool {
    matches!(c, '*' | '#' | '$' | '@' | '!' | '?' | '-' | '0'..='9')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_follows_the_rules_of_go() {
        let lookup = |name: &str| match name {
            "HOME" => Some("/root".to_owned()),
            "1" => Some("one".to_owned()),
            "odd name" => Some("odd".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("$HOME/x", "/root/x"),
            ("${HOME}x", "/rootx"),
            ("$HOMEx", ""),
            ("$UNSET.", "."),
            ("a$$b", "a$b"),
            ("${$}", "$"),
            ("$1", "one"),
            ("$1x", "onex"),
            ("${odd name}", "odd"),
            ("$", "$"),
            ("5 $ 6", "5 $ 6"),
            ("a${}b", "ab"),
            ("a${b", "ab"),
            ("é$HOMEé", "é/rooté"),
        ] {
            assert_eq!(expand_environment(text, lookup), expected, "{text:?}");
        }
    }
}
