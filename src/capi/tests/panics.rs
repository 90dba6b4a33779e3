//! A panic wherever a function has read its arguments and works with them: before the work, where a handle is looked up,
//! handed out or taken back, and where something is given out.
//!
//! Every function is called with good arguments and a panic at its first such passage, at the second one and so on, until
//! it passes without. The panic comes back as a code; nothing is left in the places, nothing leaks, and what the call was
//! about is as good as before.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::super::argument::Growing;
use super::super::{given, handle};
use super::*;

thread_local! {
    /// How many passages of this thread are still to be let through before one panics.
    static PASSAGES_LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Where a panic may be wanted: called by the library.
pub(in super::super) fn passage() {
    match PASSAGES_LEFT.get() {
        None => {}
        Some(0) => {
            PASSAGES_LEFT.set(None);
            panic!("provoked");
        }
        Some(left) => PASSAGES_LEFT.set(Some(left - 1)),
    }
}

/// What a callback calls are calls of their own, in which no panic is wanted.
fn quietly<R>(work: impl FnOnce() -> R) -> R {
    let left = PASSAGES_LEFT.take();
    let result = work();
    PASSAGES_LEFT.set(left);
    result
}

/// Something that no function leaves in a place.
trait Junk: Nothing + PartialEq + Copy {
    fn junk() -> Self;
}

impl<T> Junk for *const T {
    fn junk() -> Self {
        ptr::without_provenance(0x5a5a)
    }
}

impl<T> Junk for *mut T {
    fn junk() -> Self {
        ptr::without_provenance_mut(0x5a5a)
    }
}

macro_rules! number_as_junk {
    ($($number:ty)*) => {
        $(impl Junk for $number {
            fn junk() -> Self {
                0x5a5a
            }
        })*
    };
}
number_as_junk!(i32 u32 u64 usize);

/// The one call that is looked at.
#[derive(Default)]
struct Probe {
    /// Which passage panics; none in a call that is to go well.
    position: Option<usize>,
    has_panicked: Cell<bool>,
    live_before: Cell<(usize, usize)>,
}

struct Answer {
    code: lw_code,
    is_cleared: bool,
}

fn live() -> (usize, usize) {
    (handle::count(), given::count())
}

impl Probe {
    fn call(&self, call: impl FnOnce() -> lw_code) -> Answer {
        self.live_before.set(live());
        PASSAGES_LEFT.set(self.position);
        let code = call();
        self.has_panicked.set(PASSAGES_LEFT.take().is_none() && self.position.is_some());
        Answer { code, is_cleared: true }
    }

    /// A call with a place for its result, and what to do with that.
    fn stores<T: Junk>(
        &self,
        call: impl FnOnce(Option<&mut MaybeUninit<T>>) -> lw_code,
        take: impl FnOnce(T),
    ) -> Answer {
        let mut place = MaybeUninit::new(T::junk());
        let answer = self.call(|| call(Some(&mut place)));
        // SAFETY: it was initialised above.
        let stored = unsafe { place.assume_init() };
        if stored != T::junk() && stored != T::nothing() {
            take(stored);
        }
        Answer { is_cleared: stored == T::nothing(), ..answer }
    }

    /// A call that gives something out.
    fn gives<T>(&self, call: impl FnOnce(Option<&mut MaybeUninit<*const T>>) -> lw_code) -> Answer {
        self.stores(call, |given| assert_eq!(lw_free(given.cast()), LW_OK))
    }
}

/// What a callback does with its handle, once.
type Work<K> = Mutex<Option<Box<dyn FnOnce(*mut K) + Send>>>;

/// What the callbacks of the driver and of its agent share.
struct Host {
    /// What the next start does instead of attaching an agent.
    in_start: Work<lw_start>,
    /// What the next stop does.
    in_stop: Work<lw_stop>,
    /// What the next reclaim does; the stop fails when there is something.
    in_reclaim: Work<lw_reclaim>,
    attachments: (Sender<usize>, Receiver<usize>),
    processes: (Sender<usize>, Receiver<usize>),
}

/// # Safety
/// It is the context of a driver or an agent of a scene that is still there.
unsafe fn host<'a>(context: *mut c_void) -> &'a Host {
    // SAFETY: as above.
    unsafe { &*context.cast::<Host>() }
}

unsafe extern "C" fn start(
    context: *mut c_void,
    call: *mut lw_start,
    _: *const lw_start_request,
    _: *mut *mut c_void,
) -> i32 {
    // SAFETY: the context of a scene.
    let host = unsafe { host(context) };
    if let Some(work) = host.in_start.lock().take() {
        work(call);
        return lw_answer::LW_ANSWER_FAILED as i32;
    }
    let mut attachment = MaybeUninit::uninit();
    if lw_start_attach(call, &agent(context), Some(&mut attachment)) != LW_OK {
        // The scene is over.
        return lw_answer::LW_ANSWER_FAILED as i32;
    }
    // SAFETY: the call has stored it.
    host.attachments.0.send(unsafe { attachment.assume_init() }.addr()).unwrap();
    lw_answer::LW_ANSWER_OK as i32
}

unsafe extern "C" fn stop(context: *mut c_void, call: *mut lw_stop, _: *const lw_stop_request) -> i32 {
    // SAFETY: the context of a scene.
    let host = unsafe { host(context) };
    let work = host.in_stop.lock().take();
    if let Some(work) = work {
        work(call);
    }
    let fails = host.in_reclaim.lock().is_some();
    if fails { lw_answer::LW_ANSWER_FAILED as i32 } else { lw_answer::LW_ANSWER_OK as i32 }
}

unsafe extern "C" fn reclaim(context: *mut c_void, call: *mut lw_reclaim, _: *const lw_leftover) -> i32 {
    // SAFETY: the context of a scene.
    let work = unsafe { host(context) }.in_reclaim.lock().take();
    work.expect("a stop that failed")(call);
    lw_answer::LW_ANSWER_OK as i32
}

/// Writes something; the command "ends" ends at once, any other one when it is interrupted.
unsafe extern "C" fn start_command(context: *mut c_void, command: *const lw_command, process: *mut lw_process) -> i32 {
    quietly(|| {
        assert_eq!(lw_process_write(process, lw_stream::LW_STREAM_OUT as i32, b"text".as_ptr(), 4), LW_OK);
        // SAFETY: a command has a shell here, and it lives until this returns.
        if unsafe { CStr::from_ptr((*command).shell) } == c"ends" {
            assert_eq!(lw_process_end(process, lw_exit::LW_EXIT_CODE as i32, 0), LW_OK);
        } else {
            // SAFETY: the context of a scene.
            unsafe { host(context) }.processes.0.send(process.addr()).unwrap();
        }
    });
    lw_answer::LW_ANSWER_OK as i32
}

unsafe extern "C" fn interrupt(_: *mut c_void, process: *mut lw_process) {
    quietly(|| lw_process_end(process, lw_exit::LW_EXIT_INTERRUPTED as i32, 0));
}

unsafe extern "C" fn ignore(_: *mut c_void, _: *const lw_event) {}

/// A structure of zeros with its size.
macro_rules! growing {
    ($structure:ident { $($field:ident: $value:expr),* $(,)? }) => {
        $structure { size: size_of::<$structure>(), $($field: $value,)* ..zeros::<$structure>() }
    };
}

fn zeros<T: Growing>() -> T {
    optional_structure("zeros", ptr::null()).unwrap()
}

fn agent(context: *mut c_void) -> lw_agent {
    growing!(lw_agent { context: context, start_command: Some(start_command), interrupt: Some(interrupt) })
}

fn driver(context: *mut c_void) -> lw_driver {
    growing!(lw_driver { context: context, start: Some(start), stop: Some(stop), reclaim: Some(reclaim) })
}

fn command(shell: &CStr) -> lw_command {
    growing!(lw_command { shell: shell.as_ptr() })
}

/// What a call that must go well stores.
fn stored<T>(call: impl FnOnce(Option<&mut MaybeUninit<T>>) -> lw_code) -> T {
    let mut place = MaybeUninit::uninit();
    let code = call(Some(&mut place));
    assert_eq!(code, LW_OK, "{}", last_message());
    // SAFETY: the call has stored it.
    unsafe { place.assume_init() }
}

fn submit(master: *mut lw_master, name: &CStr) -> *mut lw_ticket {
    stored(|ticket| lw_master_submit(master, &named(name), ticket))
}

const MINUTE: u64 = 60_000;

/// One handle of each kind; NULL is one that this scene has not.
#[derive(Clone, Copy)]
struct Handles {
    master: *mut lw_master,
    worker: *mut lw_worker,
    /// Its lease was taken.
    ticket: *mut lw_ticket,
    lease: *mut lw_lease,
    /// It waits behind the first.
    waiting: *mut lw_ticket,
    inbox: *mut lw_inbox,
    events: *mut lw_events,
    observer: *mut lw_observer,
    running: *mut lw_running,
    process: *mut lw_process,
    attachment: *mut lw_attachment,
    /// On an instance that has files.
    lease_with_files: *mut lw_lease,
    text: *const c_char,
    start: *mut lw_start,
    stop: *mut lw_stop,
    reclaim: *mut lw_reclaim,
}

impl Handles {
    const NONE: Self = Self {
        master: ptr::null_mut(),
        worker: ptr::null_mut(),
        ticket: ptr::null_mut(),
        lease: ptr::null_mut(),
        waiting: ptr::null_mut(),
        inbox: ptr::null_mut(),
        events: ptr::null_mut(),
        observer: ptr::null_mut(),
        running: ptr::null_mut(),
        process: ptr::null_mut(),
        attachment: ptr::null_mut(),
        lease_with_files: ptr::null_mut(),
        text: ptr::null(),
        start: ptr::null_mut(),
        stop: ptr::null_mut(),
        reclaim: ptr::null_mut(),
    };
}

/// A master at work. All of it is given back at the end, in whatever state it is.
struct Scene {
    handles: Handles,
    host: Arc<Host>,
}

impl Scene {
    /// A master with a worker whose driver is a table of callbacks.
    fn new(name: &str) -> Self {
        let host = Arc::new(Host {
            in_start: Mutex::default(),
            in_stop: Mutex::default(),
            in_reclaim: Mutex::default(),
            attachments: unbounded(),
            processes: unbounded(),
        });
        let mut options: lw_master_options = growing!(lw_master_options {});
        if name == "lw_master_address" && cfg!(feature = "agent") {
            options.listen = c"127.0.0.1:0".as_ptr();
        }
        let master = stored(|master| lw_master_new(&options, master));
        let events = stored(|events| lw_master_events(master, 100, events));
        let options = growing!(lw_worker_options { name: c"worker".as_ptr() });
        let table = driver(Arc::as_ptr(&host).cast_mut().cast());
        let worker = stored(|worker| lw_master_add_driver(master, &options, &table, worker));
        Self { handles: Handles { master, events, worker, ..Handles::NONE }, host }
    }

    fn with_lease(mut self) -> Self {
        let scene = &mut self.handles;
        scene.ticket = submit(scene.master, c"has a lease");
        scene.lease = stored(|lease| lw_ticket_wait(scene.ticket, MINUTE, lease));
        scene.attachment = ptr::without_provenance_mut(self.host.attachments.1.recv().unwrap());
        self
    }

    /// One of everything that is there outside of callbacks.
    fn with_everything(self, name: &str) -> Self {
        let mut all = self.with_lease();
        let scene = &mut all.handles;
        scene.running = stored(|running| lw_lease_start(scene.lease, &command(c"stays"), running));
        scene.process = ptr::without_provenance_mut(all.host.processes.1.recv().unwrap());
        scene.waiting = submit(scene.master, c"waits");
        scene.inbox = stored(|inbox| lw_inbox_new(inbox));
        scene.observer =
            stored(|observer| lw_master_observe(scene.master, 1, Some(ignore), ptr::null_mut(), None, observer));
        scene.text = stored(|json| lw_master_status(scene.master, json));
        match name {
            // The next one's turn comes at once.
            "lw_ticket_wait" => assert_eq!(lw_lease_free(scene.lease), LW_OK),
            "lw_inbox_take" => {
                assert_eq!(lw_ticket_cancel(scene.waiting), LW_OK);
                let build = named(c"is answered in the inbox");
                stored(|number| lw_master_submit_to(scene.master, &build, scene.inbox, number));
                assert_eq!(lw_lease_free(scene.lease), LW_OK);
            }
            "lw_lease_write_file" | "lw_lease_read_file" => {
                assert_eq!(lw_ticket_cancel(scene.waiting), LW_OK);
                scene.make_files();
            }
            // The new worker finds nothing to do.
            name if name.starts_with("lw_master_add_") => assert_eq!(lw_ticket_cancel(scene.waiting), LW_OK),
            _ => {}
        }
        all
    }
}

impl Handles {
    fn make_files(&mut self) {
        if !cfg!(all(feature = "local", unix)) {
            return;
        }
        let labels = [c"files".as_ptr()];
        let options = growing!(lw_worker_options { name: c"local".as_ptr(), labels: labels.as_ptr(), label_count: 1 });
        assert_eq!(lw_master_add_local(self.master, &options, ptr::null(), None), LW_OK);
        let build = lw_build { labels: labels.as_ptr(), label_count: 1, ..named(c"has files") };
        let ticket = stored(|ticket| lw_master_submit(self.master, &build, ticket));
        self.lease_with_files = stored(|lease| lw_ticket_wait(ticket, MINUTE, lease));
        assert_eq!(lw_ticket_free(ticket), LW_OK);
        assert_eq!(lw_lease_write_file(self.lease_with_files, c"/dev/null".as_ptr(), c"file".as_ptr(), 0), LW_OK);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let scene = self.handles;
        // What the test has freed is told, and is no error here.
        lw_process_end(scene.process, lw_exit::LW_EXIT_CODE as i32, 0);
        lw_running_free(scene.running);
        lw_lease_free(scene.lease);
        lw_lease_free(scene.lease_with_files);
        lw_ticket_free(scene.ticket);
        lw_ticket_free(scene.waiting);
        lw_inbox_free(scene.inbox);
        lw_events_free(scene.events);
        lw_observer_free(scene.observer);
        lw_attachment_free(scene.attachment);
        lw_worker_free(scene.worker);
        lw_free(scene.text.cast());
        // Afterwards no callback uses the host any more.
        lw_master_shutdown(scene.master, lw_shutdown::LW_SHUTDOWN_FAST as i32, MINUTE, None);
        lw_master_free(scene.master);
        // Those of instances that were started later.
        for attachment in self.host.attachments.1.try_iter() {
            lw_attachment_free(ptr::without_provenance_mut(attachment));
        }
    }
}

/// Calls the function with good arguments.
fn call(name: &str, probe: &Probe, scene: &Handles) -> Answer {
    let context = ptr::null_mut();
    let build = named(c"build");
    let new_name = CString::new(format!("worker {}", unused_number())).unwrap();
    let options = growing!(lw_worker_options { name: new_name.as_ptr() });
    let words = [c"true".as_ptr()];
    let freed = |worker| assert_eq!(lw_worker_free(worker), LW_OK);
    match name {
        "lw_abi_version" => probe.stores(|version| lw_abi_version(version), drop),
        "lw_free" => probe.call(|| lw_free(scene.text.cast())),
        "lw_live" => {
            let (mut handles, mut given) = (MaybeUninit::new(7), MaybeUninit::new(7));
            let answer = probe.call(|| lw_live(Some(&mut handles), Some(&mut given)));
            // SAFETY: both are initialised.
            Answer { is_cleared: unsafe { (handles.assume_init(), given.assume_init()) } == (0, 0), ..answer }
        }
        "lw_has_feature" => probe.stores(|has| lw_has_feature(c"local".as_ptr(), has), drop::<c_int>),
        "lw_set_reason" => probe.call(|| lw_set_reason(c"reason".as_ptr())),
        "lw_set_kind" => probe.call(|| lw_set_kind(c"kind".as_ptr())),

        "lw_master_new" => probe
            .stores(|master| lw_master_new(ptr::null(), master), |master| assert_eq!(lw_master_free(master), LW_OK)),
        "lw_master_address" => probe.gives(|address| lw_master_address(scene.master, address)),
        "lw_master_status" => probe.gives(|json| lw_master_status(scene.master, json)),
        "lw_master_queue" => probe.gives(|json| lw_master_queue(scene.master, ptr::null(), 10, json)),
        "lw_master_build_status" => probe.gives(|json| lw_master_build_status(scene.master, 2, json)),
        "lw_master_forget_leftover" => probe.call(|| lw_master_forget_leftover(scene.master, c"key".as_ptr())),
        "lw_master_cancel" => probe.call(|| lw_master_cancel(scene.master, 2)),
        "lw_master_shutdown" => {
            let graceful = lw_shutdown::LW_SHUTDOWN_GRACEFUL as i32;
            probe.gives(|report| lw_master_shutdown(scene.master, graceful, 0, report))
        }
        "lw_master_free" => probe.call(|| lw_master_free(scene.master)),

        "lw_master_worker" => probe.stores(|worker| lw_master_worker(scene.master, c"worker".as_ptr(), worker), freed),
        "lw_worker_status" => probe.gives(|json| lw_worker_status(scene.worker, json)),
        "lw_worker_pause" => probe.call(|| lw_worker_pause(scene.worker)),
        "lw_worker_unpause" => probe.call(|| lw_worker_unpause(scene.worker)),
        "lw_worker_insubstantiate" => probe.call(|| lw_worker_insubstantiate(scene.worker, 1, MINUTE)),
        "lw_worker_free" => probe.call(|| lw_worker_free(scene.worker)),

        "lw_master_add_driver" => {
            let table = driver(context);
            probe.stores(|worker| lw_master_add_driver(scene.master, &options, &table, worker), freed)
        }
        "lw_master_add_local" => {
            probe.stores(|worker| lw_master_add_local(scene.master, &options, ptr::null(), worker), freed)
        }
        "lw_master_add_command" => {
            let (start, stop) = (words.as_ptr(), words.as_ptr());
            let table = growing!(lw_command_options { start: start, start_count: 1, stop: stop, stop_count: 1 });
            probe.stores(|worker| lw_master_add_command(scene.master, &options, &table, worker), freed)
        }
        "lw_master_add_process" => {
            let table = growing!(lw_process_options { agent: words.as_ptr(), agent_count: 1 });
            probe.stores(|worker| lw_master_add_process(scene.master, &options, &table, worker), freed)
        }
        "lw_master_add_docker" => {
            let settings = cr#"{"image": "agent"}"#.as_ptr();
            probe.stores(|worker| lw_master_add_docker(scene.master, &options, settings, worker), freed)
        }
        "lw_master_add_ec2" => {
            let settings = cr#"{"image": "ami-0123456789abcdef0", "offers": ["c7i.large"]}"#.as_ptr();
            probe.stores(|worker| lw_master_add_ec2(scene.master, &options, settings, worker), freed)
        }

        "lw_master_submit" => probe.stores(
            |ticket| lw_master_submit(scene.master, &build, ticket),
            |ticket| assert_eq!(lw_ticket_free(ticket), LW_OK),
        ),
        "lw_ticket_build" => probe.stores(|number| lw_ticket_build(scene.ticket, number), drop),
        "lw_ticket_wait" => probe.stores(
            |lease| lw_ticket_wait(scene.waiting, MINUTE, lease),
            |lease| assert_eq!(lw_lease_free(lease), LW_OK),
        ),
        "lw_ticket_cancel" => probe.call(|| lw_ticket_cancel(scene.waiting)),
        "lw_ticket_free" => probe.call(|| lw_ticket_free(scene.waiting)),
        "lw_inbox_new" => probe.stores(|inbox| lw_inbox_new(inbox), |inbox| assert_eq!(lw_inbox_free(inbox), LW_OK)),
        "lw_master_submit_to" => {
            probe.stores(|number| lw_master_submit_to(scene.master, &build, scene.inbox, number), drop)
        }
        "lw_inbox_take" => {
            // A lease that was lost has no second answer to wait for.
            let wait = if probe.position.is_some() { MINUTE } else { 0 };
            let mut number = MaybeUninit::new(u64::junk());
            let answer = probe.stores(
                |lease| lw_inbox_take(scene.inbox, wait, Some(&mut number), lease),
                |lease| assert_eq!(lw_lease_free(lease), LW_OK),
            );
            // With a number the code is the build's answer.
            // SAFETY: it is initialised.
            let number = unsafe { number.assume_init() };
            let is_cleared = answer.is_cleared && number == if probe.position == Some(2) { 3 } else { 0 };
            Answer { is_cleared, ..answer }
        }
        "lw_inbox_fd" => probe.call(|| {
            let mut fd = MaybeUninit::new(c_int::junk());
            let code = lw_inbox_fd(scene.inbox, Some(&mut fd));
            // SAFETY: it is initialised.
            let fd = unsafe { fd.assume_init() };
            assert_eq!(fd == -1, code != LW_OK && probe.position != Some(0), "{fd} {code:?}");
            code
        }),
        "lw_inbox_free" => probe.call(|| lw_inbox_free(scene.inbox)),

        "lw_lease_get_info" => probe.gives(|info| lw_lease_get_info(scene.lease, info)),
        "lw_lease_wait_end" => probe.call(|| lw_lease_wait_end(scene.lease, 0)),
        "lw_lease_run" => probe.gives(|finished| lw_lease_run(scene.lease, &command(c"ends"), finished)),
        "lw_lease_start" => probe.stores(
            |running| lw_lease_start(scene.lease, &command(c"ends"), running),
            |running| assert_eq!(lw_running_free(running), LW_OK),
        ),
        "lw_running_read" => {
            let mut buffer = [0; 8];
            let mut output = lw_output { stream: 7, length: 7, ..growing!(lw_output {}) };
            let read = || lw_running_read(scene.running, MINUTE, buffer.as_mut_ptr(), buffer.len(), &mut output);
            let answer = probe.call(read);
            Answer { is_cleared: (output.stream, output.length) == (0, 0), ..answer }
        }
        "lw_running_interrupt" => probe.call(|| lw_running_interrupt(scene.running)),
        "lw_running_free" => probe.call(|| lw_running_free(scene.running)),
        "lw_lease_write_file" => {
            let (from, to) = (c"/dev/null".as_ptr(), c"file".as_ptr());
            probe.call(|| lw_lease_write_file(scene.lease_with_files, from, to, 0))
        }
        "lw_lease_read_file" => {
            let (from, to) = (c"file".as_ptr(), c"/dev/null".as_ptr());
            probe.call(|| lw_lease_read_file(scene.lease_with_files, from, to))
        }
        "lw_lease_finish" => {
            let succeeded = lw_result::LW_RESULT_SUCCEEDED as i32;
            probe.call(|| lw_lease_finish(scene.lease, succeeded, ptr::null()))
        }
        "lw_lease_retire" => probe.call(|| lw_lease_retire(scene.lease, ptr::null())),
        "lw_lease_retry" => probe.call(|| lw_lease_retry(scene.lease, ptr::null())),
        "lw_lease_free" => probe.call(|| lw_lease_free(scene.lease)),
        "lw_lease_agent" => probe.stores(|context| lw_lease_agent(scene.lease, context), drop),

        "lw_process_write" => {
            let out = lw_stream::LW_STREAM_OUT as i32;
            probe.call(|| lw_process_write(scene.process, out, b"more".as_ptr(), 4))
        }
        "lw_process_end" => probe.call(|| lw_process_end(scene.process, lw_exit::LW_EXIT_CODE as i32, 0)),
        "lw_process_fail" => probe.call(|| lw_process_fail(scene.process, ptr::null())),
        "lw_attachment_lost" => probe.call(|| lw_attachment_lost(scene.attachment, ptr::null())),
        "lw_attachment_free" => probe.call(|| lw_attachment_free(scene.attachment)),

        "lw_master_events" => probe.stores(
            |events| lw_master_events(scene.master, 1, events),
            |events| assert_eq!(lw_events_free(events), LW_OK),
        ),
        "lw_events_take" => probe.gives(|event| lw_events_take(scene.events, MINUTE, event)),
        "lw_events_fd" => probe.call(|| {
            let mut fd = MaybeUninit::new(c_int::junk());
            let code = lw_events_fd(scene.events, Some(&mut fd));
            // SAFETY: it is initialised.
            let fd = unsafe { fd.assume_init() };
            assert_eq!(fd == -1, code != LW_OK && probe.position != Some(0), "{fd} {code:?}");
            code
        }),
        "lw_events_free" => probe.call(|| lw_events_free(scene.events)),
        "lw_master_observe" => probe.stores(
            |observer| lw_master_observe(scene.master, 1, Some(ignore), context, None, observer),
            |observer| assert_eq!(lw_observer_free(observer), LW_OK),
        ),
        "lw_observer_free" => probe.call(|| lw_observer_free(scene.observer)),

        "lw_start_cancelled" => probe.call(|| {
            let mut cancelled = MaybeUninit::new(true);
            let code = lw_start_cancelled(scene.start, Some(&mut cancelled));
            // SAFETY: it is initialised.
            assert_eq!(unsafe { cancelled.assume_init() }, probe.position == Some(0));
            code
        }),
        "lw_start_sleep" => probe.call(|| lw_start_sleep(scene.start, 0)),
        "lw_start_record" => probe.call(|| lw_start_record(scene.start, c"id".as_ptr())),
        "lw_start_progress" => probe.call(|| lw_start_progress(scene.start, c"text".as_ptr())),
        "lw_start_detail" => probe.call(|| lw_start_detail(scene.start, c"text".as_ptr())),
        "lw_start_retry_after" => probe.call(|| lw_start_retry_after(scene.start, 1)),
        "lw_start_attach" => probe.stores(
            |attachment| lw_start_attach(scene.start, &agent(context), attachment),
            |attachment| assert_eq!(lw_attachment_free(attachment), LW_OK),
        ),
        "lw_stop_hurried" => probe.call(|| {
            let mut hurried = MaybeUninit::new(true);
            let code = lw_stop_hurried(scene.stop, Some(&mut hurried));
            // SAFETY: it is initialised.
            assert_eq!(unsafe { hurried.assume_init() }, probe.position == Some(0));
            code
        }),
        "lw_stop_sleep" => probe.call(|| lw_stop_sleep(scene.stop, 0)),
        "lw_reclaim_cancelled" => probe.call(|| {
            let mut cancelled = MaybeUninit::new(true);
            let code = lw_reclaim_cancelled(scene.reclaim, Some(&mut cancelled));
            // SAFETY: it is initialised.
            assert_eq!(unsafe { cancelled.assume_init() }, probe.position == Some(0));
            code
        }),
        "lw_reclaim_sleep" => probe.call(|| lw_reclaim_sleep(scene.reclaim, 0)),
        _ => panic!("{name}: there is no call with good arguments"),
    }
}

fn unused_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What a call with these arguments comes to when nothing panics.
fn good(name: &str) -> lw_code {
    let is_built = |built: bool| if built { LW_OK } else { LW_ERROR_UNSUPPORTED };
    match name {
        "lw_master_forget_leftover" => LW_ERROR_ENDED,
        "lw_master_address" if !cfg!(feature = "agent") => LW_ERROR_ENDED,
        // Both wait for what only this test can end.
        "lw_master_shutdown" | "lw_lease_wait_end" => LW_ERROR_TIMEOUT,
        "lw_master_add_local" => is_built(cfg!(all(feature = "local", unix))),
        "lw_master_add_command" => is_built(cfg!(all(feature = "command", unix))),
        "lw_master_add_process" => is_built(cfg!(all(feature = "process", unix))),
        "lw_master_add_docker" => is_built(cfg!(all(feature = "docker", unix))),
        "lw_master_add_ec2" => is_built(cfg!(feature = "ec2")),
        "lw_lease_write_file" | "lw_lease_read_file" if !cfg!(all(feature = "local", unix)) => LW_ERROR_HANDLE,
        _ => LW_OK,
    }
}

/// What a panic at a passage comes to.
struct Outcome {
    code: lw_code,
    /// The same call after it, without a panic.
    again: lw_code,
    /// How many handles there are more than before.
    handles: isize,
}

/// All is as before; these are the passages where it is not.
fn outcome(name: &str, position: usize) -> Outcome {
    let usual = Outcome { code: LW_ERROR_PANIC, again: good(name), handles: 0 };
    match (name, position) {
        // The lease was on its way out: it is given back.
        ("lw_ticket_wait", 2) => Outcome { again: LW_ERROR_ENDED, ..usual },
        ("lw_inbox_take", 2) => Outcome { again: LW_ERROR_TIMEOUT, ..usual },
        // The agent panics, and not the library.
        ("lw_lease_run" | "lw_lease_start", 2) => Outcome { code: LW_ERROR_COMMAND, ..usual },
        ("lw_lease_run", 5) | ("lw_running_interrupt", 2) => Outcome { code: LW_OK, ..usual },
        ("lw_running_free", 2 | 3) => Outcome { code: LW_OK, again: LW_ERROR_HANDLE, handles: -2 },
        // The stop that follows has a handle of its own.
        ("lw_lease_retire", 3 | 4) => Outcome { code: LW_OK, again: LW_ERROR_HANDLE, handles: -2 },
        ("lw_lease_finish" | "lw_lease_retry" | "lw_lease_free", 3 | 4) => {
            Outcome { code: LW_OK, again: LW_ERROR_HANDLE, handles: -3 }
        }
        // The lease is given back, and the handles of its commands stay to be freed.
        ("lw_lease_finish" | "lw_lease_retry" | "lw_lease_retire" | "lw_lease_free", 2) => {
            Outcome { again: LW_ERROR_HANDLE, handles: -1, ..usual }
        }
        // The command's own handle stays until the lease is given back.
        ("lw_lease_run", 4) => Outcome { handles: 1, ..usual },
        // The agent was attached, and is gone with the handle that there is not. Until the start returns it may come back.
        ("lw_start_attach", 2) => Outcome { again: LW_OK, ..usual },
        _ => usual,
    }
}

/// Calls a function with a panic at one passage, and then without. Whether it came so far.
fn provoke(name: &str, position: usize, scene: &Handles) -> bool {
    let probe = Probe { position: Some(position), ..Probe::default() };
    let answer = call(name, &probe, scene);
    let here = format!("{name} at passage {position}: {:?} {}", answer.code, last_message());
    if !probe.has_panicked.get() {
        assert_eq!(answer.code, good(name), "{here}");
        return false;
    }
    let outcome = outcome(name, position);
    assert_eq!(answer.code, outcome.code, "{here}");
    if answer.code != LW_OK {
        assert!(last_message().contains("provoked"), "{here}");
        // Nothing has been looked at before the first passage.
        assert!(answer.is_cleared || position == 0, "{here}: something is left in a place");
    }
    let (handles, given) = probe.live_before.get();
    let expected = (handles.cast_signed() + outcome.handles, given);
    let counts = || (handle::count().cast_signed(), given::count());
    // A stop that follows has a handle of its own until it returns.
    let deadline = Instant::now() + Duration::from_secs(60);
    while counts() != expected && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(counts(), expected, "{here}: something was left, or lost");
    let answer = call(name, &Probe::default(), scene);
    assert_eq!(answer.code, outcome.again, "{here}, and again: {}", last_message());
    true
}

/// The same, where such a call can be made.
fn provoke_in_a_scene(name: &'static str, position: usize) -> bool {
    let mut scene = Scene::new(name);
    // The callback begins when nothing else happens any more.
    let (begin, begun) = bounded::<()>(1);
    let (tell, told) = bounded(1);
    let within = move |handles: Handles| {
        begun.recv().unwrap();
        tell.send(catch_unwind(AssertUnwindSafe(|| provoke(name, position, &handles)))).unwrap();
    };
    if name.starts_with("lw_start_") {
        let work = move |start| within(Handles { start, ..Handles::NONE });
        scene.host.in_start.lock().replace(Box::new(work));
        scene.handles.ticket = submit(scene.handles.master, c"starts");
    } else if name.starts_with("lw_stop_") {
        let work = move |stop| within(Handles { stop, ..Handles::NONE });
        scene.host.in_stop.lock().replace(Box::new(work));
        scene = scene.with_lease();
        assert_eq!(lw_lease_free(scene.handles.lease), LW_OK);
        assert_eq!(lw_worker_insubstantiate(scene.handles.worker, 0, 0), LW_ERROR_TIMEOUT);
    } else if name.starts_with("lw_reclaim_") {
        let work = move |reclaim| within(Handles { reclaim, ..Handles::NONE });
        scene.host.in_reclaim.lock().replace(Box::new(work));
        scene = scene.with_lease();
        assert_eq!(lw_lease_free(scene.handles.lease), LW_OK);
        lw_worker_insubstantiate(scene.handles.worker, 1, MINUTE);
    } else {
        return provoke(name, position, &scene.with_everything(name).handles);
    }
    begin.send(()).unwrap();
    told.recv_timeout(Duration::from_millis(MINUTE)).unwrap().unwrap_or_else(|payload| resume_unwind(payload))
}

#[test]
fn a_panic_at_any_passage_of_any_function_comes_back_as_a_code() {
    let _alone = ALONE.lock();
    let mut shallow = Vec::new();
    for (name, _) in functions() {
        let before = live();
        let mut passages = 0;
        while provoke_in_a_scene(name, passages) {
            assert_eq!(live(), before, "{name} at passage {passages}: something is left over");
            passages += 1;
        }
        assert_eq!(live(), before, "{name}: something is left over");
        if passages < 2 && good(name) != LW_ERROR_UNSUPPORTED {
            shallow.push(name);
        }
    }
    assert_eq!(
        shallow,
        ["lw_abi_version", "lw_has_feature", "lw_set_reason", "lw_set_kind"],
        "they have nothing to look up"
    );
}

/// The one function that returns no code returns the message of the panic itself.
#[test]
fn a_panic_in_the_look_for_a_message_is_the_message() {
    PASSAGES_LEFT.set(Some(0));
    assert_eq!(last_message(), "the library panicked: provoked");
    assert_eq!(PASSAGES_LEFT.get(), None);
}
