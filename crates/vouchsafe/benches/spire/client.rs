//! The APIs of a server, called as an operator and as an agent would.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio_stream::once;
use tonic::transport::Channel;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::x509::csr::create_csr;
use vouchsafe_identity::config::{Expect, ServerTrust, client_config};
use vouchsafe_identity::own::{OwnSvid, SvidCell};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_proto::convert::bundle_from_proto;
use vouchsafe_proto::spire::api::server::agent::v1 as agent_api;
use vouchsafe_proto::spire::api::server::bundle::v1 as bundle_api;
use vouchsafe_proto::spire::api::server::entry::v1 as entry_api;
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::connect::{tls_channel, uds_channel};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::world::TRUST_DOMAIN;

/// The admin socket.
pub(crate) struct Admin(Channel);

impl Admin {
    pub(crate) async fn connect(socket: &Path) -> Self {
        Self(uds_channel(socket).await.unwrap())
    }

    async fn roots(&self) -> RootsCell {
        let mut client = bundle_api::bundle_client::BundleClient::new(self.0.clone());
        let bundle = client.get_bundle(bundle_api::GetBundleRequest::default()).await.unwrap();
        RootsCell::new(TrustRoots::of([&bundle_from_proto(bundle.get_ref()).unwrap()]))
    }

    /// A join token, for an agent that is to be known as `spiffe://<trust domain>/<alias>` too.
    pub(crate) async fn join_token(&self, alias: Option<&str>) -> String {
        let mut client = agent_api::agent_client::AgentClient::new(self.0.clone());
        let request = agent_api::CreateJoinTokenRequest {
            ttl: TOKEN_TTL_SECS,
            token: String::new(),
            agent_id: alias.map(id),
        };
        client.create_join_token(request).await.unwrap().into_inner().value
    }

    /// Creates `entries`, in one call, and gives their ids.
    pub(crate) async fn create(&self, entries: Vec<types::Entry>) -> Vec<String> {
        let mut client = entry_api::entry_client::EntryClient::new(self.0.clone());
        let request = entry_api::BatchCreateEntryRequest { entries, output_mask: None };
        let results = client.batch_create_entry(request).await.unwrap().into_inner().results;
        results.into_iter().map(|result| result.entry.unwrap().id).collect()
    }

    /// Removes the entries with these ids.
    pub(crate) async fn delete(&self, ids: Vec<String>) {
        let mut client = entry_api::entry_client::EntryClient::new(self.0.clone());
        client.batch_delete_entry(entry_api::BatchDeleteEntryRequest { ids }).await.unwrap();
    }
}

/// Time to use a token in.
const TOKEN_TTL_SECS: i32 = 600;

/// `spiffe://<trust domain>/<path>`
pub(crate) fn id(path: &str) -> types::Spiffeid {
    types::Spiffeid { trust_domain: TRUST_DOMAIN.into(), path: format!("/{path}") }
}

/// An entry for what has `selector`, which is the part after `unix:`.
pub(crate) fn entry(parent: &str, path: &str, selector: String) -> types::Entry {
    types::Entry {
        spiffe_id: Some(id(path)),
        parent_id: Some(id(parent)),
        selectors: vec![types::Selector { r#type: "unix".into(), value: selector }],
        ..types::Entry::default()
    }
}

/// The selector of this user's processes.
pub(crate) fn this_user() -> String {
    format!("uid:{}", nix::unistd::geteuid())
}

/// What connections to one server are made with.
pub(crate) struct Remote {
    server: String,
    roots: RootsCell,
}

/// An agent that attested, and does nothing by itself.
pub(crate) struct Node {
    /// The path of its SPIFFE ID, without the first slash.
    pub(crate) path: String,
    cell: SvidCell,
}

impl Remote {
    pub(crate) async fn of(port: u16, admin: &Admin) -> Self {
        Self { server: format!("127.0.0.1:{port}"), roots: admin.roots().await }
    }

    /// Attests with a join token, over a connection of its own.
    pub(crate) async fn attest(&self, token: &str) -> Node {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let csr = create_csr(&key, None).await.unwrap().into();
        let data = types::AttestationData { r#type: "join_token".into(), payload: token.to_owned().into() };
        let params = agent_api::attest_agent_request::Params {
            data: Some(data),
            params: Some(agent_api::AgentX509svidParams { csr }),
        };
        let step = Some(agent_api::attest_agent_request::Step::Params(params));
        let mut client = agent_api::agent_client::AgentClient::new(self.channel(None));
        let answers = client.attest_agent(once(agent_api::AttestAgentRequest { step })).await.unwrap();
        let answer = answers.into_inner().message().await.unwrap().unwrap().step;
        let Some(agent_api::attest_agent_response::Step::Result(result)) = answer else {
            panic!("a join token needs no challenge")
        };
        let svid = result.svid.unwrap();
        let chain: Vec<Arc<[u8]>> = svid.cert_chain.iter().map(|der| Arc::from(&der[..])).collect();
        let cell = SvidCell::empty();
        cell.set(OwnSvid::from_pkcs8(&chain, &key.pkcs8().unwrap())).unwrap();
        Node { path: svid.id.unwrap().path.trim_start_matches('/').to_owned(), cell }
    }

    /// A new connection as `node`, made at the first call.
    pub(crate) fn channel_of(&self, node: &Node) -> Channel {
        self.channel(Some(&node.cell))
    }

    fn channel(&self, own: Option<&SvidCell>) -> Channel {
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN).unwrap();
        let trust = ServerTrust::Verified(self.roots.clone(), Expect::Id(SpiffeId::server(&trust_domain)));
        let config = client_config(trust, own, Clock::system()).unwrap();
        tls_channel(&self.server, Arc::new(config)).unwrap()
    }
}

/// A request for the certificate of a new P-256 key.
pub(crate) async fn new_csr() -> Bytes {
    create_csr(&PrivateKey::generate(KeyType::EcP256).unwrap(), None).await.unwrap().into()
}
