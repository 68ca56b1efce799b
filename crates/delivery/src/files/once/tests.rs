use std::cell::RefCell;
use std::path::Path;
use std::time::SystemTime;

use super::*;

/// Asks somebody who gives these answers, the last one for ever, and tells how often.
async fn asked(mut answers: Vec<Result<u32, OnceError>>) -> (Result<u32, OnceError>, usize) {
    answers.reverse();
    let (answers, count) = (RefCell::new(answers), RefCell::new(0));
    let clock = Clock::derived(SystemTime::UNIX_EPOCH);
    let source = Source::new(Path::new("/nobody.sock"), clock, Entropy::from_seed(1));
    let given = repeat(source, Instant::now() + PATIENCE, || async {
        *count.borrow_mut() += 1;
        let next = answers.borrow_mut().pop();
        match next {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    });
    let given = given.await;
    (given, count.into_inner())
}

fn status(code: Code) -> Result<u32, OnceError> {
    Err(OnceError::refused(Status::new(code, "said so")))
}

fn no_hint() -> Result<u32, OnceError> {
    Err(OnceError::Unusable { source: RenderError::Hint { hint: "db".to_owned(), count: 1 } })
}

#[tokio::test(start_paused = true)]
async fn whatever_may_pass_is_asked_again() {
    use Code::{DeadlineExceeded, Internal, PermissionDenied, ResourceExhausted, Unavailable, Unknown};
    for code in [PermissionDenied, Unavailable, Unknown, Internal, DeadlineExceeded, ResourceExhausted] {
        let (given, count) = asked(vec![status(code), no_hint(), Ok(7)]).await;
        assert_eq!((given.unwrap(), count), (7, 3), "{code:?}");
    }
    for code in [Code::InvalidArgument, Code::Unimplemented] {
        let (given, count) = asked(vec![status(code), Ok(7)]).await;
        assert!(given.is_err() && count == 1, "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_is_left_after_a_minute_with_the_last_cause() {
    let began = Instant::now();
    let (given, _) = asked(vec![no_hint()]).await;
    assert!(matches!(given, Err(OnceError::Unusable { .. })), "{given:?}");
    let (given, _) = asked(vec![]).await;
    assert!(given.unwrap_err().to_string().contains("did not answer"));
    assert!(began.elapsed() <= 2 * PATIENCE + Duration::from_millis(10), "{:?}", began.elapsed());
}
