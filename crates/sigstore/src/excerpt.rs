//! Text of somebody else, as much of it as belongs into an error, a log and memory.

use std::fmt::{Display, Write};

/// The first [`MAX_CHARACTERS`] of `text`, and `…` where there are more. No more than that is ever formatted.
pub(crate) fn excerpt(text: impl Display) -> String {
    let mut bounded = Bounded { text: String::new(), left: MAX_CHARACTERS };
    if write!(bounded, "{text}").is_err() {
        bounded.text.push('…');
    }
    bounded.text
}

struct Bounded {
    text: String,
    left: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(std::fmt::Error)?;
            self.text.push(character);
        }
        Ok(())
    }
}

/// Enough for a subject and an issuer of a workflow.
const MAX_CHARACTERS: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_stays_and_long_text_is_cut() {
        let whole = "ä".repeat(MAX_CHARACTERS);
        assert_eq!(excerpt(&whole), whole);
        assert_eq!(excerpt(format_args!("{whole}x")), format!("{whole}…"));
    }
}
