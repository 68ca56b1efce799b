//! Values for tests, in the trust domain `example.org`. They panic on texts that do not parse.
#![expect(clippy::expect_used, reason = "a sample that does not parse is a mistake in the test")]

use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::{JwtAuthority, X509Authority};
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::federation::{EndpointProfile, EndpointUrl, FederationRelationship};
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

/// `example.org`, or another trust domain.
#[must_use]
pub fn trust_domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).expect("a trust domain")
}

/// `spiffe://example.org<path>`.
#[must_use]
pub fn spiffe_id(path: &str) -> SpiffeId {
    SpiffeId::new(&trust_domain("example.org"), path).expect("a path")
}

/// An entry id.
#[must_use]
pub fn entry_id(text: &str) -> EntryId {
    EntryId::parse(text).expect("an entry id")
}

/// A set of selectors from `kind:value` texts.
#[must_use]
pub fn selectors(texts: &[&str]) -> SelectorSet {
    texts.iter().map(|text| Selector::parse(text).expect("a selector")).collect()
}

/// A plain entry `id` for `/workload/<id>` under `/host`, with the selector `unix:user:<id>`.
#[must_use]
pub fn entry(id: &str) -> Entry {
    let selectors = selectors(&[&format!("unix:user:{id}")]);
    Entry::new(entry_id(id), spiffe_id(&format!("/workload/{id}")), spiffe_id("/host"), selectors)
}

/// An entry `id` with every field set, and texts that a careless engine trips over.
#[must_use]
pub fn full_entry(id: &str) -> Entry {
    Entry {
        selectors: selectors(&[
            "unix:uid:1000",
            "docker:label:a:b",
            "k8s:pod-label:x:'; DROP TABLE entries; --",
        ]),
        x509_svid_ttl: 3600,
        jwt_svid_ttl: u32::MAX,
        federates_with: vec![trust_domain("b.example"), trust_domain("a.example")],
        admin: true,
        downstream: true,
        store_svid: true,
        expires_at: 4_102_444_800,
        dns_names: vec!["second.example.org".to_owned(), "first.example.org".to_owned()],
        hint: "ünï \"quoted\" \\ \u{1f600}\n%_?".to_owned(),
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: true,
        ..entry(id)
    }
}

/// An agent that attested by join token `token`, with serial numbers beyond 64 bits.
#[must_use]
pub fn agent(token: &str) -> Agent {
    Agent {
        id: spiffe_id(&format!("/spire/agent/join_token/{token}")),
        attestation_type: "join_token".to_owned(),
        serial_number: "340282366920938463463374607431768211455".to_owned(),
        expires_at: 2_000_000_000,
        new_serial_number: "18446744073709551616".to_owned(),
        new_expires_at: 2_000_003_600,
        can_reattest: false,
        selectors: selectors(&["node:zone:a", "node:name:n1"]),
        agent_version: "1.15.0".to_owned(),
    }
}

/// The entry that gives the agent of join token `token` the identity `/host`.
#[must_use]
pub fn alias_entry(id: &str, token: &str) -> Entry {
    let agent = agent(token).id;
    Entry {
        spiffe_id: spiffe_id("/host"),
        selectors: selectors(&[&format!("spiffe_id:{agent}")]),
        parent_id: agent,
        ..entry(id)
    }
}

/// A federation relationship with `name`, whose endpoint is its own server.
#[must_use]
pub fn relationship(name: &str) -> FederationRelationship {
    let trust_domain = trust_domain(name);
    FederationRelationship {
        bundle_endpoint_url: EndpointUrl::parse(&format!("https://{name}:8443/")).expect("a URL"),
        bundle_endpoint_profile: EndpointProfile::HttpsSpiffe {
            endpoint_spiffe_id: SpiffeId::server(&trust_domain),
        },
        trust_domain,
    }
}

/// A join token.
#[must_use]
pub fn join_token(value: &str, expires_at: i64) -> JoinToken {
    JoinToken { value: value.into(), expires_at }
}

/// An X.509 authority with `content` in place of a certificate; stores do not look inside.
#[must_use]
pub fn x509_authority(content: &[u8], tainted: bool) -> X509Authority {
    X509Authority { der: content.into(), tainted }
}

/// A JWT authority with `key_id` also in place of a key; stores do not look inside.
#[must_use]
pub fn jwt_authority(key_id: &str, tainted: bool) -> JwtAuthority {
    JwtAuthority {
        key_id: key_id.into(),
        public_key_der: key_id.as_bytes().into(),
        expires_at: 2_000_000_000,
        tainted,
    }
}
