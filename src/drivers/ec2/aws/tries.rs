//! Whether a call that has failed is made again, and when.
//!
//! Pure. The pauses are those of "exponential backoff with full jitter" (AWS Architecture Blog), which the provider asks for.

use std::time::Duration;

use super::error::{AwsError, Class};
use super::query::Repeat;

const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(20);
/// A call that has failed so often will not do better soon; whoever asked may begin again.
const MOST: u32 = 10;

/// After this long it is made again, or not at all. `failures` counts this one; `chance` is in 0..1.
pub(super) fn pause(error: &AwsError, repeat: Repeat, failures: u32, chance: f64) -> Option<Duration> {
    let again = match error.class() {
        // Nothing was done.
        Class::Throttled { .. } | Class::Unreachable => true,
        // It may have been.
        Class::Server | Class::Lost | Class::TimedOut => repeat == Repeat::Harmless,
        _ => false,
    };
    if !again || failures >= MOST {
        return None;
    }
    let most = (SHORTEST * 2_u32.saturating_pow(failures.min(16))).min(LONGEST);
    let pause = most.mul_f64(chance.clamp(0.0, 1.0));
    Some(match error.class() {
        Class::Throttled { retry_after: Some(hint) } => pause.max(hint.min(LONGEST)),
        _ => pause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(class: Class) -> AwsError {
        AwsError::new(class, "x", "y")
    }

    #[test]
    fn what_may_have_been_done_is_only_repeated_when_that_does_no_harm() {
        for (class, harmless, never) in [
            (Class::Throttled { retry_after: None }, true, true),
            (Class::Unreachable, true, true),
            (Class::Server, true, false),
            (Class::Lost, true, false),
            (Class::Capacity, false, false),
            (Class::BadParameter, false, false),
            (Class::Credentials, false, false),
            (Class::Cancelled, false, false),
            (Class::TimedOut, true, false),
        ] {
            assert_eq!(pause(&error(class), Repeat::Harmless, 1, 0.5).is_some(), harmless, "{class:?}");
            assert_eq!(pause(&error(class), Repeat::Never, 1, 0.5).is_some(), never, "{class:?}");
        }
    }

    #[test]
    fn pauses_grow_up_to_a_limit_and_end() {
        let pauses: Vec<_> =
            (1..).map_while(|failures| pause(&error(Class::Server), Repeat::Harmless, failures, 1.0)).collect();
        let expected = [400, 800, 1_600, 3_200, 6_400, 12_800, 20_000, 20_000, 20_000].map(Duration::from_millis);
        assert_eq!(pauses, expected);
        assert_eq!(pause(&error(Class::Server), Repeat::Harmless, 3, 0.0), Some(Duration::ZERO));
        let hint = error(Class::Throttled { retry_after: Some(Duration::from_secs(5)) });
        assert_eq!(pause(&hint, Repeat::Never, 1, 1.0), Some(Duration::from_secs(5)));
        let hint = error(Class::Throttled { retry_after: Some(Duration::from_secs(5000)) });
        assert_eq!(pause(&hint, Repeat::Never, 1, 1.0), Some(LONGEST), "whoever asked learns of the hint at the end");
    }
}
