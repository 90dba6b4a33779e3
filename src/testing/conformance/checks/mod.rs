//! All checks, in the order in which they are run. What may show late comes last.

mod faults;
mod kinds;
mod life;
mod reclaim;
mod starts;
mod together;

use super::stage::{Proved, Stage};

pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) promises: &'static str,
    pub(super) what: &'static str,
    pub(super) run: fn(&Stage) -> Proved,
}

const fn check(name: &'static str, promises: &'static str, what: &'static str, run: fn(&Stage) -> Proved) -> Check {
    Check { name, promises, what, run }
}

pub(super) const ALL: &[Check] = &[
    check("d1_whole_life", "D1", "start, attach, a build, stop: all gone", life::whole),
    check("a1_process_arguments", "A1", "no process shows the secret in its arguments", life::arguments),
    check("w1_start_after_stop", "W1, D4", "a second life after the first", life::twice),
    check("w4_start_behind_stop", "W4, W1", "a start asked for while the stop runs", life::queued),
    check("b1_parallel_starts", "B1, W14", "4 starts and stops at once with one driver", life::parallel),
    check("d4_same_name_elsewhere", "D4, J4", "two masters with workers of one name", life::same_name),
    check("w10_agent_never_comes", "W10, W5", "checks are good while no agent comes; then cancel", life::silent),
    check("w10_dies_before_attach", "W10, D3", "the instance ends before its agent attaches", life::dies),
    check("w11_incompatible_build", "W11", "a build that does not fit recycles the instance", life::incompatible),
    check("w11_kinds_agree", "W11", "kinds are pure, and those of the instances", kinds::agree),
    check("s1_fast_stop", "S1", "a fast stop in the middle of a build", life::fast),
    check("s0_hurried_stop", "S0", "a stop that becomes a fast one returns soon", life::hurried),
    check("s2_shutdown", "S1, S2", "shutdown with 2 instances up and 1 that waits", life::shutdown),
    check("d3_gone_before_stop", "D3", "removed by somebody else, then stopped", life::gone_before_stop),
    check(
        "j3_reclaim_after_crash",
        "J3, J2",
        "a crash after the start: the next master reclaims",
        reclaim::after_start,
    ),
    check("j3_reclaim_what_is_gone", "J3, D3", "reclaimed already, removed by others, never made", reclaim::gone),
    check("j2_crash_in_start", "J2, J3", "a crash before what was made is recorded", reclaim::in_start),
    check("j4_neighbours_survive", "J4", "reclaim with neighbours of like name and same owner", reclaim::neighbours),
    check(
        "d6_error_after_create",
        "D6, D4",
        "created, and the driver is told that it failed",
        faults::error_after_create,
    ),
    check(
        "d6_error_after_remove",
        "D6, D3",
        "removed, and the driver is told that it failed",
        faults::error_after_remove,
    ),
    check("d6_throttled_start", "D6, W12", "too many requests in a start: said so, or waited", faults::throttled_start),
    check("d6_throttled_stop", "D6, J5", "too many requests in a stop: nothing is lost", faults::throttled_stop),
    check("d6_unavailable_start", "D6, D2", "the provider is down in a start", faults::unavailable_start),
    check("d6_unavailable_stop", "D6, J5", "the provider is down in a stop: nothing is lost", faults::unavailable_stop),
    check("d6_lagging_list", "D6", "a life while listings lag", faults::lagging_life),
    check("d6_lagging_reclaim", "D6, J3", "a crash and a reclaim while listings lag", faults::lagging_reclaim),
    check("d6_vanishes", "D6, D3", "what a start makes is gone before it returns", faults::vanishes),
    check("d2_failed_start", "D2, W2", "a start that fails leaves nothing", starts::failed),
    check("b3_impossible_build", "B3, D2", "a build that can never be: said so, nothing left", starts::impossible),
    check("j1_record_refused", "J1, D2", "what was made cannot be recorded: it fails clean", starts::record_refused),
    check("w5_cancelled_midway", "W5, D2", "cancelled when something was made", starts::cancelled_midway),
    check("w5_cancelled_at_once", "W5, D2", "cancelled before the start does anything", starts::cancelled_at_once),
    check("d5_cancelled_slow_start", "D5, W5", "a slow start returns soon when cancelled", faults::cancelled_slow),
    check("d2_nothing_appears_late", "D2", "nothing appears after all was stopped", together::nothing_late),
    check("w1_one_call_at_a_time", "W1", "of all calls of this run none overlap", together::one_at_a_time),
    check("w2_one_stop_per_start", "W2", "of all starts of this run each has one stop", together::one_stop),
    check("d4_unique_keys", "D4", "all starts of this run have keys of their own", together::unique_keys),
    check("w14_no_panic", "W14", "no call of this run has panicked", together::no_panic),
    check("a1_no_secret_told", "A1", "no secret in errors, events, details, Debug, journals", together::no_secret),
];
