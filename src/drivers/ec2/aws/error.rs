//! What can go wrong with a call, in classes that matter to a start: whose fault it is, and whether it may be tried again.
//!
//! Pure. Codes are those of "Error codes for the Amazon EC2 API" and of "Common errors" of STS and Systems Manager.

use std::fmt;
use std::time::Duration;

use crate::printable::printable;
use crate::{FailureCause, StartError};

/// What kind of failure it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::drivers::ec2) enum Class {
    /// The provider has none of what was asked for, there and now.
    Capacity,
    /// The account may not have more.
    Quota,
    /// Too many requests; with the provider's hint, which is rare.
    Throttled { retry_after: Option<Duration> },
    /// There are none, or the provider does not take them.
    Credentials,
    /// The credentials are good and do not allow it.
    Denied,
    /// What was asked for makes no sense, or does not exist.
    BadParameter,
    /// What it is about is not there: `Invalid....NotFound`.
    NotFound,
    /// The account is being looked at by the provider.
    PendingVerification,
    /// There was no connection. Nothing was done.
    Unreachable,
    /// The provider has trouble of its own, or says what is not understood.
    Server,
    /// The connection was cut, or the answer makes no sense: nobody knows whether it was done.
    Lost,
    /// Whoever asked has given up.
    Cancelled,
    /// No answer in time.
    TimedOut,
}

/// Why a call did not do what it should. Cheap to clone: those who have asked together share it.
#[derive(Clone, Debug)]
pub(in crate::drivers::ec2) struct AwsError {
    pub(super) class: Class,
    pub(super) code: Option<Box<str>>,
    /// The action.
    pub(super) doing: String,
    /// What happened, in the provider's words if there are any.
    pub(super) message: String,
    pub(super) request_id: Option<Box<str>>,
    /// Whether a request was sent that may have been carried out.
    pub(super) outcome_unknown: bool,
}

impl AwsError {
    #[cfg(test)]
    pub(in crate::drivers::ec2) fn of(class: Class, doing: &str, message: &str) -> Self {
        Self::new(class, doing, message)
    }

    /// One that nobody has answered.
    pub(super) fn new(class: Class, doing: &str, message: impl Into<String>) -> Self {
        let outcome_unknown = matches!(class, Class::Lost | Class::Server);
        let (doing, message) = (doing.to_owned(), message.into());
        Self { class, code: None, doing, message, request_id: None, outcome_unknown }
    }

    /// An answer that makes no sense, or has not come: nobody knows what was done.
    pub(in crate::drivers::ec2) fn lost(doing: &str, message: impl Into<String>) -> Self {
        Self::new(Class::Lost, doing, message)
    }

    /// Whoever asked has given up, with nothing on its way.
    pub(in crate::drivers::ec2) fn cancelled(doing: &str) -> Self {
        Self::new(Class::Cancelled, doing, "cancelled")
    }

    /// There is no time left, with nothing on its way.
    pub(in crate::drivers::ec2) fn timed_out(doing: &str, limit: Duration) -> Self {
        Self::new(Class::TimedOut, doing, format!("not done within {limit:?}"))
    }

    /// What was looked for is not there: the code is that which the provider has where it is named.
    pub(in crate::drivers::ec2) fn not_found(doing: &str, code: &str, message: impl Into<String>) -> Self {
        Self { code: Some(code.into()), ..Self::new(Class::NotFound, doing, message) }
    }

    /// What an answer with an error in it says.
    pub(super) fn answered(
        doing: &str,
        status: u16,
        code: Option<&str>,
        message: &str,
        retry_after: Option<Duration>,
        request_id: Option<&str>,
    ) -> Self {
        let class = code.map_or_else(|| class_of_status(status), |code| class_of(code, status));
        let class = match class {
            Class::Throttled { .. } => Class::Throttled { retry_after },
            // The same code for who asks, and for what somebody else has and does not share: an image, an address.
            Class::Credentials if code == Some("AuthFailure") && message.contains("Not authorized for") => {
                Class::BadParameter
            }
            class => class,
        };
        let message = match message.trim() {
            "" => format!("the provider has answered with status {status} and does not say why"),
            message => without_secrets(message),
        };
        Self {
            class,
            code: code.map(|code| printable(code).into()),
            doing: doing.to_owned(),
            message,
            request_id: request_id.map(|id| printable(id).into()),
            // An error that the service itself has named is its answer, but for trouble of its own; and what was asked for
            // before with this token, and other words, may well have been done.
            outcome_unknown: class == Class::Server || code == Some(OTHER_WORDS),
        }
    }

    pub(in crate::drivers::ec2) fn class(&self) -> Class {
        self.class
    }

    /// The provider's code, such as `InvalidAMIID.NotFound`.
    pub(in crate::drivers::ec2) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// In the provider's words, if it has answered.
    pub(in crate::drivers::ec2) fn message(&self) -> &str {
        &self.message
    }

    /// Whether what was asked for may have been done, or may yet be.
    pub(in crate::drivers::ec2) fn outcome_unknown(&self) -> bool {
        self.outcome_unknown
    }

    /// The same, of several requests for one thing, one of which may have been carried out.
    pub(super) fn or_unknown(mut self, unknown: bool) -> Self {
        self.outcome_unknown |= unknown;
        self
    }

    /// Whether the service has looked at the request, and decided: what it says of who asks comes before that, and tells
    /// nothing of an earlier request that was carried out.
    pub(super) fn is_decided(&self) -> bool {
        let before = matches!(
            self.class,
            Class::Throttled { .. } | Class::Server | Class::Credentials | Class::Denied | Class::PendingVerification
        );
        self.code.is_some() && !before && self.code() != Some(OTHER_WORDS)
    }

    /// Whether it says that what was to be ended or looked at is not there any more.
    pub(in crate::drivers::ec2) fn already_gone(&self) -> bool {
        self.class == Class::NotFound
    }

    /// For a start: whose fault it is. What makes no sense is the build's if it came from the build's properties.
    pub(in crate::drivers::ec2) fn into_start_error(self, blame_build: bool) -> StartError {
        let cause = match self.class {
            Class::BadParameter | Class::NotFound if blame_build => return StartError::cannot(self),
            Class::Capacity => FailureCause::Capacity,
            Class::Quota => FailureCause::Quota,
            Class::Throttled { retry_after } => FailureCause::Throttled { retry_after },
            Class::Credentials | Class::Denied => FailureCause::Credentials,
            _ => FailureCause::Infrastructure,
        };
        StartError::failed(cause, self)
    }

    /// What a person can do about it.
    fn advice(&self) -> Option<&'static str> {
        match self.code() {
            Some("OptInRequired") => {
                return Some(
                    "somebody must accept the terms of this image in the provider's marketplace, or sign the account up \
                     for the service, once",
                );
            }
            Some("AuthFailure") if self.class == Class::Credentials => {
                return Some(
                    "are they those of this account, in force, is the clock of this machine right, and is the region \
                     enabled for the account?",
                );
            }
            _ => {}
        }
        Some(match self.class {
            Class::Capacity => {
                "offer other types, zones or a market, or wait; where it is not supported at all, waiting does not help"
            }
            Class::Quota => "ask for a higher quota in the console (Service Quotas), or let fewer machines run",
            Class::Throttled { .. } => "others in this account and region call as well; fewer calls, or a higher limit",
            Class::Credentials => "are they those of this account, in force, and is the clock of this machine right?",
            Class::Denied => "the policy must allow this action; the documentation of Ec2LatentWorker has one",
            Class::PendingVerification => {
                "the provider verifies the account; it takes minutes to hours and says so by mail"
            }
            Class::Unreachable => "is the region right, and is there a way to it from here?",
            _ => return None,
        })
    }
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.message)?;
        let said = [self.code.as_deref(), self.request_id.as_deref()].into_iter().flatten().collect::<Vec<_>>();
        if !said.is_empty() {
            write!(f, " ({})", said.join(", request "))?;
        }
        self.advice().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

impl std::error::Error for AwsError {}

/// The same token, with other parameters: what was asked for with the first ones is there.
const OTHER_WORDS: &str = "IdempotentParameterMismatch";

/// Without a code it is not the service that speaks, but what stands before it: it knows nothing of what was asked for.
fn class_of_status(status: u16) -> Class {
    match status {
        429 => Class::Throttled { retry_after: None },
        _ => Class::Server,
    }
}

fn class_of(code: &str, status: u16) -> Class {
    match code {
        "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacity"
        | "InsufficientAddressCapacity"
        | "InsufficientFreeAddressesInSubnet"
        | "SpotMaxPriceTooLow"
        | "Unsupported"
        | "UnfulfillableCapacity"
        | "InsufficientVolumeCapacity"
        | "InsufficientCapacityOnHost"
        | "ReservationCapacityExceeded" => Class::Capacity,
        "InstanceLimitExceeded"
        | "VcpuLimitExceeded"
        | "MaxSpotInstanceCountExceeded"
        | "MaxSpotFleetRequestCountExceeded"
        | "VolumeLimitExceeded"
        | "MaxIOPSLimitExceeded"
        | "AddressLimitExceeded"
        | "NetworkInterfaceLimitExceeded"
        | "HostLimitExceeded"
        | "InstanceTypeLimitExceeded"
        | "ResourceLimitExceeded"
        | "ResourceCountExceeded"
        | "ParameterLimitExceeded" => Class::Quota,
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "RequestThrottled"
        | "SlowDown"
        | "EC2ThrottledException"
        | "BandwidthLimitExceeded"
        | "PriorRequestNotComplete"
        | "TooManyUpdates" => Class::Throttled { retry_after: None },
        // The service is not used by this account yet, the terms of an image were not accepted, a role is missing.
        "OptInRequired" | "AuthFailure.ServiceLinkedRoleCreationNotPermitted" => Class::Denied,
        "AuthFailure"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignature"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "InvalidIdentityToken"
        | "IDPRejectedClaim"
        | "InvalidAccessKeyId" => Class::Credentials,
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" | "Blocked" | "NotAuthorized" => {
            Class::Denied
        }
        "PendingVerification" => Class::PendingVerification,
        "InternalError"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "Unavailable"
        | "InternalServerError"
        | "RequestTimeout"
        | "ServiceUnavailableException" => Class::Server,
        "ParameterNotFound" | "NoSuchEntity" => Class::NotFound,
        _ if code.ends_with(".NotFound") || code.ends_with("NotFoundException") => Class::NotFound,
        _ if status >= 500 => Class::Server,
        _ if code.ends_with("LimitExceeded") || code.ends_with("LimitExceededException") => Class::Quota,
        _ => Class::BadParameter,
    }
}

/// A denial can have a long message in it that only the provider reads ("DecodeAuthorizationMessage"); the answer to a wrong
/// signature repeats the request that was signed, with the token of the session in it.
fn without_secrets(message: &str) -> String {
    const MARKS: [&str; 3] =
        ["Encoded authorization failure message:", "The Canonical String for this request", "The String-to-Sign"];
    let end = MARKS.iter().filter_map(|mark| message.find(mark)).min().unwrap_or(message.len());
    let shown: String = message[..end].trim_end().chars().take(2000).collect();
    printable(&shown).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: &str, status: u16) -> AwsError {
        AwsError::answered("RunInstances", status, Some(code), "the words", None, Some("r-1"))
    }

    fn cause(error: AwsError, blame_build: bool) -> Option<FailureCause> {
        match error.into_start_error(blame_build) {
            StartError::CannotSubstantiate(_) => None,
            StartError::FailedToSubstantiate { cause, .. } => Some(cause),
        }
    }

    #[test]
    fn codes_have_classes_and_these_have_causes() {
        for (code, status, expected) in [
            ("InsufficientInstanceCapacity", 500, FailureCause::Capacity),
            ("VcpuLimitExceeded", 400, FailureCause::Quota),
            ("SomethingNewLimitExceeded", 400, FailureCause::Quota),
            ("RequestLimitExceeded", 503, FailureCause::Throttled { retry_after: None }),
            ("AuthFailure", 401, FailureCause::Credentials),
            ("UnauthorizedOperation", 403, FailureCause::Credentials),
            ("PendingVerification", 400, FailureCause::Infrastructure),
            ("InternalError", 500, FailureCause::Infrastructure),
            ("WhatNobodyKnows", 503, FailureCause::Infrastructure),
            ("InvalidAMIID.NotFound", 400, FailureCause::Infrastructure),
        ] {
            assert_eq!(cause(answered(code, status), false), Some(expected), "{code}");
        }
        for code in ["InvalidAMIID.NotFound", "InvalidParameterValue", "InvalidBlockDeviceMapping", "WhatNobodyKnows"] {
            assert_eq!(cause(answered(code, 400), true), None, "{code}");
        }
        assert_eq!(cause(answered("InsufficientInstanceCapacity", 500), true), Some(FailureCause::Capacity));
    }

    #[test]
    fn only_what_the_service_has_decided_is_known() {
        assert!(!answered("InsufficientInstanceCapacity", 500).outcome_unknown());
        assert!(!answered("RequestLimitExceeded", 503).outcome_unknown());
        assert!(answered("InternalError", 500).outcome_unknown());
        assert!(answered("IdempotentParameterMismatch", 400).outcome_unknown());
        // Who asks is looked at before what is asked for, and before the token of an earlier request.
        for code in
            ["AuthFailure", "ExpiredToken", "UnauthorizedOperation", "PendingVerification", "RequestLimitExceeded"]
        {
            assert!(!answered(code, 400).is_decided(), "{code}");
        }
        assert!(answered("InsufficientInstanceCapacity", 500).is_decided());
        assert!(AwsError::answered("x", 502, None, "", None, None).outcome_unknown());
        assert!(!AwsError::answered("x", 404, None, "", None, None).already_gone(), "that is said by a proxy");
        assert!(AwsError::new(Class::Lost, "x", "cut").outcome_unknown());
        assert!(!AwsError::new(Class::Unreachable, "x", "refused").outcome_unknown());
    }

    #[test]
    fn it_says_what_happened_and_what_to_do() {
        let text = answered("VcpuLimitExceeded", 400).to_string();
        assert!(text.starts_with("RunInstances: the words (VcpuLimitExceeded, request r-1); "), "{text}");
        assert!(text.contains("quota"), "{text}");
        let text = answered("OptInRequired", 401).to_string();
        assert!(text.contains("accept the terms of this image") && !text.contains("policy"), "{text}");
        let text = answered("AuthFailure", 401).to_string();
        assert!(text.contains("in force") && text.contains("is the region enabled for the account?"), "{text}");
        let denied =
            "You are not authorized. Encoded authorization failure message: AAAA".to_owned() + &"x".repeat(5000);
        let text = AwsError::answered("x", 403, Some("UnauthorizedOperation"), &denied, None, None).to_string();
        assert!(text.len() < 300 && text.contains("You are not authorized.") && !text.contains("AAAA"), "{text}");
        let wrong = "The request signature does not match. Consult the documentation.\n\nThe Canonical String for this \
                     request should have been\n'POST\n/\n\nx-amz-security-token:HUSH'\n\nThe String-to-Sign should have been x";
        let text = AwsError::answered("x", 403, Some("SignatureDoesNotMatch"), wrong, None, None).to_string();
        assert!(text.contains("does not match") && !text.contains("HUSH"), "{text}");
    }
}
