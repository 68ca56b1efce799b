//! The JSON form: the same items, written as JSON.

use super::lexer::{Cursor, error_at};
use super::parser::too_deep;
use super::{Body, Item, Kind, MAX_NESTING, SyntaxError, Value};

/// Reads a JSON object. A list of objects where an object is wanted is left to the reader of the configuration.
pub(super) fn parse(text: &str) -> Result<Body, SyntaxError> {
    let mut reader = Reader { cursor: Cursor::new(text), depth: 0 };
    reader.skip_space();
    let value = reader.value()?;
    reader.skip_space();
    if reader.cursor.peek().is_some() {
        return Err(reader.cursor.error("nothing may follow the closing `}`"));
    }
    match value.kind {
        Kind::Object(body) => Ok(body),
        _ => Err(error_at(value.position, "the file must be one JSON object")),
    }
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    depth: usize,
}

impl Reader<'_> {
    fn value(&mut self) -> Result<Value, SyntaxError> {
        let position = self.cursor.position;
        let kind = match self.cursor.peek() {
            Some('{') => self.object()?,
            Some('[') => self.list()?,
            Some('"') => Kind::String(self.string()?),
            Some(c) if c == '-' || c.is_ascii_digit() => self.number()?,
            Some(c) if c.is_ascii_alphabetic() => self.word()?,
            Some(c) => return Err(self.cursor.error(format!("expected a value, found {c:?}"))),
            None => return Err(self.cursor.error("expected a value, found the end of the file")),
        };
        Ok(Value { position, kind })
    }

    fn object(&mut self) -> Result<Kind, SyntaxError> {
        self.enter()?;
        let mut body = Body::default();
        if !self.closes('}') {
            loop {
                self.skip_space();
                let position = self.cursor.position;
                if self.cursor.peek() != Some('"') {
                    return Err(self.cursor.error("expected a key in quotes"));
                }
                let key = self.string()?;
                self.expect(':', "`:` after the key")?;
                self.skip_space();
                let value = self.value()?;
                body.items.push(Item { key, position, value });
                if self.closes('}') {
                    break;
                }
                self.expect(',', "`,` or `}`")?;
            }
        }
        self.depth -= 1;
        Ok(Kind::Object(body))
    }

    fn list(&mut self) -> Result<Kind, SyntaxError> {
        self.enter()?;
        let mut values = Vec::new();
        if !self.closes(']') {
            loop {
                self.skip_space();
                values.push(self.value()?);
                if self.closes(']') {
                    break;
                }
                self.expect(',', "`,` or `]`")?;
            }
        }
        self.depth -= 1;
        Ok(Kind::List(values))
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let start = self.cursor.position;
        self.cursor.take();
        let mut text = String::new();
        loop {
            match self.cursor.take() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some('\n') | None => {
                    return Err(error_at(start, "this string is not closed by `\"` on its line"));
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let position = self.cursor.position;
        let c = match self.cursor.take() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => return self.unicode_escape(),
            _ => return Err(error_at(position, "this is not an escape of JSON")),
        };
        Ok(c)
    }

    /// Four hexadecimal digits, or a surrogate pair of them.
    fn unicode_escape(&mut self) -> Result<char, SyntaxError> {
        let position = self.cursor.position;
        let first = self.cursor.take_hexadecimal(4)?;
        let code = if (0xd800..0xdc00).contains(&first) && self.cursor.rest().starts_with("\\u") {
            self.cursor.take();
            self.cursor.take();
            let second = self.cursor.take_hexadecimal(4)?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(error_at(position, "half of a surrogate pair"));
            }
            0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| error_at(position, "half of a surrogate pair"))
    }

    fn number(&mut self) -> Result<Kind, SyntaxError> {
        let start = self.cursor.position;
        let text =
            self.cursor.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')).to_owned();
        if serde_json::from_str::<serde_json::Number>(&text).is_ok() {
            Ok(Kind::Number(text))
        } else {
            Err(error_at(start, format!("`{text}` is not a number")))
        }
    }

    fn word(&mut self) -> Result<Kind, SyntaxError> {
        let start = self.cursor.position;
        match self.cursor.take_while(|c| c.is_ascii_alphanumeric()) {
            "true" => Ok(Kind::Bool(true)),
            "false" => Ok(Kind::Bool(false)),
            "null" => Err(error_at(start, "null has no meaning here; leave the key out")),
            word => Err(error_at(start, format!("text needs quotes: write \"{word}\""))),
        }
    }

    fn enter(&mut self) -> Result<(), SyntaxError> {
        let position = self.cursor.position;
        self.depth += 1;
        self.cursor.take();
        if self.depth > MAX_NESTING { Err(too_deep(position)) } else { Ok(()) }
    }

    fn closes(&mut self, close: char) -> bool {
        self.skip_space();
        let closes = self.cursor.peek() == Some(close);
        if closes {
            self.cursor.take();
        }
        closes
    }

    fn expect(&mut self, wanted: char, described: &str) -> Result<(), SyntaxError> {
        self.skip_space();
        if self.cursor.peek() == Some(wanted) {
            self.cursor.take();
            return Ok(());
        }
        Err(self.cursor.error(format!("expected {described}")))
    }

    fn skip_space(&mut self) {
        self.cursor.take_while(char::is_whitespace);
    }
}
