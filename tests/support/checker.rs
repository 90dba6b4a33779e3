//! An independent reader of the event record: from the events alone, without a look at the library's state, it checks
//! W1 (one call at a time), W2 (one stop for every start) and B6 (never more builds than places).

use std::collections::{BTreeMap, BTreeSet};

/// One event, from whatever source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) event: String,
    pub(crate) worker: Option<String>,
    pub(crate) epoch: Option<u64>,
}

/// What the record says, when it keeps the promises.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) starts: usize,
    pub(crate) stops: usize,
    pub(crate) leases: usize,
    pub(crate) most_leases_at_once: usize,
}

#[derive(Default)]
struct Seen {
    call: Option<String>,
    started: BTreeSet<u64>,
    stopped: BTreeSet<u64>,
    last_epoch: u64,
    leases: usize,
}

/// Reads the record of a master that has shut down.
///
/// # Errors
/// The first broken promise, with the number of the entry.
pub(crate) fn check(entries: &[Entry], max_builds: usize) -> Result<Summary, String> {
    let mut workers: BTreeMap<&str, Seen> = BTreeMap::new();
    let mut summary = Summary::default();
    for (number, entry) in entries.iter().enumerate() {
        let broken = |promise: &str| Err(format!("entry {number}: {promise}: {entry:?}"));
        let (Some(worker), Some(epoch)) = (entry.worker.as_deref(), entry.epoch) else { continue };
        let seen = workers.entry(worker).or_default();
        match entry.event.as_str() {
            called @ ("start_called" | "check_called" | "stop_called") => {
                if let Some(call) = &seen.call {
                    return broken(&format!("W1: {called} while {call} has not returned"));
                }
                seen.call = Some(called.to_owned());
                if called == "start_called" {
                    if epoch <= seen.last_epoch {
                        return broken("an attempt's number is not new");
                    }
                    if seen.started != seen.stopped {
                        return broken("W1: a start before the last stop");
                    }
                    seen.last_epoch = epoch;
                    seen.started.insert(epoch);
                    summary.starts += 1;
                } else if epoch != seen.last_epoch {
                    return broken("a call for another attempt than the last");
                }
                if called == "stop_called" {
                    if seen.leases > 0 {
                        return broken("a busy instance is stopped");
                    }
                    if !seen.stopped.insert(epoch) {
                        return broken("W2: a second stop");
                    }
                    summary.stops += 1;
                }
            }
            returned @ ("start_returned" | "check_returned" | "stop_returned") => {
                let expected = returned.replace("returned", "called");
                if seen.call.take() != Some(expected) {
                    return broken("W1: a return without its call");
                }
            }
            "build_started" => {
                if epoch != seen.last_epoch {
                    return broken("a lease of an attempt that is over");
                }
                seen.leases += 1;
                summary.leases += 1;
                summary.most_leases_at_once = summary.most_leases_at_once.max(seen.leases);
                if seen.leases > max_builds {
                    return broken("B6: more leases than places");
                }
            }
            "released" => match seen.leases.checked_sub(1) {
                Some(left) => seen.leases = left,
                None => return broken("B6: more leases given back than given out"),
            },
            _ => {}
        }
    }
    for (worker, seen) in &workers {
        if seen.started != seen.stopped {
            return Err(format!(
                "W2: worker {worker} was started as {:?} and stopped as {:?}",
                seen.started, seen.stopped
            ));
        }
        if let Some(call) = &seen.call {
            return Err(format!("W1: worker {worker}: {call} never returned"));
        }
        if seen.leases > 0 {
            return Err(format!("B6: worker {worker}: {} leases were never given back", seen.leases));
        }
    }
    Ok(summary)
}

/// The checker itself can fail: every rule, broken once.
#[test]
fn the_checker_sees_what_is_broken() {
    let entry =
        |event: &str, epoch| Entry { event: event.to_owned(), worker: Some("w".to_owned()), epoch: Some(epoch) };
    let record = |events: &[(&str, u64)]| events.iter().map(|(event, epoch)| entry(event, *epoch)).collect::<Vec<_>>();
    let good: &[(&str, u64)] = &[
        ("start_called", 1),
        ("start_returned", 1),
        ("build_started", 1),
        ("released", 1),
        ("stop_called", 1),
        ("stop_returned", 1),
    ];
    assert_eq!(check(&record(good), 1).unwrap().starts, 1);
    let broken: &[&[(&str, u64)]] = &[
        &[("start_called", 1), ("stop_called", 1)],
        &[("start_called", 1), ("start_returned", 1)],
        &[("start_called", 1), ("start_returned", 1), ("start_called", 2)],
        &[("stop_returned", 1)],
        &[("start_called", 1), ("start_returned", 1), ("build_started", 1), ("build_started", 1)],
        &[("start_called", 1), ("start_returned", 1), ("build_started", 1), ("stop_called", 1)],
        &[("released", 1)],
        &[good, &[("stop_called", 1)]].concat(),
        &[good, &[("start_called", 1)]].concat(),
    ];
    for events in broken {
        assert!(check(&record(events), 1).is_err(), "{events:?}");
    }
}
