use std::os::unix::fs::PermissionsExt;

use super::*;
use proptest::prelude::*;

const MAX: u64 = 1 << 16;

fn at(position: u64) -> Version {
    Version { epoch: 3, position }
}

fn open(path: &Path) -> SealedFile {
    SealedFile::open(path, SealKey::new([7; 32]), MAX, "things")
}

/// A folder with a sealed list of numbers, and the path of the file.
fn sealed() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let when = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    open(&path).save(at(5), when, &vec![1_u32, 2, 3]).unwrap();
    (folder, path)
}

fn refusal(path: &Path) -> RestoreError {
    open(path).restore::<Vec<u32>>().unwrap_err()
}

#[test]
fn what_was_saved_comes_back_with_its_age() {
    let (_folder, path) = sealed();
    let restored = open(&path).restore::<Vec<u32>>().unwrap().unwrap();
    assert_eq!(restored.value, [1, 2, 3]);
    assert_eq!(restored.version, at(5));
    assert_eq!(restored.confirmed_at, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000));
}

#[test]
fn no_file_is_no_state() {
    let folder = tempfile::tempdir().unwrap();
    assert!(open(&folder.path().join("state")).restore::<Vec<u32>>().unwrap().is_none());
}

#[test]
fn only_the_owner_may_read_and_nothing_is_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    open(&path).save(at(1), SystemTime::UNIX_EPOCH, &"a very secret value").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(&path).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (_folder, path) = sealed();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = refusal(&path);
        assert!(
            matches!(error, RestoreError::Torn { .. } | RestoreError::Corrupt { .. }),
            "{length}: {error}"
        );
    }
}

#[test]
fn another_key_another_kind_and_another_file_are_refused_by_name() {
    let (_folder, path) = sealed();
    let other_key = SealedFile::open(&path, SealKey::new([8; 32]), MAX, "things");
    assert!(matches!(other_key.restore::<Vec<u32>>(), Err(RestoreError::Corrupt { .. })));
    let other_kind = SealedFile::open(&path, SealKey::new([7; 32]), MAX, "gadgets");
    assert!(matches!(other_kind.restore::<Vec<u32>>(), Err(RestoreError::ForeignKind { .. })));
    fs::write(&path, b"{\"svid\":[]}").unwrap();
    assert!(matches!(refusal(&path), RestoreError::Foreign { .. }));
}

#[test]
fn a_newer_format_says_to_upgrade() {
    let (_folder, path) = sealed();
    let mut bytes = fs::read(&path).unwrap();
    bytes[MAGIC.len()] = FORMAT + 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(refusal(&path), RestoreError::NewerFormat { format, .. } if format == FORMAT + 1));
}

#[test]
fn neither_a_large_value_nor_a_large_file_gets_in() {
    let (_folder, path) = sealed();
    let small = SealedFile::open(&path, SealKey::new([7; 32]), 60, "things");
    let error = small.save(at(6), SystemTime::UNIX_EPOCH, &vec![0_u8; 100]).unwrap_err();
    assert!(matches!(error, SaveError::TooLarge { .. }));
    assert_eq!(open(&path).restore::<Vec<u32>>().unwrap().unwrap().version, at(5), "the old content stays");
    fs::write(&path, vec![0; usize::try_from(MAX).unwrap() + 1]).unwrap();
    assert!(matches!(refusal(&path), RestoreError::TooLarge { .. }));
}

#[test]
fn an_older_version_is_neither_written_nor_loaded() {
    let (_folder, path) = sealed();
    let older = fs::read(&path).unwrap();
    let file = open(&path);
    file.save(at(9), SystemTime::UNIX_EPOCH, &vec![9_u32]).unwrap();
    let error = file.save(at(8), SystemTime::UNIX_EPOCH, &vec![8_u32]).unwrap_err();
    assert!(matches!(error, SaveError::Older { .. }));
    fs::write(&path, older).unwrap();
    assert!(matches!(file.restore::<Vec<u32>>(), Err(RestoreError::Older { .. })));
}

#[test]
fn a_save_that_cannot_finish_leaves_the_old_content() {
    let (_folder, path) = sealed();
    // A directory in the place of the temporary file: the new content can never be written.
    let blocked = PathBuf::from(format!("{}.{}.tmp", path.display(), std::process::id()));
    fs::create_dir(&blocked).unwrap();
    let error = open(&path).save(at(6), SystemTime::UNIX_EPOCH, &vec![6_u32]).unwrap_err();
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    assert_eq!(open(&path).restore::<Vec<u32>>().unwrap().unwrap().version, at(5));
}

#[test]
fn what_a_crash_left_beside_the_file_is_removed_when_it_is_restored() {
    let (folder, path) = sealed();
    let beside = |name: &str| folder.path().join(name);
    for name in ["state.4711.tmp", "state.1.tmp", "state.mine.tmp", "other.4711.tmp"] {
        fs::write(beside(name), "half").unwrap();
    }
    assert!(open(&path).restore::<Vec<u32>>().unwrap().is_some());
    assert!(!beside("state.4711.tmp").exists() && !beside("state.1.tmp").exists());
    assert!(beside("state.mine.tmp").exists() && beside("other.4711.tmp").exists());
}

#[test]
fn a_key_is_not_shown() {
    assert_eq!(format!("{:?}", SealKey::new([7; 32])), "SealKey(<redacted>)");
}

proptest! {
    #[test]
    fn a_changed_byte_is_refused(at in any::<prop::sample::Index>(), flip in 1_u8..=255) {
        let (_folder, path) = sealed();
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        fs::write(&path, bytes).unwrap();
        refusal(&path);
    }

    #[test]
    fn any_value_survives(value in prop::collection::vec(any::<u64>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        open(&path).save(at(1), SystemTime::UNIX_EPOCH, &value).unwrap();
        prop_assert_eq!(open(&path).restore::<Vec<u64>>().unwrap().unwrap().value, value);
    }
}
