//! Columns whose Rust type is narrower than SQLite's: parsed again when read, so that a damaged row is an error
//! and never a wrong identity.

use std::error::Error as StdError;
use std::str::FromStr;

use rusqlite::Row;
use rusqlite::types::Type;
use vouchsafe_types::selector::SelectorSet;

use super::fail::Fail;

/// Reads the columns of one row from left to right.
pub(super) struct Columns<'r, 's> {
    row: &'r Row<'s>,
    next: usize,
}

impl<'r, 's> Columns<'r, 's> {
    /// From the first column.
    pub(super) fn of(row: &'r Row<'s>) -> Self {
        Self { row, next: 0 }
    }

    /// The next column as it is.
    pub(super) fn value<T: rusqlite::types::FromSql>(&mut self) -> rusqlite::Result<T> {
        let place = self.advance();
        self.row.get(place)
    }

    /// The next column, a text that parses.
    pub(super) fn parsed<T>(&mut self) -> rusqlite::Result<T>
    where
        T: FromStr,
        T::Err: StdError + Send + Sync + 'static,
    {
        let place = self.advance();
        parse(place, self.row.get_ref(place)?.as_str()?)
    }

    /// The next column, a set of selectors.
    pub(super) fn selectors(&mut self) -> rusqlite::Result<SelectorSet> {
        let place = self.advance();
        let texts = json(place, self.row.get_ref(place)?.as_str()?)?;
        texts.iter().map(|text| parse(place, text)).collect()
    }

    /// The next column, a list of texts that parse.
    pub(super) fn list<T>(&mut self) -> rusqlite::Result<Vec<T>>
    where
        T: FromStr,
        T::Err: StdError + Send + Sync + 'static,
    {
        let place = self.advance();
        let texts = json(place, self.row.get_ref(place)?.as_str()?)?;
        texts.iter().map(|text| parse(place, text)).collect()
    }

    fn advance(&mut self) -> usize {
        let place = self.next;
        self.next += 1;
        place
    }
}

fn parse<T>(place: usize, text: &str) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: StdError + Send + Sync + 'static,
{
    text.parse().map_err(|error: T::Err| conversion(place, error))
}

fn json(place: usize, text: &str) -> rusqlite::Result<Vec<String>> {
    serde_json::from_str(text).map_err(|error| conversion(place, error))
}

fn conversion(place: usize, error: impl StdError + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(place, Type::Text, Box::new(error))
}

/// The selectors as a JSON array. Equal sets give equal texts, because a set is in order.
pub(super) fn selectors(set: &SelectorSet) -> Result<String, Fail> {
    list(set.iter().map(|selector| selector.as_str()))
}

/// The texts as a JSON array.
pub(super) fn list<'a>(texts: impl Iterator<Item = &'a str>) -> Result<String, Fail> {
    serde_json::to_string(&texts.collect::<Vec<_>>()).map_err(|error| Fail::Bug(error.to_string()))
}

/// A row count for `LIMIT`.
pub(super) fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
