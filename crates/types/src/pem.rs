//! Textual encoding of DER (RFC 7468).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// One block: its label, such as `CERTIFICATE`, and the DER in it, cleared when dropped.
#[derive(Clone, Eq, PartialEq)]
pub struct Block {
    /// The words after `BEGIN`.
    pub label: String,
    /// What the block encodes.
    pub der: Zeroizing<Vec<u8>>,
}

/// Appends `der` to `out` as one block, 64 characters a line.
pub fn append(out: &mut String, label: &str, der: &[u8]) {
    let body = Zeroizing::new(STANDARD.encode(der));
    out.push_str(&format!("{BEGIN}{label}{DASHES}\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE_LENGTH));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("{END}{label}{DASHES}\n"));
}

/// `der` as one block.
#[must_use]
pub fn encode(label: &str, der: &[u8]) -> String {
    let mut out = String::new();
    append(&mut out, label, der);
    out
}

/// Reads all blocks of `text`. Lines outside of blocks are ignored, as in files that describe their certificates.
///
/// # Errors
///
/// A block that does not end as it began or holds something else than base64, or a bound exceeded.
pub fn parse(text: &[u8]) -> Result<Vec<Block>, PemError> {
    if text.len() > MAX_PEM_BYTES {
        return Err(PemError::TooLong);
    }
    let mut blocks = Vec::new();
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    while let Some(line) = lines.next() {
        let Some(label) = label_of(line, BEGIN) else { continue };
        if blocks.len() == MAX_PEM_BLOCKS {
            return Err(PemError::TooManyBlocks);
        }
        blocks.push(read_block(label, &mut lines)?);
    }
    Ok(blocks)
}

fn read_block<'a>(label: &str, lines: &mut impl Iterator<Item = &'a [u8]>) -> Result<Block, PemError> {
    let mut body = Zeroizing::new(Vec::new());
    for line in lines {
        if let Some(end) = label_of(line, END) {
            if end != label {
                return Err(PemError::Label);
            }
            let der = STANDARD.decode(&*body).map_err(|_| PemError::Base64)?;
            return Ok(Block { label: label.to_owned(), der: Zeroizing::new(der) });
        }
        body.extend(line.iter().copied().filter(|byte| !byte.is_ascii_whitespace()));
    }
    Err(PemError::Unfinished)
}

/// The label of a line `-----BEGIN <label>-----` or `-----END <label>-----`.
fn label_of<'a>(line: &'a [u8], kind: &str) -> Option<&'a str> {
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix(kind)?.strip_suffix(DASHES)
}

/// Why a text is not PEM. Never holds any of the text, which may be a private key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// Longer than [`MAX_PEM_BYTES`].
    #[error("longer than {MAX_PEM_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_PEM_BLOCKS`].
    #[error("more than {MAX_PEM_BLOCKS} PEM blocks")]
    TooManyBlocks,
    /// The text ends inside a block.
    #[error("PEM block has no END line; the text looks cut off")]
    Unfinished,
    /// The END line names another label than the BEGIN line.
    #[error("PEM block ends with another label than it begins with")]
    Label,
    /// The body is not base64.
    #[error("PEM block is not base64")]
    Base64,
}

/// Longest PEM text. A longer one is refused.
pub const MAX_PEM_BYTES: usize = 16 * 1024 * 1024;
/// Most blocks in a text. More are refused.
pub const MAX_PEM_BLOCKS: usize = 4096;

const LINE_LENGTH: usize = 64;
const DASHES: &str = "-----";
const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&[(&str, &[u8])], PemError>) {
        let parsed = parse(text.as_bytes());
        let blocks: Result<Vec<(&str, &[u8])>, PemError> = parsed
            .as_ref()
            .map(|blocks| blocks.iter().map(|b| (b.label.as_str(), b.der.as_slice())).collect())
            .map_err(|error| *error);
        assert_eq!(blocks, expected.map(<[_]>::to_vec), "{text:?}");
    }

    #[test]
    fn blocks_are_found_among_other_text() {
        check("", Ok(&[]));
        check("no block here", Ok(&[]));
        check("# a\n-----BEGIN A-----\nAQID\n-----END A-----\nb", Ok(&[("A", &[1, 2, 3])]));
        check("-----BEGIN A B-----\r\nAQ\r\n ID\r\n-----END A B-----", Ok(&[("A B", &[1, 2, 3])]));
        check("-----BEGIN A-----\n-----END A-----\n", Ok(&[("A", &[])]));
    }

    #[test]
    fn broken_blocks_are_refused() {
        check("-----BEGIN A-----\nAQID\n", Err(PemError::Unfinished));
        check("-----BEGIN A-----\nAQID\n-----END B-----", Err(PemError::Label));
        check("-----BEGIN A-----\nA!ID\n-----END A-----", Err(PemError::Base64));
        check("-----BEGIN A-----\nProc-Type: 4\n\nAQID\n-----END A-----", Err(PemError::Base64));
        check("-----BEGIN A-----\n-----BEGIN A-----\nAQID\n-----END A-----", Err(PemError::Base64));
        check(&"-----BEGIN A-----\n-----END A-----\n".repeat(4097), Err(PemError::TooManyBlocks));
        assert_eq!(parse(&vec![b'a'; MAX_PEM_BYTES + 1]).err(), Some(PemError::TooLong));
    }

    impl std::fmt::Debug for Block {
        fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str(&self.label)
        }
    }

    proptest! {
        #[test]
        fn every_block_round_trips(ders in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
            let mut text = String::new();
            for der in &ders {
                append(&mut text, "CERTIFICATE", der);
            }
            prop_assert!(text.lines().all(|line| line.len() <= 64));
            let parsed = parse(text.as_bytes()).unwrap();
            prop_assert_eq!(parsed.iter().map(|b| b.der.to_vec()).collect::<Vec<_>>(), ders);
        }
    }
}
