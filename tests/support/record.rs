//! An independent checker for a record of events, the JSON lines that `farm --events` writes.
//!
//! It knows the contract (W1, W2, B6, and that every build ends once), and nothing of the code that is to keep it: the
//! record alone is its evidence.

use std::collections::{BTreeMap, BTreeSet};

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

const EVENTS: [&str; 14] = [
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
    let mut state = State { max_builds, ..State::default() };
    let mut last = 0.0;
    for (index, line) in record.iter().enumerate() {
        if line.t < last {
            return Err(format!("line {}: time goes back from {last}: {line:?}", index + 1));
        }
        last = line.t;
        state.take(line).map_err(|what| format!("line {}: {what}: {line:?}", index + 1))?;
    }
    state.end()
}

#[derive(Default)]
struct State {
    max_builds: usize,
    workers: BTreeMap<String, Worker>,
    builds: BTreeMap<u64, Place>,
    seen: Seen,
}

#[derive(Default)]
struct Worker {
    /// The last attempt.
    epoch: u64,
    life: Life,
    /// The driver call in flight.
    call: Option<&'static str>,
    attached: bool,
    leases: BTreeSet<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Life {
    /// There is no instance, or its stop has returned.
    #[default]
    Down,
    /// The start was called.
    Starting,
    /// The start has returned with an instance.
    Up,
    /// The start has returned without one.
    Failed,
    /// The stop was called.
    Stopping,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Queued,
    Running,
    Finished,
}

impl State {
    fn take(&mut self, line: &Line) -> Result<(), String> {
        let event = line.event.as_str();
        match event {
            "build_queued" | "build_started" | "build_finished" => self.build(event, line)?,
            _ => {}
        }
        match event {
            "build_queued" | "build_finished" | "shutdown" => Ok(()),
            _ => self.worker(event, line),
        }
    }

    fn build(&mut self, event: &str, line: &Line) -> Result<(), String> {
        let build = line.build.ok_or("no build")?;
        line.command.as_ref().ok_or("no command")?;
        let before = self.builds.get(&build).copied();
        let after = match (event, before) {
            ("build_queued", None) => Place::Queued,
            ("build_queued", Some(Place::Queued | Place::Running)) if line.reason.is_some() => Place::Queued,
            ("build_started", Some(Place::Queued)) => Place::Running,
            ("build_finished", Some(Place::Queued | Place::Running)) => {
                line.result.as_ref().ok_or("a build ends without a result")?;
                Place::Finished
            }
            _ => return Err(format!("the build was {before:?} before")),
        };
        self.builds.insert(build, after);
        Ok(())
    }

    fn worker(&mut self, event: &str, line: &Line) -> Result<(), String> {
        let name = line.worker.as_ref().ok_or("no worker")?;
        let epoch = line.epoch.ok_or("no epoch")?;
        let worker = self.workers.entry(name.clone()).or_default();
        if event == "start_called" {
            // W1: the start and the stop before have returned.
            expect(worker.life == Life::Down, "W1: the instance before is not gone")?;
            expect(epoch > worker.epoch, "the epoch repeats")?;
            worker.epoch = epoch;
            *self.seen.starts.entry(name.clone()).or_default() += 1;
        }
        if event == "quarantined" {
            return Ok(());
        }
        expect(epoch == worker.epoch, "this is about another attempt than the last one")?;
        worker.calls(event)?;
        worker.lives(event, line)?;
        worker.leases(event, line, self.max_builds)?;
        self.seen.most_leases = self.seen.most_leases.max(worker.leases.len());
        Ok(())
    }

    fn end(mut self) -> Result<Seen, String> {
        for (name, worker) in &self.workers {
            // W2, the other half: no start without a stop.
            let ended = worker.life == Life::Down && worker.call.is_none();
            expect(ended, &format!("W2: {name} is {:?} in the end, in call {:?}", worker.life, worker.call))?;
            expect(worker.leases.is_empty(), &format!("B6: {name} never got back {:?}", worker.leases))?;
            expect(!worker.attached, &format!("{name} has an agent in the end"))?;
        }
        for (build, place) in &self.builds {
            expect(*place == Place::Finished, &format!("build {build} is {place:?} in the end"))?;
        }
        self.seen.builds = self.builds.len();
        Ok(self.seen)
    }
}

impl Worker {
    /// W1: one call at a time, and each returns.
    fn calls(&mut self, event: &str) -> Result<(), String> {
        for (name, called, returned) in [
            ("start", "start_called", "start_returned"),
            ("check", "check_called", "check_returned"),
            ("stop", "stop_called", "stop_returned"),
        ] {
            if event == called {
                expect(self.call.is_none(), &format!("W1: {:?} is in flight", self.call))?;
                self.call = Some(name);
            } else if event == returned {
                expect(self.call == Some(name), &format!("W1: {:?} is in flight", self.call))?;
                self.call = None;
            }
        }
        Ok(())
    }

    /// W2: each start that was called is followed by one stop, whatever came of it.
    fn lives(&mut self, event: &str, line: &Line) -> Result<(), String> {
        let result = line.result.as_deref();
        self.life = match (event, self.life, result) {
            ("start_called", Life::Down, _) => Life::Starting,
            ("start_returned", Life::Starting, Some("ok")) => Life::Up,
            ("start_returned", Life::Starting, Some("failed")) => Life::Failed,
            ("check_called" | "check_returned", Life::Up, _) => Life::Up,
            ("stop_called", Life::Up | Life::Failed, _) => Life::Stopping,
            ("stop_returned", Life::Stopping, Some("ok" | "failed")) => Life::Down,
            ("attached" | "detached" | "build_started" | "released", life, _) => life,
            (_, life, _) => return Err(format!("W2: the instance is {life:?}")),
        };
        Ok(())
    }

    /// B6: no more leases than allowed, and only on an attached instance that is not being stopped.
    fn leases(&mut self, event: &str, line: &Line, max_builds: usize) -> Result<(), String> {
        match event {
            "attached" => {
                expect(!self.attached, "there is an agent already")?;
                expect(matches!(self.life, Life::Starting | Life::Up), "no instance that could attach")?;
                self.attached = true;
            }
            "detached" => {
                expect(self.attached, "there is no agent")?;
                self.attached = false;
            }
            "build_started" => {
                expect(self.attached, "B6: a lease without an agent")?;
                expect(matches!(self.life, Life::Starting | Life::Up), "B6: a lease of an instance that is stopped")?;
                expect(self.leases.insert(line.build.ok_or("no build")?), "B6: the build has a lease already")?;
                expect(self.leases.len() <= max_builds, "B6: too many leases")?;
            }
            "released" => {
                let build = line.build.ok_or("no build")?;
                expect(self.leases.remove(&build), "B6: the build has no lease")?;
            }
            "stop_called" => expect(self.leases.is_empty(), "B6: a stop while a lease is out")?,
            _ => {}
        }
        Ok(())
    }
}

fn expect(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
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
            line("build_finished", 0, 1),
            line("released", 1, 1),
            line("build_finished", 0, 2),
            line("released", 1, 2),
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
        refused(&two_builds(), 1, "B6: too many");
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
    fn the_checker_finds_calls_that_overlap() {
        let mut record = two_builds();
        record.swap(3, 4);
        check(&record, 2).expect("an agent may attach before or after the return of the start");
        record.splice(3..3, [line("stop_called", 1, 0)]);
        refused(&record, 2, "W1");
        let mut record = two_builds();
        record.insert(12, line("start_called", 2, 1));
        refused(&record, 2, "W1");
    }

    #[test]
    fn the_checker_finds_a_second_stop_and_none_after_a_failed_start() {
        let mut record = two_builds();
        record.extend([line("stop_called", 1, 0), line("stop_returned", 1, 0)]);
        refused(&record, 2, "W2");
        let failed = Line { result: Some("failed".to_owned()), ..line("start_returned", 1, 0) };
        refused(&[line("start_called", 1, 0), failed], 1, "W2");
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
