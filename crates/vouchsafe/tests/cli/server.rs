//! The commands of the server.

use bytes::Bytes;
use prost::Message;
use tonic::Status;
use vouchsafe_proto::spire::api::server::agent::v1 as agents;
use vouchsafe_proto::spire::api::server::bundle::v1 as bundles;
use vouchsafe_proto::spire::api::server::entry::v1 as entries;
use vouchsafe_proto::spire::api::server::svid::v1 as svids;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::server::v1 as contacts;

use crate::fake::{Answer, Fake, one};
use crate::{NOW, golden, run};

fn id(path: &str) -> Option<types::Spiffeid> {
    Some(types::Spiffeid { trust_domain: "example.org".to_owned(), path: path.to_owned() })
}

fn selector(kind: &str, value: &str) -> types::Selector {
    types::Selector { r#type: kind.to_owned(), value: value.to_owned() }
}

fn full_entry() -> types::Entry {
    types::Entry {
        id: "entry-id".to_owned(),
        spiffe_id: id("/workload"),
        parent_id: id("/parent"),
        selectors: vec![selector("zebra", "zebra:2000"), selector("alpha", "alpha:2000")],
        x509_svid_ttl: 60,
        jwt_svid_ttl: 30,
        federates_with: vec!["spiffe://domaina.test".to_owned()],
        admin: true,
        downstream: true,
        expires_at: 1_552_410_266,
        dns_names: vec!["unu1000".to_owned()],
        revision_number: 3,
        store_svid: true,
        hint: "internal <a&b>".to_owned(),
        created_at: 1_547_583_197,
        additional_attributes: Some(types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: true,
            jwt_svid_include_jti: true,
        }),
    }
}

fn small_entry(name: &str) -> types::Entry {
    types::Entry {
        id: format!("id-{name}"),
        spiffe_id: id(&format!("/{name}")),
        parent_id: id("/parent"),
        selectors: vec![selector("unix", "uid:1")],
        ..types::Entry::default()
    }
}

fn agent(name: &str, banned: bool) -> types::Agent {
    types::Agent {
        id: id(&format!("/spire/agent/join_token/{name}")),
        attestation_type: "join_token".to_owned(),
        x509svid_serial_number: if banned { String::new() } else { "1234567890".to_owned() },
        x509svid_expires_at: 1_552_410_266,
        selectors: vec![selector("join_token", "x"), selector("other", "a:b")],
        banned,
        can_reattest: false,
        agent_version: if banned { String::new() } else { "1.15.0".to_owned() },
    }
}

fn status(code: i32, message: &str) -> Option<types::Status> {
    Some(types::Status { code, message: message.to_owned() })
}

/// A server that knows two entries and two agents, and refuses what is called `bad`.
#[expect(clippy::too_many_lines, reason = "one arm for each call")]
fn answer(path: &str, request: Bytes) -> Answer {
    match path.rsplit('/').next().unwrap() {
        "CreateJoinToken" => {
            let request = agents::CreateJoinTokenRequest::decode(request).unwrap();
            if request.ttl < 1 {
                return Err(Status::invalid_argument("ttl is required, you must provide one"));
            }
            one(&types::JoinToken { value: "9f4c-token".to_owned(), expires_at: 1_552_410_266 })
        }
        "ListAgents" => {
            let request = agents::ListAgentsRequest::decode(request).unwrap();
            // Two pages.
            let (agent, next) = match request.page_token.as_str() {
                "" => (agent("one", false), "2"),
                _ => (agent("two", true), ""),
            };
            one(&agents::ListAgentsResponse { agents: vec![agent], next_page_token: next.to_owned() })
        }
        "CountAgents" => one(&agents::CountAgentsResponse { count: 1 }),
        "GetAgent" => one(&agent("one", false)),
        "ListContacts" => {
            let request = contacts::ListContactsRequest::decode(request).unwrap();
            let contact = |name: &str, connected, listens, last_heard| contacts::Contact {
                spiffe_id: format!("spiffe://example.org/spire/agent/join_token/{name}"),
                connected,
                listens,
                last_heard,
            };
            let mut contacts =
                vec![contact("gone", false, false, 0), contact("silent", false, false, 1_552_410_266)];
            if !request.only_disconnected {
                contacts.push(contact("spire", true, false, 1_552_410_266));
                contacts.push(contact("vouchsafe", true, true, 1_552_410_266));
            }
            one(&contacts::ListContactsResponse { contacts, next_page_token: String::new() })
        }
        "BanAgent" | "DeleteAgent" => Ok(vec![Vec::new()]),
        "BatchCreateEntry" => {
            let request = entries::BatchCreateEntryRequest::decode(request).unwrap();
            let results = request.entries.into_iter().map(|mut entry| {
                if entry.hint == "bad" {
                    let status = status(6, "similar entry already exists");
                    return entries::batch_create_entry_response::Result { status, entry: None };
                }
                if entry.id.is_empty() {
                    entry.id = "generated".to_owned();
                }
                entries::batch_create_entry_response::Result { status: status(0, "OK"), entry: Some(entry) }
            });
            one(&entries::BatchCreateEntryResponse { results: results.collect() })
        }
        "BatchUpdateEntry" => {
            let request = entries::BatchUpdateEntryRequest::decode(request).unwrap();
            let results = request.entries.into_iter().map(|entry| match entry.hint.as_str() {
                "bad" => entries::batch_update_entry_response::Result {
                    status: status(5, "entry not found"),
                    entry: None,
                },
                _ => entries::batch_update_entry_response::Result {
                    status: status(0, "OK"),
                    entry: Some(entry),
                },
            });
            one(&entries::BatchUpdateEntryResponse { results: results.collect() })
        }
        "BatchDeleteEntry" => {
            let request = entries::BatchDeleteEntryRequest::decode(request).unwrap();
            let results = request.ids.into_iter().map(|id| {
                let status = if id == "bad" { status(5, "entry not found") } else { status(0, "OK") };
                entries::batch_delete_entry_response::Result { status, id }
            });
            one(&entries::BatchDeleteEntryResponse { results: results.collect() })
        }
        "GetEntry" => {
            let request = entries::GetEntryRequest::decode(request).unwrap();
            if request.id == "bad" {
                return Err(Status::not_found("entry not found"));
            }
            one(&full_entry())
        }
        "ListEntries" => {
            let request = entries::ListEntriesRequest::decode(request).unwrap();
            let (entries, next) = match request.page_token.as_str() {
                "" => (vec![full_entry()], "2"),
                _ => (vec![small_entry("a")], ""),
            };
            one(&entries::ListEntriesResponse { entries, next_page_token: next.to_owned() })
        }
        "CountEntries" => one(&entries::CountEntriesResponse { count: 2 }),
        "CountBundles" => one(&bundles::CountBundlesResponse { count: 1 }),
        "GetBundle" => one(&types::Bundle {
            trust_domain: "example.org".to_owned(),
            x509_authorities: vec![types::X509Certificate {
                asn1: b"not read".to_vec().into(),
                tainted: false,
            }],
            jwt_authorities: vec![types::JwtKey {
                public_key: b"key".to_vec().into(),
                key_id: "kid".to_owned(),
                expires_at: 5,
                tainted: true,
            }],
            refresh_hint: 60,
            sequence_number: 7,
            wit_authorities: Vec::new(),
        }),
        "MintX509SVID" => one(&svids::MintX509svidResponse {
            svid: Some(types::X509svid {
                cert_chain: vec![b"leaf".to_vec().into()],
                id: id("/job"),
                expires_at: i64::try_from(NOW).unwrap() + 60,
                hint: String::new(),
            }),
        }),
        "MintJWTSVID" => one(&svids::MintJwtsvidResponse {
            svid: Some(types::Jwtsvid {
                token: "header.payload.signature".to_owned(),
                id: id("/job"),
                expires_at: 2,
                issued_at: 1,
                hint: String::new(),
            }),
        }),
        "Check" => Ok(vec![vec![8, 1]]),
        _ => Err(Status::unimplemented("unknown method")),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a list of commands")]
fn what_commands_print_is_as_reviewed() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path.display().to_string()
    };
    let good = file(
        "good.json",
        r#"{"entries": [
            {"selectors": [{"type": "unix", "value": "uid:1"}], "spiffe_id": "spiffe://example.org/a",
             "parent_id": "spiffe://example.org/p", "x509_svid_ttl": 200, "jwt_svid_ttl": 30, "admin": true,
             "federates_with": ["spiffe://other.org"], "entryExpiry": 1552410266, "unknown": 1},
            {"Selectors": [], "SPIFFE_ID": "spiffe://example.org/b", "parent_id": "spiffe://example.org/p", "hint": "bad",
             "additional_attributes": {"disable_x509_svid_prefetch": true}, "dns_names": null}]}"#,
    );
    let broken = file("broken.json", r#"{"entries": [{"spiffe_id": "x"}]}"#);
    let ids = file("ids.json", r#"{"ids": ["entry-0", "bad", "entry-1"]}"#);
    let fake = Fake::start(answer);
    let new = "-parentID spiffe://example.org/p -spiffeID spiffe://example.org/w -selector unix:uid:1000";
    let commands = [
        "token generate".to_owned(),
        "token generate -ttl=60 -spiffeID spiffe://example.org/node".to_owned(),
        "token generate -output json".to_owned(),
        "token generate -ttl -1".to_owned(),
        "token generate -spiffeID node".to_owned(),
        "entry create".to_owned(),
        "entry create -selector unix:uid:1".to_owned(),
        "entry create -selector unix:uid:1 -parentID spiffe://example.org/p".to_owned(),
        "entry create -selector unix:uid:1 -node -federatesWith spiffe://x.org".to_owned(),
        format!("entry create {new} -x509SVIDTTL -10"),
        format!("entry create {new} -jwtSVIDTTL -10"),
        format!("entry create {new} -selector unix"),
        format!("entry create {new}"),
        format!("entry create {new} -output json -admin -disableX509SVIDPrefetch"),
        format!("entry create {new} -hint bad"),
        format!("entry create {new} -hint bad -output json"),
        format!("entry create -data {good}"),
        format!("entry create -data {broken}"),
        "entry create -data /nonexistent.json".to_owned(),
        "entry update".to_owned(),
        format!("entry update -entryID entry-id {new}"),
        format!("entry update -entryID entry-id {new} -hint bad"),
        "entry show".to_owned(),
        "entry show -output JSON".to_owned(),
        "entry show -entryID entry-id".to_owned(),
        "entry show -entryID bad".to_owned(),
        "entry show -entryID entry-id -spiffeID spiffe://example.org/a".to_owned(),
        "entry show -parentID nope".to_owned(),
        "entry show -selector unix:uid:1 -matchSelectorsOn most".to_owned(),
        "entry count".to_owned(),
        "entry count -output json".to_owned(),
        "entry delete".to_owned(),
        "entry delete -entryID entry-0".to_owned(),
        "entry delete -entryID bad".to_owned(),
        format!("entry delete -file {ids}"),
        format!("entry delete -file {ids} -output json"),
        "agent list".to_owned(),
        "agent list -output json".to_owned(),
        "agent list -expiresBefore 2001-13-05".to_owned(),
        "agent list -selector x:y -matchSelectorsOn most".to_owned(),
        "agent count".to_owned(),
        "agent show".to_owned(),
        "agent show -spiffeID spiffe://example.org/spire/agent/join_token/one".to_owned(),
        "agent show -spiffeID spiffe://example.org/spire/agent/join_token/one -output json".to_owned(),
        "agent ban -spiffeID spiffe://example.org/spire/agent/join_token/one".to_owned(),
        "agent ban -spiffeID spiffe://example.org/spire/agent/join_token/one -output json".to_owned(),
        "agent evict -spiffeID spiffe://example.org/spire/agent/join_token/one".to_owned(),
        "agent connected".to_owned(),
        "agent connected -disconnected -output json".to_owned(),
        "bundle count".to_owned(),
        "bundle show".to_owned(),
        "bundle show -output json".to_owned(),
        "bundle show -format xml".to_owned(),
        "jwt mint".to_owned(),
        "jwt mint -spiffeID spiffe://example.org/job".to_owned(),
        "jwt mint -spiffeID spiffe://example.org/job -audience a -output json".to_owned(),
        "x509 mint".to_owned(),
        "x509 mint -spiffeID nope".to_owned(),
        "healthcheck".to_owned(),
        "healthcheck -verbose -shallow".to_owned(),
    ];
    let mut text = String::new();
    for command in commands {
        let words = format!("spire-server {command} -socketPath {}", fake.socket().display());
        let outcome = run(&words, "", &[]);
        let section = golden::section(&format!("spire-server {command}"), &outcome);
        text.push_str(&section.replace(&directory.path().display().to_string(), "<directory>"));
    }
    golden::check("server_commands.txt", &text);
}

#[test]
fn flags_become_the_request() {
    let fake = Fake::start(answer);
    let socket = fake.socket().display().to_string();
    let run = |command: &str, input: &str| {
        let outcome = run(&format!("spire-server {command} -socketPath {socket}"), input, &[]);
        assert_eq!(outcome.code, 0, "{command}: {}", outcome.stderr);
    };
    run(
        "entry create --entryID=my-id -node -spiffeID spiffe://example.org/n -selector a:b:c -selector=d:e -dns x -dns y \
         -downstream -storeSVID=true -admin=0 -entryExpiry 9 -x509SVIDTTL 1 -jwtSVIDTTL=2 -hint h -jwtSVIDIncludeJTI",
        "",
    );
    let request: entries::BatchCreateEntryRequest = fake.last("BatchCreateEntry");
    let attributes =
        types::entry::AdditionalAttributes { disable_x509_svid_prefetch: false, jwt_svid_include_jti: true };
    let expected = types::Entry {
        id: "my-id".to_owned(),
        spiffe_id: id("/n"),
        parent_id: id("/spire/server"),
        selectors: vec![selector("a", "b:c"), selector("d", "e")],
        x509_svid_ttl: 1,
        jwt_svid_ttl: 2,
        downstream: true,
        expires_at: 9,
        dns_names: vec!["x".to_owned(), "y".to_owned()],
        store_svid: true,
        hint: "h".to_owned(),
        additional_attributes: Some(attributes),
        ..types::Entry::default()
    };
    assert_eq!(request.entries, [expected]);

    // What an update does not mention of the attributes is kept.
    let base = "-entryID e -parentID spiffe://example.org/p -spiffeID spiffe://example.org/w -selector a:b";
    run(&format!("entry update {base} -jwtSVIDIncludeJTI=false"), "");
    let request: entries::BatchUpdateEntryRequest = fake.last("BatchUpdateEntry");
    let attributes = request.entries[0].additional_attributes.unwrap();
    assert_eq!((attributes.disable_x509_svid_prefetch, attributes.jwt_svid_include_jti), (true, false));

    run(
        "entry create -data -",
        r#"{"entries": [{"spiffe_id": "spiffe://example.org/i", "parent_id": "spiffe://example.org/p"}]}"#,
    );
    let request: entries::BatchCreateEntryRequest = fake.last("BatchCreateEntry");
    assert_eq!(request.entries[0].spiffe_id, id("/i"));

    run("entry delete -file -", r#"{"ids": ["a", "b"]}"#);
    let request: entries::BatchDeleteEntryRequest = fake.last("BatchDeleteEntry");
    assert_eq!(request.ids, ["a", "b"]);

    run(
        "entry show -selector a:b -matchSelectorsOn any -federatesWith spiffe://x.org -hint h -downstream \
         -parentID spiffe://example.org/p",
        "",
    );
    let request: entries::ListEntriesRequest = fake.last("ListEntries");
    let filter = request.filter.unwrap();
    assert_eq!((request.page_size, request.page_token.as_str()), (500, "2"));
    assert_eq!(filter.by_selectors.unwrap().r#match, types::selector_match::MatchBehavior::MatchAny as i32);
    assert_eq!(filter.by_federates_with.unwrap().trust_domains, ["spiffe://x.org"]);
    assert_eq!((filter.by_hint.as_deref(), filter.by_downstream), (Some("h"), Some(true)));
    assert_eq!((filter.by_parent_id, filter.by_spiffe_id), (id("/p"), None));

    run("agent count -banned false -canReattest true -attestationType join_token", "");
    let request: agents::CountAgentsRequest = fake.last("CountAgents");
    let filter = request.filter.unwrap();
    assert_eq!((filter.by_banned, filter.by_can_reattest), (Some(false), Some(true)));
    assert_eq!(filter.by_attestation_type, "join_token");
}

#[test]
fn a_minted_x509_svid_is_written_with_a_private_key_that_only_the_owner_reads() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(answer);
    let (socket, target) = (fake.socket(), directory.path().display().to_string());
    let words = format!(
        "spire-server x509 mint -spiffeID spiffe://example.org/job -dns db -ttl 90500ms -write {target} -socketPath {}",
        socket.display()
    );
    let outcome = run(&words, "", &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(
        outcome.stdout,
        format!(
            "X509-SVID written to {target}/svid.pem\nPrivate key written to {target}/key.pem\nRoot CAs written to {target}/bundle.pem\n"
        )
    );
    assert_eq!(
        outcome.stderr,
        "X509-SVID lifetime was capped shorter than specified ttl; expires \"2026-11-21T08:01:00Z\"\n"
    );
    let key = std::fs::metadata(directory.path().join("key.pem")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let pem = std::fs::read_to_string(directory.path().join("key.pem")).unwrap();
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));

    let request: svids::MintX509svidRequest = fake.last("MintX509SVID");
    assert_eq!(request.ttl, 91);
    let csr = vouchsafe_ca::x509::csr::parse_csr(
        &request.csr,
        vouchsafe_ca::x509::csr::VerifyProofOfPossession::Yes,
    );
    let csr = csr.unwrap();
    assert_eq!(
        (csr.uris, csr.dns_names),
        (vec!["spiffe://example.org/job".to_owned()], vec!["db".to_owned()])
    );

    let words =
        format!("spire-server x509 mint -spiffeID spiffe://example.org/job -socketPath {}", socket.display());
    let stdout = run(&words, "", &[]).stdout;
    let shape: Vec<_> = stdout
        .lines()
        .filter(|line| line.ends_with(':') || line.starts_with('-') || line.is_empty())
        .collect();
    let pem = |label: &'static str| [format!("-----BEGIN {label}-----"), format!("-----END {label}-----")];
    let (certificate, key) = (pem("CERTIFICATE"), pem("PRIVATE KEY"));
    let expected = [
        "X509-SVID:",
        &certificate[0],
        &certificate[1],
        "",
        "Private key:",
        &key[0],
        &key[1],
        "",
        "Root CAs:",
        &certificate[0],
        &certificate[1],
        "",
    ];
    assert_eq!(shape, expected, "{stdout}");
}
