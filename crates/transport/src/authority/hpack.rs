//! Header blocks: where their fields begin and end, which authority one names, and writing one anew.
//!
//! The walker here knows the shape of a field (RFC 7541 §6) and nothing about tables. It lets us look at one field at
//! a time, so that the decoder's work is bounded before it happens.

use std::fmt;

use loona_hpack::Decoder;
use loona_hpack::encoder::encode_integer_into;
use loona_hpack::huffman::HuffmanDecoder;

/// Most bytes of one header block, encoded and decoded. h2 refuses a quarter of it already ([`crate::grpc`]).
pub const MAX_BLOCK: usize = 64 * 1024;
/// Most fields of one header block. gRPC requests have about ten.
pub const MAX_FIELDS: usize = 256;
/// Most bytes of an authority that is worth a look.
const MAX_AUTHORITY: usize = 1024;
/// RFC 9113 §6.5.2: "The initial value is 4,096 octets." We never advertise another.
const TABLE_SIZE: usize = 4096;

const AUTHORITY: &[u8] = b":authority";
/// `:authority` in the Huffman code of RFC 7541 Appendix B.
const AUTHORITY_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// Index of `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;
/// What stands in for a malformed authority.
const LOCALHOST: &[u8] = b"localhost";

/// A block that is not HPACK, or beyond a bound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// Whether h2 will accept the authority that the first block of a connection names; `true` when it names none.
pub(crate) fn first_authority_is_well_formed(block: &[u8]) -> Result<bool, Unreadable> {
    let mut rest = block;
    for _ in 0..MAX_FIELDS {
        if rest.is_empty() {
            return Ok(true);
        }
        let field = Field::first(rest)?;
        if let Some(value) = field.authority() {
            return Ok(value?.is_ok_and_well_formed());
        }
        rest = &rest[field.len..];
    }
    Err(Unreadable)
}

/// Decodes the client's header blocks in order and writes each anew.
pub(crate) struct Rewriter {
    decoder: Decoder<'static>,
}

impl Rewriter {
    pub(crate) fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE_SIZE);
        Self { decoder }
    }

    /// The fields of `block` as literals without indexing, a malformed `:authority` replaced. Order, repetition and
    /// everything else that h2 may refuse is kept. After an error no further block can be read.
    pub(crate) fn rewrite(&mut self, block: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let mut out = Vec::with_capacity(block.len() * 2);
        let mut rest = block;
        for _ in 0..MAX_FIELDS {
            if rest.is_empty() {
                return Ok(out);
            }
            // The decoder wants a size update and the field behind it in one piece.
            let mut len = 0;
            loop {
                let field = Field::first(&rest[len..])?;
                len += field.len;
                if !matches!(field.kind, Kind::SizeUpdate) {
                    break;
                }
                // RFC 7541 §4.2: an update "MUST occur at the beginning of the first header block following the
                // change", so nothing may precede it.
                if rest.len() != block.len() {
                    return Err(Unreadable);
                }
            }
            self.decoder
                .decode_with_cb(&rest[..len], |name, value| write_literal(&mut out, &name, &value))
                .map_err(|_| Unreadable)?;
            if out.len() > MAX_BLOCK {
                return Err(Unreadable);
            }
            rest = &rest[len..];
        }
        if rest.is_empty() { Ok(out) } else { Err(Unreadable) }
    }
}

impl fmt::Debug for Rewriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rewriter")
    }
}

/// The first field of a block, not decoded.
struct Field<'a> {
    len: usize,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Indexed { index: usize },
    SizeUpdate,
    Literal { name: Name<'a>, value: Text<'a> },
}

enum Name<'a> {
    Index(usize),
    Text(Text<'a>),
}

#[derive(Clone, Copy)]
struct Text<'a> {
    bytes: &'a [u8],
    huffman: bool,
}

enum Authority {
    Value(Vec<u8>),
    TooLong,
}

impl Authority {
    fn is_ok_and_well_formed(&self) -> bool {
        matches!(self, Self::Value(value) if is_well_formed(value))
    }
}

impl<'a> Field<'a> {
    fn first(block: &'a [u8]) -> Result<Self, Unreadable> {
        let first = *block.first().ok_or(Unreadable)?;
        if first & 0x80 != 0 {
            let (index, len) = integer(block, 7)?;
            return Ok(Self { len, kind: Kind::Indexed { index } });
        }
        if first & 0xe0 == 0x20 {
            let (_, len) = integer(block, 5)?;
            return Ok(Self { len, kind: Kind::SizeUpdate });
        }
        let prefix = if first & 0x40 != 0 { 6 } else { 4 };
        let (index, mut len) = integer(block, prefix)?;
        let name = if index == 0 {
            let (text, used) = Text::first(&block[len..])?;
            len += used;
            Name::Text(text)
        } else {
            Name::Index(index)
        };
        let (value, used) = Text::first(&block[len..])?;
        Ok(Self { len: len + used, kind: Kind::Literal { name, value } })
    }

    /// The value of this field if it is `:authority` **in a connection's first block**: there, a reference to the
    /// dynamic table can only repeat an earlier field of the same block, which was looked at.
    fn authority(&self) -> Option<Result<Authority, Unreadable>> {
        match &self.kind {
            Kind::Indexed { index: AUTHORITY_INDEX } => Some(Ok(Authority::Value(Vec::new()))),
            Kind::Literal { name: Name::Index(AUTHORITY_INDEX), value } => Some(value.authority()),
            Kind::Literal { name: Name::Text(name), value } if name.is_authority() => Some(value.authority()),
            Kind::Indexed { .. } | Kind::SizeUpdate | Kind::Literal { .. } => None,
        }
    }
}

impl<'a> Text<'a> {
    fn first(bytes: &'a [u8]) -> Result<(Self, usize), Unreadable> {
        let (len, used) = integer(bytes, 7)?;
        let huffman = bytes[0] & 0x80 != 0;
        let bytes = bytes[used..].get(..len).ok_or(Unreadable)?;
        Ok((Self { bytes, huffman }, used + len))
    }

    fn is_authority(&self) -> bool {
        self.bytes == if self.huffman { AUTHORITY_HUFFMAN } else { AUTHORITY }
    }

    fn authority(&self) -> Result<Authority, Unreadable> {
        if self.bytes.len() > MAX_AUTHORITY {
            return Ok(Authority::TooLong);
        }
        if !self.huffman {
            return Ok(Authority::Value(self.bytes.to_vec()));
        }
        HuffmanDecoder::new().decode(self.bytes).map(Authority::Value).map_err(|_| Unreadable)
    }
}

/// RFC 7541 §5.1 with at most five octets, as the decoder takes them. Returns the value and the octets used.
fn integer(bytes: &[u8], prefix: u8) -> Result<(usize, usize), Unreadable> {
    const MAX_OCTETS: usize = 5;
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*bytes.first().ok_or(Unreadable)?) & mask;
    if value < mask {
        return Ok((value, 1));
    }
    for (place, octet) in bytes.iter().enumerate().take(MAX_OCTETS).skip(1) {
        value += usize::from(octet & 0x7f) << (7 * (place - 1));
        if octet & 0x80 == 0 {
            return Ok((value, place + 1));
        }
    }
    Err(Unreadable)
}

fn is_well_formed(authority: &[u8]) -> bool {
    // The very check that h2 makes.
    http::uri::Authority::try_from(authority).is_ok()
}

fn write_literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let value = if name == AUTHORITY && !is_well_formed(value) { LOCALHOST } else { value };
    out.push(0x00);
    for text in [name, value] {
        // Writing to a vector cannot fail.
        encode_integer_into(text.len(), 7, 0, out).unwrap_or_default();
        out.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_huffman_form_of_authority_is_the_one_that_the_crate_decodes() {
        assert_eq!(HuffmanDecoder::new().decode(AUTHORITY_HUFFMAN).unwrap(), AUTHORITY);
    }

    #[test]
    fn an_authority_is_found_in_every_form_of_a_field() {
        fn check(block: &[u8], expected: Result<bool, Unreadable>) {
            assert_eq!(first_authority_is_well_formed(block), expected, "{block:x?}");
        }
        let literal = |first: &[u8], value: &[u8]| {
            let mut block = vec![0x82, 0x84];
            block.extend_from_slice(first);
            block.push(u8::try_from(value.len()).unwrap());
            block.extend_from_slice(value);
            block
        };
        let by_name = [&[0x00, 10], AUTHORITY].concat();
        let by_huffman = [&[0x40, 0x80 | 8], AUTHORITY_HUFFMAN].concat();
        for first in [&[0x41][..], &[0x01], &[0x11], &by_name, &by_huffman] {
            check(&literal(first, b"localhost"), Ok(true));
            check(&literal(first, b"127.0.0.1:8081"), Ok(true));
            check(&literal(first, b"tmp%2Fdir%2Fwl.sock"), Ok(false));
            check(&literal(first, b"/tmp/dir/wl.sock"), Ok(false));
            check(&literal(first, b""), Ok(false));
            check(&literal(first, b"localhost")[..8], Err(Unreadable));
        }
        // Huffman: `www.example.com` (RFC 7541 §C.4.1).
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        check(&[&[0x41, 0x80 | 12][..], &www].concat(), Ok(true));
        check(&[0x82, 0x84, 0x86], Ok(true));
        check(&[], Ok(true));
    }

    #[test]
    fn integers_are_read_as_in_the_standard() {
        assert_eq!(integer(&[10], 5), Ok((10, 1)));
        assert_eq!(integer(&[0x1f, 0x9a, 0x0a], 5), Ok((1337, 3)));
        assert_eq!(integer(&[0xff, 0x80, 0x80, 0x80, 0x01], 7), Ok((127 + (1 << 21), 5)));
        assert_eq!(integer(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x01], 7), Err(Unreadable));
        assert_eq!(integer(&[0xff], 7), Err(Unreadable));
        assert_eq!(integer(&[], 7), Err(Unreadable));
    }

    #[test]
    fn a_decompression_bomb_is_refused_before_it_is_written() {
        let mut block = vec![0x40, 1, b'a', 0x7f, 0xe1, 0x1e]; // one indexed field with a value of 4,000 bytes
        block.resize(block.len() + 4000, b'x');
        block.extend(std::iter::repeat_n(0xbe, 200)); // and 200 references to it
        assert_eq!(Rewriter::new().rewrite(&block), Err(Unreadable));
    }

    #[test]
    fn a_block_with_too_many_fields_is_refused() {
        assert!(Rewriter::new().rewrite(&[0x82; MAX_FIELDS]).is_ok());
        assert_eq!(Rewriter::new().rewrite(&[0x82; MAX_FIELDS + 1]), Err(Unreadable));
    }

    #[test]
    fn the_table_is_never_larger_than_what_we_advertised() {
        let update_to_4096 = [0x3f, 0xe1, 0x1f];
        let update_to_4097 = [0x3f, 0xe2, 0x1f];
        assert!(Rewriter::new().rewrite(&[&update_to_4096[..], &[0x82]].concat()).is_ok());
        assert_eq!(Rewriter::new().rewrite(&[&update_to_4097[..], &[0x82]].concat()), Err(Unreadable));
        assert_eq!(
            Rewriter::new().rewrite(&[&[0x82], &update_to_4096[..], &[0x82]].concat()),
            Err(Unreadable)
        );
        assert_eq!(Rewriter::new().rewrite(&update_to_4096), Err(Unreadable), "an update and no field");
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(block: Vec<u8>, second: Vec<u8>) {
            let _first = first_authority_is_well_formed(&block);
            let mut rewriter = Rewriter::new();
            if rewriter.rewrite(&block).is_ok() {
                let _second = rewriter.rewrite(&second);
            }
        }

        #[test]
        fn the_walker_and_the_decoder_agree_on_where_fields_end(block: Vec<u8>) {
            // One piece at a time accepts exactly what the decoder accepts in one go (but for our own bounds).
            let mut decoder = Decoder::new();
            decoder.set_max_allowed_table_size(TABLE_SIZE);
            let mut whole = Vec::new();
            let accepted = decoder.decode_with_cb(&block, |name, value| write_literal(&mut whole, &name, &value));
            if let Ok(rewritten) = Rewriter::new().rewrite(&block) {
                proptest::prop_assert!(accepted.is_ok());
                proptest::prop_assert_eq!(rewritten, whole);
            }
        }
    }
}
