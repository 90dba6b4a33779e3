//! What the kit found: a table for people, JSON for machines, and panics for tests.
//!
//! Plain values; nothing is run here.

use std::fmt::{self, Write};
use std::time::Duration;

/// What became of one check.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// It was tried, and what is promised holds.
    Holds,
    /// It was tried, and what is promised does not hold.
    Broken(String),
    /// It was not tried, for the subject has no means for it or does not do what the check is about.
    NotTried(String),
}

impl Verdict {
    /// A name for machines: `holds`, `broken` or `not_tried`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Broken(_) => "broken",
            Self::NotTried(_) => "not_tried",
        }
    }

    /// Why, unless it holds.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Holds => None,
            Self::Broken(reason) | Self::NotTried(reason) => Some(reason),
        }
    }
}

/// One check and what became of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The name of the check. It begins with the id of the promise that it is about first of all.
    pub name: &'static str,
    /// The ids of all promises that it is about.
    pub promises: &'static str,
    /// What was done.
    pub what: &'static str,
    /// What became of it.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
}

/// What [`Subject::run`](super::Subject::run) found. Its `Display` is a table.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[must_use = "a report that nobody reads finds nothing"]
pub struct Report {
    pub(super) subject: String,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    /// The name of the subject.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Every check, in the order in which they were run.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What became of the check of this name.
    pub fn verdict(&self, name: &str) -> Option<&Verdict> {
        self.findings.iter().find(|finding| finding.name == name).map(|finding| &finding.verdict)
    }

    /// The names of the checks that are broken.
    pub fn broken(&self) -> Vec<&'static str> {
        self.names(|verdict| matches!(verdict, Verdict::Broken(_)))
    }

    /// The names of the checks that were not tried.
    pub fn not_tried(&self) -> Vec<&'static str> {
        self.names(|verdict| matches!(verdict, Verdict::NotTried(_)))
    }

    fn names(&self, picked: impl Fn(&Verdict) -> bool) -> Vec<&'static str> {
        self.findings.iter().filter(|finding| picked(&finding.verdict)).map(|finding| finding.name).collect()
    }

    /// For a test: nothing may be broken.
    ///
    /// # Panics
    /// With the table, when something is broken.
    #[track_caller]
    pub fn assert(&self) {
        assert!(self.broken().is_empty(), "{self}");
    }

    /// For a test: nothing may be broken, and everything must have been tried.
    ///
    /// # Panics
    /// With the table, when that is not so.
    #[track_caller]
    pub fn expect_all(&self) {
        self.expect_all_but(&[]);
    }

    /// For a test: nothing may be broken, and exactly these checks were not tried. So nothing falls out of the test
    /// unnoticed, and what can be tried one day comes off the list.
    ///
    /// # Panics
    /// With the table, when that is not so.
    #[track_caller]
    pub fn expect_all_but(&self, not_tried: &[&str]) {
        self.assert();
        let (mut found, mut expected) = (self.not_tried(), not_tried.to_vec());
        found.sort_unstable();
        expected.sort_unstable();
        assert!(found == expected, "{self}\nnot tried: {found:?}\nexpected:  {expected:?}");
    }

    /// One JSON object: `subject`, and `findings` as a list of objects with `name`, `promises`, `what`, `verdict`
    /// (`holds`, `broken`, `not_tried`), `reason` (a string or null) and `seconds`.
    pub fn to_json(&self) -> String {
        let mut json = String::from("{\"subject\":");
        push_json_string(&mut json, &self.subject);
        json.push_str(",\"findings\":[");
        for (i, finding) in self.findings.iter().enumerate() {
            json.push_str(if i == 0 { "{\"name\":" } else { ",{\"name\":" });
            push_json_string(&mut json, finding.name);
            json.push_str(",\"promises\":");
            push_json_string(&mut json, finding.promises);
            json.push_str(",\"what\":");
            push_json_string(&mut json, finding.what);
            json.push_str(",\"verdict\":");
            push_json_string(&mut json, finding.verdict.name());
            json.push_str(",\"reason\":");
            match finding.verdict.reason() {
                Some(reason) => push_json_string(&mut json, reason),
                None => json.push_str("null"),
            }
            let _ = write!(json, ",\"seconds\":{:.3}}}", finding.took.as_secs_f64());
        }
        json.push_str("]}");
        json
    }
}

/// As RFC 8259, section 7, has it.
fn push_json_string(json: &mut String, text: &str) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            control if control < ' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(control));
            }
            other => json.push(other),
        }
    }
    json.push('"');
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (broken, not_tried) = (self.broken().len(), self.not_tried().len());
        let holds = self.findings.len() - broken - not_tried;
        writeln!(f, "conformance of {}: {holds} hold, {broken} broken, {not_tried} not tried", self.subject)?;
        let width = |column: fn(&Finding) -> &str, head: &str| {
            self.findings.iter().map(|finding| column(finding).chars().count()).fold(head.len(), usize::max)
        };
        let promises = width(|finding| finding.promises, "promises");
        let name = width(|finding| finding.name, "check");
        let what = width(|finding| finding.what, "what was done");
        writeln!(f, "{:9}  {:promises$}  {:name$}  {:what$}     time", "result", "promises", "check", "what was done")?;
        for finding in &self.findings {
            let result = match finding.verdict {
                Verdict::Holds => "holds",
                Verdict::Broken(_) => "BROKEN",
                Verdict::NotTried(_) => "not tried",
            };
            writeln!(
                f,
                "{result:9}  {:promises$}  {:name$}  {:what$}  {:5.2} s",
                finding.promises,
                finding.name,
                finding.what,
                finding.took.as_secs_f64()
            )?;
            for line in finding.verdict.reason().unwrap_or_default().lines() {
                writeln!(f, "{:9}  {:promises$}    {line}", "", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let finding = |name, promises, verdict| Finding {
            name,
            promises,
            what: "something is done",
            verdict,
            took: Duration::from_millis(1250),
        };
        let findings = vec![
            finding("d1_life", "D1", Verdict::Holds),
            finding("d2_failed", "D2, W2", Verdict::Broken("left:\na \"b\" \\ \t\u{1}".to_owned())),
            finding("w11", "W11", Verdict::NotTried("no pair".to_owned())),
        ];
        Report { subject: "a cloud".to_owned(), findings }
    }

    #[test]
    fn the_table_has_reasons_below_their_line() {
        let expected = "\
conformance of a cloud: 1 hold, 1 broken, 1 not tried
result     promises  check      what was done         time
holds      D1        d1_life    something is done   1.25 s
BROKEN     D2, W2    d2_failed  something is done   1.25 s
                       left:
                       a \"b\" \\ \t\u{1}
not tried  W11       w11        something is done   1.25 s
                       no pair
";
        assert_eq!(report().to_string(), expected);
    }

    #[test]
    fn machines_read_it_as_json() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(json["subject"], "a cloud");
        assert_eq!(json["findings"].as_array().unwrap().len(), 3);
        assert_eq!(json["findings"][0]["reason"], serde_json::Value::Null);
        assert_eq!(json["findings"][1]["reason"], "left:\na \"b\" \\ \t\u{1}");
        assert_eq!(json["findings"][1]["verdict"], "broken");
        assert_eq!(json["findings"][2]["seconds"], 1.25);
    }

    #[test]
    fn a_test_fails_for_what_is_broken_and_for_what_is_tried_or_not_against_its_list() {
        let fails = |judge: &dyn Fn(&Report), report: &Report| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge(report))).is_err()
        };
        let mut report = report();
        assert!(fails(&Report::assert, &report));
        assert!(fails(&|report| report.expect_all_but(&["w11"]), &report));
        report.findings.remove(1);
        assert!(!fails(&Report::assert, &report));
        assert!(fails(&Report::expect_all, &report));
        assert!(!fails(&|report| report.expect_all_but(&["w11"]), &report));
        assert!(fails(&|report| report.expect_all_but(&["w11", "d1_life"]), &report));
        assert!(fails(&|report| report.expect_all_but(&["w11", "nonsense"]), &report));
    }
}
