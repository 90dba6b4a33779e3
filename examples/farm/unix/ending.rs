//! The end of the farm: its exit status, and its messages about what is left behind.

use std::path::PathBuf;

use latent_worker::{Master, WorkerState};

use super::args::Options;

/// A build did not succeed, or output could not be written.
pub(crate) const FAILED: u8 = 1;
pub(crate) const BAD_USAGE: u8 = 2;
/// Something of an instance may be left.
pub(crate) const LEFT_BEHIND: u8 = 3;
/// 128 and the number of SIGINT, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;
/// 128 plus the number of SIGPIPE, as in shells.
pub(crate) const OUTPUT_CLOSED: u8 = 141;

/// Describes what may be left of instances, and how to remove it.
#[derive(Clone)]
pub(crate) struct Remains {
    master: Master,
    driver: &'static str,
    workers: usize,
    journal: Option<PathBuf>,
}

impl Remains {
    pub(crate) fn new(master: &Master, options: &Options) -> Self {
        Self {
            master: master.clone(),
            driver: options.driver.name(),
            workers: options.workers.get(),
            journal: options.journal.clone(),
        }
    }

    /// Returns a line for each thing that may be left, and how to remove it. Empty if nothing is left.
    pub(crate) fn lines(&self) -> Vec<String> {
        let up = self.master.status().into_iter();
        let up = up.filter(|worker| !matches!(worker.state, WorkerState::NotSubstantiated | WorkerState::ShutDown));
        let up = up.map(|worker| format!("farm: may be left behind: {worker}"));
        let known = self.master.leftovers().into_iter().map(|leftover| format!("farm: left behind: {leftover}"));
        let mut lines: Vec<_> = up.chain(known).collect();
        if !lines.is_empty() {
            lines.push(self.advice());
        }
        lines
    }

    fn advice(&self) -> String {
        let Some(journal) = &self.journal else {
            return "farm: there is no journal: remove what is left by hand, and use --journal next time".to_owned();
        };
        let (journal, driver, workers) = (journal.display(), self.driver, self.workers);
        let options = format!("--driver {driver} --workers {workers} --journal {journal}");
        let tool = match driver {
            "local" => format!(", or run the example `leftovers` with --reclaim --local {journal}"),
            _ => String::new(),
        };
        format!("farm: to remove what is left, run farm again with {options}{tool}")
    }
}
