//! `time.Duration` as text.

use std::time::Duration;

/// Why a text is not a duration. The texts are those of Go's `time.ParseDuration`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not of the form `1h30m`.
    #[error("time: invalid duration {}", super::quote(.0))]
    Invalid(String),
    /// A number without a unit, like `10`.
    #[error("time: missing unit in duration {}", super::quote(.0))]
    MissingUnit(String),
    /// A unit that does not exist, like `d`.
    #[error("time: unknown unit {} in duration {}", super::quote(.unit), super::quote(.text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
    /// Less than nothing.
    #[error("the duration {} is negative", super::quote(.0))]
    Negative(String),
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;
const MAX_NANOS: u128 = i64::MAX as u128;

/// Reads durations like `1h30m`, `1.5s`, `300ms` and `0`.
///
/// # Errors
///
/// The text is not a duration, is negative, or exceeds 2^63 - 1 nanoseconds (some 292 years).
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0u128;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        if number.bytes().all(|b| b == b'.') || number.bytes().filter(|b| *b == b'.').count() > 1 {
            return Err(invalid());
        }
        let unit_nanos = match unit {
            "" => return Err(DurationError::MissingUnit(text.to_owned())),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS_PER_SECOND,
            "m" => 60 * NANOS_PER_SECOND,
            "h" => 3_600 * NANOS_PER_SECOND,
            unit => {
                return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() });
            }
        };
        nanos += scaled(number, unit_nanos).ok_or_else(invalid)?;
        if nanos > MAX_NANOS {
            return Err(invalid());
        }
        rest = after;
    }
    if negative && nanos > 0 {
        return Err(DurationError::Negative(text.to_owned()));
    }
    let seconds = u64::try_from(nanos / NANOS_PER_SECOND).map_err(|_| invalid())?;
    let rest = u32::try_from(nanos % NANOS_PER_SECOND).map_err(|_| invalid())?;
    Ok(Duration::new(seconds, rest))
}

/// A decimal number times a unit, rounded down. `None` on overflow.
fn scaled(number: &str, unit_nanos: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // More digits than these are below a nanosecond of any unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    whole.checked_mul(unit_nanos)?.checked_add(fraction * unit_nanos / scale)
}

/// A duration as Go prints it: `1h0m0s`, `1.5s`, `2.25ms`, `0s`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (unit, size) in [("ns", 1), ("µs", 1_000), ("ms", 1_000_000)] {
        if nanos < size * 1_000 {
            return format!("{}{unit}", decimal(nanos, size));
        }
    }
    let minutes = duration.as_secs() / 60;
    let seconds = decimal(nanos - u128::from(minutes) * 60 * NANOS_PER_SECOND, NANOS_PER_SECOND);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / size` without trailing zeros.
fn decimal(value: u128, size: u128) -> String {
    let (whole, rest) = (value / size, value % size);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = size.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [
            ("0", 0),
            ("5s", 5_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1.s", 1_000),
            ("+5s", 5_000),
            ("-0s", 0),
            ("100ms", 100),
            ("1h1m1s1ms", 3_661_001),
            ("24h", 86_400_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("1µs"), Ok(Duration::from_micros(1)));
    }

    #[test]
    fn what_is_not_a_duration_is_refused_in_the_words_of_go() {
        for (text, expected) in [
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            ("10", "time: missing unit in duration \"10\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("h", "time: invalid duration \"h\""),
            (".s", "time: invalid duration \".s\""),
            ("1..5s", "time: invalid duration \"1..5s\""),
            ("3000000h", "time: invalid duration \"3000000h\""),
            (
                "999999999999999999999999999999999999999999h",
                "time: invalid duration \"999999999999999999999999999999999999999999h\"",
            ),
            ("-1s", "the duration \"-1s\" is negative"),
            ("1h x", "time: unknown unit \"h x\" in duration \"1h x\""),
        ] {
            assert_eq!(parse_duration(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for (nanos, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(nanos)), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(nanos in 0..i64::MAX as u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "[0-9.hmsnuµ+-]{0,30}|\\PC{0,20}") {
            let _ignored = parse_duration(&text).is_ok();
        }
    }
}
