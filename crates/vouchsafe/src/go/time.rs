//! `time.Time` as text, in UTC.

use super::quote;

const SECONDS_PER_DAY: i64 = 86_400;

struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

/// The Gregorian date of a day count (the algorithm of H. Hinnant's `civil_from_days`).
fn civil(unix_seconds: i64) -> Civil {
    let days = unix_seconds.div_euclid(SECONDS_PER_DAY);
    let seconds = unix_seconds.rem_euclid(SECONDS_PER_DAY);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    Civil {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month,
        day: day_of_year - (153 * month_index + 2) / 5 + 1,
        hour: seconds / 3_600,
        minute: seconds / 60 % 60,
        second: seconds % 60,
    }
}

/// A time as `time.Time` prints itself: `2026-11-21 08:55:01 +0000 UTC`.
#[must_use]
pub fn time_string(unix_seconds: i64) -> String {
    let t = civil(unix_seconds);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} +0000 UTC",
        t.year, t.month, t.day, t.hour, t.minute, t.second
    )
}

/// A time as RFC 3339: `2026-11-21T08:55:01Z`.
#[must_use]
pub fn rfc3339(unix_seconds: i64) -> String {
    let t = civil(unix_seconds);
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", t.year, t.month, t.day, t.hour, t.minute, t.second)
}

/// The same with the fraction of the second, without trailing zeros.
#[must_use]
pub fn rfc3339_nanos(unix_seconds: i64, nanos: u32) -> String {
    let whole = rfc3339(unix_seconds);
    if nanos == 0 {
        return whole;
    }
    let fraction = format!("{nanos:09}");
    format!("{}.{}Z", whole.trim_end_matches('Z'), fraction.trim_end_matches('0'))
}

/// The layout that `-expiresBefore` wants.
const LAYOUT: &str = "2006-01-02 15:04:05 -0700 -07";

/// Checks a time against the layout `2006-01-02 15:04:05 -0700 -07`.
///
/// # Errors
///
/// Go's text of what is wrong.
pub fn check_layout(text: &str) -> Result<(), String> {
    let mut rest = text;
    let mut day = (0, 0, 0);
    for element in ["2006", "-", "01", "-", "02", " ", "15", ":", "04", ":", "05", " ", "-0700", " ", "-07"] {
        let mismatch = || {
            let (text, layout) = (quote(text), quote(LAYOUT));
            format!("parsing time {text} as {layout}: cannot parse {} as {}", quote(rest), quote(element))
        };
        let range = |what: &str| format!("parsing time {}: {what} out of range", quote(text));
        if matches!(element, "-" | " " | ":") {
            rest = rest.strip_prefix(element).ok_or_else(mismatch)?;
            continue;
        }
        let signed = element.starts_with('-');
        let digits = rest.strip_prefix(['+', '-']).filter(|_| signed).unwrap_or(rest);
        let width = element.len() - usize::from(signed);
        let number = digits.get(..width).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let number: u32 = number.and_then(|digits| digits.parse().ok()).ok_or_else(mismatch)?;
        if signed && digits.len() == rest.len() {
            return Err(mismatch());
        }
        match element {
            "2006" => day.0 = number,
            "01" if !(1..=12).contains(&number) => return Err(range("month")),
            "01" => day.1 = number,
            "02" => day.2 = number,
            "15" if number > 23 => return Err(range("hour")),
            "04" if number > 59 => return Err(range("minute")),
            "05" if number > 59 => return Err(range("second")),
            "-0700" if number / 100 > 24 || number % 100 > 60 => return Err(range("time zone offset hour")),
            "-07" if number > 24 => return Err(range("time zone offset hour")),
            _ => {}
        }
        rest = &digits[width..];
    }
    if !rest.is_empty() {
        return Err(format!("parsing time {}: extra text: {}", quote(text), quote(rest)));
    }
    if day.2 < 1 || day.2 > days_in_month(day.0, day.1) {
        return Err(format!("parsing time {}: day out of range", quote(text)));
    }
    Ok(())
}

fn days_in_month(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_printed_as_go_prints_them() {
        for (unix, expected) in [
            (0, "1970-01-01 00:00:00 +0000 UTC"),
            (1_552_410_266, "2019-03-12 17:04:26 +0000 UTC"),
            (951_782_400, "2000-02-29 00:00:00 +0000 UTC"),
            (4_102_444_799, "2099-12-31 23:59:59 +0000 UTC"),
            (-1, "1969-12-31 23:59:59 +0000 UTC"),
        ] {
            assert_eq!(time_string(unix), expected);
        }
        assert_eq!(rfc3339(1_552_410_266), "2019-03-12T17:04:26Z");
        assert_eq!(rfc3339_nanos(1_552_410_266, 120_000_000), "2019-03-12T17:04:26.12Z");
        assert_eq!(rfc3339_nanos(1_552_410_266, 0), "2019-03-12T17:04:26Z");
    }

    #[test]
    fn a_time_of_the_layout_is_accepted_and_others_are_named() {
        assert_eq!(check_layout("2026-11-21 08:55:01 +0100 +01"), Ok(()));
        assert_eq!(check_layout("2024-02-29 00:00:00 -0700 -07"), Ok(()));
        for (text, expected) in [
            ("2001-13-05", "parsing time \"2001-13-05\": month out of range"),
            (
                "2023-02-29 00:00:00 -0700 -07",
                "parsing time \"2023-02-29 00:00:00 -0700 -07\": day out of range",
            ),
            (
                "2023-01-01 24:00:00 -0700 -07",
                "parsing time \"2023-01-01 24:00:00 -0700 -07\": hour out of range",
            ),
            (
                "2023-01-01 00:00:00 -0700 -07x",
                "parsing time \"2023-01-01 00:00:00 -0700 -07x\": extra text: \"x\"",
            ),
            (
                "soon",
                "parsing time \"soon\" as \"2006-01-02 15:04:05 -0700 -07\": cannot parse \"soon\" as \"2006\"",
            ),
            (
                "2001-12-05",
                "parsing time \"2001-12-05\" as \"2006-01-02 15:04:05 -0700 -07\": cannot parse \"\" as \" \"",
            ),
        ] {
            assert_eq!(check_layout(text).unwrap_err(), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_checked_without_a_panic(text in "[0-9 :+-]{0,32}|\\PC{0,20}") {
            let _ignored = check_layout(&text).is_ok();
        }

        #[test]
        fn later_is_later_in_text_too(a in 0i64..250_000_000_000, b in 0i64..250_000_000_000) {
            prop_assert_eq!(a.cmp(&b), time_string(a).cmp(&time_string(b)));
        }
    }
}
