//! Go's flags, turned into the form that the argument parser reads.
//!
//! SPIRE's commands take `-name value`, `-name=value` and the same with two dashes; a flag that is not a boolean takes the
//! next argument whatever it looks like (`-x509SVIDTTL -10`, `-data -`), a boolean never does (`-admin`, `-admin=false`).
//! Here each becomes `--name=value`, which has one meaning only. Flags that nobody knows are passed on to be refused
//! with a suggestion.

use std::ffi::OsString;

use clap::Command;

/// Rewrites the arguments after the program's name. `command` is the program's whole grammar, built.
#[must_use]
pub fn normalize(command: &Command, arguments: Vec<OsString>) -> Vec<OsString> {
    let mut current = command;
    let mut normalized = Vec::with_capacity(arguments.len());
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str() else {
            normalized.push(argument);
            continue;
        };
        if text == "--" {
            normalized.push(argument);
            normalized.extend(arguments);
            break;
        }
        let Some(flag) = flag_name(text) else {
            current = current.find_subcommand(text).unwrap_or(current);
            normalized.push(argument);
            continue;
        };
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        match name {
            "h" | "help" => normalized.push("--help".into()),
            "v" | "version" => normalized.push("--version".into()),
            name => {
                let mut joined = OsString::from(format!("--{name}"));
                let value = match value {
                    Some(value) => Some(OsString::from(value)),
                    None if takes_next(current, name) => arguments.next(),
                    None => None,
                };
                if let Some(value) = value {
                    joined.push("=");
                    joined.push(value);
                }
                normalized.push(joined);
            }
        }
    }
    normalized
}

/// The text after one or two dashes, unless the argument is a lone dash or no flag.
fn flag_name(argument: &str) -> Option<&str> {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    (!name.is_empty()).then_some(name)
}

/// Whether the flag exists and must be followed by a value.
fn takes_next(command: &Command, name: &str) -> bool {
    command.get_arguments().any(|argument| {
        (argument.get_long() == Some(name)
            || argument.get_all_aliases().is_some_and(|names| names.contains(&name)))
            && argument.get_action().takes_values()
            && argument.get_num_args().is_none_or(|range| range.min_values() > 0)
    })
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction};

    use super::*;

    fn grammar() -> Command {
        let leaf = Command::new("create")
            .arg(Arg::new("data").long("data"))
            .arg(Arg::new("ttl").long("ttl"))
            .arg(Arg::new("selector").long("selector").action(ArgAction::Append))
            .arg(Arg::new("admin").long("admin").num_args(0..=1).require_equals(true));
        let mut command = Command::new("program").subcommand(Command::new("entry").subcommand(leaf));
        command.build();
        command
    }

    fn check(arguments: &[&str], expected: &[&str]) {
        let arguments = arguments.iter().map(Into::into).collect();
        let normalized = normalize(&grammar(), arguments);
        assert_eq!(normalized, expected.iter().map(OsString::from).collect::<Vec<_>>());
    }

    #[test]
    fn flags_of_go_become_one_form() {
        check(&["entry", "create", "-ttl", "-10"], &["entry", "create", "--ttl=-10"]);
        check(&["entry", "create", "-data", "-"], &["entry", "create", "--data=-"]);
        check(&["entry", "create", "--ttl=5", "-ttl=6"], &["entry", "create", "--ttl=5", "--ttl=6"]);
        check(&["entry", "create", "-admin", "-ttl", "1"], &["entry", "create", "--admin", "--ttl=1"]);
        check(&["entry", "create", "-admin=false"], &["entry", "create", "--admin=false"]);
        check(&["entry", "create", "-data", "a=b"], &["entry", "create", "--data=a=b"]);
        check(&["entry", "create", "-data", ""], &["entry", "create", "--data="]);
        check(&["entry", "create", "-data", "entry"], &["entry", "create", "--data=entry"]);
    }

    #[test]
    fn what_is_unknown_is_passed_on() {
        check(&["entry", "create", "-nope", "x"], &["entry", "create", "--nope", "x"]);
        check(&["entry", "bogus"], &["entry", "bogus"]);
        check(&["entry", "create", "-ttl"], &["entry", "create", "--ttl"]);
        check(&["-h"], &["--help"]);
        check(&["entry", "create", "-help"], &["entry", "create", "--help"]);
        check(&["-version"], &["--version"]);
        check(&["-"], &["-"]);
        check(&["entry", "--", "-x", "y"], &["entry", "--", "-x", "y"]);
    }
}
