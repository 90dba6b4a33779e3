//! What a journal says was left behind: instances whose end it does not tell. As a table, as JSON, and with `--reclaim`
//! taken away.
//!
//! `cargo run --example leftovers -- --help` tells how it is used.

#[path = "support/numbers.rs"]
mod numbers;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use latent_worker::{
    Epoch, EventKind, JournalContents, JournalError, LatentWorker, LeftoverStage, LeftoverStep, Master, ShutdownMode,
    WorkerConfig, printable, read_journal,
};
use lexopt::prelude::*;
use serde_json::json;

const HELP: &str = "\
Shows what a journal of latent-worker says was left behind, and takes it away.

Usage: leftovers [OPTIONS] FILE

While a master uses the journal, the instances that run are shown as well. Reclaiming needs the journal for itself.

Options:
  --json            one JSON object instead of a table
  --reclaim         take away what is left, with the driver that is named, and show what remains
  --local           they are instances of LocalLatentWorker: directories and processes of this machine
  --command LINE    they are instances of CommandLatentWorker; LINE is run by the shell to reclaim one, with
                    LATENT_WORKER_NAME, _KEY, _EPOCH, _OWNER and, if it is known, _INSTANCE in its environment.
                    Every other process with the key in its environment is ended (on Linux)
  --worker NAME     only those of this worker; can be given more than once
  --patience SECS   how long to try, up to a year (60)
  --help            this text

Exit status: 0 nothing is left, 1 something is left, 2 bad usage, or the journal could not be read or the list not be
written.
";

const LEFT: u8 = 1;
const FAILED: u8 = 2;

struct Options {
    file: Option<PathBuf>,
    json: bool,
    reclaim: bool,
    local: bool,
    command: Option<OsString>,
    workers: BTreeSet<String>,
    patience: Duration,
}

/// One line of the table.
struct Leftover {
    worker: Arc<str>,
    epoch: Epoch,
    key: Arc<str>,
    stage: LeftoverStage,
    ids: Vec<Arc<str>>,
    /// In seconds since 1970; only the journal tells, if it is not damaged there.
    started_at: Option<u64>,
    tries: u32,
    reason: Option<Arc<str>>,
}

fn main() -> ExitCode {
    let outcome = match parse() {
        Ok(None) => print(HELP).map(|()| 0),
        Ok(Some(options)) => run(&options),
        Err(error) => Err(format!("{error}; see --help for the usage").into()),
    };
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(LEFT),
        Err(error) => {
            let _ = writeln!(io::stderr(), "leftovers: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// `None` when help was asked for.
fn parse() -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options {
        file: None,
        json: false,
        reclaim: false,
        local: false,
        command: None,
        workers: BTreeSet::new(),
        patience: Duration::from_secs(60),
    };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("json") => options.json = true,
            Long("reclaim") => options.reclaim = true,
            Long("local") => options.local = true,
            Long("command") => options.command = Some(arguments.value()?),
            Long("worker") => _ = options.workers.insert(arguments.value()?.string()?),
            Long("patience") => {
                let value = arguments.value()?.string()?;
                options.patience = numbers::seconds("--patience", &value, Duration::ZERO..=numbers::LONGEST)?;
            }
            Long("help") | Short('h') => return Ok(None),
            Value(file) if options.file.is_none() => options.file = Some(file.into()),
            other => return Err(other.unexpected()),
        }
    }
    let drivers = usize::from(options.local) + usize::from(options.command.is_some());
    match () {
        () if options.file.is_none() => Err("no FILE is given".into()),
        () if options.reclaim && drivers != 1 => Err("--reclaim needs either --local or --command".into()),
        () if !options.reclaim && drivers > 0 => Err("--local and --command are for --reclaim".into()),
        () => Ok(Some(options)),
    }
}

/// Returns how many are left.
fn run(options: &Options) -> Result<usize, Box<dyn std::error::Error>> {
    let file = options.file.as_ref().ok_or("no FILE is given")?;
    let is_file = std::fs::metadata(file).map(|metadata| metadata.is_file());
    // A pipe or a device may have no end.
    if !is_file.map_err(|error| format!("cannot read the journal {}: {error}", file.display()))? {
        return Err(format!("cannot read the journal {}: it is not a regular file", file.display()).into());
    }
    let contents = read_journal(file)?;
    let damage = contents.damage.clone();
    if !options.reclaim {
        let left = selected(options, contents.clone());
        show(options, &left, Some(&contents), damage.as_deref())?;
        return Ok(left.len());
    }
    let left = match (options.local, &options.command) {
        (true, _) => reclaim_local(options, contents)?,
        (_, Some(line)) => reclaim_by_command(options, contents, line)?,
        _ => return Err("--reclaim needs either --local or --command".into()),
    };
    show(options, &left, None, damage.as_deref())?;
    Ok(left.len())
}

fn selected(options: &Options, contents: JournalContents) -> Vec<Leftover> {
    let is_meant = |worker: &str| options.workers.is_empty() || options.workers.contains(worker);
    let meant = contents.instances.into_iter().filter(|instance| is_meant(&instance.worker));
    let leftover = meant.map(|it| Leftover {
        worker: it.worker,
        epoch: it.epoch,
        key: it.key,
        stage: it.stage,
        ids: it.ids,
        started_at: it.started_at,
        tries: it.tries,
        reason: it.reason,
    });
    let mut left: Vec<_> = leftover.collect();
    left.sort_by(|a, b| (&a.worker, a.epoch).cmp(&(&b.worker, b.epoch)));
    left
}

#[cfg(all(unix, feature = "local"))]
fn reclaim_local(options: &Options, contents: JournalContents) -> Result<Vec<Leftover>, Box<dyn std::error::Error>> {
    reclaim(options, contents, latent_worker::LocalLatentWorker::new())
}

#[cfg(not(all(unix, feature = "local")))]
fn reclaim_local(_: &Options, _: JournalContents) -> Result<Vec<Leftover>, Box<dyn std::error::Error>> {
    Err("--local needs Unix and the feature `local` of latent-worker".into())
}

#[cfg(all(unix, feature = "command"))]
fn reclaim_by_command(
    options: &Options,
    contents: JournalContents,
    line: &OsString,
) -> Result<Vec<Leftover>, Box<dyn std::error::Error>> {
    let shell = ["/bin/sh".into(), "-c".into(), line.clone()];
    reclaim(options, contents, latent_worker::CommandLatentWorker::new(["false"], shell))
}

#[cfg(not(all(unix, feature = "command")))]
fn reclaim_by_command(
    _: &Options,
    _: JournalContents,
    _: &OsString,
) -> Result<Vec<Leftover>, Box<dyn std::error::Error>> {
    Err("--command needs Unix and the feature `command` of latent-worker".into())
}

/// Has a master of its own reclaim what is meant, for as long as there is patience.
fn reclaim(
    options: &Options,
    contents: JournalContents,
    driver: impl LatentWorker,
) -> Result<Vec<Leftover>, Box<dyn std::error::Error>> {
    let file = options.file.as_ref().ok_or("no FILE is given")?;
    let meant: BTreeSet<_> = selected(options, contents).into_iter().map(|leftover| leftover.worker).collect();
    let master = Master::builder().journal(file).map_err(|error| match error {
        JournalError::InUse { .. } => format!("{error}: that master reclaims by itself"),
        error => error.to_string(),
    })?;
    let master = master.build();
    let events = master.events(10_000);
    let driver = Arc::new(driver);
    for worker in &meant {
        master.add_worker(WorkerConfig::new(worker.clone()), driver.clone())?;
    }
    let deadline = Instant::now().checked_add(options.patience).ok_or("--patience is too long")?;
    let remains = || {
        let mut leftovers = master.leftovers();
        leftovers.retain(|leftover| meant.contains(&leftover.worker));
        leftovers
    };
    while remains().iter().any(|leftover| leftover.next != LeftoverStep::Unsupported) {
        let Ok(event) = events.recv_deadline(deadline) else { break };
        if let EventKind::ReclaimReturned { result: Err(_), .. } = event.kind {
            let _ = writeln!(io::stderr(), "leftovers: {event}");
        }
    }
    let report = master.shutdown(ShutdownMode::Fast, Duration::from_secs(30));
    if !report.complete {
        let _ = writeln!(io::stderr(), "leftovers: {report}");
    }
    let left = remains().into_iter().map(|it| Leftover {
        worker: it.worker,
        epoch: it.epoch,
        key: it.key,
        stage: it.stage,
        ids: it.ids,
        started_at: None,
        tries: it.tries,
        reason: it.reason,
    });
    Ok(left.collect())
}

fn show(
    options: &Options,
    left: &[Leftover],
    contents: Option<&JournalContents>,
    damage: Option<&str>,
) -> Result<(), Box<dyn std::error::Error>> {
    if options.json {
        let leftovers: Vec<_> = left
            .iter()
            .map(|it| {
                json!({
                    "worker": &*it.worker, "epoch": it.epoch.get(), "key": &*it.key, "stage": it.stage.to_string(),
                    "ids": it.ids.iter().map(|id| &**id).collect::<Vec<_>>(), "started_at": it.started_at,
                    "tries": it.tries, "reason": it.reason.as_deref(),
                })
            })
            .collect();
        let mut object = json!({ "leftovers": leftovers, "damage": damage });
        if let Some(contents) = contents {
            object["owner"] = json!(contents.owner.as_deref());
            object["opened_by"] = json!(contents.opened_by);
            object["opened_at"] = json!(contents.opened_at);
        }
        return print(&format!("{object}\n"));
    }
    if let Some(damage) = damage {
        let _ = writeln!(io::stderr(), "leftovers: {damage}");
    }
    let head = ["WORKER", "ATTEMPT", "STAGE", "AGE", "TRIES", "IDS", "KEY", "LAST FAILURE"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(left.iter().map(cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    match left {
        [] => print("nothing is left\n"),
        _ => print(&rows.iter().map(line).collect::<String>()),
    }
}

fn cells(leftover: &Leftover) -> [String; 8] {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    [
        printable(&leftover.worker).into_owned(),
        leftover.epoch.to_string(),
        leftover.stage.to_string(),
        leftover.started_at.map_or(String::new(), |at| age(now.saturating_sub(at))),
        leftover.tries.to_string(),
        printable(&leftover.ids.join(", ")).into_owned(),
        leftover.key.to_string(),
        leftover.reason.as_deref().map(printable).unwrap_or_default().into_owned(),
    ]
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn print(text: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| format!("cannot write to standard output: {error}").into())
}
