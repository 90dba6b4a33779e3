//! Reads a record of events, the JSON lines that `farm --events` writes, and checks it with the checker of the testing kit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use latent_worker::testing::EventChecker;
use latent_worker::{BuildResult, Event, EventKind, StopCause};

use serde_json::{Map, Value};

/// One line of the record.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Line {
    pub(crate) t: f64,
    pub(crate) event: String,
    pub(crate) worker: Option<String>,
    pub(crate) epoch: Option<u64>,
    pub(crate) build: Option<u64>,
    pub(crate) command: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) result: Option<String>,
    pub(crate) exit: Option<i64>,
}

const EVENTS: [&str; 15] = [
    "build_queued",
    "build_started",
    "build_finished",
    "start_called",
    "start_returned",
    "check_called",
    "check_returned",
    "stop_called",
    "stop_returned",
    "attached",
    "detached",
    "quarantined",
    "quarantine_lifted",
    "released",
    "shutdown",
];

/// What a record that holds was about.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Seen {
    pub(crate) builds: usize,
    /// Calls of `start_instance`, by worker.
    pub(crate) starts: BTreeMap<String, usize>,
    /// The most leases that one worker had at once.
    pub(crate) most_leases: usize,
}

/// Reads a record; every line must be a whole object with known events and fields of the right type.
pub(crate) fn parse(text: &str) -> Result<Vec<Line>, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line is torn".to_owned());
    }
    let line = |(number, line)| parse_line(line).map_err(|what| format!("line {}: {what}: {line}", number + 1));
    text.lines().enumerate().map(line).collect()
}

fn parse_line(line: &str) -> Result<Line, String> {
    let mut object: Map<String, Value> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let parsed = Line {
        t: object.remove("t").and_then(|t| t.as_f64()).ok_or("no t")?,
        event: text(&mut object, "event")?.ok_or("no event")?,
        worker: text(&mut object, "worker")?,
        epoch: number(&mut object, "epoch")?,
        build: number(&mut object, "build")?,
        command: text(&mut object, "command")?,
        reason: text(&mut object, "reason")?,
        result: text(&mut object, "result")?,
        exit: number(&mut object, "exit")?,
    };
    match object.keys().next() {
        Some(unknown) => Err(format!("unknown field {unknown}")),
        None if !EVENTS.contains(&parsed.event.as_str()) => Err(format!("unknown event {}", parsed.event)),
        None => Ok(parsed),
    }
}

fn text(object: &mut Map<String, Value>, field: &str) -> Result<Option<String>, String> {
    match object.remove(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{field} is {other}")),
    }
}

fn number<N: TryFrom<i64>>(object: &mut Map<String, Value>, field: &str) -> Result<Option<N>, String> {
    match object.remove(field) {
        None => Ok(None),
        Some(value) => match value.as_i64().and_then(|number| N::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{field} is {value}")),
        },
    }
}

/// Goes through a whole record, from the start of a master to the end of its shutdown.
pub(crate) fn check(record: &[Line], max_builds: usize) -> Result<Seen, String> {
    let event =
        |(index, line)| event_of(index as u64, line).map_err(|what| format!("line {}: {what}: {line:?}", index + 1));
    let events: Vec<Event> = record.iter().enumerate().map(event).collect::<Result<_, _>>()?;
    let checker = EventChecker::new().with_max_builds(max_builds);
    let summary = checker.check_ended(&events).map_err(|violations| violations.to_string())?;
    Ok(Seen { builds: summary.builds, starts: summary.starts, most_leases: summary.most_leases })
}

/// Parses the event in a line.
fn event_of(sequence: u64, line: &Line) -> Result<Event, String> {
    let reason = || Arc::<str>::from(line.reason.as_deref().unwrap_or_default());
    let returned = || match line.result.as_deref() {
        Some("ok") => Ok(Ok(())),
        Some("failed") => Ok(Err(reason())),
        _ => Err("no result"),
    };
    let kind = match line.event.as_str() {
        "build_queued" => {
            EventKind::BuildQueued { name: "a build".into(), retry: line.reason.as_deref().map(Arc::from) }
        }
        "build_started" => EventKind::BuildStarted,
        "build_finished" => match line.result.as_deref() {
            Some("succeeded") => EventKind::BuildFinished { result: BuildResult::Succeeded },
            Some(_) => EventKind::BuildFinished { result: BuildResult::Failed(reason()) },
            None => return Err("a build ends without a result".to_owned()),
        },
        "start_called" => EventKind::StartCalled,
        "start_returned" => EventKind::StartReturned { result: returned()?.map(|()| Vec::new()) },
        "check_called" => EventKind::CheckCalled,
        "check_returned" => EventKind::CheckReturned { result: returned()? },
        "stop_called" => EventKind::StopCalled { fast: false, cause: StopCause::Requested },
        "stop_returned" => EventKind::StopReturned { result: returned()? },
        "attached" => EventKind::Attached,
        "detached" => EventKind::Detached { reason: reason() },
        "quarantined" => EventKind::Quarantined { length: Duration::ZERO, reason: reason() },
        "quarantine_lifted" => EventKind::QuarantineLifted { reason: reason() },
        "released" => EventKind::Released { end: line.reason.as_deref().map(Arc::from) },
        "shutdown" => EventKind::Shutdown { fast: false },
        unknown => return Err(format!("unknown event {unknown}")),
    };
    let of_build = line.event.starts_with("build_");
    if of_build && (line.build.is_none() || line.command.is_none()) {
        return Err("no build or no command".to_owned());
    }
    let without_worker = ["build_queued", "build_finished", "shutdown"].contains(&line.event.as_str());
    if !without_worker && (line.worker.is_none() || line.epoch.is_none()) {
        return Err("no worker or no epoch".to_owned());
    }
    let at = Duration::try_from_secs_f64(line.t).map_err(|error| error.to_string())?;
    Ok(Event::made_by_hand(sequence, at, line.worker.as_deref(), line.epoch, line.build, kind))
}

mod tests {
    use super::*;

    fn line(event: &str, epoch: u64, build: u64) -> Line {
        let of_build = event.starts_with("build_");
        let worker = !matches!(event, "build_queued" | "build_finished" | "shutdown");
        Line {
            event: event.to_owned(),
            worker: worker.then(|| "w".to_owned()),
            epoch: worker.then_some(epoch),
            build: (build > 0).then_some(build),
            command: of_build.then(|| "true".to_owned()),
            result: match event {
                "build_finished" => Some("succeeded".to_owned()),
                "start_returned" | "stop_returned" => Some("ok".to_owned()),
                _ => None,
            },
            ..Line::default()
        }
    }

    fn two_builds() -> Vec<Line> {
        vec![
            line("build_queued", 0, 1),
            line("build_queued", 0, 2),
            line("start_called", 1, 1),
            line("attached", 1, 0),
            line("start_returned", 1, 0),
            line("build_started", 1, 1),
            line("build_started", 1, 2),
            line("released", 1, 1),
            line("build_finished", 0, 1),
            line("released", 1, 2),
            line("build_finished", 0, 2),
            line("stop_called", 1, 0),
            line("detached", 1, 0),
            line("stop_returned", 1, 0),
        ]
    }

    fn refused(record: &[Line], max_builds: usize, why: &str) {
        let error = check(record, max_builds).expect_err(why);
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn the_checker_takes_what_holds() {
        let seen = check(&two_builds(), 2).unwrap();
        assert_eq!((seen.builds, seen.most_leases, seen.starts["w"]), (2, 2, 1));
    }

    #[test]
    fn the_checker_finds_too_many_leases() {
        refused(&two_builds(), 1, "Places");
    }

    #[test]
    fn the_checker_misses_every_line_that_is_left_out() {
        let whole = two_builds();
        for index in 0..whole.len() {
            let mut record = whole.clone();
            let removed = record.remove(index);
            assert!(check(&record, 2).is_err(), "{} was not missed", removed.event);
        }
    }

    #[test]
    fn the_checker_finds_every_line_that_comes_twice() {
        let whole = two_builds();
        for index in 0..whole.len() {
            let mut record = whole.clone();
            record.insert(index, record[index].clone());
            assert!(check(&record, 2).is_err(), "{} came twice", record[index].event);
        }
    }

    #[test]
    fn the_checker_finds_time_that_goes_back() {
        let mut record = two_builds();
        record[0].t = 1.0;
        refused(&record, 2, "time goes back");
    }

    #[test]
    fn the_parser_takes_nothing_unknown() {
        parse("{\"t\":0.1,\"event\":\"shutdown\"}\n").unwrap();
        for (bad, why) in [
            ("{\"t\":0.1,\"event\":\"shutdown\"}", "torn"),
            ("{\"t\":0.1}\n", "no event"),
            ("{\"event\":\"shutdown\"}\n", "no t"),
            ("{\"t\":0.1,\"event\":\"party\"}\n", "unknown event"),
            ("{\"t\":0.1,\"event\":\"shutdown\",\"more\":1}\n", "unknown field"),
            ("{\"t\":0.1,\"event\":\"shutdown\",\"epoch\":-1}\n", "epoch is -1"),
            ("{\"t\":0.1,\"event\":\"shutdown\",\"worker\":1}\n", "worker is 1"),
            ("\n", "line 1"),
        ] {
            let error = parse(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
