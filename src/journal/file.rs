//! The file of a journal: locked, appended to, synced, and rewritten when it has become long.
//!
//! What the records mean is decided elsewhere. Here is made sure that a record that was said to be durable is, whatever
//! happens next:
//!
//! - Records are appended by one of those who wait, the leader, for all who wait (group commit): it writes and syncs
//!   without the lock, and meanwhile the next records gather. So any number of appenders share one sync.
//! - After an error nothing is known of the end of the file. It is not appended to any more: the next leader writes all
//!   that counts into a new file, and only when that is synced does it take the old one's place.
//! - A journal that has become long is replaced in the same way. There is no moment at which the path names no whole
//!   journal, or one that is not locked.
//! - What cannot be read is set aside in a file of its own before anything is written.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::record::{Attempt, Record};
use super::recovery::{self, JournalInstance, Open, Recovered, State, Unreadable};
use crate::build::Epoch;
use crate::error::JournalError;

/// A journal shorter than this is not rewritten for its length, unless a test wants that.
const SHORT: u64 = 1 << 20;
/// What the name of a new file ends with that will take the place of a journal.
const NEW: &str = ".latent-worker-new";
/// How long, and how often, a journal is tried to be locked that somebody holds. A process that was killed lets go of
/// its lock at once, but a child that it was just starting holds it up to its `exec`.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Something that a journal does to its file. Each is done completely before the next one begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub, reason = "it is public with that feature"))]
pub enum JournalStep {
    /// Records will be written.
    BeforeWrite,
    /// They were, and are not synced yet.
    AfterWrite,
    /// The file will be synced.
    BeforeSync,
    /// It was.
    AfterSync,
    /// A new file is written and synced, and will take the place of the old one.
    BeforeReplace,
    /// It has, and the directory is not synced yet.
    AfterReplace,
}

#[cfg(any(test, feature = "testing"))]
type Hook = Arc<dyn Fn(JournalStep) -> io::Result<()> + Send + Sync>;

/// Who is told of each step, and how long a journal may become. Nobody, and as usual, unless a test wants it.
#[derive(Clone)]
pub(crate) struct Steps {
    #[cfg(any(test, feature = "testing"))]
    hook: Option<Hook>,
    short: u64,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            #[cfg(any(test, feature = "testing"))]
            hook: None,
            short: SHORT,
        }
    }
}

impl Steps {
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn told_to(hook: impl Fn(JournalStep) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { hook: Some(Arc::new(hook)), ..Self::default() }
    }

    /// Has the journal rewritten when it is longer than this.
    #[cfg(feature = "testing")]
    pub(crate) fn rewritten_beyond(self, short: u64) -> Self {
        Self { short, ..self }
    }

    /// An error takes the place of the system's.
    fn reach(&self, step: JournalStep) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        if let Some(hook) = &self.hook {
            return hook(step);
        }
        let _ = step;
        Ok(())
    }
}

/// What an appender waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    /// The system has the record: it survives the end of this process, but perhaps not that of the machine.
    Written,
    /// It survives that too.
    Synced,
}

/// A journal that belongs to this process.
pub(crate) struct Journal {
    /// Where it really is: a link stays a link.
    path: PathBuf,
    owner: Arc<str>,
    steps: Steps,
    /// What could not be read when it was opened, and where that was set aside.
    damage: Option<Arc<str>>,
    inner: Mutex<Inner>,
    /// A leader is done.
    changed: Condvar,
    /// In the hands of the leader; nobody else locks it.
    storage: Mutex<Storage>,
}

struct Inner {
    state: State,
    /// Encoded, and not in the file yet.
    pending: Vec<u8>,
    /// How many records were appended, are in the file, are synced, and are to be synced.
    appended: u64,
    written: u64,
    synced: u64,
    sync_wanted: u64,
    /// The last failure, and the last record that it is about.
    failure: Option<(u64, Arc<str>)>,
    leading: bool,
}

impl Inner {
    /// The number of the record.
    fn add(&mut self, record: Record) -> u64 {
        record.encode(&mut self.pending);
        self.state.apply(record);
        self.appended += 1;
        self.appended
    }
}

struct Storage {
    file: File,
    length: u64,
    /// The length from which it is rewritten.
    long: u64,
    /// Nothing is known of its end.
    broken: bool,
    /// It may belong to somebody else by now.
    closed: bool,
}

impl Journal {
    /// Opens the journal, or makes a new one, and locks it. `new_owner` makes the id of a new one. What its records
    /// come to is told by [`open_attempts`](Journal::open_attempts) and [`last_epoch`](Journal::last_epoch).
    pub(crate) fn open(
        path: &Path,
        steps: Steps,
        new_owner: impl FnOnce() -> io::Result<String>,
    ) -> Result<Self, JournalError> {
        let failed = |what: &'static str| {
            let path = path.to_owned();
            move |source| JournalError::Io { what, path, source }
        };
        let mut file = lock(path)?;
        let path = &fs::canonicalize(path).map_err(failed("find"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let Recovered { mut state, damage } = recovery::read(&bytes).map_err(|why| unreadable(path, why))?;
        let damage = match damage {
            None => None,
            Some(damage) => {
                let aside = set_aside(path, &bytes[damage.offset..]).map_err(failed("set aside what is damaged in"))?;
                let what = format!("{damage}; it and all that follows was copied to {}", aside.display());
                Some(Arc::from(what))
            }
        };
        let is_whole = damage.is_none() && (state.owner.is_some() || bytes.is_empty());
        let owner = match state.owner.clone() {
            Some(owner) => owner,
            None => new_owner().map_err(failed("make an owner id for"))?.into(),
        };
        state.owner = Some(owner.clone());
        // What is not whole is rewritten by the first leader, as if writing to it had failed. What is empty has nothing
        // to lose and begins with its first line.
        let pending = if bytes.is_empty() { state.encode() } else { Vec::new() };
        let storage = Storage { file, length: bytes.len() as u64, long: steps.short, broken: !is_whole, closed: false };
        let inner =
            Inner { state, pending, appended: 0, written: 0, synced: 0, sync_wanted: 0, failure: None, leading: false };
        let journal = Self {
            path: path.clone(),
            owner,
            steps,
            damage,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            storage: Mutex::new(storage),
        };
        let opened = Record::Opened { process: std::process::id(), at: seconds_since_1970() };
        journal
            .write(opened, Until::Synced)
            .map_err(|error| failed("write to")(io::Error::other(error.to_string())))?;
        // The name may be new, or that of a replacement, and whoever made it may have died before it was durable.
        sync_directory(&journal.path).map_err(failed("sync the directory of"))?;
        Ok(journal)
    }

    pub(crate) fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn damage(&self) -> Option<&Arc<str>> {
        self.damage.as_ref()
    }

    /// The attempts whose end is not recorded. Before the first start of this master these are what earlier ones left.
    pub(crate) fn open_attempts(&self) -> Vec<Open> {
        self.inner.lock().state.open.values().cloned().collect()
    }

    /// The highest number of an attempt of this worker; 0 when there was none.
    pub(crate) fn last_epoch(&self, worker: &str) -> Epoch {
        self.inner.lock().state.epochs.get(worker).copied().unwrap_or_default()
    }

    /// A start will be called. Returns when that is durable.
    pub(crate) fn intend(&self, worker: &Arc<str>, epoch: Epoch, key: &Arc<str>) -> Result<(), Arc<str>> {
        let (worker, key, owner) = (worker.clone(), key.clone(), self.owner.clone());
        let attempt = Attempt { worker, epoch, key, owner };
        self.append(Record::Intended { attempt, at: seconds_since_1970() }, Until::Synced)
    }

    /// Appends a record, and blocks until it is where it should be. The error tells of the file; the record counts in
    /// memory all the same, and gets into the file as soon as that can be written again.
    pub(crate) fn append(&self, record: Record, until: Until) -> Result<(), Arc<str>> {
        let written = self.write(record, until);
        written.map_err(|error| format!("cannot write the journal {}: {error}", self.path.display()).into())
    }

    /// Leaves a record to whoever writes the next one that somebody waits for. Never blocks.
    pub(crate) fn note(&self, record: Record) {
        self.inner.lock().add(record);
    }

    /// The error is what the system said.
    fn write(&self, record: Record, until: Until) -> Result<(), Arc<str>> {
        let mut inner = self.inner.lock();
        let mine = inner.add(record);
        if until == Until::Synced {
            inner.sync_wanted = mine;
        }
        loop {
            let done = match until {
                Until::Written => inner.written,
                Until::Synced => inner.synced,
            };
            if done >= mine {
                return Ok(());
            }
            if let Some((last, reason)) = &inner.failure
                && *last >= mine
            {
                return Err(reason.clone());
            }
            if inner.leading {
                self.changed.wait(&mut inner);
            } else {
                self.lead(&mut inner);
            }
        }
    }

    /// Lets go of the lock, so that another master can have the journal. What is appended after that is refused. When
    /// somebody still writes after the `limit`, because the disk hangs, nothing is let go of.
    pub(crate) fn close(&self, limit: Duration) {
        let Some(mut storage) = self.storage.try_lock_for(limit) else { return };
        if !std::mem::replace(&mut storage.closed, true) {
            // At the latest it is gone with the file.
            let _ = storage.file.unlock();
        }
    }

    /// Writes what is pending, and syncs it if somebody waits for that.
    fn lead(&self, inner: &mut MutexGuard<'_, Inner>) {
        inner.leading = true;
        let last = inner.appended;
        let pending = std::mem::take(&mut inner.pending);
        let sync = inner.sync_wanted > inner.synced;
        let mut storage = self.storage.lock();
        let whole = (storage.broken || storage.length > storage.long).then(|| inner.state.encode());
        let result = MutexGuard::unlocked(inner, || self.commit(&mut storage, &pending, whole.as_deref(), sync));
        inner.leading = false;
        match result {
            Ok(synced) => {
                inner.written = last;
                if synced {
                    inner.synced = last;
                }
            }
            Err(error) => {
                storage.broken = true;
                inner.failure = Some((last, error.to_string().into()));
            }
        }
        drop(storage);
        self.changed.notify_all();
    }

    /// Brings the file up to date: with `pending` at its end, or with a new file that holds the `whole`. Whether it is
    /// synced afterwards.
    fn commit(&self, storage: &mut Storage, pending: &[u8], whole: Option<&[u8]>, sync: bool) -> io::Result<bool> {
        if storage.closed {
            return Err(io::Error::other("it was closed when the master had shut down"));
        }
        if let Some(whole) = whole {
            match self.replace(storage, whole) {
                Ok(()) => return Ok(true),
                Err(error) if storage.broken => return Err(error),
                // The old one is as good as ever, only long.
                Err(_) => storage.long = storage.length.saturating_mul(2),
            }
        }
        if !pending.is_empty() {
            self.steps.reach(JournalStep::BeforeWrite)?;
            storage.file.write_all(pending)?;
            storage.length += pending.len() as u64;
            self.steps.reach(JournalStep::AfterWrite)?;
        }
        if sync {
            self.is_still_there(storage)?;
            self.steps.reach(JournalStep::BeforeSync)?;
            storage.file.sync_data()?;
            self.steps.reach(JournalStep::AfterSync)?;
        }
        Ok(sync)
    }

    /// What is written to a file that was moved or removed is durable for nobody.
    fn is_still_there(&self, storage: &Storage) -> io::Result<()> {
        if is_named_by(&storage.file, &self.path)? {
            return Ok(());
        }
        Err(io::Error::other("somebody has moved or removed it; put it back, or start the master again"))
    }

    /// Puts a new file in the place of the journal. It is complete, durable and locked before it is there.
    fn replace(&self, storage: &mut Storage, whole: &[u8]) -> io::Result<()> {
        self.is_still_there(storage)?;
        let new = with_suffix(&self.path, NEW);
        let mut file =
            private().read(true).write(true).create_new(true).open(&new).or_else(|error| match error.kind() {
                ErrorKind::AlreadyExists => left_by_a_crash(&new),
                _ => Err(error),
            })?;
        file.try_lock().map_err(io::Error::from)?;
        file.set_len(0)?;
        belong_as(&file, &fs::metadata(&self.path)?)?;
        self.steps.reach(JournalStep::BeforeWrite)?;
        file.write_all(whole)?;
        self.steps.reach(JournalStep::AfterWrite)?;
        self.steps.reach(JournalStep::BeforeSync)?;
        file.sync_all()?;
        self.steps.reach(JournalStep::AfterSync)?;
        self.steps.reach(JournalStep::BeforeReplace)?;
        self.is_still_there(storage)?;
        fs::rename(&new, &self.path)?;
        // It is the journal from now on, whatever may still fail: letting go of it would let go of the lock.
        let length = whole.len() as u64;
        *storage = Storage { file, length, long: self.steps.short.max(4 * length), broken: true, closed: false };
        self.steps.reach(JournalStep::AfterReplace)?;
        sync_directory(&self.path)?;
        storage.broken = false;
        Ok(())
    }
}

/// Options for a file that is nobody else's business: it names workers, and keys that prove whose an instance is.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// A new file that a crash has left before it was in its place. Nothing is done to it before it is locked; it may be the
/// journal of another master.
fn left_by_a_crash(new: &Path) -> io::Result<File> {
    // Not through a link to somewhere else.
    if !fs::symlink_metadata(new)?.is_file() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, format!("{} is in the way", new.display())));
    }
    OpenOptions::new().read(true).write(true).open(new)
}

/// Locks the file that `path` names; makes it when there is none.
fn lock(path: &Path) -> Result<File, JournalError> {
    let failed = |what: &'static str| move |source| JournalError::Io { what, path: path.to_owned(), source };
    let begin = Instant::now();
    loop {
        // Asked before it is opened: opening a pipe or a device may block or do something.
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(JournalError::NotAJournal { path: path.to_owned() });
        }
        let file = private().read(true).append(true).create(true).open(path).map_err(failed("open"))?;
        match file.try_lock() {
            // Between the open and the lock its holder may have put another file in its place.
            Ok(()) if is_named_by(&file, path).map_err(failed("look at"))? => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if begin.elapsed() < LOCK_PATIENCE => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                let holder = read_journal(path).ok().and_then(|contents| contents.opened_by);
                return Err(JournalError::InUse { path: path.to_owned(), process: holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
    }
}

#[cfg(unix)]
fn is_named_by(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;

    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A file that is open cannot be replaced here.
#[cfg(not(unix))]
fn is_named_by(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// A name is durable when its directory is.
#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Whoever may read the journal may read what takes its place as well, also when it was root who had it replaced.
fn belong_as(file: &File, journal: &fs::Metadata) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};

        // Nobody else can give a file away, but perhaps to another group.
        let group = Some(journal.gid());
        let _ = fchown(file, Some(journal.uid()), group).or_else(|_| fchown(file, None, group));
    }
    file.set_permissions(journal.permissions())
}

/// Copies what cannot be read into a file of its own, under a name that is free, for whoever may read the journal.
fn set_aside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let journal = fs::metadata(path)?;
    let mut number = 1;
    loop {
        let aside = with_suffix(path, &format!(".damaged-{number}"));
        match private().write(true).create_new(true).open(&aside) {
            Ok(mut file) => {
                belong_as(&file, &journal)?;
                file.write_all(bytes)?;
                file.sync_all()?;
                return Ok(aside);
            }
            // Whoever cannot open the journal for another reason, and tries again and again, makes no more copies.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match fs::read(&aside) {
                Ok(copied) if copied == bytes => return File::open(&aside)?.sync_all().map(|()| aside),
                _ => number += 1,
            },
            Err(error) => return Err(error),
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn unreadable(path: &Path, why: Unreadable) -> JournalError {
    let path = path.to_owned();
    match why {
        Unreadable::NotAJournal => JournalError::NotAJournal { path },
        Unreadable::Version(version) => JournalError::Version { path, version },
    }
}

/// By the clock on the wall.
pub(crate) fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// What a journal tells: see [`read_journal`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct JournalContents {
    /// The id that its masters tag their instances with; `None` when that could not be read.
    pub owner: Option<Arc<str>>,
    /// The process that has opened it last, by its number. It may have ended long ago.
    pub opened_by: Option<u32>,
    /// When that was, in seconds since 1970.
    pub opened_at: Option<u64>,
    /// The instances that it does not tell the end of. While a master uses the journal, these are also those that run.
    pub instances: Vec<JournalInstance>,
    /// What could not be read, for people.
    pub damage: Option<Arc<str>>,
}

/// Reads a journal as it is now, without locking it and without changing anything. A master may use it meanwhile; what
/// that is just writing then looks like a last line that is not complete.
///
/// # Errors
/// When the file cannot be read, is no journal, or is one of a later version of this library.
pub fn read_journal(path: impl AsRef<Path>) -> Result<JournalContents, JournalError> {
    let path = path.as_ref();
    let bytes = fs::read(path);
    let bytes = bytes.map_err(|source| JournalError::Io { what: "read", path: path.to_owned(), source })?;
    let Recovered { state, damage } = recovery::read(&bytes).map_err(|why| unreadable(path, why))?;
    Ok(JournalContents {
        owner: state.owner,
        opened_by: state.opened.map(|(process, _)| process),
        opened_at: state.opened.map(|(_, at)| at),
        instances: state.open.values().map(Open::shown).collect(),
        damage: damage.map(|damage| damage.to_string().into()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// A directory for one test, removed with it.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let name = format!("lw-journal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn path(&self) -> PathBuf {
            self.0.join("journal")
        }

        fn files(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn open_with(path: &Path, steps: Steps) -> Result<Journal, JournalError> {
        Journal::open(path, steps, || Ok("owner".to_owned()))
    }

    fn open(path: &Path) -> Journal {
        open_with(path, Steps::default()).unwrap()
    }

    fn key(number: u64) -> Arc<str> {
        format!("{number:032x}").into()
    }

    fn intend(journal: &Journal, number: u64) -> Result<(), Arc<str>> {
        journal.intend(&"w".into(), Epoch(number), &key(number))
    }

    fn gone(journal: &Journal, number: u64) {
        journal.append(Record::Gone { key: key(number) }, Until::Synced).unwrap();
    }

    fn open_epochs(journal: &Journal) -> Vec<u64> {
        journal.open_attempts().iter().map(|open| open.remains.epoch.0).collect()
    }

    /// Runs `step` whenever the journal reaches that step.
    fn at(wanted: JournalStep, step: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Steps {
        Steps::told_to(move |reached| if reached == wanted { step() } else { Ok(()) })
    }

    #[test]
    fn what_was_appended_is_there_the_next_time() {
        let place = Place::new();
        let journal = open(&place.path());
        (1..=3).for_each(|number| intend(&journal, number).unwrap());
        gone(&journal, 2);
        drop(journal);
        let journal = Journal::open(&place.path(), Steps::default(), || panic!("it has an owner")).unwrap();
        assert_eq!((&**journal.owner(), open_epochs(&journal)), ("owner", vec![1, 3]));
        assert_eq!((journal.last_epoch("w"), journal.last_epoch("x")), (Epoch(3), Epoch(0)));
        assert_eq!((place.files(), journal.damage()), (vec!["journal".to_owned()], None));
    }

    #[test]
    fn j6_a_second_master_is_refused_and_told_who_the_first_one_is() {
        let place = Place::new();
        let journal = open(&place.path());
        let error = open_with(&place.path(), Steps::default()).map(|_| ()).unwrap_err().to_string();
        let holder = format!("is in use by process {}", std::process::id());
        assert!(error.contains(&place.path().display().to_string()) && error.contains(&holder), "{error}");
        drop(journal);
        open(&place.path());
    }

    #[test]
    fn j6_the_lock_goes_over_to_the_new_file() {
        let place = Place::new();
        fs::write(place.path(), "latent-worker-jour").unwrap();
        let journal = open(&place.path());
        assert!(matches!(open_with(&place.path(), Steps::default()), Err(JournalError::InUse { .. })));
        intend(&journal, 1).unwrap();
        drop(journal);
        assert_eq!(open_epochs(&open(&place.path())), [1]);
    }

    #[test]
    fn j6_a_lock_on_a_file_that_was_replaced_is_none() {
        let place = Place::new();
        drop(open(&place.path()));
        let old = File::open(place.path()).unwrap();
        old.lock().unwrap();
        assert!(is_named_by(&old, &place.path()).unwrap());
        fs::rename(place.path(), place.0.join("moved")).unwrap();
        assert!(!is_named_by(&old, &place.path()).unwrap());
        open(&place.path());
        assert!(!is_named_by(&old, &place.path()).unwrap());
    }

    #[test]
    fn j6_damage_is_set_aside_and_the_rest_goes_on() {
        let place = Place::new();
        let journal = open(&place.path());
        (1..=3).for_each(|number| intend(&journal, number).unwrap());
        drop(journal);
        let good = fs::read(place.path()).unwrap();
        let second = good.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0 + 1;
        let mut bad = good.clone();
        bad[second + 20] ^= 1;
        bad.extend_from_slice(b"intended w 4 torn");
        fs::write(place.path(), &bad).unwrap();

        let read = read_journal(place.path()).unwrap();
        assert_eq!(read.damage.as_deref(), Some("2 lines are damaged, the first of them is line 4"));
        assert_eq!(fs::read(place.path()).unwrap(), bad, "reading changes nothing");
        // The same again is not copied again.
        for number in [1, 1, 2] {
            if number == 2 {
                bad.extend_from_slice(b", and more");
                fs::write(place.path(), &bad).unwrap();
            }
            let journal = open(&place.path());
            assert_eq!(open_epochs(&journal), [1, 3]);
            let damage = journal.damage().expect("reported").to_string();
            let aside = place.0.join(format!("journal.damaged-{number}"));
            assert!(damage.starts_with("2 lines are damaged") && damage.ends_with(aside.to_str().unwrap()), "{damage}");
            assert_eq!(fs::read(aside).unwrap(), bad[second..]);
            drop(journal);
            assert_eq!(open(&place.path()).damage(), None, "it is whole again");
            fs::write(place.path(), &bad).unwrap();
        }
    }

    #[test]
    fn j6_cut_at_every_byte_it_opens_goes_on_and_loses_no_earlier_record() {
        let place = Place::new();
        let journal = open(&place.path());
        (1..=3).for_each(|number| intend(&journal, number).unwrap());
        gone(&journal, 1);
        drop(journal);
        let bytes = fs::read(place.path()).unwrap();
        for length in 0..=bytes.len() {
            let place = Place::new();
            fs::write(place.path(), &bytes[..length]).unwrap();
            let expected = recovery::read(&bytes[..length]).unwrap().state;
            let journal = open(&place.path());
            assert_eq!(journal.open_attempts(), expected.open.values().cloned().collect::<Vec<_>>());
            assert_eq!(journal.damage().is_some(), length > 0 && bytes[length - 1] != b'\n', "cut at {length}");
            intend(&journal, 9).unwrap();
            drop(journal);
            let again = open(&place.path());
            assert_eq!(again.damage(), None);
            assert_eq!(again.open_attempts().len(), expected.open.len() + 1);
        }
    }

    #[test]
    fn j6_what_is_no_journal_is_left_alone() {
        let place = Place::new();
        fs::write(place.path(), "a letter\n").unwrap();
        assert!(matches!(open_with(&place.path(), Steps::default()), Err(JournalError::NotAJournal { .. })));
        assert_eq!(fs::read(place.path()).unwrap(), b"a letter\n");
        for no_file in [place.0.as_path(), Path::new("/dev/null")] {
            assert!(open_with(no_file, Steps::default()).is_err(), "{}", no_file.display());
        }
        assert_eq!(place.files(), ["journal"]);
        let error = open_with(&place.0.join("nowhere/journal"), Steps::default()).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("cannot open the journal "), "{error}");
    }

    #[test]
    fn j1_appenders_share_a_sync() {
        const APPENDERS: u64 = 64;
        let place = Place::new();
        let (syncing, first_sync) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let (syncing, may_go_on) = (Mutex::new(syncing), Mutex::new(may_go_on));
        let syncs = Arc::new(AtomicUsize::new(0));
        let counted = syncs.clone();
        let steps = at(JournalStep::BeforeSync, move || {
            // The first one is that of the open; the second is held up until all others have appended.
            if counted.fetch_add(1, Ordering::SeqCst) == 1 {
                syncing.lock().send(()).unwrap();
                may_go_on.lock().recv().unwrap();
            }
            Ok(())
        });
        let journal = open_with(&place.path(), steps).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| intend(&journal, 0).unwrap());
            first_sync.recv().unwrap();
            (1..=APPENDERS).for_each(|number| {
                _ = scope.spawn({
                    let journal = &journal;
                    move || intend(journal, number).unwrap()
                })
            });
            while journal.inner.lock().appended < APPENDERS + 2 {
                thread::yield_now();
            }
            go_on.send(()).unwrap();
        });
        assert_eq!(syncs.load(Ordering::SeqCst), 3, "open, the first one, and one for all others");
        drop(journal);
        assert_eq!(open(&place.path()).open_attempts().len() as u64, APPENDERS + 1);
    }

    #[test]
    fn a_record_that_need_not_be_synced_is_not() {
        let place = Place::new();
        let journal = open_with(&place.path(), Steps::default()).unwrap();
        intend(&journal, 1).unwrap();
        drop(journal);
        let syncs = Arc::new(AtomicUsize::new(0));
        let counted = syncs.clone();
        let count = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        let journal = open_with(&place.path(), at(JournalStep::BeforeSync, count)).unwrap();
        let attempt = Attempt { worker: "w".into(), epoch: Epoch(1), key: key(1), owner: "owner".into() };
        journal.append(Record::Stopping { attempt }, Until::Written).unwrap();
        let read = read_journal(place.path()).unwrap();
        assert_eq!(read.instances[0].stage, super::super::LeftoverStage::Stopping);
        assert_eq!(syncs.load(Ordering::SeqCst), 1, "the one of the open");
        intend(&journal, 2).unwrap();
        assert_eq!(syncs.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn j6_when_the_disk_is_full_appends_fail_and_go_on_when_there_is_room_again() {
        let steps =
            [JournalStep::BeforeWrite, JournalStep::AfterWrite, JournalStep::BeforeSync, JournalStep::AfterSync];
        for failing in steps {
            let place = Place::new();
            let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let (is_full, path) = (full.clone(), place.path());
            let steps = at(failing, move || {
                if !is_full.load(Ordering::SeqCst) {
                    return Ok(());
                }
                // As much as there was room for.
                OpenOptions::new().append(true).open(&path).unwrap().write_all(b"intended w 9 to").unwrap();
                Err(ErrorKind::StorageFull.into())
            });
            let journal = open_with(&place.path(), steps).unwrap();
            intend(&journal, 1).unwrap();
            full.store(true, Ordering::SeqCst);
            for number in 2..=3 {
                let error = intend(&journal, number).unwrap_err();
                assert!(
                    error.starts_with("cannot write the journal ") && error.contains("no storage space"),
                    "{error}"
                );
                let told = journal.append(Record::Gone { key: key(number) }, Until::Synced);
                assert!(told.is_err(), "nor can it be told that nothing came of it");
            }
            assert_eq!(open_epochs(&journal), [1]);
            full.store(false, Ordering::SeqCst);
            intend(&journal, 4).unwrap();
            drop(journal);
            let journal = open(&place.path());
            assert_eq!((open_epochs(&journal), journal.damage()), (vec![1, 4], None), "{failing:?}");
            assert_eq!(journal.last_epoch("w"), Epoch(4));
        }
    }

    #[test]
    fn j6_a_failure_just_after_the_new_file_is_in_place_loses_neither_it_nor_its_lock() {
        let place = Place::new();
        let failing = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_failing = failing.clone();
        let failing_steps =
            Steps::told_to(move |step| match is_failing.load(Ordering::SeqCst) && step == JournalStep::AfterReplace {
                true => Err(ErrorKind::StorageFull.into()),
                false => Ok(()),
            });
        fs::write(place.path(), "latent-worker-jour").unwrap();
        failing.store(true, Ordering::SeqCst);
        assert!(open_with(&place.path(), failing_steps.clone()).is_err());
        failing.store(false, Ordering::SeqCst);
        let journal = open_with(&place.path(), failing_steps).unwrap();
        assert_eq!(journal.damage(), None, "the one before has replaced it");
        // What has become long is replaced, and that fails too late.
        journal.storage.lock().long = 0;
        failing.store(true, Ordering::SeqCst);
        assert!(intend(&journal, 1).is_err());
        assert!(matches!(open_with(&place.path(), Steps::default()), Err(JournalError::InUse { .. })));
        failing.store(false, Ordering::SeqCst);
        intend(&journal, 2).unwrap();
        drop(journal);
        assert_eq!(open_epochs(&open(&place.path())), [1, 2]);
    }

    #[test]
    fn j6_a_damaged_journal_in_a_directory_that_cannot_be_written_to_is_an_error_at_the_open() {
        let place = Place::new();
        fs::write(place.path(), "latent-worker-jour").unwrap();
        let steps = at(JournalStep::BeforeReplace, || Err(ErrorKind::PermissionDenied.into()));
        let error = open_with(&place.path(), steps).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("cannot write to the journal ") && error.contains("permission denied"), "{error}");
        open(&place.path());
    }

    #[test]
    fn a_long_journal_becomes_short_and_a_failure_of_that_does_no_harm() {
        let place = Place::new();
        let may_replace = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let allowed = may_replace.clone();
        let steps = at(JournalStep::BeforeReplace, move || match allowed.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(ErrorKind::StorageFull.into()),
        });
        let journal = open_with(&place.path(), steps).unwrap();
        intend(&journal, 1).unwrap();
        may_replace.store(false, Ordering::SeqCst);
        let length = || fs::metadata(place.path()).unwrap().len();
        let reason: Arc<str> = "x".repeat(64 << 10).into();
        let fail = |tries| {
            let failed = Record::Failed { key: key(1), tries, reason: reason.clone() };
            journal.append(failed, Until::Written).unwrap();
        };
        (1..=24).for_each(fail);
        assert!(length() > SHORT + 7 * (64 << 10), "it could not be replaced: {}", length());
        may_replace.store(true, Ordering::SeqCst);
        (25..=50).for_each(fail);
        assert!(length() < SHORT + 2 * (64 << 10), "{}", length());
        assert!(matches!(open_with(&place.path(), Steps::default()), Err(JournalError::InUse { .. })));
        drop(journal);
        let journal = open(&place.path());
        assert_eq!(journal.open_attempts()[0].tries, 50);
        assert_eq!(place.files().first().map(String::as_str), Some("journal"));
    }

    /// What a master of that name would find in its journal, or whoever owns what the link leads to.
    #[cfg(unix)]
    #[test]
    fn j6_a_replacement_touches_no_file_that_belongs_to_somebody_else() {
        let place = Place::new();
        let new = with_suffix(&place.path(), NEW);
        let rewrite = |journal: &Journal, number| {
            journal.storage.lock().long = 0;
            intend(journal, number).unwrap();
        };
        let journal = open(&place.path());
        let neighbour = open(&new);
        intend(&neighbour, 1).unwrap();
        let before = fs::read(&new).unwrap();
        rewrite(&journal, 2);
        assert_eq!(fs::read(&new).unwrap(), before, "it is in use");
        drop(neighbour);
        fs::remove_file(&new).unwrap();

        let precious = place.0.join("precious");
        fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink("precious", &new).unwrap();
        rewrite(&journal, 3);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert!(!fs::symlink_metadata(place.path()).unwrap().is_symlink());
        fs::remove_file(&new).unwrap();

        fs::write(&new, "what a crash has left").unwrap();
        rewrite(&journal, 4);
        assert!(!new.exists());
        drop(journal);
        assert_eq!(open_epochs(&open(&place.path())), [2, 3, 4]);
    }

    #[cfg(unix)]
    #[test]
    fn j1_a_journal_that_was_moved_or_removed_is_an_error_until_it_is_back() {
        let place = Place::new();
        let journal = open(&place.path());
        let moved = place.0.join("moved");
        fs::rename(place.path(), &moved).unwrap();
        for number in 1..=2 {
            let error = intend(&journal, number).unwrap_err();
            assert!(error.contains("moved or removed"), "{error}");
        }
        // Another master has begun a journal of its own there.
        let other = open(&place.path());
        let before = fs::read(place.path()).unwrap();
        assert!(intend(&journal, 3).is_err());
        assert_eq!(fs::read(place.path()).unwrap(), before);
        drop(other);
        fs::rename(&moved, place.path()).unwrap();
        intend(&journal, 4).unwrap();
        drop(journal);
        assert_eq!(open_epochs(&open(&place.path())), [1, 2, 3, 4]);
    }

    #[cfg(unix)]
    #[test]
    fn j4_a_journal_is_made_for_its_user_alone_and_what_is_set_aside_is_as_private_as_it_is() {
        use std::os::unix::fs::PermissionsExt;

        let place = Place::new();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        drop(open(&place.path()));
        assert_eq!(mode(&place.path()), 0o600);
        for (number, wanted) in [(1, 0o600), (2, 0o640)] {
            let torn = format!("torn {number}");
            OpenOptions::new().append(true).open(place.path()).unwrap().write_all(torn.as_bytes()).unwrap();
            fs::set_permissions(place.path(), fs::Permissions::from_mode(wanted)).unwrap();
            drop(open(&place.path()));
            assert_eq!(mode(&with_suffix(&place.path(), &format!(".damaged-{number}"))), wanted);
            assert_eq!(mode(&place.path()), wanted);
        }
    }

    #[cfg(unix)]
    #[test]
    #[ignore = "needs root"]
    fn what_root_has_replaced_still_belongs_to_whom_it_did() {
        use std::os::unix::fs::{MetadataExt, chown};

        const SOMEBODY: u32 = 65_534;
        let place = Place::new();
        drop(open(&place.path()));
        OpenOptions::new().append(true).open(place.path()).unwrap().write_all(b"torn").unwrap();
        chown(place.path(), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        drop(open(&place.path()));
        for file in [place.path(), with_suffix(&place.path(), ".damaged-1")] {
            let file = fs::metadata(file).unwrap();
            assert_eq!((file.uid(), file.gid()), (SOMEBODY, SOMEBODY));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_permissions_stay_what_they_are() {
        use std::os::unix::fs::PermissionsExt;

        let place = Place::new();
        let real = place.0.join("real");
        std::os::unix::fs::symlink("real", place.path()).unwrap();
        fs::write(&real, "").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        intend(&open(&place.path()), 1).unwrap();
        assert!(fs::symlink_metadata(place.path()).unwrap().is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(open_epochs(&open(&real)), [1]);
    }
}
