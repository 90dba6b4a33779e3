//! A socket, Unix or TCP, on which every wait ends with its call: also the one for a connection.
//!
//! Sockets do not block themselves; `poll` does, a little at a time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, sockopt};

use super::watch::Watch;

/// How long one address may leave an attempt to connect unanswered.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A Unix socket whose queue is full says so at once: how long until it is asked again.
const QUEUE_FULL: Duration = Duration::from_millis(50);
/// A peer whose machine has gone without a word is asked after this much silence whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Socket {
    descriptor: OwnedFd,
    watch: Arc<Watch>,
}

impl Socket {
    /// A path that begins with `@` is a name in Linux's abstract space.
    pub(super) fn connect_unix(path: &Path, watch: Arc<Watch>) -> io::Result<Self> {
        let address = unix_address(path)?;
        let socket = Self::new(AddressFamily::UNIX, watch)?;
        let give_up = Instant::now() + CONNECT_LIMIT;
        loop {
            match net::connect(&socket.descriptor, &address) {
                Ok(()) | Err(Errno::ISCONN) => return Ok(socket),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if Instant::now() < give_up => {
                    std::thread::sleep(socket.watch.may_wait()?.min(QUEUE_FULL));
                }
                Err(Errno::AGAIN) => return Err(io::Error::new(ErrorKind::TimedOut, "it does not take connections")),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The first of the addresses that answers.
    pub(super) fn connect_tcp(addresses: &[SocketAddr], watch: &Arc<Watch>) -> io::Result<Self> {
        let mut result = Err(io::Error::new(ErrorKind::NotFound, "the name of the host has no address"));
        for address in addresses {
            result = Self::connect_address(address, watch.clone());
            if result.is_ok() || watch.facts().interrupted.is_some() {
                break;
            }
        }
        result
    }

    fn connect_address(address: &SocketAddr, watch: Arc<Watch>) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = Self::new(family, watch)?;
        // Requests are written whole.
        sockopt::set_tcp_nodelay(&socket.descriptor, true)?;
        sockopt::set_socket_keepalive(&socket.descriptor, true)?;
        // The system's own time, two hours mostly, is better than no connection.
        let _ = sockopt::set_tcp_keepidle(&socket.descriptor, KEEP_ALIVE);
        match net::connect(&socket.descriptor, address) {
            Ok(()) => {}
            Err(Errno::INPROGRESS | Errno::INTR) => {
                socket.wait(PollFlags::OUT, Some(Instant::now() + CONNECT_LIMIT))?;
                sockopt::socket_error(&socket.descriptor)??;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(socket)
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    #[cfg(not(target_vendor = "apple"))]
    fn new(family: AddressFamily, watch: Arc<Watch>) -> io::Result<Self> {
        use net::SocketFlags;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let descriptor = net::socket_with(family, SocketType::STREAM, flags, None)?;
        Ok(Self { descriptor, watch })
    }

    #[cfg(target_vendor = "apple")]
    fn new(family: AddressFamily, watch: Arc<Watch>) -> io::Result<Self> {
        let descriptor = net::socket(family, SocketType::STREAM, None)?;
        rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        sockopt::set_socket_nosigpipe(&descriptor, true)?;
        Ok(Self { descriptor, watch })
    }

    /// Until it can be read or written, the call ends, or it has been too long.
    fn wait(&self, what: PollFlags, give_up: Option<Instant>) -> io::Result<()> {
        loop {
            let tick = self.watch.may_wait()?;
            let tick = Timespec { tv_sec: tick.as_secs() as _, tv_nsec: tick.subsec_nanos() as _ };
            let mut ready = [PollFd::new(&self.descriptor, what)];
            match poll(&mut ready, Some(&tick)) {
                Ok(0) if give_up.is_some_and(|give_up| Instant::now() >= give_up) => {
                    return Err(ErrorKind::TimedOut.into());
                }
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether an idle connection can be used again: the peer has neither closed it nor sent what nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(net::recv(&self.descriptor, &mut [0; 1], RecvFlags::PEEK), Err(Errno::AGAIN))
    }

    /// Whether the peer has sent what was not read yet.
    pub(super) fn has_input(&self) -> bool {
        matches!(net::recv(&self.descriptor, &mut [0; 1], RecvFlags::PEEK), Ok((1.., _)))
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match net::recv(&self.descriptor, &mut *buffer, RecvFlags::empty()) {
                Ok((count, _)) => {
                    if count > 0 {
                        self.watch.received();
                    }
                    // However fast the engine sends, the call can be ended.
                    self.watch.may_wait()?;
                    return Ok(count);
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, None)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(target_vendor = "apple")]
        let flags = SendFlags::empty();
        #[cfg(not(target_vendor = "apple"))]
        let flags = SendFlags::NOSIGNAL;
        self.watch.may_wait()?;
        loop {
            match net::send(&self.descriptor, bytes, flags) {
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, None)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unix_address(path: &Path) -> io::Result<SocketAddrUnix> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use std::os::unix::ffi::OsStrExt;
        if let Some(name) = path.as_os_str().as_bytes().strip_prefix(b"@") {
            return Ok(SocketAddrUnix::new_abstract_name(name)?);
        }
    }
    SocketAddrUnix::new(path).map_err(|_| io::Error::new(ErrorKind::InvalidInput, "the path is too long for a socket"))
}
