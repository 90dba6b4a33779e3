//! The parts of the farm, one subject a file, and how they are put together.
//!
//! `args` and `jobs` read what is asked for. `drivers` makes instances, `remote` those whose agents connect, and `agent` is
//! one. `queue` is the main loop, `runner` does the work of one lease with `lines`
//! of output, `signals` is Ctrl-C. `observer` follows the events: from them come the `record`, the `tally`, the `story`
//! and the `summary`. `screen` writes everything, above the `bars`.

#[cfg(all(feature = "agent", feature = "process"))]
mod agent;
mod args;
mod bars;
mod drivers;
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
use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::unbounded;
use latent_worker::WorkerConfig;

use args::{Options, Request, Source};
use drivers::Instances;
use jobs::Job;
use observer::{Observer, RecordFile, SharedTally};
use queue::{End, Queue};
use record::ExitCodes;
use runner::Runners;
use screen::Screen;
use story::Story;

const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;
/// 128 and the number of SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// So many of them mean that it is another file altogether.
const MOST_BAD_LINES: usize = 100;

/// How long the last words are waited for when somebody has pressed Ctrl-C twice.
const LAST_WORDS: Duration = Duration::from_secs(3);

pub(crate) fn main() -> ExitCode {
    #[cfg(all(feature = "agent", feature = "process"))]
    if std::env::args_os().skip(1).eq([agent::ARGUMENT]) {
        return agent::main();
    }
    let status = match args::parse(std::env::args_os()) {
        Ok(Request::Run(options)) => run(&options).unwrap_or_else(|messages| {
            messages.iter().for_each(complain);
            BAD_USAGE
        }),
        Ok(Request::Help) => say(args::HELP),
        Ok(Request::Version) => say(concat!("farm ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(error) => {
            complain(error);
            complain("--help tells how it is used");
            BAD_USAGE
        }
    };
    ExitCode::from(status)
}

fn say(text: &str) -> u8 {
    // Whoever asked has gone when this fails.
    let _ = io::stdout().write_all(text.as_bytes());
    0
}

fn complain(message: impl Display) {
    let _ = writeln!(io::stderr(), "farm: {message}");
}

/// Runs all builds. The errors are those of a user, found before anything was started.
fn run(options: &Options) -> Result<u8, Vec<String>> {
    let jobs: Arc<[Job]> = read_jobs(&options.source)?.into();
    let directory = start_directory(&options.source).map_err(|error| vec![error])?;
    let record = match &options.events {
        None => None,
        Some(path) => {
            let failed = |error| vec![format!("cannot create {}: {error}", path.display())];
            Some(RecordFile::create(path.clone()).map_err(failed)?)
        }
    };
    let instances = drivers::prepare(&options.driver, &jobs).map_err(|error| vec![error])?;
    let started = start(options, instances, &jobs, directory, record);
    started.map_err(|error| vec![format!("cannot start: {error}")])
}

fn start(
    options: &Options,
    mut instances: Box<dyn Instances>,
    jobs: &Arc<[Job]>,
    directory: String,
    record: Option<RecordFile>,
) -> Result<u8, Box<dyn std::error::Error>> {
    let interrupts = signals::interrupts()?;
    let master = match &options.journal {
        Some(journal) => instances.master().journal(journal)?,
        None => instances.master(),
    };
    let master = master.build();
    instances.let_in(&master)?;
    let tally = SharedTally::default();
    let bars = if options.quiet { None } else { bars::Bars::new(&master, &tally, jobs) };
    let screen = Arc::new(Screen::start(bars)?);
    if options.source == Source::BuiltIn && !options.quiet {
        let (builds, workers) = (jobs.len(), options.workers);
        let message = "farm: no FILE is given, so that the built-in list is run";
        screen.alert(format!("{message}: {builds} builds, {workers} workers; --help tells more"));
    }
    let exits = Arc::new(ExitCodes::default());
    let story = Story::new(jobs.clone(), options.quiet);
    let events = master.events(observer::CAPACITY + jobs.len());
    let observer = Observer::start(events, jobs.clone(), exits.clone(), story, screen.clone(), tally, record)?;

    for number in 1..=options.workers.get() {
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
    let queue =
        Queue { master: &master, options, jobs, runners, done, observer: &observer, screen: &screen, interrupts };
    let end = queue.run()?;

    let damage = master.journal_damage().map(|damage| format!("farm: in the journal, {damage}"));
    let left = master.leftovers().into_iter().map(|leftover| format!("farm: left behind: {leftover}"));
    damage.into_iter().chain(left).for_each(|line| screen.alert(line));

    let patience = (end == End::Cut).then_some(LAST_WORDS);
    let record = observer.finish(patience);
    let (summary, succeeded) = {
        let tally = observer.tally();
        (summary::summary(&tally, options.workers.get()), tally.succeeded)
    };
    screen.end(summary, patience);
    Ok(match end {
        End::Interrupted | End::Cut => INTERRUPTED,
        End::AllOver if record.is_err() || succeeded < jobs.len() => FAILED,
        End::AllOver => 0,
    })
}

fn read_jobs(source: &Source) -> Result<Vec<Job>, Vec<String>> {
    let cannot_read = |name: &str, error: io::Error| vec![format!("cannot read {name}: {error}")];
    let (name, text) = match source {
        Source::BuiltIn => ("the built-in list".to_owned(), jobs::BUILT_IN.as_bytes().to_vec()),
        Source::Stdin => {
            let mut text = Vec::new();
            io::stdin().read_to_end(&mut text).map_err(|error| cannot_read("standard input", error))?;
            ("standard input".to_owned(), text)
        }
        Source::File(path) => {
            let name = path.display().to_string();
            let text = fs::read(path).map_err(|error| cannot_read(&name, error))?;
            (name, text)
        }
    };
    jobs::parse(&text).map_err(|bad| {
        let shown = bad.iter().take(MOST_BAD_LINES).map(|bad| format!("{name}:{}: {bad}", bad.line));
        let hidden = bad.len().saturating_sub(MOST_BAD_LINES);
        shown.chain((hidden > 0).then(|| format!("{name}: and {hidden} more such lines"))).collect()
    })
}

/// What commands find in FARM_DIR: the present directory. The built-in list is about the checkout, and cargo says where
/// that is, whatever directory it was called in.
fn start_directory(source: &Source) -> Result<String, String> {
    let checkout = std::env::var("CARGO_MANIFEST_DIR").ok().filter(|_| *source == Source::BuiltIn);
    if let Some(checkout) = checkout {
        return Ok(checkout);
    }
    let current = std::env::current_dir().map_err(|error| format!("cannot tell the present directory: {error}"))?;
    current
        .into_os_string()
        .into_string()
        .map_err(|name| format!("the name of the present directory is not UTF-8: {name:?}"))
}
