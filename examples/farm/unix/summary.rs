//! The table at the end.

use std::fmt::Write;

use super::tally::{Tally, Times, Work};

/// What is more is only counted.
const MOST_WORKERS: usize = 16;
const MOST_FAILURES: usize = 50;

pub(crate) fn summary(tally: &Tally, workers: usize) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{}", line.trim_end()).expect("a string takes everything");
    let all = tally.all_work();

    line(String::new());
    line(format!(
        "builds   {}: {} succeeded, {} failed, {} cancelled, {} not run",
        tally.ended(),
        tally.succeeded,
        tally.failed,
        tally.cancelled,
        tally.not_run
    ));
    line(format!(
        "workers  {workers}: {}, {} attached, {} failed; {}{}",
        counted(all.starts, "start"),
        all.attached,
        all.failed,
        counted(all.stops, "stop"),
        match all.failed_stops {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        }
    ));
    line(format!(
        "reuse    {} of {} got a warm instance{}",
        all.warm,
        counted(all.leases, "build"),
        match all.attached {
            0 => String::new(),
            attached => format!("; {:.1} builds an instance", all.leases as f64 / attached as f64),
        }
    ));
    if tally.retries > 0 {
        line(format!("retries  {}", tally.retries));
    }
    line(format!("time     {}", seconds(tally.elapsed)));

    line(String::new());
    let times = |name: &str, times: &Times| {
        vec![name.to_owned(), seconds(times.total), seconds(times.mean()), seconds(times.longest)]
    };
    let heads = ["", "total", "mean", "longest"].map(str::to_owned).to_vec();
    table(&[heads, times("waited", &tally.waited), times("ran", &tally.ran)]).into_iter().for_each(&mut line);

    line(String::new());
    let mut rows =
        vec![["worker", "starts", "attached", "failed", "stops", "builds", "warm", "ran"].map(str::to_owned).to_vec()];
    rows.extend(tally.workers.iter().take(MOST_WORKERS).map(|(worker, work)| work_row(&worker.name, work)));
    if tally.workers.len() > 1 {
        rows.push(work_row("all", &all));
    }
    table(&rows).into_iter().for_each(&mut line);
    line(more(tally.workers.len(), MOST_WORKERS, "worker"));

    if !tally.failures.is_empty() {
        line("failures".to_owned());
        for failure in tally.failures.iter().take(MOST_FAILURES) {
            let place = failure.worker.as_ref().map(|worker| format!(" on {worker}")).unwrap_or_default();
            line(format!("  build {}{place}: {}", failure.build, failure.reason));
            if !failure.command.is_empty() {
                line(format!("    {}", failure.command));
            }
        }
        line(more(tally.failures.len(), MOST_FAILURES, "failure"));
    }
    if !tally.trouble.is_empty() {
        line("trouble with instances".to_owned());
        tally.trouble.iter().take(MOST_FAILURES).for_each(|trouble| line(format!("  {trouble}")));
        line(more(tally.trouble.len(), MOST_FAILURES, "line"));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn work_row(name: &str, work: &Work) -> Vec<String> {
    let numbers =
        [work.starts, work.attached, work.failed, work.stops, work.leases, work.warm].map(|number| number.to_string());
    [name.to_owned()].into_iter().chain(numbers).chain([seconds(work.ran)]).collect()
}

/// Rows of equal length as lines: the first column to the left, the others to the right.
fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let cell = |(column, text): (usize, &String)| match column {
        0 => format!("{text:<width$}", width = widths[0]),
        _ => format!("{text:>width$}", width = widths[column] + 2),
    };
    rows.iter().map(|row| row.iter().enumerate().map(cell).collect()).collect()
}

fn seconds(time: f64) -> String {
    format!("{time:.2} s")
}

fn counted(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// What is not shown, or nothing.
fn more(number: usize, shown: usize, thing: &str) -> String {
    match number.saturating_sub(shown) {
        0 => String::new(),
        hidden => format!("  and {hidden} more {thing}s\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::tests::{ended, two_builds_on_one_instance};
    use super::*;

    #[test]
    fn the_summary_is_a_table_for_people() {
        let mut tally = two_builds_on_one_instance();
        tally.failures[0].command = "make".into();
        let expected = "
builds   2: 1 succeeded, 1 failed, 0 cancelled, 0 not run
workers  2: 1 start, 1 attached, 0 failed; 1 stop
reuse    1 of 2 builds got a warm instance; 2.0 builds an instance
time     6.50 s

         total    mean  longest
waited  4.00 s  2.00 s   3.00 s
ran     3.00 s  1.50 s   2.00 s

worker   starts  attached  failed  stops  builds  warm     ran
local-1       1         1       0      1       2     1  3.00 s

failures
  build 4 on local-1: exit code 2
    make
";
        assert_eq!(summary(&tally, 2), expected);
    }

    #[test]
    fn nothing_at_all_has_a_summary_too() {
        let summary = summary(&Tally::default(), 3);
        assert!(summary.contains("builds   0:"), "{summary}");
        assert!(!summary.contains("NaN"), "{summary}");
    }

    #[test]
    fn a_thousand_failures_are_counted() {
        let mut tally = Tally::default();
        for build in 1..=1000 {
            tally.add(&ended(0.0, build, "failed", Some("exit code 1")));
        }
        let summary = summary(&tally, 1);
        assert!(summary.ends_with("  and 950 more failures\n"), "{summary}");
        assert!(summary.lines().count() < 150);
    }
}
