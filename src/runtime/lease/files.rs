//! The files of a leased instance: what a build copies to it and from it.
//!
//! How it is done is the agent's business. Here the agent is kept from breaking its caller and the caller's readers and
//! writers from breaking the agent, and the end of the lease is made the end of the operation.

use std::any::Any;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use crossbeam_channel::never;

use super::Lease;
use crate::error::FileError;
use crate::files::{FileStatus, Files, Interrupt};
use crate::runtime::fence::fenced;

/// Which bits of a mode are permissions, the sticky bit and those that set a user or group among them.
const PERMISSIONS: u32 = 0o7777;

/// The files of a leased instance, as [`Lease::files`] gives them.
///
/// A relative path counts from the instance's directory, where commands run by default; an absolute one is allowed.
/// An empty path is an error; `.` is the instance's directory.
///
/// Every method blocks until it is done. When the lease ends before that, because the connection was lost, the build was
/// cancelled or the instance is stopped, it gives up and returns [`FileError::LeaseEnded`]. It cannot give up while it
/// waits for the caller's own reader or writer. Files of any size go through little memory, byte for byte.
///
/// The same goes for every method: what the instance's system refuses is [`FileError::Instance`], whose
/// [kind](std::io::Error::kind) says why; an agent without files is [`FileError::Unsupported`]; an agent that panics is
/// [`FileError::Failed`].
///
#[cfg_attr(all(feature = "local", unix), doc = "```")]
#[cfg_attr(not(all(feature = "local", unix)), doc = "```ignore")]
/// use std::error::Error;
/// use latent_worker::{Build, Command, LocalLatentWorker, Master, WorkerConfig};
///
/// let master = Master::new();
/// master.add_worker(WorkerConfig::new("local"), LocalLatentWorker::new())?;
/// let count = master.run(Build::new("count words"), |lease| -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
///     let files = lease.files();
///     files.make_directory("out")?;
///     files.write("text", &mut "to be or not to be".as_bytes())?;
///     assert!(lease.run(&Command::shell("wc -w <text >out/count"))?.success());
///     let mut count = Vec::new();
///     files.read("out/count", &mut count)?;
///     Ok(count)
/// })?;
/// assert_eq!(String::from_utf8(count)?.trim(), "6");
/// # Ok::<(), Box<dyn Error>>(())
/// ```
///
/// # Panics
///
/// A panic of the caller's own reader or writer ends the transfer and goes on in the caller.
#[derive(Clone, Copy, Debug)]
pub struct LeaseFiles<'a> {
    lease: &'a Lease,
}

impl<'a> LeaseFiles<'a> {
    pub(super) fn new(lease: &'a Lease) -> Self {
        Self { lease }
    }

    /// Copies a file of the instance to `to`, flushes that, and returns how many bytes there were. After an error `to`
    /// may have got a part of the file.
    ///
    /// In Buildbot's words a file goes *up* from the worker to the master.
    ///
    /// # Errors
    /// [`FileError::Caller`] when `to` fails, and those that all methods have.
    #[doc(alias = "upload")]
    pub fn read(&self, path: impl AsRef<Path>, to: &mut (impl Write + ?Sized)) -> Result<u64, FileError> {
        let mut to = Guarded::new(to);
        let result =
            self.ask("Files::read", path.as_ref(), |files, path, interrupt| files.read(path, &mut to, interrupt));
        to.release();
        result
    }

    /// Like [`read`](LeaseFiles::read), but fails if the file is longer than `limit` bytes. Use this for instances that
    /// are not trusted: they could send an endless file.
    ///
    /// # Errors
    /// Returns [`FileError::Caller`] of the kind [`FileTooLarge`](io::ErrorKind::FileTooLarge) if the file is longer
    /// than `limit`; at most `limit` bytes have then been written to `to`. Other errors are those of `read`.
    pub fn read_at_most(
        &self,
        path: impl AsRef<Path>,
        to: &mut (impl Write + ?Sized),
        limit: u64,
    ) -> Result<u64, FileError> {
        self.read(path, &mut AtMost { inner: to, limit, left: limit })
    }

    /// Makes a file of the instance out of all bytes of `from` and returns how many there were. A file that is there
    /// already is replaced and keeps its permissions; a new one has those that new files usually have there.
    ///
    /// In Buildbot's words a file goes *down* from the master to the worker.
    ///
    /// # Errors
    /// [`FileError::Caller`] when `from` fails, and those that all methods have. What is there after an error is the
    /// agent's business: a local one leaves what was there before.
    #[doc(alias = "download")]
    pub fn write(&self, path: impl AsRef<Path>, from: &mut (impl Read + ?Sized)) -> Result<u64, FileError> {
        self.write_from(path.as_ref(), from, None)
    }

    /// As [`write`](LeaseFiles::write), and the file has the permission bits of `mode` then, whatever the umask. Other
    /// bits of it do not count, so that the mode of a [`FileStatus`] will do.
    pub fn write_with_mode(
        &self,
        path: impl AsRef<Path>,
        from: &mut (impl Read + ?Sized),
        mode: u32,
    ) -> Result<u64, FileError> {
        self.write_from(path.as_ref(), from, Some(mode & PERMISSIONS))
    }

    fn write_from(&self, path: &Path, from: &mut (impl Read + ?Sized), mode: Option<u32>) -> Result<u64, FileError> {
        let mut from = Guarded::new(from);
        let result =
            self.ask("Files::write", path, |files, path, interrupt| files.write(path, &mut from, mode, interrupt));
        from.release();
        result
    }

    /// The names of what is in a directory, sorted.
    #[doc(alias = "listdir")]
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<String>, FileError> {
        self.ask("Files::list", path.as_ref(), |files, path, interrupt| files.list(path, interrupt))
    }

    /// Makes a directory and those above it. One that is there already is a success.
    #[doc(alias = "mkdir")]
    pub fn make_directory(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        self.ask("Files::make_directory", path.as_ref(), |files, path, interrupt| files.make_directory(path, interrupt))
    }

    /// Removes a directory with all that is in it. One that is not there is a success. `.`, `/` and what ends in
    /// `..` are errors.
    #[doc(alias = "rmdir")]
    pub fn remove_directory(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let path = path.as_ref();
        if path.file_name().is_none() && !path.as_os_str().is_empty() {
            let reason = "it does not end in the name of a directory to remove".to_owned();
            return Err(FileError::BadPath { path: path.to_owned(), reason });
        }
        self.ask("Files::remove_directory", path, |files, path, interrupt| files.remove_directory(path, interrupt))
    }

    /// What a path leads to, through symbolic links.
    #[doc(alias = "stat")]
    pub fn status(&self, path: impl AsRef<Path>) -> Result<FileStatus, FileError> {
        self.ask("Files::status", path.as_ref(), |files, path, interrupt| files.status(path, interrupt))
    }

    /// Calls the agent, unless the lease has ended. When the agent fails and the lease has ended, then that is why.
    fn ask<T>(
        &self,
        what: &str,
        path: &Path,
        operation: impl FnOnce(&dyn Files, &Path, &Interrupt) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        if path.as_os_str().is_empty() {
            let reason = "it is empty; the instance's directory is \".\"".to_owned();
            return Err(FileError::BadPath { path: path.to_owned(), reason });
        }
        if let Some(end) = self.lease.end() {
            return Err(end.into());
        }
        let connection = &self.lease.connection;
        let cancelled = self.lease.queued().map_or_else(never, |build| build.cancelled().closed().clone());
        let interrupt = Interrupt::either(connection.end.closed().clone(), cancelled);
        let asked = fenced(what, || match connection.agent().files() {
            Some(files) => operation(files, path, &interrupt),
            None => Err(FileError::Unsupported),
        });
        let result = asked.unwrap_or_else(|panic| Err(FileError::Failed(panic.to_string())));
        result.map_err(|error| self.lease.end().map_or(error, FileError::LeaseEnded))
    }
}

/// A writer that accepts a number of bytes, and fails after that.
struct AtMost<'a, W: ?Sized> {
    inner: &'a mut W,
    limit: u64,
    left: u64,
}

impl<W: Write + ?Sized> Write for AtMost<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            let longer = format!("the file is longer than {} bytes", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, longer));
        }
        let count = self.inner.write(bytes)?;
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A reader or writer of the caller, in the hands of an agent. Its panic is kept from the agent, to which it looks like
/// an error, and is not taken for one of the agent.
struct Guarded<'a, T: ?Sized> {
    inner: &'a mut T,
    panic: Option<Box<dyn Any + Send>>,
}

impl<'a, T: ?Sized> Guarded<'a, T> {
    fn new(inner: &'a mut T) -> Self {
        Self { inner, panic: None }
    }

    /// After a panic it is not called again. Unwind safety is asserted because the panic goes on in whoever owns it.
    fn call<R>(&mut self, call: impl FnOnce(&mut T) -> io::Result<R>) -> io::Result<R> {
        if self.panic.is_none() {
            match catch_unwind(AssertUnwindSafe(|| call(self.inner))) {
                Ok(result) => return result,
                Err(payload) => self.panic = Some(payload),
            }
        }
        Err(io::Error::other("it panicked"))
    }

    /// Lets a panic go on.
    fn release(self) {
        if let Some(payload) = self.panic {
            resume_unwind(payload);
        }
    }
}

impl<T: Read + ?Sized> Read for Guarded<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.call(|inner| inner.read(buffer))?;
        if count > buffer.len() {
            return Err(io::Error::other("it claims to have read more bytes than there was room for"));
        }
        Ok(count)
    }
}

impl<T: Write + ?Sized> Write for Guarded<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.call(|inner| inner.write(bytes))?;
        if count > bytes.len() {
            return Err(io::Error::other("it claims to have written more bytes than there were"));
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.call(|inner| inner.flush())
    }
}
