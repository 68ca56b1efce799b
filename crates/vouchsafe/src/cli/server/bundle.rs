//! `bundle show` and `bundle count`.

use anyhow::bail;
use clap::{Args, Subcommand};
use vouchsafe_proto::convert::bundle_from_proto;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::bundle::v1::{CountBundlesRequest, GetBundleRequest};
use vouchsafe_proto::spire::api::types;
use vouchsafe_types::bundle::format::to_spiffe_json;
use vouchsafe_types::pem;

use super::failed;
use crate::cli::output::{Format, OutputArgs, counted, print_json};
use crate::cli::proto_json;
use crate::cli::socket::ServerSocketArgs;
use crate::console::Console;
use crate::go;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BundleCommand {
    /// Prints server CA bundle to stdout
    #[command(after_help = "Example:\n  spire-server bundle show -format spiffe > bundle.json")]
    Show(ShowArgs),
    /// Count bundles
    Count(CountArgs),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ShowArgs {
    /// The format to show the bundle (only pretty output format supports this flag): pem or spiffe
    #[arg(long = "format", value_name = "format", default_value = "pem")]
    format: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    socket: ServerSocketArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct CountArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    socket: ServerSocketArgs,
}

pub(super) async fn execute(command: BundleCommand, console: &mut Console<'_>) -> anyhow::Result<()> {
    match command {
        BundleCommand::Show(arguments) => show(arguments, console).await,
        BundleCommand::Count(arguments) => count(arguments, console).await,
    }
}

async fn show(arguments: ShowArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let channel = arguments.socket.target(console)?.connect().await?;
    let bundle = BundleClient::new(channel).get_bundle(GetBundleRequest { output_mask: None }).await;
    let bundle = bundle.map_err(failed)?.into_inner();
    if arguments.output.output == Format::Json {
        return Ok(print_json(console, vec![proto_json::bundle(&bundle)])?);
    }
    Ok(write!(console.stdout, "{}", render(&bundle, &arguments.format)?)?)
}

fn render(bundle: &types::Bundle, format: &str) -> anyhow::Result<String> {
    match format.to_ascii_lowercase().as_str() {
        "" | "pem" => {
            let mut text = String::new();
            for authority in &bundle.x509_authorities {
                pem::append(&mut text, "CERTIFICATE", &authority.asn1);
            }
            Ok(text)
        }
        "spiffe" => Ok(to_spiffe_json(&bundle_from_proto(bundle)?)? + "\n"),
        format => bail!("invalid format: {}", go::quote(format)),
    }
}

async fn count(arguments: CountArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let channel = arguments.socket.target(console)?.connect().await?;
    let counted_bundles = BundleClient::new(channel).count_bundles(CountBundlesRequest {}).await;
    let count = counted_bundles.map_err(failed)?.into_inner().count;
    if arguments.output.output == Format::Json {
        return Ok(print_json(console, vec![proto_json::count(count)])?);
    }
    Ok(writeln!(console.stdout, "{}", counted(usize::try_from(count).unwrap_or(0), "", "bundle", "bundles"))?)
}
