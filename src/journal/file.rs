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
//! - Before each write the length of the file is compared with what was written. If another program has truncated or
//!   changed the file, it is replaced by a complete one, and this is reported.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::record::{Attempt, Record, VERSION};
use super::recovery::{self, JournalInstance, Open, Recovered, State, Unreadable};
use crate::build::Epoch;
use crate::error::JournalError;

/// A journal shorter than this is not rewritten for its length, unless a test wants that.
const SHORT: u64 = 1 << 20;
/// What the name of a new file ends with that will take the place of a journal.
const NEW: &str = ".latent-worker-new";
/// The report about a file that exists and is empty.
const EMPTIED: &str = "the journal file exists and is empty: if a master has used it, another program has emptied it, \
                       and instances that were recorded in it may still run";
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
    /// Records that are not in the file yet.
    pending: Vec<Record>,
    /// How many records were appended, are in the file, are synced, and are to be synced.
    appended: u64,
    written: u64,
    synced: u64,
    sync_wanted: u64,
    /// The last failure, and the last record that it is about.
    failure: Option<(u64, Arc<str>)>,
    leading: bool,
    /// A problem of the file that was repaired and has not been reported yet.
    trouble: Option<Arc<str>>,
}

impl Inner {
    /// The number of the record.
    fn add(&mut self, record: Record) -> u64 {
        self.pending.push(record.clone());
        self.state.apply(record);
        self.appended += 1;
        self.appended
    }
}

struct Storage {
    file: File,
    length: u64,
    lines: u64,
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
        let is_new = !path.exists();
        let mut file = lock(path)?;
        let path = &fs::canonicalize(path).map_err(failed("find"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let Recovered { mut state, damage, lines, old } =
            recovery::read(&bytes).map_err(|why| unreadable(path, why))?;
        let damage = match damage {
            None if bytes.is_empty() && !is_new => Some(EMPTIED.into()),
            None => None,
            Some(damage) => {
                let aside = set_aside(path, &bytes[damage.offset..]).map_err(failed("set aside what is damaged in"))?;
                let what = format!("{damage}; it and all that follows was copied to {}", aside.display());
                Some(Arc::from(what))
            }
        };
        let is_whole = bytes.is_empty() || damage.is_none() && state.owner.is_some() && !old;
        let owner = match state.owner.clone() {
            Some(owner) => owner,
            None => new_owner().map_err(failed("make an owner id for"))?.into(),
        };
        state.owner = Some(owner.clone());
        // What is not whole is rewritten by the first leader, as if writing to it had failed. What is empty has nothing
        // to lose and begins with its first line.
        let first = Record::Journal { version: VERSION, owner: owner.clone() };
        let pending = if bytes.is_empty() { vec![first] } else { Vec::new() };
        let length = bytes.len() as u64;
        let storage = Storage { file, length, lines, long: steps.short, broken: !is_whole, closed: false };
        let inner = Inner {
            state,
            pending,
            appended: 0,
            written: 0,
            synced: 0,
            sync_wanted: 0,
            failure: None,
            leading: false,
            trouble: None,
        };
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

    /// Returns the problem of the file that was repaired since the last call, if any.
    pub(crate) fn take_trouble(&self) -> Option<Arc<str>> {
        self.inner.lock().trouble.take()
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
        if !storage.broken
            && let Some(what) = MutexGuard::unlocked(inner, || self.changed_by_somebody(&storage))
        {
            // Nothing is lost: all open attempts are in memory too.
            storage.broken = true;
            inner.trouble = Some(what);
        }
        let whole = (storage.broken || storage.length > storage.long).then(|| inner.state.encode());
        let result = MutexGuard::unlocked(inner, || self.commit(&mut storage, &pending, whole.as_ref(), sync));
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

    /// Returns a report if another program has changed the length of the file. If the length cannot be read, the next
    /// write reports the error.
    fn changed_by_somebody(&self, storage: &Storage) -> Option<Arc<str>> {
        let length = storage.file.metadata().ok()?.len();
        if length == storage.length {
            return None;
        }
        let (path, expected) = (self.path.display(), storage.length);
        let what = format!(
            "the journal {path} has {length} bytes instead of {expected}: another program has changed it while it was in \
             use; it is rewritten, and nothing is lost"
        );
        Some(what.into())
    }

    /// Brings the file up to date: with `pending` at its end, or with a new file that holds the `whole`. Whether it is
    /// synced afterwards.
    fn commit(
        &self,
        storage: &mut Storage,
        pending: &[Record],
        whole: Option<&(Vec<u8>, u64)>,
        sync: bool,
    ) -> io::Result<bool> {
        if storage.closed {
            return Err(io::Error::other("it was closed when the master had shut down"));
        }
        if let Some((whole, lines)) = whole {
            match self.replace(storage, whole, *lines) {
                Ok(()) => return Ok(true),
                Err(error) if storage.broken => return Err(error),
                // The old one is as good as ever, only long.
                Err(_) => storage.long = storage.length.saturating_mul(2),
            }
        }
        if !pending.is_empty() {
            let mut bytes = Vec::new();
            for record in pending {
                storage.lines += 1;
                record.encode(storage.lines, &mut bytes);
            }
            self.steps.reach(JournalStep::BeforeWrite)?;
            storage.file.write_all(&bytes)?;
            storage.length += bytes.len() as u64;
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
    fn replace(&self, storage: &mut Storage, whole: &[u8], lines: u64) -> io::Result<()> {
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
        *storage = Storage { file, length, lines, long: self.steps.short.max(4 * length), broken: true, closed: false };
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
    let Recovered { state, damage, .. } = recovery::read(&bytes).map_err(|why| unreadable(path, why))?;
    Ok(JournalContents {
        owner: state.owner,
        opened_by: state.opened.map(|(process, _)| process),
        opened_at: state.opened.map(|(_, at)| at),
        instances: state.open.values().map(Open::shown).collect(),
        damage: damage.map(|damage| damage.to_string().into()),
    })
}

#[cfg(test)]
mod tests;
