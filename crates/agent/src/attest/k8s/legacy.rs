//! Which container and Pod a process is in, as SPIRE looked for them before its new locator
//! (`use_new_container_locator = false`): by the cgroup paths alone, each of which must end with the container ID. Pure.
//!
//! Two forms are known, and a path that has both says nothing:
//!
//! 1. a punctuation mark, `pod<uid>` (its groups parted by a mark or by none), a mark, segments that each end with one
//!    mark, the ID;
//! 2. `crio`, a mark, the ID, without form 1's `pod<uid>` before it.
//!
//! A mark is ASCII punctuation; a suffix `.scope` does not count.

use crate::attest::container::path::{ID_LENGTH, UID_GROUPS};
use crate::attest::container::{Container, LocateError};

/// The container that `paths` agree on, if they have one.
///
/// # Errors
///
/// [`LocateError::Conflict`] or [`LocateError::PodConflict`].
pub fn in_paths(paths: &[Vec<u8>]) -> Result<Option<Container>, LocateError> {
    let mut found: Option<Container> = None;
    for container in paths.iter().filter_map(|path| in_path(path)) {
        match &found {
            Some(before) if before.id != container.id => {
                return Err(LocateError::Conflict(before.id.clone(), container.id));
            }
            Some(before) if before.pod != container.pod => {
                let uid = |container: &Container| container.pod.clone().unwrap_or_default();
                return Err(LocateError::PodConflict(uid(before), uid(&container)));
            }
            _ => found = Some(container),
        }
    }
    Ok(found)
}

fn in_path(path: &[u8]) -> Option<Container> {
    let path = path.strip_suffix(b".scope").unwrap_or(path);
    let (before, id) = path.split_at_checked(path.len().checked_sub(ID_LENGTH)?)?;
    let (mark, _) = before.split_last()?;
    if !id.iter().all(u8::is_ascii_hexdigit) || !mark.is_ascii_punctuation() {
        return None;
    }
    let pod = (0..before.len()).find_map(|at| {
        let (uid, rest) = pod_at(before, at)?;
        let marked = at > 0 && before[at - 1].is_ascii_punctuation();
        // Every segment ends with one mark.
        let parted = |pair: &[u8]| !(pair[0].is_ascii_punctuation() && pair[1].is_ascii_punctuation());
        (marked
            && rest.len() < before.len()
            && before[before.len() - rest.len() - 1..].windows(2).all(parted))
        .then_some(uid)
    });
    let container = |pod| Some(Container { id: std::str::from_utf8(id).ok()?.to_owned(), pod });
    match (pod, is_crio(before)) {
        (Some(pod), false) => container(Some(pod)),
        (None, true) => container(None),
        _ => None,
    }
}

/// Form 2. What stands between a Pod's UID and `crio` must be segments of a path for the UID to count.
fn is_crio(before: &[u8]) -> bool {
    let Some(head) = before.split_last().and_then(|(_, name)| name.strip_suffix(b"crio")) else {
        return false;
    };
    let plain = |byte: &u8| *byte == b'/' || !byte.is_ascii_punctuation();
    let tail = head.iter().rposition(|byte| !plain(byte)).map_or(0, |at| at + 1);
    !(0..=tail).any(|at| pod_at(head, at).is_some_and(|(_, rest)| rest.iter().all(plain)))
}

/// The UID in `pod<uid>` and a mark that begin at `at`, with dashes, and what follows.
fn pod_at(path: &[u8], at: usize) -> Option<(String, &[u8])> {
    let mut rest = path.get(at..)?.strip_prefix(b"pod")?;
    let mut uid = String::new();
    for (index, length) in UID_GROUPS.into_iter().enumerate() {
        if index > 0
            && let Some((mark, after)) = rest.split_first()
            && mark.is_ascii_punctuation()
        {
            uid.push('-');
            rest = after;
        }
        let (group, after) = rest.split_at_checked(length)?;
        if !group.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        uid.push_str(std::str::from_utf8(group).ok()?);
        rest = after;
    }
    let (mark, rest) = rest.split_first()?;
    mark.is_ascii_punctuation().then_some((uid, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "9bca8d63d5fa610783847915bcff0ecac1273e5b4bed3f6fa1b07350e0135961";
    const B: &str = "45490e76e0878aaa4d9808f7d2eefba37f093c3efbba9838b6d8ab804d9bd814";
    const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";

    fn of(path: &str) -> Option<(Option<String>, String)> {
        in_path(path.as_bytes()).map(|container| (container.pod, container.id))
    }

    #[test]
    fn the_forms_of_old_are_known() {
        let under = UID.replace('-', "_");
        for path in [
            format!("/kubepods/burstable/pod{UID}/{A}"),
            format!("/docker/{B}/kubepods/besteffort/pod{UID}/{A}"),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID}.slice/docker-{A}.scope"
            ),
            format!("/kubepods-besteffort-pod{under}.slice:cri-containerd:{A}"),
            format!("/../../pod{UID}/{A}"),
            format!("/kubepods.slice/kubepods-pod{under}.slice/crio-{A}.scope"),
        ] {
            assert_eq!(of(&path), Some((Some(UID.to_owned()), A.to_owned())), "{path}");
        }
        assert_eq!(of(&format!("/../crio-{A}.scope")), Some((None, A.to_owned())));
    }

    #[test]
    fn other_forms_say_nothing() {
        for path in [
            "/".to_owned(),
            format!("/docker/{A}"),
            format!("/kubepods/pod{UID}/{A}/init.scope"),
            format!("/kubepods/pod{UID}/{}", &A[1..]),
            format!("/kubepods/pod{UID}//{A}"),
            format!("/kubepods/xpod{UID}/{A}"),
            format!("/kubepods/pod{UID}x{A}"),
            // Both forms.
            format!("/kubepods/pod{UID}.slice/foo-bar/crio-{A}"),
        ] {
            assert_eq!(of(&path), None, "{path}");
        }
    }

    #[test]
    fn paths_that_disagree_choose_nothing() {
        let path = |id: &str, uid: &str| format!("/kubepods/pod{uid}/{id}").into_bytes();
        assert!(in_paths(&[b"/".to_vec(), path(A, UID), path(A, UID)]).unwrap().is_some());
        assert!(matches!(in_paths(&[path(A, UID), path(B, UID)]), Err(LocateError::Conflict(..))));
        let other = UID.replace('2', "3");
        assert!(matches!(in_paths(&[path(A, UID), path(A, &other)]), Err(LocateError::PodConflict(..))));
        assert_eq!(in_paths(&[b"/".to_vec()]).unwrap(), None);
    }
}
