//! The functions of the language that make texts, with a bound on what they are given: what they make is a few times that.

use gotmpl::{TemplateError, Value};

use super::MAX_TEXT_BYTES;

/// The functions whose result is longer than what they are given.
pub(super) const BOUNDED: [&str; 6] = ["html", "js", "print", "printf", "println", "urlquery"];

/// The function `name`, which refuses what would make a text that is far too long.
pub(super) fn bounded(
    name: &'static str,
) -> impl Fn(&[Value]) -> gotmpl::Result<Value> + Send + Sync + 'static {
    move |arguments| {
        let weights = arguments.iter().map(weight);
        if weights.clone().fold(0, usize::saturating_add) > MAX_TEXT_BYTES {
            return failed(format!("{name}: a text is longer than {MAX_TEXT_BYTES} bytes"));
        }
        if let ("printf", Some((Value::String(format), rest))) = (name, arguments.split_first()) {
            let largest = weights.skip(1).max().unwrap_or(0);
            Format::read(format).check(rest, largest)?;
        }
        native(name, arguments)
    }
}

/// What a format of `printf` asks for.
#[derive(Debug, Default)]
struct Format {
    verbs: usize,
    widest: usize,
    /// All widths and precisions.
    widths: usize,
    /// Whether widths stand among the arguments.
    has_stars: bool,
    /// Whether an argument may be used more than once.
    has_indexes: bool,
}

impl Format {
    fn read(text: &str) -> Self {
        let mut format = Self::default();
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            if character != '%' {
                continue;
            }
            format.verbs += 1;
            let mut number = 0usize;
            while let Some(one) = rest.next_if(|one| "+-# .*[]".contains(*one) || one.is_ascii_digit()) {
                match one.to_digit(10) {
                    Some(digit) => number = number.saturating_mul(10).saturating_add(digit as usize),
                    None => format.note(std::mem::take(&mut number)),
                }
                match one {
                    '*' => {
                        format.has_stars = true;
                        format.note(MAX_WIDTH);
                    }
                    '[' => format.has_indexes = true,
                    _ => {}
                }
            }
            format.note(number);
            // `%%`, or the verb.
            rest.next();
        }
        format
    }

    fn note(&mut self, number: usize) {
        self.widest = self.widest.max(number);
        self.widths = self.widths.saturating_add(number);
    }

    fn check(&self, arguments: &[Value], largest: usize) -> gotmpl::Result<()> {
        let is_wide = |value: &Value| match value {
            Value::Int(n) => n.unsigned_abs() > MAX_WIDTH as u64,
            Value::Uint(n) => *n > MAX_WIDTH as u64,
            _ => false,
        };
        if self.widest > MAX_WIDTH || self.has_stars && arguments.iter().any(is_wide) {
            return failed(format!("a width of printf is more than {MAX_WIDTH}"));
        }
        let repeated = if self.has_indexes { self.verbs.saturating_mul(largest) } else { 0 };
        if self.widths.saturating_add(repeated) > MAX_TEXT_BYTES {
            return failed(format!("printf: a text is longer than {MAX_TEXT_BYTES} bytes"));
        }
        Ok(())
    }
}

/// At least as many bytes as there are in the value's texts.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::List(list) => list.iter().map(weight).fold(list.len(), usize::saturating_add),
        Value::Map(map) => {
            map.iter().map(|(key, value)| key.len() + weight(value) + 2).fold(0, usize::saturating_add)
        }
        _ => WEIGHT_OF_OTHERS,
    }
}

/// The engine's own function, which can be reached through a template only.
fn native(name: &str, arguments: &[Value]) -> gotmpl::Result<Value> {
    let given: String = (0..arguments.len()).map(|n| format!(" (index . {n})")).collect();
    let call = gotmpl::Template::new(name).parse(&format!("{{{{ {name}{given} }}}}"))?;
    call.execute_to_string(&Value::List(arguments.into())).map(|text| Value::String(text.into()))
}

fn failed<T>(reason: String) -> gotmpl::Result<T> {
    Err(TemplateError::Exec(reason))
}

/// Largest width or precision of `printf`.
const MAX_WIDTH: usize = 1_024;
/// What a number or the like comes to.
const WEIGHT_OF_OTHERS: usize = 24;
