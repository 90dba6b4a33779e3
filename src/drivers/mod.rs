//! The kinds of workers that come with the library, one feature each. They use nothing but what every user can.
//!
//! # What proves that an instance is gone
//!
//! A reclaim returns [`Gone`](crate::Reclaimed::Gone) after it has checked the following. The lock of the journal is a
//! part of the proof: a child that a dead master has just forked holds the lock until the child executes its program.
//!
//! | driver | what is checked | what the check cannot find |
//! |---|---|---|
//! | local | on Linux every process with the directory as `LATENT_WORKER_INSTANCE` in its environment, and the groups that such processes lead, after they were killed; then the directory | a process that has changed its user or this variable |
//! | command | on Linux every process with the key as `LATENT_WORKER_KEY` in its environment: no such process existed when the last run of the reclaim program began, and that run has succeeded | a process that has changed its user or this variable; what the reclaim program does not find |
//! | process | on Linux every process with the key in its environment, and the agent by its number and start time, after they were killed | a process other than the agent that has changed its user or this variable |
//! | docker | the containers with the labels of the attempt and the one with its name; if no id was recorded, the engine may still create a container, and the result is `Pending` until that can no longer happen | a container that the engine creates even later; an engine other than the recorded one is an error |
//! | ec2 | the machines, requests and parameters with the tags of the attempt, and those that were recorded; the result is `Pending` until a lookup can be trusted | a machine that the provider lists later than expected |
//!
//! A process also hides its variables when it releases the memory that holds them, or when it forbids a master that is
//! not root to read it (`PR_SET_DUMPABLE`). It is then found only in a group that a process with the variable leads.
//!
//! On systems other than Linux the first three cannot find processes and return `Unsupported`. Processes that have
//! survived a kill by this master are identified by number and start time, whatever their user: see
//! `orphans::Survivors`.

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

// Shared by the drivers that take credentials and addresses.
#[cfg(any(all(feature = "docker", unix), feature = "ec2"))]
mod given;
#[cfg(any(all(feature = "docker", unix), feature = "ec2"))]
mod veil;

// What those have in common that say which kind of instance a build needs.
#[cfg(any(all(any(feature = "command", feature = "docker", feature = "process"), unix), feature = "ec2"))]
mod kinds;

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

// Shared by the drivers that create a directory for each instance.
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
