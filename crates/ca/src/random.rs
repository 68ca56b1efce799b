//! Random values that end up in certificates and tokens, from the operating system's generator.

use aws_lc_rs::rand;

/// Length of a JWT key id.
pub const KEY_ID_LEN: usize = 32;

/// The operating system refused random bytes. Transient at most; usually the sandbox is broken.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoEntropy;

/// A certificate serial number in `[1, 2^128 - 1]`.
///
/// # Errors
///
/// [`NoEntropy`].
pub fn serial_number() -> Result<u128, NoEntropy> {
    loop {
        let mut bytes = [0_u8; 16];
        rand::fill(&mut bytes).map_err(|_| NoEntropy)?;
        // RFC 5280 §4.1.2.2: "The serial number MUST be a positive integer assigned by the CA to each
        // certificate."
        match u128::from_be_bytes(bytes) {
            0 => {}
            serial => return Ok(serial),
        }
    }
}

/// A key id of [`KEY_ID_LEN`] letters and digits, each equally likely.
///
/// # Errors
///
/// [`NoEntropy`].
pub fn key_id() -> Result<String, NoEntropy> {
    const ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    const UNBIASED: u8 = 248; // 4 * 62: bytes at or above it would favour the first letters
    let mut id = String::with_capacity(KEY_ID_LEN);
    let mut bytes = [0_u8; 2 * KEY_ID_LEN];
    while id.len() < KEY_ID_LEN {
        rand::fill(&mut bytes).map_err(|_| NoEntropy)?;
        let fair = bytes.iter().filter(|byte| **byte < UNBIASED);
        let letters = fair.map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        id.extend(letters.take(KEY_ID_LEN - id.len()));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_are_32_letters_and_digits_and_differ() {
        let first = key_id().unwrap();
        assert_eq!(first.len(), 32);
        assert!(first.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(first, key_id().unwrap());
    }
}
