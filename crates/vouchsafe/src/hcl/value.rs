//! What a configuration text says.

use super::Position;

/// The items of an object, in the order of the text. A key may appear more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The items.
    pub items: Vec<Item>,
}

/// One key with its value. An item with several keys is held as nested objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key, without quotes.
    pub key: String,
    /// Where the key stands.
    pub position: Position,
    /// The value.
    pub value: Value,
}

/// A value and where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Where the value starts.
    pub position: Position,
    /// The value itself.
    pub kind: Kind,
}

/// The kinds of values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string or here-document.
    String(String),
    /// A number as written.
    Number(String),
    /// `true` or `false`.
    Bool(bool),
    /// A list.
    List(Vec<Value>),
    /// An object.
    Object(Body),
}

impl Kind {
    /// What the value is called in messages.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Number(_) => "a number",
            Self::Bool(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}
