//! `logger get`, `logger set` and `logger reset` of both parts.

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use tonic::transport::Channel;
use tonic::{Response, Status};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::log_level::LogLevel;

use super::call::CallArgs;
use super::proto_json;
use super::socket::{AdminSocketArgs, ServerSocketArgs, SocketArgs};
use crate::console::Console;
use crate::go;

#[derive(Debug, Subcommand)]
pub(super) enum LoggerCommand<S: SocketArgs> {
    /// Gets the logger details
    Get(PlainArgs<S>),
    /// Sets the logger details
    Set(SetArgs<S>),
    /// Reset the logger details to launch level
    Reset(PlainArgs<S>),
}

#[derive(Args, Debug)]
pub(super) struct PlainArgs<S: SocketArgs> {
    #[command(flatten)]
    call: CallArgs<S>,
}

#[derive(Args, Debug)]
pub(super) struct SetArgs<S: SocketArgs> {
    /// The new log level, one of (panic, fatal, error, warn, info, debug, trace)
    #[arg(long = "level", value_name = "level", default_value = "", hide_default_value = true)]
    level: String,
    #[command(flatten)]
    call: CallArgs<S>,
}

/// What is asked of a logger.
#[derive(Clone, Copy)]
pub(super) enum Request {
    Get,
    Set(types::LogLevel),
    Reset,
}

/// Who answers behind a socket.
pub(super) trait LoggerApi: SocketArgs {
    async fn ask(channel: Channel, request: Request) -> Result<Response<types::Logger>, Status>;
}

/// The two APIs have the same messages in two packages.
macro_rules! logger_api {
    ($socket:ty, $($api:ident)::+) => {
        impl LoggerApi for $socket {
            async fn ask(channel: Channel, request: Request) -> Result<Response<types::Logger>, Status> {
                use vouchsafe_proto::spire::api::$($api)::+ as api;
                let mut client = api::logger_client::LoggerClient::new(channel);
                match request {
                    Request::Get => client.get_logger(api::GetLoggerRequest {}).await,
                    Request::Set(level) => {
                        client.set_log_level(api::SetLogLevelRequest { new_level: level.into() }).await
                    }
                    Request::Reset => client.reset_log_level(api::ResetLogLevelRequest {}).await,
                }
            }
        }
    };
}
logger_api!(ServerSocketArgs, server::logger::v1);
logger_api!(AdminSocketArgs, agent::logger::v1);

pub(super) async fn execute<S: LoggerApi>(
    command: LoggerCommand<S>,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    let (call, request, what) = match command {
        LoggerCommand::Get(arguments) => (arguments.call, Request::Get, "error fetching logger"),
        LoggerCommand::Set(arguments) => {
            let level = Request::Set(parse_level(&arguments.level)?);
            (arguments.call, level, "failed to set log level")
        }
        LoggerCommand::Reset(arguments) => (arguments.call, Request::Reset, "failed to reset logger"),
    };
    let logger = call.call(what, console, async |channel| S::ask(channel, request).await).await?;
    call.output.print(
        console,
        || proto_json::logger(&logger),
        |console| {
            let current = level_name(logger.current_level, "current")?;
            let launch = level_name(logger.launch_level, "launch")?;
            Ok(write!(console.stdout, "Logger Level : {current}\nLaunch Level : {launch}\n\n")?)
        },
    )
}

fn parse_level(text: &str) -> anyhow::Result<types::LogLevel> {
    if text.is_empty() {
        bail!("a value (-level) must be set");
    }
    let level: LogLevel =
        text.parse().map_err(|_| anyhow!("the value {} is not a valid setting", go::quote(text)))?;
    Ok(match level {
        LogLevel::Panic => types::LogLevel::Panic,
        LogLevel::Fatal => types::LogLevel::Fatal,
        LogLevel::Error => types::LogLevel::Error,
        LogLevel::Warn => types::LogLevel::Warn,
        LogLevel::Info => types::LogLevel::Info,
        LogLevel::Debug => types::LogLevel::Debug,
        LogLevel::Trace => types::LogLevel::Trace,
    })
}

fn level_name(level: i32, which: &str) -> anyhow::Result<LogLevel> {
    let level = types::LogLevel::try_from(level).unwrap_or_default();
    Ok(match level {
        types::LogLevel::Unspecified => {
            bail!("internal error: returned {which} log level is undefined; please report this as a bug")
        }
        types::LogLevel::Panic => LogLevel::Panic,
        types::LogLevel::Fatal => LogLevel::Fatal,
        types::LogLevel::Error => LogLevel::Error,
        types::LogLevel::Warn => LogLevel::Warn,
        types::LogLevel::Info => LogLevel::Info,
        types::LogLevel::Debug => LogLevel::Debug,
        types::LogLevel::Trace => LogLevel::Trace,
    })
}
