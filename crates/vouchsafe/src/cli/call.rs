//! A call of an API from a command: its flags, the connection, the words for a failure.

use anyhow::anyhow;
use clap::Args;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::output::OutputArgs;
use super::socket::SocketArgs;
use crate::console::Console;
use crate::go;

/// The flags of every command that makes one call and prints the answer.
#[derive(Args, Debug)]
pub(super) struct CallArgs<S: SocketArgs> {
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    socket: S,
}

impl<S: SocketArgs> CallArgs<S> {
    /// Connects and calls. What failed is told as [`failed_to`] does.
    pub(super) async fn call<T>(
        &self,
        what: &str,
        console: &Console<'_>,
        call: impl AsyncFnOnce(Channel) -> Result<Response<T>, Status>,
    ) -> anyhow::Result<T> {
        let answer = match self.connect(console).await? {
            Ok(channel) => call(channel).await,
            Err(status) => Err(status),
        };
        answer.map(Response::into_inner).map_err(failed_to(what))
    }

    /// Connects, for commands that call more than once. The inner result is that of the first call.
    pub(super) async fn connect(&self, console: &Console<'_>) -> anyhow::Result<Result<Channel, Status>> {
        Ok(self.socket.target(console)?.connect().await)
    }
}

/// A failed call in the words of SPIRE: `what: rpc error: …`, or without a `what` if that is empty.
pub(super) fn failed_to(what: &str) -> impl Fn(Status) -> anyhow::Error {
    move |status| match what {
        "" => anyhow!(go::rpc_error(&status)),
        what => anyhow!("{what}: {}", go::rpc_error(&status)),
    }
}
