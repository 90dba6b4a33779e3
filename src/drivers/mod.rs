//! The kinds of workers that come with the library, one feature each. They use nothing but what every user can.

#[cfg(all(feature = "command", unix))]
pub(crate) mod command;
#[cfg(all(feature = "local", unix))]
pub(crate) mod local;

// What those have in common that run programs on this machine.
#[cfg(all(any(feature = "command", feature = "local"), unix))]
mod orphans;
#[cfg(all(any(feature = "command", feature = "local"), unix))]
mod pipe;
#[cfg(all(any(feature = "command", feature = "local"), unix))]
mod process_group;
