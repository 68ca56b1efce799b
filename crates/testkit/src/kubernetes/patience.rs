//! Waiting for what comes by itself, within a bound.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// Tries until it succeeds.
///
/// # Panics
///
/// With what the last attempt said, when it does not within `most`.
#[track_caller]
pub(super) fn until<T, W: Display>(most: Duration, mut attempt: impl FnMut() -> Result<T, W>) -> T {
    let end = Instant::now() + most;
    loop {
        match attempt() {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < end, "not within {most:?}: {why}"),
        }
        std::thread::sleep(PAUSE);
    }
}

const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_until_it_succeeds() {
        let mut left = 3;
        let found = until(Duration::from_secs(60), || {
            left -= 1;
            if left == 0 { Ok("there") } else { Err("not yet") }
        });
        assert_eq!((found, left), ("there", 0));
    }

    #[test]
    #[should_panic(expected = "not yet")]
    fn what_does_not_come_is_told() {
        until::<(), _>(Duration::ZERO, || Err("not yet"));
    }
}
