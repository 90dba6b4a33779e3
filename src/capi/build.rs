//! Builds: what C says about one, and where the answers come out, a ticket for one build or an inbox for many.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::num::NonZeroU32;
use std::ptr;

use crossbeam_channel::RecvTimeoutError;

use super::argument::{Growing, LW_FOREVER, items, milliseconds, place, structure, text};
use super::boundary::{Failure, Result, boundary};
use super::closing::Closing;
use super::code::lw_code::{self, LW_ERROR_ENDED, LW_ERROR_TIMEOUT};
use super::handle::{self, Kind};
use super::lease::{self, lw_lease};
use super::master::lw_master;
use super::readiness::Readiness;
use crate::{Build, BuildError, Inbox, Lease, Properties, Ticket};

/// A name and a value: a property of a build, or a variable of an environment. It will never have more fields.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_property {
    /// Not NULL.
    pub name: *const c_char,
    /// Not NULL, except where a NULL means that a variable is removed.
    pub value: *const c_char,
}

/// One unit of work: what the queue and the driver need to know. Set `size`, and leave zero what you do not need.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_build {
    /// sizeof(lw_build).
    pub size: usize,
    /// A name for people; names need not be unique. Not NULL.
    pub name: *const c_char,
    /// What a driver renders its settings from and compares instances by.
    pub properties: *const lw_property,
    /// How many there are.
    pub property_count: usize,
    /// The labels that a worker must offer.
    pub labels: *const *const c_char,
    /// How many there are.
    pub label_count: usize,
    /// Builds of a higher priority go first; among equals the older one.
    pub priority: i32,
    /// The build ends with LW_ERROR_ATTEMPTS_EXHAUSTED after this many failed attempts; 0: as the master's options
    /// say.
    pub max_attempts: u32,
}

// SAFETY: integers and raw pointers, the size first.
unsafe impl Growing for lw_build {}

pub(super) fn build_from(build: *const lw_build) -> Result<Build> {
    let given = structure("build", build)?;
    let mut build = Build::new(text("build.name", given.name)?).with_priority(given.priority);
    if given.property_count != 0 {
        build = build.with_properties(properties("build.properties", given.properties, given.property_count)?);
    }
    for label in items("build.labels", given.labels, given.label_count)? {
        build = build.with_label(text("build.labels", *label)?);
    }
    if let Some(attempts) = NonZeroU32::new(given.max_attempts) {
        build = build.with_max_attempts(attempts);
    }
    Ok(build)
}

fn properties(what: &str, pointer: *const lw_property, count: usize) -> Result<Properties> {
    let named = |property: &lw_property| Ok((text(what, property.name)?, text(what, property.value)?));
    items(what, pointer, count)?.iter().map(named).collect()
}

/// The claim to the answer for one submitted build.
pub struct lw_ticket {
    _opaque: [u8; 0],
}

impl Kind for lw_ticket {
    type Value = Ticket;
    const NAME: &'static str = "a ticket";
}

/// One place for the answers to many builds, with a file descriptor for event loops.
pub struct lw_inbox {
    _opaque: [u8; 0],
}

pub(super) struct InboxCell {
    inbox: Inbox,
    closing: Closing,
    readiness: Readiness,
}

impl Kind for lw_inbox {
    type Value = InboxCell;
    const NAME: &'static str = "an inbox";
}

/// Puts a build into the queue. LW_ERROR_ARGUMENT: the structure makes no sense. Every other reason why the build does
/// not run (no worker fits, the master shuts down) comes as the ticket's answer. Does not block.
///
/// Free the ticket with lw_ticket_free; that cancels the build unless its lease was taken.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_submit(
    master: *mut lw_master,
    build: *const lw_build,
    ticket: Option<&mut MaybeUninit<*mut lw_ticket>>,
) -> lw_code {
    boundary(|| {
        let ticket = place("ticket", ticket, ptr::null_mut())?;
        let master = handle::get(master)?;
        *ticket = handle::insert(master.master().submit(build_from(build)?));
        Ok(())
    })
}

/// The number of the ticket's build: 1, 2, 3 in the order in which its master took them.
#[unsafe(no_mangle)]
pub extern "C" fn lw_ticket_build(ticket: *mut lw_ticket, build: Option<&mut MaybeUninit<u64>>) -> lw_code {
    boundary(|| {
        let build = place("build", build, 0)?;
        *build = handle::get(ticket)?.id().get();
        Ok(())
    })
}

/// Blocks until the build has a lease or ends without one, at most for timeout_ms; 0 only looks, LW_FOREVER has no
/// limit.
///
/// LW_OK: the lease is the caller's now. LW_ERROR_TIMEOUT: the build is as it was. All other codes say why there is no
/// (further) lease. A lease that is retried is followed by another answer; after the last one every wait answers
/// LW_ERROR_ENDED. Another thread can end the wait with lw_ticket_cancel.
#[unsafe(no_mangle)]
pub extern "C" fn lw_ticket_wait(
    ticket: *mut lw_ticket,
    timeout_ms: u64,
    lease: Option<&mut MaybeUninit<*mut lw_lease>>,
) -> lw_code {
    boundary(|| {
        let lease = place("lease", lease, ptr::null_mut())?;
        let ticket = handle::get(ticket)?;
        let answer = match timeout_ms {
            0 => ticket.try_wait(),
            LW_FOREVER => Some(ticket.wait()),
            _ => ticket.wait_timeout(milliseconds(timeout_ms)),
        };
        let answer = answer.ok_or(Failure::expected(LW_ERROR_TIMEOUT, c"the answer did not come in time"))?;
        *lease = lease::hand_out(answer?);
        Ok(())
    })
}

/// Ends the ticket's build, wherever it is: it is answered with LW_ERROR_CANCELLED at once, and a lease that is out
/// ends. Does not block. Nothing happens when the build has ended already.
#[unsafe(no_mangle)]
pub extern "C" fn lw_ticket_cancel(ticket: *mut lw_ticket) -> lw_code {
    boundary(|| {
        handle::get(ticket)?.cancel();
        Ok(())
    })
}

/// Frees a ticket, and cancels its build unless the lease was taken; then the build goes on, but lw_lease_retry cancels
/// it. Does not block. NULL is no error. While another thread waits in lw_ticket_wait neither its wait nor the build
/// ends by this: lw_ticket_cancel ends both.
#[unsafe(no_mangle)]
pub extern "C" fn lw_ticket_free(ticket: *mut lw_ticket) -> lw_code {
    boundary(|| handle::free(ticket))
}

/// Makes an inbox. It holds at most one lease and one last answer for each build that was submitted to it.
#[unsafe(no_mangle)]
pub extern "C" fn lw_inbox_new(inbox: Option<&mut MaybeUninit<*mut lw_inbox>>) -> lw_code {
    boundary(|| {
        let inbox = place("inbox", inbox, ptr::null_mut())?;
        *inbox = handle::insert(InboxCell {
            inbox: Inbox::new(),
            closing: Closing::default(),
            readiness: Readiness::default(),
        });
        Ok(())
    })
}

/// Puts a build into the queue whose answers go into the inbox; number gets the build's number. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_submit_to(
    master: *mut lw_master,
    build: *const lw_build,
    inbox: *mut lw_inbox,
    number: Option<&mut MaybeUninit<u64>>,
) -> lw_code {
    boundary(|| {
        let number = place("number", number, 0)?;
        let master = handle::get(master)?;
        let inbox = handle::get(inbox)?;
        *number = master.master().submit_to(build_from(build)?, &inbox.inbox).get();
        Ok(())
    })
}

/// Takes an answer out of the inbox; blocks until there is one, at most for timeout_ms; 0 only looks.
///
/// When number is not 0 afterwards, the code is the answer for the build of that number, as lw_ticket_wait has it:
/// with LW_OK the lease is the caller's. When it is 0 the code is about this call: LW_ERROR_TIMEOUT above all;
/// LW_ERROR_ENDED when another thread frees the inbox.
#[unsafe(no_mangle)]
pub extern "C" fn lw_inbox_take(
    inbox: *mut lw_inbox,
    timeout_ms: u64,
    number: Option<&mut MaybeUninit<u64>>,
    lease: Option<&mut MaybeUninit<*mut lw_lease>>,
) -> lw_code {
    boundary(|| {
        let (number, lease) = (place("number", number, 0), place("lease", lease, ptr::null_mut()));
        let (number, lease) = (number?, lease?);
        let cell = handle::get(inbox)?;
        let taken = cell.closing.recv(cell.inbox.receiver(), milliseconds(timeout_ms));
        cell.readiness.after_take(cell.inbox.receiver());
        let (id, answer): (_, std::result::Result<Lease, BuildError>) = taken.map_err(|error| match error {
            RecvTimeoutError::Timeout => Failure::expected(LW_ERROR_TIMEOUT, c"no answer came in time"),
            RecvTimeoutError::Disconnected => Failure::expected(LW_ERROR_ENDED, c"the inbox was freed"),
        })?;
        *number = id.get();
        *lease = lease::hand_out(answer?);
        Ok(())
    })
}

/// A file descriptor that is readable while the inbox has something to take: for poll, select and event loops. Unix
/// only.
///
/// Do not read, write or close it: it belongs to the inbox. When it is readable, take until LW_ERROR_TIMEOUT; now and
/// then it is readable for nothing. The first call starts a thread, which ends when the inbox is freed.
#[unsafe(no_mangle)]
pub extern "C" fn lw_inbox_fd(inbox: *mut lw_inbox, fd: Option<&mut MaybeUninit<c_int>>) -> lw_code {
    boundary(|| {
        let fd = place("fd", fd, -1)?;
        let cell = handle::get(inbox)?;
        *fd = cell.readiness.fd(cell.inbox.receiver())?;
        Ok(())
    })
}

/// Frees an inbox and cancels its builds: waiting builds end, and leases that are still in the inbox are given back. A
/// build whose lease was taken continues, but lw_lease_retry cancels it. A thread that waits in lw_inbox_take gets
/// LW_ERROR_ENDED. Does not block. NULL is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn lw_inbox_free(inbox: *mut lw_inbox) -> lw_code {
    boundary(|| {
        if !inbox.is_null() {
            handle::remove(inbox)?.closing.close();
        }
        Ok(())
    })
}
