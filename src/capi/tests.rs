//! Every exported function at once: panics on its way (in `panics`), and arguments that are nothing. What the functions do when
//! they are used as they should be is tested from C.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fs;
use std::mem::{MaybeUninit, size_of};
use std::num::NonZeroUsize;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use parking_lot::Mutex;

use super::agent::*;
use super::argument::{LW_FOREVER, fill, milliseconds, optional_structure, structure};
use super::boundary::boundary;
use super::build::*;
use super::code::lw_code::{self, *};
use super::driver::*;
use super::event::*;
use super::kinds::*;
use super::lease::*;
use super::master::*;
use super::worker::*;
use super::{lw_abi_version, lw_free, lw_last_error_message, lw_live};
use crate::{IdlePolicy, WorkerConfig};

mod panics;

pub(super) use panics::passage;

/// Held by tests that make handles: some count those of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// An argument that is nothing: NULL or zero.
trait Nothing {
    fn nothing() -> Self;
}

impl<T> Nothing for *const T {
    fn nothing() -> Self {
        ptr::null()
    }
}

impl<T> Nothing for *mut T {
    fn nothing() -> Self {
        ptr::null_mut()
    }
}

impl<T> Nothing for Option<T> {
    fn nothing() -> Self {
        None
    }
}

macro_rules! zero_is_nothing {
    ($($number:ty)*) => {
        $(impl Nothing for $number {
            fn nothing() -> Self {
                0
            }
        })*
    };
}
zero_is_nothing!(i32 u32 u64 usize);

/// A function of the ABI, whatever its arguments.
trait Call {
    fn call(&self) -> lw_code;
}

macro_rules! call_with_nothing {
    ($($argument:ident)*) => {
        impl<$($argument: Nothing),*> Call for extern "C" fn($($argument),*) -> lw_code {
            fn call(&self) -> lw_code {
                self($($argument::nothing()),*)
            }
        }
    };
}
call_with_nothing!(A);
call_with_nothing!(A B);
call_with_nothing!(A B C);
call_with_nothing!(A B C D);
call_with_nothing!(A B C D E);
call_with_nothing!(A B C D E F);

macro_rules! functions {
    ($($name:ident($($argument:tt)*))*) => {
        vec![$((stringify!($name), Box::new($name as extern "C" fn($($argument)*) -> lw_code) as Box<dyn Call>)),*]
    };
}

/// All that return a code.
fn functions() -> Vec<(&'static str, Box<dyn Call>)> {
    functions! {
        lw_abi_version(_) lw_free(_) lw_live(_, _) lw_has_feature(_, _) lw_set_reason(_) lw_set_kind(_)
        lw_master_new(_, _) lw_master_address(_, _) lw_master_status(_, _) lw_master_forget_leftover(_, _)
        lw_master_shutdown(_, _, _, _) lw_master_free(_) lw_master_cancel(_, _) lw_master_build_status(_, _, _)
        lw_master_queue(_, _, _, _) lw_lease_retire(_, _)
        lw_master_worker(_, _, _) lw_worker_status(_, _) lw_worker_pause(_) lw_worker_unpause(_)
        lw_worker_insubstantiate(_, _, _) lw_worker_free(_)
        lw_master_add_driver(_, _, _, _) lw_master_add_local(_, _, _, _) lw_master_add_command(_, _, _, _)
        lw_master_add_process(_, _, _, _) lw_master_add_docker(_, _, _, _) lw_master_add_ec2(_, _, _, _)
        lw_master_submit(_, _, _) lw_ticket_build(_, _) lw_ticket_wait(_, _, _) lw_ticket_cancel(_) lw_ticket_free(_)
        lw_inbox_new(_) lw_master_submit_to(_, _, _, _) lw_inbox_take(_, _, _, _) lw_inbox_fd(_, _) lw_inbox_free(_)
        lw_lease_get_info(_, _) lw_lease_wait_end(_, _) lw_lease_run(_, _, _) lw_lease_start(_, _, _)
        lw_running_read(_, _, _, _, _) lw_running_interrupt(_) lw_running_free(_)
        lw_lease_write_file(_, _, _, _) lw_lease_read_file(_, _, _) lw_lease_finish(_, _, _) lw_lease_retry(_, _)
        lw_lease_free(_) lw_lease_agent(_, _)
        lw_process_write(_, _, _, _) lw_process_end(_, _, _) lw_process_fail(_, _)
        lw_attachment_lost(_, _) lw_attachment_free(_)
        lw_master_events(_, _, _) lw_events_take(_, _, _) lw_events_fd(_, _) lw_events_free(_)
        lw_master_observe(_, _, _, _, _, _) lw_observer_free(_)
        lw_start_cancelled(_, _) lw_start_sleep(_, _) lw_start_record(_, _) lw_start_progress(_, _)
        lw_start_detail(_, _) lw_start_retry_after(_, _) lw_start_attach(_, _, _)
        lw_stop_hurried(_, _) lw_stop_sleep(_, _) lw_reclaim_cancelled(_, _) lw_reclaim_sleep(_, _)
    }
}

fn last_message() -> String {
    // SAFETY: it is never NULL and lives until the next error of this thread.
    unsafe { CStr::from_ptr(lw_last_error_message()) }.to_str().unwrap().to_owned()
}

#[test]
fn the_list_of_functions_is_complete() {
    let mut exported = BTreeSet::new();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/capi")).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let code = fs::read_to_string(path).unwrap();
        let names = code.split("\npub extern \"C\" fn ").skip(1).map(|rest| rest.split('(').next().unwrap().to_owned());
        exported.extend(names);
    }
    assert!(exported.remove("lw_last_error_message"), "it returns no code");
    assert_eq!(functions().iter().map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>(), exported);
}

#[test]
fn a_payload_that_panics_when_it_is_dropped_is_caught_too() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the payload's drop");
        }
    }
    assert_eq!(boundary(|| std::panic::panic_any(Bomb)), LW_ERROR_PANIC);
    assert_eq!(last_message(), "the library panicked: no message");
}

#[test]
fn nothing_is_refused_by_all_functions_and_freed_by_those_that_free() {
    for (name, function) in functions() {
        let allowed: &[lw_code] = match name {
            // To free NULL, and to give no reason and no kind, is no error.
            "lw_free" | "lw_set_reason" | "lw_set_kind" => &[LW_OK],
            name if name.ends_with("_free") => &[LW_OK],
            _ => &[LW_ERROR_ARGUMENT, LW_ERROR_HANDLE, LW_ERROR_UNSUPPORTED],
        };
        let code = function.call();
        assert!(allowed.contains(&code), "{name}: {code:?}");
        if code != LW_OK {
            let says_why = last_message().contains("NULL") || name == "lw_process_write";
            assert!(says_why || code == LW_ERROR_UNSUPPORTED, "{name}: {}", last_message());
        }
    }
}

/// The programs in C are about a library without containers and machines of EC2.
#[test]
fn settings_that_are_no_text_are_refused() {
    let _alone = ALONE.lock();
    let mut master = MaybeUninit::uninit();
    assert_eq!(lw_master_new(ptr::null(), Some(&mut master)), LW_OK);
    // SAFETY: the call has stored it.
    let master = unsafe { master.assume_init() };
    let options = lw_worker_options {
        size: size_of::<lw_worker_options>(),
        name: c"worker".as_ptr(),
        ..optional_structure("zeros", ptr::null()).unwrap()
    };
    type Add = extern "C" fn(
        *mut lw_master,
        *const lw_worker_options,
        *const c_char,
        Option<&mut MaybeUninit<*mut lw_worker>>,
    ) -> lw_code;
    let functions: [(Add, bool); 2] =
        [(lw_master_add_docker, cfg!(all(feature = "docker", unix))), (lw_master_add_ec2, cfg!(feature = "ec2"))];
    for (function, is_built) in functions {
        for settings in [ptr::null(), c"caf\xe9 \xff\xfe".as_ptr(), c"".as_ptr(), c"[]".as_ptr()] {
            let mut place = MaybeUninit::new(ptr::without_provenance_mut::<lw_worker>(7));
            let code = function(master, &raw const options, settings, Some(&mut place));
            assert_eq!(code, if is_built { LW_ERROR_ARGUMENT } else { LW_ERROR_UNSUPPORTED });
            // SAFETY: it is initialised.
            assert!(unsafe { place.assume_init() }.is_null());
        }
    }
    assert_eq!(lw_master_free(master), LW_OK);
}

#[test]
fn no_number_of_a_code_is_used_twice_or_has_changed() {
    let codes = [
        LW_OK,
        LW_ERROR_ARGUMENT,
        LW_ERROR_HANDLE,
        LW_ERROR_FORKED,
        LW_ERROR_PANIC,
        LW_ERROR_TIMEOUT,
        LW_ERROR_UNSUPPORTED,
        LW_ERROR_SYSTEM,
        LW_ERROR_JOURNAL,
        LW_ERROR_NAME_TAKEN,
        LW_ERROR_SHUT_DOWN,
        LW_ERROR_CANCELLED,
        LW_ERROR_NO_WORKER_FITS,
        LW_ERROR_CANNOT_SUBSTANTIATE,
        LW_ERROR_ATTEMPTS_EXHAUSTED,
        LW_ERROR_ENDED,
        LW_ERROR_LEASE_LOST,
        LW_ERROR_LEASE_STOPPED,
        LW_ERROR_COMMAND,
        LW_ERROR_FILE,
        LW_ERROR_ATTACH,
        LW_ERROR_HURRIED,
    ];
    for (number, code) in codes.into_iter().enumerate() {
        assert_eq!(code as usize, number);
    }
}

/// A structure as a later version of the header may have it.
#[repr(C)]
struct LongerBuild {
    build: lw_build,
    new_field: u64,
}

fn named(name: &CStr) -> lw_build {
    lw_build {
        size: size_of::<lw_build>(),
        name: name.as_ptr(),
        properties: ptr::null(),
        property_count: 0,
        labels: ptr::null(),
        label_count: 0,
        priority: 7,
        max_attempts: 0,
    }
}

#[test]
fn a_structure_may_be_shorter_or_longer_than_the_one_that_is_known() {
    // Compiled before `priority` was there: what lies behind it is not looked at.
    let mut short = named(c"short");
    short.size = std::mem::offset_of!(lw_build, priority);
    assert_eq!(structure("build", &raw const short).unwrap().priority, 0);
    short.size = size_of::<lw_build>();
    assert_eq!(structure("build", &raw const short).unwrap().priority, 7);

    // Compiled with a field more, which is not used, and then is.
    let mut long = LongerBuild { build: named(c"long"), new_field: 0 };
    long.build.size = size_of::<LongerBuild>();
    let pointer = (&raw const long).cast::<lw_build>();
    assert_eq!(structure("build", pointer).unwrap().priority, 7);
    long.new_field = 1 << 40;
    let pointer = (&raw const long).cast::<lw_build>();
    let failure = structure("build", pointer).map(|_| ()).unwrap_err();
    assert_eq!(failure.code, LW_ERROR_ARGUMENT);
    assert!(failure.to_string().contains("does not know"), "{failure}");
}

#[test]
fn a_size_that_was_not_set_is_told() {
    for size in [0, 1, size_of::<usize>() - 1, 4097, usize::MAX] {
        let mut build = named(c"build");
        build.size = size;
        let failure = structure("build", &raw const build).map(|_| ()).unwrap_err();
        assert!(failure.to_string().contains("sizeof"), "{size}: {failure}");
    }
    let shifted = ptr::from_ref(&named(c"build")).wrapping_byte_add(1);
    assert!(structure("build", shifted).map(|_| ()).unwrap_err().to_string().contains("aligned"));
}

/// The caller's structure is as short as its size says: what lies behind it is somebody else's.
#[test]
fn no_more_is_filled_in_than_there_is_room_for() {
    let value = lw_output { size: 0, stream: 1, exit: 2, length: 3, code: 4, reserved: 0, elapsed_ms: 5 };
    let mut output = lw_output { size: 0, stream: 0, exit: 0, length: 0, code: 0, reserved: 0, elapsed_ms: 99 };
    output.size = std::mem::offset_of!(lw_output, elapsed_ms);
    fill("output", &raw mut output, &value).unwrap();
    assert_eq!((output.stream, output.exit, output.length, output.code, output.elapsed_ms), (1, 2, 3, 4, 99));
    assert_eq!(output.size, std::mem::offset_of!(lw_output, elapsed_ms), "the size is the caller's");
}

#[test]
fn a_text_with_a_nul_is_not_cut_off() {
    boundary(|| Err(super::boundary::Failure::argument("before\0after")));
    assert_eq!(last_message(), "before\u{fffd}after");
}

/// Zeros, as the header says what they mean and as the library has it without settings.
#[test]
fn zeros_are_the_defaults_of_a_worker() {
    let options = lw_worker_options {
        size: size_of::<lw_worker_options>(),
        name: c"worker".as_ptr(),
        ..optional_structure("zeros", ptr::null()).unwrap()
    };
    let config = config_from(&raw const options).unwrap();
    assert_eq!(config, WorkerConfig::new("worker"));
    let said = WorkerConfig::new("worker")
        .with_max_builds(NonZeroUsize::MIN)
        .with_idle(IdlePolicy::After(Duration::from_secs(10 * 60)))
        .with_missing_timeout(Duration::from_secs(60 * 60))
        .with_check_instance_interval(Duration::from_secs(10));
    assert_eq!(config, said);
}

#[test]
fn forever_is_no_number_of_milliseconds() {
    assert_eq!(milliseconds(LW_FOREVER), Duration::MAX);
    assert_eq!(milliseconds(LW_FOREVER - 1), Duration::from_millis(LW_FOREVER - 1));
}

/// One call of each kind that goes well, so that the tests above are not about functions that always fail.
#[test]
fn a_master_is_made_asked_and_freed() {
    let _alone = ALONE.lock();
    let mut master = MaybeUninit::uninit();
    assert_eq!(lw_master_new(ptr::null(), Some(&mut master)), LW_OK);
    // SAFETY: the call has stored it.
    let master = unsafe { master.assume_init() };
    let mut status = MaybeUninit::<*const c_char>::uninit();
    assert_eq!(lw_master_status(master, Some(&mut status)), LW_OK);
    // SAFETY: as above; it is a text.
    let (status, text) = unsafe { (status.assume_init(), CStr::from_ptr(status.assume_init()).to_owned()) };
    let expected = CString::new(r#"{"workers":[],"leftovers":[],"unknown_agents":0,"journal_damage":null}"#).unwrap();
    assert_eq!(text, expected);
    assert_eq!(lw_free(status.cast::<c_void>()), LW_OK);
    assert_eq!(lw_free(status.cast::<c_void>()), LW_ERROR_HANDLE);
    assert_eq!(lw_ticket_cancel(master.cast()), LW_ERROR_HANDLE);
    assert_eq!(last_message(), "this is not a ticket: it is a master");
    assert_eq!(lw_master_free(master), LW_OK);
    assert_eq!(lw_master_free(master), LW_ERROR_HANDLE);
    assert_eq!(last_message(), "this is not a master: it was freed, or never given out");
}
