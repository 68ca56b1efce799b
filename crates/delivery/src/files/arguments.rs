//! The arguments of a command, as spiffe-helper splits them: at single spaces, with double quotes around what has spaces,
//! and doubled double quotes inside of these. Not a shell: no other quotes, no variables.

/// Splits `text`.
///
/// # Errors
///
/// Quotes that are out of place.
pub fn split(text: &str) -> Result<Vec<String>, ArgumentsError> {
    let text = text.trim_end_matches(['\r', '\n']);
    let mut arguments = Vec::new();
    let mut rest = text;
    while !text.is_empty() {
        let after = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (argument, after) = take_quoted(quoted)?;
                arguments.push(argument);
                after
            }
            None => {
                let end = rest.find(' ').unwrap_or(rest.len());
                let (argument, after) = rest.split_at(end);
                if argument.contains('"') {
                    return Err(ArgumentsError::Inside { argument: argument.to_owned() });
                }
                if argument.contains('\n') {
                    return Err(ArgumentsError::LineBreak);
                }
                arguments.push(argument.to_owned());
                after
            }
        };
        match after.strip_prefix(' ') {
            Some(next) => rest = next,
            None if after.is_empty() => break,
            None => return Err(ArgumentsError::After { rest: after.to_owned() }),
        }
    }
    Ok(arguments)
}

/// The argument that `text` begins with, up to its closing quote, and what follows.
fn take_quoted(text: &str) -> Result<(String, &str), ArgumentsError> {
    let mut argument = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or(ArgumentsError::Open)?;
        argument.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                argument.push('"');
                rest = after;
            }
            None => return Ok((argument, rest)),
        }
    }
}

/// Why a text is no list of arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentsError {
    /// A quote in the middle.
    #[error(
        "{argument:?} has a double quote in it: put the whole argument in quotes and double those inside"
    )]
    Inside {
        /// The argument.
        argument: String,
    },
    /// Something directly after a closing quote.
    #[error("a space must follow a closing quote, not {rest:?}")]
    After {
        /// What follows.
        rest: String,
    },
    /// No closing quote.
    #[error("a double quote is not closed")]
    Open,
    /// A line break that is not quoted.
    #[error("a line break must stand in double quotes")]
    LineBreak,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(split(text).unwrap(), expected, "{text:?}");
    }

    #[test]
    fn arguments_are_split_as_by_spiffe_helper() {
        check("", &[]);
        check("start_envoy.sh", &["start_envoy.sh"]);
        check("server --listen localhost:8002", &["server", "--listen", "localhost:8002"]);
        check(r#"-e "ALTER INSTANCE RELOAD TLS;""#, &["-e", "ALTER INSTANCE RELOAD TLS;"]);
        check(r#"-p 5432 -c "SELECT pg_reload_conf();""#, &["-p", "5432", "-c", "SELECT pg_reload_conf();"]);
        check(r#""with ONE "" in it""#, &[r#"with ONE " in it"#]);
        check("-c 'echo hello'", &["-c", "'echo", "hello'"]);
        check("a  b ", &["a", "", "b", ""]);
        check("a b\n", &["a", "b"]);
        check(r#""""#, &[""]);
    }

    #[test]
    fn quotes_out_of_place_are_refused() {
        assert!(matches!(split(r#"a"b"#), Err(ArgumentsError::Inside { .. })));
        assert!(matches!(split(r#""a"b"#), Err(ArgumentsError::After { .. })));
        assert!(matches!(split(r#""a"#), Err(ArgumentsError::Open)));
        assert!(matches!(split("a\nb"), Err(ArgumentsError::LineBreak)));
    }
}
