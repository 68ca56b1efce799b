use std::sync::Arc;

use vouchsafe_types::bundle::{JwtAuthority, X509Authority};
use vouchsafe_types::trust_domain::TrustDomain;

use super::*;
use crate::key::{KeyType, PrivateKey};
use crate::signer::Signer;
use crate::x509::{CaTemplate, Subject, self_signed_ca};

async fn root() -> X509Authority {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let (trust_domain, subject) = (trust_domain(), Subject::ca_default());
    let template = CaTemplate {
        trust_domain: &trust_domain,
        subject: &subject,
        now: 1_900_000_000,
        not_after: 1_900_086_400,
    };
    X509Authority { der: self_signed_ca(&key, &template).await.unwrap().into(), tainted: false }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn jwt(key_id: &str) -> JwtAuthority {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    JwtAuthority {
        key_id: key_id.into(),
        public_key_der: Arc::from(key.public_key_der()),
        expires_at: 0,
        tainted: false,
    }
}

fn tainted(root: &X509Authority) -> X509Authority {
    X509Authority { tainted: true, ..root.clone() }
}

async fn bundle(x509: &[&X509Authority], jwt: &[&str]) -> Bundle {
    let mut bundle = Bundle::new(trust_domain());
    bundle.append(x509.iter().map(|&root| root.clone()), jwt.iter().map(|key_id| self::jwt(key_id)));
    bundle
}

#[tokio::test]
async fn an_authority_is_tainted_once_and_revoked_only_then_with_the_texts_of_the_reference() {
    let (old, new) = (root().await, root().await);
    let mut bundle = bundle(&[&old, &new], &["old", "new"]).await;
    let x509 = authority_id(&old).unwrap();
    for (kind, id, unknown, again, untainted, gone) in [
        (
            AuthorityKind::X509,
            x509.as_str(),
            "no ca found with provided subject key ID",
            "root CA is already tainted",
            "it is not possible to revoke an untainted root CA",
            "no root CA found with provided subject key ID",
        ),
        (
            AuthorityKind::Jwt,
            "old",
            "no JWT Key found with provided key ID",
            "key is already tainted",
            "it is not possible to revoke an untainted key",
            "no JWT Key found with provided key ID",
        ),
    ] {
        let text = |done: Result<(), TrustError>| done.unwrap_err().to_string();
        assert_eq!(text(taint(&mut bundle, kind, "other")), unknown);
        assert_eq!(text(taint(&mut bundle, kind, "")), unknown);
        assert_eq!(text(revoke(&mut bundle, kind, id)), untainted);
        taint(&mut bundle, kind, id).unwrap();
        assert_eq!(text(taint(&mut bundle, kind, id)), again);
        revoke(&mut bundle, kind, id).unwrap();
        assert_eq!(text(revoke(&mut bundle, kind, id)), gone);
    }
    assert_eq!(bundle.x509_authorities, [new]);
    assert_eq!(bundle.jwt_authorities.iter().map(|held| held.key_id.as_str()).collect::<Vec<_>>(), ["new"]);
}

#[tokio::test]
async fn a_taint_above_is_due_here_until_it_is_noted_and_then_never_again() {
    let (old, new) = (root().await, root().await);
    let held = bundle(&[&old, &new], &[]).await;
    let mut above = held.clone();
    assert_eq!(newly_tainted(&held, &above), Vec::<String>::new());
    above.x509_authorities[0].tainted = true;
    let due = newly_tainted(&held, &above);
    assert_eq!(due, [authority_id(&old).unwrap()]);
    let mut noted = held;
    taint(&mut noted, AuthorityKind::X509, &due[0]).unwrap();
    assert_eq!(newly_tainted(&noted, &above), Vec::<String>::new());
}

#[tokio::test]
async fn following_adds_and_revokes_but_never_drops_or_taints_what_still_certifies() {
    let (revoked, kept, new) = (root().await, root().await, root().await);
    let mut held = bundle(&[&tainted(&revoked), &kept], &["kept", "old"]).await;
    taint(&mut held, AuthorityKind::Jwt, "old").unwrap();
    let mut above = bundle(&[&tainted(&kept), &new], &["new"]).await;
    above.append([], [held.jwt_authorities[0].clone()]);
    above.jwt_authorities.iter_mut().filter(|key| key.key_id == "kept").for_each(|key| key.tainted = true);
    follow(&mut held, &above);
    assert_eq!(held.x509_authorities, [kept, new]);
    let keys: Vec<_> = held.jwt_authorities.iter().map(|key| (key.key_id.as_str(), key.tainted)).collect();
    assert_eq!(keys, [("kept", true), ("new", false)]);
    let once = held.clone();
    follow(&mut held, &above);
    assert_eq!(held, once, "a second time changes nothing");
    follow(&mut held, &bundle(&[], &[]).await);
    assert_eq!(held.x509_authorities, once.x509_authorities, "untainted roots stay until they expire");
}
