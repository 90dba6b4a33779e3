//! Removes directory trees that others have made: however deep and wide they are, whatever their permissions.
//!
//! A build decides what it leaves in its directory. So nothing here recurses, and few descriptors are open at a time: a
//! directory below the top is emptied by moving its own subdirectories up to the top, where their turn comes later. No
//! path is resolved: every name is looked up in an open directory, links are not followed, and other file systems that
//! are mounted in the tree are not entered. A removal that was interrupted goes on where it was when it is called again.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fchmod, fstat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

/// As many entries of a directory are known at a time.
const BATCH: usize = 256;
/// As often may a directory that was found empty have entries again.
const REFILLS: u32 = 100;
/// What subdirectories are called that were moved to the top.
const MOVED: &str = ".latent-worker-removal";

/// Why a tree could not be removed.
#[derive(Debug)]
pub(crate) struct RemovalError {
    /// What is still there.
    path: PathBuf,
    pub(crate) source: io::Error,
    /// How many entries were removed or moved before.
    pub(crate) progress: u64,
}

impl fmt::Display for RemovalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.source)
    }
}

impl From<RemovalError> for io::Error {
    fn from(error: RemovalError) -> Self {
        Self::new(error.source.kind(), error.to_string())
    }
}

/// Removes the directory at `path` with all that is in it. A link at `path` is removed itself. Nothing at `path`, and
/// nothing that could be a directory above it, is a success.
///
/// Asks `go_on` before every entry: false ends the removal with [`ErrorKind::Interrupted`].
pub(crate) fn remove_tree(path: &Path, go_on: &mut dyn FnMut() -> bool) -> Result<(), RemovalError> {
    let mut removal = Removal { path, go_on, progress: 0, moved: 0 };
    let result = removal.run();
    result.map_err(|(entry, source)| RemovalError {
        path: if entry.is_empty() { path.to_owned() } else { path.join(os_name(&entry)) },
        source,
        progress: removal.progress,
    })
}

/// An error, and the path of the entry below the top; empty for the top itself.
type Failure = (Vec<u8>, io::Error);

struct Removal<'a> {
    path: &'a Path,
    go_on: &'a mut dyn FnMut() -> bool,
    progress: u64,
    /// For names that were not given before.
    moved: u64,
}

/// An open directory, and which file system it is on.
struct Directory {
    descriptor: OwnedFd,
    device: u64,
}

/// What came of the try to remove an entry that need not be a directory.
enum Entry {
    Removed,
    FullDirectory,
}

impl Removal<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let of_top = |error: Errno| (Vec::new(), error.into());
        let Some(name) = self.path.file_name() else {
            return Err((Vec::new(), io::Error::new(ErrorKind::InvalidInput, "the path does not name a directory")));
        };
        let name = CString::new(name.as_encoded_bytes()).map_err(|error| (Vec::new(), error.into()))?;
        let parent = match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let above = match openat(CWD, parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(above) => above,
            // Without a directory above it there is nothing.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            // It may be entered, though it may not be read.
            Err(Errno::ACCESS) => self.open_unreadable(parent).map_err(of_top)?,
            Err(error) => return Err(of_top(error)),
        };
        for _ in 0..REFILLS {
            let top = match open(above.as_fd(), &name, None) {
                Ok(top) => top,
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::LOOP | Errno::NOTDIR) => return remove_link(above.as_fd(), &name).map_err(of_top),
                Err(error) => return Err(of_top(error)),
            };
            self.empty(&top)?;
            match unlinkat(&above, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // Somebody has put something into it, or something else in its place.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(error) => return Err((Vec::new(), explained(error))),
            }
        }
        Err((Vec::new(), io::Error::new(ErrorKind::DirectoryNotEmpty, "new entries keep appearing in it")))
    }

    fn open_unreadable(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        #[cfg(target_os = "linux")]
        return openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        #[cfg(not(target_os = "linux"))]
        openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Removes all that is in the top directory.
    fn empty(&mut self, top: &Directory) -> Result<(), Failure> {
        self.remove_entries(top, &mut |removal, name| removal.remove_directory(top, name), b"")
    }

    /// Removes a full subdirectory of the top.
    fn remove_directory(&mut self, top: &Directory, name: &CStr) -> Result<(), Failure> {
        let failed = |error: Errno| (name.to_bytes().to_vec(), explained(error));
        for _ in 0..REFILLS {
            let directory = match open(top.descriptor.as_fd(), name, Some(top.device)) {
                Ok(directory) => directory,
                // Somebody was faster, or has put something else in its place: the next look at the top finds it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                Err(error) => return Err(failed(error)),
            };
            let mut move_up = |removal: &mut Self, subdirectory: &CStr| {
                removal.move_to_top(&directory, subdirectory, top).map_err(|error| {
                    let path = [name.to_bytes(), b"/", subdirectory.to_bytes()].concat();
                    (path, explained(error))
                })
            };
            self.remove_entries(&directory, &mut move_up, name.to_bytes())?;
            match unlinkat(&top.descriptor, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err((
            name.to_bytes().to_vec(),
            io::Error::new(ErrorKind::DirectoryNotEmpty, "new entries keep appearing in it"),
        ))
    }

    /// Removes the entries of a directory; what is to be done with full subdirectories is said by `full`. Goes on past
    /// entries that cannot be removed, and ends with the first such error when nothing else is left.
    fn remove_entries(
        &mut self,
        directory: &Directory,
        full: &mut dyn FnMut(&mut Self, &CStr) -> Result<(), Failure>,
        prefix: &[u8],
    ) -> Result<(), Failure> {
        let path = |name: &CStr| match prefix {
            b"" => name.to_bytes().to_vec(),
            prefix => [prefix, b"/", name.to_bytes()].concat(),
        };
        loop {
            let names = names(&directory.descriptor).map_err(|error| (prefix.to_vec(), error.into()))?;
            if names.is_empty() {
                return Ok(());
            }
            let before = self.progress;
            let mut first_error = None;
            for name in &names {
                if !(self.go_on)() {
                    return Err((path(name), ErrorKind::Interrupted.into()));
                }
                let removed = match remove_entry(directory.descriptor.as_fd(), name) {
                    Ok(Entry::Removed) => Ok(()),
                    Ok(Entry::FullDirectory) => full(self, name),
                    Err(error) => Err((path(name), explained(error))),
                };
                match removed {
                    Ok(()) => self.progress += 1,
                    Err((_, error)) if error.kind() == ErrorKind::Interrupted => return Err((path(name), error)),
                    Err(error) => _ = first_error.get_or_insert(error),
                }
            }
            if let Some(error) = first_error
                && self.progress == before
            {
                return Err(error);
            }
        }
    }

    /// Moves a full directory out of `from` to the top, under a name that nobody else uses.
    fn move_to_top(&mut self, from: &Directory, name: &CStr, top: &Directory) -> rustix::io::Result<()> {
        let mut repaired = false;
        loop {
            self.moved += 1;
            let new = format!("{MOVED}-{}-{}", std::process::id(), self.moved);
            match renameat(&from.descriptor, name, &top.descriptor, new) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR) => {}
                // Who moves a directory changes what is in it: its entry for the one above.
                Err(Errno::ACCESS) if !repaired => {
                    repaired = true;
                    drop(open(from.descriptor.as_fd(), name, Some(from.device))?);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Removes a file, a link or an empty directory.
fn remove_entry(directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Entry> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(Entry::Removed),
        // Systems differ in what they say of a directory.
        Err(error @ (Errno::ISDIR | Errno::PERM | Errno::ACCESS)) => {
            match unlinkat(directory, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(Entry::Removed),
                Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Entry::FullDirectory),
                Err(Errno::NOTDIR) => Err(error),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// What is at the path is no directory: a link is removed, anything else is not what was asked for.
fn remove_link(above: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    let status = match statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        status => status?,
    };
    if FileType::from_raw_mode(status.st_mode) != FileType::Symlink {
        return Err(Errno::NOTDIR);
    }
    match unlinkat(above, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Opens a directory, never through a link, and makes it readable and writable for its owner. With a `device`, one that
/// something else is mounted on is refused.
fn open(above: BorrowedFd<'_>, name: &CStr, device: Option<u64>) -> rustix::io::Result<Directory> {
    let mut opened = open_once(above, name, device.is_some());
    if let Err(Errno::ACCESS) = opened {
        make_accessible(above, name)?;
        opened = open_once(above, name, device.is_some());
    }
    let descriptor = opened?;
    let status = fstat(&descriptor)?;
    if device.is_some_and(|device| device != device_of(&status)) {
        return Err(Errno::XDEV);
    }
    if status.st_mode & 0o700 != 0o700 {
        // Whether that was enough shows when an entry is removed.
        let _ = fchmod(&descriptor, Mode::from_raw_mode(status.st_mode & 0o7777 | 0o700));
    }
    Ok(Directory { device: device_of(&status), descriptor })
}

// The type of the number differs from system to system.
#[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
fn device_of(status: &Stat) -> u64 {
    status.st_dev as u64
}

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open_once(above: BorrowedFd<'_>, name: &CStr, within: bool) -> rustix::io::Result<OwnedFd> {
    // Notices what the number of the file system does not tell: a directory of the same one that is mounted here.
    #[cfg(target_os = "linux")]
    if within {
        use rustix::fs::{ResolveFlags, openat2};
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        match openat2(above, name, FLAGS, Mode::empty(), resolve) {
            // Older than Linux 5.6, or forbidden.
            Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {}
            result => return result,
        }
    }
    let _ = within;
    openat(above, name, FLAGS, Mode::empty())
}

/// Lets the owner of a directory read, change and enter it. Never through a link.
#[cfg(target_os = "linux")]
fn make_accessible(above: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;

    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(above, name, flags, Mode::empty())?;
    let mode = fstat(&directory)?.st_mode;
    // The system has no other way to change what such a descriptor stands for.
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777 | 0o700))
}

#[cfg(not(target_os = "linux"))]
fn make_accessible(above: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    let mode = statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
    rustix::fs::chmodat(above, name, Mode::from_raw_mode(mode & 0o7777 | 0o700), AtFlags::SYMLINK_NOFOLLOW)
}

/// The first names in a directory.
fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
            if names.len() == BATCH {
                break;
            }
        }
    }
    Ok(names)
}

fn explained(error: Errno) -> io::Error {
    let source = io::Error::from(error);
    match error {
        Errno::XDEV | Errno::BUSY => {
            io::Error::new(source.kind(), format!("something is mounted there, unmount it first: {source}"))
        }
        _ => source,
    }
}

fn os_name(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests;
