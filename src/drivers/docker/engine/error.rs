//! What can go wrong with a call to an engine.

use std::time::Duration;

use crate::Secret;

/// Why a call to an engine did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// Nothing was done: there is no connection. The text says why, and what to do.
    #[error("{0}")]
    Unreachable(String),
    /// The engine and this library have no version of the API in common. Nothing was done.
    #[error("{0}")]
    Version(String),
    /// The engine's own answer: 400 bad parameter, 404 not found, 409 conflict, 429 too many requests, 5xx its own trouble.
    #[error("{doing}: {message} (the engine answered {status})")]
    Status { doing: String, status: u16, message: String, retry_after: Option<Duration> },
    /// No engine can be asked for this. Nothing was done.
    #[error("{doing}: {message}")]
    BadParameter { doing: String, message: String },
    /// Reported in the middle of a pull or a build, whose answer had begun well; or with the end of a wait.
    #[error("{doing}: {message}")]
    Reported { doing: String, message: String },
    /// The connection was cut, so nobody knows whether it was done.
    #[error("{doing}: the connection to the engine was cut: {reason}")]
    Cut { doing: String, reason: String },
    /// Nobody knows whether it was done.
    #[error("{doing}: the engine did not answer within {limit:?}")]
    TimedOut { doing: String, limit: Duration },
    /// Nothing was done if nothing was sent; otherwise nobody knows.
    #[error("{doing}: cancelled")]
    Cancelled { doing: String, sent: bool },
    /// Not what an engine answers.
    #[error("{doing}: the answer makes no sense: {reason}")]
    Malformed { doing: String, reason: String },
    /// The directory that an image is to be built from cannot be read. No image was made.
    #[error("{0}")]
    Context(String),
}

impl EngineError {
    /// Removes this secret from the error: an engine, or a proxy before it, may repeat what it was sent.
    pub(crate) fn without(mut self, secret: &Secret) -> Self {
        if let Self::Status { message, .. }
        | Self::Reported { message, .. }
        | Self::Malformed { reason: message, .. }
        | Self::Cut { reason: message, .. } = &mut self
        {
            *message = message.replace(secret.expose(), "[secret]");
        }
        self
    }

    /// The status of the engine's answer, if it was one.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// There is no such thing; or, from something that stands before the engine, no such path.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// The engine knows no such container. Podman (4.3) answers 500 when one goes while it looks. A 404 without the words
    /// is not the engine's: what it is about may well be there.
    pub(crate) fn is_no_such_container(&self) -> bool {
        matches!(self.status(), Some(404 | 500)) && self.says(&["no such container"])
    }

    /// There is no such image for a container to be made from.
    pub(crate) fn is_no_such_image(&self) -> bool {
        matches!(self.status(), Some(404 | 500)) && self.says(&["no such image", "image not known"])
    }

    /// Whether what was asked for may be done, or may yet be, although there is no answer that says so. What stands before
    /// an engine answers for it with 502 to 504.
    pub(crate) fn outcome_unknown(&self) -> bool {
        match self {
            Self::Cut { .. } | Self::TimedOut { .. } | Self::Malformed { .. } => true,
            Self::Cancelled { sent, .. } => *sent,
            Self::Status { status, .. } => (502..=504).contains(status),
            _ => false,
        }
    }

    /// What the engine says, in its own words; what was asked of it, with the names of users, is not part of that.
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Status { message, .. } | Self::Reported { message, .. } => message,
            _ => "",
        }
    }

    /// Whether any of these, in lower case, is among the engine's words.
    pub(crate) fn says(&self, any: &[&str]) -> bool {
        let words = self.words().to_lowercase();
        any.iter().any(|these| words.contains(these))
    }

    /// There are too many requests, which mostly a proxy before the engine says; with its hint when to come again.
    pub(crate) fn throttled(&self) -> Option<Option<Duration>> {
        match self {
            Self::Status { status: 429, retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// The name is in use, or what is asked for contradicts what is: 409. Podman (4.3) answers 500 to a name in use.
    pub(crate) fn is_conflict(&self) -> bool {
        match self {
            Self::Status { status: 409, .. } => true,
            Self::Status { status: 500, message, .. } => message.contains("already in use"),
            _ => false,
        }
    }

    pub(crate) fn is_bad_parameter(&self) -> bool {
        self.status() == Some(400) || matches!(self, Self::BadParameter { .. })
    }
}
