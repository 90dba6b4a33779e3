//! The parts of the farm, one subject a file, and how they are put together.
//!
//! `args`, `input` and `jobs` read what is asked for. `drivers` makes instances, `remote` those whose agents connect, and
//! `agent` is one. `queue` is the main loop, `runner` does the work of one lease with `lines` of output, `signals` is
//! Ctrl-C, `ending` is what is left and the exit status. `observer` follows the events: from them come the `record`, the `tally`, the `story`
//! and the `summary`. `screen` writes everything, above the `bars`.

#[cfg(all(feature = "agent", feature = "process"))]
mod agent;
mod args;
mod bars;
mod drivers;
mod ending;
mod input;
mod jobs;
mod lines;
mod observer;
mod queue;
mod record;
#[cfg(all(feature = "agent", any(feature = "command", feature = "process", feature = "docker", feature = "ec2")))]
mod remote;
mod runner;
mod screen;
mod signals;
mod story;
mod summary;
mod tally;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::unbounded;
use latent_worker::WorkerConfig;

use args::{Options, Request, Source};
use drivers::Instances;
use ending::{BAD_USAGE, FAILED, INTERRUPTED, LEFT_BEHIND, OUTPUT_CLOSED, Remains};
use jobs::Job;
use observer::{Observer, RecordFile, SharedTally};
use queue::{End, Queue};
use record::ExitCodes;
use runner::Runners;
use screen::Screen;
use signals::Interrupts;
use story::Story;

/// How long the last words are waited for when somebody has pressed Ctrl-C twice.
const LAST_WORDS: Duration = Duration::from_secs(3);

pub(crate) fn main() -> ExitCode {
    #[cfg(all(feature = "agent", feature = "process"))]
    if std::env::args_os().skip(1).eq([agent::ARGUMENT]) {
        return agent::main();
    }
    let interrupts = match Interrupts::watch() {
        Ok(interrupts) => interrupts,
        Err(error) => {
            complain(format!("cannot handle signals: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let status = match args::parse(std::env::args_os()) {
        Ok(Request::Run(options)) => run(&options, &interrupts).unwrap_or_else(|messages| {
            messages.iter().for_each(complain);
            BAD_USAGE
        }),
        Ok(Request::Help) => say(args::HELP),
        Ok(Request::Version) => say(concat!("farm ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(error) => {
            complain(error);
            complain("see --help for the usage");
            BAD_USAGE
        }
    };
    ExitCode::from(status)
}

fn say(text: &str) -> u8 {
    match screen::write_all(&mut io::stdout().lock(), text) {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => OUTPUT_CLOSED,
        Err(error) => {
            complain(format!("cannot write to standard output: {error}"));
            FAILED
        }
    }
}

fn complain(message: impl Display) {
    let _ = writeln!(io::stderr(), "farm: {message}");
}

/// Runs all builds. The errors are those of a user, found before anything was started.
fn run(options: &Options, interrupts: &Interrupts) -> Result<u8, Vec<String>> {
    input::check_that_events_have_their_own_file(options).map_err(|error| vec![error])?;
    let jobs: Arc<[Job]> = input::read(&options.source)?.into();
    let directory = start_directory(&options.source).map_err(|error| vec![error])?;
    let record = match &options.events {
        None => None,
        Some(path) => {
            let failed = |error| vec![format!("cannot create {}: {error}", path.display())];
            Some(RecordFile::create(path.clone()).map_err(failed)?)
        }
    };
    let instances = drivers::prepare(&options.driver, &jobs).map_err(|error| vec![error])?;
    let started = start(options, interrupts, instances, &jobs, directory, record);
    started.map_err(|error| vec![format!("cannot start: {error}")])
}

fn start(
    options: &Options,
    interrupts: &Interrupts,
    mut instances: Box<dyn Instances>,
    jobs: &Arc<[Job]>,
    directory: String,
    record: Option<RecordFile>,
) -> Result<u8, Box<dyn std::error::Error>> {
    let master = match &options.journal {
        Some(journal) => instances.master().journal(journal)?,
        None => instances.master(),
    };
    let master = master.build();
    let remains = Remains::new(&master, options);
    interrupts.pass_on({
        let remains = remains.clone();
        move || ended_at_once(&remains)
    });
    instances.let_in(&master)?;
    let tally = SharedTally::default();
    let bars = if options.quiet { None } else { bars::Bars::new(&master, &tally, jobs) };
    let screen = Arc::new(Screen::start(bars)?);
    if options.source == Source::BuiltIn && !options.quiet {
        let (builds, workers) = (jobs.len(), options.workers);
        let message = "farm: running the built-in list, because no FILE is given";
        screen.alert(format!("{message}: {builds} builds, {workers} workers; see --help for more"));
    }
    let exits = Arc::new(ExitCodes::default());
    let story = Story::new(jobs.clone(), options.quiet);
    let events = master.events(observer::CAPACITY + jobs.len());
    let observer = Observer::start(events, jobs.clone(), exits.clone(), story, screen.clone(), tally, record)?;

    if let Some(damage) = master.journal_damage() {
        screen.alert(format!("farm: the journal is damaged: {damage}"));
    }
    if jobs.is_empty() {
        screen.alert(format!("farm: {} contains no builds", options.source));
    }
    for number in 1..=options.workers.get() {
        // The queue is notified at once.
        if !interrupts.messages().is_empty() {
            break;
        }
        let name = format!("{}-{number}", options.driver.name());
        let config = WorkerConfig::new(name).with_max_builds(options.max_builds).with_idle(options.idle);
        instances.add_worker(&master, config)?;
    }

    let (done_sender, done) = unbounded();
    let runners = Arc::new(Runners {
        jobs: jobs.clone(),
        exits,
        screen: screen.clone(),
        directory,
        time_limit: options.time_limit,
        quiet: options.quiet,
        done: done_sender,
    });
    let queue = Queue {
        master: &master,
        options,
        jobs,
        runners,
        done,
        observer: &observer,
        screen: &screen,
        interrupts: interrupts.messages(),
    };
    let end = queue.run()?;

    let left = remains.lines();
    left.iter().for_each(|line| screen.alert(line.clone()));

    let patience = (end == End::Cut).then_some(LAST_WORDS);
    let record = observer.finish(patience);
    let (summary, succeeded) = {
        let tally = observer.tally();
        (summary::summary(&tally, options.workers.get()), tally.succeeded)
    };
    screen.end(summary, patience);
    Ok(match end {
        _ if !left.is_empty() => LEFT_BEHIND,
        _ if screen.is_closed() => OUTPUT_CLOSED,
        End::Interrupted | End::Cut => INTERRUPTED,
        End::Stuck => FAILED,
        End::AllOver if record.is_err() || screen.is_incomplete() || succeeded < jobs.len() => FAILED,
        End::AllOver => 0,
    })
}

/// The last message, after a third Ctrl-C, when the farm does not wait for anything else.
fn ended_at_once(remains: &Remains) -> u8 {
    // On a terminal, the progress bars may be in this line.
    let begin = if io::stderr().is_terminal() { "\n" } else { "" };
    let _ = writeln!(io::stderr(), "{begin}farm: ended at once");
    let left = remains.lines();
    left.iter().for_each(|line| _ = writeln!(io::stderr(), "{line}"));
    if left.is_empty() { INTERRUPTED } else { LEFT_BEHIND }
}

/// What commands find in FARM_DIR: the present directory. The built-in list is about the checkout, and cargo says where
/// that is, whatever directory it was called in.
fn start_directory(source: &Source) -> Result<String, String> {
    let checkout = std::env::var("CARGO_MANIFEST_DIR").ok().filter(|_| *source == Source::BuiltIn);
    if let Some(checkout) = checkout {
        return Ok(checkout);
    }
    let current = std::env::current_dir().map_err(|error| format!("cannot find the current directory: {error}"))?;
    current
        .into_os_string()
        .into_string()
        .map_err(|name| format!("the name of the current directory is not UTF-8: {name:?}"))
}
