//! The agent's state: one entry for this user, with a real SVID, a real bundle and a token of the usual size.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use vouchsafe_agent::attest::Attestors;
use vouchsafe_agent::attest::unix::{UnixAttestor, UnixAttestorConfig};
use vouchsafe_agent::bundles::Bundles;
use vouchsafe_agent::entries::{EntryIndex, WorkloadEntry};
use vouchsafe_agent::identities::{HeldSvid, Identities, secret_bytes};
use vouchsafe_agent::identity_set::IdentitySets;
use vouchsafe_agent::jwt_cache::{CachedToken, JwtCache, Token};
use vouchsafe_agent::jwt_issue::JwtIssuer;
use vouchsafe_agent::metrics::Metrics;
use vouchsafe_agent::rotation::Lifetime;
use vouchsafe_agent::server_client::ServerClient;
use vouchsafe_agent::status::{Phase, StatusBoard};
use vouchsafe_agent::sync_loop::SyncSoon;
use vouchsafe_agent::workload_api::request::{Api, Connections};
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::signer::Signer;
use vouchsafe_ca::x509::{CaTemplate, Subject, SvidTemplate, X509Ca, issue_svid_now, self_signed_ca};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_types::bundle::{Bundle, X509Authority};
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::selector::Selector;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::load::AUDIENCE;

/// Characters of a usual ES256 token.
const TOKEN_LENGTH: usize = 500;
const TTL: Duration = Duration::from_secs(3600);

pub(crate) async fn api() -> Arc<Api> {
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let (clock, metrics) = (Clock::system(), Metrics::new(Registry::new("bench", &[])));
    let identities = Arc::new(Identities::default());
    let now = clock.unix_now();
    let lifetime = Lifetime::new(now, now + 3600, now, b"bench");
    let entry = entry();
    let (svid, bundle) = svid(&entry, &trust_domain, &clock, lifetime).await;
    identities.edit(|snapshot| {
        snapshot.index = Arc::new(EntryIndex::build([entry.clone()], &EntryIndex::default()));
        snapshot.svids = Arc::new([(entry.id.clone(), Arc::new(svid))].into());
        snapshot.bundles = Some(Arc::new(Bundles::of(bundle)));
        true
    });
    let client = ServerClient::new(
        ("localhost:1".to_owned(), trust_domain.clone()),
        (SvidCell::empty(), RootsCell::new(TrustRoots::new())),
        clock.clone(),
        Entropy::from_seed(1),
    );
    let cache = JwtCache::new(1000);
    let token = Token {
        text: "t".repeat(TOKEN_LENGTH).into(),
        spiffe_id: entry.spiffe_id.clone(),
        lifetime,
        key_id: "bench".to_owned(),
    };
    cache.slot(&entry.id, &[AUDIENCE.to_owned()], now).set(Arc::new(CachedToken::new(token, &entry)));
    let board = StatusBoard::default();
    board.set(|status| status.phase = Phase::Serving);
    Arc::new(Api {
        sets: IdentitySets::default(),
        attestors: Attestors::new(vec![Arc::new(UnixAttestor::new(UnixAttestorConfig::default()))], &metrics),
        soon: SyncSoon::new(TTL),
        jwt: JwtIssuer::new(cache, Arc::new(client), Arc::clone(&identities), clock.clone()),
        identities,
        clock,
        serving: board.serving(),
        trust_domain,
        allow_unauthenticated_verifiers: false,
        allowed_foreign_jwt_claims: HashSet::new(),
        log_selectors: Vec::new(),
        limits: Default::default(),
        refusals: Default::default(),
        connections: Connections::new(metrics.workload_api_connections()),
    })
}

async fn svid(
    entry: &WorkloadEntry,
    trust_domain: &TrustDomain,
    clock: &Clock,
    lifetime: Lifetime,
) -> (HeldSvid, Bundle) {
    let now = clock.unix_now();
    let ca_key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let subject = Subject::ca_default();
    let template = CaTemplate { trust_domain, subject: &subject, now, not_after: now + 86_400 };
    let ca_der = self_signed_ca(&ca_key, &template).await.unwrap();
    let mut bundle = Bundle::new(trust_domain.clone());
    bundle.x509_authorities.push(X509Authority::parse(ca_der.as_slice()).unwrap());
    let ca = X509Ca::new(trust_domain.clone(), ca_der.into(), Vec::new(), Arc::new(ca_key), now).unwrap();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let template = SvidTemplate {
        spiffe_id: &entry.spiffe_id,
        public_key_der: key.public_key_der(),
        dns_names: &[],
        ttl: TTL,
        now: clock.now(),
        subject: None,
    };
    let issued = issue_svid_now(&ca, &template).unwrap().unwrap();
    let svid = HeldSvid {
        spiffe_id: entry.spiffe_id.clone(),
        issued_for: (0, 0),
        chain: issued.chain.concat().into(),
        key: secret_bytes(key.pkcs8().unwrap()),
        lifetime,
        authority_key_id: None,
    };
    (svid, bundle)
}

fn entry() -> WorkloadEntry {
    WorkloadEntry {
        id: EntryId::parse("bench").unwrap(),
        spiffe_id: SpiffeId::parse("spiffe://example.org/bench").unwrap(),
        selectors: [Selector::parse(&format!("unix:uid:{}", nix::unistd::geteuid())).unwrap()]
            .into_iter()
            .collect(),
        federates_with: Box::default(),
        hint: Box::default(),
        revision_number: 0,
        created_at: 0,
        admin: false,
        downstream: false,
        store_svid: false,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}
