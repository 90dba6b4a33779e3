//! Where agents connect: accepts them, bounds what has not attached yet, counts what is refused, and ends everything.
//!
//! What is said on a connection is in `handshake` and `link`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::budget::Budget;
use super::connected::ConnectedAgent;
use super::handshake::{self, Credentials, Failure};
use super::handshakes::{self, Handshakes, Progress};
use super::link::{self, Link};
use super::threads::Threads;
#[cfg(feature = "tls")]
use super::tls::ServerTls;
use super::transport::{Transport, await_first_byte, later, listen_well};
use super::wire::Limits;
use crate::Master;
use crate::error::AttachError;
use crate::worker::{AttachPoint, Attachment};

/// How long accepting rests when the system has no file or memory to give.
const REST: Duration = Duration::from_millis(50);
/// The defaults of settings.
pub(super) const MAX_MESSAGE: usize = 8 << 20;
pub(super) const MESSAGE_BUDGET: usize = 64 << 20;
pub(super) const MAX_HANDSHAKES: usize = 64;
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a drop waits for the threads.
const DROP_PATIENCE: Duration = Duration::from_secs(5);

/// Where agents of other processes and machines connect: stock `buildbot-worker` 4.x with the protocol
/// `msgpack_experimental_v7`, or anything that speaks the same.
///
/// An agent logs in with the name of its worker and the secret of the attempt
/// ([`StartRequest::secret`](crate::StartRequest::secret)). It has attached when it has said who it is and has taken our
/// settings. Every wrong name or secret is counted in [`WorkerStatus::refused_agents`](crate::WorkerStatus::refused_agents) or
/// [`Master::unknown_agents`], and is an event. A worker that comes back after its attempt has ended is told to shut
/// down. The connection is not encrypted unless the feature `tls` is used: keep it in a network that you trust.
///
/// ```no_run
/// use latent_worker::{AgentListener, Master};
///
/// let master = Master::builder().agent_address("10.0.0.1:9989").build();
/// let listener = AgentListener::bind(&master, "0.0.0.0:9989")?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Drop it after the master has shut down: dropping it ends all its connections, within 5 s.
pub struct AgentListener {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
}

/// Settings of an [`AgentListener`].
#[derive(Clone, Debug)]
pub struct AgentListenerBuilder {
    link: Limits,
    message_budget: usize,
    handshake_timeout: Duration,
    max_handshakes: usize,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
}

impl Default for AgentListenerBuilder {
    fn default() -> Self {
        Self {
            link: Limits {
                heartbeat_interval: Duration::from_secs(10),
                heartbeat_timeout: Duration::from_secs(30),
                max_message: MAX_MESSAGE,
                write_timeout: WRITE_TIMEOUT,
                linger: Duration::from_secs(1),
            },
            message_budget: MESSAGE_BUDGET,
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: MAX_HANDSHAKES,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl AgentListenerBuilder {
    /// How often an agent is pinged, and after how long without a word it is lost: 10 s and 30 s by default. The second
    /// should be some times the first. While the output of a stock worker waits for its reader, nothing is read from that
    /// worker, and its silence does not count.
    #[must_use]
    pub fn heartbeat(mut self, interval: Duration, timeout: Duration) -> Self {
        self.link.heartbeat_interval = interval;
        self.link.heartbeat_timeout = timeout;
        self
    }

    /// Sets how long an agent may take to read each 256 KiB that it is sent, and to send each 256 KiB of a message that
    /// is longer than 512 KiB. An agent that takes longer is lost. 10 s by default, at least 1 ms. The limit is for
    /// these bytes as a whole, not for the pieces in which the agent reads or sends them.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.link.write_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Sets the longest message that an agent may send, 8 MiB by default. An agent that sends a longer message is lost.
    /// The stock worker sends each line of output in one message, however long the line is. Before an agent has
    /// attached, the limit is at most 1 MiB. A connection keeps the memory of its longest message.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.link.max_message = bytes;
        self
    }

    /// Sets how much memory the unfinished messages of all agents may use together, 64 MiB by default. The first 512
    /// KiB of a message do not count. A longer message takes [`max_message_size`](Self::max_message_size) of the
    /// budget, or the whole budget if that is less, until it is complete.
    ///
    /// When the budget is exhausted, the agent with the next long message waits: nothing is read from its connection
    /// until other agents have finished their messages. Agents get memory in the order in which they started to wait.
    /// No agent is lost because it waits: its silence does not count. Agents with shorter messages do not wait. An
    /// agent that holds a part of the budget is lost if it sends too slowly; see
    /// [`write_timeout`](Self::write_timeout).
    #[must_use]
    pub fn message_budget(mut self, bytes: usize) -> Self {
        self.message_budget = bytes;
        self
    }

    /// How long an agent may take from its connection until it has attached; 10 s by default.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how many connections may be open that have not logged in: 64 by default. Two more are permitted for each
    /// instance without an attached agent, up to 4096 in total. Each connection takes a thread until it has logged in,
    /// at most for the [`handshake_timeout`](Self::handshake_timeout).
    ///
    /// When the limit is exceeded, one connection of the address with the most such connections is closed: the one that
    /// has progressed the least, and the oldest of several. An address that floods the listener therefore does not keep
    /// agents from other addresses out. IPv6 addresses with the same first 64 bits count as one address.
    #[must_use]
    pub fn max_handshakes(mut self, connections: usize) -> Self {
        self.max_handshakes = connections.max(1);
        self
    }

    /// Has all connections encrypted (`wss`, TLS 1.2 or newer); not so by default. The certificate, followed by those
    /// between it and its authority, and its private key are read from these files, both PEM, now and never again.
    ///
    /// # Errors
    /// When a file cannot be read, holds no certificate or no key, or the two do not belong together.
    #[cfg(feature = "tls")]
    pub fn tls_from_files(
        mut self,
        certificates: impl AsRef<std::path::Path>,
        key: impl AsRef<std::path::Path>,
    ) -> io::Result<Self> {
        self.tls = Some(ServerTls::from_files(certificates.as_ref(), key.as_ref())?);
        Ok(self)
    }

    /// Listens on all of the addresses. Port 0 is a free one: see [`AgentListener::addresses`].
    ///
    /// The listener does not keep the master alive.
    ///
    /// # Errors
    /// When an address cannot be resolved or listened on, or the system has no thread.
    pub fn bind(self, master: &Master, addresses: impl ToSocketAddrs) -> io::Result<AgentListener> {
        let mut sockets = Vec::new();
        for address in addresses.to_socket_addrs()? {
            sockets.push(TcpListener::bind(address)?);
        }
        self.listen_on(master, sockets)
    }

    /// Listens on sockets that are bound already: so that the master can be
    /// [told](crate::MasterBuilder::agent_address) a port that the system has chosen, or because somebody else has
    /// opened them.
    ///
    /// The listener does not keep the master alive.
    ///
    /// # Errors
    /// When there is none, or the system has no thread.
    pub fn listen_on(self, master: &Master, sockets: Vec<TcpListener>) -> io::Result<AgentListener> {
        if sockets.is_empty() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "no address to listen on"));
        }
        // A thread of its own waits for each.
        sockets.iter().try_for_each(|socket| socket.set_nonblocking(false))?;
        sockets.iter().for_each(listen_well);
        let addresses = sockets.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let shared = Arc::new(Shared {
            point: master.attach_point(),
            budget: Budget::new(self.message_budget),
            settings: self,
            threads: Arc::default(),
            closing: AtomicBool::new(false),
            rest: Mutex::new(()),
            closed: Condvar::new(),
            connections: Mutex::new(Connections {
                next: 0,
                strangers: Handshakes::new(),
                arriving: HashMap::new(),
                links: HashMap::new(),
            }),
            refused: AtomicU64::new(0),
        });
        // Its drop ends those that were spawned, should one not be.
        let listener = AgentListener { shared, addresses };
        for socket in sockets {
            let shared = listener.shared.clone();
            listener.shared.threads.spawn("lw listen", move || shared.accept(&socket))?;
        }
        Ok(listener)
    }
}

/// What the threads of one listener share.
struct Shared {
    point: Arc<dyn AttachPoint>,
    settings: AgentListenerBuilder,
    budget: Arc<Budget>,
    threads: Arc<Threads>,
    closing: AtomicBool,
    rest: Mutex<()>,
    closed: Condvar,
    connections: Mutex<Connections>,
    /// Connections that ended without having logged in.
    refused: AtomicU64,
}

struct Connections {
    next: u64,
    /// The connections that have not logged in.
    strangers: Handshakes<Arc<TcpStream>>,
    /// Those that have logged in and not attached yet, by name: one at a time for each, and one that is sent away.
    arriving: HashMap<(String, Admission), Arc<TcpStream>>,
    links: HashMap<u64, Weak<Link>>,
}

/// What a peer that has logged in is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Admission {
    Attach,
    /// The attempt of its secret has ended.
    Dismiss,
}

impl AgentListener {
    /// Listens on the addresses with default settings; see [`AgentListenerBuilder::bind`].
    ///
    /// # Errors
    /// As [`AgentListenerBuilder::bind`].
    pub fn bind(master: &Master, addresses: impl ToSocketAddrs) -> io::Result<Self> {
        Self::builder().bind(master, addresses)
    }

    /// Settings to begin with.
    pub fn builder() -> AgentListenerBuilder {
        AgentListenerBuilder::default()
    }

    /// Where it listens, with the ports that it got.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How many connections were closed before they had logged in: what they sent was no request, they took too long,
    /// they made room for others, or their name and secret were refused (those are counted by the master too).
    pub fn refused_connections(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Ends all connections and takes no new ones. Waits for the threads, at most for `limit`; whether they have ended.
    /// May be repeated.
    ///
    /// Agents that are attached are lost, and are not told to end: they may come back to another listener. Shut the
    /// master down first to have them end.
    pub fn shutdown(&self, limit: Duration) -> bool {
        let shared = &self.shared;
        let deadline = later(limit);
        shared.closing.store(true, Ordering::SeqCst);
        drop(shared.rest.lock());
        shared.closed.notify_all();
        self.addresses.iter().for_each(wake);
        shared.end_connections();
        let complete = shared.threads.wait(deadline);
        if !complete {
            for link in shared.links() {
                link.break_off("the listener was shut down");
            }
        }
        complete
    }
}

impl Drop for AgentListener {
    fn drop(&mut self) {
        self.shutdown(DROP_PATIENCE);
    }
}

impl fmt::Debug for AgentListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentListener").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// A thread that waits for a connection is woken by one.
fn wake(address: &SocketAddr) {
    let mut address = *address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    // When that fails for lack of files the thread is not waiting: it rests, and then looks.
    drop(TcpStream::connect_timeout(&address, Duration::from_secs(1)));
}

impl Shared {
    /// The body of an accepting thread.
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut complained = false;
        while !self.closing.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((socket, peer)) => {
                    complained = false;
                    self.admit(socket, peer);
                }
                // The peer has thought better of it.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        log::warn!("cannot accept agents for now: {error}");
                    }
                    let mut rest = self.rest.lock();
                    if !self.closing.load(Ordering::SeqCst) {
                        self.closed.wait_for(&mut rest, REST);
                    }
                }
            }
        }
    }

    /// Gives a new connection a thread, and makes room for it.
    fn admit(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        if socket.set_nodelay(true).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let socket = Arc::new(socket);
        let number = {
            let instances = self.point.instances();
            let mut connections = self.connections.lock();
            // Looked at under the lock, behind which a shutdown ends those that it finds.
            if self.closing.load(Ordering::SeqCst) {
                return;
            }
            connections.next += 1;
            let number = connections.next;
            let expected = instances.saturating_sub(connections.links.len());
            let limit = handshakes::limit(self.settings.max_handshakes, expected);
            for other in connections.strangers.add(number, peer.ip(), socket.clone(), limit) {
                let _ = other.shutdown(Shutdown::Both);
            }
            number
        };
        let shared = self.clone();
        let spawned = self.threads.spawn("lw agent", move || shared.serve(number, socket, peer));
        if let Err(error) = spawned {
            log::warn!("no thread for the connection from {peer}: {error}");
            self.no_stranger(number);
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn no_stranger(&self, number: u64) {
        self.connections.lock().strangers.remove(number);
    }

    fn has_come(&self, number: u64, progress: Progress) {
        self.connections.lock().strangers.has_come(number, progress);
    }

    /// The body of a connection's thread.
    fn serve(self: &Arc<Self>, number: u64, socket: Arc<TcpStream>, peer: SocketAddr) {
        let deadline = Instant::now() + self.settings.handshake_timeout.min(Duration::from_secs(3600));
        let upgraded = self.transport(number, &socket, deadline).map_err(Failure::from).and_then(|transport| {
            let admit = |credentials: &Credentials| self.log_in(number, &socket, credentials);
            handshake::perform(&transport, deadline, admit).map(|upgraded| (transport, upgraded))
        });
        self.no_stranger(number);
        let (transport, upgraded) = match upgraded {
            Ok(upgraded) => upgraded,
            Err(failure) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                if !matches!(failure, Failure::Unauthorized) {
                    log::debug!("the connection from {peer} was closed: {failure}");
                }
                return;
            }
        };
        let (admission, arriving) = upgraded.admission;
        if admission == Admission::Dismiss {
            // Whether it obeys is its own business.
            let _ = link::dismiss(&transport, deadline);
            return;
        }
        let link = Link::new(transport, self.settings.link, self.budget.clone());
        self.connections.lock().links.insert(number, Arc::downgrade(&link));
        let _registered = Registered { shared: self, number, link: link.clone() };
        let writing = link.clone();
        if let Err(error) = self.threads.spawn("lw agent out", move || writing.write()) {
            log::warn!("no thread for the connection from {peer}: {error}");
            return link.break_off("there is no thread for it");
        }
        match self.attach(&link, upgraded.rest, &upgraded.credentials, peer, deadline) {
            Ok((reader, attachment)) => {
                drop(arriving);
                drop(upgraded.credentials);
                let reason = reader.run();
                // First of all: whoever waits for output is to see why there is none.
                attachment.lost(&reason);
                link.break_off_unless_ending(&reason);
                link.fail_commands();
            }
            Err(reason) => {
                log::debug!("the agent at {peer} did not attach: {reason}");
                link.break_off_unless_ending(&reason);
            }
        }
        link.settle();
    }

    /// What the connection is to be spoken over.
    fn transport(&self, number: u64, socket: &Arc<TcpStream>, deadline: Instant) -> io::Result<Transport> {
        await_first_byte(socket, deadline)?;
        self.has_come(number, Progress::Speaks);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.settings.tls {
            let transport = Transport::secure(socket.clone(), tls.connection()?, deadline)?;
            self.has_come(number, Progress::Encrypted);
            return Ok(transport);
        }
        Ok(Transport::plain(socket.clone()))
    }

    /// Asks the master about a peer. Whoever is let in makes no room for strangers any more.
    fn log_in(
        &self,
        number: u64,
        socket: &Arc<TcpStream>,
        credentials: &Credentials,
    ) -> Option<(Admission, Arriving<'_>)> {
        let admission = match self.point.knock(&credentials.name, &credentials.secret) {
            Ok(()) => Admission::Attach,
            Err(AttachError::Stale) => Admission::Dismiss,
            Err(_) => return None,
        };
        let mut connections = self.connections.lock();
        let key = (credentials.name.clone(), admission);
        match connections.arriving.entry(key.clone()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(vacant) => vacant.insert(socket.clone()),
        };
        connections.strangers.remove(number);
        Some((admission, Arriving { shared: self, key }))
    }

    fn attach(
        &self,
        link: &Arc<Link>,
        rest: Vec<u8>,
        credentials: &Credentials,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<(link::Reader, Attachment), String> {
        let reader = link.greet(rest, deadline)?;
        let agent = Arc::new(ConnectedAgent::new(link.clone(), peer));
        let attached = self.point.attach(&credentials.name, &credentials.secret, agent);
        attached.map(|attachment| (reader, attachment)).map_err(|error| error.to_string())
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.connections.lock().links.values().filter_map(Weak::upgrade).collect()
    }

    fn end_connections(&self) {
        let sockets: Vec<_> = {
            let mut connections = self.connections.lock();
            let strangers = connections.strangers.take_all();
            strangers.into_iter().chain(connections.arriving.values().cloned()).collect()
        };
        for socket in sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for link in self.links() {
            link.break_off_unless_ending("the listener was shut down");
        }
    }
}

/// A name that has logged in and not attached yet.
struct Arriving<'a> {
    shared: &'a Shared,
    key: (String, Admission),
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.shared.connections.lock().arriving.remove(&self.key);
    }
}

/// A link that a shutdown has to end.
struct Registered<'a> {
    shared: &'a Shared,
    number: u64,
    link: Arc<Link>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.connections.lock().links.remove(&self.number);
        // User code runs on this thread when an attach or its end sets something off; the writing thread must not stay
        // behind alone.
        if std::thread::panicking() {
            self.link.break_off("its thread has panicked");
        }
    }
}
