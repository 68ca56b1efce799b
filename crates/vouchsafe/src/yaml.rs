//! YAML, as far as configuration files use it: one document of maps, lists and scalars, with the place of each.
//!
//! The result is the same as that of [`hcl`](crate::hcl), so that the readers of configuration serve both. A value that is null is
//! as good as absent. Aliases, tags and a second document are refused: nobody writes them in such a file, and they are how YAML
//! grows without bound.

use granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::hcl::{Body, Item, Kind, MAX_BYTES, MAX_NESTING, Position, SyntaxError, Value};

/// Reads a text.
///
/// # Errors
///
/// The first place where the text is not such a document, or a bound that it breaks.
pub fn parse(text: &str) -> Result<Body, SyntaxError> {
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; at most {MAX_BYTES} are read", text.len());
        return Err(SyntaxError { position: Position::START, message });
    }
    let mut reader = Reader { parser: Parser::new_from_str(text), depth: 0 };
    let mut body = None;
    while let Some((event, position)) = reader.next()? {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => {}
            _ if body.is_some() => return Err(error(position, "only one document may stand in the file")),
            event => match reader.node(event, position)? {
                Some(Value { kind: Kind::Object(read), .. }) => body = Some(read),
                None => body = Some(Body::default()),
                Some(_) => return Err(error(position, "the file must be a map of keys and values")),
            },
        }
    }
    Ok(body.unwrap_or_default())
}

struct Reader<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Position)>, SyntaxError> {
        loop {
            match self.parser.next() {
                None => return Ok(None),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok(Some((event, start(&span)))),
                Some(Err(failed)) => {
                    let at = failed.marker();
                    return Err(error(place(at.line(), at.col()), failed.info()));
                }
            }
        }
    }

    fn expect(&mut self, position: Position) -> Result<(Event<'t>, Position), SyntaxError> {
        self.next()?.ok_or_else(|| error(position, "the file ends in the middle of a value"))
    }

    /// The value that `event` starts; `None` is null.
    fn node(&mut self, event: Event<'t>, position: Position) -> Result<Option<Value>, SyntaxError> {
        let kind = match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => return Err(error(position, "tags are not supported")),
            Event::Scalar(text, style, ..) => match scalar(&text, style) {
                Some(kind) => kind,
                None => return Ok(None),
            },
            Event::SequenceStart(..) => self.list(position)?,
            Event::MappingStart(..) => self.map(position)?,
            Event::Alias(_) => return Err(error(position, "aliases are not supported; write the value out")),
            _ => return Err(error(position, "expected a value")),
        };
        Ok(Some(Value { position, kind }))
    }

    fn list(&mut self, started: Position) -> Result<Kind, SyntaxError> {
        self.enter(started)?;
        let mut values = Vec::new();
        loop {
            let (event, position) = self.expect(started)?;
            if matches!(event, Event::SequenceEnd) {
                self.depth -= 1;
                return Ok(Kind::List(values));
            }
            values.extend(self.node(event, position)?);
        }
    }

    fn map(&mut self, started: Position) -> Result<Kind, SyntaxError> {
        self.enter(started)?;
        let mut body = Body::default();
        loop {
            let (event, position) = self.expect(started)?;
            let key = match event {
                Event::MappingEnd => {
                    self.depth -= 1;
                    return Ok(Kind::Object(body));
                }
                Event::Scalar(key, ..) => key.into_owned(),
                _ => return Err(error(position, "a key must be a text")),
            };
            let (event, at) = self.expect(started)?;
            if let Some(value) = self.node(event, at)? {
                body.items.push(Item { key, position, value });
            }
        }
    }

    fn enter(&mut self, position: Position) -> Result<(), SyntaxError> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(error(
                position,
                format!("values may stand in each other {MAX_NESTING} deep at most"),
            ));
        }
        Ok(())
    }
}

/// What a scalar means; `None` is null.
fn scalar(text: &str, style: ScalarStyle) -> Option<Kind> {
    if style != ScalarStyle::Plain {
        return Some(Kind::String(text.to_owned()));
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => None,
        "true" | "True" | "TRUE" => Some(Kind::Bool(true)),
        "false" | "False" | "FALSE" => Some(Kind::Bool(false)),
        text if serde_json::from_str::<serde_json::Number>(text).is_ok() => {
            Some(Kind::Number(text.to_owned()))
        }
        text => Some(Kind::String(text.to_owned())),
    }
}

fn start(span: &Span) -> Position {
    place(span.start.line(), span.start.col())
}

fn place(line: usize, column: usize) -> Position {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Position { line: number(line), column: number(column).saturating_add(1) }
}

fn error(position: Position, message: impl Into<String>) -> SyntaxError {
    SyntaxError { position, message: message.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_read_with_their_places() {
        let body = parse("# c\na: 1\nb:\n  - x\n  - 'true'\n  - true\nc: {d: null, e: \"\"}\nf:\n").unwrap();
        let keys: Vec<_> = body.items.iter().map(|item| (item.key.as_str(), item.position.line)).collect();
        assert_eq!(keys, [("a", 2), ("b", 3), ("c", 7)]);
        assert_eq!(body.items[0].value.kind, Kind::Number("1".into()));
        let Kind::List(values) = &body.items[1].value.kind else { panic!("{body:?}") };
        let kinds: Vec<_> = values.iter().map(|value| value.kind.clone()).collect();
        assert_eq!(kinds, [Kind::String("x".into()), Kind::String("true".into()), Kind::Bool(true)]);
        assert_eq!(values[1].position, Position { line: 5, column: 5 });
        let Kind::Object(inner) = &body.items[2].value.kind else { panic!("{body:?}") };
        assert_eq!(inner.items.len(), 1);
        assert_eq!(parse("").unwrap(), Body::default());
    }

    #[test]
    fn what_is_not_a_configuration_is_refused_with_its_place() {
        for (text, expected) in [
            ("- a\n", "1:1: the file must be a map of keys and values"),
            ("a: 1\n---\nb: 2\n", "3:1: only one document may stand in the file"),
            ("a: &x 1\nb: *x\n", "2:4: aliases are not supported; write the value out"),
            ("a: !!binary x\n", "tags are not supported"),
            ("? [a]\n: 1\n", "a key must be a text"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert!(parse("a: [1").is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "[a:\\[\\]{}, \\n'\"#&*!|>-]{0,60}|\\PC{0,30}") {
            let _ignored = parse(&text).is_ok();
        }
    }
}
