//! The conformance kit, and who passes it. A kit that cannot fail is a defect: `mutants` are drivers with one flaw each.

#[cfg(all(feature = "command", unix))]
mod command;
mod http;
#[cfg(all(feature = "local", unix))]
mod local;
mod memory;
mod mutants;
#[cfg(any(
    all(feature = "command", unix),
    all(feature = "local", unix),
    all(feature = "process", target_os = "linux")
))]
mod place;
#[cfg(all(feature = "process", target_os = "linux"))]
mod process;
