//! Uses each feature once.

use std::path::Path;

use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use vouchsafe_transport::connect::uds_channel;

use crate::process::eventually;
use crate::world::{Agent, Server};

/// Every method that a server serves on its administrative socket.
pub(crate) const SERVER_METHODS: &[&str] = &[
    "spire.api.server.agent.v1.Agent/CountAgents",
    "spire.api.server.agent.v1.Agent/ListAgents",
    "spire.api.server.agent.v1.Agent/GetAgent",
    "spire.api.server.agent.v1.Agent/DeleteAgent",
    "spire.api.server.agent.v1.Agent/BanAgent",
    "spire.api.server.agent.v1.Agent/AttestAgent",
    "spire.api.server.agent.v1.Agent/RenewAgent",
    "spire.api.server.agent.v1.Agent/PostStatus",
    "spire.api.server.agent.v1.Agent/CreateJoinToken",
    "spire.api.server.bundle.v1.Bundle/CountBundles",
    "spire.api.server.bundle.v1.Bundle/GetBundle",
    "spire.api.server.bundle.v1.Bundle/AppendBundle",
    "spire.api.server.bundle.v1.Bundle/PublishJWTAuthority",
    "spire.api.server.bundle.v1.Bundle/ListFederatedBundles",
    "spire.api.server.bundle.v1.Bundle/GetFederatedBundle",
    "spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle",
    "spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle",
    "spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle",
    "spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle",
    "spire.api.server.debug.v1.Debug/GetInfo",
    "spire.api.server.entry.v1.Entry/CountEntries",
    "spire.api.server.entry.v1.Entry/ListEntries",
    "spire.api.server.entry.v1.Entry/GetEntry",
    "spire.api.server.entry.v1.Entry/BatchCreateEntry",
    "spire.api.server.entry.v1.Entry/BatchUpdateEntry",
    "spire.api.server.entry.v1.Entry/BatchDeleteEntry",
    "spire.api.server.entry.v1.Entry/GetAuthorizedEntries",
    "spire.api.server.entry.v1.Entry/SyncAuthorizedEntries",
    "spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState",
    "spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority",
    "spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority",
    "spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority",
    "spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority",
    "spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState",
    "spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority",
    "spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority",
    "spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority",
    "spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority",
    "spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority",
    "spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority",
    "spire.api.server.logger.v1.Logger/GetLogger",
    "spire.api.server.logger.v1.Logger/SetLogLevel",
    "spire.api.server.logger.v1.Logger/ResetLogLevel",
    "spire.api.server.svid.v1.SVID/MintX509SVID",
    "spire.api.server.svid.v1.SVID/MintJWTSVID",
    "spire.api.server.svid.v1.SVID/BatchNewX509SVID",
    "spire.api.server.svid.v1.SVID/NewJWTSVID",
    "spire.api.server.svid.v1.SVID/NewDownstreamX509CA",
    "spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships",
    "spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship",
    "spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship",
    "spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship",
    "spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship",
    "spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle",
    "vouchsafe.server.v1.Contacts/ListContacts",
    "grpc.health.v1.Health/Check",
];

/// Every method that an agent serves to workloads.
pub(crate) const AGENT_METHODS: &[&str] = &[
    "SpiffeWorkloadAPI/FetchX509SVID",
    "SpiffeWorkloadAPI/FetchX509Bundles",
    "SpiffeWorkloadAPI/FetchJWTSVID",
    "SpiffeWorkloadAPI/FetchJWTBundles",
    "SpiffeWorkloadAPI/ValidateJWTSVID",
    "envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
    "envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
    "vouchsafe.agent.v1.Explain/Explain",
    "grpc.health.v1.Health/Check",
];

/// Every method that an agent serves on its administrative socket.
pub(crate) const AGENT_ADMIN_METHODS: &[&str] = &[
    "spire.agent.debug.v1.Debug/GetInfo",
    "spire.api.agent.logger.v1.Logger/GetLogger",
    "spire.api.agent.logger.v1.Logger/SetLogLevel",
    "spire.api.agent.logger.v1.Logger/ResetLogLevel",
    "spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509SVIDs",
    "spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509Bundles",
    "spire.api.agent.delegatedidentity.v1.DelegatedIdentity/FetchJWTSVIDs",
    "spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToJWTBundles",
    "vouchsafe.agent.v1.Explain/Explain",
];

/// A workload that has an identity, and one that is renamed and removed.
pub(crate) fn of_workloads(server: &Server, agent: &Agent) {
    server.entry_for_this_user("workload", &[]);
    agent.wait_for_svid("workload");
    agent.fetch_jwt("somebody");
    let second = server.entry_for_this_user("second", &[]);
    agent.wait_for_svid("second");
    server.cli(&["entry", "delete", "-entryID", &second]).ok();
    eventually("the second identity is gone", || {
        let held = agent.fetch_x509().ok()?;
        held.iter().all(|fetched| fetched.svid.id.path() != "/second").then_some(())
    });
}

/// A workload asks too often, once the limit of one JWT-SVID per second is there.
pub(crate) fn above_the_limit(agent: &Agent) {
    let fetch = ["api", "fetch", "jwt", "-audience", "somebody"];
    eventually("a refusal", || (agent.cli(&fetch).code != 0).then_some(()));
}

/// Objects of every kind are made, changed and removed.
pub(crate) fn of_operators(server: &Server) {
    let entry = server.entry("other", "node", "unix:uid:4294967290", &[]);
    let (id, parent) = (server.id("other"), server.id("node"));
    let changed = ["-spiffeID", &id, "-parentID", &parent, "-selector", "unix:uid:4294967291"];
    server.cli(&[&["entry", "update", "-entryID", &entry], &changed[..]].concat()).ok();
    let folder = server.folder.join("minted");
    std::fs::create_dir(&folder).unwrap();
    server.cli(&["x509", "mint", "-spiffeID", &id, "-write", folder.to_str().unwrap()]).ok();
    server.cli(&["jwt", "mint", "-spiffeID", &id, "-audience", "somebody"]).ok();
    let bundle = server.folder.join("other.pem");
    std::fs::write(&bundle, server.bundle_pem()).unwrap();
    let bundle = bundle.to_str().unwrap();
    server.cli(&["bundle", "set", "-id", "spiffe://other.test", "-path", bundle]).ok();
    let relationship = ["-trustDomain", "other.test", "-bundleEndpointURL", "https://127.0.0.1:1/bundle"];
    let profile = ["-bundleEndpointProfile", "https_web"];
    server.cli(&[&["federation", "create"], &relationship[..], &profile].concat()).ok();
    server.cli(&[&["federation", "update"], &relationship[..], &profile].concat()).ok();
    server.cli(&["federation", "refresh", "-id", "other.test"]);
    server.cli(&["federation", "delete", "-id", "other.test"]).ok();
    server.cli(&["bundle", "delete", "-id", "spiffe://other.test"]).ok();
    for kind in ["x509", "jwt"] {
        let id_of = |answer: serde_json::Value, which: &str| {
            answer[which]["authority_id"].as_str().unwrap_or_else(|| panic!("{which} in {answer}")).to_owned()
        };
        let old = id_of(server.json(&["localauthority", kind, "show"]), "active");
        let new = id_of(server.json(&["localauthority", kind, "prepare"]), "prepared_authority");
        server.cli(&["localauthority", kind, "activate", "-authorityID", &new]).ok();
        server.cli(&["localauthority", kind, "taint", "-authorityID", &old]).ok();
    }
}

/// The one agent is evicted.
pub(crate) fn end_of_the_agent(server: &Server) {
    let agents = server.json(&["agent", "list"]);
    let path = agents["agents"][0]["id"]["path"].as_str().unwrap();
    server.cli(&["agent", "evict", "-spiffeID", &server.id(path.trim_start_matches('/'))]).ok();
}

/// Calls each method with an empty message. How it ends makes no difference; that it is counted does.
pub(crate) fn of_every_method(socket: &Path, methods: &[&'static str]) {
    let calls = async {
        let channel = uds_channel(socket).await.unwrap();
        for method in methods {
            call(channel.clone(), method).await;
        }
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(calls);
}

async fn call(channel: Channel, method: &'static str) {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path: PathAndQuery = format!("/{method}").parse().unwrap();
    let mut request = tonic::Request::new(tokio_stream::once(()));
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    let answer = client.streaming(request, path, Empty).await;
    // A stream that would go on is left, which ends it.
    let unknown = answer.is_err_and(|status| status.code() == tonic::Code::Unimplemented);
    assert!(!unknown, "{method} is not served");
}

/// Messages that say nothing, and answers that nobody reads.
#[derive(Clone, Copy, Default)]
struct Empty;

impl Codec for Empty {
    type Encode = ();
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Empty {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Empty {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        bytes::Buf::advance(from, bytes::Buf::remaining(from));
        Ok(Some(()))
    }
}
