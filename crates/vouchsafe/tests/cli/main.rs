//! The commands against a fake server and agent, compared with `tests/golden/`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p vouchsafe --test cli` writes the golden files anew; read the difference before you keep it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod agent;
mod fake;
mod golden;
mod operations;
mod reference;
mod server;
mod usage;

use std::collections::HashMap;
use std::io::Cursor;
use std::time::{Duration, SystemTime};

use vouchsafe::console::{Colour, Console};
use vouchsafe_runtime::clock::Clock;

/// The moment at which all of these tests happen: 2026-11-21 08:00:00 UTC.
pub(crate) const NOW: u64 = 1_795_248_000;

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: u8,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command line; words are separated by spaces.
pub(crate) fn run(words: &str, input: &str, environment: &[(&str, &str)]) -> Outcome {
    run_words(&words.split(' ').collect::<Vec<_>>(), input, environment)
}

pub(crate) fn run_words(words: &[&str], input: &str, environment: &[(&str, &str)]) -> Outcome {
    let variables: HashMap<String, String> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut stdin = Cursor::new(input.as_bytes().to_vec());
    let mut console = Console {
        stdin: &mut stdin,
        stdout: &mut stdout,
        stderr: &mut stderr,
        environment: Box::new(move |name| variables.get(name).cloned()),
        colour: Colour::default(),
        advice: true,
        clock: Clock::derived(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)),
    };
    let code = vouchsafe::cli::run(words.iter().map(Into::into).collect(), &mut console);
    Outcome { code, stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
}
