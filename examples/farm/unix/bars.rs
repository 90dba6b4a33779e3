//! Progress on standard error: a bar for the queue, and below it one line a worker with its state and why.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use latent_worker::{Master, WorkerState, WorkerStatus};

use super::jobs::{Job, job_at};
use super::observer::SharedTally;
use super::tally::Tally;

/// All is one bar with a message of many lines, so that all is drawn at once.
const TEMPLATE: &str = "[{bar:30}] {pos}/{len} builds{msg}";
/// Lines of the terminal that are left to the output of builds, the queue and the count of hidden workers.
const OTHER_LINES: usize = 6;

pub(crate) struct Bars {
    bar: ProgressBar,
    master: Master,
    tally: SharedTally,
    jobs: Arc<[Job]>,
}

impl Bars {
    /// `None` where there is no terminal to draw on.
    pub(crate) fn new(master: &Master, tally: &SharedTally, jobs: &Arc<[Job]>) -> Option<Self> {
        let plain = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        if plain || !io::stderr().is_terminal() {
            return None;
        }
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is right").progress_chars("=> ");
        let bar = ProgressBar::new(jobs.len() as u64).with_style(style);
        let (master, tally, jobs) = (master.clone(), tally.clone(), jobs.clone());
        Some(Self { bar, master, tally, jobs })
    }

    /// Draws the present state.
    pub(crate) fn draw(&self) {
        let workers = self.master.status();
        let (rows, columns) = terminal_size();
        let tally = self.tally.lock();
        let mut lines = vec![queue_line(&tally)];
        let room = rows.saturating_sub(OTHER_LINES).max(1);
        lines.extend(worker_lines(&workers, room, |worker| busy_with(&tally, &self.jobs, worker)));
        let ended = tally.ended() as u64;
        drop(tally);
        let lines: Vec<_> = lines.iter().map(|line| fitting(line, columns)).collect();
        self.bar.set_position(ended);
        self.bar.set_message(lines.join("\n"));
    }

    /// Prints lines that stay.
    pub(crate) fn print_above(&self, text: &str) {
        // The width of a tab depends on where it stands.
        self.bar.println(text.replace('\t', "    "));
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (24, 80),
    }
}

/// The builds that run on a worker.
fn busy_with(tally: &Tally, jobs: &[Job], worker: &str) -> String {
    let running = tally.running.iter().filter(|(_, running)| *running.worker == *worker);
    let text = |(line, _): (&usize, _)| match job_at(jobs, *line) {
        Some(job) => format!("; build {line}: {}", job.command),
        None => format!("; build {line}"),
    };
    running.map(text).collect()
}

fn queue_line(tally: &Tally) -> String {
    let running = tally.running.len();
    let waiting = tally.queued.saturating_sub(tally.ended() + running);
    let failed = if tally.failed > 0 { format!(", {} failed", tally.failed) } else { String::new() };
    format!(": {running} running, {waiting} waiting{failed}")
}

/// A line for each worker that there is room for, and one that counts the others.
fn worker_lines(workers: &[WorkerStatus], room: usize, busy_with: impl Fn(&str) -> String) -> Vec<String> {
    let (shown, others) = workers.split_at(room.min(workers.len()));
    let mut lines: Vec<_> = shown.iter().map(|worker| format!("{worker}{}", busy_with(&worker.name))).collect();
    if !others.is_empty() {
        let count = |is: fn(&WorkerStatus) -> bool| others.iter().filter(|worker| is(worker)).count();
        let busy = count(|worker| worker.leases > 0);
        let down = count(|worker| matches!(worker.state, WorkerState::NotSubstantiated | WorkerState::ShutDown));
        let rest = others.len() - busy - down;
        lines.push(format!("and {} more: {busy} busy, {rest} idle or on their way, {down} down", others.len()));
    }
    lines
}

/// As much of a line as surely fits into one of the terminal.
fn fitting(line: &str, columns: usize) -> String {
    let mut left = columns.saturating_sub(1);
    let mut text = String::new();
    for character in line.chars() {
        let character = if character.is_control() { ' ' } else { character };
        let width = if character.is_ascii() { 1 } else { 2 };
        if width > left {
            break;
        }
        left -= width;
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_the_width_of_the_terminal() {
        assert_eq!(fitting("abc", 4), "abc");
        assert_eq!(fitting("abcd", 4), "abc");
        assert_eq!(fitting("a\tb\u{1b}", 10), "a b ");
        assert_eq!(fitting("\u{4e00}\u{4e00}\u{4e00}", 6), "\u{4e00}\u{4e00}");
        assert_eq!(fitting("abc", 0), "");
    }
}
