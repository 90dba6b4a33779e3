//! Removes directory trees whose shape others decide.
//!
//! A build may leave a million files, a hundred thousand levels, directories that nobody may enter, and processes that
//! still change all of it. The walk therefore keeps the way down on the heap and has a fixed number of directories open,
//! whatever the depth. It names every entry relative to an open directory: no path becomes too long, and no symbolic
//! link is followed, and what is mounted in the tree is not entered. It goes up through `..`, and only into the
//! directory that it came from.
//!
//! An entry that changes under the walk ends a pass, and the next pass begins at the top. Passes that remove something
//! are progress; only a number of passes without progress is a failure.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

/// How long the removal waits after a pass that has not finished. A process that was killed may be in the middle of
/// creating a file, and nobody tells when it has ended.
const PAUSE: Duration = Duration::from_millis(10);
/// How many passes in a row may remove nothing: about one second.
const IDLE_PASSES: u32 = 100;
/// How many passes there are at all: a process may create files as fast as they are removed.
const PASSES: u32 = 1000;
/// How many subdirectories are remembered of one level. The rest is read again later.
const BATCH: usize = 64;
/// How many names of a long path an error shows at each end.
const SHOWN: usize = 4;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Asked before every step; an error ends the removal and is its result.
type GoOn<'a> = &'a dyn Fn() -> io::Result<()>;

/// Removes a directory with everything in it. A symbolic link is removed itself. Succeeds when nothing has this name;
/// any other file is refused.
///
/// Blocks until it is done. Makes directories writable where that is necessary. Mount points are errors.
#[cfg(feature = "local")]
pub(crate) fn remove_directory(path: &Path, go_on: GoOn<'_>) -> io::Result<()> {
    let (above, name) = split(path)?;
    let there =
        open_above(above).and_then(|above| Ok(rustix::fs::statat(above, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode));
    match there.map(FileType::from_raw_mode) {
        Ok(FileType::Directory | FileType::Symlink) => remove_anything(path, go_on),
        Ok(_) => Err(Errno::NOTDIR.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes what has a name that belongs to the caller alone: the same, for a file of any type.
///
/// Also succeeds when a name above is not that of a directory: nothing can be below it.
pub(crate) fn remove_anything(path: &Path, go_on: GoOn<'_>) -> io::Result<()> {
    let (above, name) = split(path)?;
    let mut idle_passes = 0;
    for pass in 1.. {
        // Opened for each pass: it may be another directory by then.
        let above = match open_above(above) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            above => above?,
        };
        let mut walk = Walk { path, above: above.as_fd(), go_on, levels: Vec::new(), removed: false };
        match walk.run(&name) {
            Ok(()) => break,
            Err(Halt::Told(error)) => return Err(error),
            Err(Halt::Failed(error)) => {
                idle_passes = if walk.removed { 0 } else { idle_passes + 1 };
                if idle_passes == IDLE_PASSES || pass == PASSES {
                    return Err(error);
                }
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn split(path: &Path) -> io::Result<(&Path, CString)> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("{path:?} does not end with a name")));
    };
    Ok((above, CString::new(name.as_bytes())?))
}

/// Links are followed here: the caller's own path may have some.
fn open_above(path: &Path) -> io::Result<File> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // The caller need not be able to list it.
    #[cfg(target_os = "linux")]
    let access = OFlags::PATH;
    #[cfg(not(target_os = "linux"))]
    let access = OFlags::RDONLY;
    Ok(rustix::fs::open(path, access | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Why a pass ended early.
enum Halt {
    /// By the caller.
    Told(io::Error),
    /// By an entry that could not be removed.
    Failed(io::Error),
}

/// A directory that the walk is in or below.
struct Level {
    name: CString,
    identity: (u64, u64),
    /// Subdirectories that were not empty.
    full: Vec<CString>,
}

enum Found {
    Removed,
    /// A directory with something in it.
    Full,
}

/// One pass over the tree.
struct Walk<'a> {
    path: &'a Path,
    above: BorrowedFd<'a>,
    go_on: GoOn<'a>,
    /// From the top of the tree down to where the walk is.
    levels: Vec<Level>,
    removed: bool,
}

impl Walk<'_> {
    fn run(&mut self, name: &CStr) -> Result<(), Halt> {
        if let Found::Removed = self.remove_entry(self.above, name, FileType::Unknown)? {
            return Ok(());
        }
        let Some(mut current) = self.enter(self.above, name)? else { return Ok(()) };
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = level.full.pop() {
                if let Some(below) = self.enter(current.as_fd(), &name)? {
                    current = below;
                }
                continue;
            }
            let full = self.clear(&current)?;
            let Some(level) = self.levels.last_mut() else { break };
            level.full = full;
            if level.full.is_empty() {
                match self.leave(&current)? {
                    Some(up) => current = up,
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Opens a directory and goes down into it. `None` when it has vanished.
    fn enter(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<Option<File>, Halt> {
        let opened = match open_within(directory, name) {
            Err(Errno::ACCESS) => {
                unlock(directory, name).map_err(|error| self.failed(name, &error))?;
                open_within(directory, name)
            }
            opened => opened,
        };
        let below = match opened {
            Ok(below) => File::from(below),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::XDEV) => return Err(self.failed(name, &mounted())),
            Err(error) => return Err(self.failed(name, &error.into())),
        };
        let metadata = below.metadata().map_err(|error| self.failed(name, &error))?;
        if metadata.mode() & 0o700 != 0o700 {
            let mode = Permissions::from_mode(metadata.mode() & 0o7777 | 0o700);
            below.set_permissions(mode).map_err(|error| self.failed(name, &error))?;
        }
        let identity = (metadata.dev(), metadata.ino());
        if self.levels.last().is_some_and(|level| level.identity.0 != identity.0) {
            return Err(self.failed(name, &mounted()));
        }
        self.levels.push(Level { name: name.to_owned(), identity, full: Vec::new() });
        Ok(Some(below))
    }

    /// Removes what can be removed in a directory, and returns some of its subdirectories that are not empty. If there
    /// are none, the directory is empty.
    fn clear(&mut self, directory: &File) -> Result<Vec<CString>, Halt> {
        let mut full = Vec::new();
        let mut entries = Dir::read_from(directory).map_err(|error| self.failed(c".", &error.into()))?;
        while let Some(entry) = entries.read() {
            let entry = match entry {
                Ok(entry) => entry,
                // Another process has removed the directory.
                Err(Errno::NOENT) => break,
                Err(error) => return Err(self.failed(c".", &error.into())),
            };
            let name = entry.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            if let Found::Full = self.remove_entry(directory.as_fd(), name, entry.file_type())? {
                full.push(name.to_owned());
                if full.len() == BATCH {
                    break;
                }
            }
        }
        Ok(full)
    }

    /// Removes a directory that was found empty, and returns the one above it; `None` at the top.
    fn leave(&mut self, directory: &File) -> Result<Option<File>, Halt> {
        let Some(left) = self.levels.pop() else { return Ok(None) };
        let up = match self.levels.last() {
            None => None,
            Some(level) => {
                let up = openat(directory, c"..", DIRECTORY, Mode::empty()).map(File::from).map_err(io::Error::from);
                let up = up.and_then(|up| Ok((up.metadata()?, up)));
                let (metadata, up) = up.map_err(|error| self.failed(&left.name, &error))?;
                if (metadata.dev(), metadata.ino()) != level.identity {
                    return Err(self.failed(&left.name, &io::Error::other("it was moved while it was being removed")));
                }
                Some(up)
            }
        };
        let directory = up.as_ref().map_or(self.above, AsFd::as_fd);
        match self.remove_entry(directory, &left.name, FileType::Directory)? {
            Found::Removed => Ok(up),
            Found::Full => Err(self.failed(&left.name, &Errno::NOTEMPTY.into())),
        }
    }

    /// Removes anything but a directory that is not empty.
    fn remove_entry(&mut self, directory: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<Found, Halt> {
        (self.go_on)().map_err(Halt::Told)?;
        let first = if kind == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let removed = match unlinkat(directory, name, first) {
            // For a directory, POSIX has `EPERM`; Linux has `EISDIR`, and checks the permissions first.
            Err(error @ (Errno::ISDIR | Errno::PERM | Errno::ACCESS)) if first.is_empty() => {
                match unlinkat(directory, name, AtFlags::REMOVEDIR) {
                    Err(Errno::NOTDIR) => Err(error),
                    removed => removed,
                }
            }
            Err(Errno::NOTDIR) => unlinkat(directory, name, AtFlags::empty()),
            removed => removed,
        };
        match removed {
            Ok(()) => self.removed = true,
            Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Found::Full),
            Err(Errno::BUSY) => {
                return Err(self.failed(name, &mounted()));
            }
            Err(error) => return Err(self.failed(name, &error.into())),
        }
        Ok(Found::Removed)
    }

    /// With the path of an entry in the directory that the walk is in.
    fn failed(&self, name: &CStr, error: &io::Error) -> Halt {
        // The first level has the name that the path ends with.
        let above = self.levels.iter().skip(1).map(|level| level.name.as_c_str());
        let names: Vec<_> = above.chain((!self.levels.is_empty()).then_some(name)).collect();
        let join = |path: PathBuf, names: &[&CStr]| {
            names.iter().fold(path, |path, name| path.join(OsStr::from_bytes(name.to_bytes())))
        };
        let entry = if names.len() <= 2 * SHOWN {
            format!("{:?}", join(self.path.to_owned(), &names))
        } else {
            let (first, last) = (&names[..SHOWN], &names[names.len() - SHOWN..]);
            let hidden = names.len() - 2 * SHOWN;
            format!("{:?} ({hidden} levels) {:?}", join(self.path.to_owned(), first), join(PathBuf::new(), last))
        };
        Halt::Failed(io::Error::new(error.kind(), format!("{entry}: {error}")))
    }
}

fn mounted() -> io::Error {
    io::Error::new(ErrorKind::ResourceBusy, "it is a mount point or in use by the system; unmount it first")
}

/// Opens a directory; `EXDEV` when something is mounted on it. A directory of the same file system that is mounted there
/// is only noticed on Linux, 5.6 or later.
fn open_within(directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{ResolveFlags, openat2};
        match openat2(directory, name, DIRECTORY, Mode::empty(), ResolveFlags::NO_XDEV) {
            // An older system, or a filter of system calls that does not know it.
            Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {}
            opened => return opened,
        }
    }
    openat(directory, name, DIRECTORY, Mode::empty())
}

/// Lets this user enter a directory that it cannot open. A link that has taken the place of the directory is left alone.
#[cfg(target_os = "linux")]
fn unlock(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let locked = File::from(openat(directory, name, flags, Mode::empty())?);
    let mode = locked.metadata()?.mode() & 0o7777 | 0o700;
    // Such a descriptor has no `fchmod`, and older kernels have no way to change a mode without following links.
    std::fs::set_permissions(format!("/proc/self/fd/{}", locked.as_raw_fd()), Permissions::from_mode(mode))
}

#[cfg(not(target_os = "linux"))]
fn unlock(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    Ok(rustix::fs::chmodat(directory, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(all(test, feature = "local"))]
mod tests;
