//! The container ID and the Pod's UID in one cgroup path: rules 3 and 4 of [`super`]. Pure.

use super::Wanted;

/// Both, or empty texts. A path ends where it has an empty segment, read from the back.
pub(super) fn ids_in(path: &[u8], wanted: Wanted) -> (&str, String) {
    let mut segments = path.rsplit(|byte| *byte == b'/').take_while(|segment| !segment.is_empty());
    let Some((segment, at, id)) = segments.find_map(|segment| {
        let (at, id) = id_in_segment(segment)?;
        Some((segment, at, id))
    }) else {
        return ("", String::new());
    };
    let pod = match wanted {
        Wanted::Container => None,
        // Both may stand in one segment, the Pod first.
        Wanted::Pod => pod_in_segment(&segment[..at]).or_else(|| segments.find_map(pod_in_segment)),
    };
    (id, pod.unwrap_or_default())
}

/// The container ID in a segment, and where it begins.
fn id_in_segment(segment: &[u8]) -> Option<(usize, &str)> {
    let mut begin = 0;
    for word in segment.split(|byte| !is_word(*byte)) {
        if word.len() == ID_LENGTH && word.iter().all(u8::is_ascii_hexdigit) {
            return Some((begin, std::str::from_utf8(word).ok()?));
        }
        begin += word.len() + 1;
    }
    None
}

/// The UID in `pod<uid>`, which begins and ends where a word does.
fn pod_in_segment(segment: &[u8]) -> Option<String> {
    let begins = |at: &usize| at.checked_sub(1).is_none_or(|before| !is_word(segment[before]));
    (0..segment.len()).filter(begins).find_map(|at| {
        let after = segment[at..].strip_prefix(b"pod")?;
        let (uid, rest) = after.split_at_checked(UID_GROUPS.iter().sum::<usize>() + UID_GROUPS.len() - 1)?;
        if rest.first().is_some_and(|byte| is_word(*byte)) {
            return None;
        }
        let uid = String::from_utf8(uid.to_vec()).ok()?.replace('_', "-");
        is_uid(&uid).then_some(uid)
    })
}

fn is_uid(text: &str) -> bool {
    let mut lengths = UID_GROUPS.iter();
    let fits = text.split('-').all(|group| {
        lengths.next() == Some(&group.len()) && group.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    fits && lengths.next().is_none()
}

/// What a regular expression's `\b` takes for a part of a word.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Hexadecimal digits of a container ID, by convention of every runtime.
pub(in crate::attest) const ID_LENGTH: usize = 64;

/// Hexadecimal digits in the groups of a Pod's UID.
pub(in crate::attest) const UID_GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
