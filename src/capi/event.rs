//! Events: a queue to take them from, with a file descriptor for event loops, or a callback.

use std::convert::Infallible;
use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select_biased};
use parking_lot::Mutex;

use super::argument::{milliseconds, place};
use super::boundary::{Failure, boundary};
use super::callback::call_out;
use super::closing::Closing;
use super::code::lw_code::{self, LW_ERROR_ENDED, LW_ERROR_TIMEOUT};
use super::context::Context;
use super::given::{View, give};
use super::handle::{self, Kind};
use super::master::lw_master;
use super::readiness::Readiness;
use crate::{Event, EventKind};

/// Something that happened. From lw_events_take: free it with lw_free. In a callback: it lives until that returns.
#[repr(C)]
pub struct lw_event {
    /// How much of this structure the library has filled in: look at no field beyond.
    pub size: usize,
    /// 0, 1, 2 and so on: the order in which things happened in one master.
    pub sequence: u64,
    /// How many events this observer has missed just before this one, because it was too slow. Not exact when several
    /// threads take from the same queue: it may count events that another thread has just taken.
    pub missed: u64,
    /// When, in nanoseconds since the master was made.
    pub at_ns: u64,
    /// What happened, in snake case: "build_started", "stop_called", "substantiate_success" and so on.
    pub kind: *const c_char,
    /// The worker that it is about, or NULL.
    pub worker: *const c_char,
    /// The attempt of that worker, or 0.
    pub epoch: u64,
    /// The number of the build that it is about, or 0.
    pub build: u64,
    /// Why it happened, what went wrong, or what the driver has said, where the event has such a text; else NULL.
    pub reason: *const c_char,
    /// The event as a line for people.
    pub text: *const c_char,
    /// With "build_finished", how: "succeeded", "failed", "dropped", "cancelled" or "not_run"; else NULL.
    pub result: *const c_char,
}

/// Is called with each event, on a thread of the library that does nothing else. It may call back into the library.
pub type lw_event_callback = Option<unsafe extern "C" fn(context: *mut c_void, event: *const lw_event)>;

/// A queue of events.
pub struct lw_events {
    _opaque: [u8; 0],
}

pub(super) struct EventsCell {
    events: Receiver<Event>,
    gaps: Mutex<Gaps>,
    closing: Closing,
    readiness: Readiness,
}

impl Kind for lw_events {
    type Value = EventsCell;
    const NAME: &'static str = "a queue of events";
}

/// A callback that is called with events.
pub struct lw_observer {
    _opaque: [u8; 0],
}

impl Kind for lw_observer {
    /// Dropping it ends the thread.
    type Value = Sender<Infallible>;
    const NAME: &'static str = "an observer";
}

/// Counts what an observer has missed.
#[derive(Default)]
struct Gaps {
    next: Option<u64>,
}

impl Gaps {
    fn before(&mut self, sequence: u64) -> u64 {
        let missed = self.next.map_or(0, |next| sequence.saturating_sub(next));
        self.next = Some(self.next.unwrap_or(0).max(sequence + 1));
        missed
    }
}

fn view(event: &Event, missed: u64) -> View<lw_event> {
    let result = match &event.kind {
        EventKind::BuildFinished { result } => Some(result.name()),
        _ => None,
    };
    View::new(|texts| lw_event {
        size: size_of::<lw_event>(),
        sequence: event.sequence,
        missed,
        at_ns: u64::try_from(event.at.as_nanos()).unwrap_or(u64::MAX),
        kind: texts.text(event.kind.name()),
        worker: texts.optional(event.worker.as_deref()),
        epoch: event.epoch.map_or(0, |epoch| epoch.get()),
        build: event.build.map_or(0, |build| build.get()),
        reason: texts.optional(event.kind.reason().as_deref()),
        text: texts.text(&event.to_string()),
        result: texts.optional(result),
    })
}

/// Makes a queue of all events from now on. When capacity of them (at least 1) lie in it further ones are missed, and
/// counted; nothing ever waits for an observer. Free it with lw_events_free.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_events(
    master: *mut lw_master,
    capacity: usize,
    events: Option<&mut MaybeUninit<*mut lw_events>>,
) -> lw_code {
    boundary(|| {
        let events = place("events", events, ptr::null_mut())?;
        let master = handle::get(master)?;
        *events = handle::insert(EventsCell {
            events: master.master().events(capacity),
            closing: Closing::default(),
            gaps: Mutex::default(),
            readiness: Readiness::default(),
        });
        Ok(())
    })
}

/// Takes the oldest event; blocks until there is one, at most for timeout_ms; 0 only looks. Free it with lw_free.
///
/// LW_ERROR_TIMEOUT: no event came. LW_ERROR_ENDED: all was taken, and the master is gone with its workers, tickets and
/// leases, so that no event will come any more; or another thread frees the queue.
#[unsafe(no_mangle)]
pub extern "C" fn lw_events_take(
    events: *mut lw_events,
    timeout_ms: u64,
    event: Option<&mut MaybeUninit<*const lw_event>>,
) -> lw_code {
    boundary(|| {
        let event = place("event", event, ptr::null())?;
        let cell = handle::get(events)?;
        let taken = cell.closing.recv(&cell.events, milliseconds(timeout_ms));
        cell.readiness.after_take(&cell.events);
        let taken = taken.map_err(|error| match error {
            RecvTimeoutError::Timeout => Failure::expected(LW_ERROR_TIMEOUT, c"no event came in time"),
            RecvTimeoutError::Disconnected => Failure::expected(LW_ERROR_ENDED, c"no event will come any more"),
        })?;
        let missed = cell.gaps.lock().before(taken.sequence);
        *event = give(view(&taken, missed));
        Ok(())
    })
}

/// A file descriptor that is readable while there are events to take, and for ever when none will come any more. Unix
/// only.
///
/// Do not read, write or close it: it belongs to the queue. When it is readable, take until LW_ERROR_TIMEOUT; now and
/// then it is readable for nothing. The first call starts a thread, which ends when the queue is freed.
#[unsafe(no_mangle)]
pub extern "C" fn lw_events_fd(events: *mut lw_events, fd: Option<&mut MaybeUninit<c_int>>) -> lw_code {
    boundary(|| {
        let fd = place("fd", fd, -1)?;
        let cell = handle::get(events)?;
        *fd = cell.readiness.fd(&cell.events)?;
        Ok(())
    })
}

/// Frees a queue of events. A thread that waits in lw_events_take gets LW_ERROR_ENDED. Does not block. NULL is no
/// error.
#[unsafe(no_mangle)]
pub extern "C" fn lw_events_free(events: *mut lw_events) -> lw_code {
    boundary(|| {
        if !events.is_null() {
            handle::remove(events)?.closing.close();
        }
        Ok(())
    })
}

/// Has the callback called with every event from now on, one at a time, on a thread made for it. When the callback is
/// slower than events come, up to capacity of them (at least 1) wait and further ones are missed, and counted.
///
/// release (or NULL) is called with the context when the callback will not be called any more: after lw_observer_free,
/// or when the master is gone with its workers, tickets and leases. When this call fails it is not called. Free
/// observer with lw_observer_free in both cases.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_observe(
    master: *mut lw_master,
    capacity: usize,
    callback: lw_event_callback,
    context: *mut c_void,
    release: Option<unsafe extern "C" fn(context: *mut c_void)>,
    observer: Option<&mut MaybeUninit<*mut lw_observer>>,
) -> lw_code {
    boundary(|| {
        let observer = place("observer", observer, ptr::null_mut())?;
        let callback = callback.ok_or_else(|| Failure::argument("callback must not be NULL"))?;
        let master = handle::get(master)?;
        let events = master.master().events(capacity);
        let (end, ended) = bounded::<Infallible>(0);
        let context = Context::new(context, release);
        let observing = context.clone();
        let observe = move || {
            let mut gaps = Gaps::default();
            loop {
                let event = select_biased! {
                    recv(ended) -> _ => return,
                    recv(events) -> event => event,
                };
                let Ok(event) = event else { return };
                let view = view(&event, gaps.before(event.sequence));
                // SAFETY: the caller's promise: the callback may be called with its context on any thread until that
                // is released, which is after this.
                call_out(|| unsafe { callback(observing.pointer(), view.as_ptr()) });
            }
        };
        match thread::Builder::new().name("lw observer".to_owned()).spawn(observe) {
            Ok(_) => *observer = handle::insert(end),
            Err(error) => {
                context.keep();
                return Err(error.into());
            }
        }
        Ok(())
    })
}

/// Ends an observer. Does not block: a callback that runs goes on, and is the last one; then the context is released.
/// NULL is no error.
#[unsafe(no_mangle)]
pub extern "C" fn lw_observer_free(observer: *mut lw_observer) -> lw_code {
    boundary(|| handle::free(observer))
}
