//! The gRPC APIs of a server and an agent, called as a program would.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_identity::config::{Expect, ServerTrust, client_config};
use vouchsafe_identity::own::{OwnSvid, SvidCell};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::connect::{tls_channel, uds_channel};
use vouchsafe_types::bundle::format;
use vouchsafe_types::pem;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::process::eventually;
use crate::svids;
use crate::world::{Agent, Server};

/// Runs `calls` to their end.
pub(crate) fn block_on<F: Future>(calls: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(calls)
}

/// A channel over a Unix socket.
pub(crate) async fn local(socket: &Path) -> Channel {
    uds_channel(socket).await.unwrap()
}

/// A channel to the server's TCP port; anonymous without `own`.
pub(crate) fn remote(server: &Server, own: Option<&SvidCell>) -> Channel {
    let trust_domain = TrustDomain::parse(server.trust_domain).unwrap();
    let bundle = format::from_pem(&trust_domain, &server.bundle_pem()).unwrap();
    let roots = RootsCell::new(TrustRoots::of([&bundle]));
    let trust = ServerTrust::Verified(roots, Expect::Id(SpiffeId::server(&trust_domain)));
    let config = client_config(trust, own, Clock::system()).unwrap();
    tls_channel(&format!("127.0.0.1:{}", server.port), Arc::new(config)).unwrap()
}

/// The code of a call that is refused; one that did not get through is made again.
pub(crate) fn refusal<T>(mut call: impl FnMut() -> Result<T, Status>) -> Code {
    eventually("a refusal", || {
        let Err(status) = call() else { panic!("the call was not refused") };
        Some(status.code()).filter(|code| *code != Code::Unavailable)
    })
}

/// The SVID for `path` that this user's processes get, with its key.
pub(crate) fn identity(agent: &Agent, path: &str) -> SvidCell {
    let folder = tempfile::tempdir_in(&agent.folder).unwrap();
    let write = folder.path().to_str().unwrap();
    let n = eventually(&format!("the identity {path}"), || {
        (agent.cli(&["api", "fetch", "x509", "-write", write]).code == 0).then_some(())?;
        (0..)
            .take_while(|n| folder.path().join(format!("svid.{n}.pem")).exists())
            .find(|n| svids::read(folder.path(), *n).svid.id.path() == format!("/{path}"))
    });
    let chain = svids::certificates(&std::fs::read(folder.path().join(format!("svid.{n}.pem"))).unwrap());
    let key = pem::parse(&std::fs::read(folder.path().join(format!("svid.{n}.key"))).unwrap()).unwrap();
    let cell = SvidCell::empty();
    cell.set(OwnSvid::from_pkcs8(&chain, &key[0].der)).unwrap();
    cell
}
