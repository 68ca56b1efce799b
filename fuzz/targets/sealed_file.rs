//! A last-good file that is not byte for byte what this key sealed is never loaded.
//!
//! The input stands for the file itself, and then for damage: pairs of a position and a mask.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use vouchsafe_lastgood::{SealKey, SealedFile, Version};

static PATH: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("vouchsafe-fuzz-sealed-{}", std::process::id())));

static SEALED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let version = Version { epoch: 1, position: 2 };
    file().save(version, SystemTime::UNIX_EPOCH, &value()).expect("a writable temporary directory");
    fs::read(&*PATH).expect("the file that was just written")
});

fuzz_target!(|input: &[u8]| {
    let mut damaged = SEALED.clone();
    for pair in input.chunks_exact(2) {
        let at = usize::from(pair[0]) % damaged.len();
        damaged[at] ^= pair[1];
    }
    for content in [input, &damaged] {
        fs::write(&*PATH, content).expect("a writable temporary directory");
        match file().restore::<Vec<String>>() {
            Ok(Some(restored)) => {
                assert_eq!(content, SEALED.as_slice());
                assert_eq!(restored.value, value());
            }
            Ok(None) => panic!("there is a file"),
            Err(error) => {
                assert_ne!(content, SEALED.as_slice());
                assert!(error.to_string().contains("vouchsafe-fuzz-sealed"), "{error} names the file");
            }
        }
    }
});

fn file() -> SealedFile {
    SealedFile::open(PATH.clone(), SealKey::new([7; 32]), 64 * 1024, "fuzz")
}

fn value() -> Vec<String> {
    vec!["one".to_owned(), "two".to_owned()]
}
