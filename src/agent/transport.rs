//! The bytes of one connection: TCP, and TLS over it when that is wanted.
//!
//! One thread may read while another one writes; each of them waits for the socket without holding anything that the
//! other one needs. What the bytes mean is not known here.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "tls")]
use super::tls::Tls;

pub(super) struct Transport {
    tcp: Arc<TcpStream>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl Transport {
    pub(super) fn plain(tcp: Arc<TcpStream>) -> Self {
        Self {
            tcp,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Over TCP that nobody has read from or written to yet. Blocks until the peers have agreed on keys, at most until the
    /// deadline.
    #[cfg(feature = "tls")]
    pub(super) fn secure(
        tcp: Arc<TcpStream>,
        connection: impl Into<rustls::Connection>,
        deadline: Instant,
    ) -> io::Result<Self> {
        let tls = Tls::agree(&tcp, connection.into(), deadline)?;
        Ok(Self { tcp, tls: Some(tls) })
    }

    /// Reads what is there, or waits for it as long as the read time-out allows. 0 is the end. To be called by one
    /// thread at a time.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = self.read_once(buffer);
            match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What the system says when the time is over differs.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
                result => return result,
            }
        }
    }

    fn read_once(&self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.read(&self.tcp, buffer);
        }
        io::Read::read(&mut &*self.tcp, buffer)
    }

    /// As [`read`](Self::read), at most until the deadline, however short a time there is between two reads.
    pub(super) fn read_before(&self, deadline: Instant, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(time_left(deadline)?))?;
        self.read(buffer)
    }

    /// Blocks until the system has accepted all bytes, at most until the deadline, however few bytes the peer reads at
    /// a time. Must be called by one thread at a time.
    pub(super) fn write_before(&self, deadline: Instant, bytes: &[u8]) -> io::Result<()> {
        let mut tcp = WriteBefore { tcp: &self.tcp, deadline };
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.write_all(&mut tcp, bytes);
        }
        io::Write::write_all(&mut tcp, bytes)
    }

    /// Writes what the system accepts at once and returns how many bytes that was; 0 on systems where that is not
    /// possible. Never blocks. After an error it returns 0, and the next [`write_before`](Self::write_before) returns
    /// the error.
    pub(super) fn try_write(&self, bytes: &[u8]) -> usize {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return 0;
        }
        try_send(&self.tcp, bytes)
    }

    pub(super) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.tcp.set_read_timeout(Some(timeout.max(Duration::from_millis(1))))
    }

    /// Says that no more is written, as far as that can be said at once, and ends both directions. To be called by the
    /// thread that writes.
    pub(super) fn finish(&self) {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tls.say_goodbye(&self.tcp);
        }
        self.cut();
    }

    /// Ends both directions at once. Whoever reads or writes is woken.
    pub(super) fn cut(&self) {
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}

/// Blocks until the peer has sent something, without reading it. Returns an error if the connection has ended or the
/// deadline has passed.
pub(super) fn await_first_byte(tcp: &TcpStream, deadline: Instant) -> io::Result<()> {
    loop {
        tcp.set_read_timeout(Some(time_left(deadline)?))?;
        match tcp.peek(&mut [0]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
}

/// Writes to a socket until a deadline.
pub(super) struct WriteBefore<'a> {
    pub(super) tcp: &'a TcpStream,
    pub(super) deadline: Instant,
}

impl io::Write for WriteBefore<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(Some(time_left(self.deadline)?))?;
        io::Write::write(&mut &*self.tcp, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Until the deadline; an error when it is over.
pub(super) fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Beyond the end of time is far enough away.
pub(super) fn later(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration).unwrap_or_else(|| now + Duration::from_secs(1 << 30))
}

/// Lets more connections wait to be accepted than the standard library does: many agents may connect at the same time,
/// and an agent that finds the queue full tries again only a second later.
pub(super) fn listen_well(listener: &TcpListener) {
    #[cfg(unix)]
    {
        const BACKLOG: i32 = 4096;
        // The socket listens already; if this fails, only its queue is shorter.
        let _ = rustix::net::listen(listener, BACKLOG);
    }
    let _ = listener;
}

#[cfg(unix)]
fn try_send(tcp: &TcpStream, bytes: &[u8]) -> usize {
    use rustix::net::{SendFlags, send};
    #[cfg(target_vendor = "apple")]
    let flags = SendFlags::DONTWAIT;
    #[cfg(not(target_vendor = "apple"))]
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    send(tcp, bytes, flags).unwrap_or(0)
}

#[cfg(not(unix))]
fn try_send(_: &TcpStream, _: &[u8]) -> usize {
    0
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Read;
    use std::thread;

    use super::*;

    /// Each write makes progress in time, but all of them together take too long.
    #[test]
    fn a6_a_write_has_a_deadline_as_a_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let writer = Arc::new(listener.accept().unwrap().0);
        rustix::net::sockopt::set_socket_send_buffer_size(&*writer, 32 << 10).unwrap();
        let reading = thread::spawn(move || {
            let pause = crossbeam_channel::tick(Duration::from_millis(1));
            while reader.read(&mut [0; 16 << 10]).is_ok_and(|count| count > 0) {
                pause.recv().unwrap();
            }
        });
        let transport = Transport::plain(writer);
        let written = transport.write_before(later(Duration::from_millis(500)), &vec![7; 256 << 20]);
        assert!(matches!(written.unwrap_err().kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        transport.cut();
        reading.join().unwrap();
    }
}
