//! The commands.
//!
//! `vouchsafe server …` and `vouchsafe agent …` are SPIRE's commands: same flags, texts and exit codes. Called through a
//! link named `spire-server` or `spire-agent` the program is that part, and `oidc-discovery-provider` is `oidc run`, `spiffe-csi-driver` is `csi run`, `spiffe-helper` is `helper`, `spire-controller-manager` is `registrar run`. Exit codes: 0 done; 1 failed, or wrong flags;
//! 127 no such command. `explain` has its own.

mod agent;
mod call;
mod csi;
mod debug;
mod disk;
mod explain;
mod grammar;
mod health;
mod helper;
mod logger;
mod oidc;
mod output;
mod pages;
mod proto_json;
mod registrar;
mod server;
mod socket;
mod validate;

use std::ffi::OsString;
use std::io::{self, IsTerminal};

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{ArgMatches, FromArgMatches};
use vouchsafe_runtime::clock::Clock;

use self::grammar::Command;
pub use self::grammar::{Part, grammar};
use crate::argv;
use crate::config;
use crate::console::{Colour, Console, process_environment};

/// Done.
pub const DONE: u8 = 0;
/// Failed, or wrong flags.
pub const FAILED: u8 = 1;
/// No such command.
pub const NO_SUCH_COMMAND: u8 = 127;

/// Runs the program with the process's streams and environment, and returns its exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> u8 {
    let environment = process_environment();
    let plain = environment("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour =
        Colour { stdout: !plain && io::stdout().is_terminal(), stderr: !plain && io::stderr().is_terminal() };
    let (mut stdin, mut stdout, mut stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut console = Console {
        stdin: &mut stdin,
        stdout: &mut stdout,
        stderr: &mut stderr,
        environment,
        colour,
        advice: true,
        clock: Clock::system(),
    };
    run(arguments.collect(), &mut console)
}

/// Runs the program with these arguments, the first of which is its name, and returns its exit code.
pub fn run(arguments: Vec<OsString>, console: &mut Console<'_>) -> u8 {
    let mut arguments = arguments.into_iter();
    let part = Part::from_program_name(arguments.next().as_deref());
    console.advice = part == Part::All;
    let command = grammar(part);
    let normalized = argv::normalize(&command, arguments.collect());
    let depth = command_depth(&command, &normalized, part);
    let explains = part == Part::All && normalized.first().is_some_and(|word| word == "explain");
    let program = OsString::from(command.get_name());
    let parsed = command.try_get_matches_from(std::iter::once(program).chain(normalized));
    let finished = match parsed.and_then(|matches| parse_command(part, &matches)) {
        Ok(command) => dispatch(command, console),
        Err(error)
            if matches!(part, Part::Oidc | Part::Helper) && error.kind() == ErrorKind::DisplayVersion =>
        {
            writeln!(console.stdout, env!("CARGO_PKG_VERSION")).map(|()| DONE)
        }
        // Its code 1 says something about an identity.
        Err(error) if explains && error.use_stderr() => {
            print_usage(&error, depth, console).map(|_| explain::USAGE)
        }
        Err(error) => print_usage(&error, depth, console),
    };
    let flushed = console.stdout.flush();
    match finished.and_then(|code| flushed.map(|()| code)) {
        Ok(code) => code,
        // Whoever read the output has gone; there is nobody to tell.
        Err(_) => FAILED,
    }
}

fn parse_command(part: Part, matches: &ArgMatches) -> Result<Command, clap::Error> {
    match part {
        Part::All => Command::from_arg_matches(matches),
        Part::Server => server::ServerCommand::from_arg_matches(matches).map(Command::Server),
        Part::Agent => agent::AgentCommand::from_arg_matches(matches).map(Command::Agent),
        Part::Csi => csi::CsiArgs::from_arg_matches(matches)
            .map(|arguments| Command::Csi(csi::CsiCommand::Run(arguments))),
        Part::Helper => helper::HelperArgs::from_arg_matches(matches).map(Command::Helper),
        Part::Oidc => oidc::OidcArgs::from_arg_matches(matches)
            .map(|arguments| Command::Oidc(oidc::OidcCommand::Run(arguments))),
        Part::Registrar => registrar::RegistrarArgs::from_arg_matches(matches)
            .map(|arguments| Command::Registrar(registrar::RegistrarCommand::Run(arguments))),
    }
}

/// How many words of a part's command were understood: 0 means that the command itself was not.
fn command_depth(command: &clap::Command, arguments: &[OsString], part: Part) -> usize {
    let mut current = command;
    let mut words = 0usize;
    for argument in arguments {
        let Some(next) = argument.to_str().and_then(|word| current.find_subcommand(word)) else { break };
        current = next;
        words += 1;
    }
    if part == Part::All { words.saturating_sub(1) } else { words }
}

/// Prints help, the version or what is wrong with the arguments.
fn print_usage(error: &clap::Error, depth: usize, console: &mut Console<'_>) -> io::Result<u8> {
    let rendered = error.render();
    let coloured = if error.use_stderr() { console.colour.stderr } else { console.colour.stdout };
    let text = if coloured { rendered.ansi().to_string() } else { rendered.to_string() };
    let code = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => DONE,
        ErrorKind::InvalidSubcommand
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            if depth == 0 =>
        {
            NO_SUCH_COMMAND
        }
        _ => FAILED,
    };
    if error.use_stderr() {
        console.stderr.write_all(text.as_bytes())?;
    } else if error.kind() == ErrorKind::DisplayVersion && !console.advice {
        // As the programs do that this one stands in for.
        console.stderr.write_all(concat!(env!("CARGO_PKG_VERSION"), "\n").as_bytes())?;
    } else {
        console.stdout.write_all(text.as_bytes())?;
    }
    Ok(code)
}

fn dispatch(command: Command, console: &mut Console<'_>) -> io::Result<u8> {
    match command {
        Command::Server(command) => server::execute(command, console),
        Command::Agent(command) => agent::execute(command, console),
        Command::Csi(command) => csi::execute(command, console),
        Command::Helper(arguments) => helper::execute(arguments, console),
        Command::Oidc(command) => oidc::execute(command, console),
        Command::Registrar(command) => registrar::execute(command, console),
        Command::Explain(arguments) => explain::execute(&arguments, console),
        Command::Up(arguments) => {
            let resolved = config::up::resolve(arguments.into(), &*console.environment);
            let config = match resolved {
                Ok(config) => config,
                Err(problems) => {
                    for problem in problems {
                        writeln!(console.stderr, "Error: {}", problem.message)?;
                    }
                    return Ok(FAILED);
                }
            };
            report(crate::run::up(config), "Error: ", console)
        }
        Command::Completion { shell } => {
            let mut command = grammar(Part::All);
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "vouchsafe", &mut script);
            console.stdout.write_all(&script)?;
            Ok(DONE)
        }
    }
}

/// Stands in an error's text before what to do about it, which is not printed where the program stands in for SPIRE's.
const ADVICE: &str = "\nHint: ";

/// The exit code of a result; a failure is printed after `prefix`.
fn report(result: anyhow::Result<()>, prefix: &str, console: &mut Console<'_>) -> io::Result<u8> {
    match result {
        Ok(()) => Ok(DONE),
        Err(error) => {
            console.stdout.flush()?;
            let text = format!("{error:#}");
            writeln!(console.stderr, "{prefix}{}", told(&text, console))?;
            Ok(FAILED)
        }
    }
}

/// What is printed of an error's text: with the advice or without.
fn told<'t>(text: &'t str, console: &Console<'_>) -> &'t str {
    if console.advice { text } else { text.split(ADVICE).next().unwrap_or(text) }
}

/// Runs a client command to its end.
fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the asynchronous runtime")?.block_on(future)
}
