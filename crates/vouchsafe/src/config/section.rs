//! Reads the keys of one object, and knows which ones nobody asked for.

use std::cell::RefCell;
use std::time::Duration;

use super::problems::Problems;
use crate::go;
use crate::hcl::{Body, Item, Kind, Position, Value};

/// An object of the configuration. Its blocks of the same name are read as one, as in SPIRE. Keys match in any case.
pub(super) struct Section<'a> {
    /// The path in messages: `server.ca_subject`. Empty at the top.
    path: String,
    position: Position,
    items: Vec<&'a Item>,
    asked: RefCell<Vec<&'static str>>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    pub(super) fn top(body: &'a Body, problems: &'a Problems) -> Self {
        Self::new(String::new(), Position::START, body.items.iter().collect(), problems)
    }

    fn new(path: String, position: Position, items: Vec<&'a Item>, problems: &'a Problems) -> Self {
        Self { path, position, items, asked: RefCell::default(), problems }
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Whether the key is set to anything.
    pub(super) fn has(&self, key: &str) -> bool {
        self.items.iter().any(|item| item.key.eq_ignore_ascii_case(key))
    }

    /// Whether the key is set to an object.
    pub(super) fn is_object(&self, key: &str) -> bool {
        let mut found = self.items.iter().filter(|item| item.key.eq_ignore_ascii_case(key));
        found.any(|item| matches!(item.value.kind, Kind::Object(_)))
    }

    /// The name of a key in messages.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The one value of a key. Two are a problem: nobody can tell which was meant.
    fn value(&self, key: &'static str) -> Option<&'a Value> {
        let mut found = self.items_of(key).into_iter();
        let first = found.next()?;
        if let Some(second) = found.next() {
            let (name, line) = (self.name(key), first.position.line);
            self.problems
                .at(second.position, format!("{name} is already set on line {line}; keep one of the two"));
        }
        Some(&first.value)
    }

    fn items_of(&self, key: &'static str) -> Vec<&'a Item> {
        self.asked.borrow_mut().push(key);
        #[cfg(test)]
        self.problems.known(&self.path, key);
        self.items.iter().copied().filter(|item| item.key.eq_ignore_ascii_case(key)).collect()
    }

    fn wrong_kind(&self, key: &str, value: &Value, wanted: &str) {
        let name = self.name(key);
        self.problems.at(value.position, format!("{name} must be {wanted}, not {}", value.kind.noun()));
    }

    /// A text. A number is taken as its text, as SPIRE does. The empty text counts as absent.
    pub(super) fn text(&self, key: &'static str) -> Option<String> {
        let value = self.value(key)?;
        match &value.kind {
            Kind::String(text) | Kind::Number(text) => Some(text.clone()).filter(|text| !text.is_empty()),
            _ => {
                self.wrong_kind(key, value, "a string");
                None
            }
        }
    }

    /// A text that must mean something.
    pub(super) fn parsed<T, E: ToString>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(key, &error.to_string());
                None
            }
        }
    }

    pub(super) fn duration(&self, key: &'static str) -> Option<Duration> {
        self.parsed(key, go::parse_duration)
    }

    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let parsed = match &value.kind {
            Kind::Bool(flag) => Some(*flag),
            Kind::String(text) | Kind::Number(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        if parsed.is_none() {
            self.wrong_kind(key, value, "true or false");
        }
        parsed
    }

    /// A whole number from `min` to `max`, also one in quotes.
    pub(super) fn integer(&self, key: &'static str, min: i64, max: i64) -> Option<i64> {
        let value = self.value(key)?;
        let (Kind::Number(text) | Kind::String(text)) = &value.kind else {
            self.wrong_kind(key, value, "a number");
            return None;
        };
        if text.is_empty() {
            return None;
        }
        let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        match number {
            Ok(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                self.problem(
                    key,
                    &format!("must be a whole number from {min} to {max}, not {}", go::quote(text)),
                );
                None
            }
        }
    }

    pub(super) fn port(&self, key: &'static str) -> Option<u16> {
        self.integer(key, 0, i64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<(String, Position)>> {
        let value = self.value(key)?;
        let Kind::List(values) = &value.kind else {
            self.wrong_kind(key, value, "a list of strings");
            return None;
        };
        let mut texts = Vec::with_capacity(values.len());
        for value in values {
            match &value.kind {
                Kind::String(text) | Kind::Number(text) => texts.push((text.clone(), value.position)),
                _ => self.wrong_kind(key, value, "a list of strings"),
            }
        }
        Some(texts)
    }

    /// A list of texts without their places. Empty if it is absent.
    pub(super) fn strings(&self, key: &'static str) -> Vec<String> {
        self.texts(key).unwrap_or_default().into_iter().map(|(text, _)| text).collect()
    }

    /// Texts under keys of the user's choice.
    pub(super) fn string_map(&self, key: &'static str) -> std::collections::BTreeMap<String, String> {
        let Some(section) = self.section(key) else { return std::collections::BTreeMap::new() };
        let mut map = std::collections::BTreeMap::new();
        for item in &section.items {
            match &item.value.kind {
                Kind::String(text) | Kind::Number(text) => drop(map.insert(item.key.clone(), text.clone())),
                _ => section.wrong_kind(&item.key, &item.value, "a string"),
            }
        }
        map
    }

    /// An object, or several of the same name read as one.
    pub(super) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        let found = self.items_of(key);
        let position = found.first()?.position;
        let mut items = Vec::new();
        for item in found {
            self.flatten(key, &item.value, &mut items);
        }
        Some(Self::new(self.name(key), position, items, self.problems))
    }

    /// The items of an object; JSON may wrap it in a list.
    fn flatten(&self, key: &str, value: &'a Value, items: &mut Vec<&'a Item>) {
        match &value.kind {
            Kind::Object(body) => items.extend(&body.items),
            Kind::List(values) if values.iter().all(|value| matches!(value.kind, Kind::Object(_))) => {
                for value in values {
                    self.flatten(key, value, items);
                }
            }
            _ => self.wrong_kind(key, value, "an object"),
        }
    }

    /// The objects of a list, or of a key that is there more than once.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let mut found = Vec::new();
        for item in self.items_of(key) {
            let values = match &item.value.kind {
                Kind::List(values) => values.as_slice(),
                _ => std::slice::from_ref(&item.value),
            };
            for value in values {
                match &value.kind {
                    Kind::Object(body) => {
                        let items = body.items.iter().collect();
                        found.push(Self::new(self.name(key), value.position, items, self.problems));
                    }
                    _ => self.wrong_kind(key, value, "a list of objects"),
                }
            }
        }
        found
    }

    /// Objects under keys of the user's choice: `KeyManager "disk" { … }` gives `("disk", …)`.
    pub(super) fn named_sections(&self, key: &'static str) -> Vec<(String, Section<'a>)> {
        let Some(outer) = self.section(key) else { return Vec::new() };
        let mut named: Vec<(String, Section<'a>)> = Vec::new();
        for item in outer.items {
            let path = format!("{} {}", outer.path, go::quote(&item.key));
            let mut items = Vec::new();
            self.flatten(&path, &item.value, &mut items);
            if named.iter().any(|(name, _)| *name == item.key) {
                self.problems
                    .at(item.position, format!("{path} is declared more than once; keep one of them"));
            }
            named.push((item.key.clone(), Self::new(path, item.position, items, self.problems)));
        }
        named
    }

    /// Lists of texts under keys of the user's choice: `allowed { "a" = ["b"] }` gives `("a", ["b"])`.
    pub(super) fn named_texts(&self, key: &'static str) -> Vec<(String, Vec<String>)> {
        let Some(outer) = self.section(key) else { return Vec::new() };
        let mut named = Vec::new();
        for item in outer.items {
            let Kind::List(values) = &item.value.kind else {
                self.wrong_kind(key, &item.value, "lists of strings");
                continue;
            };
            let mut texts = Vec::with_capacity(values.len());
            for value in values {
                match &value.kind {
                    Kind::String(text) => texts.push(text.clone()),
                    _ => self.wrong_kind(key, value, "lists of strings"),
                }
            }
            named.push((item.key.clone(), texts));
        }
        named
    }

    /// Reports something about a key that is set.
    pub(super) fn problem(&self, key: &'static str, message: &str) {
        let item = self.items.iter().find(|item| item.key.eq_ignore_ascii_case(key));
        let position = item.map_or(self.position, |item| item.value.position);
        self.problems.at(position, format!("{}: {message}", self.name(key)));
    }

    /// Reports something in words that name the key themselves.
    pub(super) fn refuse(&self, key: &'static str, message: impl Into<String>) {
        let item = self.items.iter().find(|item| item.key.eq_ignore_ascii_case(key));
        self.problems.at(item.map_or(self.position, |item| item.position), message);
    }

    /// Something to say that does not stand in the way.
    pub(super) fn warn(&self, message: impl Into<String>) {
        self.problems.warn(message);
    }

    /// A key of SPIRE that is not built yet. Fine while it is absent, off or empty.
    pub(super) fn not_built(&self, key: &'static str, advice: &str) {
        for item in self.items_of(key) {
            if !is_off(&item.value.kind) {
                let name = self.name(key);
                self.problems.at(item.position, format!("{name} is not supported yet: {advice}"));
            }
        }
    }

    /// A key whose value makes no difference here.
    pub(super) fn no_effect(&self, key: &'static str) {
        self.items_of(key);
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for item in &self.items {
            if asked.iter().any(|key| item.key.eq_ignore_ascii_case(key)) {
                continue;
            }
            let place = if self.path.is_empty() {
                "at the top level".to_owned()
            } else {
                format!("in {}", self.path)
            };
            let hint = match closest(&item.key, &asked) {
                Some(known) => format!("; did you mean \"{known}\"?"),
                None => String::new(),
            };
            let key = go::quote(&item.key);
            self.problems
                .at(item.position, format!("unknown configuration detected: key {key} {place}{hint}"));
        }
    }
}

fn is_off(kind: &Kind) -> bool {
    match kind {
        Kind::Bool(flag) => !flag,
        Kind::String(text) => matches!(text.as_str(), "" | "false" | "0"),
        Kind::Number(text) => text == "0",
        Kind::List(values) => values.iter().all(|value| is_off(&value.kind)),
        Kind::Object(body) => body.items.is_empty(),
    }
}

/// The known key that a misspelt one is closest to, if it is close.
fn closest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let key = key.to_ascii_lowercase();
    let near = known.iter().map(|known| (distance(&key, &known.to_ascii_lowercase()), *known)).min()?;
    (near.0 <= 1 + near.1.len() / 4).then_some(near.1)
}

/// How many characters must be changed, added or removed (Levenshtein), for keys of a sane length.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST_KEY: usize = 64;
    if a.len() > LONGEST_KEY {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_the_one_it_is_close_to() {
        let known = ["trust_domain", "bind_port", "data_dir"];
        assert_eq!(closest("trustdomain", &known), Some("trust_domain"));
        assert_eq!(closest("Bind_Prot", &known), Some("bind_port"));
        assert_eq!(closest("federation", &known), None);
        assert_eq!(closest(&"x".repeat(1000), &known), None);
        assert_eq!(closest("x", &[]), None);
    }
}
