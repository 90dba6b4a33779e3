//! The kinds of workers that come with the library, one feature each. They use nothing but what every user can.

#[cfg(all(feature = "command", unix))]
pub(crate) mod command;
#[cfg(all(feature = "docker", unix))]
pub(crate) mod docker;
#[cfg(feature = "ec2")]
pub(crate) mod ec2;
#[cfg(all(feature = "local", unix))]
pub(crate) mod local;
#[cfg(all(feature = "process", unix))]
pub(crate) mod process;

// What those have in common whose settings depend on the build.
#[cfg(all(feature = "docker", unix))]
pub(crate) mod byte_size;
#[cfg(any(all(feature = "docker", unix), feature = "ec2"))]
pub(crate) mod setting;

// What those have in common that are given credentials and addresses.
#[cfg(any(all(feature = "docker", unix), feature = "ec2"))]
mod given;
#[cfg(any(all(feature = "docker", unix), feature = "ec2"))]
mod veil;

// What those have in common whose instances are known by labels or tags.
#[cfg(any(all(feature = "docker", unix), feature = "ec2"))]
mod identity;

// What those have in common that look something up, or fetch it, before an instance is made.
#[cfg(any(all(feature = "docker", unix), feature = "ec2"))]
mod turns;

// What those have in common that tell an agent who it is.
#[cfg(all(any(feature = "command", feature = "docker", feature = "process"), unix))]
mod variables;

// What those have in common that run programs of the user.
#[cfg(all(any(feature = "command", feature = "process"), unix))]
mod environment;
#[cfg(all(any(feature = "command", feature = "process"), unix))]
mod program;
#[cfg(all(any(feature = "command", feature = "process"), unix))]
mod program_log;
#[cfg(all(any(feature = "command", feature = "process"), unix))]
mod program_output;

// What those have in common that make a directory for each instance.
#[cfg(all(any(feature = "local", feature = "process"), unix))]
mod directory;

// What those have in common that run anything on this machine.
#[cfg(all(any(feature = "command", feature = "local", feature = "process"), unix))]
mod orphans;
#[cfg(all(any(feature = "command", feature = "local", feature = "process"), unix))]
mod pipe;
#[cfg(all(any(feature = "command", feature = "local", feature = "process"), unix))]
mod process_group;
#[cfg(all(any(feature = "command", feature = "local", feature = "process"), unix))]
mod processes;
