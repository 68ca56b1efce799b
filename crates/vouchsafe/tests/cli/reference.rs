//! `docs/commands.md` names every command, and nothing else.

use vouchsafe::cli::{Part, grammar};

use crate::golden;

/// A command of the grammar.
pub(crate) struct Documented {
    /// What is typed, from the program's name on.
    pub(crate) words: String,
    about: String,
    example: Option<String>,
    is_leaf: bool,
}

/// Every command of a program in the order of its help, groups before what is in them.
pub(crate) fn commands(part: Part) -> Vec<Documented> {
    let grammar = grammar(part);
    let mut found = Vec::new();
    walk(&grammar, grammar.get_name(), &mut found);
    found
}

fn walk(command: &clap::Command, words: &str, found: &mut Vec<Documented>) {
    let example = command.get_after_help().map(|text| first_example(&text.to_string()));
    let example = example.or_else(|| bare_example(command, words));
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    // A group may be a command as well: `api fetch`.
    let is_leaf = !command.is_subcommand_required_set() && !command.is_arg_required_else_help_set();
    found.push(Documented { words: words.to_owned(), about, example, is_leaf });
    for inner in command.get_subcommands() {
        walk(inner, &format!("{words} {}", inner.get_name()), found);
    }
}

/// The command alone, called as SPIRE's, with a value for what it cannot do without.
fn bare_example(command: &clap::Command, words: &str) -> Option<String> {
    let (part, rest) = words.strip_prefix("vouchsafe ")?.split_once(' ')?;
    let mut example = format!("spire-{part} {rest}");
    for argument in command.get_arguments() {
        let value = match argument.get_long() {
            Some("authorityID" | "subjectKeyID") => "4d5c5c0e7ba2ed1d4bdbb0c4e0a4f2b1a6c4c1f7",
            Some("level") => "debug",
            _ => continue,
        };
        example.push_str(&format!(" -{} {value}", argument.get_long()?));
    }
    Some(example)
}

/// The first of the examples, on one line.
fn first_example(text: &str) -> String {
    let lines = text.lines().skip(1).map(str::trim);
    let mut example = String::new();
    for line in lines {
        match line.strip_suffix('\\') {
            Some(begun) => example.push_str(begun),
            None => {
                example.push_str(line);
                break;
            }
        }
    }
    // `up` explains its examples behind them.
    example.split("    ").next().unwrap_or_default().to_owned()
}

fn table() -> String {
    let mut table = "| command | what it does | example |\n|---|---|---|\n".to_owned();
    let leaves = commands(Part::All).into_iter().filter(|command| command.is_leaf);
    for Documented { words, about, example, .. } in leaves {
        let example = example.unwrap_or_else(|| words.clone()).replace('|', "\\|");
        table.push_str(&format!("| `{words}` | {} | `{example}` |\n", about.replace('|', "\\|")));
    }
    table
}

#[test]
fn the_page_of_commands_is_the_grammar() {
    const MARK: &str = "<!-- Written by `UPDATE_GOLDEN=1 cargo test -p vouchsafe --test cli`. -->\n";
    let page = include_str!("../../../../docs/commands.md");
    let (before, _) = page.split_once(MARK).expect("the page says where the table is");
    golden::check("../../../../docs/commands.md", &format!("{before}{MARK}\n{}", table()));
}

#[test]
fn every_example_can_be_typed() {
    for command in commands(Part::All).into_iter().filter(|command| command.is_leaf) {
        let Some(example) = command.example else { continue };
        let words: Vec<_> = example.split(" > ").next().unwrap_or_default().split_whitespace().collect();
        let (part, words) = match words.split_first() {
            Some((&"spire-server", words)) => (Part::Server, words),
            Some((&"spire-agent", words)) => (Part::Agent, words),
            Some((&"vouchsafe", words)) => (Part::All, words),
            _ => panic!("{}: {example}", command.words),
        };
        let grammar = grammar(part);
        let words = vouchsafe::argv::normalize(&grammar, words.iter().map(Into::into).collect());
        let program = std::iter::once(grammar.get_name().to_owned().into());
        let parsed = grammar.clone().try_get_matches_from(program.chain(words));
        assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
    }
}

#[test]
fn what_differs_from_spire_is_shown_by_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/differences.md")).unwrap();
    let mut shown = 0;
    for row in page.lines().filter(|line| line.starts_with('|') && line.contains("`crates/")) {
        let mut quoted = row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2);
        let (file, test) = (quoted.next().unwrap(), quoted.next().unwrap());
        let source = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        assert!(source.contains(test), "{file} has no {test}");
        shown += 1;
    }
    assert!(shown >= 14, "{shown}");
}
