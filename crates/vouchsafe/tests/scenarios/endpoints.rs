//! Suites `admin-endpoints`, `debug-endpoints`, `downstream-endpoints` and `delegatedidentity`.

use tonic::Code;
use tonic::transport::Channel;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::signer::Signer as _;
use vouchsafe_ca::x509::csr::create_csr;
use vouchsafe_identity::own::SvidCell;
use vouchsafe_proto::spire::api::agent::delegatedidentity::v1::delegated_identity_client::DelegatedIdentityClient;
use vouchsafe_proto::spire::api::agent::delegatedidentity::v1::{
    FetchJwtsviDsRequest, SubscribeToX509BundlesRequest, SubscribeToX509sviDsRequest,
};
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    CountAgentsRequest, CreateJoinTokenRequest, ListAgentsRequest,
};
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::bundle::v1::{
    CountBundlesRequest, ListFederatedBundlesRequest, PublishJwtAuthorityRequest,
};
use vouchsafe_proto::spire::api::server::debug::v1::GetInfoRequest;
use vouchsafe_proto::spire::api::server::debug::v1::debug_client::DebugClient;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{CountEntriesRequest, ListEntriesRequest};
use vouchsafe_proto::spire::api::server::localauthority::v1::GetX509AuthorityStateRequest;
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::spire::api::server::svid::v1::{MintJwtsvidRequest, NewDownstreamX509caRequest};
use vouchsafe_proto::spire::api::server::trustdomain::v1::ListFederationRelationshipsRequest;
use vouchsafe_proto::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::clock::Clock;

use crate::api::{block_on, identity, local, refusal, remote};
use crate::process::eventually;
use crate::world::{AgentSettings, Server, ServerSettings, World};

#[test]
fn administrators_of_this_and_of_another_trust_domain_may_administer_over_tcp_and_others_may_not() {
    let world = World::new();
    let foreign = ServerSettings { trust_domain: "domain-b.test", ..ServerSettings::default() };
    let foreign = world.server("b", &foreign);
    let settings = ServerSettings {
        server: "admin_ids = [\"spiffe://domain-b.test/admin\"]".into(),
        ..ServerSettings::default()
    };
    let server = world.server("s", &settings);
    let bundle = foreign.folder.join("bundle.json");
    std::fs::write(&bundle, foreign.cli(&["bundle", "show", "-format", "spiffe"]).ok()).unwrap();
    let bundle = bundle.to_str().unwrap();
    server
        .cli(&["bundle", "set", "-format", "spiffe", "-id", "spiffe://domain-b.test", "-path", bundle])
        .ok();

    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("admin", &["-admin"]);
    server.entry_for_this_user("workload", &[]);
    let foreign_agent = world.agent("c", &foreign, &AgentSettings::default());
    foreign.entry_for_this_user("admin", &[]);
    foreign.entry_for_this_user("workload", &[]);

    for (agent, path, may) in
        [(&agent, "admin", true), (&agent, "workload", false), (&foreign_agent, "admin", true)]
    {
        let own = identity(agent, path);
        for (method, code) in reached(&server, Some(&own)) {
            assert_eq!(code, if may { Code::Ok } else { Code::PermissionDenied }, "{method} by {path}");
        }
    }
    for (method, code) in reached(&server, None) {
        assert_eq!(code, Code::PermissionDenied, "{method} by nobody");
    }
    // Not listed, so the handshake fails.
    let own = identity(&foreign_agent, "workload");
    for (method, code) in block_on(administer(&server, Some(&own))) {
        assert_ne!(code, Code::Ok, "{method} by a stranger");
    }
}

/// What comes of the calls once they get through.
fn reached(server: &Server, own: Option<&SvidCell>) -> Vec<(&'static str, Code)> {
    eventually("all calls get through", || {
        let outcomes = block_on(administer(server, own));
        outcomes.iter().all(|(_, code)| *code != Code::Unavailable).then_some(outcomes)
    })
}

async fn administer(server: &Server, own: Option<&SvidCell>) -> Vec<(&'static str, Code)> {
    let to = remote(server, own);
    let code =
        |outcome: Result<(), tonic::Status>| outcome.map_or_else(|status| status.code(), |()| Code::Ok);
    macro_rules! call {
        ($client:ident, $method:ident, $request:expr) => {
            (stringify!($method), code($client::new(to.clone()).$method($request).await.map(drop)))
        };
    }
    let token = CreateJoinTokenRequest { ttl: 600, ..CreateJoinTokenRequest::default() };
    let jwt = MintJwtsvidRequest {
        id: Some(types::Spiffeid { trust_domain: "domain.test".into(), path: "/minted".into() }),
        audience: vec!["db".into()],
        ttl: 60,
    };
    vec![
        call!(AgentClient, count_agents, CountAgentsRequest::default()),
        call!(AgentClient, list_agents, ListAgentsRequest::default()),
        call!(AgentClient, create_join_token, token),
        call!(EntryClient, count_entries, CountEntriesRequest::default()),
        call!(EntryClient, list_entries, ListEntriesRequest::default()),
        call!(BundleClient, count_bundles, CountBundlesRequest::default()),
        call!(BundleClient, list_federated_bundles, ListFederatedBundlesRequest::default()),
        call!(SvidClient, mint_jwtsvid, jwt),
        call!(
            TrustDomainClient,
            list_federation_relationships,
            ListFederationRelationshipsRequest::default()
        ),
        call!(LocalAuthorityClient, get_x509_authority_state, GetX509AuthorityStateRequest::default()),
    ]
}

#[test]
fn a_downstream_workload_may_become_an_authority_and_others_may_not() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("downstream", &["-downstream"]);
    server.entry_for_this_user("workload", &[]);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let jwt_key = types::JwtKey {
        public_key: key.public_key_der().to_vec().into(),
        key_id: "authority1".into(),
        expires_at: Clock::system().unix_now() + 60,
        tainted: false,
    };
    let ask = |path: &str| {
        let own = identity(&agent, path);
        block_on(async {
            let csr = create_csr(&key, None).await.unwrap().into();
            let to = remote(&server, Some(&own));
            let request = NewDownstreamX509caRequest { csr, preferred_ttl: 0 };
            let ca = SvidClient::new(to.clone()).new_downstream_x509ca(request).await;
            let request = PublishJwtAuthorityRequest { jwt_authority: Some(jwt_key.clone()) };
            (ca, BundleClient::new(to).publish_jwt_authority(request).await)
        })
    };
    let (ca, keys) = ask("downstream");
    let ca = ca.unwrap().into_inner();
    assert!(!ca.ca_cert_chain.is_empty() && ca.x509_authorities.len() == 1);
    assert!(keys.unwrap().into_inner().jwt_authorities.contains(&jwt_key));
    let (ca, keys) = ask("workload");
    assert_eq!(ca.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(keys.unwrap_err().code(), Code::PermissionDenied);
}

#[test]
fn the_debug_api_is_local() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let agent = world.agent("a", &server, &AgentSettings::default());
    server.entry_for_this_user("admin", &["-admin"]);
    let own = identity(&agent, "admin");
    let info = block_on(async {
        let mut client = DebugClient::new(local(&server.socket).await);
        client.get_info(GetInfoRequest {}).await.unwrap().into_inner()
    });
    assert_eq!((info.agents_count, info.svid_chain.len()), (1, 2), "{info:?}");
    assert!(
        info.entries_count <= 2 && info.federated_bundles_count <= 1,
        "cached for some seconds: {info:?}"
    );
    for own in [Some(&own), None] {
        let code = refusal(|| {
            block_on(async { DebugClient::new(remote(&server, own)).get_info(GetInfoRequest {}).await })
        });
        assert!(matches!(code, Code::Unimplemented | Code::PermissionDenied), "{code:?}");
    }
    let shown = agent.admin_cli(&["debug", "getinfo"]);
    assert_eq!(shown.code, 0, "{shown:?}");
}

#[test]
fn a_delegate_gets_the_identities_of_others_and_nobody_else_does() {
    let world = World::new();
    let server = world.server("s", &ServerSettings::default());
    let authorized = AgentSettings {
        agent: "authorized_delegates = [\"spiffe://domain.test/delegate\"]".into(),
        ..AgentSettings::default()
    };
    let agent = world.agent("a", &server, &authorized);
    server.entry_for_this_user("delegate", &[]);
    server.entry("workload", "node", "unix:uid:4242", &[]);
    agent.wait_for_svid("delegate");
    let selectors = vec![types::Selector { r#type: "unix".into(), value: "uid:4242".into() }];

    block_on(async {
        let mut client = DelegatedIdentityClient::new(local(&agent.admin_socket).await);
        let request = SubscribeToX509sviDsRequest { selectors: selectors.clone(), pid: 0 };
        let mut svids = client.subscribe_to_x509svi_ds(request).await.unwrap().into_inner();
        let first = loop {
            let update = svids.message().await.unwrap().unwrap();
            if let Some(first) = update.x509_svids.into_iter().next() {
                break first;
            }
        };
        let id = first.x509_svid.unwrap().id.unwrap();
        assert_eq!((id.path.as_str(), first.x509_svid_key.is_empty()), ("/workload", false));
        let bundles = client.subscribe_to_x509_bundles(SubscribeToX509BundlesRequest {}).await.unwrap();
        let bundles = bundles.into_inner().message().await.unwrap().unwrap();
        assert!(bundles.ca_certificates.contains_key("spiffe://domain.test"));
        let request =
            FetchJwtsviDsRequest { audience: vec!["db".into()], selectors: selectors.clone(), pid: 0 };
        let tokens = client.fetch_jwtsvi_ds(request).await.unwrap().into_inner();
        assert_eq!(tokens.svids[0].id.as_ref().unwrap().path, "/workload");
        let both = SubscribeToX509sviDsRequest { selectors: selectors.clone(), pid: 1 };
        let refused = first_answer(&mut client, both).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    });

    let other = world.agent("b", &server, &AgentSettings::default());
    other.wait_for_svid("delegate");
    let refused = block_on(async {
        let mut client = DelegatedIdentityClient::new(local(&other.admin_socket).await);
        let request = SubscribeToX509sviDsRequest { selectors, pid: 0 };
        first_answer(&mut client, request).await.unwrap_err()
    });
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "caller not configured as an authorized delegate");
}

/// The first message or the refusal, which may come with the headers or after them.
async fn first_answer(
    client: &mut DelegatedIdentityClient<Channel>,
    request: SubscribeToX509sviDsRequest,
) -> Result<(), tonic::Status> {
    client.subscribe_to_x509svi_ds(request).await?.into_inner().message().await.map(drop)
}
