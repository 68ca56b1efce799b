//! JSON that is mostly just kept.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

/// JSON as text: a fraction of what the parsed value takes, and compared by its bytes.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Compact(Box<str>);

impl Compact {
    /// The value.
    #[must_use]
    pub fn parsed(&self) -> Json {
        // It was a value before; the default is empty.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl From<&Json> for Compact {
    fn from(value: &Json) -> Self {
        Self(value.to_string().into_boxed_str())
    }
}

impl<'de> Deserialize<'de> for Compact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Json::deserialize(deserializer).map(|value| Self::from(&value))
    }
}

impl Serialize for Compact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.parsed().serialize(serializer)
    }
}

impl fmt::Debug for Compact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compact({} bytes)", self.0.len())
    }
}
