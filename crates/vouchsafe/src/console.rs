//! What a command reads from and writes to, so that tests stand in for a terminal, and the only reader of the environment.

use std::io::{self, Read, Write};

use vouchsafe_runtime::clock::Clock;

/// Looks up an environment variable. Empty and missing are the same.
pub type Environment = Box<dyn Fn(&str) -> Option<String>>;

/// The outside of a command.
pub struct Console<'a> {
    /// Standard input.
    pub stdin: &'a mut dyn Read,
    /// Standard output: results.
    pub stdout: &'a mut dyn Write,
    /// Standard error: what went wrong, warnings.
    pub stderr: &'a mut dyn Write,
    /// Environment variables.
    pub environment: Environment,
    /// Whether standard output and standard error may be coloured.
    pub colour: Colour,
    /// Whether an error may be followed by what to do about it.
    pub advice: bool,
    /// The time.
    pub clock: Clock,
}

/// Where colour is welcome: on a terminal, unless `NO_COLOR` is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Colour {
    /// On standard output.
    pub stdout: bool,
    /// On standard error.
    pub stderr: bool,
}

impl Console<'_> {
    /// An environment variable that is set to something.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    /// Reads standard input, at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// Reading failed or there is more.
    pub fn read_input(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.stdin).take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::other(format!("standard input has more than {limit} bytes")));
        }
        Ok(bytes)
    }
}

/// The environment of this process.
#[must_use]
pub fn process_environment() -> Environment {
    Box::new(|name| {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        std::env::var(name).ok()
    })
}
