//! Drivers with one flaw each: the check that is meant for it finds it, and no other one does.

use std::time::{Duration, Instant};

use latent_worker::testing::conformance::{Report, Verdict};

use crate::OF_FAULTS;
use crate::memory::{Driver, Flaw, subject};

fn run(flaw: Flaw) -> Report {
    // Nothing lags here, but what comes late by its flaw.
    let settle = if flaw == Flaw::GoesOnAfterReturn { Duration::from_secs(3) } else { Duration::from_millis(300) };
    subject(Driver::family(flaw)).settle(settle).cancel_within(Duration::from_secs(5)).run()
}

/// Exactly this check is broken, and its reason says so.
#[track_caller]
fn caught(flaw: Flaw, check: &str, reason: &str) {
    let report = run(flaw);
    println!("{report}");
    assert_eq!(report.broken(), [check], "{report}");
    assert!(report.not_tried().is_empty(), "{report}");
    let Some(Verdict::Broken(found)) = report.verdict(check) else { panic!("{report}") };
    assert!(found.contains(reason), "{found:?} does not say {reason:?}");
}

#[test]
fn d2_a_start_that_fails_and_leaves_something() {
    caught(Flaw::LeaksOnFailedStart, "d2_failed_start", "left behind after a start that failed and its stop: volume-");
}

#[test]
fn d2_a_start_that_goes_on_after_it_has_returned() {
    caught(Flaw::GoesOnAfterReturn, "d2_nothing_appears_late", "and its stop too: volume-");
}

#[test]
fn d5_a_start_that_ignores_its_cancel() {
    caught(Flaw::IgnoresCancel, "d5_cancelled_slow_start", "has not returned 5s after its cancel");
}

#[test]
fn d3_a_stop_that_fails_when_all_is_gone() {
    caught(Flaw::StopFailsOnGone, "d3_gone_before_stop", "stop_instance failed: no such machine");
}

#[test]
fn j4_a_reclaim_by_the_beginning_of_the_workers_name() {
    caught(Flaw::ReclaimsByWorkersName, "j4_neighbours_survive", "what a neighbour has started is gone: machine-");
}

#[test]
fn j3_a_reclaim_that_works_once() {
    caught(Flaw::ReclaimsOnlyOnce, "j3_reclaim_what_is_gone", "reclaimed already: reclaim failed: no such machine");
}

#[test]
fn d6_a_reclaim_that_believes_a_listing() {
    caught(Flaw::ReclaimsByListing, "d6_lagging_reclaim", "left behind after a reclaim while listings lagged");
}

#[test]
fn a1_an_error_with_the_secret() {
    caught(Flaw::TellsSecretInError, "a1_no_secret_told", "agent --secret <SECRET>");
}

#[cfg(target_os = "linux")]
#[test]
fn a1_a_process_with_the_secret_in_its_arguments() {
    caught(Flaw::ShowsSecretInArguments, "a1_process_arguments", "/cmdline shows the secret");
}

#[cfg(target_os = "linux")]
#[test]
fn a1_a_tool_of_the_start_with_the_secret_in_its_arguments() {
    let report = subject(Driver::family(Flaw::ShowsSecretInPassing)).only("a1_process_arguments").run();
    assert_eq!(report.broken(), ["a1_process_arguments"], "{report}");
}

#[test]
fn d4_what_was_made_is_not_known_by_the_key() {
    caught(
        Flaw::ForgetsKey,
        "d6_error_after_create",
        "left behind after the fault, the stop and the reclaim: machine-",
    );
}

#[test]
fn d4_instances_that_are_named_by_their_worker() {
    caught(Flaw::NamesByWorker, "d4_same_name_elsewhere", "has taken over that of the first one");
}

#[test]
fn d6_throttling_that_is_not_said() {
    caught(Flaw::HidesThrottling, "d6_throttled_start", "does not say FailureCause::Throttled");
}

#[test]
fn d6_a_stop_that_says_it_went_well_when_nobody_answered() {
    caught(Flaw::LiesAboutStop, "d6_unavailable_stop", "says that all went well, and this is still there: machine-");
}

#[test]
fn w11_an_instance_that_fits_everything() {
    caught(Flaw::FitsEverything, "w11_incompatible_build", "says that the running instance fits the other build");
}

#[test]
fn w11_kinds_that_depend_on_more_than_the_properties() {
    let report = subject(Driver::family(Flaw::SaysNewKinds)).only("w11_kinds_agree").run();
    let Some(Verdict::Broken(found)) = report.verdict("w11_kinds_agree") else { panic!("{report}") };
    assert!(found.contains("and the next time"), "{found}");
}

#[test]
fn w11_kinds_that_nobody_asks_for() {
    caught(Flaw::HidesKinds, "w11_kinds_agree", "kind is implemented, and never called");
}

#[test]
fn w11_kinds_that_the_provider_is_asked_for() {
    caught(Flaw::AsksForKinds, "w11_kinds_agree", "with Fault::Unavailable");
}

#[test]
fn w11_kinds_that_are_waited_for() {
    caught(Flaw::IsSlowToSayKinds, "w11_kinds_agree", "it must not wait for anything");
}

#[test]
fn w11_instances_that_do_not_know_their_kinds() {
    caught(
        Flaw::KnowsKindsAlone,
        "w11_kinds_agree",
        "without its kinds: the driver says that the running instance fits",
    );
}

#[test]
fn b3_a_builds_own_fault_that_is_blamed_on_the_provider() {
    caught(Flaw::BlamesProviderForBuild, "b3_impossible_build", "the error is not CannotSubstantiate");
}

#[test]
fn j1_an_id_that_could_not_be_recorded() {
    caught(Flaw::IgnoresRefusedRecord, "j1_record_refused", "that no next master can find");
}

#[test]
fn d6_a_stop_that_believes_a_listing() {
    caught(Flaw::StopsByListing, "d6_lagging_list", "left behind after lives while listings lagged: machine-");
}

#[test]
fn j3_a_reclaim_that_does_nothing() {
    let report = subject(Driver::family(Flaw::ReclaimsNothing)).only("j3_reclaim_after").settle(Duration::ZERO).run();
    assert_eq!(report.broken(), ["j3_reclaim_after_crash"], "{report}");
}

#[test]
fn j2_a_reclaim_by_what_was_recorded_alone() {
    caught(
        Flaw::ReclaimsRecordedIdsAlone,
        "j2_crash_in_start",
        "left behind after the reclaim of what was made and not",
    );
}

#[test]
fn w5_a_start_that_leaves_something_when_it_is_cancelled_at_once() {
    caught(
        Flaw::LeaksWhenCancelledAtOnce,
        "w5_cancelled_at_once",
        "left behind after a start that was cancelled at once",
    );
}

#[test]
fn w5_a_start_that_leaves_something_when_it_is_cancelled_midway() {
    caught(Flaw::LeaksWhenCancelledMidway, "w5_cancelled_midway", "left behind after a start that was cancelled");
}

#[test]
fn d6_a_start_that_leaves_something_when_its_machine_vanishes() {
    caught(Flaw::LeaksWhenVanished, "d6_vanishes", "left behind after the fault, the stop and the reclaim: volume-");
}

#[test]
fn d6_a_stop_that_says_it_went_well_when_it_was_throttled() {
    caught(Flaw::LiesWhenThrottled, "d6_throttled_stop", "says that all went well, and this is still there: machine-");
}

#[test]
fn d6_a_build_that_is_blamed_for_the_provider() {
    caught(Flaw::BlamesBuildForProvider, "d6_unavailable_start", "nobody is to blame but the provider");
}

/// Some flaws are against several promises at once, or several checks come across them.
#[track_caller]
fn caught_by(flaw: Flaw, checks: &[&str]) {
    let subject = subject(Driver::family(flaw)).settle(Duration::from_millis(300)).patience(Duration::from_secs(5));
    let report = subject.run();
    println!("{report}");
    assert_eq!(report.broken(), checks, "{report}");
}

#[test]
fn s1_a_fast_stop_that_is_too_fast() {
    caught_by(Flaw::SkipsRemovalWhenFast, &["s1_fast_stop", "s0_hurried_stop", "s2_shutdown"]);
}

#[test]
fn s0_a_stop_that_ignores_its_hurry() {
    let subject = subject(Driver::family(Flaw::IgnoresHurry)).cancel_within(Duration::from_millis(100));
    let report = subject.only("s0_").run();
    let Some(Verdict::Broken(reason)) = report.verdict("s0_hurried_stop") else { panic!("{report}") };
    assert!(reason.contains("after it had become a fast one"), "{reason}");
}

#[test]
fn d3_what_is_gone_is_no_error() {
    let checks = ["d3_gone_before_stop", "j3_reclaim_what_is_gone", "d6_error_after_remove"];
    let subject = subject(Driver::family(Flaw::FailsToRemoveWhatIsGone)).settle(Duration::from_millis(300));
    let report = subject.patience(Duration::from_secs(5)).run();
    println!("{report}");
    for check in checks {
        assert!(report.broken().contains(&check), "{check}: {report}");
    }
}

#[test]
fn b1_instances_that_are_not_their_own() {
    let report = subject(Driver::family(Flaw::SharesOneMachine)).patience(Duration::from_secs(5)).only("b1_").run();
    let Some(Verdict::Broken(reason)) = report.verdict("b1_parallel_starts") else { panic!("{report}") };
    assert!(reason.starts_with("4 instances are up, and the subject lists only machine-"), "{reason}");
}

#[test]
fn w1_a_driver_that_starts_once() {
    for (name, reason) in [("w1_start_after", "there is one already"), ("w4_", "there is one already")] {
        let report = subject(Driver::family(Flaw::StartsOnce)).only(name).run();
        let [finding] = report.findings() else { panic!("{report}") };
        assert!(finding.verdict.reason().unwrap().contains(reason), "{report}");
        assert_eq!(report.broken(), [finding.name]);
    }
}

#[test]
fn w10_a_check_that_waits_for_no_agent() {
    let report = subject(Driver::family(Flaw::ChecksBadly)).only("w10_agent").run();
    let Some(Verdict::Broken(reason)) = report.verdict("w10_agent_never_comes") else { panic!("{report}") };
    assert_eq!(reason, "check_instance: no agent has come yet");
}

#[test]
fn w14_a_driver_that_panics() {
    let report = subject(Driver::family(Flaw::Panics)).settle(Duration::from_millis(10)).run();
    let Some(Verdict::Broken(reason)) = report.verdict("w14_no_panic") else { panic!("{report}") };
    assert!(reason.contains("start_instance of conformance (master 1, attempt 1) panicked"), "{reason}");
}

/// Nothing good is said about what cannot be waited for.
#[test]
fn w10_a_check_that_finds_nothing() {
    let subject = subject(Driver::family(Flaw::ChecksNothing)).patience(Duration::from_secs(3));
    let report = subject.only("w10").run();
    assert_eq!(report.broken(), ["w10_dies_before_attach"], "{report}");
}

/// Every check comes to its end, and none of those holds that need a start that returns.
#[test]
fn a_start_that_hangs_does_not_hang_the_kit() {
    let begun = Instant::now();
    let subject = subject(Driver::family(Flaw::HangsInStart)).patience(Duration::from_millis(200));
    let report = subject.settle(Duration::from_millis(10)).cancel_within(Duration::from_millis(100)).run();
    println!("{report}");
    for check in ["d1_whole_life", "b1_parallel_starts", "s2_shutdown", "j2_crash_in_start", "w5_cancelled_at_once"] {
        let verdict = report.verdict(check).unwrap();
        assert!(matches!(verdict, Verdict::Broken(reason) if reason.contains("start_instance")), "{check}: {report}");
    }
    let holds: Vec<_> = report
        .findings()
        .iter()
        .filter(|finding| finding.verdict == Verdict::Holds)
        .map(|finding| finding.name)
        .collect();
    assert_eq!(holds, ["w1_one_call_at_a_time", "d4_unique_keys", "w14_no_panic", "a1_no_secret_told"]);
    assert!(begun.elapsed() < Duration::from_secs(120));
}

/// What the author gives no means for is never said to hold.
#[test]
fn a_subject_without_means_is_not_tried() {
    use latent_worker::testing::conformance::Subject;
    let cloud = crate::memory::Cloud::default();
    let (make, list) = (cloud.clone(), cloud);
    let report =
        Subject::new("bare", move || Driver::new(&make), move || list.names()).settle(Duration::from_millis(10)).run();
    let of_lives = [
        "d3_gone_before_stop",
        "w10_dies_before_attach",
        "w11_incompatible_build",
        "d2_failed_start",
        "b3_impossible_build",
    ];
    report.expect_all_but(&[&of_lives, OF_FAULTS].concat());
}

/// A list that shows nothing would let everything hold.
#[test]
fn a_list_that_shows_nothing_is_found_out() {
    use latent_worker::testing::conformance::Subject;
    let cloud = crate::memory::Cloud::default();
    let report = Subject::new("blind", move || Driver::new(&cloud), Vec::new).only("d1").run();
    assert_eq!(report.broken(), ["d1_whole_life"]);
}

#[test]
fn a_closure_that_panics_is_a_broken_check() {
    use latent_worker::testing::conformance::Subject;
    let cloud = crate::memory::Cloud::default();
    let report = Subject::new("bad", move || Driver::new(&cloud), || panic!("no provider")).only("d1").run();
    let Some(Verdict::Broken(reason)) = report.verdict("d1_whole_life") else { panic!("{report}") };
    assert!(reason.contains("no provider"), "{reason}");
}
