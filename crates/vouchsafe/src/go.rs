//! Values written and read the way Go does, because tools compare and parse the texts of SPIRE's commands.

mod duration;
mod json;
mod time;

use std::io;
use std::path::Path;

use vouchsafe_transport::rpc_metrics::STATUS_NAMES;

pub use self::duration::{DurationError, format_duration, parse_duration};
pub use self::json::to_json;
pub use self::time::{check_layout, rfc3339, rfc3339_nanos, time_string};

/// A text in double quotes with Go's escapes (`%q`).
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() || ('\u{2028}'..='\u{2029}').contains(&c) || c == '\u{feff}' => {
                quoted.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// What went wrong with a file, as `fs.PathError` prints it: `open /x: no such file or directory`.
#[must_use]
pub fn file_error(operation: &str, path: &Path, error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase()).into_iter();
    format!("{operation} {}: {}", path.display(), first.chain(letters).collect::<String>())
}

/// The name of a gRPC status code, as `codes.Code` prints it.
#[must_use]
pub fn code_name(code: i32) -> String {
    let name = usize::try_from(code).ok().and_then(|index| STATUS_NAMES.get(index));
    name.map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

/// A failed call, as `status.Error` prints it.
#[must_use]
pub fn rpc_error(status: &tonic::Status) -> String {
    format!("rpc error: code = {} desc = {}", code_name(status.code() as i32), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_escapes_what_go_escapes() {
        assert_eq!(quote("plain é"), "\"plain é\"");
        assert_eq!(quote("a\"b\\c\n\t\u{1}\u{7f}\u{85}"), "\"a\\\"b\\\\c\\n\\t\\x01\\x7f\\u0085\"");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_as_go_tells_it() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(file_error("open", Path::new("/x"), &error), "open /x: no such file or directory");
        assert_eq!(file_error("read", Path::new("y"), &io::Error::other("Oh")), "read y: oh");
    }

    #[test]
    fn codes_have_the_names_of_go() {
        assert_eq!(code_name(1), "Canceled");
        assert_eq!(code_name(5), "NotFound");
        assert_eq!(code_name(16), "Unauthenticated");
        assert_eq!(code_name(99), "Code(99)");
        assert_eq!(code_name(-1), "Code(-1)");
        let status = tonic::Status::internal("oh no");
        assert_eq!(rpc_error(&status), "rpc error: code = Internal desc = oh no");
    }
}
