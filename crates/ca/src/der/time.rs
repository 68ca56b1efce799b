//! Dates in certificates.

use super::{Writer, tag};

/// Appends a `Time` for seconds since 1970.
pub(crate) fn write(writer: &mut Writer, unix: i64) {
    // RFC 5280 §4.1.2.5: "CAs conforming to this profile MUST always encode certificate validity dates through
    // the year 2049 as UTCTime; certificate validity dates in 2050 or later MUST be encoded as
    // GeneralizedTime."
    let unix = unix.clamp(FIRST, LAST);
    let (year, month, day) = civil(unix.div_euclid(86_400));
    let second = unix.rem_euclid(86_400);
    let two = |value: i64| [digit(value / 10), digit(value)];
    let utc = (1950..2050).contains(&year);
    let open = writer.begin(if utc { tag::UTC_TIME } else { tag::GENERALIZED_TIME });
    if !utc {
        writer.raw(&two(year / 100));
    }
    for part in [year, month, day, second / 3600, second / 60 % 60, second % 60] {
        writer.raw(&two(part % 100));
    }
    writer.raw(b"Z");
    writer.end(open);
}

/// Seconds since 1970 of a clock reading; times outside what a certificate can say are clamped by [`write`].
pub(crate) fn unix(time: std::time::SystemTime) -> i64 {
    match time.duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const FIRST: i64 = -62_167_219_200;
const LAST: i64 = 253_402_300_799;

fn digit(value: i64) -> u8 {
    b'0' + (value % 10) as u8
}

/// Year, month and day of a day counted from 1970-01-01, by counting in eras of 400 years from March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_form_their_year_asks_for() {
        let check = |unix: i64, expected: &str| {
            let mut writer = Writer::with_capacity(20);
            write(&mut writer, unix);
            let bytes = writer.into_bytes();
            let tag = if expected.len() == 13 { tag::UTC_TIME } else { tag::GENERALIZED_TIME };
            assert_eq!((bytes[0], std::str::from_utf8(&bytes[2..]).unwrap()), (tag, expected));
        };
        check(0, "700101000000Z");
        check(951_782_400, "000229000000Z");
        check(1_700_000_000, "231114221320Z");
        check(2_524_607_999, "491231235959Z");
        check(2_524_608_000, "20500101000000Z");
        check(-1, "691231235959Z");
        check(i64::MAX, "99991231235959Z");
        check(i64::MIN, "00000101000000Z");
    }
}
