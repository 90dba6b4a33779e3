//! Reads the builds from where the command line says. The errors name the source, and the line where there is one.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::args::{Options, Source};
use super::complain;
use super::jobs::{self, Job};

/// The largest source, in bytes. A larger one is not a list of builds, or has no end.
const LARGEST: u64 = 64 << 20;

const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";
const UTF_16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("the built-in list"),
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Writing the record of events replaces the contents of its file.
pub(crate) fn check_that_events_have_their_own_file(options: &Options) -> Result<(), String> {
    let Some(events) = &options.events else { return Ok(()) };
    let builds = match &options.source {
        Source::File(path) => Some(path),
        Source::BuiltIn | Source::Stdin => None,
    };
    for (other, what) in [(options.journal.as_ref(), "the journal"), (builds, "the builds")] {
        if other.is_some_and(|other| is_same_file(events, other)) {
            return Err(format!("--events {} is the file of {what}: use another file", events.display()));
        }
    }
    Ok(())
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some((metadata.dev(), metadata.ino()))
    };
    one == other || identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// Returns all builds, or the errors. Blocks until the source ends.
pub(crate) fn read(source: &Source) -> Result<Vec<Job>, Vec<String>> {
    let bytes = match source {
        Source::BuiltIn => Ok(jobs::BUILT_IN.as_bytes().to_vec()),
        Source::Stdin => {
            if io::stdin().is_terminal() {
                complain("reading builds from the terminal, one a line; Ctrl-D ends the list");
            }
            limited(io::stdin().lock())
        }
        Source::File(path) => File::open(path).and_then(limited),
    };
    let bytes = bytes.map_err(|error| vec![format!("cannot read {source}: {error}")])?;
    let text = without_mark(&bytes).map_err(|what| vec![format!("cannot read {source}: {what}")])?;
    jobs::parse(text).map_err(|bad| {
        let shown = bad.shown.iter().map(|bad| format!("{source}:{}: {bad}", bad.line));
        let hidden = (bad.hidden > 0).then(|| match bad.hidden {
            1 => format!("{source}: and 1 more invalid line"),
            hidden => format!("{source}: and {hidden} more invalid lines"),
        });
        shown.chain(hidden).collect()
    })
}

/// The text of a file that an option names.
#[cfg(all(feature = "agent", feature = "ec2"))]
pub(crate) fn text_of(path: &Path) -> Result<String, String> {
    let bytes = File::open(path).and_then(limited).map_err(|error| error.to_string())?;
    let text = without_mark(&bytes)?;
    String::from_utf8(text.to_vec()).map_err(|_| "it is not UTF-8".to_owned())
}

fn limited(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it is larger than {} MiB", LARGEST >> 20)));
    }
    Ok(bytes)
}

/// Editors on other systems write a byte order mark at the start of a file.
fn without_mark(bytes: &[u8]) -> Result<&[u8], &'static str> {
    if UTF_16_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err("it is UTF-16; save it as UTF-8");
    }
    Ok(bytes.strip_prefix(UTF_8_MARK).unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_of_utf_8_is_left_out_and_one_of_utf_16_is_an_error() {
        assert_eq!(without_mark(b"\xef\xbb\xbfkind=a"), Ok(b"kind=a".as_slice()));
        assert_eq!(without_mark(b"kind=a"), Ok(b"kind=a".as_slice()));
        assert_eq!(without_mark(b""), Ok(b"".as_slice()));
        for bytes in [b"\xff\xfek\0".as_slice(), b"\xfe\xff\0k", b"\xff\xfe\0\0k\0\0\0"] {
            assert!(without_mark(bytes).unwrap_err().contains("UTF-16"));
        }
    }

    #[test]
    fn a_source_without_an_end_is_an_error() {
        let error = limited(io::repeat(b'x')).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than 64 MiB");
    }
}
