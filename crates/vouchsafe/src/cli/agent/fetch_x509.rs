//! `api fetch x509`.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use tokio::time::Instant;
use vouchsafe_proto::workload::X509svidRequest;
use vouchsafe_types::pem;

use super::svids::{self, Parsed, Svid};
use super::workload::{self, WorkloadArgs};
use crate::cli::output::{Format, OutputArgs, print_json};
use crate::cli::socket::SocketArgs;
use crate::cli::{disk, proto_json};
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(in crate::cli) struct FetchX509Args {
    /// Suppress stdout
    #[arg(long = "silent")]
    silent: bool,
    /// Write SVID data to the specified path (optional; only available for pretty output format)
    #[arg(long = "write", value_name = "directory")]
    write: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    workload: WorkloadArgs,
}

pub(super) async fn fetch(arguments: FetchX509Args, console: &mut Console<'_>) -> anyhow::Result<()> {
    let target = arguments.workload.socket.target(console)?;
    let start = Instant::now();
    let mut client = workload::connect(&target).await?;
    let call = workload::first(client.fetch_x509svid(workload::request(X509svidRequest {})));
    let response = workload::within(arguments.workload.timeout, call).await.map_err(workload::failed)?;
    let elapsed = start.elapsed();
    if arguments.output.output == Format::Json {
        return Ok(print_json(console, vec![proto_json::x509_svids(&response)])?);
    }
    let svids = svids::parse(&response, console.clock.unix_now())?;
    if !arguments.silent {
        svids::print(&svids, elapsed, console)?;
    }
    if let Some(directory) = arguments.write.filter(|path| !path.as_os_str().is_empty()) {
        for (index, svid) in svids.iter().enumerate() {
            write(svid, index, &directory, console)?;
        }
    }
    Ok(())
}

fn write(svid: &Svid, index: usize, directory: &Path, console: &mut Console<'_>) -> anyhow::Result<()> {
    let mut write = |what: String, name: String, contents: String, write: Write| -> anyhow::Result<()> {
        let path = directory.join(name);
        writeln!(console.stdout, "Writing {what} to file {}.", path.display())?;
        write(&path, contents.as_bytes()).map_err(|error| anyhow!(go::file_error("open", &path, &error)))
    };
    let svid_text = encode(&svid.chain);
    write(format!("SVID #{index}"), format!("svid.{index}.pem"), svid_text, disk::write_public)?;
    let key_text = pem::encode("PRIVATE KEY", &svid.private_key);
    write(format!("key #{index}"), format!("svid.{index}.key"), key_text, disk::write_private)?;
    let bundle_text = encode(&svid.bundle);
    write(format!("bundle #{index}"), format!("bundle.{index}.pem"), bundle_text, disk::write_public)?;
    for (number, (trust_domain, bundle)) in svid.federated_bundles.iter().enumerate() {
        let what = format!("federated bundle #{number} for trust domain {trust_domain}");
        let name = format!("federated_bundle.{index}.{number}.pem");
        write(what, name, encode(bundle), disk::write_public)?;
    }
    Ok(())
}

type Write = fn(&Path, &[u8]) -> std::io::Result<()>;

fn encode(certificates: &[Parsed]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        pem::append(&mut text, "CERTIFICATE", &certificate.der);
    }
    text
}
