//! What an engine's answer means: whose fault a start that fails is, and how a container is that should run.
//!
//! Pure. Engines tell most of it in words alone; the words here are those of Docker 20.10 to 28, of registries
//! (distribution's error codes) and of Podman 4.3.

use super::engine::{EngineError, State};
use crate::{ByteSize, FailureCause, Health, StartError};

/// A container could not be made or started.
pub(super) fn of_container(error: EngineError) -> StartError {
    if let Some(cause) = of_engine(&error) {
        return StartError::failed(cause, error);
    }
    // That there is no such image is none: it was there when it was looked at, and somebody removes it.
    let nothing_such = error.is_not_found() && !error.is_no_such_container() && !error.is_no_such_image();
    let settings = error.is_bad_parameter()
        // A network that the settings name, say.
        || nothing_such
        || (error.status() == Some(500) && error.says(BAD_SETTING));
    if settings { StartError::cannot(error) } else { StartError::infrastructure(error) }
}

/// Settings that make no sense, told as the engine's own trouble: some by Docker (20.10), nearly all by Podman (4.3). Each
/// was seen.
const BAD_SETTING: &[&str] = &[
    "invalid volume specification",
    "invalid mount config",
    "invalid container path",
    "cannot unmarshal",
    "no command or entrypoint",
    "command that was not found",
    "unable to find network",
    "unable to set memory limit",
    "gathering device information",
    "stat /dev/",
    "unable to find user",
];

/// An image could not be looked at or pulled.
pub(super) fn of_image(error: EngineError, with_credentials: bool) -> StartError {
    match of_fetch(&error, with_credentials) {
        Fault::Builds => StartError::cannot(error),
        Fault::Not(cause) => StartError::failed(cause, error),
        Fault::Unknown => StartError::infrastructure(error),
    }
}

/// An image could not be built. A step that has failed, or a recipe that makes no sense, will fail again.
pub(super) fn of_build(error: EngineError) -> StartError {
    let reported = matches!(error, EngineError::Reported { .. });
    // Docker names the command of the step, whose words say nothing about the cause; so does Podman.
    let step = reported && error.says(&["returned a non-zero code", "error while running runtime"]);
    match of_fetch(&error, false) {
        Fault::Not(FailureCause::Capacity) => StartError::failed(FailureCause::Capacity, error),
        _ if step => StartError::cannot(error),
        Fault::Not(cause) => StartError::failed(cause, error),
        Fault::Unknown if !reported => StartError::infrastructure(error),
        Fault::Builds | Fault::Unknown => StartError::cannot(error),
    }
}

/// Whose fault a failure is, as far as its words tell.
enum Fault {
    Builds,
    Not(FailureCause),
    Unknown,
}

fn of_fetch(error: &EngineError, with_credentials: bool) -> Fault {
    if matches!(error, EngineError::Context(_)) || error.is_bad_parameter() {
        return Fault::Builds;
    }
    if let Some(cause) = of_engine(error) {
        return Fault::Not(cause);
    }
    if error.says(&["toomanyrequests", "too many requests", "rate limit"]) {
        return Fault::Not(FailureCause::Throttled { retry_after: None });
    }
    if error.says(NETWORK) {
        return Fault::Not(FailureCause::Infrastructure);
    }
    // A registry says the same of what is not there and of what it does not show to everybody.
    let denied = error.says(&["denied", "unauthorized", "no basic auth credentials", "authentication required"]);
    if denied && (with_credentials || !error.says(&["does not exist", "not found"])) {
        return Fault::Not(FailureCause::Credentials);
    }
    if error.is_not_found() || error.says(MISSING) {
        return Fault::Builds;
    }
    Fault::Unknown
}

/// What a registry, or an engine, says of images that it does not have.
const MISSING: &[&str] = &[
    "manifest unknown",
    "name unknown",
    "does not exist",
    "no matching manifest",
    "invalid reference",
    "must be lowercase",
    "manifest for",
    "not found: manifest",
];

/// Trouble on the way to a registry, or of its own: in the words of Go's network packages and of distribution's client.
const NETWORK: &[&str] = &[
    "dial tcp",
    "i/o timeout",
    "tls handshake",
    "connection refused",
    "connection reset",
    "server misbehaving",
    "no such host",
    "temporary failure",
    "network is unreachable",
    "no route to host",
    "context deadline exceeded",
    "client.timeout",
    "unexpected eof",
    "http: server gave http response to https client",
    "x509:",
    "received unexpected http status: 5",
    "internal server error",
    "bad gateway",
    "service unavailable",
    "gateway timeout",
];

/// What an engine has too little of, whatever it was asked for.
fn of_engine(error: &EngineError) -> Option<FailureCause> {
    if error.says(&["no space left on device"]) {
        return Some(FailureCause::Capacity);
    }
    error.throttled().map(|retry_after| FailureCause::Throttled { retry_after })
}

/// Whether a container that was started may still come to something. The log is asked for when it may not.
pub(super) fn of_state(name: &str, state: &State, memory: ByteSize, log: impl FnOnce() -> String) -> Health {
    if state.running || matches!(state.status.as_str(), "created" | "paused" | "restarting") {
        return Health::Good;
    }
    let limit = if memory.bytes() > 0 { format!("; its limit is {memory}") } else { String::new() };
    let what = match (state.oom_killed, state.exit_code) {
        (true, code) => format!("has run out of memory (exit code {code}{limit})"),
        // SIGKILL from nobody that we know. Podman does not say why.
        (false, 137) => format!("was killed (exit code 137), perhaps for want of memory{limit}"),
        (false, code) => match state.status.as_str() {
            "exited" => format!("has ended with exit code {code}"),
            other => format!("is {other}, with exit code {code}"),
        },
    };
    let error = if state.error.is_empty() { String::new() } else { format!(": {}", state.error) };
    let log = log();
    let log = log.trim_end();
    let log = if log.is_empty() { "; its log is empty".to_owned() } else { format!("; the end of its log:\n{log}") };
    Health::bad(format!("container {name} {what}{error}{log}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn status(status: u16, message: &str) -> EngineError {
        EngineError::Status { doing: "do".into(), status, message: message.into(), retry_after: None }
    }

    fn reported(message: &str) -> EngineError {
        EngineError::Reported { doing: "pull".into(), message: message.into() }
    }

    fn cause(error: StartError) -> Option<FailureCause> {
        match error {
            StartError::CannotSubstantiate(_) => None,
            StartError::FailedToSubstantiate { cause, .. } => Some(cause),
        }
    }

    #[test]
    fn settings_that_the_engine_refuses_are_the_builds_fault_and_all_else_is_not() {
        for error in [
            status(400, "invalid CPU set"),
            status(404, "network mine not found"),
            EngineError::BadParameter { doing: "do".into(), message: "no".into() },
            status(500, "invalid volume specification: 'zz': invalid mount config for type \"volume\""),
            status(500, "json: cannot unmarshal number into Go struct field HostConfig.HostConfig.Devices"),
            status(500, "error gathering device information while adding custom device \"/dev/nope\""),
            status(500, "container create: stat /dev/nope: no such file or directory"),
            status(500, "container create: invalid container path \"zz\", must be an absolute path"),
            status(500, "container create: no command or entrypoint provided, and no CMD or ENTRYPOINT from image"),
            status(500, "container create: unable to find network with name or ID nonet: network not found"),
            status(500, "exec: \"/nope\": stat /nope: OCI runtime attempted to invoke a command that was not found"),
            status(500, "unable to set memory limit to 1000 (current usage: 2232320): OCI runtime error"),
        ] {
            assert_eq!(cause(of_container(error)), None);
        }
        for error in [
            status(404, "No such container: 4f"),
            status(404, "No such image: x:1"),
            status(500, "container 4f does not exist in database: no such container"),
            status(409, "in use"),
            status(500, "server error"),
            EngineError::Unreachable("no".into()),
            EngineError::Cut { doing: "do".into(), reason: "eof".into() },
            EngineError::TimedOut { doing: "do".into(), limit: Duration::from_secs(1) },
            EngineError::Malformed { doing: "do".into(), reason: "?".into() },
        ] {
            assert_eq!(cause(of_container(error)), Some(FailureCause::Infrastructure));
        }
        for image in [false, true] {
            let retry_after = Some(Duration::from_secs(7));
            let many = EngineError::Status { doing: "do".into(), status: 429, message: "slow".into(), retry_after };
            let error = if image { of_image(many, false) } else { of_container(many) };
            assert_eq!(cause(error), Some(FailureCause::Throttled { retry_after }));
        }
        let full = status(500, "write /var/lib/docker/x: no space left on device");
        assert_eq!(cause(of_container(full)), Some(FailureCause::Capacity));
    }

    #[test]
    fn a_pull_fails_for_the_image_the_credentials_the_rate_or_the_network() {
        let pull = |error| cause(of_image(error, false));
        assert_eq!(pull(status(404, "manifest for rust:0 not found: manifest unknown")), None);
        assert_eq!(pull(reported("manifest for rust:0 not found: manifest unknown: manifest unknown")), None);
        assert_eq!(pull(reported("no matching manifest for linux/s390x in the manifest list entries")), None);
        assert_eq!(pull(status(400, "invalid reference format")), None);
        assert_eq!(pull(status(500, "normalizing image: repository name must be lowercase")), None);
        let hub = "pull access denied for x, repository does not exist or may require 'docker login': denied";
        assert_eq!(pull(status(404, hub)), None);
        assert_eq!(cause(of_image(status(404, hub), true)), Some(FailureCause::Credentials));
        assert_eq!(pull(status(500, "unauthorized: authentication required")), Some(FailureCause::Credentials));
        let rate = "toomanyrequests: You have reached your pull rate limit";
        assert_eq!(pull(status(500, rate)), Some(FailureCause::Throttled { retry_after: None }));
        let network = "Get \"https://registry/v2/\": dial tcp: lookup registry: no such host";
        assert_eq!(pull(status(500, network)), Some(FailureCause::Infrastructure));
        assert_eq!(pull(EngineError::Unreachable("it does not exist".into())), Some(FailureCause::Infrastructure));
        assert_eq!(pull(reported("no space left on device")), Some(FailureCause::Capacity));
    }

    #[test]
    fn the_name_of_an_image_says_nothing_about_the_cause() {
        let pull = EngineError::Reported { doing: "pull image denied/rate-limit".into(), message: "EOF".into() };
        assert_eq!(cause(of_image(pull, true)), Some(FailureCause::Infrastructure));
    }

    #[test]
    fn a_recipe_that_fails_will_fail_again_but_not_for_the_network() {
        assert_eq!(cause(of_build(reported("The command '/bin/sh -c false' returned a non-zero code: 1"))), None);
        let network = "Get \"https://registry/v2/\": dial tcp 1.2.3.4:443: i/o timeout";
        assert_eq!(cause(of_build(reported(network))), Some(FailureCause::Infrastructure));
        for trouble in [
            "Get https://registry/v2/: net/http: request canceled (Client.Timeout exceeded while awaiting headers)",
            "Head https://registry/v2/x: dial tcp: lookup registry: Temporary failure in name resolution",
            "received unexpected HTTP status: 503 Service Unavailable",
            "unexpected EOF",
        ] {
            assert_eq!(cause(of_build(reported(trouble))), Some(FailureCause::Infrastructure), "{trouble}");
        }
        let denied = "unauthorized: authentication required";
        assert_eq!(cause(of_build(reported(denied))), Some(FailureCause::Credentials));
        let rate = "toomanyrequests: You have reached your pull rate limit";
        assert_eq!(cause(of_build(reported(rate))), Some(FailureCause::Throttled { retry_after: None }));
        assert_eq!(cause(of_build(reported("dockerfile parse error line 1: unknown instruction: FORM"))), None);
        assert_eq!(cause(of_build(reported("manifest for x:1 not found: manifest unknown"))), None);
        // The words of a step's command are not those of the engine.
        let step = "The command '/bin/sh -c grep denied log' returned a non-zero code: 1";
        assert_eq!(cause(of_build(reported(step))), None);
        assert_eq!(cause(of_build(EngineError::Context("no such file".into()))), None);
        assert_eq!(cause(of_build(status(500, "trouble"))), Some(FailureCause::Infrastructure));
    }

    fn health(status: &str, exit_code: i64, oom_killed: bool, memory: u64) -> Health {
        let state =
            State { status: status.into(), running: status == "running", exit_code, oom_killed, error: "".into() };
        of_state("c", &state, ByteSize::new(memory), || "the log\n".into())
    }

    #[test]
    fn w10_what_does_not_run_any_more_is_bad_and_says_why() {
        for well in ["running", "paused", "restarting", "created"] {
            assert_eq!(health(well, 0, false, 0), Health::Good, "{well}");
        }
        let log = "; the end of its log:\nthe log";
        let bad = |text: &str| Health::bad(format!("container c {text}{log}"));
        assert_eq!(health("exited", 3, false, 0), bad("has ended with exit code 3"));
        assert_eq!(health("dead", 1, false, 0), bad("is dead, with exit code 1"));
        let out = bad("has run out of memory (exit code 137; its limit is 32M)");
        assert_eq!(health("exited", 137, true, 32 << 20), out);
        let killed = bad("was killed (exit code 137), perhaps for want of memory; its limit is 32M");
        assert_eq!(health("exited", 137, false, 32 << 20), killed);
    }
}
