//! Where the first bundle comes from, when it is not in the configuration itself.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vouchsafe_identity::web::{WebRoots, web_client_config};
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::chain::Chain;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::fetch::{Bounds, Target, fetch};
use vouchsafe_types::bundle::{Bundle, format};
use vouchsafe_types::trust_domain::TrustDomain;

use crate::upstream_agent;

/// A place that is looked at for each attempt, so that what an operator puts there counts without a restart.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where.
    pub place: Place,
    /// What is found there. Means nothing for [`Place::WorkloadApi`].
    pub format: BundleFormat,
}

/// See [`Origin`].
#[derive(Clone, Debug)]
pub enum Place {
    /// `trust_bundle_path`
    File(PathBuf),
    /// `trust_bundle_url`: an `https` URL, whose server must prove its host name. Redirects are not followed.
    Url {
        /// The URL.
        url: String,
        /// The authorities of the web that may vouch for the server; SPIRE takes the system's.
        roots: WebRoots,
    },
    /// `trust_bundle_unix_socket` with `trust_bundle_url`: an `http` URL asked for over a Unix socket. The query says
    /// who asks, and why, as [`Asking`] has it.
    Socket {
        /// Who listens there.
        socket: PathBuf,
        /// `http://…`
        url: String,
    },
    /// `trust_bundle_spiffe_workload_api`: the Workload API at this Unix socket.
    WorkloadApi(PathBuf),
}

/// `trust_bundle_format`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum BundleFormat {
    /// Certificates.
    #[default]
    Pem,
    /// A SPIFFE bundle document.
    Spiffe,
}

/// What a daemon at [`Place::Socket`] is told.
#[derive(Clone, Debug)]
pub struct Asking<'a> {
    /// `bootstrap` or `rebootstrap`.
    pub mode: &'static str,
    /// The how manieth attempt this is.
    pub attempts: u64,
    /// When the first one was, RFC 3339.
    pub since: &'a str,
    /// `host:port` of the server that the bundle is for.
    pub server_address: &'a str,
    /// The trust domain that the bundle is of.
    pub trust_domain: &'a TrustDomain,
}

impl Origin {
    /// Fetches the bundle. Takes at most a minute.
    ///
    /// # Errors
    ///
    /// One sentence that names the place; a retry is sensible.
    pub async fn fetch(&self, asking: &Asking<'_>, clock: &Clock) -> Result<Bundle, String> {
        let text = match &self.place {
            Place::WorkloadApi(socket) => {
                let bundle =
                    upstream_agent::fetch_bundle(socket, asking.trust_domain).await.map_err(|error| {
                        let socket = socket.display();
                        format!("unable to fetch trust bundle from SPIFFE Workload API {socket}: {error}")
                    })?;
                return checked(bundle);
            }
            Place::File(path) => {
                let path = path.clone();
                let read = blocking::run(move || read_file(&path)).await;
                read.map_err(|error| error.to_string())??
            }
            Place::Url { url, roots } => {
                let config =
                    web_client_config(roots, clock.clone()).map_err(|error| Chain(&error).to_string())?;
                let target = Target::https(url, &config).map_err(|error| Chain(&error).to_string())?;
                download(url, &target).await?
            }
            Place::Socket { socket, url } => {
                let target = Target::unix(socket, &resource(url, asking)?)
                    .map_err(|error| Chain(&error).to_string())?;
                download(&format!("{url} at {}", socket.display()), &target).await?
            }
        };
        let bundle = match self.format {
            BundleFormat::Pem => format::from_pem(asking.trust_domain, &text),
            BundleFormat::Spiffe => format::from_spiffe_json(asking.trust_domain, &text),
        };
        checked(bundle.map_err(|error| format!("could not parse trust bundle: {}", Chain(&error)))?)
    }
}

fn checked(bundle: Bundle) -> Result<Bundle, String> {
    if bundle.x509_authorities.is_empty() {
        return Err("no certificates found in trust bundle".to_owned());
    }
    Ok(bundle)
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error| format!("could not parse trust bundle: cannot read {}: {error}", path.display());
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() > MAX_BYTES {
        return Err(format!(
            "could not parse trust bundle: {} is larger than {MAX_BYTES} bytes",
            path.display()
        ));
    }
    Ok(text)
}

async fn download(name: &str, target: &Target) -> Result<Vec<u8>, String> {
    let answer = fetch(target, Bounds { deadline: DEADLINE, body: MAX_BYTES }).await;
    let answer =
        answer.map_err(|error| format!("unable to fetch trust bundle URL {name}: {}", Chain(&error)))?;
    match answer.status {
        http::StatusCode::OK => Ok(answer.body.into()),
        status if status.is_redirection() => Err(format!(
            "error downloading trust bundle from {name}: {status}, and redirects are not followed; configure the URL that it leads to"
        )),
        status => Err(format!("error downloading trust bundle from {name}: {status}")),
    }
}

/// Path and query of `url`, with what the daemon is told in the query.
fn resource(url: &str, asking: &Asking<'_>) -> Result<String, String> {
    let parsed: http::Uri = url.parse().map_err(|_| format!("unable to parse trust bundle URL: {url:?}"))?;
    let (host, port) = asking.server_address.rsplit_once(':').unwrap_or((asking.server_address, ""));
    let attempts = asking.attempts.to_string();
    let said = [
        ("spiffe-trust-domain", asking.trust_domain.as_str()),
        ("spire-attest-mode", asking.mode),
        ("spire-attest-start-time", asking.since),
        ("spire-connection-attempts", &attempts),
        ("spire-server-address", host.trim_start_matches('[').trim_end_matches(']')),
        ("spire-server-port", port),
    ];
    let query = parsed.query().map(str::to_owned).into_iter();
    let query: Vec<_> =
        query.chain(said.iter().map(|(key, value)| format!("{key}={}", escaped(value)))).collect();
    let path = if parsed.path().is_empty() { "/" } else { parsed.path() };
    Ok(format!("{path}?{}", query.join("&")))
}

/// Everything but letters, digits and `-_.~` as `%XX`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// From connecting to the last byte.
const DEADLINE: Duration = Duration::from_secs(30);

/// A larger bundle is not taken.
const MAX_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
