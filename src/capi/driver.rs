//! Drivers in the host language: a table of callbacks is made into a [`LatentWorker`].

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};
use parking_lot::Mutex;

use super::agent::{self, lw_agent, lw_attachment};
use super::argument::{Growing, Opaque, choice, milliseconds, optional_text, place, setting_ms, structure, text};
use super::boundary::{Failure, Result, boundary};
use super::build::lw_property;
use super::callback::call_out;
use super::code::lw_code::{self, LW_ERROR_HANDLE};
use super::context::Context;
use super::given::{Texts, View};
use super::handle::{self, Kind};
use super::lease::whole_ms;
use super::master::lw_master;
use super::worker::{self, lw_worker, lw_worker_options};
use crate::{Attacher, Attachment, BoxError, FailureCause, Health, LatentWorker, Leftover, Properties, Reclaimed};
use crate::{LeftoverStage, StartError, StartRequest, Started, StopError, StopRequest};

/// What the callbacks of a driver or an agent return. Any other number, and an answer that a callback does not have,
/// counts as LW_ANSWER_FAILED. A failure of a start other than LW_ANSWER_CANNOT is a failed attempt of its build, which
/// pauses and then prefers other workers. The worker goes into quarantine unless the build or its kind is to blame.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum lw_answer {
    /// start: the instance runs. stop: it is gone. check: it looks well. compatible: it fits. kind: it was said. reclaim:
    /// nothing is left. start_command: the command was started.
    LW_ANSWER_OK = 0,
    /// It did not work. start: an infrastructure failure. compatible: as LW_ANSWER_NO. kind: as LW_ANSWER_CANNOT.
    LW_ANSWER_FAILED = 1,
    /// start: the build asks for what can never be; it ends with LW_ERROR_CANNOT_SUBSTANTIATE, without retry or
    /// quarantine. kind: the same, unless another driver can make an instance for the build.
    LW_ANSWER_CANNOT = 2,
    /// start: the provider has none left of what was asked for.
    LW_ANSWER_NO_CAPACITY = 3,
    /// start: the account may not have more.
    LW_ANSWER_NO_QUOTA = 4,
    /// start: too many requests; see lw_start_retry_after.
    LW_ANSWER_THROTTLED = 5,
    /// start: the credentials are missing, wrong or expired.
    LW_ANSWER_BAD_CREDENTIALS = 6,
    /// compatible: the instance does not fit the build.
    LW_ANSWER_NO = 7,
    /// reclaim: nothing is there now, but something may still come.
    LW_ANSWER_PENDING = 8,
    /// reclaim: this driver has no means to find out. start_command: this agent runs no commands.
    LW_ANSWER_UNSUPPORTED = 9,
}

use lw_answer::*;

/// The call of a start, for as long as that lasts; some functions take it only on its own thread.
pub struct lw_start {
    _opaque: [u8; 0],
}

impl Kind for lw_start {
    type Value = StartCell;
    const NAME: &'static str = "the start of a callback that has not returned";
}

/// The call of a stop, for as long as that lasts.
pub struct lw_stop {
    _opaque: [u8; 0],
}

impl Kind for lw_stop {
    type Value = StopRequest<()>;
    const NAME: &'static str = "the stop of a callback that has not returned";
}

/// The call of a reclaim, for as long as that lasts.
pub struct lw_reclaim {
    _opaque: [u8; 0],
}

impl Kind for lw_reclaim {
    type Value = Leftover;
    const NAME: &'static str = "the reclaim of a callback that has not returned";
}

/// What a driver is told when it is to start an instance. All of it lives until the callback returns.
#[repr(C)]
pub struct lw_start_request {
    /// How much of this structure the library has filled in: look at no field beyond.
    pub size: usize,
    /// The name of the worker; the agent must attach under this name.
    pub worker: *const c_char,
    /// The number of this attempt of the worker.
    pub epoch: u64,
    /// 32 hexadecimal digits that belong to this attempt alone: for idempotent create calls, names and tags.
    pub key: *const c_char,
    /// Whose instances these are: 32 hexadecimal digits that all attempts of one master, or of one journal, share.
    pub owner: *const c_char,
    /// What the agent must prove itself with. Hand it to the instance, not to a log.
    pub secret: *const c_char,
    /// Where the agent must connect to, host:port: the master's agent_address, or where it listens. NULL: neither was
    /// set.
    pub agent_address: *const c_char,
    /// The name of the build that the instance is started for, or NULL without one.
    pub build_name: *const c_char,
    /// The properties of that build, sorted by name.
    pub properties: *const lw_property,
    /// How many there are.
    pub property_count: usize,
}

/// What a driver is told when it is to stop an instance. All of it lives until the callback returns.
#[repr(C)]
pub struct lw_stop_request {
    /// How much of this structure the library has filled in: look at no field beyond.
    pub size: usize,
    /// The name of the worker.
    pub worker: *const c_char,
    /// The attempt that started it.
    pub epoch: u64,
    /// The key of that attempt.
    pub key: *const c_char,
    /// Whose it is.
    pub owner: *const c_char,
    /// What start has returned. It is the driver's again: free what it stands for.
    pub instance: *mut c_void,
    /// Whether start has returned an instance at all. If not, it may have left something that is known by the key.
    pub has_instance: bool,
    /// Whether to skip all grace: somebody waits for the end. This is how it was when stop was called; lw_stop_hurried
    /// says how it is now.
    pub fast: bool,
}

/// An attempt that may have left something behind. All of it lives until the callback returns.
#[repr(C)]
pub struct lw_leftover {
    /// How much of this structure the library has filled in: look at no field beyond.
    pub size: usize,
    /// The name of the worker.
    pub worker: *const c_char,
    /// The number of the attempt.
    pub epoch: u64,
    /// The key of the attempt.
    pub key: *const c_char,
    /// Whose it is.
    pub owner: *const c_char,
    /// What the start has recorded, the first one first. It may have made more than that.
    pub ids: *const *const c_char,
    /// How many there are.
    pub id_count: usize,
    /// How far it had come: 0 its start may have been called, 1 it has recorded something, 2 its stop may have been
    /// called.
    pub stage: i32,
    /// How long ago the start was called, by the wall clock. When a damaged journal does not tell that: how long this
    /// master has known of the attempt.
    pub age_ms: u64,
}

/// A driver in the language of the host. Set `size`, `start` and `stop`; what else is NULL has a default.
///
/// For one worker, start, check, compatible and stop are called one at a time, all for one instance on one thread that
/// lives as long as the instance; reclaim is called on a thread of its own, and kind on any. Calls for different workers
/// run at the same time. They may block for minutes, except for kind, and may call any function of the library. Every
/// start is followed by exactly one stop, also when it failed or was cancelled. They return an lw_answer, and say why with
/// lw_set_reason before that.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_driver {
    /// sizeof(lw_driver).
    pub size: usize,
    /// Passed to every callback.
    pub context: *mut c_void,
    /// Called once when the driver will not be called any more, on any thread: when the master is gone with its
    /// workers, tickets and leases. Not called when adding the worker failed. May be NULL.
    pub release: Option<unsafe extern "C" fn(context: *mut c_void)>,
    /// Brings an instance up and returns when it runs; the agent may attach before or after that. instance is where to
    /// put what the other callbacks get; NULL is as good as any. When lw_start_cancelled turns true return soon, with
    /// the instance or a failure.
    pub start: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            start: *mut lw_start,
            request: *const lw_start_request,
            instance: *mut *mut c_void,
        ) -> i32,
    >,
    /// Stops the instance and removes everything that belongs to it. What is gone already counts as stopped. When
    /// lw_stop_hurried turns true end the instance without more grace.
    pub stop:
        Option<unsafe extern "C" fn(context: *mut c_void, stop: *mut lw_stop, request: *const lw_stop_request) -> i32>,
    /// Whether an instance whose agent has not attached yet still looks well; see also attached_check_interval_ms. NULL:
    /// always.
    pub check: Option<unsafe extern "C" fn(context: *mut c_void, instance: *mut c_void) -> i32>,
    /// Whether the running instance fits a build with these properties: LW_ANSWER_OK or LW_ANSWER_NO. Any other answer
    /// counts as LW_ANSWER_NO. NULL: always.
    pub compatible: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            instance: *mut c_void,
            properties: *const lw_property,
            property_count: usize,
        ) -> i32,
    >,
    /// Takes away what is left of an attempt, after a crash or a failed stop: by the exact key, owner and ids alone.
    /// Called again after a failure, with growing pauses. NULL: LW_ANSWER_UNSUPPORTED.
    pub reclaim: Option<
        unsafe extern "C" fn(context: *mut c_void, reclaim: *mut lw_reclaim, leftover: *const lw_leftover) -> i32,
    >,
    /// How often check is called after the agent has attached as well; 0: never; 1 to 999 count as 1000. An instance
    /// that looks bad then takes no new build, and is stopped when those that it has are done.
    pub attached_check_interval_ms: u64,
    /// The kind of instance that a build with these properties needs, said with lw_set_kind: an instance that was started
    /// for one build serves every build of the same kind, and no other. A kind should name all that the driver makes of
    /// the properties (image and memory, say), but no secret. Any answer but LW_ANSWER_OK: no instance can be made for
    /// such a build.
    ///
    /// Called about once for each distinct set of properties, on the thread that submits a build or reports a change: it
    /// must not block, and should depend on the properties alone. compatible is not called then. NULL: compatible decides,
    /// about each instance.
    pub kind: Option<
        unsafe extern "C" fn(context: *mut c_void, properties: *const lw_property, property_count: usize) -> i32,
    >,
}

// SAFETY: an integer, raw pointers and optional function pointers, the size first.
unsafe impl Growing for lw_driver {}

thread_local! {
    /// Why the callback that runs on this thread is going to return what it returns.
    static REASON: RefCell<Option<String>> = const { RefCell::new(None) };
    /// What the callback that runs on this thread has said of the kind.
    static KIND: RefCell<Option<String>> = const { RefCell::new(None) };
    /// The start that runs on this thread, and its handle.
    static CURRENT: Cell<Option<(usize, *const StartRequest<'static>)>> = const { Cell::new(None) };
}

/// What a start collects, and what it can ask for.
pub(super) struct StartCell {
    cancelled: Receiver<Infallible>,
    attacher: Attacher,
    collected: Mutex<Collected>,
}

#[derive(Default)]
struct Collected {
    details: Vec<String>,
    retry_after: Option<Duration>,
    attachments: Vec<Attachment>,
}

/// The callbacks, as a driver.
struct CallbackDriver {
    table: lw_driver,
    context: Context,
}

// SAFETY: the pointers in the table are functions that may be called on any thread, as the header says; the context is
// only passed on.
unsafe impl Send for CallbackDriver {}
// SAFETY: as above.
unsafe impl Sync for CallbackDriver {}

/// What the driver has returned for an instance, and the agents that are attached as long as it lives.
struct CallbackInstance {
    pointer: Opaque,
    _attachments: Vec<Attachment>,
}

impl lw_answer {
    const ALL: [Self; 10] = [
        LW_ANSWER_OK,
        LW_ANSWER_FAILED,
        LW_ANSWER_CANNOT,
        LW_ANSWER_NO_CAPACITY,
        LW_ANSWER_NO_QUOTA,
        LW_ANSWER_THROTTLED,
        LW_ANSWER_BAD_CREDENTIALS,
        LW_ANSWER_NO,
        LW_ANSWER_PENDING,
        LW_ANSWER_UNSUPPORTED,
    ];
}

/// Calls back, and adds what the callback has said.
pub(super) fn call_back(callback: impl FnOnce() -> i32) -> (lw_answer, String) {
    // This may be within another callback, which has its own reason.
    let before = REASON.replace(None);
    let number = call_out(callback);
    let answer = choice("the callback's answer", number, &lw_answer::ALL, |answer| answer as i32);
    let reason = REASON.replace(before);
    match answer {
        Ok(answer) => (answer, reason.unwrap_or_else(|| "no reason was given".to_owned())),
        Err(failure) => (LW_ANSWER_FAILED, reason.unwrap_or_else(|| failure.to_string())),
    }
}

/// Makes the start that runs on this thread known by a handle, until this is dropped.
struct CurrentStart {
    handle: *mut lw_start,
    cell: Arc<StartCell>,
    before: Option<(usize, *const StartRequest<'static>)>,
}

impl CurrentStart {
    fn enter(start: &StartRequest<'_>) -> Self {
        let cell = Arc::new(StartCell {
            cancelled: start.cancel_signal().clone(),
            attacher: start.attacher(),
            collected: Mutex::default(),
        });
        let handle = handle::insert_shared::<lw_start>(cell.clone());
        let erased = ptr::from_ref(start).cast::<StartRequest<'static>>();
        Self { handle, cell, before: CURRENT.replace(Some((handle.addr(), erased))) }
    }

    /// The handle is none from now on; what was collected is in what is returned.
    fn leave(self) -> Arc<StartCell> {
        self.cell.clone()
    }
}

impl Drop for CurrentStart {
    fn drop(&mut self) {
        CURRENT.set(self.before);
        // Nobody else can free it.
        let _ = handle::remove(self.handle);
    }
}

/// Uses the start that runs on this thread.
fn with_current<R>(start: *mut lw_start, work: impl FnOnce(&StartRequest<'_>) -> Result<R>) -> Result<R> {
    // So that other kinds and handles that were freed are told apart.
    handle::get(start)?;
    match CURRENT.get() {
        Some((handle, request)) if handle == start.addr() => {
            // SAFETY: the request outlives its `CurrentStart`, which has not been dropped, on this very thread.
            work(unsafe { &*request })
        }
        _ => Err(Failure::new(LW_ERROR_HANDLE, "this start runs on another thread; call this on that one")),
    }
}

fn is_disconnected(signal: &Receiver<Infallible>) -> bool {
    signal.try_recv() == Err(TryRecvError::Disconnected)
}

/// The properties as C has them. What they point to is kept by `texts`.
fn listed(texts: &mut Texts, properties: &Properties) -> Vec<lw_property> {
    let listed = properties.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    listed.map(|(name, value)| lw_property { name: texts.text(&name), value: texts.text(&value) }).collect()
}

impl LatentWorker for CallbackDriver {
    type Instance = CallbackInstance;

    fn start_instance(&self, start: &StartRequest<'_>) -> std::result::Result<Started<CallbackInstance>, StartError> {
        let callback = self.table.start.ok_or_else(|| StartError::infrastructure("the driver has no start"))?;
        let mut properties = Vec::new();
        let view = View::new(|texts| {
            properties = listed(texts, &start.properties());
            lw_start_request {
                size: size_of::<lw_start_request>(),
                worker: texts.text(start.worker()),
                epoch: start.epoch().get(),
                key: texts.text(start.key()),
                owner: texts.text(start.owner()),
                secret: texts.text(start.secret().expose()),
                agent_address: texts.optional(start.agent_address()),
                build_name: texts.optional(start.build().map(|build| &**build.name())),
                properties: properties.as_ptr(),
                property_count: properties.len(),
            }
        });
        let current = CurrentStart::enter(start);
        let mut instance = ptr::null_mut();
        let (answer, reason) = call_back(|| {
            // SAFETY: a callback of the table with its context, as the header says; all pointers outlive the call.
            unsafe { callback(self.context.pointer(), current.handle, view.as_ptr(), &raw mut instance) }
        });
        let cell = current.leave();
        let Collected { details, retry_after, attachments } = std::mem::take(&mut *cell.collected.lock());
        let cause = match answer {
            LW_ANSWER_OK => {
                let started = Started::new(CallbackInstance { pointer: Opaque(instance), _attachments: attachments });
                return Ok(details.into_iter().fold(started, Started::detail));
            }
            LW_ANSWER_CANNOT => return Err(StartError::cannot(reason)),
            LW_ANSWER_NO_CAPACITY => FailureCause::Capacity,
            LW_ANSWER_NO_QUOTA => FailureCause::Quota,
            LW_ANSWER_THROTTLED => FailureCause::Throttled { retry_after },
            LW_ANSWER_BAD_CREDENTIALS => FailureCause::Credentials,
            _ => FailureCause::Infrastructure,
        };
        Err(StartError::failed(cause, reason))
    }

    fn stop_instance(&self, mut stop: StopRequest<CallbackInstance>) -> std::result::Result<(), StopError> {
        let callback = self.table.stop.ok_or_else(|| StopError::new("the driver has no stop"))?;
        let instance = stop.take_instance();
        let view = View::new(|texts| lw_stop_request {
            size: size_of::<lw_stop_request>(),
            worker: texts.text(stop.worker()),
            epoch: stop.epoch().get(),
            key: texts.text(stop.key()),
            owner: texts.text(stop.owner()),
            instance: instance.as_ref().map_or(ptr::null_mut(), |instance| instance.pointer.0),
            has_instance: instance.is_some(),
            fast: stop.fast(),
        });
        let current = handle::insert::<lw_stop>(stop.map(|_| ()));
        let (answer, reason) = call_back(|| {
            // SAFETY: as in `start_instance`.
            unsafe { callback(self.context.pointer(), current, view.as_ptr()) }
        });
        drop(handle::remove(current));
        if answer == LW_ANSWER_OK { Ok(()) } else { Err(StopError::new(reason)) }
    }

    fn check_instance(&self, instance: &CallbackInstance) -> Health {
        let Some(callback) = self.table.check else { return Health::Good };
        let (answer, reason) = call_back(|| {
            // SAFETY: as in `start_instance`.
            unsafe { callback(self.context.pointer(), instance.pointer.0) }
        });
        if answer == LW_ANSWER_OK { Health::Good } else { Health::Bad(reason) }
    }

    fn attached_check_interval(&self) -> Option<Duration> {
        setting_ms(self.table.attached_check_interval_ms)
    }

    fn builds_may_be_incompatible(&self) -> bool {
        self.table.compatible.is_some()
    }

    fn is_compatible_with_build(
        &self,
        instance: &CallbackInstance,
        properties: &Properties,
    ) -> std::result::Result<bool, BoxError> {
        let Some(callback) = self.table.compatible else { return Ok(true) };
        let mut texts = Texts::default();
        let properties = listed(&mut texts, properties);
        let (answer, reason) = call_back(|| {
            let (pointer, count) = (properties.as_ptr(), properties.len());
            // SAFETY: as in `start_instance`.
            unsafe { callback(self.context.pointer(), instance.pointer.0, pointer, count) }
        });
        match answer {
            LW_ANSWER_OK => Ok(true),
            LW_ANSWER_NO => Ok(false),
            _ => Err(reason.into()),
        }
    }

    fn says_kinds(&self) -> bool {
        self.table.kind.is_some()
    }

    fn kind(&self, properties: &Properties) -> std::result::Result<crate::Kind, BoxError> {
        let Some(callback) = self.table.kind else { return Ok(crate::Kind::by_properties()) };
        let mut texts = Texts::default();
        let properties = listed(&mut texts, properties);
        // This may be within another callback of the kind.
        let before = KIND.replace(None);
        let (answer, reason) = call_back(|| {
            let (pointer, count) = (properties.as_ptr(), properties.len());
            // SAFETY: as in `start_instance`.
            unsafe { callback(self.context.pointer(), pointer, count) }
        });
        let said = KIND.replace(before);
        match (answer, said) {
            (LW_ANSWER_OK, Some(name)) => Ok(crate::Kind::new(name)),
            (LW_ANSWER_OK, None) => Ok(crate::Kind::by_properties()),
            _ => Err(reason.into()),
        }
    }

    fn reclaim(&self, leftover: &Leftover) -> std::result::Result<Reclaimed, StopError> {
        let Some(callback) = self.table.reclaim else { return Ok(Reclaimed::Unsupported) };
        let mut ids = Vec::new();
        let view = View::new(|texts| {
            ids = leftover.ids().map(|id| texts.text(id)).collect();
            lw_leftover {
                size: size_of::<lw_leftover>(),
                worker: texts.text(leftover.worker()),
                epoch: leftover.epoch().get(),
                key: texts.text(leftover.key()),
                owner: texts.text(leftover.owner()),
                ids: ids.as_ptr(),
                id_count: ids.len(),
                stage: match leftover.stage() {
                    LeftoverStage::Intended => 0,
                    LeftoverStage::Known => 1,
                    LeftoverStage::Stopping => 2,
                },
                age_ms: whole_ms(leftover.age()),
            }
        });
        let current = handle::insert::<lw_reclaim>(leftover.clone());
        let (answer, reason) = call_back(|| {
            // SAFETY: as in `start_instance`.
            unsafe { callback(self.context.pointer(), current, view.as_ptr()) }
        });
        drop(handle::remove(current));
        match answer {
            LW_ANSWER_OK => Ok(Reclaimed::Gone),
            LW_ANSWER_PENDING => Ok(Reclaimed::Pending),
            LW_ANSWER_UNSUPPORTED => Ok(Reclaimed::Unsupported),
            _ => Err(StopError::new(reason)),
        }
    }
}

/// Adds a worker whose driver is a table of callbacks. It costs no thread until work needs it.
///
/// The table is copied. Unless this fails, release is called when the driver will not be called any more. added may be
/// NULL, and is to be freed with lw_worker_free.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_add_driver(
    master: *mut lw_master,
    options: *const lw_worker_options,
    driver: *const lw_driver,
    added: Option<&mut MaybeUninit<*mut lw_worker>>,
) -> lw_code {
    boundary(|| {
        let mut taken = None;
        let outcome = worker::add(master, options, added, || {
            let table = structure("driver", driver)?;
            if table.start.is_none() || table.stop.is_none() {
                return Err(Failure::argument("driver.start and driver.stop must not be NULL"));
            }
            let context = Context::new(table.context, table.release);
            taken = Some(context.clone());
            Ok(CallbackDriver { table, context })
        });
        if let (Err(_), Some(context)) = (&outcome, taken) {
            context.keep();
        }
        outcome
    })
}

/// Says why the callback that runs on this thread is going to return what it returns; a text for people, which lands in
/// errors and events. NULL takes back what was said. For callbacks of drivers and agents.
#[unsafe(no_mangle)]
pub extern "C" fn lw_set_reason(reason: *const c_char) -> lw_code {
    boundary(|| {
        let reason = optional_text("reason", reason)?.map(str::to_owned);
        REASON.set(reason);
        Ok(())
    })
}

/// Says the kind of instance that the callback `kind`, which runs on this thread, is asked for: a name for people. NULL,
/// or without this call: every set of properties is a kind of its own.
#[unsafe(no_mangle)]
pub extern "C" fn lw_set_kind(name: *const c_char) -> lw_code {
    boundary(|| {
        let name = optional_text("name", name)?.map(str::to_owned);
        KIND.set(name);
        Ok(())
    })
}

/// Whether nobody waits for the instance any more. Does not block. On any thread, until the callback returns.
#[unsafe(no_mangle)]
pub extern "C" fn lw_start_cancelled(start: *mut lw_start, cancelled: Option<&mut MaybeUninit<bool>>) -> lw_code {
    boundary(|| {
        let cancelled = place("cancelled", cancelled, false)?;
        *cancelled = is_disconnected(&handle::get(start)?.cancelled);
        Ok(())
    })
}

/// Blocks for this time, and ends early with LW_ERROR_CANCELLED when the start is cancelled. Polling a provider goes
/// through this. On the thread of the callback.
#[unsafe(no_mangle)]
pub extern "C" fn lw_start_sleep(start: *mut lw_start, time_ms: u64) -> lw_code {
    boundary(|| with_current(start, |start| Ok(start.sleep(milliseconds(time_ms))?)))
}

/// Records the id of what this start has made, or is going to make, so that it is found whatever happens next; see
/// lw_leftover. An id has 1 to 4096 bytes. With a journal this blocks until the id is durable; do not use it before.
/// LW_ERROR_JOURNAL: the id is empty, too long or not durable; remove what was made, and let the start fail. On the
/// thread of the callback.
#[unsafe(no_mangle)]
pub extern "C" fn lw_start_record(start: *mut lw_start, id: *const c_char) -> lw_code {
    boundary(|| {
        let id = text("id", id)?;
        with_current(start, |start| Ok(start.record(id)?))
    })
}

/// Tells observers what the start is doing ("pulling image, 40 %"). Does not block. On the thread of the callback.
#[unsafe(no_mangle)]
pub extern "C" fn lw_start_progress(start: *mut lw_start, progress: *const c_char) -> lw_code {
    boundary(|| {
        let progress = text("progress", progress)?;
        with_current(start, |start| {
            start.progress(progress);
            Ok(())
        })
    })
}

/// Adds a short text about the instance (an id, an address) to what people are told when it has started. Does not
/// block. On any thread, until the callback returns.
#[unsafe(no_mangle)]
pub extern "C" fn lw_start_detail(start: *mut lw_start, detail: *const c_char) -> lw_code {
    boundary(|| {
        let detail = text("detail", detail)?.to_owned();
        handle::get(start)?.collected.lock().details.push(detail);
        Ok(())
    })
}

/// With LW_ANSWER_THROTTLED: how long the provider asks to wait. The worker's quarantine is at least as long, up to a
/// year. Does not block. On any thread, until the callback returns.
#[unsafe(no_mangle)]
pub extern "C" fn lw_start_retry_after(start: *mut lw_start, time_ms: u64) -> lw_code {
    boundary(|| {
        handle::get(start)?.collected.lock().retry_after = Some(milliseconds(time_ms));
        Ok(())
    })
}

/// Attaches an agent that lives in this process: from now on builds may use the instance. Does not block. On any
/// thread, until the callback returns. LW_ERROR_ATTACH: another one is attached, or nobody waits for the instance any
/// more.
///
/// agent may be NULL: then its builds run no commands. attachment may be NULL: then the agent is attached until the
/// instance is stopped. Otherwise free it to say that the agent is gone; it is to be freed also when the instance was
/// stopped. A build may use the agent before attachment is stored. When this call fails the agent is not released.
#[unsafe(no_mangle)]
pub extern "C" fn lw_start_attach(
    start: *mut lw_start,
    agent: *const lw_agent,
    attachment: Option<&mut MaybeUninit<*mut lw_attachment>>,
) -> lw_code {
    boundary(|| {
        let attachment = attachment.map(|attachment| attachment.write(ptr::null_mut()));
        let cell = handle::get(start)?;
        let attached = agent::attach(&cell.attacher, agent)?;
        match attachment {
            Some(attachment) => *attachment = agent::hand_out(attached),
            None => cell.collected.lock().attachments.push(attached),
        }
        Ok(())
    })
}

/// Whether the stop is a fast one now: end the instance without more grace. A graceful stop becomes a fast one with a
/// fast lw_worker_insubstantiate, a fast shutdown and the end of the master. Does not block. On any thread, until the
/// callback returns.
#[unsafe(no_mangle)]
pub extern "C" fn lw_stop_hurried(stop: *mut lw_stop, hurried: Option<&mut MaybeUninit<bool>>) -> lw_code {
    boundary(|| {
        let hurried = place("hurried", hurried, false)?;
        *hurried = handle::get(stop)?.fast();
        Ok(())
    })
}

/// Blocks for this time, and ends early with LW_ERROR_HURRIED when the stop is a fast one or becomes one. Whatever gives
/// an instance time to end by itself goes through this. On any thread, until the callback returns.
#[unsafe(no_mangle)]
pub extern "C" fn lw_stop_sleep(stop: *mut lw_stop, time_ms: u64) -> lw_code {
    boundary(|| Ok(handle::get(stop)?.sleep(milliseconds(time_ms))?))
}

/// Whether a fast shutdown of the master has begun: return soon, with a failure. A graceful one waits for the reclaim.
/// Does not block. On any thread, until the callback returns.
#[unsafe(no_mangle)]
pub extern "C" fn lw_reclaim_cancelled(reclaim: *mut lw_reclaim, cancelled: Option<&mut MaybeUninit<bool>>) -> lw_code {
    boundary(|| {
        let cancelled = place("cancelled", cancelled, false)?;
        *cancelled = handle::get(reclaim)?.cancelled();
        Ok(())
    })
}

/// Blocks for this time, and ends early with LW_ERROR_CANCELLED when a fast shutdown of the master begins. On any
/// thread, until the callback returns.
#[unsafe(no_mangle)]
pub extern "C" fn lw_reclaim_sleep(reclaim: *mut lw_reclaim, time_ms: u64) -> lw_code {
    boundary(|| Ok(handle::get(reclaim)?.sleep(milliseconds(time_ms))?))
}
