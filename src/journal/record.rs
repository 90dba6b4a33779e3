//! One record of a journal as a line of text. Pure.
//!
//! A line is the name of the record, its fields, its number and a checksum, separated by single spaces:
//!
//! ```text
//! latent-worker-journal 2 6f1c… 1 0b5e7d21
//! intended builder-1 7 4a09… 6f1c… 1790000000 2 9c3f02aa
//! ```
//!
//! Lines are numbered from 1, so that missing lines are noticed. Version 1 of the format has no numbers; it is read,
//! but never written.
//!
//! The checksum is CRC-32 (ISO-HDLC, that of zip and PNG) of all that stands before the last space, as 8 hexadecimal
//! digits. A line counts only if it is, byte for byte, what would be written today: nothing in it can be changed and
//! still be taken for something else. Fields hold no spaces or control characters: those, and `%`, are written as `%`
//! and two hexadecimal digits for each byte, and an empty field as a `%` alone.

use std::fmt::Write;
use std::sync::Arc;

use crate::build::Epoch;

/// The version of the format, in the first line of every journal.
pub(crate) const VERSION: u32 = 2;
/// The first version, whose lines have no numbers.
pub(super) const WITHOUT_NUMBERS: u32 = 1;
/// How every journal begins.
pub(crate) const MAGIC: &str = "latent-worker-journal ";

/// Which attempt a record is about. What only ends or explains has its key alone; what tells of an instance has all of
/// it, so that the loss of another line does not hide whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attempt {
    pub(crate) worker: Arc<str>,
    pub(crate) epoch: Epoch,
    pub(crate) key: Arc<str>,
    pub(crate) owner: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    /// The first line: what this is, and the id of whoever owns the instances.
    Journal { version: u32, owner: Arc<str> },
    /// A master has taken the journal; `at` in seconds since 1970.
    Opened { process: u32, at: u64 },
    /// A start may be called from now on.
    Intended { attempt: Attempt, at: u64 },
    /// The attempt has made something of this id.
    Known { attempt: Attempt, id: Arc<str> },
    /// A stop may be called from now on.
    Stopping { attempt: Attempt },
    /// A stop or a reclaim has failed, the `tries`th one of this attempt.
    Failed { key: Arc<str>, tries: u32, reason: Arc<str> },
    /// Nothing of the attempt is left.
    Gone { key: Arc<str> },
    /// The highest number of an attempt of this worker so far. Written when its records are left out.
    Attempts { worker: Arc<str>, epoch: Epoch },
}

impl Record {
    /// Appends the line with this number, including its line feed.
    pub(crate) fn encode(&self, number: u64, bytes: &mut Vec<u8>) {
        self.encode_line(Some(number), bytes);
    }

    /// Appends the line; without a number in version 1 of the format.
    fn encode_line(&self, number: Option<u64>, bytes: &mut Vec<u8>) {
        let mut line = Line(String::new());
        match self {
            // The name is the magic without its space.
            Self::Journal { version, owner } => line.word(MAGIC.trim_end()).number(*version).text(owner),
            Self::Opened { process, at } => line.word("opened").number(*process).number(*at),
            Self::Intended { attempt, at } => line.word("intended").attempt(attempt).number(*at),
            Self::Known { attempt, id } => line.word("known").attempt(attempt).text(id),
            Self::Stopping { attempt } => line.word("stopping").attempt(attempt),
            Self::Failed { key, tries, reason } => line.word("failed").text(key).number(*tries).text(reason),
            Self::Gone { key } => line.word("gone").text(key),
            Self::Attempts { worker, epoch } => line.word("attempts").text(worker).number(epoch.0),
        };
        if let Some(number) = number {
            line.number(number);
        }
        let checksum = crc32(line.0.as_bytes());
        let _ = writeln!(line.0, " {checksum:08x}");
        bytes.extend_from_slice(line.0.as_bytes());
    }

    /// Parses a line, without its line feed, and its number if it has one. Returns `None` if [`encode`](Record::encode)
    /// never writes such a line, in version 1 or 2.
    pub(crate) fn decode(line: &[u8]) -> Option<(Self, Option<u64>)> {
        let text = std::str::from_utf8(line).ok()?;
        let mut words = text.split(' ');
        let record = match words.next()? {
            name if name == MAGIC.trim_end() => {
                Self::Journal { version: words.next()?.parse().ok()?, owner: unescape(words.next()?)? }
            }
            "opened" => Self::Opened { process: words.next()?.parse().ok()?, at: words.next()?.parse().ok()? },
            "intended" => Self::Intended { attempt: Attempt::decode(&mut words)?, at: words.next()?.parse().ok()? },
            "known" => Self::Known { attempt: Attempt::decode(&mut words)?, id: unescape(words.next()?)? },
            "stopping" => Self::Stopping { attempt: Attempt::decode(&mut words)? },
            "failed" => Self::Failed {
                key: unescape(words.next()?)?,
                tries: words.next()?.parse().ok()?,
                reason: unescape(words.next()?)?,
            },
            "gone" => Self::Gone { key: unescape(words.next()?)? },
            "attempts" => {
                Self::Attempts { worker: unescape(words.next()?)?, epoch: Epoch(words.next()?.parse().ok()?) }
            }
            _ => return None,
        };
        // The number is between the fields and the checksum.
        let rest = [words.next()?, words.next().unwrap_or_default()];
        let number = if rest[1].is_empty() { None } else { Some(rest[0].parse().ok()?) };
        // Compared as text, the checksum included: another spelling of the same numbers is damage too.
        let mut again = Vec::with_capacity(line.len() + 1);
        record.encode_line(number, &mut again);
        (again.strip_suffix(b"\n") == Some(line)).then_some((record, number))
    }
}

impl Attempt {
    fn decode<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Self> {
        Some(Self {
            worker: unescape(words.next()?)?,
            epoch: Epoch(words.next()?.parse().ok()?),
            key: unescape(words.next()?)?,
            owner: unescape(words.next()?)?,
        })
    }
}

/// A line in the making.
struct Line(String);

impl Line {
    fn word(&mut self, word: &str) -> &mut Self {
        self.0.push_str(word);
        self
    }

    fn number(&mut self, number: impl Into<u64>) -> &mut Self {
        let _ = write!(self.0, " {}", number.into());
        self
    }

    fn attempt(&mut self, attempt: &Attempt) -> &mut Self {
        let Attempt { worker, epoch, key, owner } = attempt;
        self.text(worker).number(epoch.0).text(key).text(owner)
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.0.push(' ');
        if text.is_empty() {
            self.0.push('%');
        }
        for character in text.chars() {
            if character == '%' || character.is_whitespace() || character.is_control() {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(self.0, "%{byte:02x}");
                }
            } else {
                self.0.push(character);
            }
        }
        self
    }
}

fn unescape(word: &str) -> Option<Arc<str>> {
    if word == "%" {
        return Some("".into());
    }
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok())?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok().map(Into::into)
}

/// Whether a line ends with its checksum, whatever else it says.
pub(super) fn is_intact(line: &[u8]) -> bool {
    let Some(space) = line.iter().rposition(|byte| *byte == b' ') else { return false };
    line[space + 1..] == *format!("{:08x}", crc32(&line[..space])).as_bytes()
}

/// CRC-32/ISO-HDLC: polynomial 0x04c11db7 reflected, first and last value inverted.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc: u32, byte| crc >> 8 ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind, with the worst of texts.
    pub(crate) fn samples() -> Vec<Record> {
        let key: Arc<str> = "0123456789abcdef0123456789abcdef".into();
        let worst: Arc<str> = "50 % of\n\tall\u{0} \u{2028}ünïcode\r".into();
        let attempt =
            Attempt { worker: "builder 1".into(), epoch: Epoch(7), key: key.clone(), owner: "feedfacecafebeef".into() };
        vec![
            Record::Journal { version: VERSION, owner: "feedfacecafebeef".into() },
            Record::Opened { process: 4711, at: 1_790_000_000 },
            Record::Intended { attempt: attempt.clone(), at: 1_790_000_001 },
            Record::Known { attempt: attempt.clone(), id: worst.clone() },
            Record::Stopping { attempt },
            Record::Failed { key: key.clone(), tries: 3, reason: worst },
            Record::Failed { key: key.clone(), tries: 0, reason: "".into() },
            Record::Gone { key },
            Record::Attempts { worker: "builder 1".into(), epoch: Epoch(u64::MAX) },
        ]
    }

    fn line(record: &Record) -> Vec<u8> {
        let mut line = Vec::new();
        record.encode(17, &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        line
    }

    #[test]
    fn the_checksum_is_the_one_that_everybody_has() {
        // The check value of the catalogue of CRC algorithms.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_format_is_as_it_is_described() {
        let lines: Vec<_> = samples().iter().map(|record| String::from_utf8(line(record)).unwrap()).collect();
        assert!(lines[0].starts_with("latent-worker-journal 2 feedfacecafebeef 17 "), "{}", lines[0]);
        let intended = "intended builder%201 7 0123456789abcdef0123456789abcdef feedfacecafebeef 1790000001 17 ";
        assert!(lines[2].starts_with(intended), "{}", lines[2]);
        assert!(lines[3].contains(" 50%20%25%20of%0a%09all%00%20%e2%80%a8ünïcode%0d "), "{}", lines[3]);
        assert!(lines[6].contains(" 0 % 17 "), "{}", lines[6]);
    }

    #[test]
    fn what_was_written_is_read() {
        for record in samples() {
            assert_eq!(Record::decode(&line(&record)), Some((record, Some(17))));
        }
    }

    #[test]
    fn j6_lines_of_version_1_are_read() {
        for record in samples() {
            let mut line = Vec::new();
            record.encode_line(None, &mut line);
            assert_eq!(line.pop(), Some(b'\n'));
            assert_eq!(Record::decode(&line), Some((record, None)));
        }
    }

    #[test]
    fn j6_no_line_can_be_changed_in_one_byte_and_still_be_read() {
        for record in samples() {
            let good = line(&record);
            for at in 0..good.len() {
                for byte in 0..=255 {
                    let mut bad = good.clone();
                    bad[at] = byte;
                    assert_eq!(Record::decode(&bad).is_some(), bad == good, "{}", String::from_utf8_lossy(&bad));
                }
            }
        }
    }

    #[test]
    fn j6_another_spelling_is_no_record() {
        let respelled = |body: &str| format!("{body} {:08x}", crc32(body.as_bytes()));
        assert!(Record::decode(respelled("gone abc").as_bytes()).is_some());
        assert!(Record::decode(respelled("gone abc 17").as_bytes()).is_some());
        for body in [
            "gone %61bc",
            "gone  abc",
            "gone abc ",
            "gone abc def",
            "gone abc 017",
            "gone",
            "unheard abc",
            "opened 01 2",
            "gone %",
        ] {
            let read = Record::decode(respelled(body).as_bytes());
            assert_eq!(read.is_some(), body == "gone %", "{body}: {read:?}");
        }
        let capital = String::from_utf8(line(&samples()[0])).unwrap();
        let (body, checksum) = capital.rsplit_once(' ').unwrap();
        let capital = format!("{body} {}", checksum.to_uppercase());
        assert_ne!(capital.as_bytes(), line(&samples()[0]), "the sample has a letter in its checksum");
        assert_eq!(Record::decode(capital.as_bytes()), None);
    }
}
