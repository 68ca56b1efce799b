//! Cuts a stream of bytes into lines of bounded length.

use bytes::{Bytes, BytesMut};

/// One line of a watch.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Line {
    /// Without its end.
    Whole(Bytes),
    /// Longer than the bound. What is left of it is its beginning.
    TooLong(Bytes),
}

/// Bytes that came and are no whole line yet. Never holds more than the bound, a beginning and one piece of the stream.
#[derive(Debug)]
pub(crate) struct Lines {
    buffer: BytesMut,
    /// How much of the buffer is known to have no line end.
    seen: usize,
    limit: usize,
    /// The beginning of a line that is too long, the rest of which is on its way.
    skipping: Option<Bytes>,
}

impl Lines {
    pub(crate) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), seen: 0, limit, skipping: None }
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next line that is there to its end.
    pub(crate) fn next(&mut self) -> Option<Line> {
        loop {
            let end = self.buffer[self.seen..].iter().position(|byte| *byte == b'\n');
            let Some(end) = end.map(|end| end + self.seen) else {
                self.seen = self.buffer.len();
                if self.seen > self.limit && self.skipping.is_none() {
                    self.skipping = Some(beginning(&self.buffer));
                }
                if self.skipping.is_some() {
                    self.buffer = BytesMut::new();
                    self.seen = 0;
                }
                return None;
            };
            self.seen = 0;
            let line = self.buffer.split_to(end + 1).freeze();
            if let Some(beginning) = self.skipping.take() {
                return Some(Line::TooLong(beginning));
            }
            if end > self.limit {
                return Some(Line::TooLong(beginning(&line[..end])));
            }
            if end > 0 {
                return Some(Line::Whole(line.slice(..end)));
            }
        }
    }
}

fn beginning(line: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&line[..line.len().min(MAX_BEGINNING)])
}

/// How much is kept of a line that is too long.
const MAX_BEGINNING: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(pieces: &[&[u8]], limit: usize) -> Vec<Line> {
        let mut lines = Lines::new(limit);
        let mut out = Vec::new();
        for piece in pieces {
            lines.push(piece);
            while let Some(line) = lines.next() {
                out.push(line);
            }
            assert!(lines.buffer.len() <= limit, "holds {} bytes", lines.buffer.len());
        }
        out
    }

    fn whole(text: &'static str) -> Line {
        Line::Whole(Bytes::from_static(text.as_bytes()))
    }

    fn too_long(text: &'static str) -> Line {
        Line::TooLong(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_line_that_is_too_long_costs_itself_and_not_its_neighbours() {
        assert_eq!(
            cut(&[b"ab\ncdefghi", b"jklmnopq", b"rs\nxy\n"], 5),
            [whole("ab"), too_long("cdefghi"), whole("xy")]
        );
        assert_eq!(cut(&[b"123456\n12345\n"], 5), [too_long("123456"), whole("12345")]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_stream_is_cut(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            size in 1_usize..20,
        ) {
            let pieces: Vec<&[u8]> = text.chunks(size).collect();
            let expected: Vec<Line> = text
                .split_inclusive(|byte| *byte == b'\n')
                .filter_map(|line| line.strip_suffix(b"\n"))
                .filter(|line| !line.is_empty())
                .map(|line| Line::Whole(Bytes::copy_from_slice(line)))
                .collect();
            prop_assert_eq!(cut(&pieces, 1_000), expected);
        }
    }
}
