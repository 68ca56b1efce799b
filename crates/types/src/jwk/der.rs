//! SPKI DER of the supported kinds of key, read strictly: what is read is written back byte for byte.

use super::{Curve, ED25519_BYTES, KeyError, PublicKey, check_rsa};

/// Reads SPKI DER in its canonical form.
pub(super) fn read_spki(spki: &[u8]) -> Result<PublicKey, KeyError> {
    let mut outer = Reader(spki);
    let mut body = Reader(outer.take(SEQUENCE)?);
    let algorithm = body.take(SEQUENCE)?;
    let bits = body.take(BIT_STRING)?;
    let (0, key) = bits.split_first().map(|(unused, key)| (*unused, key)).ok_or(KeyError::Malformed)? else {
        return Err(KeyError::Malformed);
    };
    if !outer.0.is_empty() || !body.0.is_empty() {
        return Err(KeyError::Malformed);
    }
    let parsed = match algorithm {
        RSA => read_rsa(key)?,
        ED25519 if key.len() == ED25519_BYTES => PublicKey::Ed25519 { x: key.to_vec() },
        ED25519 => return Err(KeyError::Malformed),
        _ => read_point(curve_of(algorithm).ok_or(KeyError::Unsupported)?, key)?,
    };
    // Refuses every second spelling of the same key, such as lengths and integers with extra zeros.
    if write_spki(&parsed) == spki { Ok(parsed) } else { Err(KeyError::Malformed) }
}

/// Writes SPKI DER.
pub(super) fn write_spki(key: &PublicKey) -> Vec<u8> {
    let (algorithm, bits) = match key {
        PublicKey::Ec { curve, x, y } => (algorithm_of(*curve), [&[UNCOMPRESSED][..], x, y].concat()),
        PublicKey::Rsa { n, e } => (RSA, write(SEQUENCE, &[write_unsigned(n), write_unsigned(e)].concat())),
        PublicKey::Ed25519 { x } => (ED25519, x.clone()),
    };
    let bits = write(BIT_STRING, &[&[0][..], &bits].concat());
    write(SEQUENCE, &[write(SEQUENCE, algorithm), bits].concat())
}

fn read_rsa(key: &[u8]) -> Result<PublicKey, KeyError> {
    let mut body = Reader(Reader(key).take(SEQUENCE)?);
    let (n, e) = (read_unsigned(&mut body)?, read_unsigned(&mut body)?);
    check_rsa(n, e).map_err(|_| KeyError::TooLong)
}

fn read_unsigned(reader: &mut Reader<'_>) -> Result<Vec<u8>, KeyError> {
    let bytes = reader.take(INTEGER)?;
    let number = match bytes {
        [0, rest @ ..] => rest,
        [first, ..] if *first < 0x80 => bytes,
        _ => return Err(KeyError::Malformed),
    };
    if number.first().is_none_or(|first| *first == 0) {
        Err(KeyError::Malformed)
    } else {
        Ok(number.to_vec())
    }
}

fn read_point(curve: Curve, key: &[u8]) -> Result<PublicKey, KeyError> {
    let coordinates = match key.split_first() {
        Some((&UNCOMPRESSED, coordinates)) => coordinates,
        // RFC 5480 §2.2: a point may be compressed; nobody in the field writes one.
        Some((2 | 3, _)) => return Err(KeyError::Unsupported),
        _ => return Err(KeyError::Malformed),
    };
    let size = curve.coordinate_bytes();
    if coordinates.len() != 2 * size {
        return Err(KeyError::Malformed);
    }
    let (x, y) = coordinates.split_at(size);
    Ok(PublicKey::Ec { curve, x: x.to_vec(), y: y.to_vec() })
}

fn curve_of(algorithm: &[u8]) -> Option<Curve> {
    [Curve::P256, Curve::P384, Curve::P521].into_iter().find(|curve| algorithm_of(*curve) == algorithm)
}

fn algorithm_of(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => EC_P256,
        Curve::P384 => EC_P384,
        Curve::P521 => EC_P521,
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The content of the next value, which must have this tag.
    fn take(&mut self, tag: u8) -> Result<&'a [u8], KeyError> {
        let (&found, rest) = self.0.split_first().ok_or(KeyError::Malformed)?;
        let (&first, rest) = rest.split_first().ok_or(KeyError::Malformed)?;
        if found != tag {
            return Err(KeyError::Malformed);
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 | 0x82 => {
                let (bytes, rest) =
                    rest.split_at_checked(usize::from(first & 0x7f)).ok_or(KeyError::Malformed)?;
                (bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)), rest)
            }
            _ => return Err(KeyError::Malformed),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(KeyError::Malformed)?;
        self.0 = rest;
        Ok(content)
    }
}

/// A DER value. Keys are far below the 64 KiB that two length bytes can say.
fn write(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}

fn write_unsigned(number: &[u8]) -> Vec<u8> {
    let sign = number.first().is_some_and(|first| first & 0x80 != 0);
    if sign { write(INTEGER, &[&[0], number].concat()) } else { write(INTEGER, number) }
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UNCOMPRESSED: u8 = 4;

// Content of the AlgorithmIdentifier: an OID and its parameters (RFC 3279 §2.3.1, RFC 5480 §2.1, RFC 8410 §3).
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
const EC_P256: &[u8] = &[
    0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];
const EC_P384: &[u8] =
    &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const EC_P521: &[u8] =
    &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
