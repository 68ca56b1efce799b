//! DER, both ways, for exactly what certificates and requests need.
//!
//! [`Writer`] appends to one `Vec`; a nested value's length is filled in when it ends, and only values of 128
//! bytes and more move (by one or two bytes). [`reader::Reader`] hands out slices of its input and recurses
//! nowhere.

pub(crate) mod oid;
pub(crate) mod reader;
pub(crate) mod tag;
pub(crate) mod time;

/// Appends DER values to a buffer.
#[derive(Debug)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

/// A nested value that was begun and must be ended.
#[must_use]
#[derive(Debug)]
pub(crate) struct Open {
    content: usize,
}

impl Writer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where the next value will start.
    pub(crate) fn position(&self) -> usize {
        self.bytes.len()
    }

    /// Appends bytes that are DER already, or the content of the open value.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a whole value.
    pub(crate) fn value(&mut self, tag: u8, content: &[u8]) {
        let open = self.begin(tag);
        self.raw(content);
        self.end(open);
    }

    /// Appends a value whose content `write` appends.
    pub(crate) fn nested(&mut self, tag: u8, write: impl FnOnce(&mut Self)) {
        let open = self.begin(tag);
        write(self);
        self.end(open);
    }

    pub(crate) fn begin(&mut self, tag: u8) -> Open {
        self.bytes.extend_from_slice(&[tag, 0]);
        Open { content: self.bytes.len() }
    }

    pub(crate) fn end(&mut self, open: Open) {
        let start = open.content;
        let end = self.bytes.len();
        let length = end - start;
        if length < 0x80 {
            self.bytes[start - 1] = length as u8;
            return;
        }
        let octets = (length as u32).to_be_bytes();
        let octets = &octets[(length as u32).leading_zeros() as usize / 8..];
        self.bytes.resize(end + octets.len(), 0);
        self.bytes.copy_within(start..end, start + octets.len());
        self.bytes[start - 1] = 0x80 | octets.len() as u8;
        self.bytes[start..start + octets.len()].copy_from_slice(octets);
    }

    /// Appends a positive INTEGER.
    pub(crate) fn unsigned(&mut self, value: u128) {
        let bytes = value.to_be_bytes();
        let skip = (value.leading_zeros() as usize / 8).min(bytes.len() - 1);
        let significant = &bytes[skip..];
        let open = self.begin(tag::INTEGER);
        if significant[0] & 0x80 != 0 {
            self.bytes.push(0);
        }
        self.raw(significant);
        self.end(open);
    }

    /// Appends a BIT STRING of whole bytes.
    pub(crate) fn bit_string(&mut self, content: &[u8]) {
        let open = self.begin(tag::BIT_STRING);
        self.bytes.push(0);
        self.raw(content);
        self.end(open);
    }
}

#[cfg(test)]
mod tests {
    use super::reader::Reader;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_are_minimal_and_positive() {
        let check = |value: u128, expected: &[u8]| {
            let mut writer = Writer::with_capacity(0);
            writer.unsigned(value);
            assert_eq!(writer.bytes(), expected, "{value}");
        };
        check(0, &[2, 1, 0]);
        check(1, &[2, 1, 1]);
        check(127, &[2, 1, 127]);
        check(128, &[2, 2, 0, 128]);
        check(256, &[2, 2, 1, 0]);
        let mut all_ones = vec![2, 17, 0];
        all_ones.extend([0xff; 16]);
        check(u128::MAX, &all_ones);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(content in prop::collection::vec(any::<u8>(), 0..70_000), depth in 1_usize..4) {
            let mut writer = Writer::with_capacity(0);
            let open: Vec<_> = (0..depth).map(|_| writer.begin(tag::SEQUENCE)).collect();
            writer.value(tag::OCTET_STRING, &content);
            for each in open.into_iter().rev() {
                writer.end(each);
            }
            let bytes = writer.into_bytes();
            let mut inner: &[u8] = &bytes;
            for _ in 0..depth {
                let mut reader = Reader::new(inner);
                inner = reader.expect(tag::SEQUENCE, "sequence").unwrap();
                reader.finish("sequence").unwrap();
            }
            prop_assert_eq!(Reader::new(inner).expect(tag::OCTET_STRING, "string").unwrap(), &content[..]);
        }
    }
}
