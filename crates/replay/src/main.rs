//! Replays of the incidents that this product exists for, against real processes.
//!
//! A replay starts PostgreSQL, servers, agents and workloads as an operator would (programs, configuration files, command
//! lines, metrics pages), breaks something between them, and measures what workloads notice. It runs on our programs
//! and on stock SPIRE's, one after the other, and only ours decide the verdict.
//!
//! What is here
//! * [`args`]     the command line; [`programs`] what must be installed; [`error`] whose fault it is
//! * [`process`]  programs that end with their guard, by process id; [`place`] the directory of one run
//! * [`postgres`] a database of our own and a streaming replica; [`proxy`] what stands before it, and fails on command
//! * [`stack`]    servers and agents; [`admin`] join tokens and entries
//! * [`workload`] the process that asks for SVIDs; [`workloads`] the side that starts it and reads what it met
//! * [`pages`]    metrics pages; [`prometheus`] a real Prometheus with the shipped rules
//! * [`measure`]  figures and bounds; [`report`] the table and the last line; [`progress`] what happens now
//! * [`replays`]  the six replays
//!
//! What it never does: touch a service or a process that it did not start, or decide by what a log says.

use std::process::ExitCode;

mod admin;
mod args;
mod error;
mod measure;
mod pages;
mod place;
mod postgres;
mod process;
mod programs;
mod progress;
mod prometheus;
mod proxy;
mod replays;
mod report;
mod run;
mod stack;
mod workload;
mod workloads;

use args::{Args, Asked};
use error::Error;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Everything is started from this one thread: a program that we start ends when the thread that started it does.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::from(EXIT_SETUP);
        }
    };
    if arguments.first().is_some_and(|first| first == workload::COMMAND) {
        runtime.block_on(workload::run());
        return ExitCode::SUCCESS;
    }
    match Args::parse(&arguments) {
        Ok(Asked::Help) => {
            println!("{}", args::HELP);
            ExitCode::SUCCESS
        }
        Ok(Asked::Run(args)) => ExitCode::from(runtime.block_on(until_signalled(&args))),
        Err(problem) => {
            eprintln!("{problem}\n\n{}", args::USAGE);
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Runs what was asked for. On SIGINT or SIGTERM the run is dropped, and with it all that it started.
async fn until_signalled(args: &Args) -> u8 {
    let mut shutdown = match vouchsafe_runtime::signals::shutdown() {
        Ok(shutdown) => shutdown,
        Err(error) => {
            eprintln!("no signal handlers: {error}");
            return EXIT_SETUP;
        }
    };
    let done = tokio::select! {
        done = run::run(args) => done,
        () = &mut shutdown.first => Err(Error::Interrupted),
    };
    match done {
        Ok(true) => 0,
        Ok(false) => EXIT_FAIL,
        Err(error) => {
            eprintln!("{error}");
            if matches!(error, Error::Broken { .. }) { EXIT_FAIL } else { EXIT_SETUP }
        }
    }
}

/// A bound was missed, or what is tested broke.
const EXIT_FAIL: u8 = 1;
const EXIT_USAGE: u8 = 2;
/// It could not be set up, or was interrupted: nothing is known.
const EXIT_SETUP: u8 = 3;
