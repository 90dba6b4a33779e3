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

/// The checks of the faults that a provider can have.
const OF_FAULTS: &[&str] = &[
    "d6_error_after_create",
    "d6_error_after_remove",
    "d6_throttled_start",
    "d6_throttled_stop",
    "d6_unavailable_start",
    "d6_unavailable_stop",
    "d6_lagging_list",
    "d6_lagging_reclaim",
    "d6_vanishes",
    "d5_cancelled_slow_start",
];
