//! The commands of the agent.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost_types::value::Kind;
use tonic::Status;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::signer::Signer;
use vouchsafe_ca::x509::authority::{CaTemplate, X509Ca, self_signed_ca};
use vouchsafe_ca::x509::subject::Subject;
use vouchsafe_ca::x509::svid::{SvidTemplate, issue_svid};
use vouchsafe_proto::workload;
use vouchsafe_types::{SpiffeId, TrustDomain};

use crate::fake::{Answer, Fake, one};
use crate::{NOW, golden, run};

struct Identity {
    chain: Vec<u8>,
    key: Vec<u8>,
    bundle: Vec<u8>,
}

/// An SVID that is valid at [`NOW`], made once.
fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(make_identity)
}

fn make_identity() -> Identity {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let ca_key = Arc::new(PrivateKey::generate(KeyType::EcP256).unwrap());
        let now = i64::try_from(NOW).unwrap();
        let subject = Subject::ca_default();
        let template =
            CaTemplate { trust_domain: &trust_domain, subject: &subject, now, not_after: now + 86_400 };
        let bundle = self_signed_ca(&*ca_key, &template).await.unwrap();
        let ca = X509Ca::new(
            trust_domain.clone(),
            bundle.clone().into(),
            Vec::new(),
            ca_key as Arc<dyn Signer>,
            now,
        )
        .unwrap();
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let id = SpiffeId::parse("spiffe://example.org/foo").unwrap();
        let template = SvidTemplate {
            spiffe_id: &id,
            public_key_der: key.public_key_der(),
            dns_names: &[],
            ttl: Duration::from_secs(3600),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(NOW),
            subject: None,
        };
        let issued = issue_svid(&ca, &template).await.unwrap();
        Identity { chain: issued.chain.concat(), key: key.pkcs8().unwrap().to_vec(), bundle }
    })
}

fn x509_response(bundle: &[u8]) -> workload::X509svidResponse {
    let identity = identity();
    workload::X509svidResponse {
        svids: vec![workload::X509svid {
            spiffe_id: "spiffe://example.org/foo".to_owned(),
            x509_svid: identity.chain.clone().into(),
            x509_svid_key: identity.key.clone().into(),
            bundle: bundle.to_vec().into(),
            hint: "external".to_owned(),
        }],
        crl: Vec::new(),
        federated_bundles: [("spiffe://other.org".to_owned(), Bytes::from(identity.bundle.clone()))].into(),
    }
}

fn answer(path: &str, _request: Bytes) -> Answer {
    match path {
        "/SpiffeWorkloadAPI/FetchX509SVID" => one(&x509_response(&identity().bundle)),
        "/SpiffeWorkloadAPI/FetchJWTBundles" => one(&workload::JwtBundlesResponse {
            bundles: [("spiffe://example.org".to_owned(), Bytes::from_static(b"{\"keys\":[]}"))].into(),
        }),
        "/SpiffeWorkloadAPI/FetchJWTSVID" => one(&workload::JwtsvidResponse {
            svids: vec![
                workload::Jwtsvid {
                    spiffe_id: "spiffe://example.org/a".into(),
                    svid: "t.o.k".into(),
                    hint: "h".into(),
                },
                workload::Jwtsvid {
                    spiffe_id: "spiffe://example.org/b".into(),
                    svid: "t.o.l".into(),
                    hint: String::new(),
                },
            ],
        }),
        "/SpiffeWorkloadAPI/ValidateJWTSVID" => {
            let value = |kind| prost_types::Value { kind: Some(kind) };
            let audience = prost_types::ListValue { values: vec![value(Kind::StringValue("db".to_owned()))] };
            let fields = [
                ("sub".to_owned(), value(Kind::StringValue("spiffe://example.org/a".to_owned()))),
                ("exp".to_owned(), value(Kind::NumberValue(1_552_410_266.0))),
                ("aud".to_owned(), value(Kind::ListValue(audience))),
                ("none".to_owned(), value(Kind::NullValue(0))),
            ];
            one(&workload::ValidateJwtsvidResponse {
                spiffe_id: "spiffe://example.org/a".to_owned(),
                claims: Some(prost_types::Struct { fields: fields.into() }),
            })
        }
        "/grpc.health.v1.Health/Check" => Ok(vec![vec![8, 2]]),
        _ => Err(Status::unimplemented("unknown method")),
    }
}

#[test]
fn what_commands_print_is_as_reviewed() {
    identity();
    let fake = Fake::start(answer);
    let commands = [
        "api fetch",
        "api fetch x509",
        "api fetch x509 -silent",
        "api fetch jwt",
        "api fetch jwt -audience db,cache -spiffeID spiffe://example.org/a",
        "api fetch jwt -audience db -output json",
        "api fetch jwt -audience db -format json",
        "api validate jwt",
        "api validate jwt -audience db",
        "api validate jwt -audience db -svid t.o.k",
        "api validate jwt -audience db -svid t.o.k -output json",
        "healthcheck",
    ];
    let mut text = String::new();
    for command in commands {
        let words = format!("spire-agent {command} -socketPath {}", fake.socket().display());
        let mut outcome = run(&words, "", &[]);
        outcome.stdout = without_elapsed_time(&outcome.stdout);
        text.push_str(&golden::section(&format!("spire-agent {command}"), &outcome));
    }
    golden::check("agent_commands.txt", &text);
    let calls = fake.calls();
    let workload = calls.iter().filter(|call| call.path.starts_with("/SpiffeWorkloadAPI/"));
    assert!(workload.clone().count() > 5 && workload.clone().all(|call| call.security_header));
    let request: workload::JwtsvidRequest = fake.last("FetchJWTSVID");
    assert_eq!(request.audience, ["db"]);
}

fn without_elapsed_time(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once(" after ") {
        Some((before, time)) => {
            assert!(time.ends_with('s') && time.len() < 20, "{line}");
            format!("{before} after <time>\n")
        }
        None => format!("{line}\n"),
    });
    lines.collect()
}

#[test]
fn fetched_svids_are_written_and_printed_as_json() {
    let directory = tempfile::tempdir().unwrap();
    identity();
    let fake = Fake::start(answer);
    let (socket, target) = (fake.socket(), directory.path().display().to_string());
    let outcome = run(
        &format!("spire-agent api fetch -silent -write {target} -socketPath {}", socket.display()),
        "",
        &[],
    );
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let expected = format!(
        "Writing SVID #0 to file {target}/svid.0.pem.\n\
         Writing key #0 to file {target}/svid.0.key.\n\
         Writing bundle #0 to file {target}/bundle.0.pem.\n\
         Writing federated bundle #0 for trust domain spiffe://other.org to file {target}/federated_bundle.0.0.pem.\n"
    );
    assert_eq!(outcome.stdout, expected);
    let written = std::fs::read(directory.path().join("svid.0.key")).unwrap();
    let blocks = vouchsafe_types::pem::parse(&written).unwrap();
    assert_eq!(blocks.len(), 1);

    let outcome =
        run(&format!("spire-agent api fetch x509 -output json -socketPath {}", socket.display()), "", &[]);
    let json: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(json["crl"], serde_json::json!([]));
    assert_eq!(json["svids"][0]["hint"], "external");
    assert!(json["federated_bundles"]["spiffe://other.org"].is_string());
    assert!(outcome.stdout.starts_with("{\"crl\":[],\"federated_bundles\":"), "{}", outcome.stdout);
}

#[test]
fn an_svid_that_its_bundle_does_not_vouch_for_is_refused() {
    // Another CA of the same name.
    let foreign = make_identity().bundle;
    let response = x509_response(&foreign);
    let fake = Fake::start(move |_, _| one(&response));
    let outcome = run(&format!("spire-agent api fetch -socketPath {}", fake.socket().display()), "", &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    assert!(
        outcome.stderr.starts_with("\"spiffe://example.org/foo\" SVID failed verification against bundle: "),
        "{}",
        outcome.stderr
    );
}

#[test]
fn errors_of_the_workload_api_are_printed_in_the_words_of_spire() {
    let fake = Fake::start(|path, _| match path.rsplit('/').next() {
        Some("ValidateJWTSVID") => Err(Status::invalid_argument("token expired")),
        Some("FetchX509SVID") => {
            std::thread::sleep(Duration::from_millis(300));
            Err(Status::permission_denied("no identity issued"))
        }
        _ => Err(Status::permission_denied("no identity issued")),
    });
    let socket = fake.socket().display().to_string();
    for (command, expected) in [
        ("api fetch", "rpc error: code = PermissionDenied desc = no identity issued\n"),
        ("api fetch -timeout 50ms", "rpc error: code = DeadlineExceeded desc = context deadline exceeded\n"),
        ("api fetch jwt -audience a", "rpc error: code = PermissionDenied desc = no identity issued\n"),
        ("api validate jwt -audience a -svid b", "SVID is not valid: token expired\n"),
    ] {
        let outcome = run(&format!("spire-agent {command} -socketPath {socket}"), "", &[]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (1, expected), "{command}");
    }
}
