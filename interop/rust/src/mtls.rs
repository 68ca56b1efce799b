//! Two workloads over mutual TLS by `spiffe-rustls`. The two ends speak lines: whatever the dialer sends comes back.
//!
//! The dialer holds one connection throughout and opens a new one each second, until both ends hold SVIDs of a second
//! authority and `AFTER_ROTATION` further connections have worked.

use crate::Failure;
use crate::certificate::Facts;
use crate::chains::Chains;
use crate::report::{Report, deadline, must_env};
use rustls::pki_types::ServerName;
use spiffe::{TrustDomain, X509Source};
use spiffe_rustls::{TlsStatus, TrustDomainPolicy, authorizer, mtls_client, mtls_server};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const HELD_EVERY: Duration = Duration::from_millis(250);
const NEW_EVERY: Duration = Duration::from_secs(1);
const AFTER_ROTATION: u32 = 8;
const LINE_TIMEOUT: Duration = Duration::from_secs(30);

/// Echoes until it is ended, and leaves its address in `INTEROP_OUT/address`.
pub async fn serve() -> Result<(), Failure> {
    let source = X509Source::new().await?;
    let (config, status) = mtls_server(source)
        .authorize(authorizer::exact([must_env("INTEROP_PEER_ID")?.as_str()])?)
        .trust_domain_policy(local_only()?)
        .build_with_status()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    publish_address(&listener.local_addr()?.to_string())?;
    loop {
        let (tcp, peer) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        settled(&status).await;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let echoed = async {
                let mut tls = acceptor.accept(tcp).await?;
                let mut buffer = [0; 1024];
                loop {
                    match tls.read(&mut buffer).await? {
                        0 => return tls.shutdown().await,
                        length => tls.write_all(&buffer[..length]).await?,
                    }
                    tls.flush().await?;
                }
            };
            if let Err(failure) = echoed.await {
                eprintln!("connection from {peer}: {failure}");
            }
        });
    }
}

/// spiffe-rustls refuses handshakes for the moment in which it converts new material, by design; wait for it.
async fn settled(status: &TlsStatus) {
    for _ in 0..50 {
        if status.current().available {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Renames a complete file into place, so that a reader never sees half an address.
fn publish_address(address: &str) -> Result<(), Failure> {
    let path = PathBuf::from(must_env("INTEROP_OUT")?).join("address");
    let new = path.with_extension("new");
    std::fs::write(&new, address)?;
    Ok(std::fs::rename(new, path)?)
}

fn local_only() -> Result<TrustDomainPolicy, Failure> {
    let id = spiffe::SpiffeId::new(must_env("INTEROP_PEER_ID")?)?;
    Ok(TrustDomainPolicy::LocalOnly(id.trust_domain().clone()))
}

struct Dialer {
    source: X509Source,
    status: TlsStatus,
    connector: TlsConnector,
    address: String,
    td: TrustDomain,
    chains: Chains,
    held_lines: u64,
    connections: u64,
    last_serial: String,
    own_issuers: BTreeSet<String>,
    peer_issuers: BTreeSet<String>,
    since_both: u32,
}

pub async fn dial(report: &mut Report) -> Result<(), Failure> {
    let ends = Instant::now() + deadline()?;
    let source = X509Source::new().await?;
    let peer = must_env("INTEROP_PEER_ID")?;
    let (config, status) = mtls_client(source.clone())
        .authorize(authorizer::exact([peer.as_str()])?)
        .trust_domain_policy(local_only()?)
        .build_with_status()?;
    let mut dialer = Dialer {
        source,
        status,
        connector: TlsConnector::from(Arc::new(config)),
        address: must_env("INTEROP_PEER_ADDRESS")?,
        td: spiffe::SpiffeId::new(peer)?.trust_domain().clone(),
        chains: Chains::create()?,
        held_lines: 0,
        connections: 0,
        last_serial: String::new(),
        own_issuers: BTreeSet::new(),
        peer_issuers: BTreeSet::new(),
        since_both: 0,
    };
    // Reaching the deadline is judged below by what was seen.
    let _ = timeout_at(ends, dialer.run(report)).await;
    dialer.settle(report);
    Ok(())
}

impl Dialer {
    async fn run(&mut self, report: &mut Report) {
        let mut held = match self.connect().await {
            Ok(held) => held,
            Err(failure) => return report.fail("mtls.held", format!("first connection: {failure}")),
        };
        let (mut line_due, mut connection_due) = (interval(HELD_EVERY), interval(NEW_EVERY));
        while self.since_both < AFTER_ROTATION {
            tokio::select! {
                _ = line_due.tick() => {
                    if let Err(failure) = exchange(&mut held, self.held_lines).await {
                        return report.fail("mtls.held", format!("after {} lines: {failure}", self.held_lines));
                    }
                    self.held_lines += 1;
                }
                _ = connection_due.tick() => {
                    if let Err(failure) = self.once().await {
                        return report.fail("mtls.new", format!("connection {}: {failure}", self.connections + 1));
                    }
                    self.connections += 1;
                }
            }
        }
    }

    /// Opens a connection, exchanges a line and closes it.
    async fn once(&mut self) -> Result<(), Failure> {
        let mut tls = self.connect().await?;
        exchange(&mut tls, self.connections).await?;
        let own = Facts::read(self.source.svid()?.leaf().as_bytes())?;
        self.own_issuers.insert(own.authority_key_id);
        self.inspect(&tls)?;
        tls.shutdown().await?;
        if self.own_issuers.len() >= 2 && self.peer_issuers.len() >= 2 {
            self.since_both += 1;
        }
        Ok(())
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, Failure> {
        settled(&self.status).await;
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        // The name is not checked: the peer is known by its SPIFFE ID.
        let name = ServerName::try_from("interop.invalid")?;
        Ok(timeout(LINE_TIMEOUT, self.connector.connect(name, tcp)).await??)
    }

    /// Notes the peer's authority, and keeps each new chain of the peer for `openssl verify`.
    fn inspect(&mut self, tls: &TlsStream<TcpStream>) -> Result<(), Failure> {
        let chain = tls.get_ref().1.peer_certificates().ok_or("no peer certificates")?;
        let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
        let leaf = Facts::read(chain.first().ok_or("an empty chain")?)?;
        self.peer_issuers.insert(leaf.authority_key_id);
        if leaf.serial != self.last_serial {
            self.last_serial = leaf.serial;
            let bundles = self.source.bundle_set()?;
            let bundle = bundles.get(&self.td).ok_or("no bundle")?;
            let roots: Vec<&[u8]> = bundle.authorities().iter().map(spiffe::Certificate::as_bytes).collect();
            self.chains.write(SystemTime::now(), &chain, &roots)?;
        }
        Ok(())
    }

    fn settle(&self, report: &mut Report) {
        let rotated = self.since_both >= AFTER_ROTATION;
        let (own, peer) = (self.own_issuers.len(), self.peer_issuers.len());
        let during =
            if rotated { "over a rotation of the CA" } else { "but the CA did not rotate at both ends" };
        report.settle("mtls.held", rotated, format!("{} lines on one connection, {during}", self.held_lines));
        report.settle("mtls.new", rotated, format!("{} connections, {during}", self.connections));
        report.settle(
            "mtls.ca-rotation",
            rotated,
            format!("own SVIDs of {own} authorities, the peer's of {peer}"),
        );
    }
}

/// Sends one line and wants the same line back.
async fn exchange(tls: &mut TlsStream<TcpStream>, number: u64) -> Result<(), Failure> {
    let line = format!("line {number:020}\n").into_bytes();
    let echoed = async {
        tls.write_all(&line).await?;
        tls.flush().await?;
        let mut back = vec![0; line.len()];
        tls.read_exact(&mut back).await?;
        Ok::<_, std::io::Error>(back)
    };
    if timeout(LINE_TIMEOUT, echoed).await?? == line { Ok(()) } else { Err("another line came back".into()) }
}
