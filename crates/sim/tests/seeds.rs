//! Seeds that found something once, and a few that nobody chose.

use vouchsafe_sim::{Options, run};

/// Seeds that are run besides the committed ones.
const FRESH: std::ops::Range<u64> = 0..6;

/// The seeds of `seeds.txt`: one a line, with what it found behind it.
fn committed() -> Vec<u64> {
    let lines = include_str!("../seeds.txt").lines();
    let lines = lines.filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (seed, found) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?}: say what it found"));
            assert!(!found.trim().is_empty(), "{line:?}: say what it found");
            seed.parse().unwrap_or_else(|_| panic!("{line:?} does not begin with a seed"))
        })
        .collect()
}

#[test]
fn every_promise_is_kept() {
    let mut failed = Vec::new();
    for seed in committed().into_iter().chain(FRESH) {
        let outcome = run(seed, Options::default()).unwrap();
        if let Some(violation) = outcome.violation {
            failed.push(format!("seed {seed}: {violation}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}\nagain: cargo run -p vouchsafe-sim -- --seed SEED --trace");
}

/// What the operator and the plan do is drawn from the seed, and every part starts and ends when it should.
#[test]
fn a_seed_does_the_same_each_time() {
    let first = run(7, Options::default()).unwrap();
    let second = run(7, Options { keep: true, ..Options::default() }).unwrap();
    let third = run(8, Options::default()).unwrap();
    assert!(second.lines.len() > 100, "a trace was asked for");
    assert_eq!(first.hash, second.hash);
    assert_ne!(first.hash, third.hash);
}
