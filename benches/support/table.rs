//! The outcome of a bench, for people as a table and for machines as JSON lines.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Times, in_earnest};

/// What was measured.
pub(crate) enum Figure {
    Times(Times),
    Bytes(f64),
    Seconds(f64),
    Count(f64),
    /// The more, the better.
    Rate(f64),
}

/// One line of the table.
pub(crate) struct Line {
    what: String,
    figure: Figure,
    /// The ratio to the peer, which is measured in the same run.
    ratio: Option<f64>,
    /// The most that the ratio may come to if there is one, else the figure; for a rate, the least that it may come to.
    target: Option<f64>,
}

impl Line {
    pub(crate) fn new(what: impl Into<String>, figure: Figure) -> Self {
        Self { what: what.into(), figure, ratio: None, target: None }
    }

    pub(crate) fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = Some(ratio);
        self
    }

    pub(crate) fn at_most(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }

    pub(crate) fn at_least(self, target: f64) -> Self {
        self.at_most(target)
    }

    fn judged(&self) -> f64 {
        match (&self.figure, self.ratio) {
            (Figure::Rate(value), _) => *value,
            (_, Some(ratio)) => ratio,
            (Figure::Times(times), None) => times.median.as_secs_f64(),
            (Figure::Bytes(value) | Figure::Seconds(value) | Figure::Count(value), None) => *value,
        }
    }

    fn is_rate(&self) -> bool {
        matches!(self.figure, Figure::Rate(_))
    }

    /// `None` when there is no target, or when too little was measured to tell.
    fn met(&self) -> Option<bool> {
        let target = self.target.filter(|_| in_earnest())?;
        Some(if self.is_rate() { self.judged() >= target } else { self.judged() <= target })
    }

    fn cells(&self) -> [String; 7] {
        let [minimum, median, p90, p99] = match &self.figure {
            Figure::Times(times) => [times.minimum, times.median, times.p90, times.p99].map(duration),
            Figure::Bytes(value) => [String::new(), bytes(*value), String::new(), String::new()],
            Figure::Seconds(value) => {
                [String::new(), duration(Duration::from_secs_f64(*value)), String::new(), String::new()]
            }
            Figure::Count(value) => [String::new(), value.to_string(), String::new(), String::new()],
            Figure::Rate(value) => [String::new(), format!("{value:.0}"), String::new(), String::new()],
        };
        let ratio = self.ratio.map(|ratio| format!("{ratio:.2}x")).unwrap_or_default();
        let target = self.target.map(|most| {
            let most = match &self.figure {
                Figure::Rate(_) => most.to_string(),
                _ if self.ratio.is_some() => format!("{most:.2}x"),
                Figure::Bytes(_) => bytes(most),
                Figure::Count(_) => most.to_string(),
                Figure::Times(_) | Figure::Seconds(_) => duration(Duration::from_secs_f64(most)),
            };
            let verdict = self.met().map_or("not measured", |met| if met { "met" } else { "MISSED" });
            format!("{} {most}: {verdict}", if self.is_rate() { ">=" } else { "<=" })
        });
        [self.what.clone(), minimum, median, p90, p99, ratio, target.unwrap_or_default()]
    }

    fn json(&self, bench: &str) -> Value {
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
        put("bench", json!(bench));
        put("what", json!(self.what));
        match &self.figure {
            Figure::Times(times) => {
                let named = [("min", times.minimum), ("median", times.median), ("p90", times.p90), ("p99", times.p99)];
                named.into_iter().for_each(|(name, time)| put(&format!("{name}_ns"), json!(time.as_nanos() as u64)));
            }
            Figure::Bytes(value) => put("bytes", json!(value)),
            Figure::Seconds(value) => put("seconds", json!(value)),
            Figure::Count(value) => put("count", json!(value)),
            Figure::Rate(value) => put("rate", json!(value)),
        }
        if let Some(ratio) = self.ratio {
            put("ratio", json!(ratio));
        }
        if let Some(most) = self.target {
            put("target", json!(most));
            put("met", json!(self.met()));
        }
        Value::Object(object)
    }
}

/// The lines of one bench.
pub(crate) struct Report {
    bench: &'static str,
    lines: Vec<Line>,
}

impl Report {
    pub(crate) fn new(bench: &'static str) -> Self {
        Self { bench, lines: Vec::new() }
    }

    pub(crate) fn add(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Adds the times of a peer, and of each side that is compared with it. The ratio of each may come to `at_most`.
    pub(crate) fn compare(&mut self, peer: &(String, Times), sides: &[(String, Times)], at_most: f64) {
        self.add(Line::new(&peer.0, Figure::Times(peer.1)));
        for (name, times) in sides {
            self.add(Line::new(name, Figure::Times(*times)).ratio(times.ratio_to(&peer.1)).at_most(at_most));
        }
    }

    /// Adds times without a target.
    pub(crate) fn beside(&mut self, peer: &(String, Times), (name, times): &(String, Times)) {
        self.add(Line::new(name, Figure::Times(*times)).ratio(times.ratio_to(&peer.1)));
    }

    pub(crate) fn print(&self) {
        if std::env::args().any(|argument| argument == "--json") {
            self.lines.iter().for_each(|line| println!("{}", line.json(self.bench)));
            return;
        }
        let head = [self.bench, "min", "median", "p90", "p99", "ratio", "target"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(self.lines.iter().map(Line::cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 7] = std::array::from_fn(width);
        println!();
        for (number, row) in rows.iter().enumerate() {
            let [what, numbers @ .., target] = row;
            print!("{what:<0$}", widths[0]);
            numbers.iter().zip(&widths[1..]).for_each(|(cell, width)| print!("  {cell:>width$}"));
            println!("  {target}");
            if number == 0 {
                println!("{}", "-".repeat(widths.iter().sum::<usize>() + 2 * 6));
            }
        }
    }
}

fn duration(time: Duration) -> String {
    let nanoseconds = time.as_nanos() as f64;
    match nanoseconds {
        ..1e4 => format!("{nanoseconds:.0} ns"),
        ..1e7 => format!("{:.1} us", nanoseconds / 1e3),
        ..1e9 => format!("{:.1} ms", nanoseconds / 1e6),
        _ => format!("{:.2} s", nanoseconds / 1e9),
    }
}

fn bytes(value: f64) -> String {
    if value < 10_240.0 { format!("{value:.0} B") } else { format!("{:.1} KiB", value / 1024.0) }
}
