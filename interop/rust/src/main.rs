//! Drives a SPIFFE Workload API with the crates `spiffe` and `spiffe-rustls`, clients nobody here wrote.
//!
//! Each mode prints one line per check, `ok <name> <detail>` or `FAIL <name> <detail>`, and exits non-zero if one failed.
//! The environment names the socket (`SPIFFE_ENDPOINT_SOCKET`) and what to expect (`INTEROP_*`); see `interop/README.md`.

mod certificate;
mod chains;
mod jwt;
mod mtls;
mod report;
mod watch;
mod x509;

use report::Report;
use std::process::ExitCode;

/// Whatever went wrong is the detail of a failed check, so a boxed error is enough here.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let mut report = Report::default();
    let ran = match mode.as_str() {
        "watch" => watch::run(&mut report).await,
        "denied" => watch::denied(&mut report).await,
        "mtls-serve" => mtls::serve().await,
        "mtls-dial" => mtls::dial(&mut report).await,
        _ => Err("usage: interop-rust watch|denied|mtls-serve|mtls-dial".into()),
    };
    if let Err(failure) = ran {
        eprintln!("{mode}: {failure}");
        return ExitCode::FAILURE;
    }
    report.exit_code()
}
