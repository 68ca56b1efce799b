//! Characters to tokens.

use super::{Position, SyntaxError};

/// A token and where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) position: Position,
    pub(super) kind: TokenKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Identifier(String),
    String(String),
    Heredoc(String),
    Number(String),
    Bool(bool),
    Assign,
    Comma,
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    End,
}

impl TokenKind {
    /// What the token is called in messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Identifier(name) => format!("`{name}`"),
            Self::String(_) => "a string".to_owned(),
            Self::Heredoc(_) => "a here-document".to_owned(),
            Self::Number(text) => format!("the number {text}"),
            Self::Bool(value) => format!("`{value}`"),
            Self::Assign => "`=`".to_owned(),
            Self::Comma => "`,`".to_owned(),
            Self::OpenBrace => "`{`".to_owned(),
            Self::CloseBrace => "`}`".to_owned(),
            Self::OpenBracket => "`[`".to_owned(),
            Self::CloseBracket => "`]`".to_owned(),
            Self::End => "the end of the file".to_owned(),
        }
    }
}

/// Walks over a text once. Also the character source of the JSON reader.
pub(super) struct Cursor<'a> {
    rest: &'a str,
    pub(super) position: Position,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text, position: Position::START }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }

    pub(super) fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.position.line += 1;
            self.position.column = 1;
        } else {
            self.position.column += 1;
        }
        Some(c)
    }

    pub(super) fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        let taken = &self.rest[..end];
        for _ in taken.chars() {
            self.take();
        }
        taken
    }

    pub(super) fn error(&self, message: impl Into<String>) -> SyntaxError {
        error_at(self.position, message)
    }

    /// Reads exactly `digits` hexadecimal digits.
    pub(super) fn take_hexadecimal(&mut self, digits: usize) -> Result<u32, SyntaxError> {
        let mut value = 0u32;
        for _ in 0..digits {
            let digit = self.peek().and_then(|c| c.to_digit(16));
            let Some(digit) = digit else {
                return Err(self.error(format!("an escape here needs {digits} hexadecimal digits")));
            };
            self.take();
            value = (value << 4) | digit;
        }
        Ok(value)
    }
}

pub(super) fn error_at(position: Position, message: impl Into<String>) -> SyntaxError {
    SyntaxError { position, message: message.into() }
}

/// The next token of the native syntax.
pub(super) fn next_token(cursor: &mut Cursor<'_>) -> Result<Token, SyntaxError> {
    skip_space_and_comments(cursor)?;
    let position = cursor.position;
    let Some(c) = cursor.peek() else { return Ok(Token { position, kind: TokenKind::End }) };
    let kind = match c {
        '=' => punctuation(cursor, TokenKind::Assign),
        ',' => punctuation(cursor, TokenKind::Comma),
        '{' => punctuation(cursor, TokenKind::OpenBrace),
        '}' => punctuation(cursor, TokenKind::CloseBrace),
        '[' => punctuation(cursor, TokenKind::OpenBracket),
        ']' => punctuation(cursor, TokenKind::CloseBracket),
        '"' => TokenKind::String(quoted(cursor)?),
        '<' => TokenKind::Heredoc(heredoc(cursor)?),
        c if c == '-' || c.is_ascii_digit() || c == '.' => TokenKind::Number(number(cursor)?),
        c if c.is_alphabetic() || c == '_' => identifier(cursor),
        c => return Err(cursor.error(format!("the character {c:?} means nothing here"))),
    };
    Ok(Token { position, kind })
}

fn punctuation(cursor: &mut Cursor<'_>, kind: TokenKind) -> TokenKind {
    cursor.take();
    kind
}

fn skip_space_and_comments(cursor: &mut Cursor<'_>) -> Result<(), SyntaxError> {
    loop {
        cursor.take_while(char::is_whitespace);
        if cursor.rest().starts_with('#') || cursor.rest().starts_with("//") {
            cursor.take_while(|c| c != '\n');
        } else if cursor.rest().starts_with("/*") {
            let start = cursor.position;
            let Some(length) = cursor.rest().find("*/") else {
                return Err(error_at(start, "this comment is not closed by `*/`"));
            };
            for _ in cursor.rest()[..length + 2].chars() {
                cursor.take();
            }
        } else {
            return Ok(());
        }
    }
}

fn identifier(cursor: &mut Cursor<'_>) -> TokenKind {
    let name = cursor.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    match name {
        "true" => TokenKind::Bool(true),
        "false" => TokenKind::Bool(false),
        name => TokenKind::Identifier(name.to_owned()),
    }
}

fn number(cursor: &mut Cursor<'_>) -> Result<String, SyntaxError> {
    let start = cursor.position;
    let mut previous = ' ';
    let mut text = String::new();
    while let Some(c) = cursor.peek() {
        let sign = matches!(c, '+' | '-') && (text.is_empty() || matches!(previous, 'e' | 'E'));
        if !(sign || c.is_alphanumeric() || c == '.' || c == '_') {
            break;
        }
        text.push(c);
        previous = c;
        cursor.take();
    }
    if is_number(&text) {
        return Ok(text);
    }
    Err(error_at(
        start,
        format!("`{text}` is not a number; put text such as a duration in quotes: \"{text}\""),
    ))
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    if let Some(digits) = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X")) {
        return !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    }
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && unsigned.parse::<f64>().is_ok()
}

/// A string in double quotes. Inside `${ … }` everything, quotes and newlines too, is taken as it stands.
fn quoted(cursor: &mut Cursor<'_>) -> Result<String, SyntaxError> {
    let start = cursor.position;
    cursor.take();
    let mut text = String::new();
    let mut braces = 0usize;
    loop {
        let position = cursor.position;
        let c = match cursor.take() {
            Some('\n') if braces == 0 => None,
            other => other,
        };
        let Some(c) = c else { return Err(error_at(start, "this string is not closed by `\"` on its line")) };
        match c {
            '"' if braces == 0 => return Ok(text),
            '\\' if braces == 0 => text.push(escape(cursor, position)?),
            '$' if braces == 0 && cursor.peek() == Some('{') => {
                cursor.take();
                text.push_str("${");
                braces = 1;
            }
            c => {
                match c {
                    '{' if braces > 0 => braces += 1,
                    '}' if braces > 0 => braces -= 1,
                    _ => {}
                }
                text.push(c);
            }
        }
    }
}

fn escape(cursor: &mut Cursor<'_>, position: Position) -> Result<char, SyntaxError> {
    let number = match cursor.take() {
        Some('a') => return Ok('\u{7}'),
        Some('b') => return Ok('\u{8}'),
        Some('f') => return Ok('\u{c}'),
        Some('n') => return Ok('\n'),
        Some('r') => return Ok('\r'),
        Some('t') => return Ok('\t'),
        Some('v') => return Ok('\u{b}'),
        Some(c @ ('\\' | '"')) => return Ok(c),
        Some('x') => cursor.take_hexadecimal(2)?,
        Some('u') => cursor.take_hexadecimal(4)?,
        Some('U') => cursor.take_hexadecimal(8)?,
        Some(c @ '0'..='7') => {
            let mut value = c as u32 - '0' as u32;
            for _ in 0..2 {
                let digit = cursor.peek().and_then(|c| c.to_digit(8));
                let Some(digit) = digit else {
                    return Err(error_at(position, "an octal escape needs three digits, like `\\101`"));
                };
                cursor.take();
                value = value * 8 + digit;
            }
            value
        }
        Some(c) => {
            return Err(error_at(
                position,
                format!("`\\{c}` is not an escape; write `\\\\{c}` for a backslash"),
            ));
        }
        None => return Err(error_at(position, "a backslash ends the file")),
    };
    char::from_u32(number).ok_or_else(|| error_at(position, "this escape is not a Unicode character"))
}

/// `<<MARK`, lines, `MARK`. After `<<-` the indentation of the closing mark is removed where every line has it.
fn heredoc(cursor: &mut Cursor<'_>) -> Result<String, SyntaxError> {
    let start = cursor.position;
    cursor.take();
    if cursor.take() != Some('<') {
        return Err(error_at(start, "a single `<` means nothing here; a here-document starts with `<<NAME`"));
    }
    let indented = cursor.peek() == Some('-');
    if indented {
        cursor.take();
    }
    let mark = cursor.take_while(|c| c.is_alphanumeric() || c == '_');
    cursor.take_while(|c| matches!(c, ' ' | '\t' | '\r'));
    if mark.is_empty() || cursor.take() != Some('\n') {
        return Err(error_at(start, "a here-document starts with `<<NAME` at the end of a line"));
    }
    let mut lines: Vec<&str> = Vec::new();
    while !cursor.rest().is_empty() {
        let line = cursor.take_while(|c| c != '\n');
        if line.trim() == mark {
            let indentation = &line[..line.len() - line.trim_start().len()];
            return Ok(join_lines(&lines, if indented { indentation } else { "" }));
        }
        cursor.take();
        lines.push(line);
    }
    Err(error_at(start, format!("this here-document is not closed by a line `{mark}`")))
}

fn join_lines(lines: &[&str], indentation: &str) -> String {
    let strip = lines.iter().all(|line| line.starts_with(indentation));
    let mut text = String::new();
    for line in lines {
        text.push_str(if strip { &line[indentation.len()..] } else { line });
        text.push('\n');
    }
    text
}
