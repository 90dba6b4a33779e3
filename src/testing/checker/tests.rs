//! Tests that the checker reports each rule when it is broken, with handwritten records.

use std::time::Duration;

use super::{EventChecker, Rule, Violations};
use crate::{BuildId, BuildResult, Event, EventKind, StopCause};

const SECOND: Duration = Duration::from_secs(1);

/// Builds a record; each event is one second after the previous one.
#[derive(Clone, Default)]
struct Record(Vec<Event>);

impl Record {
    fn push(mut self, worker: Option<&str>, epoch: u64, build: u64, kind: EventKind) -> Self {
        let sequence = self.0.len() as u64;
        let at = SECOND * u32::try_from(sequence).unwrap();
        let (epoch, build) = (worker.map(|_| epoch), (build > 0).then_some(build));
        self.0.push(Event::made_by_hand(sequence, at, worker, epoch, build, kind));
        self
    }

    fn of_w(self, epoch: u64, build: u64, kind: EventKind) -> Self {
        self.push(Some("w"), epoch, build, kind)
    }

    fn queued(self, build: u64) -> Self {
        self.push(None, 0, build, EventKind::BuildQueued { name: "a build".into(), retry: None })
    }

    fn came_back(self, build: u64) -> Self {
        self.push(None, 0, build, EventKind::BuildQueued { name: "a build".into(), retry: Some("lost".into()) })
    }

    fn finished(self, build: u64) -> Self {
        self.push(None, 0, build, EventKind::BuildFinished { result: BuildResult::Succeeded })
    }

    fn start(self, epoch: u64) -> Self {
        self.of_w(epoch, 0, EventKind::StartCalled)
    }

    fn start_returned(self, epoch: u64) -> Self {
        self.of_w(epoch, 0, EventKind::StartReturned { result: Ok(Vec::new()) })
    }

    fn attached(self, epoch: u64) -> Self {
        self.of_w(epoch, 0, EventKind::Attached)
    }

    fn detached(self, epoch: u64) -> Self {
        self.of_w(epoch, 0, EventKind::Detached { reason: "gone".into() })
    }

    fn up(self, epoch: u64) -> Self {
        self.start(epoch).attached(epoch).start_returned(epoch)
    }

    fn lease(self, epoch: u64, build: u64) -> Self {
        self.of_w(epoch, build, EventKind::BuildStarted)
    }

    fn released(self, epoch: u64, build: u64) -> Self {
        self.of_w(epoch, build, EventKind::Released { end: None })
    }

    fn stop(self, epoch: u64) -> Self {
        self.of_w(epoch, 0, EventKind::StopCalled { fast: false, cause: StopCause::Idle })
    }

    fn stop_returned(self, epoch: u64) -> Self {
        self.of_w(epoch, 0, EventKind::StopReturned { result: Ok(()) })
    }

    fn down(self, epoch: u64) -> Self {
        self.stop(epoch).detached(epoch).stop_returned(epoch)
    }

    /// Two builds on one instance with two places, from beginning to end.
    fn two_builds() -> Self {
        let running = Self::default().queued(1).queued(2).up(1).lease(1, 1).lease(1, 2);
        running.released(1, 1).finished(1).released(1, 2).finished(2).down(1)
    }

    fn breaks(&self, checker: &EventChecker, rule: Rule) -> Violations {
        let violations = checker.check_ended(&self.0).expect_err("the record is broken");
        assert!(violations.breaks(rule), "{rule:?} is expected, but {violations}");
        violations
    }
}

fn breaks(rule: Rule, record: Record) {
    record.breaks(&EventChecker::new().with_max_builds(2), rule);
}

#[test]
fn a_good_record_is_accepted_and_summed_up() {
    let record = Record::two_builds();
    let summary = EventChecker::new().with_max_builds(2).check_ended(&record.0).unwrap();
    assert_eq!((summary.builds, summary.leases, summary.most_leases), (2, 2, 2));
    assert_eq!((summary.starts["w"], summary.stops, summary.total_starts()), (1, 1, 1));
    EventChecker::new()
        .check_ended(&Record::default().up(1).lease(1, 0).released(1, 0).down(1).up(2).down(2).0)
        .unwrap();
}

#[test]
fn every_event_of_a_record_is_missed_when_it_is_removed() {
    let whole = Record::two_builds().0;
    for index in 0..whole.len() {
        let mut events = whole.clone();
        let removed = events.remove(index);
        for (number, event) in events.iter_mut().enumerate() {
            event.sequence = number as u64;
        }
        assert!(EventChecker::new().check_ended(&events).is_err(), "{removed} was not missed");
    }
}

#[test]
fn every_event_of_a_record_is_noticed_when_it_comes_twice() {
    let whole = Record::two_builds().0;
    for index in 0..whole.len() {
        let mut events = whole.clone();
        events.insert(index, events[index].clone());
        for (number, event) in events.iter_mut().enumerate() {
            event.sequence = number as u64;
        }
        assert!(EventChecker::new().check_ended(&events).is_err(), "{} came twice", whole[index]);
    }
}

#[test]
fn the_record_rule_sees_gaps_time_that_goes_back_and_events_of_other_attempts() {
    let mut gap = Record::two_builds();
    gap.0[3].sequence += 1;
    breaks(Rule::Record, gap);
    let mut back = Record::two_builds();
    back.0[3].at = Duration::ZERO;
    breaks(Rule::Record, back);
    breaks(Rule::Record, Record::default().up(1).down(1).up(1).down(1));
    breaks(Rule::Record, Record::default().up(2).of_w(1, 0, EventKind::CheckCalled));
}

#[test]
fn w1_the_rule_of_one_call_sees_calls_that_overlap_and_calls_that_do_not_return() {
    breaks(Rule::OneCall, Record::default().start(1).stop(1));
    breaks(Rule::OneCall, Record::default().up(1).of_w(1, 0, EventKind::CheckCalled).stop(1));
    breaks(Rule::OneCall, Record::default().stop_returned(1));
    breaks(Rule::OneCall, Record::default().up(1).stop(1));
    breaks(Rule::OneCall, Record::default().up(1).stop(1).start(2));
    breaks(Rule::OneCall, Record::default().start(1));
}

#[test]
fn w2_the_rule_of_one_stop_sees_a_second_stop_and_a_start_without_a_stop() {
    breaks(Rule::OneStop, Record::default().up(1));
    breaks(Rule::OneStop, Record::default().up(1).down(1).stop(1));
    breaks(Rule::OneStop, Record::default().up(1).up(2).down(2));
    let failed = EventKind::StartReturned { result: Err("no".into()) };
    breaks(Rule::OneStop, Record::default().start(1).of_w(1, 0, failed));
}

#[test]
fn the_rule_of_attached_sees_leases_without_an_agent_and_stops_below_leases() {
    breaks(Rule::Attached, Record::default().start(1).start_returned(1).lease(1, 0));
    breaks(Rule::Attached, Record::default().up(1).stop(1).lease(1, 0));
    breaks(Rule::Attached, Record::default().up(1).lease(1, 0).stop(1));
    breaks(Rule::Attached, Record::default().up(1).attached(1));
    breaks(Rule::Attached, Record::default().start(1).detached(1));
}

#[test]
fn b6_the_rule_of_places_sees_too_many_leases_and_leases_that_do_not_match() {
    Record::two_builds().breaks(&EventChecker::new().with_max_builds(1), Rule::Places);
    Record::two_builds().breaks(&EventChecker::new().with_max_builds(5).with_max_builds_of("w", 1), Rule::Places);
    EventChecker::new().with_max_builds(1).with_max_builds_of("w", 2).check_ended(&Record::two_builds().0).unwrap();
    breaks(Rule::Places, Record::default().up(1).released(1, 0));
    breaks(Rule::Places, Record::default().queued(1).up(1).lease(1, 1).lease(1, 1));
    breaks(Rule::Places, Record::default().up(1).lease(1, 0));
}

#[test]
fn the_rule_of_one_end_sees_builds_without_an_end_and_with_two() {
    breaks(Rule::OneEnd, Record::default().queued(1));
    breaks(Rule::OneEnd, Record::default().queued(1).finished(1).finished(1));
    breaks(Rule::OneEnd, Record::default().finished(1));
    breaks(Rule::OneEnd, Record::default().queued(1).queued(1).finished(1));
    breaks(Rule::OneEnd, Record::default().came_back(1).finished(1));
}

#[test]
fn w5_the_rule_of_after_end_sees_what_is_done_for_a_build_that_has_ended() {
    let ended = || Record::default().queued(1).finished(1);
    breaks(Rule::AfterEnd, ended().of_w(1, 1, EventKind::StartCalled));
    breaks(Rule::AfterEnd, ended().up(1).lease(1, 1));
    breaks(Rule::AfterEnd, ended().came_back(1));
    breaks(Rule::AfterEnd, Record::default().queued(1).up(1).lease(1, 1).finished(1).released(1, 1));
}

#[test]
fn b7_the_rule_of_liveness_sees_builds_that_wait_beside_a_free_place() {
    let strict = EventChecker::new().with_max_builds(1).with_liveness(SECOND, |_, _| true);
    let waits = |record: Record| record.check_liveness(&strict);
    // The place is free when the start has returned: two seconds until the lease.
    let late = |record: Record| record.queued(2).lease(1, 1).released(1, 1).finished(1).finished(2).down(1);
    assert!(waits(late(Record::default().queued(1).up(1))));
    // The place is gone without having been given.
    assert!(waits(Record::default().queued(1).up(1).queued(2).down(1).finished(1).finished(2)));
    // Too long for a place that was free before the build came.
    assert!(waits(Record::default().up(1).queued(1).queued(2).finished(1).finished(2).down(1)));
    // In time.
    assert!(!waits(Record::default().queued(1).up(1).lease(1, 1).released(1, 1).finished(1).down(1)));
    // No free place: full, paused, in quarantine, bad, not attached.
    let beside =
        |record: Record| waits(record.queued(1).queued(2).queued(3).finished(1).finished(2).finished(3).down(1));
    assert!(beside(Record::default().up(1)));
    assert!(!beside(Record::default().up(1).of_w(1, 0, EventKind::Paused)));
    let quarantined = EventKind::Quarantined { length: SECOND * 100, reason: "bad".into() };
    assert!(!beside(Record::default().up(1).of_w(1, 0, quarantined.clone())));
    let lifted = EventKind::QuarantineLifted { reason: "good".into() };
    for ends in [EventKind::Unpaused, lifted] {
        assert!(beside(Record::default().up(1).of_w(1, 0, quarantined.clone()).of_w(1, 0, ends)));
    }
    let check = || Record::default().up(1).of_w(1, 0, EventKind::CheckCalled);
    assert!(beside(check().of_w(1, 0, EventKind::CheckReturned { result: Ok(()) })));
    assert!(!beside(check().of_w(1, 0, EventKind::CheckReturned { result: Err("soon".into()) })));
    assert!(!beside(Record::default().start(1).start_returned(1)));
    assert!(!beside(Record::default().up(1).lease(1, 0)));
    assert!(!beside(Record::default().up(1).push(None, 0, 0, EventKind::Shutdown { fast: true })));
}

#[test]
fn b7_liveness_asks_which_builds_fit_and_allows_for_the_pause_of_builds_that_come_back() {
    let record = Record::default().up(1).queued(1).queued(2).queued(3).finished(1).finished(2).finished(3).down(1);
    let fits = |build: u64| move |id: BuildId, worker: &str| id.get() == build && worker == "w";
    assert!(record.check_liveness(&EventChecker::new().with_liveness(SECOND, fits(1))));
    assert!(!record.check_liveness(&EventChecker::new().with_liveness(SECOND, fits(4))));
    let retried = Record::default().queued(1).up(1).came_back(1);
    let retried = retried.queued(2).queued(3).finished(1);
    assert!(!retried.check_liveness(&EventChecker::new().with_liveness(SECOND, fits(1))));
}

#[test]
fn b7_a_quiet_master_has_no_build_that_waits_beside_a_free_place() {
    let checker = EventChecker::new().with_liveness(SECOND * 100, |_, _| true);
    let waits = Record::default().up(1).queued(1);
    checker.check(&waits.0).unwrap();
    assert!(checker.check_quiet(&waits.0).unwrap_err().breaks(Rule::Liveness));
    checker.check_quiet(&Record::default().queued(1).start(1).0).unwrap();
}

#[test]
fn rules_can_be_left_out_and_violations_are_described_and_bounded() {
    let record = Record::default().queued(1).finished(1).finished(1);
    EventChecker::new().without(Rule::OneEnd).check_ended(&record.0).unwrap();
    let message = EventChecker::new().check_ended(&record.0).unwrap_err().to_string();
    assert!(message.contains("OneEnd: a second end (event 2 at 2.000 s: build finished, build #1)"), "{message}");
    let many = (0..1000).fold(Record::default(), |record, _| record.stop_returned(1));
    assert_eq!(EventChecker::new().check_ended(&many.0).unwrap_err().iter().count(), super::MOST_VIOLATIONS);
}

impl Record {
    fn check_liveness(&self, checker: &EventChecker) -> bool {
        let checker = checker.clone();
        let without = [Rule::Record, Rule::OneCall, Rule::OneStop, Rule::Attached, Rule::Places, Rule::OneEnd];
        let checker = without.into_iter().fold(checker, EventChecker::without);
        checker.check(&self.0).is_err_and(|violations| violations.breaks(Rule::Liveness))
    }
}
