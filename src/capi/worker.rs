//! Workers: added with a driver, asked, paused, and stopped on request.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ptr;
use std::time::Duration;

use super::argument::{Growing, choice, milliseconds, place, setting_ms, structure, text, texts};
use super::boundary::{Failure, Result, boundary};
use super::callback;
use super::code::lw_code::{self, LW_ERROR_ENDED, LW_ERROR_TIMEOUT};
use super::given::give_text;
use super::handle::{self, Kind};
use super::master::lw_master;
use super::status;
use crate::{DEFAULT_IDLE_TIMEOUT, IdlePolicy, LatentWorker, Worker, WorkerConfig};

/// One worker of a master. It does not keep the master alive.
pub struct lw_worker {
    _opaque: [u8; 0],
}

impl Kind for lw_worker {
    type Value = Worker;
    const NAME: &'static str = "a worker";
}

/// When an attached instance without work is stopped.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum lw_idle {
    /// After idle_ms without work, also when it never had any.
    LW_IDLE_AFTER = 0,
    /// As soon as no build uses it after its first one: with max_builds 1 every build has a fresh instance. One that had
    /// no build yet waits 10 minutes.
    LW_IDLE_AFTER_BUILD = 1,
    /// Not because it is idle, but on request, when it fails, to make room for an instance of another kind, and at
    /// shutdown. When it loses its agent between builds, it waits missing_timeout_ms for the agent to attach again;
    /// while a build waits, the reattach_timeout_ms of the master.
    LW_IDLE_NEVER = 2,
}

/// How one worker is known and how patient it is. Set `size` and `name`, and leave zero what you do not need.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_worker_options {
    /// sizeof(lw_worker_options).
    pub size: usize,
    /// Unique within a master; without colons, control characters and invisible ones. Not NULL, and not empty.
    pub name: *const c_char,
    /// The labels that it offers.
    pub labels: *const *const c_char,
    /// How many there are.
    pub label_count: usize,
    /// How many builds may use the instance at once; 0: 1.
    pub max_builds: usize,
    /// When an idle instance is stopped: an lw_idle; 0: LW_IDLE_AFTER.
    pub idle: i32,
    /// Not used.
    pub reserved: i32,
    /// With LW_IDLE_AFTER: after how long; 0: 10 minutes.
    pub idle_ms: u64,
    /// How long the agent may take to attach, from the request for the instance on; 0: 1 hour.
    pub missing_timeout_ms: u64,
    /// The time between two checks of an instance that has not attached yet; 0: 10 s.
    pub check_interval_ms: u64,
}

// SAFETY: integers and raw pointers, the size first.
unsafe impl Growing for lw_worker_options {}

pub(super) fn config_from(options: *const lw_worker_options) -> Result<WorkerConfig> {
    let given = structure("options", options)?;
    let mut config = WorkerConfig::new(text("options.name", given.name)?);
    for label in texts("options.labels", given.labels, given.label_count)? {
        config = config.with_label(label);
    }
    if let Some(builds) = NonZeroUsize::new(given.max_builds) {
        config = config.with_max_builds(builds);
    }
    let policies = [lw_idle::LW_IDLE_AFTER, lw_idle::LW_IDLE_AFTER_BUILD, lw_idle::LW_IDLE_NEVER];
    config = config.with_idle(match choice("options.idle", given.idle, &policies, |policy| policy as i32)? {
        lw_idle::LW_IDLE_AFTER => IdlePolicy::After(setting_ms(given.idle_ms).unwrap_or(DEFAULT_IDLE_TIMEOUT)),
        lw_idle::LW_IDLE_AFTER_BUILD => IdlePolicy::AfterBuild,
        lw_idle::LW_IDLE_NEVER => IdlePolicy::Never,
    });
    if let Some(timeout) = setting_ms(given.missing_timeout_ms) {
        config = config.with_missing_timeout(timeout);
    }
    if let Some(interval) = setting_ms(given.check_interval_ms) {
        config = config.with_check_instance_interval(interval);
    }
    Ok(config)
}

/// Adds a worker with the driver that `driver` makes of its own settings.
pub(super) fn add<D: LatentWorker>(
    master: *mut lw_master,
    options: *const lw_worker_options,
    added: Option<&mut MaybeUninit<*mut lw_worker>>,
    driver: impl FnOnce() -> Result<D>,
) -> Result<()> {
    let added = added.map(|added| added.write(ptr::null_mut()));
    let cell = handle::get(master)?;
    let config = config_from(options)?;
    let worker = cell.master().add_worker(config, driver()?)?;
    // Who does not want the handle finds the worker by its name.
    if let Some(added) = added {
        *added = handle::insert(worker);
    }
    Ok(())
}

/// Finds the worker of this name. Free it with lw_worker_free. LW_ERROR_ENDED: there is none.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_worker(
    master: *mut lw_master,
    name: *const c_char,
    worker: Option<&mut MaybeUninit<*mut lw_worker>>,
) -> lw_code {
    boundary(|| {
        let worker = place("worker", worker, ptr::null_mut())?;
        let name = text("name", name)?;
        let cell = handle::get(master)?;
        let none = || Failure::new(LW_ERROR_ENDED, format!("there is no worker named {name:?}"));
        *worker = handle::insert(cell.master().worker(name).ok_or_else(none)?);
        Ok(())
    })
}

/// What the worker is doing and why, as a JSON object: name, state, epoch, call, attached, leases, waiting, next,
/// details, last_failure, text and more. Free json with lw_free. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_worker_status(worker: *mut lw_worker, json: Option<&mut MaybeUninit<*const c_char>>) -> lw_code {
    boundary(|| {
        let json = place("json", json, ptr::null())?;
        *json = give_text(&status::worker(&handle::get(worker)?.status()));
        Ok(())
    })
}

/// Takes no new builds and starts nothing until it is unpaused. Builds that run go on, and so does a start that is under
/// way; the idle policy still holds. Builds of the queue wait for other workers. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_worker_pause(worker: *mut lw_worker) -> lw_code {
    boundary(|| {
        handle::get(worker)?.pause();
        Ok(())
    })
}

/// Takes builds again: ends a pause, a quarantine, and the wait until something that was left behind is gone. Does not
/// block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_worker_unpause(worker: *mut lw_worker) -> lw_code {
    boundary(|| {
        handle::get(worker)?.unpause();
        Ok(())
    })
}

/// Stops the instance, if there is one: after its builds, or at once when fast is not 0; leases that are out end then.
/// Builds that wait in the queue may cause the next start of this worker, unless it is paused.
///
/// Blocks until it is gone, at most for timeout_ms: LW_ERROR_TIMEOUT then, and it is stopped all the same; 0 does not
/// wait, and neither does a call within a callback. Call it without an interpreter's lock: it waits for callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn lw_worker_insubstantiate(worker: *mut lw_worker, fast: c_int, timeout_ms: u64) -> lw_code {
    boundary(|| {
        let worker = handle::get(worker)?;
        let timeout = if callback::is_within() { Duration::ZERO } else { milliseconds(timeout_ms) };
        if worker.insubstantiate(fast != 0).wait_timeout(timeout) {
            return Ok(());
        }
        Err(Failure::new(LW_ERROR_TIMEOUT, format!("the instance of {} is not gone yet", worker.name())))
    })
}

/// Frees the handle of a worker; the worker stays. NULL is no error.
#[unsafe(no_mangle)]
pub extern "C" fn lw_worker_free(worker: *mut lw_worker) -> lw_code {
    boundary(|| handle::free(worker))
}
