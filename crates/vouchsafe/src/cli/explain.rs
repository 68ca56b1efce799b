//! `explain`: why a process, a Pod or a SPIFFE ID has or lacks an identity.
//!
//! The agent answers from what it holds. Where it does not answer, what can be seen from outside is explained instead
//! ([`absent`]). With a server's administrative socket, what the server has and the agent does not is added ([`server`]).
//!
//! Exit codes: 0 has an identity and nothing is wrong, 1 has none or something is wrong, 2 wrong flags, 3 nobody could be
//! asked.

mod absent;
mod server;
mod show;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tonic::{Code, Status};
use vouchsafe_proto::vouchsafe::agent::v1 as proto;
use vouchsafe_proto::vouchsafe::agent::v1::explain_client::ExplainClient;
use vouchsafe_proto::vouchsafe::agent::v1::explain_request::Subject;

use super::agent::{request, within};
use super::grammar::parse_number;
use super::output::{Format, OutputArgs, print_json};
use super::socket::{AgentSocketArgs, MAX_ANSWER_BYTES, SocketArgs, Target};
use super::{DONE, FAILED};
use crate::console::Console;
use crate::go;

/// Wrong flags, or a SPIFFE ID or selector that is none.
pub(super) const USAGE: u8 = 2;
/// Nobody could be asked.
const NOBODY: u8 = 3;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    vouchsafe explain -pid 4711\n  \
    vouchsafe explain -spiffeID spiffe://example.org/web -serverSocketPath /tmp/spire-server/private/api.sock\n  \
    vouchsafe explain -selector unix:uid:1000 -selector unix:gid:1000\n  \
    vouchsafe explain -podUID 2c48913c-b29f-11e7-9350-020968147796 -output json\n\n\
    Without -pid, -spiffeID, -selector or -podUID it is about the calling process. Root and the agent's own user\n\
    may ask about anything, everybody else about themselves.\n\n\
    Exit codes: 0 has an identity and nothing is wrong; 1 has none, or something is wrong; 2 wrong flags;\n\
    3 no agent could be asked, and the explanation says why.")]
pub(super) struct ExplainArgs {
    /// A process
    #[arg(long = "pid", value_name = "number", value_parser = parse_number::<i32>)]
    pid: Option<i32>,
    /// An identity: whether the agent has it, and what a process needs for it
    #[arg(long = "spiffeID", value_name = "id", conflicts_with = "pid")]
    spiffe_id: Option<String>,
    /// A selector of a process that is made up. Can be used more than once
    #[arg(long = "selector", value_name = "type:value", conflicts_with_all = ["pid", "spiffe_id"])]
    selectors: Vec<String>,
    /// A Pod, by its UID: its processes on this machine
    #[arg(long = "podUID", value_name = "uid", conflicts_with_all = ["pid", "spiffe_id", "selectors"])]
    pod_uid: Option<String>,
    /// Ask this server too what it has that the agent lacks: its administrative socket
    #[arg(long = "serverSocketPath", value_name = "path")]
    server_socket_path: Option<PathBuf>,
    /// The agent's data_dir, to look at when no agent answers [default: around the socket]
    #[arg(long = "dataDir", value_name = "path")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Time to wait for a response
    #[arg(long = "timeout", value_name = "duration", default_value = "5s", value_parser = go::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    socket: AgentSocketArgs,
}

impl ExplainArgs {
    fn subject(&self) -> Option<Subject> {
        if let Some(pid) = self.pid {
            return Some(Subject::Pid(pid));
        }
        if let Some(id) = &self.spiffe_id {
            return Some(Subject::SpiffeId(id.clone()));
        }
        if !self.selectors.is_empty() {
            return Some(Subject::Selectors(proto::Selectors { selectors: self.selectors.clone() }));
        }
        self.pod_uid.clone().map(Subject::PodUid)
    }
}

/// Explains, and returns the exit code.
pub(super) fn execute(arguments: &ExplainArgs, console: &mut Console<'_>) -> io::Result<u8> {
    let mut code = DONE;
    let explained = super::block_on(async {
        code = explain(arguments, console).await?;
        Ok(())
    });
    match explained {
        Ok(()) => Ok(code),
        Err(error) => {
            writeln!(console.stderr, "Error: {error:#}")?;
            Ok(NOBODY)
        }
    }
}

async fn explain(arguments: &ExplainArgs, console: &mut Console<'_>) -> anyhow::Result<u8> {
    let target = arguments.socket.target(console)?;
    let mut answer = match within(arguments.timeout, ask(&target, arguments.subject())).await {
        Ok(answer) => answer,
        Err(status) if status.code() == Code::InvalidArgument => {
            writeln!(console.stderr, "Error: {}", status.message())?;
            return Ok(USAGE);
        }
        Err(status)
            if matches!(status.code(), Code::PermissionDenied | Code::ResourceExhausted | Code::Internal) =>
        {
            writeln!(console.stderr, "Error: {}", status.message())?;
            return Ok(NOBODY);
        }
        Err(status) => {
            let answer = absent::explanation(&target, arguments.data_dir.as_deref(), &status, console);
            print(&answer, false, arguments.output, console)?;
            return Ok(NOBODY);
        }
    };
    if let Some(socket) = &arguments.server_socket_path {
        within(
            arguments.timeout,
            server::add(socket, arguments.spiffe_id.as_deref(), &mut answer, console.clock.unix_now()),
        )
        .await
        .unwrap_or_else(|status| server::was_not_asked(socket, &status, &mut answer));
    }
    print(&answer, true, arguments.output, console)?;
    Ok(if answer.explanations.iter().all(|explanation| explanation.well) { DONE } else { FAILED })
}

async fn ask(target: &Target, subject: Option<Subject>) -> Result<proto::ExplainResponse, Status> {
    let channel = target.connect().await?;
    let mut client = ExplainClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    Ok(client.explain(request(proto::ExplainRequest { subject })).await?.into_inner())
}

fn print(
    answer: &proto::ExplainResponse,
    asked: bool,
    output: OutputArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    match output.output {
        Format::Json => Ok(print_json(console, vec![show::json(answer)])?),
        Format::Pretty => Ok(console.stdout.write_all(show::pretty(answer, asked).as_bytes())?),
    }
}

/// One more thing that was found out here.
fn finding(code: &str, text: String, next_step: String) -> proto::Finding {
    let severity = proto::finding::Severity::Problem.into();
    proto::Finding { code: code.to_owned(), severity, text, next_step }
}
