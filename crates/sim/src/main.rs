//! Runs seeds.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use vouchsafe_sim::{Options, Outcome, run};

fn main() -> ExitCode {
    match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments.run(),
        Err(why) => {
            eprintln!("{why}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

const USAGE: &str = "usage: vouchsafe-sim [--seeds COUNT] [--first SEED] [--threads COUNT]
       vouchsafe-sim --seed SEED [--trace]

  --seeds COUNT    run so many seeds (default 200)
  --first SEED     beginning with this one (default 0)
  --threads COUNT  so many at a time (default: one for each processor)
  --seed SEED      run this one
  --trace          and print all that happened";

#[derive(Debug)]
struct Arguments {
    first: u64,
    count: u64,
    threads: usize,
    trace: bool,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut read = Self { first: 0, count: 200, threads, trace: false };
        while let Some(word) = words.next() {
            let mut number = || {
                let next = words.next().unwrap_or_default();
                next.parse::<u64>().map_err(|_| format!("{word} needs a number, not {next:?}"))
            };
            match word.as_str() {
                "--seeds" => read.count = number()?,
                "--first" => read.first = number()?,
                "--threads" => read.threads = usize::try_from(number()?).unwrap_or(1).max(1),
                "--seed" => (read.first, read.count) = (number()?, 1),
                "--trace" => read.trace = true,
                _ => return Err(format!("unknown argument {word:?}")),
            }
        }
        Ok(read)
    }

    fn run(&self) -> ExitCode {
        let (next, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let began = tokio::time::Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(usize::try_from(self.count).unwrap_or(usize::MAX)) {
                scope.spawn(|| {
                    while let Some(seed) = self.take(&next) {
                        failed.fetch_add(u64::from(!self.one(seed)), Ordering::Relaxed);
                    }
                });
            }
        });
        let failed = failed.into_inner();
        println!("{} seeds, {failed} failed, {:.1} s", self.count, began.elapsed().as_secs_f64());
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn take(&self, next: &AtomicU64) -> Option<u64> {
        let place = next.fetch_add(1, Ordering::Relaxed);
        (place < self.count).then_some(self.first + place)
    }

    /// Whether all promises were kept.
    fn one(&self, seed: u64) -> bool {
        let outcome = match run(seed, Options { keep: self.trace, ..Options::default() }) {
            Ok(outcome) => outcome,
            Err(error) => {
                eprintln!("cannot run a simulation: {error}");
                return false;
            }
        };
        for line in &outcome.lines {
            println!("{line}");
        }
        print(&outcome);
        outcome.violation.is_none()
    }
}

fn print(outcome: &Outcome) {
    let Outcome { seed, violation, hash: (steps, hash), took, .. } = outcome;
    let took = took.as_secs();
    match violation {
        None => println!("seed {seed} ok: {took} s, {steps} steps, hash {hash:016x}"),
        Some(violation) => println!(
            "seed {seed} FAILED after {took} s: {violation}\n  again: cargo run -p vouchsafe-sim -- --seed {seed} --trace"
        ),
    }
}
