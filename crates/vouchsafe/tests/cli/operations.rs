//! Commands about bundles, federation, signing keys, logs and agents that are gone.

use bytes::Bytes;
use prost::Message;
use tonic::Status;
use vouchsafe_proto::spire::agent::debug::v1 as agent_debug;
use vouchsafe_proto::spire::api::server::agent::v1 as agents;
use vouchsafe_proto::spire::api::server::bundle::v1 as bundles;
use vouchsafe_proto::spire::api::server::debug::v1 as debug;
use vouchsafe_proto::spire::api::server::localauthority::v1 as keys;
use vouchsafe_proto::spire::api::server::logger::v1 as logger;
use vouchsafe_proto::spire::api::server::trustdomain::v1 as federation;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::federation_relationship::BundleEndpointProfile;

use crate::fake::{Answer, Fake, one};
use crate::{NOW, golden, run};

fn status(code: i32, message: &str) -> Option<types::Status> {
    Some(types::Status { code, message: message.to_owned() })
}

/// What becomes of something that is called `bad.org`, or not.
fn outcome(name: &str) -> (Option<types::Status>, bool) {
    match name {
        "bad.org" => (status(5, "not \"found\""), false),
        _ => (status(0, "OK"), true),
    }
}

fn bundle(trust_domain: &str) -> types::Bundle {
    types::Bundle {
        trust_domain: trust_domain.to_owned(),
        x509_authorities: vec![types::X509Certificate { asn1: b"not read".to_vec().into(), tainted: true }],
        refresh_hint: 60,
        sequence_number: 7,
        ..Default::default()
    }
}

fn relationship(trust_domain: &str, profile: BundleEndpointProfile) -> types::FederationRelationship {
    types::FederationRelationship {
        trust_domain: trust_domain.to_owned(),
        bundle_endpoint_url: format!("https://{trust_domain}/bundle"),
        trust_domain_bundle: None,
        bundle_endpoint_profile: Some(profile),
    }
}

fn state(id: &str, upstream: &str) -> Option<keys::AuthorityState> {
    Some(keys::AuthorityState {
        authority_id: id.to_owned(),
        expires_at: 1_552_410_266,
        upstream_authority_subject_key_id: upstream.to_owned(),
    })
}

fn agent(name: &str, expired_ago: i64) -> types::Agent {
    types::Agent {
        id: Some(types::Spiffeid {
            trust_domain: "example.org".to_owned(),
            path: format!("/spire/agent/x509pop/{name}"),
        }),
        x509svid_expires_at: i64::try_from(NOW).unwrap() - expired_ago,
        ..Default::default()
    }
}

fn answer(path: &str, request: Bytes) -> Answer {
    match path.split('/').nth(1).unwrap() {
        "spire.api.server.bundle.v1.Bundle" => answer_bundle(path, request),
        "spire.api.server.trustdomain.v1.TrustDomain" => answer_federation(path, request),
        "spire.api.server.localauthority.v1.LocalAuthority" => answer_keys(path, request),
        _ => answer_other(path, request),
    }
}

fn answer_bundle(path: &str, request: Bytes) -> Answer {
    match path.rsplit('/').next().unwrap() {
        "ListFederatedBundles" => {
            let request = bundles::ListFederatedBundlesRequest::decode(request).unwrap();
            let (name, next) = if request.page_token.is_empty() { ("a.org", "2") } else { ("b.org", "") };
            one(&bundles::ListFederatedBundlesResponse {
                bundles: vec![bundle(name)],
                next_page_token: next.to_owned(),
            })
        }
        "GetFederatedBundle" => {
            let request = bundles::GetFederatedBundleRequest::decode(request).unwrap();
            match outcome(&request.trust_domain) {
                (_, true) => one(&bundle(&request.trust_domain)),
                _ => Err(Status::not_found("bundle not found")),
            }
        }
        "BatchSetFederatedBundle" => {
            let request = bundles::BatchSetFederatedBundleRequest::decode(request).unwrap();
            let results = request.bundle.into_iter().map(|bundle| {
                let (status, done) = outcome(&bundle.trust_domain);
                bundles::batch_set_federated_bundle_response::Result {
                    status,
                    bundle: done.then_some(bundle),
                }
            });
            one(&bundles::BatchSetFederatedBundleResponse { results: results.collect() })
        }
        "BatchDeleteFederatedBundle" => {
            let request = bundles::BatchDeleteFederatedBundleRequest::decode(request).unwrap();
            let results = request.trust_domains.into_iter().map(|trust_domain| {
                let (status, _) = outcome(&trust_domain);
                bundles::batch_delete_federated_bundle_response::Result { status, trust_domain }
            });
            one(&bundles::BatchDeleteFederatedBundleResponse { results: results.collect() })
        }
        _ => Err(Status::unimplemented("unknown method")),
    }
}

fn answer_federation(path: &str, request: Bytes) -> Answer {
    let spiffe = BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
        endpoint_spiffe_id: "spiffe://a.org/endpoint".to_owned(),
    });
    let web = BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {});
    match path.rsplit('/').next().unwrap() {
        "ListFederationRelationships" => {
            let request = federation::ListFederationRelationshipsRequest::decode(request).unwrap();
            let (listed, next) = match request.page_token.as_str() {
                "" => (relationship("a.org", spiffe), "2"),
                _ => (relationship("b.org", web), ""),
            };
            one(&federation::ListFederationRelationshipsResponse {
                federation_relationships: vec![listed],
                next_page_token: next.to_owned(),
            })
        }
        "GetFederationRelationship" => {
            let request = federation::GetFederationRelationshipRequest::decode(request).unwrap();
            match outcome(&request.trust_domain) {
                (_, true) => one(&relationship(&request.trust_domain, spiffe)),
                _ => Err(Status::not_found("federation relationship does not exist")),
            }
        }
        "BatchCreateFederationRelationship" => {
            let request = federation::BatchCreateFederationRelationshipRequest::decode(request).unwrap();
            let results = request.federation_relationships.into_iter().map(|relationship| {
                let (status, done) = outcome(&relationship.trust_domain);
                federation::batch_create_federation_relationship_response::Result {
                    status,
                    federation_relationship: done.then_some(relationship),
                }
            });
            one(&federation::BatchCreateFederationRelationshipResponse { results: results.collect() })
        }
        "BatchUpdateFederationRelationship" => {
            let request = federation::BatchUpdateFederationRelationshipRequest::decode(request).unwrap();
            let results = request.federation_relationships.into_iter().map(|relationship| {
                let (status, done) = outcome(&relationship.trust_domain);
                federation::batch_update_federation_relationship_response::Result {
                    status,
                    federation_relationship: done.then_some(relationship),
                }
            });
            one(&federation::BatchUpdateFederationRelationshipResponse { results: results.collect() })
        }
        "BatchDeleteFederationRelationship" => {
            let request = federation::BatchDeleteFederationRelationshipRequest::decode(request).unwrap();
            let results = request.trust_domains.into_iter().map(|trust_domain| {
                let (status, _) = outcome(&trust_domain);
                federation::batch_delete_federation_relationship_response::Result { status, trust_domain }
            });
            one(&federation::BatchDeleteFederationRelationshipResponse { results: results.collect() })
        }
        "RefreshBundle" => {
            let request = federation::RefreshBundleRequest::decode(request).unwrap();
            match request.trust_domain.as_str() {
                "bad.org" => Err(Status::not_found("no relationship")),
                "broken.org" => Err(Status::internal("no route")),
                _ => Ok(vec![Vec::new()]),
            }
        }
        _ => Err(Status::unimplemented("unknown method")),
    }
}

fn answer_keys(path: &str, request: Bytes) -> Answer {
    match path.rsplit('/').next().unwrap() {
        "GetX509AuthorityState" => one(&keys::GetX509AuthorityStateResponse {
            active: state("aa", ""),
            prepared: state("bb", "cc"),
            old: None,
        }),
        "GetJWTAuthorityState" => {
            one(&keys::GetJwtAuthorityStateResponse { active: None, prepared: None, old: state("dd", "") })
        }
        "PrepareX509Authority" => {
            one(&keys::PrepareX509AuthorityResponse { prepared_authority: state("ee", "") })
        }
        "PrepareJWTAuthority" => one(&keys::PrepareJwtAuthorityResponse { prepared_authority: None }),
        "ActivateX509Authority" => {
            one(&keys::ActivateX509AuthorityResponse { activated_authority: state("aa", "") })
        }
        "TaintX509Authority" => one(&keys::TaintX509AuthorityResponse { tainted_authority: state("aa", "") }),
        "RevokeX509Authority" => {
            one(&keys::RevokeX509AuthorityResponse { revoked_authority: state("aa", "bb") })
        }
        "ActivateJWTAuthority" => {
            one(&keys::ActivateJwtAuthorityResponse { activated_authority: state("aa", "bb") })
        }
        "TaintJWTAuthority" => {
            let request = keys::TaintJwtAuthorityRequest::decode(request).unwrap();
            match request.authority_id.as_str() {
                "bad" => Err(Status::invalid_argument("unexpected authority ID")),
                id => one(&keys::TaintJwtAuthorityResponse { tainted_authority: state(id, "") }),
            }
        }
        "RevokeJWTAuthority" => one(&keys::RevokeJwtAuthorityResponse { revoked_authority: state("aa", "") }),
        "TaintX509UpstreamAuthority" => one(&keys::TaintX509UpstreamAuthorityResponse {
            upstream_authority_subject_key_id: "ff".to_owned(),
        }),
        "RevokeX509UpstreamAuthority" => Err(Status::failed_precondition("upstream authority is not used")),
        _ => Err(Status::unimplemented("unknown method")),
    }
}

fn answer_other(path: &str, request: Bytes) -> Answer {
    let level = |current_level| types::Logger { current_level, launch_level: types::LogLevel::Warn.into() };
    match path.rsplit('/').next().unwrap() {
        "GetLogger" | "ResetLogLevel" => one(&level(types::LogLevel::Warn.into())),
        "SetLogLevel" => one(&level(logger::SetLogLevelRequest::decode(request).unwrap().new_level)),
        "GetInfo" if path.contains("server") => one(&debug::GetInfoResponse {
            svid_chain: vec![
                debug::get_info_response::Cert {
                    id: agent("one", 0).id,
                    expires_at: 1_552_410_266,
                    subject: "O=SPIRE,C=US".to_owned(),
                },
                debug::get_info_response::Cert { id: None, expires_at: 0, subject: String::new() },
            ],
            uptime: 3725,
            agents_count: 1,
            federated_bundles_count: 2,
            entries_count: 3,
        }),
        "GetInfo" => one(&agent_debug::GetInfoResponse {
            uptime: 60,
            last_sync_success: 0,
            cached_x509_svids_count: 2,
            cached_jwt_svids_count: 3,
            ..Default::default()
        }),
        "ListAgents" => {
            let request = agents::ListAgentsRequest::decode(request).unwrap();
            assert_eq!(request.filter.unwrap().by_can_reattest, Some(true));
            let (listed, next) = match request.page_token.as_str() {
                "" => (vec![agent("fresh", -60), agent("day", 86_400)], "2"),
                _ => (vec![agent("month", 40 * 86_400), agent("stuck", 90 * 86_400)], ""),
            };
            one(&agents::ListAgentsResponse { agents: listed, next_page_token: next.to_owned() })
        }
        "DeleteAgent" => {
            let request = agents::DeleteAgentRequest::decode(request).unwrap();
            match request.id.unwrap().path.ends_with("stuck") {
                true => Err(Status::internal("disk is full")),
                false => Ok(vec![Vec::new()]),
            }
        }
        _ => Err(Status::unimplemented("unknown method")),
    }
}

const CERTIFICATE: &str = include_str!("../golden/foreign_ca.pem");

#[test]
#[expect(clippy::too_many_lines, reason = "a list of commands")]
fn what_commands_print_is_as_reviewed() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path.display().to_string()
    };
    let pem = file("ca.pem", CERTIFICATE);
    let nothing = file("nothing.pem", "nothing\n");
    let relationships = file(
        "relationships.json",
        &serde_json::json!({"federationRelationships": [
            {"trustDomain": "a.org", "bundleEndpointURL": "https://a.org", "bundleEndpointProfile": "https_web"},
            {"trustDomain": "bad.org", "bundleEndpointURL": "https://bad.org", "BundleEndpointProfile": "https_spiffe",
             "endpointSpiffeID": "spiffe://bad.org/x", "trustDomainBundleFormat": "pem", "trustDomainBundle": CERTIFICATE},
        ]})
        .to_string(),
    );
    let broken = file("broken.json", r#"{"federationRelationships": [{"trustDomain": "a.org"}]}"#);
    let new = "-trustDomain a.org -bundleEndpointURL https://a.org";
    let fake = Fake::start(answer);
    let commands = [
        "server bundle list".to_owned(),
        "server bundle list -output json".to_owned(),
        "server bundle list -id a.org".to_owned(),
        "server bundle list -id bad.org".to_owned(),
        "server bundle list -format der".to_owned(),
        format!("server bundle set -id spiffe://a.org -path {pem}"),
        format!("server bundle set -id bad.org -path {pem}"),
        format!("server bundle set -id bad.org -path {pem} -output json"),
        format!("server bundle set -id a.org -path {nothing}"),
        format!("server bundle set -path {pem}"),
        "server bundle set -id a.org -path /nonexistent".to_owned(),
        "server bundle set -id a.org -format der".to_owned(),
        "server bundle delete -id a.org -mode dissociate".to_owned(),
        "server bundle delete -id bad.org".to_owned(),
        "server bundle delete -id bad.org -output json".to_owned(),
        "server bundle delete -id a.org -mode all".to_owned(),
        "server bundle delete".to_owned(),
        "server federation list".to_owned(),
        "server federation list -output json".to_owned(),
        "server federation show -trustDomain a.org".to_owned(),
        "server federation show -trustDomain bad.org".to_owned(),
        "server federation show".to_owned(),
        format!("server federation create {new} -bundleEndpointProfile https_web"),
        format!("server federation create {new} -bundleEndpointProfile https_spiffe"),
        format!("server federation create {new} -bundleEndpointProfile smoke"),
        format!("server federation create {new} -data {relationships}"),
        format!("server federation create -data {relationships}"),
        format!("server federation create -data {relationships} -output json"),
        format!("server federation create -data {broken}"),
        "server federation create".to_owned(),
        "server federation create -trustDomain a.org".to_owned(),
        format!("server federation update -data {relationships}"),
        "server federation delete -id a.org".to_owned(),
        "server federation delete -id bad.org".to_owned(),
        "server federation delete".to_owned(),
        "server federation refresh -id a.org".to_owned(),
        "server federation refresh -id a.org -output json".to_owned(),
        "server federation refresh -id bad.org".to_owned(),
        "server federation refresh -id broken.org".to_owned(),
        "server localauthority x509 show".to_owned(),
        "server localauthority x509 show -output json".to_owned(),
        "server localauthority jwt show".to_owned(),
        "server localauthority x509 prepare".to_owned(),
        "server localauthority x509 prepare -output json".to_owned(),
        "server localauthority jwt prepare".to_owned(),
        "server localauthority x509 activate".to_owned(),
        "server localauthority x509 activate -authorityID aa".to_owned(),
        "server localauthority x509 taint -authorityID aa".to_owned(),
        "server localauthority x509 revoke -authorityID aa".to_owned(),
        "server localauthority jwt activate -authorityID aa -output json".to_owned(),
        "server localauthority jwt taint -authorityID kid".to_owned(),
        "server localauthority jwt taint -authorityID bad".to_owned(),
        "server localauthority jwt revoke -authorityID kid".to_owned(),
        "server upstreamauthority taint -subjectKeyID ff".to_owned(),
        "server upstreamauthority taint -subjectKeyID ff -output json".to_owned(),
        "server upstreamauthority revoke -subjectKeyID ff".to_owned(),
        "server upstreamauthority revoke".to_owned(),
        "server logger get".to_owned(),
        "server logger set -level DEBUG -output json".to_owned(),
        "server logger set -level loud".to_owned(),
        "server logger set".to_owned(),
        "server logger reset".to_owned(),
        "server debug getinfo".to_owned(),
        "server debug getinfo -output json".to_owned(),
        "server agent purge -dryRun".to_owned(),
        "server agent purge -dryRun -expiredFor 1h -output json".to_owned(),
        "server agent purge".to_owned(),
        "server agent purge -output json".to_owned(),
        "server agent purge -expiredFor 9999h".to_owned(),
        "agent logger get".to_owned(),
        "agent logger set -level panic".to_owned(),
        "agent logger set -level loud".to_owned(),
        "agent logger reset -output json".to_owned(),
        "agent debug getinfo".to_owned(),
        "agent debug getinfo -output json".to_owned(),
    ];
    let mut text = String::new();
    for command in commands {
        let words = format!("spire-{command} -socketPath {}", fake.socket().display());
        let section = golden::section(&format!("spire-{command}"), &run(&words, "", &[]));
        text.push_str(&section.replace(&directory.path().display().to_string(), "<directory>"));
    }
    golden::check("operations_commands.txt", &text);
}

#[test]
fn flags_and_files_become_the_request() {
    let fake = Fake::start(answer);
    let socket = fake.socket().display().to_string();
    let run = |command: &str, input: &str| {
        let outcome = run(&format!("spire-server {command} -socketPath {socket}"), input, &[]);
        assert_eq!(outcome.code, 0, "{command}: {}", outcome.stderr);
    };
    run("bundle set -id spiffe://a.org", CERTIFICATE);
    let request: bundles::BatchSetFederatedBundleRequest = fake.last("BatchSetFederatedBundle");
    let der = vouchsafe_types::pem::parse(CERTIFICATE.as_bytes()).unwrap()[0].der.to_vec();
    assert_eq!(request.bundle[0].trust_domain, "spiffe://a.org");
    assert_eq!(request.bundle[0].x509_authorities[0].asn1, der);

    run(
        "bundle set -id a.org -format SPIFFE",
        r#"{"keys": [], "spiffe_sequence": 9, "spiffe_refresh_hint": 60}"#,
    );
    let request: bundles::BatchSetFederatedBundleRequest = fake.last("BatchSetFederatedBundle");
    assert_eq!((request.bundle[0].sequence_number, request.bundle[0].refresh_hint), (9, 60));

    for (word, mode) in [("restrict", 0), ("delete", 1), ("dissociate", 2)] {
        run(&format!("bundle delete -id a.org -mode {word}"), "");
        let request: bundles::BatchDeleteFederatedBundleRequest = fake.last("BatchDeleteFederatedBundle");
        assert_eq!((request.mode, request.trust_domains), (mode, vec!["a.org".to_owned()]));
    }

    // The bundle that is handed over is that of the endpoint's trust domain.
    let relationship = serde_json::json!({"federationRelationships": [{
        "trustDomain": "a.org", "bundleEndpointURL": "https://a.org", "bundleEndpointProfile": "https_spiffe",
        "endpointSPIFFEID": "spiffe://b.org/x", "trustDomainBundleFormat": "spiffe", "trustDomainBundle": {"keys": []},
    }]});
    run("federation update -data -", &relationship.to_string());
    let request: federation::BatchUpdateFederationRelationshipRequest =
        fake.last("BatchUpdateFederationRelationship");
    let asked = &request.federation_relationships[0];
    assert_eq!(asked.trust_domain_bundle.as_ref().unwrap().trust_domain, "b.org");
    let profile = types::HttpsspiffeProfile { endpoint_spiffe_id: "spiffe://b.org/x".to_owned() };
    assert_eq!(asked.bundle_endpoint_profile, Some(BundleEndpointProfile::HttpsSpiffe(profile)));
}

#[test]
fn an_agent_that_was_seen_lately_is_not_purged() {
    let fake = Fake::start(answer);
    let words = format!("spire-server agent purge -expiredFor 719h -socketPath {}", fake.socket().display());
    run(&words, "", &[]);
    let deleted = fake.calls().into_iter().filter(|call| call.path.ends_with("DeleteAgent"));
    let deleted: Vec<_> = deleted
        .map(|call| agents::DeleteAgentRequest::decode(call.message).unwrap().id.unwrap().path)
        .collect();
    assert_eq!(deleted, ["/spire/agent/x509pop/month", "/spire/agent/x509pop/stuck"]);
}

#[test]
fn a_server_that_answers_the_same_page_for_ever_is_given_up() {
    let fake = Fake::start(|_, _| {
        one(&bundles::ListFederatedBundlesResponse { bundles: Vec::new(), next_page_token: "1".to_owned() })
    });
    let words = format!("spire-server bundle list -socketPath {}", fake.socket().display());
    let outcome = run(&words, "", &[]);
    assert_eq!((outcome.code, fake.calls().len()), (1, 2));
    assert!(outcome.stderr.contains("the same page again"), "{}", outcome.stderr);
}

#[test]
fn a_failure_to_connect_is_told_like_one_of_the_call() {
    let cause = "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial unix \
        ///none.sock: connect: no such file or directory\"";
    for (command, before) in [
        ("server bundle list", ""),
        ("server bundle delete -id a", "failed to delete federated bundle: "),
        ("server federation list", "error listing federation relationship: "),
        ("server federation refresh -id a", "failed to refresh bundle: "),
        ("server localauthority jwt prepare", "could not prepare JWT authority: "),
        ("server localauthority jwt show", ""),
        ("server localauthority x509 show", "could not get X.509 authorities: "),
        ("server agent purge", "failed to list agents: "),
        ("server entry show", "error fetching entries: "),
        ("server x509 mint -spiffeID spiffe://a/b", "unable to mint SVID: "),
        ("agent logger get", "error fetching logger: "),
        ("agent debug getinfo", ""),
    ] {
        let outcome = run(&format!("spire-{command} -socketPath /none.sock"), "", &[]);
        assert_eq!((outcome.code, outcome.stderr), (1, format!("Error: {before}{cause}\n")), "{command}");
    }
    let advised = run("vouchsafe agent debug getinfo -socketPath /none.sock", "", &[]).stderr;
    assert!(
        advised.contains("\nHint: Start it with `vouchsafe agent run` and `admin_socket_path`"),
        "{advised}"
    );
}

#[test]
fn a_database_is_accepted_for_the_next_start_of_the_server_that_the_file_is_of() {
    let folder = tempfile::tempdir().unwrap();
    let (config, data_dir) = (folder.path().join("server.conf"), folder.path().join("data"));
    let text = format!(
        "server {{\n trust_domain = \"example.org\"\n data_dir = \"{0}\"\n}}\nplugins {{\n DataStore \"sql\" {{ plugin_data {{ \
         database_type = \"sqlite3\" connection_string = \"{0}/db\" }} }}\n NodeAttestor \"join_token\" {{ plugin_data {{}} \
         }}\n KeyManager \"memory\" {{ plugin_data {{}} }}\n}}\n",
        data_dir.display()
    );
    std::fs::write(&config, text).unwrap();
    let accept = || run(&format!("vouchsafe server datastore accept -config {}", config.display()), "", &[]);
    let refused = accept();
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("cannot write to the data directory"), "{refused:?}");
    std::fs::create_dir(&data_dir).unwrap();
    let accepted = accept();
    assert_eq!((accepted.code, accepted.stderr.as_str()), (0, ""), "{accepted:?}");
    assert!(accepted.stdout.contains("restart it"), "{accepted:?}");
    assert!(data_dir.join(vouchsafe_server::acceptance::FILE).exists());
}
