//! An error with what led to it, on one line.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

/// An error with all its causes, for a log or an operator. A cause that the text ends with already is not told twice: some
/// errors name their cause themselves.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a dyn Error);

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !told.ends_with(&text) {
                told.push_str(": ");
                told.push_str(&text);
            }
            next = cause.source();
        }
        f.write_str(&told)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failed {
        #[error("cannot begin")]
        Begin { source: Box<Failed> },
        #[error("cannot read: {source}")]
        Read { source: io::Error },
    }

    #[test]
    fn every_cause_is_told_once() {
        let read = Failed::Read { source: io::Error::other("no more paper") };
        let begin = Failed::Begin { source: Box::new(read) };
        assert_eq!(Chain(&begin).to_string(), "cannot begin: cannot read: no more paper");
    }
}
