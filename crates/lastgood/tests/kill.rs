//! A writer that is killed at any instant leaves a state that it was told to write, whole, and never an older one than
//! it had finished writing; one that the system lets write only a part of it leaves the one before. The test starts itself
//! as the writer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use vouchsafe_lastgood::{SealKey, SealedFile, Version};
use vouchsafe_runtime::entropy::Entropy;

/// Writers that are killed.
const ROUNDS: usize = 300;
const WRITER: &str = "--writer";
const ONCE: &str = "--once";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(WRITER) => write_for_ever(Path::new(&arguments[2])),
        Some(ONCE) => write_once(Path::new(&arguments[2])),
        // As the usual harness answers: this file is one test.
        Some("--list") => println!("kill: test"),
        _ => {
            a_writer_that_may_write_only_a_part_leaves_what_was_there();
            a_writer_that_is_killed_at_any_instant_leaves_a_whole_state();
        }
    }
}

fn file(path: &Path) -> SealedFile {
    SealedFile::open(path.to_owned(), SealKey::new([7; 32]), 64 << 20, "kill")
}

/// The value that belongs to a position: of any size, and every part of it says which one it is.
fn value(position: u64) -> Vec<u64> {
    vec![position; usize::try_from(position * 7_919 % 20_000).unwrap()]
}

/// Says each position on standard output as soon as its save has returned.
fn write_for_ever(path: &Path) {
    let file = file(path);
    let mut position = file.restore::<Vec<u64>>().unwrap().map_or(0, |held| held.version.position);
    let mut out = std::io::stdout().lock();
    loop {
        position += 1;
        file.save(Version { epoch: 1, position }, SystemTime::UNIX_EPOCH, &value(position)).unwrap();
        writeln!(out, "{position}").unwrap();
        out.flush().unwrap();
    }
}

/// Says why a large state cannot be saved.
fn write_once(path: &Path) {
    let value = vec![u64::MAX; 100_000];
    match file(path).save(Version { epoch: 1, position: 2 }, SystemTime::UNIX_EPOCH, &value) {
        Ok(()) => println!("saved"),
        Err(error) => println!("{error}"),
    }
}

/// The kernel takes the first kilobytes and refuses the rest, as it does on a disk that fills up.
fn a_writer_that_may_write_only_a_part_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    file(&path).save(Version { epoch: 1, position: 1 }, SystemTime::UNIX_EPOCH, &value(1)).unwrap();
    for blocks in [0, 1, 8, 100] {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" {ONCE} \"$1\"");
        let program = std::env::current_exe().unwrap();
        let out = Command::new("sh").arg("-c").arg(script).arg(program).arg(&path).output().unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        assert!(said.contains("no space left to write"), "{blocks} blocks: {said}");
        let restored = file(&path).restore::<Vec<u64>>().unwrap().unwrap();
        assert_eq!((restored.version.position, restored.value), (1, value(1)), "{blocks} blocks");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "{blocks} blocks: something was left"
        );
    }
}

#[tokio::main(flavor = "current_thread")]
async fn a_writer_that_is_killed_at_any_instant_leaves_a_whole_state() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut entropy = Entropy::from_os().unwrap();
    let seed = entropy.seed();
    let (mut held, mut killed_in_a_save) = (0, 0);
    for round in 0..ROUNDS {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .arg(WRITER)
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(writer.stdout.take().unwrap()).lines();
        let first: u64 = said.next().expect("the writer writes").unwrap().parse().unwrap();
        assert_eq!(first, held + 1, "round {round}, seed {seed}: the writer went on from another state");
        tokio::time::sleep(Duration::from_micros((entropy.fraction() * 4_000.0) as u64)).await;
        writer.kill().unwrap();
        writer.wait().unwrap();
        // A line that the kill cut off counts for nothing.
        let finished = said.map_while(Result::ok).filter_map(|line| line.parse().ok()).max().unwrap_or(first);
        let leftovers = std::fs::read_dir(folder.path()).unwrap().count() - 1;
        killed_in_a_save += usize::from(leftovers > 0);
        let restored =
            file(&path).restore::<Vec<u64>>().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let restored = restored.expect("there is a state");
        held = restored.version.position;
        assert!(
            (finished..=finished + 1).contains(&held),
            "round {round}, seed {seed}: {held} after {finished}"
        );
        assert!(restored.value == value(held), "round {round}, seed {seed}: the state is mixed");
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "round {round}, seed {seed}: something was left beside the file");
    }
    assert!(killed_in_a_save > 0, "no writer was killed in the middle of a save: the test is blind");
    println!("{ROUNDS} writers killed, {killed_in_a_save} in the middle of a save, {held} states written");
}
