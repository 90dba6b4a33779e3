//! The C ABI: the same library from C, Python and whatever can call C.
//!
//! It is not for Rust, and nothing here can be named from there. The header `include/latent_worker.h` is generated from
//! these files, which is why the documentation here is written for those who call from C; the rules for all functions
//! are at the head of `cbindgen.toml`.
//!
//! This is the only module with `unsafe` code. Most of it is in `argument` (reads what C passes in), `driver`, `agent`,
//! `event` and `context` (call back, through `callback`), and `lease` (a command that borrows from its lease). What C
//! holds is looked up in a table, `handle`; what C is given to read lies in another, `given`. Every exported function
//! does its work within [`boundary::boundary`], which a test checks.

#![allow(unsafe_code, reason = "C has nothing else; nowhere else is it allowed")]
#![allow(non_camel_case_types, reason = "the names are those of C")]
#![allow(unreachable_pub, reason = "it is reached by the linker and by cbindgen")]
#![allow(missing_debug_implementations, reason = "they are for C")]

mod agent;
mod argument;
mod boundary;
mod build;
mod callback;
mod closing;
mod code;
mod context;
#[cfg(all(feature = "docker", unix))]
mod docker;
mod driver;
#[cfg(feature = "ec2")]
mod ec2;
mod event;
mod fork;
mod given;
mod handle;
mod json;
mod kinds;
mod lease;
mod master;
mod readiness;
#[cfg(any(all(feature = "docker", unix), feature = "ec2"))]
mod settings;
mod status;
#[cfg(test)]
mod tests;
mod worker;

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;

use argument::place;
use boundary::boundary;
use code::lw_code;

/// The version of the ABI that this header describes. It changes when something that was there works differently; new
/// functions, codes and fields at the end of structures do not change it.
pub const LW_ABI_VERSION: u32 = 1;

/// The version of the ABI that the library has: compare it with LW_ABI_VERSION before anything else.
#[unsafe(no_mangle)]
pub extern "C" fn lw_abi_version(version: Option<&mut MaybeUninit<u32>>) -> lw_code {
    boundary(|| {
        *place("version", version, 0)? = LW_ABI_VERSION;
        Ok(())
    })
}

/// What the last call on this thread that did not return LW_OK has to say, for people; an empty text before the first
/// one. Never NULL. It lives until the next such call on this thread, or until the thread ends. Do not free it.
#[unsafe(no_mangle)]
pub extern "C" fn lw_last_error_message() -> *const c_char {
    let mut message = c"".as_ptr();
    let code = boundary(|| {
        message = boundary::last_message();
        Ok(())
    });
    if code == lw_code::LW_OK { message } else { boundary::last_message() }
}

/// Frees a text or a structure that the library has given out through a pointer to const. LW_ERROR_HANDLE: it is not from
/// this library, or was freed already; unlike a handle it is an address, which may be given out again. NULL is no error.
#[unsafe(no_mangle)]
pub extern "C" fn lw_free(given: *const c_void) -> lw_code {
    boundary(|| given::take_back(given))
}

/// How many handles, and how many texts and structures to be freed with lw_free, are out in this process: to find leaks.
#[unsafe(no_mangle)]
pub extern "C" fn lw_live(handles: Option<&mut MaybeUninit<usize>>, given: Option<&mut MaybeUninit<usize>>) -> lw_code {
    boundary(|| {
        // Both are cleared, whatever comes after that.
        let (handles, given) = (place("handles", handles, 0), place("given", given, 0));
        let (handles, given) = (handles?, given?);
        (*handles, *given) = (handle::count(), given::count());
        Ok(())
    })
}
