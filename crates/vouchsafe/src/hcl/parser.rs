//! Tokens to items.

use super::lexer::{Cursor, Token, TokenKind, error_at, next_token};
use super::{Body, Item, Kind, MAX_NESTING, Position, SyntaxError, Value};

/// Reads the native syntax.
pub(super) fn parse(text: &str) -> Result<Body, SyntaxError> {
    let mut cursor = Cursor::new(text);
    let ahead = next_token(&mut cursor)?;
    let mut parser = Parser { cursor, ahead, depth: 0 };
    let body = parser.items()?;
    match parser.ahead.kind {
        TokenKind::End => Ok(body),
        _ => Err(parser.unexpected("a key")),
    }
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    ahead: Token,
    depth: usize,
}

impl Parser<'_> {
    /// Items up to a `}` or the end, which stays ahead.
    fn items(&mut self) -> Result<Body, SyntaxError> {
        let mut body = Body::default();
        loop {
            match self.ahead.kind {
                TokenKind::CloseBrace | TokenKind::End => return Ok(body),
                _ => {}
            }
            body.items.push(self.item()?);
            if self.ahead.kind == TokenKind::Comma {
                self.advance()?;
            }
        }
    }

    fn item(&mut self) -> Result<Item, SyntaxError> {
        let mut keys: Vec<(String, Position)> = Vec::new();
        loop {
            let position = self.ahead.position;
            match &self.ahead.kind {
                TokenKind::Identifier(key) | TokenKind::String(key) => {
                    keys.push((key.clone(), position));
                    if keys.len() > MAX_NESTING {
                        return Err(too_deep(position));
                    }
                    self.advance()?;
                }
                TokenKind::Assign if keys.len() == 1 => {
                    self.advance()?;
                    let value = self.value()?;
                    return Ok(nest(keys, value));
                }
                TokenKind::OpenBrace if !keys.is_empty() => {
                    let value = self.object(keys.len())?;
                    return Ok(nest(keys, value));
                }
                TokenKind::Assign if keys.len() > 1 => {
                    return Err(error_at(position, "after several keys comes `{`, not `=`"));
                }
                _ if keys.is_empty() => return Err(self.unexpected("a key")),
                _ => {
                    let (key, _) = &keys[keys.len() - 1];
                    return Err(self.unexpected(&format!("`=` or `{{` after the key `{key}`")));
                }
            }
        }
    }

    fn value(&mut self) -> Result<Value, SyntaxError> {
        let position = self.ahead.position;
        let kind = match self.ahead.kind.clone() {
            TokenKind::String(text) | TokenKind::Heredoc(text) => Kind::String(text),
            TokenKind::Number(text) => Kind::Number(text),
            TokenKind::Bool(value) => Kind::Bool(value),
            TokenKind::OpenBrace => return self.object(1),
            TokenKind::OpenBracket => return self.list(),
            TokenKind::Identifier(word) => {
                return Err(error_at(position, format!("text needs quotes: write \"{word}\"")));
            }
            _ => return Err(self.unexpected("a value")),
        };
        self.advance()?;
        Ok(Value { position, kind })
    }

    /// `{ items }`, standing `levels` deeper than what is around it.
    fn object(&mut self, levels: usize) -> Result<Value, SyntaxError> {
        let position = self.ahead.position;
        self.enter(levels, position)?;
        self.advance()?;
        let body = self.items()?;
        if self.ahead.kind != TokenKind::CloseBrace {
            return Err(error_at(position, "this `{` is not closed by `}`"));
        }
        self.advance()?;
        self.depth -= levels;
        Ok(Value { position, kind: Kind::Object(body) })
    }

    fn list(&mut self) -> Result<Value, SyntaxError> {
        let position = self.ahead.position;
        self.enter(1, position)?;
        self.advance()?;
        let mut values = Vec::new();
        loop {
            match self.ahead.kind {
                TokenKind::CloseBracket => break,
                TokenKind::End => return Err(error_at(position, "this `[` is not closed by `]`")),
                _ => values.push(self.value()?),
            }
            match self.ahead.kind {
                TokenKind::Comma => self.advance()?,
                TokenKind::CloseBracket | TokenKind::End => {}
                _ => return Err(self.unexpected("`,` or `]`")),
            }
        }
        self.advance()?;
        self.depth -= 1;
        Ok(Value { position, kind: Kind::List(values) })
    }

    fn enter(&mut self, levels: usize, position: Position) -> Result<(), SyntaxError> {
        self.depth += levels;
        if self.depth > MAX_NESTING { Err(too_deep(position)) } else { Ok(()) }
    }

    fn advance(&mut self) -> Result<(), SyntaxError> {
        self.ahead = next_token(&mut self.cursor)?;
        Ok(())
    }

    fn unexpected(&self, wanted: &str) -> SyntaxError {
        error_at(self.ahead.position, format!("expected {wanted}, found {}", self.ahead.kind.describe()))
    }
}

pub(super) fn too_deep(position: Position) -> SyntaxError {
    error_at(position, format!("more than {MAX_NESTING} levels inside each other"))
}

/// `a "b" "c" VALUE` as `a { b { c VALUE } }`.
fn nest(keys: Vec<(String, Position)>, mut value: Value) -> Item {
    let mut keys = keys.into_iter().rev();
    let (mut key, mut position) = keys.next().unwrap_or_else(|| (String::new(), value.position));
    for (outer_key, outer_position) in keys {
        let inner = Item { key, position, value };
        value = Value { position, kind: Kind::Object(Body { items: vec![inner] }) };
        (key, position) = (outer_key, outer_position);
    }
    Item { key, position, value }
}
