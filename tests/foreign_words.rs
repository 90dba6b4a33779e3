//! Texts from drivers, agents, programs and builds are made safe before they are shown: events, statuses and errors
//! contain no control characters, no characters that change the direction of text, and no invisible characters.

mod support;

use latent_worker::testing::{PATIENCE, Script, ScriptedWorker};
use latent_worker::{Build, BuildResult, DriverCall, StartError, StopError, Worker, WorkerConfig, WorkerState};

use support::{World, answer, eventually, reaches};

/// Sets the title of a terminal, clears it, turns the direction of text, and begins a line of its own.
const HOSTILE: &str =
    "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}gnp.exe\u{2066}\u{200b}\u{feff}\r\nroot: all is well\u{0}";

fn is_forbidden(character: char) -> bool {
    character.is_control() || "\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}".contains(character)
}

/// The error of a scenario, if any.
type Told = Vec<String>;

type Scenario = fn(&World, &Worker, &Script) -> Told;

const SCENARIOS: &[(&str, Scenario)] = &[
    ("the error of a start", |_, worker, script| {
        let mut request = worker.substantiate(&Build::new("b"));
        script.expect_start().fail(HOSTILE);
        vec![answer(&mut request).unwrap_err().to_string()]
    }),
    ("the error of a start with a cause", |_, worker, script| {
        let mut request = worker.substantiate(&Build::new("b"));
        let cause = std::io::Error::other(HOSTILE);
        script.expect_start().fail_with(StartError::infrastructure(cause));
        vec![answer(&mut request).unwrap_err().to_string()]
    }),
    ("a build's own fault", |world, _, script| {
        let ticket = world.master.submit(Build::new("b"));
        script.expect_start().cannot(HOSTILE);
        vec![ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap_err().to_string()]
    }),
    ("a panic of a start", |_, worker, script| {
        let mut request = worker.substantiate(&Build::new("b"));
        // Without the words of the hook.
        script.expect_start().answer(|_| std::panic::resume_unwind(Box::new(HOSTILE.to_owned())));
        vec![answer(&mut request).unwrap_err().to_string()]
    }),
    ("progress", |world, worker, script| {
        let request = worker.substantiate(&Build::new("b"));
        script.expect_start().answer(|start| {
            start.progress(HOSTILE);
            start.sleep(std::time::Duration::MAX)?;
            unreachable!("it is cancelled");
        });
        world.await_event("progress");
        let shown = worker.status().to_string() + &worker.status().details.concat();
        drop(request);
        vec![shown]
    }),
    ("details of an instance", |world, worker, script| {
        let request = worker.substantiate(&Build::new("b"));
        let start = script.expect_start();
        let _connection = start.attach();
        start.succeed_with([HOSTILE]);
        world.await_event("start_returned");
        let shown = worker.status().details.concat();
        drop(request);
        vec![shown]
    }),
    ("a bad check", |world, worker, script| {
        let mut request = worker.substantiate(&Build::new("b"));
        script.expect_start().succeed();
        world.await_event("start_returned");
        world.advance(10);
        script.expect_check().bad(HOSTILE);
        vec![answer(&mut request).unwrap_err().to_string()]
    }),
    ("the error of a question", |world, worker, script| {
        drop(world.lease(worker, script));
        let ticket = world.master.submit(Build::new("other").with_property("kind", "other"));
        script.expect_compatible().fail(HOSTILE);
        drop(ticket);
        Vec::new()
    }),
    ("the error of a stop", |world, worker, script| {
        drop(world.lease(worker, script));
        worker.insubstantiate(false);
        script.expect_stop().answer(|_| Err(StopError::new(HOSTILE)));
        eventually(1, || world.master.leftovers().len());
        world.master.leftovers().iter().map(ToString::to_string).collect()
    }),
    ("the error of a reclaim", |world, worker, script| {
        drop(world.lease(worker, script));
        worker.insubstantiate(false);
        script.expect_stop().fail("no answer");
        reaches(worker, WorkerState::NotSubstantiated);
        world.advance(1);
        script.expect_reclaim().fail(HOSTILE);
        world.await_event("reclaim_returned");
        world.master.leftovers().iter().map(ToString::to_string).collect()
    }),
    ("a lost connection", |world, worker, script| {
        let (lease, connection) = world.lease_and_connection(worker, script);
        connection.lost(HOSTILE);
        vec![lease.wait_end(PATIENCE).unwrap().to_string()]
    }),
    ("a reason to try again", |world, _, script| {
        let ticket = world.master.submit(Build::new("b"));
        script.expect_start().succeed_attached();
        ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap().retry(HOSTILE);
        world.pass_pause(1);
        script.expect_compatible().yes();
        let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
        vec![lease.history()[0].to_string()]
    }),
    ("a failed build, and its name", |world, _, script| {
        let ticket = world.master.submit(Build::new(HOSTILE));
        script.expect_start().succeed_attached();
        ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap().finish(BuildResult::Failed(HOSTILE.into()));
        Vec::new()
    }),
];

#[test]
fn e2_no_word_of_others_reaches_a_person_as_it_is() {
    for (name, scenario) in SCENARIOS {
        let world = World::new();
        let (driver, script) = ScriptedWorker::new();
        let driver = driver.may_be_incompatible(true).reclaims(true);
        let worker = world.master.add_worker(WorkerConfig::new("w"), driver).unwrap();
        let mut shown = scenario(&world, &worker, &script);
        shown.push(worker.status().to_string());
        script.automate_all();
        let report = world.shut_down(latent_worker::ShutdownMode::Fast);
        shown.push(report.to_string().replace('\n', " "));
        let events = world.events();
        shown.extend(events.iter().map(ToString::to_string));
        shown.extend(events.iter().map(|event| format!("{event:?}")));
        for text in &shown {
            assert!(!text.contains(is_forbidden), "{name}: {text:?}");
        }
        // The harmless part of the text is still shown.
        let told = shown.iter().any(|text| text.contains("gnp.exe"));
        let is_not_told = *name == "the error of a question";
        assert!(told || is_not_told, "{name}: {shown:#?}");
        assert!(script.count(DriverCall::Stop) > 0, "{name}");
    }
}

#[test]
fn a_worker_with_a_name_that_deceives_is_refused() {
    let world = World::new();
    for name in ["a\u{1b}[2J", "b\u{202e}", "c\n", "d:e", ""] {
        let (driver, _) = ScriptedWorker::new();
        let error = world.master.add_worker(WorkerConfig::new(name), driver).unwrap_err().to_string();
        assert!(error.starts_with("invalid worker name ") && !error.contains(is_forbidden), "{error:?}");
    }
}
