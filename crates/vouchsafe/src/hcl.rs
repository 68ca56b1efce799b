//! The first version of HashiCorp's configuration language, and its JSON form: the format of SPIRE's files.
//!
//! The language is small: an *object* is a run of items, an item is one or more keys followed by `= value` or by
//! `{ object }`, and a value is a string, number, boolean, here-document, list or object. `a "b" { }` is short for
//! `a { "b" { } }`. Newlines and commas between items are optional. A text whose first character is `{` is JSON.
//!
//! Readers of the second version of the language refuse texts that this one allows (trailing commas, several items on
//! a line, quoted keys), which is why there is a reader of our own.
//!
//! Invariants: parsing never panics, needs stack for at most [`MAX_NESTING`] levels, and reads at most [`MAX_BYTES`].
//! Every value knows where it stood.

mod expand;
mod json;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;

pub use self::expand::expand_environment;
pub use self::value::{Body, Item, Kind, Value};

/// The largest text that is read. Longer ones are refused before they are looked at.
pub const MAX_BYTES: usize = 1024 * 1024;

/// How many objects and lists may stand inside each other. Deeper texts are refused.
pub const MAX_NESTING: usize = 64;

/// Reads a configuration text.
///
/// # Errors
///
/// The first place where the text is not the language, or a bound that it breaks.
pub fn parse(text: &str) -> Result<Body, SyntaxError> {
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; at most {MAX_BYTES} are read", text.len());
        return Err(SyntaxError { position: Position::START, message });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') { json::parse(text) } else { parser::parse(text) }
}

/// A place in a text, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

impl Position {
    /// The first character.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a text could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {message}")]
pub struct SyntaxError {
    /// Where.
    pub position: Position,
    /// What, and what would have been right.
    pub message: String,
}
