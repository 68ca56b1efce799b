//! JSON as Go's `encoding/json` writes a map: keys in order, `<`, `>` and `&` escaped, whole numbers without a point.

use serde_json::Value;

/// The value on one line.
#[must_use]
pub fn to_json(value: &Value) -> String {
    let mut text = String::new();
    write_value(value, &mut text);
    text
}

fn write_value(value: &Value, text: &mut String) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => write_number(number, text),
        Value::String(string) => write_string(string, text),
        Value::Array(values) => {
            text.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_value(value, text);
            }
            text.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
            text.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_string(key, text);
                text.push(':');
                write_value(value, text);
            }
            text.push('}');
        }
    }
}

fn write_number(number: &serde_json::Number, text: &mut String) {
    let float = if number.is_f64() { number.as_f64() } else { None };
    match float {
        Some(0.0) => text.push('0'),
        Some(float) if float.abs() >= 1e21 || float.abs() < 1e-6 => {
            let formatted = format!("{float:e}");
            let (mantissa, exponent) = formatted.split_once('e').unwrap_or((&formatted, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |digits| ("-", digits));
            // Go writes at least two digits, and drops the leading zero of small negative exponents again.
            let digits = if sign == "+" { format!("{digits:0>2}") } else { digits.to_owned() };
            text.push_str(&format!("{mantissa}e{sign}{digits}"));
        }
        Some(float) => text.push_str(&format!("{float}")),
        None => text.push_str(&number.to_string()),
    }
}

fn write_string(string: &str, text: &mut String) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\u{0}'..='\u{1f}' => {
                text.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_written_as_go_writes_it() {
        for (value, expected) in [
            (json!({"b": 1, "a": [true, null, "x"]}), r#"{"a":[true,null,"x"],"b":1}"#),
            (json!("<a> & \u{2028}\u{1}\n"), r#""\u003ca\u003e \u0026 \u2028\u0001\n""#),
            (json!(1_700_000_000.0), "1700000000"),
            (json!(1.5), "1.5"),
            (json!(1e21), "1e+21"),
            (json!(1e-7), "1e-7"),
            (json!(-0.0), "0"),
        ] {
            assert_eq!(to_json(&value), expected);
        }
    }
}
