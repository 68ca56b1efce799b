//! `api watch`.

use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tonic::{Code, Status};
use vouchsafe_proto::workload::X509svidRequest;

use super::svids::{self, Svid};
use super::workload;
use crate::cli::socket::{AgentSocketArgs, SocketArgs, Target};
use crate::cli::told;
use crate::console::Console;
use crate::go;

/// The wait after the first lost connection, and how much longer each further one gets.
const RETRY_STEP: Duration = Duration::from_secs(1);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
pub(in crate::cli) struct WatchArgs {
    #[command(flatten)]
    socket: AgentSocketArgs,
}

/// Prints every update until interrupted. A lost connection is taken up again; only a request that the agent will
/// never accept ends the watch. What ends it is printed as what does not, and again as the result; so SPIRE has it, and
/// that an interrupt is a failure.
pub(super) async fn watch(arguments: WatchArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let target = arguments.socket.target(console)?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let updates = async {
        let mut failures = 0u32;
        let mut last = Instant::now();
        loop {
            match stream(&target, &mut failures, &mut last, console).await {
                Ended::ForGood(status) => break given_up(status, console),
                Ended::Output(error) => break Err(error),
                Ended::ForNow(error) => {
                    writeln!(console.stderr, "{}", told(&format!("{error:#}"), console))?;
                }
            }
            failures += 1;
            tokio::time::sleep((RETRY_STEP * failures).min(RETRY_MAX)).await;
        }
    };
    tokio::select! {
        ended = updates => ended,
        _ = interrupt.recv() => given_up(Status::cancelled("context canceled"), console),
    }
}

fn given_up(status: Status, console: &mut Console<'_>) -> anyhow::Result<()> {
    writeln!(console.stderr, "{}", go::rpc_error(&status))?;
    Err(workload::failed(status))
}

enum Ended {
    ForGood(Status),
    ForNow(anyhow::Error),
    Output(anyhow::Error),
}

async fn stream(target: &Target, failures: &mut u32, last: &mut Instant, console: &mut Console<'_>) -> Ended {
    let mut client = match workload::connect(target).await {
        Ok(client) => client,
        Err(error) => return Ended::ForNow(error),
    };
    let mut stream = match client.fetch_x509svid(workload::request(X509svidRequest {})).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return ended(status),
    };
    loop {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Ended::ForNow(anyhow!("the agent closed the stream")),
            Err(status) => return ended(status),
        };
        *failures = 0;
        let svids = match svids::parse(&response, console.clock.unix_now()) {
            Ok(svids) => svids.into_iter().map(Svid::without_origin).collect::<Vec<_>>(),
            Err(error) => return Ended::ForNow(error),
        };
        let printed = svids::print(&svids, last.elapsed(), console).and_then(|()| console.stdout.flush());
        if let Err(error) = printed {
            return Ended::Output(error.into());
        }
        *last = Instant::now();
    }
}

fn ended(status: Status) -> Ended {
    match status.code() {
        Code::InvalidArgument | Code::Cancelled => Ended::ForGood(status),
        _ => Ended::ForNow(anyhow!(go::rpc_error(&status))),
    }
}
