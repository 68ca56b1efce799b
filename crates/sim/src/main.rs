//! Runs seeds, each in a process of its own: what a process has done before would show in the next seed (counters of tokio,
//! caches), and a seed that hangs or overflows its stack is one failed seed.

use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use vouchsafe_sim::{Options, Outcome, run};

fn main() -> ExitCode {
    match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) if arguments.here => here(&arguments),
        Ok(arguments) => arguments.run(),
        Err(why) => {
            eprintln!("{why}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

const USAGE: &str = "usage: vouchsafe-sim [--seeds COUNT] [--first SEED] [--threads COUNT]
       vouchsafe-sim --seed SEED [--seed SEED ...] [--trace]

  --seeds COUNT    run so many seeds (default 200)
  --first SEED     beginning with this one (default 0)
  --seed SEED      run this one
  --threads COUNT  so many at a time (default: one for each processor)
  --trace          and print all that happened";

#[derive(Debug)]
struct Arguments {
    first: u64,
    count: u64,
    chosen: Vec<u64>,
    threads: usize,
    trace: bool,
    /// Run the chosen seed in this process, with the files in the working directory.
    here: bool,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut read = Self { first: 0, count: 200, chosen: Vec::new(), threads, trace: false, here: false };
        while let Some(word) = words.next() {
            let mut number = || {
                let next = words.next().unwrap_or_default();
                next.parse::<u64>().map_err(|_| format!("{word} needs a number, not {next:?}"))
            };
            match word.as_str() {
                "--seeds" => read.count = number()?,
                "--first" => read.first = number()?,
                "--threads" => read.threads = usize::try_from(number()?).unwrap_or(1).max(1),
                "--seed" => read.chosen.push(number()?),
                "--trace" => read.trace = true,
                HERE => read.here = true,
                _ => return Err(format!("unknown argument {word:?}")),
            }
        }
        Ok(read)
    }

    fn run(&self) -> ExitCode {
        let range = self.first..self.first.saturating_add(self.count);
        let seeds = if self.chosen.is_empty() { range.collect() } else { self.chosen.clone() };
        let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let began = tokio::time::Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(seeds.len()) {
                scope.spawn(|| {
                    while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                        failed.fetch_add(usize::from(!self.one(*seed)), Ordering::Relaxed);
                    }
                });
            }
        });
        let failed = failed.into_inner();
        println!("{} seeds, {failed} failed, {:.1} s", seeds.len(), began.elapsed().as_secs_f64());
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Whether all promises were kept.
    fn one(&self, seed: u64) -> bool {
        match self.process(seed) {
            Ok(kept) => kept,
            Err(error) => {
                eprintln!("seed {seed}: cannot run a process for it: {error}");
                false
            }
        }
    }

    fn process(&self, seed: u64) -> io::Result<bool> {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }?;
        let mut process = Command::new(std::env::current_exe()?);
        process.args([HERE, "--seed", &seed.to_string()]).args(self.trace.then_some("--trace"));
        // The environment lies on the stack, and must not be what differs.
        let output = process.env_clear().current_dir(dir.path()).stderr(io::stderr()).output()?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        let reported = matches!(output.status.code(), Some(0 | FAILED));
        if !reported {
            println!("seed {seed} FAILED: its process ended with {}{}", output.status, again(seed));
        }
        Ok(output.status.success())
    }
}

/// The chosen seed, in this process.
fn here(arguments: &Arguments) -> ExitCode {
    nix::unistd::alarm::set(DEADLINE_SECS);
    let seed = arguments.chosen.first().copied().unwrap_or_default();
    let options = Options { keep: arguments.trace, ..Options::new(".".into()) };
    match run(seed, options) {
        Ok(outcome) => print(&outcome),
        Err(error) => {
            eprintln!("seed {seed}: {error}");
            ExitCode::from(2)
        }
    }
}

fn print(outcome: &Outcome) -> ExitCode {
    let Outcome { seed, violation, hash: (lines, hash), took, .. } = outcome;
    let text: String = outcome.lines.iter().map(|line| format!("{line}\n")).collect();
    let took = took.as_secs();
    let (verdict, code) = match violation {
        None => (format!("ok: {took} s, {lines} lines, hash {hash:016x}"), ExitCode::SUCCESS),
        Some(violation) => {
            (format!("FAILED after {took} s: {violation}{}", again(*seed)), ExitCode::from(FAILED as u8))
        }
    };
    println!("{text}seed {seed} {verdict}");
    code
}

fn again(seed: u64) -> String {
    format!("\n  again: cargo run -p vouchsafe-sim -- --seed {seed} --trace")
}

const HERE: &str = "--here";
/// How a process says that a promise was not kept.
const FAILED: i32 = 1;
/// After this time the process of a seed is killed: it hangs.
const DEADLINE_SECS: u32 = 300;
