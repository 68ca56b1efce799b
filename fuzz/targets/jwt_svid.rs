//! A token that is read can be put together again, and its checks hold at every time.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use vouchsafe_types::JwtSvid;

fuzz_target!(|text: &str| {
    let Ok(svid) = JwtSvid::parse_unverified(text) else { return };
    assert_eq!(svid.token.as_str(), text);
    assert!(text.starts_with(svid.signing_input()) && !svid.signature().is_empty());
    assert!(!svid.audience.is_empty() && svid.check_audience(&svid.audience).is_ok());
    assert!(svid.check_times(svid.expires_at, Duration::ZERO).is_err());
    for now in [i64::MIN, -1, 0, i64::MAX] {
        for leeway in [Duration::ZERO, Duration::MAX] {
            assert!(svid.check_times(now, leeway).is_ok() || svid.check_times(now, leeway).is_err());
        }
    }
    assert!(!format!("{svid:?}").contains(text));
});
