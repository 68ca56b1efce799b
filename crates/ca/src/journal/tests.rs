use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

use super::*;
use crate::authority::rotation::{EffectError, Effects, RotateError, rotate};
use crate::authority::{
    Recipe, Slots, Step, create_jwt_key, create_x509_ca, jwt_bundle_entry, x509_bundle_entry,
};
use crate::key::KeyType;
use crate::key_manager::{Disk, Memory};
use crate::x509::Subject;

const START: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn at(unix: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix.unsigned_abs())
}

/// A server in small: a bundle, a journal, and a log of what happened in which order.
struct Server<'a> {
    keys: &'a dyn KeyManager,
    recipe: Recipe,
    now: Mutex<i64>,
    bundle: Mutex<Bundle>,
    journal: Mutex<Journal>,
    log: Mutex<Vec<String>>,
    publishing_fails: Mutex<bool>,
}

impl<'a> Server<'a> {
    fn new(keys: &'a dyn KeyManager) -> Self {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        Self {
            keys,
            recipe: Recipe {
                trust_domain: trust_domain.clone(),
                key_type: KeyType::EcP256,
                ttl: Duration::from_secs(DAY.unsigned_abs()),
            },
            now: Mutex::new(START),
            bundle: Mutex::new(Bundle::new(trust_domain)),
            journal: Mutex::default(),
            log: Mutex::default(),
            publishing_fails: Mutex::new(false),
        }
    }

    fn note(&self, what: &str) {
        self.log.lock().unwrap().push(what.to_owned());
    }

    async fn tick<A: Authority>(&self, slots: &mut Slots<A>, now: i64) -> Result<Vec<Step>, RotateError>
    where
        Self: Effects<A>,
    {
        *self.now.lock().unwrap() = now;
        rotate(slots, at(now), self).await
    }

    async fn load(&self, now: i64) -> (Slots<X509Ca>, Slots<JwtKey>) {
        let bytes = self.journal.lock().unwrap().encode();
        let own = own_authority_ids(self.keys).await.unwrap();
        let journal = find([&b"\xff broken"[..], &bytes], &own).unwrap_or_default();
        let bundle = self.bundle.lock().unwrap().clone();
        let trust_domain = &self.recipe.trust_domain;
        let x509 =
            load_x509(&journal, self.keys, trust_domain, (Some(&bundle), false), at(now)).await.unwrap();
        let jwt = load_jwt(&journal, self.keys, trust_domain, Some(&bundle), at(now)).await.unwrap();
        (x509, jwt)
    }

    fn published(&self) -> Result<(), EffectError> {
        self.note("publish");
        if *self.publishing_fails.lock().unwrap() { Err("database is away".into()) } else { Ok(()) }
    }

    fn recorded<A: Authority>(&self, change: &Change<'_, A>) {
        self.note("record");
        self.journal.lock().unwrap().record(change);
    }
}

#[async_trait]
impl Effects<X509Ca> for Server<'_> {
    async fn create(&self, slot: SlotId) -> Result<X509Ca, EffectError> {
        self.note("create");
        let now = at(*self.now.lock().unwrap());
        Ok(create_x509_ca(self.keys, slot, &self.recipe, &Subject::ca_default(), now).await?)
    }

    async fn publish(&self, authority: &X509Ca) -> Result<(), EffectError> {
        self.published()?;
        self.bundle.lock().unwrap().append(x509_bundle_entry(authority), []);
        Ok(())
    }

    async fn record(&self, change: Change<'_, X509Ca>) -> Result<(), EffectError> {
        self.recorded(&change);
        Ok(())
    }

    fn activated(&self, _: &Arc<X509Ca>) {
        self.note("activated");
    }
}

#[async_trait]
impl Effects<JwtKey> for Server<'_> {
    async fn create(&self, slot: SlotId) -> Result<JwtKey, EffectError> {
        self.note("create");
        let now = at(*self.now.lock().unwrap());
        Ok(create_jwt_key(self.keys, slot, &self.recipe, now).await?)
    }

    async fn publish(&self, authority: &JwtKey) -> Result<(), EffectError> {
        self.published()?;
        self.bundle.lock().unwrap().append([], [jwt_bundle_entry(authority)]);
        Ok(())
    }

    async fn record(&self, change: Change<'_, JwtKey>) -> Result<(), EffectError> {
        self.recorded(&change);
        Ok(())
    }

    fn activated(&self, _: &Arc<JwtKey>) {
        self.note("activated");
    }
}

#[tokio::test]
async fn authorities_survive_a_restart_with_their_keys() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::open(directory.path().join("keys.json")).unwrap();
    let server = Server::new(&disk);
    let (mut x509, mut jwt) = (Slots::<X509Ca>::new(), Slots::<JwtKey>::new());
    for now in [START, START + DAY * 2 / 3] {
        server.tick(&mut x509, now).await.unwrap();
        server.tick(&mut jwt, now).await.unwrap();
    }
    let now = START + DAY * 2 / 3;
    let (x509_again, jwt_again) = server.load(now).await;
    assert_eq!(x509_again.overview(), x509.overview());
    assert_eq!(jwt_again.overview(), jwt.overview());
    assert!(x509.overview().prepared.is_some() && jwt.overview().prepared.is_some());
    server.tick(&mut x509, START + DAY - 1).await.unwrap();
    let (rotated, _) = server.load(START + DAY - 1).await;
    assert_eq!(rotated.overview(), x509.overview());
    assert_eq!(server.bundle.lock().unwrap().x509_authorities.len(), 2);
}

#[tokio::test]
async fn an_authority_signs_only_after_it_was_published() {
    let memory = Memory::new();
    let server = Server::new(&memory);
    let mut slots = Slots::<X509Ca>::new();
    server.tick(&mut slots, START).await.unwrap();
    assert_eq!(*server.log.lock().unwrap(), ["create", "publish", "record", "activated", "record"]);
}

#[tokio::test]
async fn when_publishing_fails_the_active_authority_stays_and_the_next_tick_tries_again() {
    let memory = Memory::new();
    let server = Server::new(&memory);
    let mut slots = Slots::<JwtKey>::new();
    server.tick(&mut slots, START).await.unwrap();
    let before = slots.overview();
    *server.publishing_fails.lock().unwrap() = true;
    let later = START + DAY * 2 / 3;
    let error = server.tick(&mut slots, later).await.unwrap_err();
    assert!(matches!(error, RotateError::Publish(_)));
    assert_eq!(slots.overview(), before);
    *server.publishing_fails.lock().unwrap() = false;
    assert_eq!(server.tick(&mut slots, later).await.unwrap(), [Step::Prepare(SlotId::B)]);
}

#[tokio::test]
async fn what_the_bundle_lost_or_tainted_is_not_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::open(directory.path().join("keys.json")).unwrap();
    let server = Server::new(&disk);
    let (mut x509, mut jwt) = (Slots::<X509Ca>::new(), Slots::<JwtKey>::new());
    server.tick(&mut x509, START).await.unwrap();
    server.tick(&mut jwt, START).await.unwrap();
    server.bundle.lock().unwrap().x509_authorities[0].tainted = true;
    server.bundle.lock().unwrap().jwt_authorities.clear();
    let (x509, jwt) = server.load(START).await;
    assert!(x509.active().is_none() && x509.overview().old.unwrap().tainted);
    assert_eq!(jwt.overview(), Default::default());
}

#[tokio::test]
async fn with_keys_lost_the_journal_is_not_ours() {
    let first = Memory::new();
    let server = Server::new(&first);
    let mut slots = Slots::<X509Ca>::new();
    server.tick(&mut slots, START).await.unwrap();
    let journal = server.journal.lock().unwrap().clone();
    assert_eq!(journal.active_x509_authority_id(), Some(slots.active().unwrap().authority_id()));
    assert!(journal.belongs_to(&own_authority_ids(&first).await.unwrap()));
    let second = Memory::new();
    assert!(!journal.belongs_to(&own_authority_ids(&second).await.unwrap()));
}

#[tokio::test]
async fn a_journal_stays_small_and_keeps_the_newest() {
    let memory = Memory::new();
    let server = Server::new(&memory);
    let mut slots = Slots::<JwtKey>::new();
    for day in 0..30 {
        server.tick(&mut slots, START + day * 2 * DAY).await.unwrap();
    }
    let bytes = server.journal.lock().unwrap().encode();
    let journal = Journal::decode(&bytes).unwrap();
    assert_eq!(journal.jwt.len(), MAX_ENTRIES);
    assert_eq!(journal.jwt.back().unwrap().kid, slots.active().unwrap().kid());
    let active = journal.jwt.iter().filter(|entry| entry.status() == WireStatus::Active).count();
    assert_eq!(active, 1);
}

#[test]
fn a_damaged_journal_is_refused() {
    assert!(matches!(Journal::decode(&[0x0a, 5, 1]), Err(JournalError::Malformed(_))));
    assert!(matches!(Journal::decode(&vec![0; MAX_BYTES + 1]), Err(JournalError::TooLarge(_))));
    assert_eq!(Journal::decode(&[]).unwrap(), Journal::new());
}

#[test]
fn the_bytes_are_those_of_the_reference() {
    // Entries{jwtKeys: [{slot_id: "B", issued_at: 1, not_after: 2, kid: "k", public_key: 0xff, status: OLD,
    // authority_id: "k"}]} as protoc encodes it.
    let bytes = b"\x12\x12\x0a\x01B\x10\x01\x18\x02\x22\x01k\x2a\x01\xff\x30\x04\x3a\x01k";
    let journal = Journal::decode(bytes).unwrap();
    assert_eq!((journal.jwt[0].status(), journal.jwt[0].slot_id.as_str()), (WireStatus::Old, "B"));
    assert_eq!(journal.encode(), bytes);
}
