//! A proxy for HTTP/1.1 that goes wrong when a test wants it.
//!
//! `head` knows where messages begin and end, `rule` which of them a fault is for, `connection` passes them on; here is
//! who listens, and what a test holds.

mod connection;
mod head;
mod rule;
mod shared;
mod upstream;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use rule::{HttpFault, HttpRule};

use super::conformance::Injection;
use shared::{ActiveRule, Shared};
use upstream::Address;

/// How long a drop waits for the threads, whose sockets are shut by then.
const DROP_LIMIT: Duration = Duration::from_secs(5);

/// A proxy in front of an HTTP server, for tests of drivers that speak HTTP. It passes everything on unchanged, but for
/// requests that a [rule](FaultyHttp::inject) is for.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
/// use latent_worker::testing::{FaultyHttp, HttpFault, HttpRule};
///
/// // A server that has a machine made for every request.
/// let server = TcpListener::bind("127.0.0.1:0")?;
/// let proxy = FaultyHttp::to(server.local_addr()?)?;
/// std::thread::spawn(move || {
///     for stream in server.incoming() {
///         let mut stream = stream.unwrap();
///         stream.read(&mut [0; 1024]).unwrap();
///         stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
///     }
/// });
/// let create = || -> std::io::Result<String> {
///     let mut client = TcpStream::connect(proxy.address())?;
///     client.write_all(b"POST /machines HTTP/1.1\r\nHost: cloud\r\nConnection: close\r\n\r\n")?;
///     let mut answer = String::new();
///     client.read_to_string(&mut answer)?;
///     Ok(answer)
/// };
///
/// assert!(create()?.starts_with("HTTP/1.1 201"));
/// let fault = proxy.inject(HttpRule::new(HttpFault::StatusAfter(500)).method("POST").path_contains("/machines"));
/// assert!(create()?.starts_with("HTTP/1.1 500")); // it was made all the same
/// assert_eq!(fault.met(), 1);
/// drop(fault);
/// assert!(create()?.starts_with("HTTP/1.1 201"));
/// assert_eq!(proxy.requests(), ["POST /machines"; 3]);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # What it can pass on
///
/// Bodies with a length, in chunks, and until the end of the connection; answers without a body (1xx, 204, 304, to
/// `HEAD`); many exchanges on one connection, which has one connection to the server of its own; `Connection: close`;
/// and what follows an upgrade (101) or a `CONNECT`. When one side ends its half of a connection, or all of it, so does
/// the proxy on the other side: a server sees that its client has gone. Not TLS, and not HTTP/2.
///
/// Each connection has two threads, and there are at most 256 connections; more of them wait. A body is passed on as it
/// comes, in pieces of 16 KiB at most, and a head has at most 64 KiB. Dropping the proxy cuts all connections, and
/// waits up to 5 s for the threads.
pub struct FaultyHttp {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl FaultyHttp {
    /// In front of a server on TCP. Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When the address cannot be resolved, or the system has no port or no thread. That nobody listens at the address
    /// shows later: connections are cut then.
    pub fn to(server: impl ToSocketAddrs) -> io::Result<Self> {
        let mut addresses = server.to_socket_addrs()?;
        let address = addresses.next().ok_or_else(|| io::Error::other("the name of the server has no address"))?;
        Self::listen(Address::Tcp(address))
    }

    /// In front of a server on a Unix socket; see [`to`](FaultyHttp::to).
    ///
    /// # Errors
    /// When the system has no port or no thread.
    #[cfg(unix)]
    pub fn to_unix(server: impl Into<std::path::PathBuf>) -> io::Result<Self> {
        Self::listen(Address::Unix(server.into()))
    }

    fn listen(server: Address) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(server));
        let acceptor = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("faulty http accept".to_owned())
                .spawn(move || connection::accept(&listener, &shared))?
        };
        Ok(Self { shared, address, acceptor: Some(acceptor) })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts a fault in force until what is returned is dropped. Of several that fit a request, the one that was put in
    /// force first is used; one that has been used [as often as it may](HttpRule::times) lets the next one have its
    /// turn.
    pub fn inject(&self, rule: HttpRule) -> InjectedFault {
        InjectedFault { rule: self.shared.add_rule(rule), shared: self.shared.clone() }
    }

    /// Takes all faults away: from now on all goes well. What was held back goes on; what hangs is cut.
    pub fn clear(&self) {
        self.shared.clear_rules();
    }

    /// The requests that came, as `METHOD /path` without the query, in the order in which their heads were read; the
    /// last 10 000. Headers and queries may hold secrets, and are not kept.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests()
    }

    /// How many requests came.
    pub fn request_count(&self) -> u64 {
        self.shared.request_count()
    }
}

impl Drop for FaultyHttp {
    fn drop(&mut self) {
        self.shared.close();
        // The acceptor looks up when somebody comes.
        _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if self.shared.wait_until_all_threads_end(DROP_LIMIT)
            && let Some(acceptor) = self.acceptor.take()
        {
            _ = acceptor.join();
        }
    }
}

impl fmt::Debug for FaultyHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyHttp")
            .field("address", &self.address)
            .field("requests", &self.request_count())
            .finish_non_exhaustive()
    }
}

/// A fault that is in force until this is dropped.
#[must_use = "the fault is taken away when this is dropped"]
pub struct InjectedFault {
    rule: Arc<ActiveRule>,
    shared: Arc<Shared>,
}

impl InjectedFault {
    /// How many requests it was used for.
    pub fn met(&self) -> u64 {
        self.rule.used()
    }
}

impl Drop for InjectedFault {
    fn drop(&mut self) {
        self.shared.remove_rule(&self.rule);
    }
}

impl fmt::Debug for InjectedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InjectedFault").field("rule", self.rule.rule()).field("met", &self.met()).finish()
    }
}

/// The conformance kit asks how often it was met.
impl From<InjectedFault> for Injection {
    fn from(fault: InjectedFault) -> Self {
        let rule = fault.rule.clone();
        Injection::new(fault).counted(move || rule.used())
    }
}

/// Several faults that are in force together; they count as one.
impl From<Vec<InjectedFault>> for Injection {
    fn from(faults: Vec<InjectedFault>) -> Self {
        let rules: Vec<_> = faults.iter().map(|fault| fault.rule.clone()).collect();
        Injection::new(faults).counted(move || rules.iter().map(|rule| rule.used()).sum())
    }
}
