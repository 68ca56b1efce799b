//! Seeds that found something once, and a few that nobody chose.

use std::process::{Command, Output};

/// Seeds that are run besides the committed ones.
const FRESH: std::ops::Range<u64> = 0..6;
/// Seeds that are run twice.
const TWICE: [u64; 3] = [7, 27, 42];

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

fn simulate(seeds: impl IntoIterator<Item = u64>, more: &[&str]) -> Output {
    let mut simulation = Command::new(env!("CARGO_BIN_EXE_vouchsafe-sim"));
    for seed in seeds {
        simulation.args(["--seed", &seed.to_string()]);
    }
    simulation.args(more).output().unwrap_or_else(|error| panic!("the simulation does not start: {error}"))
}

#[test]
fn every_promise_is_kept() {
    let outcome = simulate(committed().into_iter().chain(FRESH), &[]);
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stdout));
}

/// Every packet, every line of the log of the code under test, and the time of each.
#[test]
fn a_seed_does_the_same_each_time() {
    let trace = |seed| {
        let outcome = simulate([seed], &["--trace"]);
        String::from_utf8_lossy(&outcome.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for seed in TWICE {
        let (first, second) = (trace(seed), trace(seed));
        assert!(first.len() > 500, "seed {seed}: a trace was asked for");
        // The last line says how long it took.
        let lines = first.iter().zip(&second).take(first.len() - 1);
        let difference = lines.clone().find(|(first, second)| first != second);
        assert_eq!(difference, None, "seed {seed} does not do the same each time");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
    assert_ne!(trace(7), trace(8));
}
