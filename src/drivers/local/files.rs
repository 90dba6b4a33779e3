//! The files of a local instance: they are files of this machine, copied in blocks.
//!
//! A file that is written gets its name when it is whole. Nothing here waits for another process: what is no regular
//! file is refused, not opened.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Access, OFlags, access};
use rustix::io::Errno;

use super::agent::LocalAgent;
use crate::removal::remove_directory;
use crate::{FileError, FileStatus, Files, Interrupt};

/// How much is copied between two looks at the interrupt.
const BLOCK: usize = 64 << 10;
/// How many links in a row are followed; the system's own limit on Linux.
const MAX_LINKS: usize = 40;

/// - A path may be absolute or lead out of the instance's directory: a local instance keeps builds apart, it does not
///   lock them in.
/// - Besides an interrupt, [`close`](crate::Agent::close) ends a transfer too.
/// - Symbolic links are followed, except by `remove_directory`, which removes the link.
/// - A file that is written is there under its name when it is whole, and what was there before is there until then. In
///   between, its directory has a file `.latent-worker-…`, which is left behind when this process is killed. Other hard
///   links of a file that is replaced keep what was in it; its owner is this process's user. The bits that set user or
///   group are not kept, as with any other way of writing to it.
/// - A file or directory that this user may not write to is not replaced.
/// - `list` fails when a name is not UTF-8.
/// - `remove_directory` makes directories writable if necessary. It does not enter file systems that are mounted in the
///   directory.
impl Files for LocalAgent {
    fn read(&self, path: &Path, to: &mut dyn Write, interrupt: &Interrupt) -> Result<u64, FileError> {
        self.go_on(interrupt)?;
        let failed = |error| instance_error(path, error);
        let mut file = open_regular(&self.locate(path)).map_err(failed)?;
        let count = self.copy((&mut file, &failed), (to, &FileError::Caller), interrupt)?;
        to.flush().map_err(FileError::Caller)?;
        Ok(count)
    }

    fn write(
        &self,
        path: &Path,
        from: &mut dyn Read,
        mode: Option<u32>,
        interrupt: &Interrupt,
    ) -> Result<u64, FileError> {
        self.go_on(interrupt)?;
        let failed = |error| instance_error(path, error);
        let mut new = NewFile::beside(self.locate(path), mode).map_err(failed)?;
        let count = self.copy((from, &FileError::Caller), (&mut new.file, &failed), interrupt)?;
        new.commit().map_err(failed)?;
        Ok(count)
    }

    fn list(&self, path: &Path, interrupt: &Interrupt) -> Result<Vec<String>, FileError> {
        let failed = |error| instance_error(path, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(self.locate(path)).map_err(failed)? {
            self.go_on(interrupt)?;
            let name = entry.map_err(failed)?.file_name().into_string();
            names.push(name.map_err(|name| FileError::BadPath {
                path: path.join(name),
                reason: "its name is not UTF-8".to_owned(),
            })?);
        }
        names.sort_unstable();
        Ok(names)
    }

    fn make_directory(&self, path: &Path, interrupt: &Interrupt) -> Result<(), FileError> {
        interrupt.check()?;
        // Kept, so that the driver does not remove the instance's directory meanwhile, which would make it anew.
        let _alive = self.alive()?;
        fs::create_dir_all(self.locate(path)).map_err(|error| instance_error(path, error))
    }

    fn remove_directory(&self, path: &Path, interrupt: &Interrupt) -> Result<(), FileError> {
        self.go_on(interrupt)?;
        // Without a last `.`, by which the system removes nothing.
        let directory: PathBuf = self.locate(path).components().collect();
        let go_on = || self.go_on(interrupt).map_err(io::Error::other);
        // The reason for the interrupt is reported as another error.
        remove_directory(&directory, &go_on)
            .map_err(|error| self.go_on(interrupt).err().unwrap_or_else(|| instance_error(path, error)))
    }

    fn status(&self, path: &Path, interrupt: &Interrupt) -> Result<FileStatus, FileError> {
        self.go_on(interrupt)?;
        let status = fs::metadata(self.locate(path))
            .and_then(|metadata| Ok(FileStatus::new(metadata.mode(), metadata.len(), metadata.modified()?)));
        status.map_err(|error| instance_error(path, error))
    }
}

/// How an error of one end of a copy is told.
type Told<'a> = &'a dyn Fn(io::Error) -> FileError;

impl LocalAgent {
    fn locate(&self, path: &Path) -> PathBuf {
        self.directory().join(path)
    }

    fn go_on(&self, interrupt: &Interrupt) -> Result<(), FileError> {
        interrupt.check()?;
        self.alive()?;
        Ok(())
    }

    /// Copies to the end. An end that comes with an interrupt is none: it may be the reader's way to give up.
    fn copy(
        &self,
        (from, read_failed): (&mut dyn Read, Told<'_>),
        (to, write_failed): (&mut dyn Write, Told<'_>),
        interrupt: &Interrupt,
    ) -> Result<u64, FileError> {
        let mut block = vec![0; BLOCK];
        let mut total = 0;
        loop {
            let result = from.read(&mut block);
            self.go_on(interrupt)?;
            let count = match result {
                Ok(0) => return Ok(total),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.map_err(read_failed)?,
            };
            to.write_all(&block[..count]).map_err(write_failed)?;
            total += count as u64;
        }
    }
}

fn instance_error(path: &Path, source: io::Error) -> FileError {
    FileError::Instance { path: path.to_owned(), source }
}

fn check_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(())
}

/// Looks first: opening a pipe wakes whoever writes to it, and opening a device does who knows what.
fn open_regular(path: &Path) -> io::Result<File> {
    check_regular(&fs::metadata(path)?)?;
    open_what_is_there_now(path)
}

/// It may be another one than that which was looked at.
fn open_what_is_there_now(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = File::options().read(true).custom_flags(flags.cast_signed()).open(path)?;
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// A file that takes the place of another one, or of none, when it is whole. Dropping it before removes it.
struct NewFile {
    file: File,
    /// Where it is until then.
    path: PathBuf,
    target: PathBuf,
    /// The usual one if `None`.
    mode: Option<u32>,
    committed: bool,
}

impl NewFile {
    fn beside(target: PathBuf, mode: Option<u32>) -> io::Result<Self> {
        let target = follow_links(target)?;
        let mode = match fs::metadata(&target) {
            Ok(there) => {
                check_regular(&there)?;
                access(&target, Access::WRITE_OK)?;
                mode.or(Some(there.mode() & 0o777))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => mode,
            Err(error) => return Err(error),
        };
        // Nobody else reads what may not be for them before the mode is set.
        let first_mode = if mode.is_some() { 0o600 } else { 0o666 };
        loop {
            let path = target.with_file_name(temporary_name());
            match File::options().write(true).create_new(true).mode(first_mode).open(&path) {
                Ok(file) => return Ok(Self { file, path, target, mode, committed: false }),
                // Left behind by an earlier process of the same number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn commit(mut self) -> io::Result<()> {
        if let Some(mode) = self.mode {
            self.file.set_permissions(Permissions::from_mode(mode))?;
        }
        fs::rename(&self.path, &self.target)?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Short, whatever the name of the target is: names have a limit.
fn temporary_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(".latent-worker-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What a path that is to be replaced leads to, there or not.
fn follow_links(mut path: PathBuf) -> io::Result<PathBuf> {
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(to) => path = path.with_file_name(to),
            // No link, or nothing that can be reached: which of them shows when it is used.
            Err(_) => return Ok(path),
        }
    }
    Err(Errno::LOOP.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use crossbeam_channel::{Sender, bounded};

    use super::super::testing::{PATIENCE, Place, tell};
    use super::*;
    use crate::{Agent, LeaseEnd};

    fn agent(place: &Place) -> LocalAgent {
        LocalAgent::in_directory(place.path())
    }

    fn write(agent: &LocalAgent, path: &str, bytes: &str, mode: Option<u32>) -> Result<u64, FileError> {
        agent.write(Path::new(path), &mut bytes.as_bytes(), mode, &Interrupt::never())
    }

    fn read(agent: &LocalAgent, path: &str) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::new();
        let count = agent.read(Path::new(path), &mut bytes, &Interrupt::never())?;
        assert_eq!(count, bytes.len() as u64);
        Ok(bytes)
    }

    /// The kind of a refusal by the instance's system, for which the path that was asked for is named.
    fn refused<T: std::fmt::Debug>(asked: &str, result: Result<T, FileError>) -> ErrorKind {
        match result {
            Err(FileError::Instance { path, source }) if path == Path::new(asked) => source.kind(),
            other => panic!("{asked}: {other:?}"),
        }
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn names(place: &Place) -> Vec<String> {
        agent(place).list(Path::new("."), &Interrupt::never()).unwrap()
    }

    #[test]
    fn a_new_file_has_the_usual_mode_and_one_that_is_replaced_keeps_its_own() {
        let place = Place::new("files-mode");
        let agent = agent(&place);
        File::create(place.path().join("usual")).unwrap();
        write(&agent, "new", "1", None).unwrap();
        assert_eq!(mode_of(&place.path().join("new")), mode_of(&place.path().join("usual")));
        write(&agent, "new", "2", Some(0o751)).unwrap();
        assert_eq!(mode_of(&place.path().join("new")), 0o751);
        write(&agent, "new", "3", None).unwrap();
        assert_eq!(mode_of(&place.path().join("new")), 0o751);
        write(&agent, "open", "4", Some(0o666)).unwrap();
        assert_eq!(mode_of(&place.path().join("open")), 0o666, "whatever the umask");
        fs::set_permissions(place.path().join("new"), Permissions::from_mode(0o4755)).unwrap();
        write(&agent, "new", "5", None).unwrap();
        assert_eq!(mode_of(&place.path().join("new")), 0o755, "nobody asked for a set-user-id file");
        assert_eq!(read(&agent, "new").unwrap(), b"5");
        assert_eq!(names(&place), ["new", "open", "usual"]);
    }

    #[test]
    fn a_file_that_is_written_is_seen_when_it_is_whole() {
        /// Looks at the directory each time that it is read.
        struct Spy<'a>(&'a Place, Vec<&'a [u8]>);
        impl Read for Spy<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                assert_eq!(fs::read(self.0.path().join("file")).unwrap(), b"old");
                let there: Vec<_> = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
                let temporary = there.iter().find(|path| !path.ends_with("file")).expect("there is one beside it");
                assert_eq!(mode_of(temporary), 0o600, "it is nobody else's yet");
                let next = self.1.pop().unwrap_or_default();
                buffer[..next.len()].copy_from_slice(next);
                Ok(next.len())
            }
        }
        let place = Place::new("files-whole");
        fs::write(place.path().join("file"), "old").unwrap();
        let mut spy = Spy(&place, vec![b"w", b"ne"]);
        agent(&place).write(Path::new("file"), &mut spy, Some(0o644), &Interrupt::never()).unwrap();
        assert_eq!(fs::read(place.path().join("file")).unwrap(), b"new");
        assert_eq!((names(&place), mode_of(&place.path().join("file"))), (vec!["file".to_owned()], 0o644));
    }

    /// Gives block after block for ever, and drops the sender after some of them.
    struct Endless {
        blocks_until_signal: usize,
        open: Option<Sender<std::convert::Infallible>>,
    }

    impl Endless {
        fn block(&mut self) {
            assert!(self.open.is_some(), "it is asked for more after the interrupt");
            self.blocks_until_signal -= 1;
            if self.blocks_until_signal == 0 {
                self.open = None;
            }
        }
    }

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.block();
            Ok(buffer.len())
        }
    }

    impl Write for Endless {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.block();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            panic!("there is no end that could be reached");
        }
    }

    #[test]
    fn an_interrupt_ends_a_copy_between_two_blocks_and_leaves_what_was_there() {
        let place = Place::new("files-interrupt");
        let agent = agent(&place);
        fs::write(place.path().join("file"), vec![1; 10 * BLOCK]).unwrap();
        for blocks in 1..4 {
            let endless = || {
                let (open, signal) = bounded(0);
                (Endless { blocks_until_signal: blocks, open: Some(open) }, Interrupt::new(signal))
            };
            let (mut source, interrupt) = endless();
            let written = agent.write(Path::new("file"), &mut source, None, &interrupt);
            assert!(matches!(written, Err(FileError::Interrupted)), "{written:?}");
            let (mut sink, interrupt) = endless();
            let read = agent.read(Path::new("file"), &mut sink, &interrupt);
            assert!(matches!(read, Err(FileError::Interrupted)), "{read:?}");
        }
        assert_eq!(fs::read(place.path().join("file")).unwrap(), vec![1; 10 * BLOCK]);
        assert_eq!(names(&place), ["file"]);
    }

    #[test]
    fn an_end_that_comes_with_an_interrupt_is_none() {
        struct GivesUp(Option<Sender<std::convert::Infallible>>);
        impl Read for GivesUp {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                self.0 = None;
                Ok(0)
            }
        }
        let place = Place::new("files-gives-up");
        let (open, signal) = bounded(0);
        let written = agent(&place).write(Path::new("file"), &mut GivesUp(Some(open)), None, &Interrupt::new(signal));
        assert!(matches!(written, Err(FileError::Interrupted)), "{written:?}");
        assert!(names(&place).is_empty());
    }

    #[test]
    fn a_closed_agent_refuses_and_ends_what_goes_on() {
        struct Closes(LocalAgent);
        impl Read for Closes {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.close();
                Ok(buffer.len())
            }
        }
        let stopped =
            |error: FileError| assert!(matches!(error, FileError::LeaseEnded(LeaseEnd::Stopped)), "{error:?}");
        let place = Place::new("files-closed");
        let (agent, never, path) = (agent(&place), Interrupt::never(), Path::new("file"));
        stopped(agent.write(path, &mut Closes(agent.clone()), None, &never).unwrap_err());
        fs::write(place.path().join("file"), "").unwrap();
        stopped(agent.write(path, &mut "more".as_bytes(), None, &never).unwrap_err());
        stopped(agent.read(path, &mut Vec::new(), &never).unwrap_err());
        stopped(agent.list(Path::new("."), &never).unwrap_err());
        stopped(agent.make_directory(Path::new("made"), &never).unwrap_err());
        stopped(agent.remove_directory(Path::new("."), &never).unwrap_err());
        stopped(agent.status(path, &never).unwrap_err());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        assert_eq!(fs::read(place.path().join("file")).unwrap(), b"");
    }

    #[test]
    fn every_operation_looks_at_the_interrupt_first() {
        let place = Place::new("files-first");
        fs::write(place.path().join("file"), "kept").unwrap();
        let (agent, path) = (agent(&place), Path::new("file"));
        let (open, signal) = bounded(0);
        drop(open);
        let interrupt = Interrupt::new(signal);
        let interrupted = |error: FileError| assert!(matches!(error, FileError::Interrupted), "{error:?}");
        interrupted(agent.write(path, &mut "new".as_bytes(), None, &interrupt).unwrap_err());
        interrupted(agent.read(path, &mut Vec::new(), &interrupt).unwrap_err());
        interrupted(agent.list(Path::new("."), &interrupt).unwrap_err());
        interrupted(agent.make_directory(Path::new("made"), &interrupt).unwrap_err());
        interrupted(agent.remove_directory(Path::new("."), &interrupt).unwrap_err());
        interrupted(agent.status(path, &interrupt).unwrap_err());
        assert_eq!((names(&place), read(&agent, "file").unwrap()), (vec!["file".to_owned()], b"kept".to_vec()));
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_stays() {
        let place = Place::new("files-special");
        let agent = agent(&place);
        let fifo = place.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(place.path().join("socket")).unwrap();
        symlink("fifo", place.path().join("link")).unwrap();
        for path in ["fifo", "socket", "link", "/dev/null"] {
            assert_eq!(refused(path, read(&agent, path)), ErrorKind::InvalidInput);
            assert_eq!(refused(path, write(&agent, path, "x", None)), ErrorKind::InvalidInput);
        }
        // Also when it was something else a moment before.
        let opened = tell(move || open_what_is_there_now(&fifo)).recv_timeout(PATIENCE).expect("it waits for a writer");
        assert_eq!(opened.unwrap_err().to_string(), "it is no regular file");
        assert_eq!(refused(".", read(&agent, ".")), ErrorKind::IsADirectory);
        assert_eq!(refused(".", write(&agent, ".", "x", None)), ErrorKind::IsADirectory);
        assert_eq!(names(&place), ["fifo", "link", "socket"]);
    }

    #[test]
    fn what_is_missing_is_not_found() {
        let place = Place::new("files-missing");
        let agent = agent(&place);
        let never = Interrupt::never();
        assert_eq!(refused("no", read(&agent, "no")), ErrorKind::NotFound);
        assert_eq!(refused("no/file", write(&agent, "no/file", "x", None)), ErrorKind::NotFound);
        assert_eq!(refused("no", agent.list(Path::new("no"), &never)), ErrorKind::NotFound);
        assert_eq!(refused("no", agent.status(Path::new("no"), &never)), ErrorKind::NotFound);
        agent.remove_directory(Path::new("no"), &never).unwrap();
        agent.remove_directory(Path::new("no/deeper"), &never).unwrap();
        assert!(names(&place).is_empty());
    }

    #[test]
    fn a_name_may_be_as_long_as_the_system_allows() {
        let place = Place::new("files-long");
        let name = "n".repeat(255);
        write(&agent(&place), &name, "x", None).unwrap();
        assert_eq!(names(&place), [name]);
    }

    #[test]
    fn a_file_under_a_file_or_a_trailing_slash_is_refused_and_leaves_nothing() {
        let place = Place::new("files-under");
        let agent = agent(&place);
        write(&agent, "file", "kept", None).unwrap();
        assert_eq!(refused("file/x", write(&agent, "file/x", "x", None)), ErrorKind::NotADirectory);
        assert_eq!(refused("new/", write(&agent, "new/", "x", None)), ErrorKind::NotADirectory);
        assert_eq!(
            refused("file", agent.remove_directory(Path::new("file"), &Interrupt::never())),
            ErrorKind::NotADirectory
        );
        assert_eq!((names(&place), read(&agent, "file").unwrap()), (vec!["file".to_owned()], b"kept".to_vec()));
    }

    /// What a plain write would be refused is refused here; a super-user is refused nothing.
    #[test]
    fn a_file_that_may_not_be_written_to_is_not_replaced() {
        let place = Place::new("files-read-only");
        let path = place.path().join("file");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        let expected = File::options().append(true).open(&path).map(drop).map_err(|error| error.kind());
        match expected {
            Ok(()) => assert_eq!(write(&agent(&place), "file", "new", None).unwrap(), 3),
            Err(kind) => assert_eq!(refused("file", write(&agent(&place), "file", "new", None)), kind),
        }
        let content = if expected.is_ok() { "new" } else { "old" };
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode_of(&path)), (content, 0o444));
        assert_eq!(names(&place), ["file"]);
    }

    #[test]
    fn links_are_followed_and_stay() {
        let place = Place::new("files-links");
        let agent = agent(&place);
        agent.make_directory(Path::new("a/b"), &Interrupt::never()).unwrap();
        symlink("../target", place.path().join("a/relative")).unwrap();
        symlink(place.path().join("a/relative"), place.path().join("absolute")).unwrap();
        // The first makes the file that the links lead to.
        for (path, text) in [("absolute", "1"), ("a/relative", "2"), ("target", "3")] {
            write(&agent, path, text, None).unwrap();
            assert_eq!(read(&agent, "absolute").unwrap(), text.as_bytes());
        }
        assert!(place.path().join("absolute").is_symlink() && place.path().join("a/relative").is_symlink());
        assert_eq!(names(&place), ["a", "absolute", "target"]);
        symlink("loop", place.path().join("loop")).unwrap();
        assert_eq!(refused("loop", write(&agent, "loop", "x", None)), io::Error::from(Errno::LOOP).kind());
    }

    #[test]
    fn a_directory_is_removed_with_all_that_is_in_it_and_nothing_behind_links() {
        let place = Place::new("files-remove");
        let agent = agent(&place);
        let remove = |path: &str| agent.remove_directory(Path::new(path), &Interrupt::never());
        fs::create_dir_all(place.path().join("outside")).unwrap();
        fs::write(place.path().join("outside/kept"), "").unwrap();
        fs::create_dir_all(place.path().join("gone/locked")).unwrap();
        fs::write(place.path().join("gone/locked/file"), "").unwrap();
        symlink("../outside", place.path().join("gone/link")).unwrap();
        symlink("outside", place.path().join("link")).unwrap();
        fs::set_permissions(place.path().join("gone/locked"), Permissions::from_mode(0o500)).unwrap();
        remove("gone/./").unwrap();
        remove("link").unwrap();
        assert_eq!(names(&place), ["outside"]);
        assert!(place.path().join("outside/kept").exists());
        fs::create_dir(place.path().join("dot")).unwrap();
        remove("dot/.").unwrap();
        assert_eq!(names(&place), ["outside"]);
    }

    /// Other systems have no such names.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_name_that_is_no_text_is_an_error_that_shows_it() {
        let place = Place::new("files-names");
        let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9");
        fs::write(place.path().join(name), "").unwrap();
        let listed = agent(&place).list(Path::new("."), &Interrupt::never());
        let Err(error @ FileError::BadPath { .. }) = &listed else { panic!("{listed:?}") };
        assert_eq!(error.to_string(), "\"./caf\\xE9\" is no path for this agent: its name is not UTF-8");
    }
}
