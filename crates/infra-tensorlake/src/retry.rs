//! What may be sent again, and when.
//!
//! Only what provably did not arrive, or what does no harm when it arrives twice. A started process is
//! never started again.

use std::time::Duration;

use crate::failure::RequestError;

/// The codes that say that nothing was begun.
const NOT_BEGUN: [&str; 4] = [
    "SANDBOX_UPSTREAM_ERROR",
    "SANDBOX_NOT_READY",
    "SANDBOX_UNREACHABLE",
    "AUTH_SERVICE_UNAVAILABLE",
];

/// What a request does when it arrives twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeatable {
    /// The same as once.
    Yes,
    /// Something else: a second sandbox, a second process.
    No,
}

const FIRST_WAIT: Duration = Duration::from_millis(150);
const LONGEST_WAIT: Duration = Duration::from_millis(3750);
/// What a server asks for beyond this is not waited for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// How often a request is sent at the most.
pub(crate) const ATTEMPTS: u32 = 6;

/// How long to wait before the next attempt; `None` where there must be none.
pub(crate) fn wait_before_next(
    error: &RequestError,
    repeatable: Repeatable,
    attempt: u32,
) -> Option<Duration> {
    if attempt >= ATTEMPTS || !may_be_sent_again(error, repeatable) {
        return None;
    }
    let backed_off = FIRST_WAIT.saturating_mul(1 << (attempt - 1).min(8)).min(LONGEST_WAIT);
    let jittered = backed_off.mul_f64(0.5 + fastrand::f64() / 2.0);
    match error {
        RequestError::Status { retry_after: Some(asked), .. } => {
            (*asked <= LONGEST_RETRY_AFTER).then(|| jittered.max(*asked))
        }
        _ => Some(jittered),
    }
}

fn may_be_sent_again(error: &RequestError, repeatable: Repeatable) -> bool {
    match error {
        RequestError::Connect(_) => true,
        RequestError::Status { status, code, .. } => {
            let not_begun = code.as_deref().is_some_and(|code| NOT_BEGUN.contains(&code));
            let passing = matches!(status, 429 | 502 | 503 | 504);
            (*status >= 500 && not_begun) || (repeatable == Repeatable::Yes && passing)
        }
        RequestError::Broken(_) | RequestError::Silent { .. } => repeatable == Repeatable::Yes,
        RequestError::Unreadable(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, code: Option<&str>, retry_after: Option<u64>) -> RequestError {
        RequestError::Status {
            status,
            code: code.map(str::to_owned),
            message: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn is_sent_again(error: &RequestError, repeatable: Repeatable) -> bool {
        wait_before_next(error, repeatable, 1).is_some()
    }

    #[test]
    fn what_starts_something_is_sent_again_only_when_nothing_was_begun() {
        assert!(is_sent_again(&status(503, Some("SANDBOX_NOT_READY"), None), Repeatable::No));
        for error in [
            status(503, None, None),
            status(503, Some("SANDBOX_NOT_RUNNING"), None),
            status(429, None, None),
            status(500, None, None),
            status(409, Some("SANDBOX_NOT_READY"), None),
            RequestError::Silent { limit: Duration::ZERO },
        ] {
            assert!(!is_sent_again(&error, Repeatable::No), "{error:?}");
        }
    }

    #[test]
    fn what_does_no_harm_is_sent_again_after_passing_troubles() {
        for code in [429, 502, 503, 504] {
            assert!(is_sent_again(&status(code, None, None), Repeatable::Yes), "{code}");
        }
        for code in [400, 401, 403, 404, 409, 500] {
            assert!(!is_sent_again(&status(code, None, None), Repeatable::Yes), "{code}");
        }
    }

    #[test]
    fn a_server_that_asks_for_time_gets_it_within_reason() {
        let wait = wait_before_next(&status(503, None, Some(2)), Repeatable::Yes, 1);
        assert!(wait.is_some_and(|wait| wait >= Duration::from_secs(2)));
        assert_eq!(wait_before_next(&status(503, None, Some(3600)), Repeatable::Yes, 1), None);
    }

    #[test]
    fn attempts_end() {
        let error = status(503, None, None);
        assert!(wait_before_next(&error, Repeatable::Yes, ATTEMPTS - 1).is_some());
        assert_eq!(wait_before_next(&error, Repeatable::Yes, ATTEMPTS), None);
    }
}
