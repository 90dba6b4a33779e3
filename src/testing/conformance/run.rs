//! Runs the checks one after the other, each on a thread of its own with a limit.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::checks::{self, Check};
use super::record::Record;
use super::report::{Finding, Report, Verdict};
use super::stage::{Make, Place, Proved, Stage, Unproved};
use super::subject::Means;

pub(super) fn run(make: Make, means: Means) -> Report {
    let place = Place::new().unwrap_or_else(|error| panic!("no directory for the journals of the kit: {error}"));
    let subject = means.name.clone();
    let record = Arc::new(Record::default());
    let stage = Stage { make, means, record, masters: AtomicUsize::new(0), place, known: Default::default() };
    let stage = Arc::new(stage);
    let only = stage.means.only.clone();
    let picked = checks::ALL.iter().filter(|check| only.as_ref().is_none_or(|part| check.name.contains(part.as_str())));

    note_what_is_there(&stage);
    let mut findings: Vec<Finding> = Vec::new();
    for check in picked {
        let begun = Instant::now();
        let verdict = run_one(&stage, check);
        findings.push(Finding {
            name: check.name,
            promises: check.promises,
            what: check.what,
            verdict,
            took: begun.elapsed(),
        });
        // What it has left is told by it, and by nobody else.
        note_what_is_there(&stage);
    }
    Report { subject, findings }
}

/// A check waits for some things, one after the other.
fn limit(means: &Means) -> Duration {
    means.patience.saturating_mul(10).saturating_add(means.settle.saturating_mul(4))
}

/// On a thread of its own, which is left behind when it hangs.
fn on_thread<T: Send + 'static>(
    stage: &Arc<Stage>,
    name: &str,
    work: impl FnOnce(&Stage) -> T + Send + 'static,
) -> Result<std::thread::Result<T>, RecvTimeoutError> {
    let (sender, receiver) = bounded(1);
    let (limit, stage) = (limit(&stage.means), stage.clone());
    let body = move || _ = sender.send(catch_unwind(AssertUnwindSafe(|| work(&stage))));
    let thread = std::thread::Builder::new().name(format!("conformance {name}")).spawn(body);
    let thread = thread.unwrap_or_else(|error| panic!("no thread for a check: {error}"));
    let result = receiver.recv_timeout(limit)?;
    // It has sent, and ends.
    _ = thread.join();
    Ok(result)
}

fn note_what_is_there(stage: &Arc<Stage>) {
    // That the list panics or hangs is told by the checks.
    _ = on_thread(stage, "list", |stage| {
        let listing = stage.list();
        stage.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(listing);
    });
}

fn run_one(stage: &Arc<Stage>, check: &'static Check) -> Verdict {
    let run = check.run;
    match on_thread(stage, check.name, run) {
        Ok(Ok(proved)) => verdict(proved),
        Ok(Err(panic)) => {
            Verdict::Broken(format!("a closure of the subject or the kit panicked: {}", message(&*panic)))
        }
        Err(_) => {
            let limit = limit(&stage.means);
            Verdict::Broken(format!("not over within {limit:?}: a closure of the subject or the driver's drop hangs"))
        }
    }
}

fn verdict(proved: Proved) -> Verdict {
    match proved {
        Ok(()) => Verdict::Holds,
        Err(Unproved::Broken(reason)) => Verdict::Broken(reason),
        Err(Unproved::NotTried(reason)) => Verdict::NotTried(reason),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "with no message".to_owned())
}
