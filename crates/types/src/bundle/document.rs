//! The JSON shape of a JWK set, read without trust: bounded, and blind to what it does not know.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::jwk::{JwkParameters, PublicKey};

/// A JWK set with the members that SPIFFE adds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    /// Trust-Domain-and-Bundle §4.1.3: "The parameter `keys` MUST be present."
    pub(super) keys: Keys,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) spiffe_sequence: u64,
    /// Trust-Domain-and-Bundle §4.1.2: "When set, its value MUST be an integer".
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) spiffe_refresh_hint: u32,
}

/// One JWK, its members in the order in which SPIRE writes them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Jwk {
    #[serde(default, rename = "use", skip_serializing_if = "Text::is_none")]
    pub(super) usage: Text,
    #[serde(default, skip_serializing_if = "Text::is_none")]
    pub(super) kty: Text,
    #[serde(default, skip_serializing_if = "Text::is_none")]
    pub(super) kid: Text,
    #[serde(default, skip_serializing_if = "Text::is_none")]
    pub(super) crv: Text,
    #[serde(default, skip_serializing_if = "Text::is_none")]
    pub(super) x: Text,
    #[serde(default, skip_serializing_if = "Text::is_none")]
    pub(super) y: Text,
    #[serde(default, skip_serializing_if = "Text::is_none")]
    pub(super) n: Text,
    #[serde(default, skip_serializing_if = "Text::is_none")]
    pub(super) e: Text,
    #[serde(default, skip_serializing_if = "First::is_none")]
    pub(super) x5c: First,
}

impl Jwk {
    /// The JWK of a key, without a use, key id or certificate.
    pub(super) fn of(key: &PublicKey) -> Self {
        let mut jwk = Self { kty: Text::from(key.kty()), ..Self::default() };
        for (name, value) in key.jwk_parameters() {
            let place = match name {
                "crv" => &mut jwk.crv,
                "x" => &mut jwk.x,
                "y" => &mut jwk.y,
                "n" => &mut jwk.n,
                _ => &mut jwk.e,
            };
            *place = Text(Some(value));
        }
        jwk
    }

    pub(super) fn parameters(&self) -> JwkParameters<'_> {
        JwkParameters {
            kty: self.kty.as_deref(),
            crv: self.crv.as_deref(),
            x: self.x.as_deref(),
            y: self.y.as_deref(),
            n: self.n.as_deref(),
            e: self.e.as_deref(),
        }
    }
}

/// A text member. A value of another type counts as absent: the member may mean something else in a kind of key
/// that is not known here, and such a key must be ignored, not refused.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Text(Option<String>);

impl Text {
    pub(super) fn as_deref(&self) -> Option<&str> {
        self.0.as_deref()
    }

    fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Some(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(TextVisitor).map(Self)
    }
}

/// The first text of a list; the rest is skipped without being kept.
#[derive(Debug, Default)]
pub(super) struct First(pub(super) Option<String>);

impl First {
    fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for First {
    fn serialize<S: serde::Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.collect_seq(self.0.iter())
    }
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(FirstVisitor).map(Self)
    }
}

/// The JWKs of a set, at most [`MAX_KEYS`].
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Keys(pub(super) Vec<Jwk>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_seq(KeysVisitor).map(Self)
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Vec<Jwk>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "an array of at most {MAX_KEYS} JWKs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Jwk>, A::Error> {
        let mut keys = Vec::new();
        while let Some(key) = list.next_element()? {
            if keys.len() == MAX_KEYS {
                return Err(serde::de::Error::invalid_length(MAX_KEYS + 1, &self));
            }
            keys.push(key);
        }
        Ok(keys)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Option<String>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

struct FirstVisitor;

impl<'de> Visitor<'de> for FirstVisitor {
    type Value = Option<String>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an array of texts")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let first = list.next_element()?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
    }
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// Most JWKs in a document. More are refused, so that a small document cannot become a large value.
pub(super) const MAX_KEYS: usize = 4096;
