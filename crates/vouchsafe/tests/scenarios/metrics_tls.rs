//! The port that Prometheus asks, over TLS: an SVID or files, clients by SPIFFE ID or by authority.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use vouchsafe_identity::config::{Expect, ServerTrust, client_config, provider};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_identity::web::{WebRoots, web_client_config};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_testkit::free_port;
use vouchsafe_transport::fetch::{Bounds, Target, fetch};
use vouchsafe_types::bundle::format;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::api::{block_on, identity};
use crate::pki::{Authority, Leaf};
use crate::process::eventually;
use crate::world::{AgentSettings, Server, ServerSettings, World};

/// The metrics, for a client with `config`.
fn ask(host: &str, port: u16, config: &ClientConfig) -> Option<String> {
    let target = Target::https(&format!("https://{host}:{port}/"), config).unwrap();
    let bounds = Bounds { deadline: Duration::from_secs(10), body: 1 << 20 };
    let answer = block_on(fetch(&target, bounds)).ok()?;
    assert_eq!(answer.status, 200);
    Some(String::from_utf8(answer.body.to_vec()).unwrap())
}

/// A client that talks with `expect` of the trust domain of `server` only.
fn spiffe_client(server: &Server, expect: Expect, own: Option<&SvidCell>) -> ClientConfig {
    let trust_domain = TrustDomain::parse(server.trust_domain).unwrap();
    let bundle = format::from_pem(&trust_domain, &server.bundle_pem()).unwrap();
    let trust = ServerTrust::Verified(RootsCell::new(TrustRoots::of([&bundle])), expect);
    client_config(trust, own, Clock::system()).unwrap()
}

/// What a client with `leaf` presents.
fn certified(leaf: &Leaf) -> SingleCertAndKey {
    let chain = CertificateDer::pem_file_iter(&leaf.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&leaf.key).unwrap();
    CertifiedKey::from_der(chain, key, provider()).unwrap().into()
}

fn telemetry(port: u16, tls: &str) -> String {
    format!("}}\ntelemetry {{ Prometheus {{ host = \"127.0.0.1\" port = {port} tls {{ {tls} }} }} }}\n")
}

#[test]
fn metrics_over_tls_are_for_those_who_may_ask_for_them() {
    let world = World::new();
    let (server_port, agent_port, files_port) = (free_port(), free_port(), free_port());
    let by_id = "use_spire_svid = true\n authorized_spiffe_ids = [\"spiffe://domain.test/prometheus\"]";
    let settings = ServerSettings {
        plugins: format!("{}plugins {{", telemetry(server_port, by_id)),
        ..ServerSettings::default()
    };
    let server = world.server("s", &settings);
    let settings = AgentSettings {
        agent: format!("{}agent {{", telemetry(agent_port, by_id)),
        ..AgentSettings::default()
    };
    let agent = world.agent("a", &server, &settings);
    server.entry_for_this_user("prometheus", &[]);
    server.entry_for_this_user("other", &[]);
    let (allowed, other) = (identity(&agent, "prometheus"), identity(&agent, "other"));

    let trust_domain = TrustDomain::parse(server.trust_domain).unwrap();
    let of_server = || Expect::Id(SpiffeId::server(&trust_domain));
    let of_agent = || Expect::MemberOf(trust_domain.clone());
    for (port, name, expect) in [
        (server_port, "spire_server_started", &of_server as &dyn Fn() -> Expect),
        (agent_port, "spire_agent_started", &of_agent),
    ] {
        let text =
            eventually(name, || ask("127.0.0.1", port, &spiffe_client(&server, expect(), Some(&allowed))));
        assert!(text.contains(name), "{text}");
        assert_eq!(ask("127.0.0.1", port, &spiffe_client(&server, expect(), Some(&other))), None);
        assert_eq!(ask("127.0.0.1", port, &spiffe_client(&server, expect(), None)), None);
    }

    // Files, for clients whom an authority vouches for.
    let ca = Authority::root(world.path(), "ca", None);
    let (web, scraper) = (ca.web_server(world.path(), "web"), ca.machine(world.path(), "scraper"));
    let by_authority = format!(
        "cert_file = {:?}\n key_file = {:?}\n client_ca_file = {:?}",
        web.certificate.display(),
        web.key.display(),
        ca.certificate.display(),
    );
    let settings = ServerSettings {
        plugins: format!("{}plugins {{", telemetry(files_port, &by_authority)),
        ..ServerSettings::default()
    };
    let _server = world.server("f", &settings);
    let roots = WebRoots::Pem(std::fs::read(&ca.certificate).unwrap().into());
    let anonymous = web_client_config(&roots, Clock::system()).unwrap();
    let mut known = anonymous.clone();
    known.client_auth_cert_resolver = Arc::new(certified(&scraper));
    let text = eventually("metrics", || ask("localhost", files_port, &known));
    assert!(text.contains("spire_server_started"), "{text}");
    assert_eq!(ask("localhost", files_port, &anonymous), None);
}
