//! A strict DER reader over a slice.

/// Reads one value after the other.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// One value: its tag, its content, and both with the length between them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) raw: &'a [u8],
}

/// The bytes are not the DER that was expected. `what` names the part.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DerError {
    #[error("{what} is cut short")]
    Truncated { what: &'static str },
    #[error("{what} has tag 0x{found:02x} where 0x{expected:02x} belongs")]
    Tag { what: &'static str, expected: u8, found: u8 },
    #[error("{what} has a length that is not DER (indefinite, not minimal, or over 16 MiB)")]
    Length { what: &'static str },
    #[error("{what} is followed by {extra} bytes that do not belong to it")]
    Trailing { what: &'static str, extra: usize },
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next value, whatever it is.
    pub(crate) fn value(&mut self, what: &'static str) -> Result<Value<'a>, DerError> {
        let (&[tag, first], _) = self.rest.split_first_chunk().ok_or(DerError::Truncated { what })?;
        let (header, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81..=0x83 => {
                let count = usize::from(first & 0x7f);
                let octets = self.rest.get(2..2 + count).ok_or(DerError::Truncated { what })?;
                let length = octets.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
                // X.690 §10.1: "The definite form of length encoding shall be used, encoded in the minimum
                // number of octets."
                if octets[0] == 0 || length < 0x80 {
                    return Err(DerError::Length { what });
                }
                (2 + count, length)
            }
            _ => return Err(DerError::Length { what }),
        };
        let raw = self.rest.get(..header + length).ok_or(DerError::Truncated { what })?;
        self.rest = &self.rest[header + length..];
        Ok(Value { tag, content: &raw[header..], raw })
    }

    /// The next value, which must have `tag`; gives its content.
    pub(crate) fn expect(&mut self, tag: u8, what: &'static str) -> Result<&'a [u8], DerError> {
        Ok(self.expect_value(tag, what)?.content)
    }

    pub(crate) fn expect_value(&mut self, tag: u8, what: &'static str) -> Result<Value<'a>, DerError> {
        match self.rest.first() {
            Some(&found) if found != tag => Err(DerError::Tag { what, expected: tag, found }),
            _ => self.value(what),
        }
    }

    /// The content of the next value if it has `tag`.
    pub(crate) fn optional(&mut self, tag: u8, what: &'static str) -> Result<Option<&'a [u8]>, DerError> {
        if self.rest.first() != Some(&tag) {
            return Ok(None);
        }
        self.expect(tag, what).map(Some)
    }

    /// The content of a BIT STRING of whole bytes.
    pub(crate) fn bit_string(&mut self, what: &'static str) -> Result<&'a [u8], DerError> {
        match self.expect(super::tag::BIT_STRING, what)? {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(DerError::Length { what }),
        }
    }

    /// Nothing may be left.
    pub(crate) fn finish(self, what: &'static str) -> Result<(), DerError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DerError::Trailing { what, extra }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_that_are_not_minimal_are_refused() {
        for bytes in [&[4, 0x81, 1, 0][..], &[4, 0x82, 0, 200], &[4, 0x80, 0, 0], &[4, 0x84, 0, 0, 0, 1, 9]] {
            assert_eq!(
                Reader::new(bytes).value("x").unwrap_err(),
                DerError::Length { what: "x" },
                "{bytes:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_read_twice(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = Reader::new(&bytes);
            let mut read = 0;
            while let Ok(value) = reader.value("x") {
                read += value.raw.len();
                prop_assert!(value.raw.ends_with(value.content));
            }
            prop_assert!(read <= bytes.len());
        }
    }
}
