//! The way to a host: its addresses, and a connection of TCP. Every wait on it is a short one, so that a cancel ends it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};

use super::watch::stop_if_cancelled;

/// So often somebody who waits looks whether that is still wanted.
const TICK: Duration = Duration::from_millis(200);
/// An address that does not answer within this is tried again: so would the system, which sends its packet again after a
/// second (RFC 6298, 2.1).
const CONNECT_TRY: Duration = Duration::from_secs(1);

/// The addresses of hosts. The system's look-up of a name cannot be interrupted, so a thread waits for it: at most one for
/// a host in this process, however many ask.
#[derive(Debug, Default)]
pub(super) struct Lookups(());

#[derive(Clone)]
struct Lookup {
    /// Disconnected when it is over.
    over: Receiver<Infallible>,
    found: Arc<OnceLock<Result<Vec<SocketAddr>, String>>>,
}

static UNDER_WAY: LazyLock<Mutex<HashMap<String, Lookup>>> = LazyLock::new(Mutex::default);

impl Lookup {
    fn of(host_and_port: String) -> io::Result<Self> {
        let mut under_way = UNDER_WAY.lock();
        if let Some(lookup) = under_way.get(&host_and_port) {
            return Ok(lookup.clone());
        }
        let (ends, over) = bounded(0);
        let lookup = Self { over, found: Arc::default() };
        let (key, found) = (host_and_port.clone(), lookup.found.clone());
        thread::Builder::new().name("aws-lookup".into()).spawn(move || {
            let addresses = key.to_socket_addrs().map(Iterator::collect).map_err(|error| error.to_string());
            let _ = found.set(addresses);
            UNDER_WAY.lock().remove(&key);
            drop::<Sender<Infallible>>(ends);
        })?;
        under_way.insert(host_and_port, lookup.clone());
        Ok(lookup)
    }
}

impl Resolver for Lookups {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host_and_port = uri
            .scheme()
            .zip(uri.authority())
            .and_then(|(scheme, authority)| DefaultResolver::host_and_port(scheme, authority))
            .ok_or_else(|| ureq::Error::BadUri(uri.to_string()))?;
        let mut all = self.empty();
        // No thread for what is an address already.
        let found = match host_and_port.parse::<SocketAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let lookup = Lookup::of(host_and_port)?;
                let deadline = Deadline::of(&timeout);
                // Nothing is ever sent: this is a time-out, or the end.
                while lookup.over.recv_timeout(deadline.tick(TICK)?).is_err_and(|error| error.is_timeout()) {}
                let found = lookup.found.get().cloned();
                found.unwrap_or_else(|| Err("nobody looks it up".into())).map_err(io::Error::other)?
            }
        };
        found.into_iter().take(MOST_ADDRESSES).for_each(|address| all.push(address));
        if all.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(all) }
    }
}

/// What ureq has room for.
const MOST_ADDRESSES: usize = 16;

/// When a wait has lasted long enough for ureq.
struct Deadline {
    /// None: never.
    at: Option<Instant>,
    reason: ureq::Timeout,
}

impl Deadline {
    fn of(timeout: &NextTimeout) -> Self {
        // "Not happening" is a duration that no clock can hold.
        Self { at: Instant::now().checked_add(*timeout.after), reason: timeout.reason }
    }

    /// How long the next wait may last; an error when there may be none, because it is time or it was cancelled.
    fn tick(&self, most: Duration) -> Result<Duration, ureq::Error> {
        stop_if_cancelled()?;
        let left = self.at.map_or(most, |at| at.saturating_duration_since(Instant::now()));
        if left.is_zero() { Err(ureq::Error::Timeout(self.reason)) } else { Ok(left.min(most)) }
    }
}

/// Connects to the first of the addresses that answers.
#[derive(Debug)]
pub(super) struct TcpConnector;

impl<In: Transport> Connector<In> for TcpConnector {
    type Out = Either<In, Tcp>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        if chained.is_some() {
            return Ok(chained.map(Either::A));
        }
        let stream = connected(&details.addrs, &Deadline::of(&details.timeout))?;
        // Requests are written whole.
        stream.set_nodelay(true)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(Tcp { stream, buffers })))
    }
}

fn connected(addresses: &[SocketAddr], deadline: &Deadline) -> Result<TcpStream, ureq::Error> {
    loop {
        let mut refused = None;
        let mut silent = false;
        for address in addresses {
            match TcpStream::connect_timeout(address, deadline.tick(CONNECT_TRY)?) {
                Ok(stream) => return Ok(stream),
                Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => silent = true,
                Err(error) => refused = Some(error),
            }
        }
        // As long as one of them may yet answer, that is waited for.
        if !silent {
            return Err(refused.map_or(ureq::Error::HostNotFound, ureq::Error::Io));
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Tcp {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl Transport for Tcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let deadline = Deadline::of(&timeout);
        let mut output = &self.buffers.output()[..amount];
        while !output.is_empty() {
            self.stream.set_write_timeout(Some(deadline.tick(TICK)?))?;
            match (&self.stream).write(output) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(count) => output = &output[count..],
                Err(error) if is_a_pause(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let deadline = Deadline::of(&timeout);
        loop {
            self.stream.set_read_timeout(Some(deadline.tick(TICK)?))?;
            match (&self.stream).read(self.buffers.input_append_buf()) {
                Ok(count) => {
                    self.buffers.input_appended(count);
                    return Ok(count > 0);
                }
                Err(error) if is_a_pause(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether an idle connection can be used again: the peer has neither closed it nor sent what nobody asked for.
    fn is_open(&mut self) -> bool {
        let quiet = |stream: &TcpStream| {
            stream.set_nonblocking(true)?;
            let peeked = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            Ok::<_, io::Error>(peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
        };
        quiet(&self.stream).unwrap_or(false)
    }
}

fn is_a_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
