//! Agents in the host language, attached by drivers in the host language.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;

use parking_lot::Mutex;

use super::argument::{Growing, optional_text, place, structure};
use super::boundary::{Result, boundary};
use super::code::lw_code;
use super::context::Context;
use super::handle::{self, Kind};
use super::lease::{self, lw_lease};
use crate::{Agent, Attacher, Attachment};

/// An agent in the language of the host: what makes an instance do something. Set `size`; what else is NULL has a
/// default. Callbacks may run on several threads at once.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_agent {
    /// sizeof(lw_agent).
    pub size: usize,
    /// Passed to every callback, and reached through a lease with lw_lease_agent.
    pub context: *mut c_void,
    /// Called once when neither the library nor a lease uses the agent any more, on any thread. May be NULL.
    pub release: Option<unsafe extern "C" fn(context: *mut c_void)>,
    /// The instance is about to be stopped: end what runs. Called at most once, before stop. May be NULL.
    pub close: Option<unsafe extern "C" fn(context: *mut c_void)>,
}

// SAFETY: an integer, raw pointers and optional function pointers, the size first.
unsafe impl Growing for lw_agent {}

/// An agent's side of being attached.
pub struct lw_attachment {
    _opaque: [u8; 0],
}

impl Kind for lw_attachment {
    type Value = Mutex<Option<Attachment>>;
    const NAME: &'static str = "an attachment";
}

/// The callbacks, as an agent.
pub(super) struct CallbackAgent {
    table: lw_agent,
    context: Context,
}

// SAFETY: the pointers in the table are functions that may be called on any thread, as the header says; the context is
// only passed on.
unsafe impl Send for CallbackAgent {}
// SAFETY: as above.
unsafe impl Sync for CallbackAgent {}

impl Agent for CallbackAgent {
    fn close(&self) {
        if let Some(close) = self.table.close {
            // SAFETY: a callback of the table with its context, as the header says.
            unsafe { close(self.context.pointer()) };
        }
    }
}

pub(super) fn attach(attacher: &Attacher, agent: *const lw_agent) -> Result<Attachment> {
    if agent.is_null() {
        return Ok(attacher.attach(())?);
    }
    let table = structure("agent", agent)?;
    let context = Context::new(table.context, table.release);
    let kept = context.clone();
    attacher.attach(CallbackAgent { table, context }).map_err(|error| {
        kept.keep();
        error.into()
    })
}

pub(super) fn hand_out(attachment: Attachment) -> *mut lw_attachment {
    handle::insert(Mutex::new(Some(attachment)))
}

/// The context of the leased instance's agent, if a driver has attached it with lw_start_attach and an lw_agent. It
/// lives at least as long as the lease.
#[unsafe(no_mangle)]
pub extern "C" fn lw_lease_agent(lease: *mut lw_lease, context: Option<&mut MaybeUninit<*mut c_void>>) -> lw_code {
    boundary(|| {
        let context = place("context", context, std::ptr::null_mut())?;
        *context = lease::agent_of(lease)?;
        Ok(())
    })
}

/// Says that the agent is gone, with a reason for people (or NULL): the lease that uses it ends as lost, and the instance
/// is stopped. The handle is none afterwards. Does not block.
#[unsafe(no_mangle)]
pub extern "C" fn lw_attachment_lost(attachment: *mut lw_attachment, reason: *const c_char) -> lw_code {
    boundary(|| {
        let reason = optional_text("reason", reason)?.unwrap_or("the agent is gone");
        let attachment = handle::remove(attachment)?.lock().take();
        if let Some(attachment) = attachment {
            attachment.lost(reason);
        }
        Ok(())
    })
}

/// Frees an attachment: says that the agent is gone, as lw_attachment_lost does. Does not block. NULL is no error.
#[unsafe(no_mangle)]
pub extern "C" fn lw_attachment_free(attachment: *mut lw_attachment) -> lw_code {
    boundary(|| handle::free(attachment))
}

impl CallbackAgent {
    pub(super) fn context(&self) -> *mut c_void {
        self.context.pointer()
    }
}
