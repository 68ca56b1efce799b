//! Times in the form that SPIRE's tools send: `2026-01-02 15:04:05 +0000 +00`.

use time::format_description::StaticFormatDescription;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, error::Parse};

const FORMAT: StaticFormatDescription = format_description!(
    "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
);

/// The Unix time that `text` names. The second, shorter offset at the end repeats the first and is not read.
///
/// # Errors
///
/// The text has another form.
pub(crate) fn parse(text: &str) -> Result<i64, Parse> {
    let end = text.match_indices(' ').nth(2).map_or(text.len(), |(at, _)| at);
    OffsetDateTime::parse(&text[..end], FORMAT).map(OffsetDateTime::unix_timestamp)
}

/// `2026-01-02T15:04:05Z`; empty for a time that has no such form.
pub(crate) fn rfc3339(unix: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(unix).ok();
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_counts() {
        assert_eq!(parse("1970-01-02 00:00:00 +0000 +00").unwrap(), 86_400);
        assert_eq!(parse("1970-01-02 00:00:00 +0100 +01").unwrap(), 82_800);
        assert!(parse("tomorrow").is_err());
    }
}
