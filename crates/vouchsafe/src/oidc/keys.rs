//! The JWK set, written as SPIRE's provider writes it.

use std::time::SystemTime;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};
use vouchsafe_types::jwk::{Curve, KeyError, PublicKey};

/// A key that signs JWT-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) public: PublicKey,
}

/// What a source answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) keys: Vec<Key>,
    /// Key ids of what could not be read, and why.
    pub(crate) malformed: Vec<(String, KeyError)>,
}

impl Fetched {
    /// Takes a key as SPKI DER, or notes that it cannot be read.
    pub(crate) fn take(&mut self, id: &str, spki: &[u8]) {
        match PublicKey::from_spki(spki) {
            Ok(public) => self.keys.push(Key { id: id.to_owned(), public }),
            Err(error) => self.malformed.push((id.to_owned(), error)),
        }
    }
}

/// The keys that are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The JWK set. `None`: the source has no keys, because it issues no JWT-SVIDs.
    pub(crate) document: Option<Bytes>,
    /// When they changed.
    pub(crate) modified: SystemTime,
}

impl Held {
    /// `set_use`: whether each key says that it is for signatures.
    pub(crate) fn new(keys: &[Key], set_use: bool, modified: SystemTime) -> Self {
        let set = || json!({ "keys": keys.iter().map(|key| jwk(key, set_use)).collect::<Vec<_>>() });
        Self { document: (!keys.is_empty()).then(|| go_indented(&set())), modified }
    }
}

/// The algorithm of signatures that a key makes; `None` for one that signs no JWT-SVID.
pub(crate) fn algorithm(key: &PublicKey) -> Option<&'static str> {
    match key {
        PublicKey::Rsa { .. } => Some("RS256"),
        PublicKey::Ec { curve: Curve::P256, .. } => Some("ES256"),
        PublicKey::Ec { curve: Curve::P384, .. } => Some("ES384"),
        PublicKey::Ec { curve: Curve::P521, .. } | PublicKey::Ed25519 { .. } => None,
    }
}

fn jwk(key: &Key, set_use: bool) -> Value {
    // The members stand in the order in which they are put in.
    let mut jwk = Map::new();
    let mut put = |name: &str, value: &str| drop(jwk.insert(name.to_owned(), value.into()));
    if set_use {
        put("use", "sig");
    }
    put("kty", key.public.kty());
    if !key.id.is_empty() {
        put("kid", &key.id);
    }
    let mut parameters = key.public.jwk_parameters().into_iter().peekable();
    if let Some((name, curve)) = parameters.next_if(|(name, _)| *name == "crv") {
        put(name, &curve);
    }
    if let Some(algorithm) = algorithm(&key.public) {
        put("alg", algorithm);
    }
    for (name, value) in parameters {
        put(name, &value);
    }
    Value::Object(jwk)
}

/// JSON as Go's `json.MarshalIndent` writes it with two spaces.
pub(super) fn go_indented(value: &impl Serialize) -> Bytes {
    // Writing texts to memory cannot fail. These characters stand in texts only.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    for (character, escaped) in [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ] {
        if text.contains(character) {
            text = text.replace(character, escaped);
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(id: &str, public: PublicKey, set_use: bool) -> String {
        let held = Held::new(&[Key { id: id.to_owned(), public }], set_use, SystemTime::UNIX_EPOCH);
        String::from_utf8(held.document.unwrap().to_vec()).unwrap()
    }

    #[test]
    fn the_key_set_is_that_of_spires_program() {
        // As oidc-discovery-provider 1.15.3 writes them.
        let ec = PublicKey::Ec { curve: Curve::P256, x: vec![1; 32], y: vec![2; 32] };
        let expected = r#"{
  "keys": [
    {
      "kty": "EC",
      "kid": "a\"\u003c\u0026\u003e\u2028é",
      "crv": "P-256",
      "alg": "ES256",
      "x": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE",
      "y": "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI"
    }
  ]
}"#;
        assert_eq!(written("a\"<&>\u{2028}é", ec, false), expected);
        let expected = r#"{
  "keys": [
    {
      "use": "sig",
      "kty": "RSA",
      "kid": "rsa",
      "alg": "RS256",
      "n": "Aw",
      "e": "AQAB"
    }
  ]
}"#;
        assert_eq!(written("rsa", PublicKey::Rsa { n: vec![3], e: vec![1, 0, 1] }, true), expected);
        let p521 = PublicKey::Ec { curve: Curve::P521, x: vec![1; 66], y: vec![2; 66] };
        assert!(!written("k521", p521, false).contains("alg"));
    }

    #[test]
    fn a_key_that_cannot_be_read_leaves_the_others() {
        let mut fetched = Fetched::default();
        fetched.take("bad", b"garbage");
        fetched.take("good", &PublicKey::Ec { curve: Curve::P384, x: vec![1; 48], y: vec![2; 48] }.to_spki());
        assert_eq!((fetched.keys.len(), fetched.malformed.len()), (1, 1));
        assert_eq!((fetched.keys[0].id.as_str(), fetched.malformed[0].0.as_str()), ("good", "bad"));
    }
}
