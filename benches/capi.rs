//! What the C ABI costs: the same calls through it and without it, in one run.

#![allow(unsafe_code, reason = "it calls the library as C would")]

mod support;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::size_of;
use std::ptr;

use latent_worker::{Build, BuildResult, Inbox, Master, WorkerConfig};
use support::{Figure, Line, Nothing, Plan, Report, Side, take_turns};

/// How much longer a call through the ABI may take than the same call in Rust: 100 ns.
const MOST_BEYOND: f64 = 100e-9;
/// `LW_ERROR_TIMEOUT`.
const TIMEOUT: c_int = 5;

/// The parts of `latent_worker.h` that are measured.
#[repr(C)]
struct BuildOptions {
    size: usize,
    name: *const c_char,
    rest: [usize; 5],
}

#[repr(C)]
struct WorkerOptions {
    size: usize,
    name: *const c_char,
    rest: [usize; 7],
}

#[repr(C)]
struct Driver {
    size: usize,
    context: *mut c_void,
    release: *const c_void,
    start: unsafe extern "C" fn(*mut c_void, *mut c_void, *const c_void, *mut *mut c_void) -> c_int,
    stop: unsafe extern "C" fn(*mut c_void, *const c_void) -> c_int,
    rest: [usize; 4],
}

// What takes only handles and places is safe: a handle is a number, and no wrong one does harm.
unsafe extern "C" {
    fn lw_master_new(options: *const c_void, master: &mut *mut c_void) -> c_int;
    fn lw_master_add_driver(
        master: *mut c_void,
        options: *const WorkerOptions,
        driver: *const Driver,
        added: &mut *mut c_void,
    ) -> c_int;
    fn lw_master_submit(master: *mut c_void, build: *const BuildOptions, ticket: &mut *mut c_void) -> c_int;
    fn lw_lease_finish(lease: *mut c_void, result: c_int, reason: *const c_char) -> c_int;
    fn lw_start_attach(start: *mut c_void, agent: *const c_void, attachment: *mut *mut c_void) -> c_int;
    safe fn lw_master_free(master: *mut c_void) -> c_int;
    safe fn lw_ticket_build(ticket: *mut c_void, number: &mut u64) -> c_int;
    safe fn lw_ticket_wait(ticket: *mut c_void, timeout_ms: u64, lease: &mut *mut c_void) -> c_int;
    safe fn lw_ticket_free(ticket: *mut c_void) -> c_int;
    safe fn lw_inbox_new(inbox: &mut *mut c_void) -> c_int;
    safe fn lw_inbox_take(inbox: *mut c_void, timeout_ms: u64, number: &mut u64, lease: &mut *mut c_void) -> c_int;
    safe fn lw_inbox_free(inbox: *mut c_void) -> c_int;
    safe fn lw_lease_wait_end(lease: *mut c_void, timeout_ms: u64) -> c_int;
    safe fn lw_worker_pause(worker: *mut c_void) -> c_int;
}

unsafe extern "C" fn start(_: *mut c_void, start: *mut c_void, _: *const c_void, _: *mut *mut c_void) -> c_int {
    // SAFETY: the handle is that of this call.
    unsafe { lw_start_attach(start, ptr::null(), ptr::null_mut()) }
}

unsafe extern "C" fn stop(_: *mut c_void, _: *const c_void) -> c_int {
    0
}

/// Calls a function that stores a handle.
fn made(call: impl FnOnce(&mut *mut c_void) -> c_int) -> *mut c_void {
    let mut place = ptr::null_mut();
    assert_eq!(call(&mut place), 0);
    place
}

fn main() {
    // Each side has a master of its own, with a worker that is up and one that is never used.
    let master = Master::new();
    master.add_worker(WorkerConfig::new("c"), Nothing).expect("a new name");
    let build = Build::new("build");
    drop(master.submit(build.clone()).wait().expect("a lease"));
    let (ticket, inbox) = (master.submit(build.clone()), Inbox::new());
    let lease = ticket.wait().expect("a lease");
    let other = Master::new();
    let aside = other.add_worker(WorkerConfig::new("aside"), Nothing).expect("a new name");

    let c_build = BuildOptions { size: size_of::<BuildOptions>(), name: c"build".as_ptr(), rest: [0; 5] };
    let driver =
        Driver { size: size_of::<Driver>(), context: ptr::null_mut(), release: ptr::null(), start, stop, rest: [0; 4] };
    let c_new = || {
        // SAFETY: NULL stands for the default settings.
        made(|place| unsafe { lw_master_new(ptr::null(), place) })
    };
    let c_add = |master, name: &CStr| {
        let options = WorkerOptions { size: size_of::<WorkerOptions>(), name: name.as_ptr(), rest: [0; 7] };
        // SAFETY: both structures live as long as the call, and say what size they have.
        made(|place| unsafe { lw_master_add_driver(master, &options, &driver, place) })
    };
    let c_submit = |master| {
        // SAFETY: as above.
        made(|place| unsafe { lw_master_submit(master, &c_build, place) })
    };
    let c_finish = |lease| {
        // SAFETY: no reason is given.
        assert_eq!(unsafe { lw_lease_finish(lease, 0, ptr::null()) }, 0);
    };
    let (c_master, c_other) = (c_new(), c_new());
    c_add(c_master, c"c");
    let c_aside = c_add(c_other, c"aside");
    let c_ticket = c_submit(c_master);
    let c_lease = made(|place| lw_ticket_wait(c_ticket, u64::MAX, place));
    let c_inbox = made(|place| lw_inbox_new(place));

    let mut number = 0;
    let mut c_answer = ptr::null_mut();
    let plan = Plan { turns: 400, samples: 5, operations: 1000 };
    let calls = take_turns(
        &plan,
        [
            Side::new("number of a ticket", || assert_eq!(ticket.id().get(), 2)),
            Side::new("number of a ticket, C", || assert_eq!(lw_ticket_build(c_ticket, &mut number), 0)),
            Side::new("pause a worker", || aside.pause()),
            Side::new("pause a worker, C", || assert_eq!(lw_worker_pause(c_aside), 0)),
        ],
    );
    let mut number = 0;
    let misses = take_turns(
        &plan,
        [
            Side::new("look into an inbox", || assert!(inbox.receiver().try_recv().is_err())),
            Side::new("look into an inbox, C", || {
                assert_eq!(lw_inbox_take(c_inbox, 0, &mut number, &mut c_answer), TIMEOUT);
            }),
            Side::new("look at a lease", || assert!(lease.end().is_none())),
            Side::new("look at a lease, C", || assert_eq!(lw_lease_wait_end(c_lease, 0), TIMEOUT)),
        ],
    );
    drop(lease);
    c_finish(c_lease);
    let turns = take_turns(
        &Plan { operations: 100, ..plan },
        [
            Side::new("a build: submit, wait, finish, drop", || {
                let ticket = master.submit(Build::new("build"));
                ticket.wait().expect("a lease").finish(BuildResult::Succeeded);
                drop(ticket);
            }),
            Side::new("a build: submit, wait, finish, free, C", || {
                let ticket = c_submit(c_master);
                c_finish(made(|place| lw_ticket_wait(ticket, u64::MAX, place)));
                assert_eq!(lw_ticket_free(ticket), 0);
            }),
        ],
    );

    let mut report = Report::new("capi");
    for [rust, c] in calls.as_chunks().0.iter().chain(misses.as_chunks().0).chain(turns.as_chunks().0) {
        report.add(Line::new(&rust.0, Figure::Times(rust.1)));
        report.beside(rust, c);
        // What is measured as a turn is four calls.
        let calls = if c.0.contains("submit") { 4.0 } else { 1.0 };
        let beyond = (c.1.median.as_secs_f64() - rust.1.median.as_secs_f64()).max(0.0) / calls;
        report.add(Line::new("    beyond, for each call", Figure::Seconds(beyond)).at_most(MOST_BEYOND));
    }
    report.print();
    lw_ticket_free(c_ticket);
    lw_inbox_free(c_inbox);
    lw_master_free(c_master);
    lw_master_free(c_other);
}
