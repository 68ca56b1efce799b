//! The agent's side of the protocol, driven by hand.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use rustls::pki_types::{CertificateDer, UnixTime};
use tonic::Status;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::x509::csr::create_csr;
use vouchsafe_identity::own::{OwnSvid, SvidCell};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_identity::verify::{SvidVerifier, VerifyError};
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, PostStatusRequest, RenewAgentRequest, attest_agent_request,
    attest_agent_response,
};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::entry::v1::{
    GetAuthorizedEntriesRequest, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use vouchsafe_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::x509_svid::X509Svid;

use super::{Api, TestServer, connect, roots_of};

/// A key and the X.509-SVID for it.
pub struct Identity {
    pub key: PrivateKey,
    pub svid: X509Svid,
    pub cell: SvidCell,
}

/// An attested agent, connected with its SVID.
pub struct TestAgent {
    pub id: SpiffeId,
    pub identity: Identity,
    pub roots: RootsCell,
    pub api: Api,
    address: String,
    clock: Clock,
}

impl Identity {
    pub fn new(key: PrivateKey, svid: &types::X509svid) -> Self {
        let svid = parsed(svid);
        let cell = SvidCell::empty();
        cell.set(OwnSvid::from_pkcs8(&svid.chain, &key.pkcs8().unwrap())).unwrap();
        Self { key, svid, cell }
    }
}

impl TestAgent {
    pub async fn attest(server: &TestServer, token: &str) -> Result<Self, Status> {
        let (key, csr) = key_and_csr().await;
        let result = attest(&server.connect(None), join_params(token, csr)).await?;
        assert!(!result.reattestable);
        Ok(Self::with(server, key, &result.svid.unwrap()))
    }

    /// The agent that was given `svid`.
    pub fn with(server: &TestServer, key: PrivateKey, svid: &types::X509svid) -> Self {
        let identity = Identity::new(key, svid);
        let roots = RootsCell::new(TrustRoots::of([&server.running.bundle()]));
        let api = connect(&server.address(), &roots, Some(&identity.cell), &server.clock);
        let id = identity.svid.id.clone();
        Self { id, identity, roots, api, address: server.address(), clock: server.clock.clone() }
    }

    /// A new connection with the SVID and the bundle that it has.
    pub fn reconnect(&mut self) {
        self.api = connect(&self.address, &self.roots, Some(&self.identity.cell), &self.clock);
    }

    /// The same agent, facing a server that was started again.
    pub fn moved_to(mut self, server: &TestServer) -> Self {
        self.address = server.address();
        self.reconnect();
        self
    }

    /// Renews its SVID, and goes on using the old one.
    pub async fn renew(&self) -> Result<Identity, Status> {
        let (key, csr) = key_and_csr().await;
        let request = RenewAgentRequest { params: Some(AgentX509svidParams { csr }) };
        let answer = self.api.agents().renew_agent(request).await?.into_inner();
        Ok(Identity::new(key, &answer.svid.unwrap()))
    }

    /// Uses `identity` from now on, over a new connection; returns the old one.
    pub fn adopt(&mut self, identity: Identity) -> Identity {
        let old = std::mem::replace(&mut self.identity, identity);
        self.reconnect();
        old
    }

    pub async fn post_status(&self, version: &str) -> Result<(), Status> {
        let request = PostStatusRequest { agent_version: version.into(), ..PostStatusRequest::default() };
        self.api.agents().post_status(request).await.map(drop)
    }

    pub async fn authorized(&self) -> Result<Vec<types::Entry>, Status> {
        let request = GetAuthorizedEntriesRequest::default();
        Ok(self.api.entries().get_authorized_entries(request).await?.into_inner().entries)
    }

    /// All answers of a stream of `requests`.
    pub async fn sync(
        &self,
        requests: Vec<SyncAuthorizedEntriesRequest>,
    ) -> Result<Vec<SyncAuthorizedEntriesResponse>, Status> {
        let answers = self.api.entries().sync_authorized_entries(stream::iter(requests)).await;
        let mut answers = answers?.into_inner();
        let mut all = Vec::new();
        while let Some(answer) = answers.message().await? {
            all.push(answer);
        }
        Ok(all)
    }

    pub async fn bundle(&self) -> Result<types::Bundle, Status> {
        Ok(self.api.bundles().get_bundle(GetBundleRequest::default()).await?.into_inner())
    }

    /// Asks for the X.509-SVID of one entry; the inner result is that of the entry.
    pub async fn x509(&self, entry_id: &str) -> Result<Result<Identity, types::Status>, Status> {
        let (key, csr) = key_and_csr().await;
        Ok(self.x509_with(entry_id, csr).await?.map(|svid| Identity::new(key, &svid)))
    }

    pub async fn x509_with(
        &self,
        entry_id: &str,
        csr: Bytes,
    ) -> Result<Result<types::X509svid, types::Status>, Status> {
        let params = vec![NewX509svidParams { entry_id: entry_id.into(), csr }];
        let request = BatchNewX509svidRequest { params };
        let results = self.api.svids().batch_new_x509svid(request).await?.into_inner().results;
        let [result] = <[_; 1]>::try_from(results).unwrap();
        let status = result.status.unwrap();
        assert_eq!(result.svid.is_some(), status.code == 0, "{status:?}");
        Ok(result.svid.ok_or(status))
    }

    pub async fn jwt(&self, entry_id: &str, audience: &[&str]) -> Result<types::Jwtsvid, Status> {
        let audience = audience.iter().map(|name| (*name).to_owned()).collect();
        let request = NewJwtsvidRequest { entry_id: entry_id.into(), audience };
        Ok(self.api.svids().new_jwtsvid(request).await?.into_inner().svid.unwrap())
    }
}

/// Attests with whatever `params` say.
pub async fn attest(
    api: &Api,
    params: attest_agent_request::Params,
) -> Result<attest_agent_response::Result, Status> {
    let request = AttestAgentRequest { step: Some(attest_agent_request::Step::Params(params)) };
    let mut answers = api.agents().attest_agent(stream::iter([request])).await?.into_inner();
    match answers.message().await?.and_then(|answer| answer.step) {
        Some(attest_agent_response::Step::Result(result)) => Ok(result),
        other => panic!("{other:?}"),
    }
}

pub fn join_params(token: &str, csr: Bytes) -> attest_agent_request::Params {
    let payload = Bytes::copy_from_slice(token.as_bytes());
    attest_agent_request::Params {
        data: Some(types::AttestationData { r#type: "join_token".into(), payload }),
        params: Some(AgentX509svidParams { csr }),
    }
}

/// A new key, and a request for a certificate of it that names nobody.
pub async fn key_and_csr() -> (PrivateKey, Bytes) {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let csr = create_csr(&key, None).await.unwrap();
    (key, csr.into())
}

pub fn parsed(svid: &types::X509svid) -> X509Svid {
    X509Svid::parse(svid.cert_chain.iter().map(|der| Arc::from(&der[..])).collect()).unwrap()
}

/// Who `svid` proves its holder to be, for somebody who has `bundle`.
pub fn verify(bundle: &types::Bundle, svid: &X509Svid, clock: &Clock) -> Result<SpiffeId, VerifyError> {
    let chain: Vec<_> = svid.chain.iter().map(|der| CertificateDer::from(&der[..])).collect();
    let now = UnixTime::since_unix_epoch(clock.now().duration_since(std::time::UNIX_EPOCH).unwrap());
    SvidVerifier::new(roots_of(bundle)).verify(&chain, now).map(|peer| peer.id)
}
