//! The file of builds: one a line, `key=value ... -- command line`.

use std::fmt;
use std::sync::Arc;

use latent_worker::Properties;

/// The list that is run without a FILE.
pub(crate) const BUILT_IN: &str = include_str!("built_in.txt");

/// The property that chooses the kind of instance.
pub(crate) const KIND: &str = "kind";

/// The property that chooses the image of a container or a machine.
#[cfg(all(feature = "agent", any(feature = "docker", feature = "ec2")))]
pub(crate) const IMAGE: &str = "image";

/// The longest line, in bytes. Linux limits an argument of a program to 128 KiB; other systems limit the arguments and
/// the environment together.
const LONGEST_LINE: usize = 64 << 10;

/// The most builds: each of them is kept in memory until the end.
const MOST_BUILDS: usize = 1_000_000;
/// The most invalid lines that are reported. A file with more is probably not a list of builds.
const MOST_BAD_LINES: usize = 100;

/// One line with a build.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Job {
    /// Its number in the file, from 1.
    pub(crate) line: usize,
    pub(crate) properties: Properties,
    pub(crate) command: Arc<str>,
}

impl Job {
    pub(crate) fn kind(&self) -> Option<&str> {
        self.properties.get(KIND)
    }
}

/// An invalid line.
#[derive(PartialEq, Debug)]
pub(crate) struct BadLine {
    pub(crate) line: usize,
    what: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; a valid line looks like: {KIND}=text -- wc -l notes.txt", self.what)
    }
}

/// The first invalid lines, and the number of the others.
#[derive(PartialEq, Default, Debug)]
pub(crate) struct BadLines {
    pub(crate) shown: Vec<BadLine>,
    pub(crate) hidden: usize,
}

/// Returns all builds, or the invalid lines.
pub(crate) fn parse(file: &[u8]) -> Result<Vec<Job>, BadLines> {
    let mut jobs = Vec::new();
    let mut bad = BadLines::default();
    for (index, bytes) in file.split(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        match parse_line(line, bytes) {
            Ok(Some(_)) if jobs.len() == MOST_BUILDS => {
                let what = format!("the list has more than {MOST_BUILDS} builds: split it");
                bad.shown.push(BadLine { line, what });
                break;
            }
            Ok(job) => jobs.extend(job),
            Err(_) if bad.shown.len() == MOST_BAD_LINES => bad.hidden += 1,
            Err(what) => bad.shown.push(BadLine { line, what }),
        }
    }
    if bad.shown.is_empty() { Ok(jobs) } else { Err(bad) }
}

/// The job of this line; the jobs are in the order of their lines.
pub(crate) fn job_at(jobs: &[Job], line: usize) -> Option<&Job> {
    let index = jobs.binary_search_by_key(&line, |job| job.line).ok()?;
    Some(&jobs[index])
}

fn parse_line(line: usize, bytes: &[u8]) -> Result<Option<Job>, String> {
    if bytes.len() > LONGEST_LINE {
        let length = bytes.len();
        return Err(format!(
            "the line has {length} bytes and the most is {LONGEST_LINE}: put the command into a script"
        ));
    }
    if bytes.contains(&0) {
        return Err("the line contains a NUL character: save the file as UTF-8 text".into());
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let column = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).chars().count() + 1;
        format!("the line is not UTF-8 at character {column}: save the file as UTF-8 text")
    })?;
    let mut rest = text.trim();
    if rest.contains('\r') {
        return Err("the line contains a carriage return: end lines with LF or CRLF".into());
    }
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(None);
    }
    let mut properties = Properties::new();
    loop {
        let (word, after) = first_word(rest);
        if let Some(character) = word.chars().find(is_invisible) {
            return Err(format!("{word:?} contains the invisible character U+{:04X}", u32::from(character)));
        }
        match (word, word.split_once('=')) {
            ("", _) => return Err("the `--` before the command is missing".into()),
            ("--", _) if after.is_empty() => return Err("the command after `--` is missing".into()),
            ("--", _) => return Ok(Some(Job { line, properties, command: after.into() })),
            (_, Some((key, value))) if !key.is_empty() && !value.is_empty() => {
                if properties.get(key).is_some() {
                    return Err(format!("the property {key} is given twice"));
                }
                properties.set(key, value);
            }
            _ => return Err(format!("{word:?} is neither key=value nor the `--` before the command")),
        }
        rest = after;
    }
}

/// Two words that look the same are the same.
fn is_invisible(character: &char) -> bool {
    const JOINERS_AND_DIRECTIONS: [std::ops::RangeInclusive<char>; 5] = [
        '\u{ad}'..='\u{ad}',
        '\u{200b}'..='\u{200f}',
        '\u{202a}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{feff}'..='\u{feff}',
    ];
    character.is_control() || JOINERS_AND_DIRECTIONS.iter().any(|range| range.contains(character))
}

/// The text up to the first blank, and what follows the blanks.
fn first_word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<(String, String), String> {
        match parse(line.as_bytes()) {
            Ok(jobs) => {
                assert_eq!(jobs.len(), 1, "{line:?}");
                Ok((jobs[0].properties.to_string(), jobs[0].command.to_string()))
            }
            Err(bad) => {
                assert_eq!((bad.shown.len(), bad.hidden), (1, 0), "{line:?}");
                Err(bad.shown[0].to_string())
            }
        }
    }

    fn taken(line: &str, properties: &str, command: &str) {
        assert_eq!(one(line), Ok((properties.to_owned(), command.to_owned())), "{line:?}");
    }

    fn refused(line: &str, why: &str) {
        let error = one(line).expect_err(line);
        assert!(error.contains(why), "{line:?}: {error}");
        assert!(error.contains("kind=text -- wc"), "no valid line is shown: {error}");
    }

    #[test]
    fn a_line_is_properties_and_a_command() {
        taken("kind=text size=2 -- make test", "kind=text size=2", "make test");
        taken("-- make test", "", "make test");
        taken("\t kind=text\t--   make   test \r", "kind=text", "make   test");
    }

    #[test]
    fn only_the_first_separator_separates() {
        taken("-- git log -- src", "", "git log -- src");
        taken("a=-- -- x=1 make", "a=--", "x=1 make");
    }

    #[test]
    fn a_value_may_have_an_equals_sign() {
        taken("option=a=b -- true", "option=a=b", "true");
    }

    #[test]
    fn comments_and_blank_lines_count_as_lines() {
        let jobs = parse(b"# one\n\n   # three\n-- four\n\r\n-- six # not a comment").unwrap();
        let lines: Vec<_> = jobs.iter().map(|job| (job.line, &*job.command)).collect();
        assert_eq!(lines, [(4, "four"), (6, "six # not a comment")]);
    }

    #[test]
    fn an_empty_file_has_no_builds() {
        assert_eq!(parse(b""), Ok(vec![]));
        assert_eq!(parse(b"\n# nothing\n"), Ok(vec![]));
    }

    #[test]
    fn an_invalid_line_says_what_is_wrong() {
        refused("make test", "\"make\" is neither");
        refused("kind=text make test", "\"make\" is neither");
        refused("kind=text", "`--` before the command is missing");
        refused("kind=text --", "command after `--` is missing");
        refused("--", "command after `--` is missing");
        refused("--make", "\"--make\" is neither");
        refused("=text -- true", "\"=text\" is neither");
        refused("kind= -- true", "\"kind=\" is neither");
        refused("a=1 a=2 -- true", "a is given twice");
        refused("-- echo \0", "NUL");
        refused("-- one\r-- two", "carriage return");
        refused("\u{feff}kind=text -- true", "invisible character U+FEFF");
        refused("ki\u{200b}nd=text -- true", "invisible character U+200B");
        refused("\u{1}kind=text -- true", "invisible character U+0001");
        refused(&format!("-- echo {}", "x".repeat(LONGEST_LINE)), "put the command into a script");
    }

    #[test]
    fn every_bad_line_is_reported() {
        let bad = parse(b"-- fine\nbad\n# fine\nx= -- bad\n-- \xff").unwrap_err().shown;
        assert_eq!(bad.iter().map(|bad| bad.line).collect::<Vec<_>>(), [2, 4, 5]);
        assert!(bad[2].to_string().contains("UTF-8"));
    }

    #[test]
    fn a_file_of_bad_lines_is_counted_and_not_kept() {
        let bad = parse(&b"bad\n".repeat(1000)).unwrap_err();
        assert_eq!((bad.shown.len(), bad.hidden), (MOST_BAD_LINES, 1000 - MOST_BAD_LINES));
    }

    #[test]
    fn a_list_without_an_end_is_refused() {
        assert_eq!(parse(&b"-- a\n".repeat(MOST_BUILDS)).unwrap().len(), MOST_BUILDS);
        let bad = parse(&b"-- a\n".repeat(MOST_BUILDS + 2)).unwrap_err().shown;
        assert_eq!((bad.len(), bad[0].line), (1, MOST_BUILDS + 1));
        assert!(bad[0].to_string().contains("more than 1000000 builds: split it"), "{}", bad[0]);
    }

    #[test]
    fn the_built_in_list_has_two_kinds() {
        let jobs = parse(BUILT_IN.as_bytes()).unwrap();
        let kinds: std::collections::BTreeSet<_> = jobs.iter().map(|job| job.kind().unwrap()).collect();
        assert_eq!(kinds.len(), 2);
        assert!((14..=20).contains(&jobs.len()), "{}", jobs.len());
    }
}
