//! Which requests a fault is for, and what it does to them. Pure but for the closure that looks at a path.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What is done to a request, or to its answer; see [`HttpRule`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum HttpFault {
    /// It is not forwarded; the client gets this status and an empty body.
    Status(u16),
    /// It is not forwarded; the client gets 429, with this many whole seconds in `Retry-After`.
    TooManyRequests {
        /// How long the client is asked to wait.
        retry_after: Duration,
    },
    /// It is forwarded and done; its answer is thrown away, and the client gets this status and an empty body.
    StatusAfter(u16),
    /// It is not forwarded; the connection is cut.
    CutBefore,
    /// It is forwarded and done; the connection is cut in place of the answer.
    CutAfter,
    /// It is forwarded and done; the connection is cut in the middle of the first line of the answer.
    CutMidAnswer,
    /// It is forwarded and done; the connection is closed after this many bytes of the body as it is on the wire (the
    /// sizes of chunks included).
    TruncatedBody(usize),
    /// It is held back for this long. When the client has gone by then it is never forwarded.
    DelayBefore(Duration),
    /// It is forwarded and done, and its answer is held back for this long.
    DelayAnswer(Duration),
    /// The answer comes in pieces of so many bytes, with a pause after each.
    Trickle {
        /// The size of a piece; at least 1.
        bytes: usize,
        /// The pause.
        pause: Duration,
    },
    /// It is not forwarded, and nothing is ever said, until the rule is taken away: then the connection is cut.
    Hang,
}

type FitsPath = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A fault, and the requests that it is for: all of them, unless something else is said.
///
/// ```
/// use std::time::Duration;
/// use latent_worker::testing::{HttpFault, HttpRule};
///
/// // The second and third create: the machine is made, and nobody hears of it.
/// let rule = HttpRule::new(HttpFault::StatusAfter(500)).method("POST").path_contains("/create").skip(1).times(2);
/// # let _ = rule;
/// ```
#[derive(Clone)]
pub struct HttpRule {
    pub(super) fault: HttpFault,
    method: Option<String>,
    path: Option<FitsPath>,
    pub(super) skip: u64,
    pub(super) times: Option<u64>,
}

impl HttpRule {
    /// For every request.
    pub fn new(fault: HttpFault) -> Self {
        Self { fault, method: None, path: None, skip: 0, times: None }
    }

    /// Only for this method.
    #[must_use]
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.method = Some(method.into());
        self
    }

    /// Only when the path, with its query, contains this.
    #[must_use]
    pub fn path_contains(self, part: impl Into<String>) -> Self {
        let part = part.into();
        self.path(move |path| path.contains(&part))
    }

    /// Only when this says so of the path with its query. It is called on a thread of the proxy; a panic counts as no.
    #[must_use]
    pub fn path(mut self, fits: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.path = Some(Arc::new(fits));
        self
    }

    /// Lets the first so many requests that fit go through.
    #[must_use]
    pub fn skip(mut self, requests: u64) -> Self {
        self.skip = requests;
        self
    }

    /// At most this often; as long as the rule is there by default.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Whether the request is one of those that it is for, however often it was used.
    pub(super) fn fits(&self, method: &str, target: &str) -> bool {
        self.method.as_deref().is_none_or(|wanted| wanted == method)
            && self.path.as_ref().is_none_or(|fits| {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fits(target))).unwrap_or(false)
            })
    }
}

impl fmt::Debug for HttpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRule")
            .field("fault", &self.fault)
            .field("method", &self.method)
            .field("path", &self.path.is_some())
            .field("skip", &self.skip)
            .field("times", &self.times)
            .finish()
    }
}

/// How often a rule has met requests that fit; decides which of them it is used for.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Uses {
    seen: u64,
    pub(super) used: u64,
}

impl Uses {
    /// One more request that fits; whether the rule is used for it.
    pub(super) fn next(&mut self, skip: u64, times: Option<u64>) -> bool {
        self.seen += 1;
        let used = self.seen > skip && times.is_none_or(|times| self.used < times);
        self.used += u64::from(used);
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_for_its_method_and_path() {
        let rule = HttpRule::new(HttpFault::Hang).method("POST").path_contains("/create?");
        assert!(rule.fits("POST", "/v1/create?name=x"));
        assert!(!rule.fits("post", "/v1/create?name=x"), "methods are case-sensitive");
        assert!(!rule.fits("GET", "/v1/create?name=x"));
        assert!(!rule.fits("POST", "/v1/create"));
        assert!(HttpRule::new(HttpFault::Hang).fits("GET", "/"));
        assert!(!HttpRule::new(HttpFault::Hang).path(|_| panic!("a test")).fits("GET", "/"));
    }

    #[test]
    fn a_rule_lets_some_go_and_is_used_so_often() {
        let used = |skip, times| {
            let mut uses = Uses::default();
            (0..5).map(|_| uses.next(skip, times)).collect::<Vec<_>>()
        };
        assert_eq!(used(0, None), [true; 5]);
        assert_eq!(used(1, Some(2)), [false, true, true, false, false]);
        assert_eq!(used(0, Some(0)), [false; 5]);
    }
}
