use super::*;

fn file(name: &str, mode: u32, content: &str) -> File {
    File { name: name.to_owned(), mode, content: Zeroizing::new(content.as_bytes().to_vec()) }
}

fn set(number: u32) -> Vec<File> {
    vec![
        file("key.pem", 0o600, &format!("key {number}")),
        file("svid.pem", 0o644, &format!("svid {number}")),
        file("bundle.pem", 0o640, "bundle"),
    ]
}

fn folder(path: &Path, replacement: Replacement) -> Folder {
    let names = ["key.pem", "svid.pem", "bundle.pem", "jwt.token"].map(str::to_owned).to_vec();
    Folder::new(path.to_owned(), replacement, names)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const BOTH: [Replacement; 2] = [Replacement::EachFile, Replacement::WholeFolder];

#[test]
fn files_have_their_content_and_exactly_their_mode_whatever_was_there() {
    for replacement in BOTH {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("key.pem"), "an old key that anybody could read").unwrap();
        fs::set_permissions(place.path().join("key.pem"), Permissions::from_mode(0o666)).unwrap();
        let folder = folder(place.path(), replacement);
        assert_eq!(folder.put(&set(1)).unwrap(), Written::Changed);
        assert_eq!(text(&place.path().join("key.pem")), "key 1");
        assert_eq!(text(&place.path().join("svid.pem")), "svid 1");
        let modes = ["key.pem", "svid.pem", "bundle.pem"].map(|name| mode(&place.path().join(name)));
        assert_eq!(modes, [0o600, 0o644, 0o640]);
    }
}

#[test]
fn what_is_there_already_is_not_written_again_and_a_wrong_mode_is() {
    for replacement in BOTH {
        let place = tempfile::tempdir().unwrap();
        let folder = folder(place.path(), replacement);
        folder.put(&set(1)).unwrap();
        assert_eq!(folder.put(&set(1)).unwrap(), Written::Already);
        let key = fs::canonicalize(place.path().join("key.pem")).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(folder.put(&set(1)).unwrap(), Written::Changed);
        assert_eq!(mode(&place.path().join("key.pem")), 0o600);
    }
}

#[test]
fn a_reader_that_has_the_old_file_open_keeps_it_whole() {
    let place = tempfile::tempdir().unwrap();
    let folder = folder(place.path(), Replacement::EachFile);
    folder.put(&set(1)).unwrap();
    let mut old = fs::File::open(place.path().join("key.pem")).unwrap();
    folder.put(&set(2)).unwrap();
    let mut seen = String::new();
    old.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "key 1");
}

#[test]
fn a_write_that_fails_leaves_the_whole_old_set_and_nothing_beside_it() {
    let place = tempfile::tempdir().unwrap();
    let folder = folder(place.path(), Replacement::EachFile);
    folder.put(&set(1)).unwrap();
    // In the way of the last file's name beside: it cannot be written.
    fs::create_dir(place.path().join(".bundle.pem.new")).unwrap();
    let mut next = set(2);
    next[2] = file("bundle.pem", 0o640, "bundle 2");
    let error = folder.put(&next).unwrap_err();
    assert!(error.to_string().ends_with("bundle.pem"), "{error}");
    assert_eq!(text(&place.path().join("key.pem")), "key 1");
    assert_eq!(text(&place.path().join("svid.pem")), "svid 1");
    assert_eq!(names(place.path()), [".bundle.pem.new", "bundle.pem", "key.pem", "svid.pem"]);
}

#[test]
fn a_crash_in_between_leaves_whole_files_and_its_leftovers_go_with_the_next_write() {
    for replacement in BOTH {
        let place = tempfile::tempdir().unwrap();
        let folder = folder(place.path(), replacement);
        folder.put(&set(1)).unwrap();
        fs::write(place.path().join(".key.pem.new"), "half a k").unwrap();
        fs::create_dir(place.path().join("..v2")).unwrap();
        fs::write(place.path().join("..v2/key.pem"), "half").unwrap();
        assert_eq!(text(&place.path().join("key.pem")), "key 1");
        folder.put(&set(2)).unwrap();
        assert_eq!(text(&place.path().join("key.pem")), "key 2");
        if replacement == Replacement::EachFile {
            assert!(!place.path().join(".key.pem.new").exists());
        } else {
            assert_eq!(fs::read_link(place.path().join("..data")).unwrap(), Path::new("..v2"));
            assert!(!place.path().join("..v1").exists());
        }
    }
}

#[test]
fn a_whole_folder_changes_in_one_step_and_keeps_what_the_set_does_not_bring() {
    let place = tempfile::tempdir().unwrap();
    let all = folder(place.path(), Replacement::WholeFolder);
    all.put(&[file("jwt.token", 0o600, "token")]).unwrap();
    all.put(&set(1)).unwrap();
    let before = fs::canonicalize(place.path().join("..data")).unwrap();
    // After a restart, which knows nothing of the files.
    folder(place.path(), Replacement::WholeFolder).put(&set(2)).unwrap();
    let after = fs::canonicalize(place.path().join("..data")).unwrap();
    assert_ne!(before, after);
    assert_eq!(text(&after.join("key.pem")), "key 2");
    assert_eq!(text(&after.join("svid.pem")), "svid 2");
    assert_eq!(text(&place.path().join("jwt.token")), "token");
    assert_eq!(names(place.path()), ["..data", "..v3", "bundle.pem", "jwt.token", "key.pem", "svid.pem"]);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    for replacement in BOTH {
        let place = tempfile::tempdir().unwrap();
        let missing = place.path().join("missing");
        let error = folder(&missing, replacement).put(&set(1)).unwrap_err();
        assert_eq!(error.class(), Class::Permanent);
        assert!(error.to_string().contains("missing"), "{error}");
    }
}

fn leave_a_generation(place: &Path, number: u32) {
    let folder = place.join(format!("..v{number}"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("key.pem"), "an old key").unwrap();
}

fn generations(place: &Path) -> Vec<String> {
    names(place).into_iter().filter(|name| name.starts_with("..v")).collect()
}

#[test]
fn old_keys_do_not_stay_in_generations_that_nobody_is_shown() {
    let place = tempfile::tempdir().unwrap();
    let all = folder(place.path(), Replacement::WholeFolder);
    all.put(&set(1)).unwrap();
    leave_a_generation(place.path(), 7);
    all.put(&set(2)).unwrap();
    assert_eq!(generations(place.path()), ["..v2"]);
    // Also when there is nothing to write: after a crash between the swap and this.
    leave_a_generation(place.path(), 1);
    assert_eq!(all.put(&set(2)).unwrap(), Written::Already);
    assert_eq!(generations(place.path()), ["..v2"]);
}

#[test]
fn a_write_that_fails_after_the_swap_leaves_no_old_key() {
    let place = tempfile::tempdir().unwrap();
    let all = folder(place.path(), Replacement::WholeFolder);
    all.put(&set(1)).unwrap();
    // A directory in the way of a new link.
    fs::create_dir(place.path().join("jwt.token")).unwrap();
    let mut next = set(2);
    next.push(file("jwt.token", 0o600, "token"));
    assert!(all.put(&next).is_err());
    assert_eq!(text(&place.path().join("key.pem")), "key 2");
    assert_eq!(generations(place.path()), ["..v2"]);
}

#[test]
fn a_set_that_cannot_be_written_leaves_nothing_of_it() {
    let place = tempfile::tempdir().unwrap();
    let all = folder(place.path(), Replacement::WholeFolder);
    all.put(&set(1)).unwrap();
    let mut next = set(2);
    next.push(file("no/such/folder", 0o600, "x"));
    assert!(all.put(&next).is_err());
    assert_eq!(text(&place.path().join("key.pem")), "key 1");
    assert_eq!(generations(place.path()), ["..v1"]);
}

#[test]
fn files_that_are_written_one_by_one_again_leave_no_generation() {
    let place = tempfile::tempdir().unwrap();
    folder(place.path(), Replacement::WholeFolder).put(&set(1)).unwrap();
    let each = folder(place.path(), Replacement::EachFile);
    each.put(&set(1)[..1]).unwrap();
    assert_eq!(text(&place.path().join("svid.pem")), "svid 1", "still shown through the generation");
    each.put(&set(1)[1..]).unwrap();
    assert_eq!(names(place.path()), ["bundle.pem", "key.pem", "svid.pem"]);
    assert_eq!(text(&place.path().join("svid.pem")), "svid 1");
}
