//! Reads the records of a journal, and finds the attempts that may have left something behind. Pure.
//!
//! A journal is read line by line. A damaged line is reported and skipped. The lines before and after it still count,
//! because no line depends on another. Missing lines are found by the numbers of the lines, and reported.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::record::{self, Attempt, MAGIC, Record, VERSION, WITHOUT_NUMBERS};
use crate::build::Epoch;

/// How far an attempt had come when it was last heard of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum LeftoverStage {
    /// Its start may have been called; whether it made anything is not known.
    Intended,
    /// Its start has recorded what it made. In a journal: a stop may have been called a moment ago, because nothing waits
    /// for that to be written.
    Known,
    /// Its stop may have been called.
    Stopping,
}

impl fmt::Display for LeftoverStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intended => "intended",
            Self::Known => "known",
            Self::Stopping => "stopping",
        })
    }
}

/// What is known of an attempt that may have left something behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Remains {
    pub(crate) worker: Arc<str>,
    pub(crate) epoch: Epoch,
    pub(crate) key: Arc<str>,
    pub(crate) owner: Arc<str>,
    /// In the order in which they were recorded; none twice.
    pub(crate) ids: Vec<Arc<str>>,
    pub(crate) stage: LeftoverStage,
    /// When the start was intended, in seconds since 1970; `None` when the line that says so was damaged.
    pub(crate) at: Option<u64>,
}

impl Remains {
    /// How long ago the start was intended, as far as clocks on the wall can tell; `now` is in seconds since 1970. Zero
    /// when it is not known: who is too young is looked for once more, who is too old is given up too early.
    pub(crate) fn age(&self, now: u64) -> Duration {
        self.at.map_or(Duration::ZERO, |at| Duration::from_secs(now.saturating_sub(at)))
    }

    /// The attempt has made something of this id.
    pub(crate) fn know(&mut self, id: Arc<str>) {
        if !self.ids.contains(&id) {
            self.ids.push(id);
        }
        self.stage = self.stage.max(LeftoverStage::Known);
    }
}

/// An instance that a journal tells of and does not tell the end of: see [`read_journal`](crate::read_journal).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct JournalInstance {
    /// The worker that it belongs to.
    pub worker: Arc<str>,
    /// The attempt of that worker.
    pub epoch: Epoch,
    /// The key of the attempt; see [`StartRequest::key`](crate::StartRequest::key).
    pub key: Arc<str>,
    /// Whose it is; see [`StartRequest::owner`](crate::StartRequest::owner).
    pub owner: Arc<str>,
    /// What its start has [recorded](crate::StartRequest::record).
    pub ids: Vec<Arc<str>>,
    /// How far it had come.
    pub stage: LeftoverStage,
    /// When its start was intended, in seconds since 1970; `None` when that could not be read.
    pub started_at: Option<u64>,
    /// How often its stop and its reclaim have failed.
    pub tries: u32,
    /// Why, the last time.
    pub reason: Option<Arc<str>>,
}

/// An attempt whose end is not recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Open {
    pub(crate) remains: Remains,
    pub(crate) tries: u32,
    pub(crate) reason: Option<Arc<str>>,
}

impl Open {
    pub(crate) fn shown(&self) -> JournalInstance {
        let Remains { worker, epoch, key, owner, ids, stage, at } = self.remains.clone();
        let (tries, reason) = (self.tries, self.reason.clone());
        JournalInstance { worker, epoch, key, owner, ids, stage, started_at: at, tries, reason }
    }
}

/// Everything that the records so far come to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct State {
    pub(crate) owner: Option<Arc<str>>,
    /// The process that has taken the journal last, and when.
    pub(crate) opened: Option<(u32, u64)>,
    /// The highest number of an attempt of each worker.
    pub(crate) epochs: BTreeMap<Arc<str>, Epoch>,
    /// By key.
    pub(crate) open: BTreeMap<Arc<str>, Open>,
}

impl State {
    pub(crate) fn apply(&mut self, record: Record) {
        match record {
            Record::Journal { owner, .. } => self.owner = Some(owner),
            Record::Opened { process, at } => self.opened = Some((process, at)),
            // The time 0 is how one that is not known is written.
            Record::Intended { attempt, at } => self.remains_of(attempt).at = Some(at).filter(|at| *at > 0),
            // Neither ever follows the end of its attempt: that there is nothing to add it to means that the line of
            // the intent was damaged.
            Record::Known { attempt, id } => self.remains_of(attempt).know(id),
            Record::Stopping { attempt } => self.remains_of(attempt).stage = LeftoverStage::Stopping,
            Record::Attempts { worker, epoch } => self.attempted(&worker, epoch),
            Record::Gone { key } => _ = self.open.remove(&key),
            // About an attempt of which nothing else is known any more, this helps nobody.
            Record::Failed { key, tries, reason } => {
                if let Some(open) = self.open.get_mut(&key) {
                    (open.tries, open.reason) = (tries, Some(reason));
                }
            }
        }
    }

    /// What is known of an attempt that has not ended; it is open from now on.
    fn remains_of(&mut self, attempt: Attempt) -> &mut Remains {
        let Attempt { worker, epoch, key, owner } = attempt;
        self.attempted(&worker, epoch);
        let (ids, stage) = (Vec::new(), LeftoverStage::Intended);
        let open = self.open.entry(key.clone());
        let new =
            || Open { remains: Remains { worker, epoch, key, owner, ids, stage, at: None }, tries: 0, reason: None };
        &mut open.or_insert_with(new).remains
    }

    fn attempted(&mut self, worker: &Arc<str>, epoch: Epoch) {
        let highest = self.epochs.entry(worker.clone()).or_default();
        *highest = epoch.max(*highest);
    }

    /// Returns the shortest journal with the same state, and the number of its lines.
    pub(crate) fn encode(&self) -> (Vec<u8>, u64) {
        let (mut bytes, mut lines) = (Vec::new(), 0);
        let mut put = |record: Record| {
            lines += 1;
            record.encode(lines, &mut bytes);
        };
        if let Some(owner) = self.owner.clone() {
            put(Record::Journal { version: VERSION, owner });
        }
        if let Some((process, at)) = self.opened {
            put(Record::Opened { process, at });
        }
        for (worker, &epoch) in &self.epochs {
            put(Record::Attempts { worker: worker.clone(), epoch });
        }
        for Open { remains, tries, reason } in self.open.values() {
            let Remains { worker, epoch, key, owner, ids, stage, at } = remains.clone();
            let attempt = Attempt { worker, epoch, key: key.clone(), owner };
            put(Record::Intended { attempt: attempt.clone(), at: at.unwrap_or(0) });
            ids.into_iter().for_each(|id| put(Record::Known { attempt: attempt.clone(), id }));
            if stage == LeftoverStage::Stopping {
                put(Record::Stopping { attempt });
            }
            if let Some(reason) = reason.clone() {
                put(Record::Failed { key, tries: *tries, reason });
            }
        }
        (bytes, lines)
    }
}

/// A journal that was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) damage: Option<Damage>,
    /// How many lines were read.
    pub(crate) lines: u64,
    /// The journal was written by an earlier version of this library.
    pub(crate) old: bool,
}

/// What could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Damage {
    /// Where the first damaged line begins.
    pub(crate) offset: usize,
    /// Its number, counted from 1.
    pub(crate) line: usize,
    /// How many lines are damaged.
    pub(crate) lines: usize,
    /// The last line has no end: it was cut off, or never written completely.
    pub(crate) torn: bool,
    /// How many lines are missing, according to the numbers of the other lines.
    pub(crate) missing: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.missing > 0 {
            match self.missing {
                1 => write!(f, "1 line is missing before line {}", self.line)?,
                lines => write!(f, "{lines} lines are missing, the first of them before line {}", self.line)?,
            }
            return match self.lines {
                0 => Ok(()),
                1 => f.write_str(", and 1 line is damaged"),
                lines => write!(f, ", and {lines} lines are damaged"),
            };
        }
        match (self.lines, self.torn) {
            (1, true) => write!(f, "the last line ({}) is not complete", self.line),
            (1, false) => write!(f, "line {} is damaged", self.line),
            (lines, _) => write!(f, "{lines} lines are damaged, the first of them is line {}", self.line),
        }
    }
}

/// Why something cannot be read as a journal at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unreadable {
    NotAJournal,
    Version(u32),
}

/// Reads a whole journal. Nothing at all is a journal in which nothing was written yet.
pub(crate) fn read(bytes: &[u8]) -> Result<Recovered, Unreadable> {
    if let Some(version) = other_version(bytes) {
        return Err(Unreadable::Version(version));
    }
    let mut recovered = Recovered::default();
    let (mut offset, mut understood) = (0, 0);
    // The number of the next line if no line is missing; a damaged line may have any number.
    let (mut expected, mut unknown) = (1_u64, 0_u64);
    while offset < bytes.len() {
        let rest = &bytes[offset..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        recovered.lines += 1;
        let intact = Damage { offset, line: recovered.lines as usize, lines: 0, torn: false, missing: 0 };
        match end.and_then(|end| Record::decode(&rest[..end])) {
            Some((record, number)) => {
                understood += 1;
                recovered.old |= number.is_none();
                // A number that is repeated or out of order is reported as well as a missing one.
                if let Some(number) = number
                    && number != expected + unknown
                {
                    let missing = number.saturating_sub(expected + unknown).max(1);
                    recovered.damage.get_or_insert(intact).missing += missing;
                }
                (expected, unknown) = (number.map_or(expected + unknown, |number| number) + 1, 0);
                recovered.state.apply(record);
            }
            None => {
                unknown += 1;
                let damage = recovered.damage.get_or_insert(intact);
                damage.lines += 1;
                damage.torn = end.is_none();
            }
        }
        offset += end.map_or(rest.len(), |end| end + 1);
    }
    // The first line names the owner of the instances. If there is no owner, the first line is missing, whatever the
    // numbers are.
    if understood > 0 && recovered.state.owner.is_none() && recovered.damage.is_none() {
        recovered.damage = Some(Damage { offset: 0, line: 1, lines: 0, torn: false, missing: 1 });
    }
    // The beginning of a first line is a journal that was cut. Anything else may be somebody's letters.
    let begins_like_one = bytes.starts_with(MAGIC.as_bytes()) || MAGIC.as_bytes().starts_with(bytes);
    if understood == 0 && !begins_like_one {
        return Err(Unreadable::NotAJournal);
    }
    Ok(recovered)
}

/// The version that the first line tells, if it is not ours. The first two words of that line and its checksum are the
/// same in all versions; a line whose checksum is not right tells of damage and of no version.
fn other_version(bytes: &[u8]) -> Option<u32> {
    let line = &bytes[..bytes.iter().position(|byte| *byte == b'\n')?];
    let word = line.strip_prefix(MAGIC.as_bytes())?.split(|byte| *byte == b' ').next()?;
    let version = std::str::from_utf8(word).ok()?.parse().ok()?;
    (version != VERSION && version != WITHOUT_NUMBERS && record::is_intact(line)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Arc<str> {
        format!("{number:032x}").into()
    }

    fn attempt(worker: &str, number: u64) -> Attempt {
        Attempt { worker: worker.into(), epoch: Epoch(number), key: key(number), owner: "owner".into() }
    }

    fn intended(worker: &str, number: u64) -> Record {
        Record::Intended { attempt: attempt(worker, number), at: 1000 + number }
    }

    /// A journal with everything in it: attempts in all stages, ended ones, and a worker that has none left.
    fn history() -> Vec<Record> {
        let mut history =
            vec![Record::Journal { version: VERSION, owner: "owner".into() }, Record::Opened { process: 1, at: 2 }];
        history.extend((1..=6).map(|number| intended(if number == 6 { "b" } else { "a" }, number)));
        history.extend([
            Record::Known { attempt: attempt("a", 2), id: "id 2".into() },
            Record::Known { attempt: attempt("a", 3), id: "id 3".into() },
            Record::Known { attempt: attempt("a", 3), id: "disk 3".into() },
            Record::Known { attempt: attempt("a", 3), id: "id 3".into() },
            Record::Stopping { attempt: attempt("a", 3) },
            Record::Stopping { attempt: attempt("a", 4) },
            Record::Failed { key: key(4), tries: 1, reason: "no answer".into() },
            Record::Failed { key: key(4), tries: 2, reason: "no\nanswer".into() },
            Record::Stopping { attempt: attempt("a", 5) },
            Record::Gone { key: key(5) },
            Record::Gone { key: key(6) },
        ]);
        history
    }

    fn fold(records: &[Record]) -> State {
        let mut state = State::default();
        records.iter().cloned().for_each(|record| state.apply(record));
        state
    }

    fn encode(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        (1..).zip(records).for_each(|(number, record)| record.encode(number, &mut bytes));
        bytes
    }

    #[test]
    fn j2_an_attempt_is_left_over_from_its_intent_to_its_end() {
        let state = fold(&history());
        let open: Vec<_> = state.open.values().map(|open| (open.remains.epoch.0, open.remains.stage)).collect();
        let stages = [LeftoverStage::Intended, LeftoverStage::Known, LeftoverStage::Stopping, LeftoverStage::Stopping];
        assert_eq!(open, [1, 2, 3, 4].into_iter().zip(stages).collect::<Vec<_>>());
        let third = &state.open[&key(3)];
        assert_eq!(third.remains.ids, ["id 3".into(), "disk 3".into()]);
        let fourth = &state.open[&key(4)];
        assert_eq!((fourth.tries, fourth.reason.as_deref()), (2, Some("no\nanswer")));
        assert_eq!(state.epochs, BTreeMap::from([("a".into(), Epoch(5)), ("b".into(), Epoch(6))]));
        assert_eq!((state.owner.as_deref(), state.opened), (Some("owner"), Some((1, 2))));
    }

    #[test]
    fn an_id_that_is_recorded_late_does_not_undo_the_stop() {
        let mut records = vec![intended("a", 1), Record::Stopping { attempt: attempt("a", 1) }];
        records.push(Record::Known { attempt: attempt("a", 1), id: "late".into() });
        assert_eq!(fold(&records).open[&key(1)].remains.stage, LeftoverStage::Stopping);
    }

    #[test]
    fn the_short_form_comes_to_the_same_and_gets_no_shorter() {
        let state = fold(&history());
        let (short, lines) = state.encode();
        assert_eq!(lines as usize, whole_lines(&short));
        assert!(short.len() < encode(&history()).len());
        let again = read(&short).unwrap();
        assert_eq!((&again.state, &again.damage), (&state, &None));
        assert_eq!(again.state.encode().0, short);
    }

    /// J6 says which records there are up to a place: those of the whole lines before it.
    fn whole_lines(bytes: &[u8]) -> usize {
        bytes.iter().filter(|byte| **byte == b'\n').count()
    }

    #[test]
    fn j6_a_journal_cut_at_any_byte_is_read_up_to_there_and_the_torn_line_is_reported() {
        let history = history();
        let bytes = encode(&history);
        for length in 0..=bytes.len() {
            let cut = &bytes[..length];
            let recovered = read(cut).unwrap();
            assert_eq!(recovered.state, fold(&history[..whole_lines(cut)]), "cut at {length}");
            assert_eq!(recovered.damage.is_some(), cut.last().is_some_and(|last| *last != b'\n'), "cut at {length}");
            if let Some(damage) = recovered.damage {
                assert!(damage.torn && damage.lines == 1 && damage.line == whole_lines(cut) + 1, "{damage:?}");
            }
        }
    }

    #[test]
    fn j6_any_byte_changed_is_reported_and_hides_no_other_line() {
        let history = history();
        let bytes = encode(&history);
        for at in 0..bytes.len() {
            // The lines that the byte belongs to: two, when it was what parted them.
            let first = whole_lines(&bytes[..at]);
            let last = if bytes[at] == b'\n' { first + 1 } else { first };
            let mut others = history.clone();
            others.drain(first..=last.min(history.len() - 1));
            let expected = fold(&others);
            // Every bit, and what makes or parts words and lines.
            let flips = (0..8).map(|bit| 1 << bit).chain([bytes[at] ^ b'\n', bytes[at] ^ b' ', bytes[at] ^ b'%']);
            for flip in flips.filter(|flip| *flip != 0) {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                let recovered = read(&bad).unwrap();
                let damage = recovered.damage.expect("reported");
                assert_eq!((damage.line, recovered.state), (first + 1, expected.clone()), "byte {at} ^ {flip}");
            }
        }
    }

    #[test]
    fn j6_a_damaged_intent_forgets_no_instance_that_another_line_tells_of() {
        let bytes = encode(&history());
        let whole = fold(&history()).open;
        let mut begin = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let at = begin;
            begin += line.len();
            let Some((Record::Intended { attempt, .. }, _)) = Record::decode(&line[..line.len() - 1]) else { continue };
            let Some(open) = whole.get(&attempt.key).filter(|open| open.remains.stage > LeftoverStage::Intended) else {
                continue;
            };
            let mut bad = bytes.clone();
            bad[at + 12] ^= 1;
            let recovered = read(&bad).unwrap();
            assert!(recovered.damage.is_some());
            assert_eq!(open.remains.age(2_000), Duration::from_secs(2_000 - 1_000 - attempt.epoch.0));
            let found = &recovered.state.open.get(&attempt.key).expect("it is forgotten").remains;
            // Only the time of its start is not known.
            assert_eq!(found.age(2_000), Duration::ZERO, "not one of decades");
            assert_eq!(*found, Remains { at: None, ..open.remains.clone() });
            assert!(recovered.state.epochs[&open.remains.worker] >= open.remains.epoch);
            assert_eq!(read(&recovered.state.encode().0).unwrap().state, recovered.state, "also when it is rewritten");
        }
    }

    #[test]
    fn j6_what_is_no_journal_and_what_is_of_another_version_is_not_read() {
        for text in ["hello", "\n", "latent worker journal\n", "latent-worker-journa!\n"] {
            assert_eq!(read(text.as_bytes()), Err(Unreadable::NotAJournal), "{text:?}");
        }
        let newer = encode(&[Record::Journal { version: 3, owner: "owner".into() }, intended("a", 1)]);
        assert_eq!(read(&newer), Err(Unreadable::Version(3)));
        // With a first line of another form: "latent-worker-journal 4" and whatever follows.
        let other_shape = b"latent-worker-journal 4 new words  in=it ";
        let checksum = format!("{:08x}\nnothing of ours\n", record::crc32(&other_shape[..other_shape.len() - 1]));
        assert_eq!(read(&[other_shape, checksum.as_bytes()].concat()), Err(Unreadable::Version(4)));
        assert_eq!(read(b""), Ok(Recovered::default()));
    }

    #[test]
    fn j6_lines_that_vanished_are_reported_wherever_they_were() {
        let history = history();
        let bytes = encode(&history);
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for first in 0..lines.len() {
            for after in first + 1..lines.len() {
                let left = [&lines[..first], &lines[after..]].concat().concat();
                let recovered = read(&left).unwrap();
                let damage = recovered.damage.expect("reported");
                assert_eq!((damage.missing, damage.lines, damage.line), ((after - first) as u64, 0, first + 1));
                assert!(damage.to_string().contains("missing"), "{damage}");
                let records: Vec<Record> = [&history[..first], &history[after..]].concat();
                assert_eq!(recovered.state, fold(&records));
            }
        }
    }

    #[test]
    fn j6_lines_that_were_repeated_or_moved_are_reported() {
        let bytes = encode(&history());
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for at in 1..lines.len() {
            let twice = [&lines[..at], &lines[at - 1..]].concat().concat();
            assert!(read(&twice).unwrap().damage.is_some(), "line {at} twice");
            let mut swapped = lines.clone();
            swapped.swap(at - 1, at);
            assert!(read(&swapped.concat()).unwrap().damage.is_some(), "line {at} moved");
        }
    }

    #[test]
    fn j6_random_bytes_never_crash_it() {
        let mut random = fastrand::Rng::with_seed(4);
        let bytes = encode(&history());
        for _ in 0..5_000 {
            let mut bad = bytes.clone();
            for _ in 0..random.usize(1..40) {
                let at = random.usize(..bad.len());
                match random.u8(..3) {
                    0 => bad[at] = random.u8(..),
                    1 => _ = bad.remove(at),
                    _ => bad.insert(at, random.u8(..)),
                }
            }
            let _ = read(&bad);
        }
    }
}
