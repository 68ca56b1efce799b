//! Lifetimes as manifests have them: Go's durations, such as `1h30m`, cut to seconds.

/// The seconds of a lifetime.
///
/// # Errors
///
/// It is not a duration, is negative, or is longer than an entry can say.
pub fn parse_seconds(text: &str) -> Result<u32, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits == "0" {
        return Ok(0);
    }
    if digits.is_empty() {
        return Err(invalid());
    }
    let (mut seconds, mut rest) = (0.0_f64, digits);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let size = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(invalid()),
        };
        seconds += number.parse::<f64>().map_err(|_| invalid())? * size;
        rest = after;
    }
    if seconds > f64::from(i32::MAX) {
        return Err(DurationError::TooLong(text.to_owned()));
    }
    // A sum such as 0.1 h is a hair below what it means.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2^31")]
    Ok((seconds + 1e-6) as u32)
}

/// Why a text is no lifetime.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DurationError {
    /// Not of the form `1h30m`, or less than nothing.
    #[error("{0:?} is not a duration such as \"1h30m\"")]
    Invalid(String),
    /// More than an entry can say.
    #[error("the duration {0:?} is longer than 2147483647 seconds")]
    TooLong(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_whole_seconds() {
        for (text, seconds) in [
            ("0", 0),
            ("0s", 0),
            ("1h30m", 5_400),
            ("90.9s", 90),
            ("1500ms", 1),
            ("0.1h", 360),
            ("24h", 86_400),
        ] {
            assert_eq!(parse_seconds(text), Ok(seconds), "{text}");
        }
        for text in ["", "10", "1d", "-1h", "s", "1..5s", "1h x", "NaNs", "infs"] {
            assert!(matches!(parse_seconds(text), Err(DurationError::Invalid(_))), "{text}");
        }
        assert!(matches!(parse_seconds("600000h"), Err(DurationError::TooLong(_))));
    }
}
