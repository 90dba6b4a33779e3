//! Masters: made, asked, and shut down.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::num::NonZeroU32;
use std::ptr;
use std::thread;
use std::time::Duration;

use super::argument::{Growing, choice, milliseconds, optional_structure, optional_text, place, setting_ms, text};
use super::boundary::{Failure, Result, boundary};
use super::callback;
use super::code::lw_code::{self, LW_ERROR_ARGUMENT, LW_ERROR_ENDED, LW_ERROR_TIMEOUT};
use super::given::{View, give, give_text};
use super::handle::{self, Kind};
use super::status;
use crate::{BuildId, Master, PlacementConfig, QueuePosition, ShutdownMode};

/// As the header says.
const DROP_TIMEOUT: Duration = Duration::from_secs(30);

/// Workers, and the queue of builds that wait for them.
pub struct lw_master {
    _opaque: [u8; 0],
}

impl Kind for lw_master {
    type Value = MasterCell;
    const NAME: &'static str = "a master";
}

/// A master and where its agents connect. Dropped in this order: agents are told to end before their connections go.
pub(super) struct MasterCell {
    master: Master,
    /// How long `lw_master_free` waits.
    drop_timeout: Duration,
    #[cfg(feature = "agent")]
    listener: Option<crate::AgentListener>,
}

impl MasterCell {
    pub(super) fn master(&self) -> &Master {
        &self.master
    }
}

/// Settings of a master. Set `size`, and leave zero what you do not need.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_master_options {
    /// sizeof(lw_master_options).
    pub size: usize,
    /// The path of a journal, so that nothing is forgotten when this process dies. NULL: none is kept.
    pub journal: *const c_char,
    /// Where agents of other processes and machines connect, host:port; port 0 is a free one. NULL: nowhere.
    pub listen: *const c_char,
    /// Where drivers tell agents to connect to, host:port. NULL: where the master listens, if it does.
    pub agent_address: *const c_char,
    /// The file with the certificates, PEM; connections are encrypted then. NULL: they are not. Set both this and
    /// tls_key, or neither.
    pub tls_certificates: *const c_char,
    /// The file with the private key, PEM.
    pub tls_key: *const c_char,
    /// How long lw_master_free waits for what is in flight; 0: 30 s.
    pub drop_timeout_ms: u64,
    /// How often an agent is pinged; 0: 10 s. Set both this and heartbeat_timeout_ms, or neither.
    pub heartbeat_interval_ms: u64,
    /// After how long without a word an agent is lost; 0: 30 s.
    pub heartbeat_timeout_ms: u64,
    /// How long an agent may take from its connection until it has attached; 0: 10 s.
    pub handshake_timeout_ms: u64,
    /// How long an agent may take to read each 256 KiB of what it is sent, and to send each 256 KiB of a message that
    /// is longer than 512 KiB, before it is lost; 0: 10 s.
    pub write_timeout_ms: u64,
    /// For how long an older build lets younger builds of another kind use the instances that are up, as a multiple of
    /// the expected duration of a start; 0: 6, less than 0: not at all.
    pub patience: f64,
    /// The least patience; 0: 1 s.
    pub minimum_patience_ms: u64,
    /// A build that was submitted this much earlier than another one counts as if its priority were higher by 1; 0: age
    /// decides among builds of the same priority alone.
    pub ageing_ms: u64,
    /// The pause of a build after its first failed attempt, which doubles with each further one; 0: 1 s.
    pub retry_pause_ms: u64,
    /// The longest pause; 0: 5 min.
    pub longest_retry_pause_ms: u64,
    /// How long a lease may wait to be taken out of its ticket or inbox before its build ends as abandoned; 0: 1 h.
    pub claim_timeout_ms: u64,
    /// How long the agent of an instance under LW_IDLE_NEVER may be gone while a build waits; 0: 60 s.
    pub reattach_timeout_ms: u64,
    /// The attempts at a build that does not say it itself; 0: 10.
    pub max_attempts: u32,
}

// SAFETY: numbers and raw pointers, the size first.
unsafe impl Growing for lw_master_options {}

/// How a shutdown treats running builds.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum lw_shutdown {
    /// They are waited for, and then the instances are stopped with grace.
    LW_SHUTDOWN_GRACEFUL = 0,
    /// Their leases end with LW_ERROR_LEASE_STOPPED, and the instances are stopped with `fast` set.
    LW_SHUTDOWN_FAST = 1,
}

/// What a shutdown came to. Free it with lw_free.
#[repr(C)]
pub struct lw_report {
    /// How much of this structure the library has filled in: look at no field beyond.
    pub size: usize,
    /// Whether nothing is in flight any more.
    pub complete: bool,
    /// The workers in flight and the leftovers, as text for people.
    pub text: *const c_char,
    /// The same as a JSON object: complete, in_flight (workers), reclaiming and left_behind (leftovers), text.
    pub json: *const c_char,
}

/// Makes a master and its thread. options may be NULL: then all is as by default. Free it with lw_master_free.
///
/// Opening a journal blocks for as long as the file system takes, and up to a second when somebody else has it.
/// LW_ERROR_JOURNAL: another master uses the journal, or the file is no journal, or one of another version.
/// LW_ERROR_SYSTEM: a file (the journal's too) or an address cannot be opened.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_new(
    options: *const lw_master_options,
    master: Option<&mut MaybeUninit<*mut lw_master>>,
) -> lw_code {
    boundary(|| {
        let master = place("master", master, ptr::null_mut())?;
        *master = handle::insert(master_from(&optional_structure("options", options)?)?);
        Ok(())
    })
}

fn master_from(options: &lw_master_options) -> Result<MasterCell> {
    // What is waited for is waited for by `lw_master_free`, whoever uses the master last.
    let mut builder = Master::builder().drop_timeout(Duration::ZERO).placement(placement_from(options)?);
    let drop_timeout = setting_ms(options.drop_timeout_ms).unwrap_or(DROP_TIMEOUT);
    // Before the journal is opened, which leaves a file.
    let listening = listening::prepare(options)?;
    if let Some(address) = listening.address() {
        builder = builder.agent_address(address);
    }
    if let Some(address) = optional_text("options.agent_address", options.agent_address)? {
        builder = builder.agent_address(address);
    }
    if let Some(path) = optional_text("options.journal", options.journal)? {
        builder = builder.journal(path)?;
    }
    let master = builder.build();
    listening.begin(master, drop_timeout)
}

fn placement_from(options: &lw_master_options) -> Result<PlacementConfig> {
    let mut placement = PlacementConfig::new();
    if options.patience.is_nan() {
        return Err(Failure::new(LW_ERROR_ARGUMENT, "options.patience is not a number"));
    }
    if options.patience != 0.0 {
        placement = placement.with_patience(options.patience);
    }
    if let Some(time) = setting_ms(options.minimum_patience_ms) {
        placement = placement.with_minimum_patience(time);
    } else if options.patience < 0.0 {
        placement = placement.with_minimum_patience(Duration::ZERO);
    }
    if let Some(time) = setting_ms(options.ageing_ms) {
        placement = placement.with_ageing(time);
    }
    let first = setting_ms(options.retry_pause_ms).unwrap_or(PlacementConfig::RETRY_PAUSE);
    let longest = setting_ms(options.longest_retry_pause_ms).unwrap_or(PlacementConfig::LONGEST_RETRY_PAUSE);
    placement = placement.with_retry_pause(first, longest.max(first));
    if let Some(time) = setting_ms(options.claim_timeout_ms) {
        placement = placement.with_claim_timeout(time);
    }
    if let Some(time) = setting_ms(options.reattach_timeout_ms) {
        placement = placement.with_reattach_timeout(time);
    }
    if let Some(attempts) = NonZeroU32::new(options.max_attempts) {
        placement = placement.with_max_attempts(attempts);
    }
    Ok(placement)
}

/// The listener, in a build that has one.
#[cfg(feature = "agent")]
mod listening {
    use std::net::{TcpListener, ToSocketAddrs};
    use std::time::Duration;

    use super::{MasterCell, lw_master_options};
    use crate::capi::argument::{optional_text, setting_ms};
    use crate::capi::boundary::{Failure, Result};
    use crate::{AgentListener, AgentListenerBuilder, Master};

    pub(super) struct Listening {
        builder: AgentListenerBuilder,
        sockets: Vec<TcpListener>,
    }

    pub(super) fn prepare(options: &lw_master_options) -> Result<Listening> {
        let mut builder = AgentListener::builder();
        match (setting_ms(options.heartbeat_interval_ms), setting_ms(options.heartbeat_timeout_ms)) {
            (Some(interval), Some(timeout)) => builder = builder.heartbeat(interval, timeout),
            (None, None) => {}
            _ => return Err(Failure::argument("set options.heartbeat_interval_ms and .heartbeat_timeout_ms, or none")),
        }
        if let Some(timeout) = setting_ms(options.handshake_timeout_ms) {
            builder = builder.handshake_timeout(timeout);
        }
        if let Some(timeout) = setting_ms(options.write_timeout_ms) {
            builder = builder.write_timeout(timeout);
        }
        let tls = (
            optional_text("options.tls_certificates", options.tls_certificates)?,
            optional_text("options.tls_key", options.tls_key)?,
        );
        match tls {
            #[cfg(feature = "tls")]
            (Some(certificates), Some(key)) => builder = builder.tls_from_files(certificates, key)?,
            #[cfg(not(feature = "tls"))]
            (Some(_), Some(_)) => return Err(Failure::not_built("options.tls_certificates", "tls")),
            (None, None) => {}
            _ => return Err(Failure::argument("set options.tls_certificates and .tls_key, or none")),
        }
        let mut sockets = Vec::new();
        if let Some(listen) = optional_text("options.listen", options.listen)? {
            let refused = |error| Failure::from(std::io::Error::other(format!("cannot listen on {listen}: {error}")));
            for address in listen.to_socket_addrs().map_err(refused)? {
                sockets.push(TcpListener::bind(address).map_err(refused)?);
            }
        }
        Ok(Listening { builder, sockets })
    }

    impl Listening {
        #[cfg(test)]
        pub(super) fn builder(&self) -> &AgentListenerBuilder {
            &self.builder
        }

        pub(super) fn address(&self) -> Option<String> {
            self.sockets.first()?.local_addr().ok().map(|address| address.to_string())
        }

        pub(super) fn begin(self, master: Master, drop_timeout: Duration) -> Result<MasterCell> {
            let Self { builder, sockets } = self;
            let listener = if sockets.is_empty() { None } else { Some(builder.listen_on(&master, sockets)?) };
            Ok(MasterCell { master, drop_timeout, listener })
        }
    }
}

#[cfg(not(feature = "agent"))]
mod listening {
    use std::time::Duration;

    use super::{MasterCell, lw_master_options};
    use crate::Master;
    use crate::capi::boundary::{Failure, Result};

    pub(super) struct Nothing;

    pub(super) fn prepare(options: &lw_master_options) -> Result<Nothing> {
        if options.listen.is_null() { Ok(Nothing) } else { Err(Failure::not_built("options.listen", "agent")) }
    }

    impl Nothing {
        pub(super) fn address(&self) -> Option<String> {
            None
        }

        pub(super) fn begin(self, master: Master, drop_timeout: Duration) -> Result<MasterCell> {
            Ok(MasterCell { master, drop_timeout })
        }
    }
}

/// Where the master listens, host:port, with the port that it got. Free address with lw_free. LW_ERROR_ENDED: it does
/// not listen.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_address(
    master: *mut lw_master,
    address: Option<&mut MaybeUninit<*const c_char>>,
) -> lw_code {
    boundary(|| {
        let address = place("address", address, ptr::null())?;
        let cell = handle::get(master)?;
        #[cfg(feature = "agent")]
        let listens = cell.listener.as_ref().and_then(|listener| listener.addresses().first().copied());
        #[cfg(not(feature = "agent"))]
        let listens = {
            let _ = cell;
            None::<std::net::SocketAddr>
        };
        let listens = listens.ok_or_else(|| Failure::new(LW_ERROR_ENDED, "this master does not listen"))?;
        *address = give_text(&listens.to_string());
        Ok(())
    })
}

/// What every worker is doing and why, and what may have been left behind, as a JSON object: workers, leftovers,
/// unknown_agents, journal_damage. Free json with lw_free. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_status(master: *mut lw_master, json: Option<&mut MaybeUninit<*const c_char>>) -> lw_code {
    boundary(|| {
        let json = place("json", json, ptr::null())?;
        *json = give_text(&status::master(handle::get(master)?.master()));
        Ok(())
    })
}

/// Takes something off the list of leftovers, and out of the journal, because somebody has looked after it: it is known
/// by its key. LW_ERROR_ENDED: it is not on the list. With a journal, blocks until that is durable; once a shutdown is
/// complete the journal is not told any more.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_forget_leftover(master: *mut lw_master, key: *const c_char) -> lw_code {
    boundary(|| {
        let key = text("key", key)?;
        match handle::get(master)?.master().forget_leftover(key) {
            true => Ok(()),
            false => Err(Failure::new(LW_ERROR_ENDED, format!("there is no leftover with the key {key:?}"))),
        }
    })
}

/// Lets nothing new start, answers every build that waits, and stops every instance. mode: an lw_shutdown. A graceful
/// shutdown waits for builds that run and for reclaims that are due; a fast one ends both.
///
/// Blocks until that is done, at most for limit_ms: LW_ERROR_TIMEOUT then, and the shutdown goes on; 0 does not wait.
/// report (or NULL) says in both cases what is still in flight; free it with lw_free. May be called again, to wait
/// longer or to turn a graceful shutdown into a fast one. Within a callback it does not block. Call it without an
/// interpreter's lock: it waits for callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_shutdown(
    master: *mut lw_master,
    mode: c_int,
    limit_ms: u64,
    report: Option<&mut MaybeUninit<*const lw_report>>,
) -> lw_code {
    boundary(|| {
        let report = report.map(|report| report.write(ptr::null()));
        let modes = [lw_shutdown::LW_SHUTDOWN_GRACEFUL, lw_shutdown::LW_SHUTDOWN_FAST];
        let mode = match choice("mode", mode, &modes, |mode| mode as i32)? {
            lw_shutdown::LW_SHUTDOWN_GRACEFUL => ShutdownMode::Graceful,
            lw_shutdown::LW_SHUTDOWN_FAST => ShutdownMode::Fast,
        };
        let cell = handle::get(master)?;
        let limit = if callback::is_within() { Duration::ZERO } else { milliseconds(limit_ms) };
        let outcome = cell.master.shutdown(mode, limit);
        let text = outcome.to_string();
        if let Some(report) = report {
            *report = give(View::new(|texts| lw_report {
                size: size_of::<lw_report>(),
                complete: outcome.complete,
                text: texts.text(&text),
                json: texts.text(&status::report(&outcome)),
            }));
        }
        if outcome.complete { Ok(()) } else { Err(Failure::new(LW_ERROR_TIMEOUT, text)) }
    })
}

/// Frees a master. Unless it was shut down completely, this is a fast shutdown that blocks for drop_timeout_ms at most.
/// Then it waits some seconds at most until the connections of agents have ended. Within a callback it does not block.
/// Calls on other threads, workers, tickets and leases do not keep it from the shutdown; workers, tickets and leases
/// are still to be freed. Call it without an interpreter's lock: it waits for callbacks. NULL is no error.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_free(master: *mut lw_master) -> lw_code {
    boundary(|| {
        if master.is_null() {
            return Ok(());
        }
        let cell = handle::remove(master)?;
        if !callback::is_within() {
            cell.master.shutdown(ShutdownMode::Fast, cell.drop_timeout);
            return Ok(());
        }
        cell.master.shutdown(ShutdownMode::Fast, Duration::ZERO);
        // The listener waits for its threads. Without a thread that is done here.
        let _ = thread::Builder::new().name("lw free".to_owned()).spawn(move || drop(cell));
        Ok(())
    })
}

/// Ends a build, wherever it is, as lw_ticket_cancel does. LW_ERROR_ENDED: it has ended already, or never was.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_cancel(master: *mut lw_master, build: u64) -> lw_code {
    boundary(|| {
        let cell = handle::get(master)?;
        Ok(cell.master.cancel(BuildId::from(build))?)
    })
}

/// Where a build is and, while it waits, what stands in its way, as a JSON object: id, state, history, text and more.
/// Free json with lw_free. LW_ERROR_ENDED: it has ended, or never was. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_build_status(
    master: *mut lw_master,
    build: u64,
    json: Option<&mut MaybeUninit<*const c_char>>,
) -> lw_code {
    boundary(|| {
        let json = place("json", json, ptr::null())?;
        let cell = handle::get(master)?;
        let ended = || Failure::new(LW_ERROR_ENDED, format!("build #{build} is unknown or has ended"));
        *json = give_text(&status::build(&cell.master.build_status(BuildId::from(build)).ok_or_else(ended)?));
        Ok(())
    })
}

/// A page of the builds that wait, as a JSON object: total, waiting (the best claim first), paused (builds between two
/// attempts; on the first page), next, text. limit: how many builds it has at most; 1000 at most. from: NULL for the
/// first page, or next of the page before, which is null on the last one. Free json with lw_free. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_queue(
    master: *mut lw_master,
    from: *const c_char,
    limit: usize,
    json: Option<&mut MaybeUninit<*const c_char>>,
) -> lw_code {
    boundary(|| {
        let json = place("json", json, ptr::null())?;
        let cell = handle::get(master)?;
        let from = match optional_text("from", from)? {
            Some(from) => Some(from.parse::<QueuePosition>().map_err(|error| Failure::new(LW_ERROR_ARGUMENT, error))?),
            None => None,
        };
        *json = give_text(&status::queue(&cell.master.queue(from, limit)));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros() -> lw_master_options {
        optional_structure("zeros", ptr::null()).unwrap()
    }

    #[test]
    fn a_master_is_waited_for_as_long_as_the_header_says() {
        assert_eq!(master_from(&zeros()).unwrap().drop_timeout, Duration::from_secs(30));
        let given = lw_master_options { drop_timeout_ms: 1, ..zeros() };
        assert_eq!(master_from(&given).unwrap().drop_timeout, Duration::from_millis(1));
    }

    /// What the listener shows of itself tells where each setting has gone.
    #[cfg(feature = "agent")]
    #[test]
    fn agents_have_as_long_as_the_header_says() {
        let shown = |options: &lw_master_options| format!("{:?}", listening::prepare(options).unwrap().builder());
        let with = |interval, timeout, write, handshake| {
            [
                format!("heartbeat_interval: {interval},"),
                format!("heartbeat_timeout: {timeout},"),
                format!("write_timeout: {write},"),
                format!("handshake_timeout: {handshake},"),
            ]
        };
        let given = lw_master_options {
            heartbeat_interval_ms: 1,
            heartbeat_timeout_ms: 2,
            write_timeout_ms: 3,
            handshake_timeout_ms: 4,
            ..zeros()
        };
        for (options, expected) in
            [(zeros(), with("10s", "30s", "10s", "10s")), (given, with("1ms", "2ms", "3ms", "4ms"))]
        {
            let shown = shown(&options);
            assert!(expected.iter().all(|setting| shown.contains(setting)), "{shown}");
        }
    }
}
