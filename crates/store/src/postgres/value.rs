//! Parameters of statements and columns of rows.
//!
//! Columns whose Rust type is narrower than the database's are parsed again when read, so that a damaged row is an error
//! and never a wrong identity.

use std::fmt::Display;
use std::str::FromStr;

use bytes::BytesMut;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use vouchsafe_types::selector::SelectorSet;

use super::fail::Fail;

/// A parameter. Statements say their types, so none needs to be prepared first.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Owned(String),
    Int(i64),
    Flag(bool),
    Bytes(&'a [u8]),
    Texts(&'a [&'a str]),
    Ints(&'a [i64]),
    /// Null, of whatever type the statement makes of it.
    Nothing,
}

impl Value<'_> {
    pub(crate) fn kind(&self) -> Type {
        match self {
            Self::Text(_) | Self::Owned(_) => Type::TEXT,
            Self::Int(_) => Type::INT8,
            Self::Flag(_) => Type::BOOL,
            Self::Bytes(_) => Type::BYTEA,
            Self::Texts(_) => Type::TEXT_ARRAY,
            Self::Ints(_) => Type::INT8_ARRAY,
            Self::Nothing => Type::UNKNOWN,
        }
    }
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Text(text) => text.to_sql(kind, out),
            Self::Owned(text) => text.to_sql(kind, out),
            Self::Int(number) => number.to_sql(kind, out),
            Self::Flag(flag) => flag.to_sql(kind, out),
            Self::Bytes(bytes) => bytes.to_sql(kind, out),
            Self::Texts(texts) => texts.to_sql(kind, out),
            Self::Ints(numbers) => numbers.to_sql(kind, out),
            Self::Nothing => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

macro_rules! values {
    ($($from:ty => $value:ident $(($wide:ty))?),* $(,)?) => {
        $(impl<'a> From<$from> for Value<'a> {
            fn from(value: $from) -> Self {
                Self::$value(value$(.to_owned() as $wide)?)
            }
        })*
    };
}

values! { &'a str => Text, String => Owned, i64 => Int, u32 => Int(i64), bool => Flag, &'a [u8] => Bytes,
&'a [&'a str] => Texts, &'a [i64] => Ints }

/// Reads the columns of one row from left to right.
pub(crate) struct Columns<'r> {
    row: &'r Row,
    table: &'static str,
    next: usize,
}

impl<'r> Columns<'r> {
    /// From the first column, which names the row, of `table`.
    pub(crate) fn of(row: &'r Row, table: &'static str) -> Self {
        Self { row, table, next: 0 }
    }

    /// The next column as it is.
    pub(crate) fn value<T: FromSql<'r>>(&mut self) -> Result<T, Fail> {
        let place = self.next;
        self.next += 1;
        self.row.try_get(place).map_err(|error| self.damaged(&error))
    }

    /// The next column, a number that is narrower here.
    pub(crate) fn narrow(&mut self) -> Result<u32, Fail> {
        let wide: i64 = self.value()?;
        u32::try_from(wide).map_err(|error| self.damaged(&error))
    }

    /// The next column, a text that parses.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&mut self) -> Result<T, Fail> {
        let text: &str = self.value()?;
        text.parse().map_err(|error: T::Err| self.damaged(&error))
    }

    /// The next column, a set of selectors.
    pub(crate) fn selectors(&mut self) -> Result<SelectorSet, Fail> {
        Ok(SelectorSet::from_iter(self.list()?))
    }

    /// The next column, a list of texts that parse.
    pub(crate) fn list<T: FromStr<Err: Display>>(&mut self) -> Result<Vec<T>, Fail> {
        let text: &str = self.value()?;
        let texts: Vec<String> = serde_json::from_str(text).map_err(|error| self.damaged(&error))?;
        texts.iter().map(|text| text.parse().map_err(|error: T::Err| self.damaged(&error))).collect()
    }

    fn damaged(&self, error: &dyn Display) -> Fail {
        // The name of a join token's row is the token.
        let key = match self.table {
            "join_tokens" => "",
            _ => self.row.try_get(0).unwrap_or_default(),
        };
        Fail::row(self.table, key, error)
    }
}

/// The selectors as a JSON array. Equal sets give equal texts, because a set is in order.
pub(crate) fn selectors(set: &SelectorSet) -> Result<String, Fail> {
    list(set.iter().map(|selector| selector.as_str()))
}

/// The texts as a JSON array.
pub(crate) fn list<'a>(texts: impl Iterator<Item = &'a str>) -> Result<String, Fail> {
    serde_json::to_string(&texts.collect::<Vec<_>>()).map_err(|error| Fail::Bug(error.to_string()))
}

/// A row count for `LIMIT`.
pub(crate) fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
