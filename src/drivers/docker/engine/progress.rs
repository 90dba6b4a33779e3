//! What an engine tells while it pulls or builds, as lines that a person can read. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{floor_char_boundary, null_is_default};

/// How long after one line the next may follow, where only numbers change.
const PAUSE: Duration = Duration::from_secs(1);
/// So many layers are followed; images have 127 at most.
const MAX_LAYERS: usize = 1024;
/// A longer message is cut.
const LINE_LIMIT: usize = 2048;

/// One message of an answer that streams.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Message {
    /// Of a build: a piece of its log.
    #[serde(deserialize_with = "null_is_default")]
    stream: String,
    /// Of a pull: what is done with a layer, or in all.
    #[serde(deserialize_with = "null_is_default")]
    status: String,
    /// The layer.
    #[serde(deserialize_with = "null_is_default")]
    id: String,
    #[serde(deserialize_with = "null_is_default")]
    progress_detail: Detail,
    #[serde(deserialize_with = "null_is_default")]
    error: String,
    #[serde(deserialize_with = "null_is_default")]
    error_detail: ErrorDetail,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Detail {
    #[serde(deserialize_with = "null_is_default")]
    current: i64,
    #[serde(deserialize_with = "null_is_default")]
    total: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ErrorDetail {
    #[serde(deserialize_with = "null_is_default")]
    message: String,
}

impl Message {
    /// Why the pull or the build has failed, if it has.
    pub(super) fn into_error(self) -> Option<String> {
        [self.error_detail.message, self.error].into_iter().find(|text| !text.is_empty())
    }

    pub(super) fn is_error(&self) -> bool {
        !self.error.is_empty() || !self.error_detail.message.is_empty()
    }
}

/// Condenses messages.
#[derive(Debug, Default)]
pub(super) struct Progress {
    layers: BTreeMap<String, Layer>,
    /// Of a log, what has no end yet.
    unfinished: String,
    last: Option<Instant>,
}

#[derive(Debug, Default)]
struct Layer {
    /// Bytes that are here, and that it has: 0 as long as nobody knows.
    here: u64,
    size: u64,
    done: bool,
}

impl Progress {
    pub(super) fn message(&mut self, message: &Message, now: Instant, say: &mut dyn FnMut(&str)) {
        if !message.stream.is_empty() {
            self.log(&message.stream, say);
        }
        match (message.status.trim(), message.id.as_str()) {
            ("", _) => {}
            // In all: few, and each says something else. "Pulling from" has a tag as its id.
            (status, id) if id.is_empty() || status.starts_with("Pulling from") => say(shortened(status)),
            (status, id) => self.layer(status, id, &message.progress_detail, now, say),
        }
    }

    /// What has no end at the end of all.
    pub(super) fn finish(&mut self, say: &mut dyn FnMut(&str)) {
        let rest = std::mem::take(&mut self.unfinished);
        if !rest.trim_end().is_empty() {
            say(shortened(rest.trim_end()));
        }
    }

    fn log(&mut self, text: &str, say: &mut dyn FnMut(&str)) {
        self.unfinished.push_str(text);
        while let Some(end) = self.unfinished.find('\n') {
            let rest = self.unfinished.split_off(end + 1);
            // A bar that is drawn over and over ends in what was drawn last.
            let line = self.unfinished.trim_end();
            let line = line.rsplit('\r').next().unwrap_or(line);
            if !line.trim().is_empty() {
                say(shortened(line));
            }
            self.unfinished = rest;
        }
        if self.unfinished.len() > LINE_LIMIT {
            let long = std::mem::take(&mut self.unfinished);
            say(shortened(&long));
        }
    }

    fn layer(&mut self, status: &str, id: &str, detail: &Detail, now: Instant, say: &mut dyn FnMut(&str)) {
        if !self.layers.contains_key(id) && self.layers.len() >= MAX_LAYERS {
            return;
        }
        let layer = self.layers.entry(id.to_owned()).or_default();
        match status {
            "Downloading" => {
                layer.here = u64::try_from(detail.current).unwrap_or(0);
                layer.size = u64::try_from(detail.total).unwrap_or(0);
            }
            "Download complete" | "Verifying Checksum" | "Extracting" => layer.here = layer.size,
            "Pull complete" | "Already exists" => {
                layer.here = layer.size;
                layer.done = true;
            }
            _ => {}
        }
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            return;
        }
        self.last = Some(now);
        let (all, done) = (self.layers.len(), self.layers.values().filter(|layer| layer.done).count());
        let (here, size) = self.layers.values().fold((0u64, 0u64), |(here, size), layer| {
            (here.saturating_add(layer.here), size.saturating_add(layer.size))
        });
        let line = match size {
            0 => format!("{done} of {all} layers"),
            _ => {
                let percent = u128::from(here.min(size)) * 100 / u128::from(size);
                format!("{done} of {all} layers, {percent} % of {}", megabytes(size))
            }
        };
        say(&line);
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

fn shortened(text: &str) -> &str {
    &text[..floor_char_boundary(text, LINE_LIMIT)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said, with the milliseconds at which the messages come.
    fn said(messages: &[(u64, &str)]) -> Vec<String> {
        let begin = Instant::now();
        let mut progress = Progress::default();
        let mut lines = Vec::new();
        for (at, json) in messages {
            let message = serde_json::from_str(json).unwrap();
            progress.message(&message, begin + Duration::from_millis(*at), &mut |line| lines.push(line.to_owned()));
        }
        progress.finish(&mut |line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn a_pull_is_a_few_lines() {
        let lines = said(&[
            (0, r#"{"status":"Pulling from library/rust","id":"1.90"}"#),
            (0, r#"{"status":"Pulling fs layer","progressDetail":{},"id":"a"}"#),
            (10, r#"{"status":"Pulling fs layer","progressDetail":{},"id":"b"}"#),
            (20, r#"{"status":"Downloading","progressDetail":{"current":1000000,"total":30000000},"id":"a"}"#),
            (1000, r#"{"status":"Downloading","progressDetail":{"current":5000000,"total":10000000},"id":"b"}"#),
            (1500, r#"{"status":"Downloading","progressDetail":{"current":6000000,"total":10000000},"id":"b"}"#),
            (2000, r#"{"status":"Pull complete","progressDetail":{},"id":"a"}"#),
            (2100, r#"{"status":"Digest: sha256:0123"}"#),
            (2100, r#"{"status":"Status: Downloaded newer image for rust:1.90"}"#),
        ]);
        assert_eq!(
            lines,
            [
                "Pulling from library/rust",
                "0 of 1 layers",
                "0 of 2 layers, 15 % of 40.0 MB",
                "1 of 2 layers, 90 % of 40.0 MB",
                "Digest: sha256:0123",
                "Status: Downloaded newer image for rust:1.90",
            ]
        );
    }

    #[test]
    fn a_flood_of_numbers_is_one_line_a_second() {
        let message = r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"a"}"#;
        let messages: Vec<_> = (0..10_000).map(|at| (at, message)).collect();
        assert_eq!(said(&messages).len(), 10);
    }

    #[test]
    fn the_log_of_a_build_is_said_by_lines() {
        let lines = said(&[
            (0, r#"{"stream":"Step 1/2 : FROM scratch"}"#),
            (0, r#"{"stream":"\n"}"#),
            (0, r#"{"stream":"1 %\r50 %\r100 %\r\n\n ---\u003e 0123\nlast"}"#),
            (0, r#"{"aux":{"ID":"sha256:0123"}}"#),
        ]);
        assert_eq!(lines, ["Step 1/2 : FROM scratch", "100 %", " ---> 0123", "last"]);
    }

    #[test]
    fn what_never_ends_and_what_is_too_long_is_cut() {
        let endless = format!(r#"{{"stream":"{}"}}"#, "é".repeat(1000));
        let lines = said(&(0..10).map(|at| (at, endless.as_str())).collect::<Vec<_>>());
        assert!(lines.len() >= 5 && lines.iter().all(|line| line.len() <= LINE_LIMIT), "{}", lines.len());
        // Nonsense in the numbers.
        let lines = said(&[(0, r#"{"status":"Downloading","id":"a","progressDetail":{"current":-5,"total":-1}}"#)]);
        assert_eq!(lines, ["0 of 1 layers"]);
    }

    #[test]
    fn errors_come_in_the_middle() {
        let error = |json: &str| serde_json::from_str::<Message>(json).unwrap().into_error();
        let whole = r#"{"errorDetail":{"code":1,"message":"manifest unknown"},"error":"manifest unknown"}"#;
        assert_eq!(error(whole).unwrap(), "manifest unknown");
        assert_eq!(error(r#"{"error":"no","errorDetail":null,"progressDetail":null}"#).unwrap(), "no");
        assert_eq!(error(r#"{"stream":"error","status":null}"#), None);
    }
}
