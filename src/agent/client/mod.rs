//! An agent that connects to a master: what `buildbot-worker` is, without Python.
//!
//! It speaks the same protocol, so that a stock Buildbot master takes it for a worker. What it does is done by an
//! [`Agent`](crate::Agent) of this process, a [`LocalAgent`](crate::LocalAgent) for one: this is the wire between that
//! and the master.
//!
//! | part | what it does |
//! |---|---|
//! | [`codec`], [`session`] | messages, and an agent's side of one connection as a value; pure |
//! | [`text`] | output as lines, for masters that want them; pure |
//! | [`backoff`] | how long to wait before the next try; pure |
//! | [`secret`] | the secret that a driver has handed over |
//! | [`handshake`] | logs in |
//! | [`connection`] | reads, and knows the commands that run |
//! | [`job`], [`transfer`] | what one command does |
//!
//! Threads: the caller's, which connects; `lw agent out`, which writes; `lw agent`: one that reads, and one for each
//! command.

mod backoff;
mod codec;
mod connection;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod handshake;
mod job;
mod secret;
mod session;
mod text;
mod transfer;

use std::convert::Infallible;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use parking_lot::Mutex;

use super::codec::MAX_COMMAND;
use super::threads::Threads;
#[cfg(feature = "tls")]
use super::tls::ClientTls;
use super::transport::{Transport, later, time_left};
use super::wire::Limits;
use crate::printable::printable;
use crate::{Agent, Secret};

use backoff::Backoff;
use codec::Info;
use connection::{Connection, Over};

/// Of the environment, what a master may know. The rest may be secrets.
const TOLD: &[&str] = &["HOME", "HOSTNAME", "LANG", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER"];
/// How long the master may take to read each 256 KiB that the agent sends, and to send each 256 KiB of a long message.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an agent that was told to end waits for the master to hear its answer; the stock worker's time.
const LINGER: Duration = Duration::from_millis(200);
/// A connection that was there for so long is taken for a good one.
const STABLE: Duration = Duration::from_secs(5);
/// How long the commands of a lost connection may take to end before a new one is tried all the same.
const COMMANDS_PATIENCE: Duration = Duration::from_secs(10);

/// An agent on this machine for a master elsewhere: it connects, and does what it is told.
///
/// It logs in to an [`AgentListener`](crate::AgentListener), or to a stock Buildbot master that listens for
/// `msgpack_experimental_v7`, with the name of a worker and its secret. What it is told is done by an
/// [`Agent`](crate::Agent). `examples/agent.rs` is a whole program.
///
#[cfg_attr(all(feature = "local", unix), doc = "```no_run")]
#[cfg_attr(not(all(feature = "local", unix)), doc = "```ignore")]
/// use latent_worker::{AgentClient, LocalAgent};
///
/// let secret = AgentClient::take_secret()?;
/// let agent = LocalAgent::in_directory("/var/tmp/build");
/// let client = AgentClient::builder("10.0.0.1:9989", "worker-1", secret).build(agent.directory(), agent.clone());
/// let end = client.run()?; // blocks until the master says so, or is gone for too long
/// println!("{end}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A connection that is lost is tried again, with pauses that grow. Commands that run when it is lost are ended at once:
/// their output has nobody to go to, and the master runs their build again. When the master has been gone for
/// [`master_timeout`](AgentClientBuilder::master_timeout), the client gives up, because an instance that nobody knows of
/// must not run, and cost, for ever.
pub struct AgentClient {
    settings: AgentClientBuilder,
    basedir: String,
    agent: Arc<dyn Agent>,
    stopper: AgentStopper,
    stopped: Receiver<Infallible>,
}

/// Settings of an [`AgentClient`].
#[derive(Clone, Debug)]
pub struct AgentClientBuilder {
    address: String,
    name: String,
    secret: Secret,
    limits: Limits,
    connect_timeout: Duration,
    backoff: Backoff,
    max_tries: Option<NonZeroU32>,
    master_timeout: Duration,
    #[cfg(feature = "tls")]
    tls: Option<ClientTls>,
}

/// Why an [`AgentClient`] has come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AgentEnd {
    /// The master has told it to shut down.
    ShutDown,
    /// It was [stopped](AgentStopper::stop) in its own process.
    Stopped,
}

impl fmt::Display for AgentEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShutDown => "the master has told the agent to shut down",
            Self::Stopped => "the agent was stopped",
        })
    }
}

/// Why an [`AgentClient`] has given up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentClientError {
    /// The master was not there for the whole of [`master_timeout`](AgentClientBuilder::master_timeout).
    #[error("the master at {address} is gone for {timeout:?}: {reason}")]
    MasterGone {
        /// Where it should be.
        address: String,
        /// How long it was waited for.
        timeout: Duration,
        /// What happened when it was tried last.
        reason: String,
    },
    /// All tries that [`max_tries`](AgentClientBuilder::max_tries) allows have failed.
    #[error("the master at {address} was tried {tries} times: {reason}")]
    TriesExhausted {
        /// Where it should be.
        address: String,
        /// How often it was tried.
        tries: u32,
        /// What happened when it was tried last.
        reason: String,
    },
}

impl AgentClientBuilder {
    /// How often the master is pinged, and after how long without a word it is gone: 10 s and 30 s by default.
    #[must_use]
    pub fn heartbeat(mut self, interval: Duration, timeout: Duration) -> Self {
        self.limits.heartbeat_interval = interval;
        self.limits.heartbeat_timeout = timeout;
        self
    }

    /// How long connecting and logging in may take; 10 s by default. Looking up the host's name is not part of it: that
    /// takes as long as the system does.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long to wait before the second try and at most before any other one, 500 ms and 30 s by default. The wait
    /// doubles each time and is shortened by up to a half, at random, so that many agents do not come back at once.
    #[must_use]
    pub fn backoff(mut self, first: Duration, most: Duration) -> Self {
        self.backoff = Backoff::new(first, most);
        self
    }

    /// How many tries in a row may fail before the client gives up; no limit by default. A connection that ends within 5 s
    /// counts as a try that failed.
    #[must_use]
    pub fn max_tries(mut self, tries: NonZeroU32) -> Self {
        self.max_tries = Some(tries);
        self
    }

    /// For how long the master may be gone before the client gives up; 10 minutes by default.
    #[must_use]
    pub fn master_timeout(mut self, timeout: Duration) -> Self {
        self.master_timeout = timeout;
        self
    }

    /// Has the connection encrypted (`wss`). The master must show a certificate for the host of the address which one of
    /// the authorities in this file has signed; their certificates are PEM, and read now. The authorities that the system
    /// trusts do not count.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    #[cfg(feature = "tls")]
    pub fn tls_trusting(mut self, authorities: impl AsRef<std::path::Path>) -> io::Result<Self> {
        self.tls = Some(ClientTls::trusting(authorities.as_ref())?);
        Ok(self)
    }

    /// A client through which the master uses `agent`. Commands run in `basedir` when they name no other directory; a
    /// relative path counts from the directory that is current now.
    pub fn build(self, basedir: impl Into<PathBuf>, agent: impl Agent) -> AgentClient {
        let basedir = basedir.into();
        let basedir = std::path::absolute(&basedir).unwrap_or(basedir).to_string_lossy().into_owned();
        let (open, stopped) = bounded(0);
        let stopper = AgentStopper { inner: Arc::new(Mutex::new(Stop { open: Some(open), socket: None })) };
        AgentClient { settings: self, basedir, agent: Arc::new(agent), stopper, stopped }
    }
}

/// Ends an [`AgentClient`] from another thread. A copy does the same.
#[derive(Clone)]
pub struct AgentStopper {
    inner: Arc<Mutex<Stop>>,
}

struct Stop {
    /// Dropped to stop.
    open: Option<Sender<Infallible>>,
    /// Of the connection that there is now.
    socket: Option<Arc<TcpStream>>,
}

impl AgentStopper {
    /// Has [`AgentClient::run`] end its commands and return soon. Does not wait; harmless when repeated.
    pub fn stop(&self) {
        let mut inner = self.inner.lock();
        inner.open = None;
        if let Some(socket) = &inner.socket {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Ends the socket: there is no connection any more.
    fn forget(&self) {
        let socket = self.inner.lock().socket.take();
        if let Some(socket) = socket {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Lets the socket be ended; false when it is to be ended already.
    fn watch(&self, socket: &Arc<TcpStream>) -> bool {
        let mut inner = self.inner.lock();
        inner.socket = Some(socket.clone());
        inner.open.is_some()
    }
}

impl fmt::Debug for AgentStopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentStopper").field("stopped", &self.inner.lock().open.is_none()).finish()
    }
}

impl AgentClient {
    /// Settings for a master at `address`, `host:port`, and the name and secret of the worker that this agent is.
    pub fn builder(address: impl Into<String>, name: impl Into<String>, secret: Secret) -> AgentClientBuilder {
        AgentClientBuilder {
            address: address.into(),
            name: name.into(),
            secret,
            limits: Limits {
                heartbeat_interval: Duration::from_secs(10),
                heartbeat_timeout: Duration::from_secs(30),
                max_message: MAX_COMMAND,
                write_timeout: WRITE_TIMEOUT,
                linger: LINGER,
            },
            connect_timeout: Duration::from_secs(10),
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
            max_tries: None,
            master_timeout: Duration::from_secs(600),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Takes the secret that the driver of this instance has passed to this process, so that the commands of builds
    /// cannot find it. Call it first in `main`, before other threads are started.
    ///
    /// The secret is read from the file that `LATENT_WORKER_SECRET_FILE` names, and the file is removed; otherwise it
    /// is the value of `LATENT_WORKER_SECRET` or `WORKERPASS`. If one of the latter two is set, on Unix this process
    /// first executes its program again, with the same arguments, process id, standard input and standard error, but
    /// without the two variables. What `main` does before this call is therefore done twice. Standard output is lost
    /// and becomes a copy of standard error.
    ///
    /// Afterwards the secret is only in the memory of this process, not in its environment, its arguments or its
    /// descriptors. This does not protect the secret from a command of the same user that attaches a debugger to this
    /// process, if the system allows that. Nor does it protect it from a command that reads the environment of a
    /// process that has started this one, such as a shell script: use `exec` there.
    ///
    /// # Errors
    ///
    /// Returns an error if no secret was passed, if the secret is empty or longer than 4096 bytes, if the file cannot
    /// be read, or if the program cannot be executed again. If the file cannot be removed, a warning is logged with the
    /// crate `log`. Symbolic links and devices are not removed.
    ///
    /// ```no_run
    /// use latent_worker::AgentClient;
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let secret = AgentClient::take_secret()?;
    ///     let master = std::env::var("LATENT_WORKER_MASTER")?;
    ///     let name = std::env::var("LATENT_WORKER_NAME")?;
    ///     AgentClient::builder(master, name, secret).build("/var/tmp/build", ()).run()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn take_secret() -> io::Result<Secret> {
        secret::take()
    }

    /// The means to end it while it runs.
    pub fn stopper(&self) -> AgentStopper {
        self.stopper.clone()
    }

    /// Connects, and does what the master says. Blocks until the master says that this is enough, the client is
    /// [stopped](AgentStopper::stop), or it gives up. Then the agent was [closed](Agent::close), and the commands that it
    /// ran were ended, or are about to end.
    ///
    /// # Errors
    /// When the master cannot be reached, or does not let the agent in, for as long or as often as the settings say.
    pub fn run(self) -> Result<AgentEnd, AgentClientError> {
        let end = self.keep_connected();
        self.agent.close();
        end
    }

    fn keep_connected(&self) -> Result<AgentEnd, AgentClientError> {
        let random = RandomState::new();
        let mut backoff = self.settings.backoff;
        let (mut failures, mut gone_since) = (0, Instant::now());
        loop {
            if self.is_stopped() {
                return Ok(AgentEnd::Stopped);
            }
            let began = Instant::now();
            let (over, attached) = self.connect_and_serve();
            let reason = match over {
                Over::Shutdown => return Ok(AgentEnd::ShutDown),
                // A master has words of its own.
                Over::Lost(reason) => printable(&reason).into_owned(),
            };
            if attached {
                log::info!("the connection to the master at {} was lost: {reason}", self.settings.address);
                gone_since = Instant::now();
            } else {
                log::debug!("the master at {} cannot be attached to: {reason}", self.settings.address);
            }
            if attached && began.elapsed() >= STABLE {
                backoff.reset();
                failures = 0;
            } else {
                failures += 1;
            }
            self.give_up_or_wait(failures, gone_since, backoff.next(random.hash_one(failures)), reason)?;
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits until the next try, or says why there is none.
    fn give_up_or_wait(
        &self,
        failures: u32,
        gone_since: Instant,
        pause: Duration,
        reason: String,
    ) -> Result<(), AgentClientError> {
        let AgentClientBuilder { address, max_tries, master_timeout, .. } = &self.settings;
        if self.is_stopped() {
            return Ok(());
        }
        if max_tries.is_some_and(|most| failures >= most.get()) {
            return Err(AgentClientError::TriesExhausted { address: address.clone(), tries: failures, reason });
        }
        let left = master_timeout.saturating_sub(gone_since.elapsed());
        let stopped = self.stopped.recv_timeout(pause.min(left)) == Err(RecvTimeoutError::Disconnected);
        if !stopped && pause >= left {
            return Err(AgentClientError::MasterGone { address: address.clone(), timeout: *master_timeout, reason });
        }
        Ok(())
    }

    /// One connection from its beginning to its end, and whether the master took us for attached.
    fn connect_and_serve(&self) -> (Over, bool) {
        let served = self.connect_and_serve_once();
        self.stopper.forget();
        served
    }

    fn connect_and_serve_once(&self) -> (Over, bool) {
        let deadline = later(self.settings.connect_timeout);
        let threads = Arc::new(Threads::default());
        match self.connect(deadline) {
            Err(reason) => (Over::Lost(reason), false),
            Ok((transport, rest)) => {
                let environment = told_environment().into();
                let processors = std::thread::available_parallelism().map_or(1, usize::from);
                let info = Info { basedir: self.basedir.clone().into(), processors, environment };
                let (agent, limits) = (self.agent.clone(), self.settings.limits);
                let connection = Connection::new(transport, limits, agent, info, threads.clone());
                let writing = connection.clone();
                if let Err(error) = threads.spawn("lw agent out", move || writing.write()) {
                    return (Over::Lost(format!("no thread for the connection: {error}")), false);
                }
                let over = connection.serve(rest, deadline);
                if !threads.wait(later(COMMANDS_PATIENCE)) {
                    log::warn!("a command goes on though its connection is lost: it could not be killed");
                }
                (over, connection.is_greeted())
            }
        }
    }

    fn connect(&self, deadline: Instant) -> Result<(Transport, Vec<u8>), String> {
        let AgentClientBuilder { address, name, secret, .. } = &self.settings;
        let socket = Arc::new(open(address, deadline).map_err(|error| error.to_string())?);
        if !self.stopper.watch(&socket) {
            return Err("stopped".to_owned());
        }
        let transport = self.transport(socket, deadline).map_err(|error| error.to_string())?;
        let host = address.replace(|c: char| c.is_whitespace() || c.is_control(), "");
        let rest =
            handshake::log_in(&transport, deadline, &host, name, secret).map_err(|refusal| refusal.to_string())?;
        Ok((transport, rest))
    }

    fn transport(&self, socket: Arc<TcpStream>, deadline: Instant) -> io::Result<Transport> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.settings.tls {
            let (host, _) = self.settings.address.rsplit_once(':').unwrap_or((&self.settings.address, ""));
            let host = host.trim_start_matches('[').trim_end_matches(']');
            return Transport::secure(socket, tls.connection(host)?, deadline);
        }
        let _ = deadline;
        Ok(Transport::plain(socket))
    }
}

/// Tries one address of the host after the other.
fn open(address: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(ErrorKind::NotFound, format!("{address:?} is no address"));
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    for (number, address) in addresses.iter().enumerate() {
        // One that does not answer must not take the time of the others.
        let share = u32::try_from(addresses.len() - number).unwrap_or(u32::MAX);
        match TcpStream::connect_timeout(address, time_left(deadline)? / share) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn told_environment() -> Vec<(String, String)> {
    TOLD.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect()
}

impl fmt::Debug for AgentClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentClient")
            .field("settings", &self.settings)
            .field("basedir", &self.basedir)
            .finish_non_exhaustive()
    }
}
