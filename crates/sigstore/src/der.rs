//! As much of DER as is needed to take a certificate's body apart and put it together again.

/// Tag, content and the whole of the first element of some bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// The first element of `bytes`, and what follows it. `None` when it is cut off, longer than 16 MiB or not DER.
pub(crate) fn next(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((Element { tag, content, whole: bytes.get(..bytes.len() - rest.len())? }, rest))
}

/// The content of `bytes`, which is one element with `tag` and nothing after it.
pub(crate) fn only(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (element, rest) = next(bytes)?;
    (element.tag == tag && rest.is_empty()).then_some(element.content)
}

/// An element. `None` when `content` is longer than 16 MiB.
pub(crate) fn element(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(content.len()).ok()?.to_be_bytes();
    let mut whole = vec![tag];
    match length {
        [0, 0, 0, short @ 0..=0x7f] => whole.push(short),
        [0, 0, 0, one] => whole.extend([0x81, one]),
        [0, 0, two, one] => whole.extend([0x82, two, one]),
        [0, three, two, one] => whole.extend([0x83, three, two, one]),
        _ => return None,
    }
    whole.extend(content);
    Some(whole)
}

pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT`.
pub(crate) const CONTEXT_0: u8 = 0xa0;
/// `[3] EXPLICIT`.
pub(crate) const CONTEXT_3: u8 = 0xa3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again(content in proptest::collection::vec(any::<u8>(), 0..70_000), tail in any::<[u8; 3]>()) {
            let mut bytes = element(SEQUENCE, &content).unwrap();
            prop_assert_eq!(only(&bytes, SEQUENCE), Some(&*content));
            let whole = bytes.clone();
            bytes.extend(tail);
            let (first, rest) = next(&bytes).unwrap();
            prop_assert_eq!((first.tag, first.content, first.whole, rest), (SEQUENCE, &*content, &*whole, &tail[..]));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some((element, rest)) = next(&bytes) {
                prop_assert_eq!(element.whole.len() + rest.len(), bytes.len());
            }
        }
    }
}
