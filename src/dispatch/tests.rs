//! One short scenario for each rule of the queue and the choice.

use super::Openness::{Attached, Closed, Down, Starting, Stopping};
use super::*;

const IDLE: Openness = Attached { unused: true };
const IN_USE: Openness = Attached { unused: false };

fn labels(words: &str) -> Labels {
    words.split_whitespace().collect()
}

/// A dispatch whose workers do as they are told.
#[derive(Default)]
struct Shop {
    dispatch: Dispatch,
    version: u64,
    builds: u64,
}

impl Shop {
    /// A driver that is never asked.
    fn worker(&mut self, openness: Openness) -> WorkerIndex {
        self.worker_with("", false, openness)
    }

    /// A driver that is asked.
    fn picky(&mut self, openness: Openness) -> WorkerIndex {
        self.worker_with("", true, openness)
    }

    fn worker_with(&mut self, offers: &str, may_be_incompatible: bool, openness: Openness) -> WorkerIndex {
        let index = WorkerIndex(self.dispatch.workers.len() as u32);
        let facts = Facts { version: 0, epoch: Epoch(1), openness };
        self.dispatch.add_worker(index, format!("w{}", index.0).into(), labels(offers), may_be_incompatible, facts);
        index
    }

    fn tell(&mut self, worker: WorkerIndex, openness: Openness) {
        self.tell_epoch(worker, openness, 1);
    }

    fn tell_epoch(&mut self, worker: WorkerIndex, openness: Openness, epoch: u64) {
        self.version += 1;
        self.dispatch.facts(worker, Facts { version: self.version, epoch: Epoch(epoch), openness });
    }

    fn submit(&mut self, build: Build) -> BuildId {
        let (id, orders) = self.try_submit(build);
        assert_eq!(orders, []);
        id
    }

    fn try_submit(&mut self, build: Build) -> (BuildId, Orders) {
        self.builds += 1;
        let id = BuildId(self.builds);
        (id, collect(|orders| self.dispatch.submit(id, &build, orders)))
    }

    fn plain(&mut self) -> BuildId {
        self.submit(Build::new("plain"))
    }

    fn round(&mut self) -> Orders {
        collect(|orders| self.dispatch.dispatch(orders))
    }

    /// A round that gives the build to the worker and nothing else; the worker is then as `openness` says.
    fn hand_over(&mut self, build: BuildId, worker: WorkerIndex, fit: Fit, openness: Openness) {
        assert_eq!(self.round(), [Order::Assign { build, worker, fit }]);
        assert_eq!(self.report(build, worker), []);
        self.tell(worker, openness);
    }

    fn report(&mut self, build: BuildId, worker: WorkerIndex) -> Orders {
        collect(|orders| self.dispatch.assigned(build, worker, orders))
    }

    fn answer(&mut self, build: BuildId, worker: WorkerIndex, answer: WorkerAnswer) -> Orders {
        collect(|orders| self.dispatch.answered(build, worker, answer, orders))
    }

    fn granted(&mut self, build: BuildId, worker: WorkerIndex) -> Orders {
        self.answer(build, worker, WorkerAnswer::Granted { epoch: Epoch(1) })
    }

    fn failed(&mut self, build: BuildId, worker: WorkerIndex) -> Orders {
        self.answer(build, worker, WorkerAnswer::Failed { epoch: Epoch(1), reason: "no network".into() })
    }

    fn incompatible(&mut self, build: BuildId, worker: WorkerIndex) {
        assert_eq!(self.answer(build, worker, WorkerAnswer::Incompatible { epoch: Epoch(1) }), []);
    }

    fn cancel(&mut self, build: BuildId) -> (bool, Orders) {
        let mut orders = Orders::new();
        (self.dispatch.cancel(build, &mut orders), orders)
    }

    fn retry(&mut self, build: BuildId) -> Orders {
        collect(|orders| self.dispatch.retry(build, "connection lost".into(), orders))
    }

    fn shutdown(&mut self) -> Orders {
        collect(|orders| self.dispatch.shutdown(orders))
    }

    fn state(&self, build: BuildId) -> BuildState {
        self.dispatch.status(build).expect("the build has not ended").state
    }
}

fn collect(fill: impl FnOnce(&mut Orders)) -> Orders {
    let mut orders = Orders::new();
    fill(&mut orders);
    orders
}

fn assign(build: BuildId, worker: WorkerIndex, fit: Fit) -> Order {
    Order::Assign { build, worker, fit }
}

fn cancelled(build: BuildId) -> Order {
    Order::Answer { build, error: BuildError::Cancelled }
}

fn shut_down(build: BuildId) -> Order {
    Order::Answer { build, error: BuildError::ShutDown }
}

fn attempt(worker: &str, reason: &str) -> Attempt {
    Attempt { worker: worker.into(), epoch: Epoch(1), reason: reason.into() }
}

#[test]
fn b1_attached_is_preferred_to_down_to_stopping_to_joining() {
    let mut shop = Shop::default();
    let starting = shop.worker(Starting);
    let stopping = shop.worker(Stopping);
    let down = shop.worker(Down);
    let idle = shop.worker(IDLE);
    let builds = [shop.plain(), shop.plain(), shop.plain(), shop.plain()];
    let best_first = [idle, down, stopping, starting];
    let expected: Orders = (0..4).map(|i| assign(builds[i], best_first[i], Fit::Always)).collect();
    assert_eq!(shop.round(), expected);
}

#[test]
fn b1_among_equals_the_first_worker_is_taken() {
    let mut shop = Shop::default();
    let far = shop.worker_with("a", false, IDLE);
    let near = shop.worker_with("b", false, IDLE);
    let (first, second, third) = (shop.plain(), shop.plain(), shop.plain());
    assert_eq!(shop.round(), [assign(first, far, Fit::Always), assign(second, near, Fit::Always)]);
    assert!(matches!(shop.state(third), BuildState::Waiting { .. }));
}

#[test]
fn b1_starts_for_different_builds_run_in_parallel() {
    let mut shop = Shop::default();
    let workers = [shop.picky(Down), shop.picky(Down), shop.picky(Down)];
    let builds = [shop.plain(), shop.plain(), shop.plain()];
    let expected: Orders = (0..3).map(|i| assign(builds[i], workers[i], Fit::Ask)).collect();
    assert_eq!(shop.round(), expected);
}

#[test]
fn b1_only_workers_whose_labels_fit_are_offered() {
    let mut shop = Shop::default();
    shop.worker_with("linux", false, IDLE);
    let both = shop.worker_with("linux gpu", false, Down);
    shop.worker_with("gpu", false, IDLE);
    let build = shop.submit(Build::new("b").with_label("gpu").with_label("linux"));
    assert_eq!(shop.round(), [assign(build, both, Fit::Always)]);
}

#[test]
fn b1_a_closed_worker_is_offered_nothing_until_it_opens() {
    let mut shop = Shop::default();
    let worker = shop.worker(Closed);
    let build = shop.plain();
    assert_eq!(shop.round(), []);
    shop.tell(worker, Down);
    assert_eq!(shop.round(), [assign(build, worker, Fit::Always)]);
}

#[test]
fn b1_a_start_is_joined_only_where_the_driver_is_never_asked() {
    let mut shop = Shop::default();
    shop.picky(Starting);
    let build = shop.plain();
    assert_eq!(shop.round(), []);
    let joinable = shop.worker(Starting);
    assert_eq!(shop.round(), [assign(build, joinable, Fit::Always)]);
}

#[test]
fn b1_a_worker_added_later_takes_a_build_that_waits() {
    let mut shop = Shop::default();
    shop.worker_with("linux", false, Closed);
    let build = shop.submit(Build::new("b").with_label("linux"));
    shop.worker_with("mac", false, Down);
    assert_eq!(shop.round(), []);
    let fits = shop.worker_with("fast linux", false, Down);
    assert_eq!(shop.round(), [assign(build, fits, Fit::Always)]);
}

#[test]
fn b1_a_worker_is_offered_again_only_after_report_and_newer_facts() {
    let mut shop = Shop::default();
    let worker = shop.worker(IN_USE);
    shop.tell(worker, IN_USE);
    let (first, second, third) = (shop.plain(), shop.plain(), shop.plain());
    assert_eq!(shop.round(), [assign(first, worker, Fit::Always)]);
    // Facts before the report count when it comes.
    shop.tell(worker, IN_USE);
    assert_eq!(shop.round(), []);
    assert_eq!(shop.report(first, worker), []);
    assert_eq!(shop.round(), [assign(second, worker, Fit::Always)]);
    // The report alone is not enough, nor are facts that are not newer.
    assert_eq!(shop.report(second, worker), []);
    shop.dispatch.facts(worker, Facts { version: shop.version, epoch: Epoch(1), openness: IN_USE });
    assert_eq!(shop.round(), []);
    shop.tell(worker, IN_USE);
    assert_eq!(shop.round(), [assign(third, worker, Fit::Always)]);
}

#[test]
fn b1_facts_that_were_overtaken_are_ignored() {
    let mut shop = Shop::default();
    let worker = shop.worker(Down);
    shop.tell(worker, Closed);
    shop.tell(worker, Closed);
    shop.dispatch.facts(worker, Facts { version: 1, epoch: Epoch(1), openness: Down });
    shop.plain();
    assert_eq!(shop.round(), []);
}

#[test]
fn b1_a_refusal_does_not_count_and_does_not_spin() {
    let mut shop = Shop::default();
    let worker = shop.worker(Down);
    let build = shop.submit(Build::new("b").with_max_attempts(NonZeroU32::MIN));
    assert_eq!(shop.round(), [assign(build, worker, Fit::Always)]);
    assert_eq!(shop.report(build, worker), []);
    assert_eq!(shop.answer(build, worker, WorkerAnswer::Refused), []);
    assert_eq!(shop.dispatch.waiting(), 1);
    assert_eq!(shop.round(), []);
    // Newer facts may well say the same.
    shop.tell(worker, Down);
    assert_eq!(shop.round(), [assign(build, worker, Fit::Always)]);
}

#[test]
fn b1_facts_that_overtake_the_refusal_count() {
    let mut shop = Shop::default();
    let worker = shop.worker(Down);
    let build = shop.plain();
    assert_eq!(shop.round(), [assign(build, worker, Fit::Always)]);
    shop.tell(worker, Down);
    assert_eq!(shop.report(build, worker), []);
    assert_eq!(shop.answer(build, worker, WorkerAnswer::Refused), []);
    assert_eq!(shop.round(), [assign(build, worker, Fit::Always)]);
}

#[test]
fn b2_a_failed_attempt_goes_back_to_its_place_and_elsewhere() {
    let mut shop = Shop::default();
    let (bad, good) = (shop.worker(Down), shop.worker(Closed));
    let (first, second) = (shop.plain(), shop.plain());
    shop.hand_over(first, bad, Fit::Always, Closed);
    assert_eq!(shop.failed(first, bad), [Order::Requeued { build: first, reason: "no network".into() }]);
    assert_eq!(shop.round(), []);
    shop.tell(good, Down);
    shop.hand_over(first, good, Fit::Always, Closed);
    let history = vec![attempt("w0", "no network")];
    assert_eq!(shop.granted(first, good), [Order::Deliver { build: first, history: history.clone() }]);
    assert_eq!(shop.dispatch.status(first).map(|status| status.history), Some(history));
    assert_eq!(shop.state(first), BuildState::Running { worker: "w1".into() });
    assert!(matches!(shop.state(second), BuildState::Waiting { ahead: 0, .. }));
}

#[test]
fn b2_the_limit_of_attempts_ends_the_build_with_its_history() {
    let mut shop = Shop::default();
    let worker = shop.worker(Down);
    let build = shop.submit(Build::new("b").with_max_attempts(NonZeroU32::new(2).unwrap()));
    shop.hand_over(build, worker, Fit::Always, IDLE);
    shop.granted(build, worker);
    assert_eq!(shop.retry(build), [Order::Requeued { build, reason: "connection lost".into() }]);
    shop.hand_over(build, worker, Fit::Always, Closed);
    let history = vec![attempt("w0", "connection lost"), attempt("w0", "no network")];
    let error = BuildError::AttemptsExhausted { history };
    assert_eq!(shop.failed(build, worker), [Order::Answer { build, error }]);
    assert_eq!(shop.dispatch.status(build), None);
}

#[test]
fn b2_a_retry_may_exhaust_the_attempts_too() {
    let mut shop = Shop::default();
    let worker = shop.worker(Down);
    let build = shop.submit(Build::new("b").with_max_attempts(NonZeroU32::MIN));
    shop.hand_over(build, worker, Fit::Always, Closed);
    shop.granted(build, worker);
    let error = BuildError::AttemptsExhausted { history: vec![attempt("w0", "connection lost")] };
    assert_eq!(shop.retry(build), [Order::Answer { build, error }]);
    assert!(!shop.dispatch.finished(build));
}

#[test]
fn b2_a_retried_build_keeps_its_place() {
    let mut shop = Shop::default();
    let worker = shop.worker(IDLE);
    let (old, young) = (shop.plain(), shop.plain());
    shop.hand_over(old, worker, Fit::Always, Closed);
    shop.granted(old, worker);
    shop.retry(old);
    shop.tell(worker, Down);
    shop.hand_over(old, worker, Fit::Always, Closed);
    assert!(matches!(shop.state(young), BuildState::Waiting { .. }));
}

#[test]
fn b3_a_build_that_cannot_be_is_answered_and_not_retried() {
    let mut shop = Shop::default();
    let (worker, other) = (shop.worker(Down), shop.worker(Closed));
    let build = shop.plain();
    shop.hand_over(build, worker, Fit::Always, Closed);
    shop.failed(build, worker);
    shop.tell(other, Down);
    // The answer comes before the report.
    assert_eq!(shop.round(), [assign(build, other, Fit::Always)]);
    let error = BuildError::Cannot { reason: "no such image".into(), history: vec![attempt("w0", "no network")] };
    let answer = WorkerAnswer::Cannot { reason: "no such image".into() };
    assert_eq!(shop.answer(build, other, answer), [Order::Answer { build, error }]);
    assert_eq!(shop.report(build, other), []);
    shop.tell(worker, Down);
    assert_eq!(shop.round(), []);
}

#[test]
fn b4_cancel_while_waiting() {
    let mut shop = Shop::default();
    let worker = shop.worker(Closed);
    let build = shop.plain();
    assert_eq!(shop.cancel(build), (true, vec![cancelled(build)]));
    assert_eq!(shop.cancel(build), (false, vec![]));
    shop.tell(worker, Down);
    assert_eq!(shop.round(), []);
    assert_eq!(shop.dispatch.waiting(), 0);
}

#[test]
fn b4_cancel_while_starting_withdraws_and_drops_a_late_lease() {
    let mut shop = Shop::default();
    let worker = shop.worker(Down);
    let build = shop.plain();
    shop.hand_over(build, worker, Fit::Always, Starting);
    assert_eq!(shop.state(build), BuildState::Starting { worker: "w0".into() });
    assert_eq!(shop.cancel(build), (true, vec![Order::Withdraw { build, worker }, cancelled(build)]));
    assert_eq!(shop.granted(build, worker), [Order::DropLease { build }]);
    assert_eq!(shop.failed(build, worker), []);
}

#[test]
fn b4_a_withdrawal_never_overtakes_its_assignment() {
    let mut shop = Shop::default();
    let worker = shop.worker(Down);
    let build = shop.plain();
    assert_eq!(shop.round(), [assign(build, worker, Fit::Always)]);
    assert_eq!(shop.cancel(build), (true, vec![cancelled(build)]));
    assert_eq!(shop.report(build, worker), [Order::Withdraw { build, worker }]);
    assert_eq!(shop.report(build, worker), []);
}

#[test]
fn b4_nothing_is_withdrawn_that_was_answered() {
    let mut shop = Shop::default();
    let worker = shop.worker(IDLE);
    let build = shop.plain();
    assert_eq!(shop.round(), [assign(build, worker, Fit::Always)]);
    assert_eq!(shop.cancel(build), (true, vec![cancelled(build)]));
    assert_eq!(shop.granted(build, worker), [Order::DropLease { build }]);
    assert_eq!(shop.report(build, worker), []);
}

#[test]
fn b4_cancel_while_running_marks_the_lease() {
    let mut shop = Shop::default();
    let worker = shop.worker(IDLE);
    let build = shop.plain();
    shop.hand_over(build, worker, Fit::Always, Closed);
    shop.granted(build, worker);
    assert_eq!(shop.cancel(build), (true, vec![Order::EndLease { build }, cancelled(build)]));
    assert_eq!(shop.retry(build), []);
    assert!(!shop.dispatch.finished(build));
}

#[test]
fn b5_priority_then_age() {
    let mut shop = Shop::default();
    let worker = shop.worker(Closed);
    let normal = shop.plain();
    let low = shop.submit(Build::new("low").with_priority(-1));
    let high = shop.submit(Build::new("high").with_priority(7));
    let younger = shop.submit(Build::new("high").with_priority(7));
    for build in [high, younger, normal, low] {
        shop.tell(worker, IDLE);
        shop.hand_over(build, worker, Fit::Always, Closed);
    }
}

#[test]
fn b5_a_build_that_cannot_be_placed_does_not_block_those_behind() {
    let mut shop = Shop::default();
    shop.worker_with("gpu", false, Closed);
    let plain = shop.worker_with("", false, Down);
    shop.submit(Build::new("high").with_label("gpu").with_priority(9));
    let low = shop.plain();
    assert_eq!(shop.round(), [assign(low, plain, Fit::Always)]);
}

#[test]
fn b5_a_build_that_no_worker_can_ever_take_is_answered_with_the_reason() {
    let mut shop = Shop::default();
    let advice = |(build, orders): (BuildId, Orders)| match orders.as_slice() {
        [Order::Answer { build: answered, error: BuildError::NoWorkerFits { advice, .. } }] if *answered == build => {
            advice.to_string()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(advice(shop.try_submit(Build::new("b"))), "there are no workers");
    shop.worker_with("linux", false, Closed);
    shop.worker_with("gpu", false, Closed);
    let missing = Build::new("b").with_label("gpu").with_label("arm").with_label("mac");
    assert_eq!(advice(shop.try_submit(missing)), "no worker offers \"arm\" or \"mac\"");
    let both = Build::new("b").with_label("gpu").with_label("linux");
    let reason = "each of them is offered, but no single worker offers all of them";
    assert_eq!(advice(shop.try_submit(both.clone())), reason);
    shop.worker_with("gpu linux", false, Closed);
    shop.submit(both);
}

#[test]
fn b5_status_says_why_a_build_waits() {
    let mut shop = Shop::default();
    shop.worker_with("linux", false, Closed);
    shop.worker_with("linux", true, Starting);
    shop.worker_with("mac", false, Closed);
    let build = Build::new("b").with_label("linux");
    let (first, second) = (shop.submit(build.clone()), shop.submit(build));
    let waiting = |ahead, open| BuildState::Waiting { ahead, fitting: 2, open, closed: 1 };
    assert_eq!((shop.state(first), shop.state(second)), (waiting(0, 0), waiting(1, 0)));
    shop.tell(WorkerIndex(1), IDLE);
    assert_eq!(shop.state(second), waiting(1, 1));
}

#[test]
fn b5_routes_that_nobody_uses_are_forgotten() {
    let mut shop = Shop::default();
    let all: String = (0..2000).map(|i| format!("l{i} ")).collect();
    shop.worker_with(&all, false, Closed);
    for i in 0..2000 {
        let build = shop.submit(Build::new("b").with_label(format!("l{i}")));
        shop.cancel(build);
    }
    assert!(shop.dispatch.index.routes() <= 128);
    shop.tell(WorkerIndex(0), IDLE);
    let build = shop.submit(Build::new("b").with_label("l7"));
    assert_eq!(shop.round(), [assign(build, WorkerIndex(0), Fit::Always)]);
}

#[test]
fn w11_an_incompatible_instance_is_left_alone_while_another_worker_can_take_the_build() {
    let mut shop = Shop::default();
    let (idle, down) = (shop.picky(IDLE), shop.picky(Down));
    let build = shop.plain();
    shop.hand_over(build, idle, Fit::Ask, IDLE);
    shop.incompatible(build, idle);
    shop.hand_over(build, down, Fit::Ask, Starting);
}

#[test]
fn w11_an_unused_incompatible_instance_is_recycled_when_nobody_else_can() {
    let mut shop = Shop::default();
    let (idle, _) = (shop.picky(IDLE), shop.picky(Starting));
    let build = shop.plain();
    shop.hand_over(build, idle, Fit::Ask, IDLE);
    shop.incompatible(build, idle);
    shop.hand_over(build, idle, Fit::AskOrRecycle, Stopping);
    // Others are not affected by what one build does not suit.
    let other = shop.picky(IDLE);
    let second = shop.plain();
    shop.hand_over(second, other, Fit::Ask, Closed);
}

#[test]
fn w11_an_incompatible_instance_in_use_is_waited_for() {
    let mut shop = Shop::default();
    let worker = shop.picky(IN_USE);
    let build = shop.plain();
    shop.hand_over(build, worker, Fit::Ask, IN_USE);
    shop.incompatible(build, worker);
    assert_eq!(shop.round(), []);
    let second = shop.plain();
    shop.hand_over(second, worker, Fit::Ask, IN_USE);
    shop.incompatible(second, worker);
    assert_eq!(shop.round(), []);
    shop.tell(worker, IDLE);
    assert_eq!(shop.round(), [assign(build, worker, Fit::AskOrRecycle)]);
}

#[test]
fn w11_the_first_that_may_suit_is_asked_whatever_its_labels() {
    let mut shop = Shop::default();
    let rejected = shop.worker_with("a", true, IN_USE);
    let build = shop.plain();
    shop.hand_over(build, rejected, Fit::Ask, IN_USE);
    shop.incompatible(build, rejected);
    // The next of the same labels comes after one of other labels.
    let next = shop.worker_with("b", true, IN_USE);
    let last = shop.worker_with("a", true, IN_USE);
    shop.hand_over(build, next, Fit::Ask, IN_USE);
    shop.incompatible(build, next);
    shop.hand_over(build, last, Fit::Ask, Closed);
}

#[test]
fn w11_a_new_instance_is_asked_again() {
    let mut shop = Shop::default();
    let worker = shop.picky(IN_USE);
    let build = shop.plain();
    shop.hand_over(build, worker, Fit::Ask, IN_USE);
    shop.incompatible(build, worker);
    shop.tell_epoch(worker, IN_USE, 2);
    assert_eq!(shop.round(), [assign(build, worker, Fit::Ask)]);
}

#[test]
fn w11_a_driver_that_is_never_asked_never_is() {
    for openness in [IDLE, IN_USE, Down, Stopping, Starting] {
        let mut shop = Shop::default();
        let worker = shop.worker(openness);
        let build = shop.plain();
        shop.hand_over(build, worker, Fit::Always, Closed);
    }
}

#[test]
fn s1_shutdown_answers_all_but_the_running() {
    let mut shop = Shop::default();
    let (first, second, third) = (shop.worker(IDLE), shop.worker(Down), shop.worker(Closed));
    let (running, starting, assigning, waiting) = (shop.plain(), shop.plain(), shop.plain(), shop.plain());
    assert_eq!(shop.round(), [assign(running, first, Fit::Always), assign(starting, second, Fit::Always)]);
    shop.report(running, first);
    shop.granted(running, first);
    shop.report(starting, second);
    shop.tell(third, Down);
    assert_eq!(shop.round(), [assign(assigning, third, Fit::Always)]);
    let withdraw = Order::Withdraw { build: starting, worker: second };
    assert_eq!(shop.shutdown(), [withdraw, shut_down(starting), shut_down(assigning), shut_down(waiting)]);
    assert_eq!(shop.report(assigning, third), [Order::Withdraw { build: assigning, worker: third }]);
    assert_eq!(shop.granted(starting, second), [Order::DropLease { build: starting }]);
    let (late, orders) = shop.try_submit(Build::new("late"));
    assert_eq!(orders, [shut_down(late)]);
    assert_eq!(shop.shutdown(), []);
    assert!(shop.dispatch.finished(running));
    assert_eq!(shop.round(), []);
}

#[test]
fn s1_a_retry_after_the_shutdown_is_answered() {
    let mut shop = Shop::default();
    let worker = shop.worker(IDLE);
    let build = shop.plain();
    shop.hand_over(build, worker, Fit::Always, Closed);
    shop.granted(build, worker);
    assert_eq!(shop.shutdown(), []);
    assert_eq!(shop.retry(build), [shut_down(build)]);
    assert_eq!(shop.dispatch.status(build), None);
}

#[test]
fn s1_a_worker_that_is_shut_down_ends_the_build() {
    let mut shop = Shop::default();
    let worker = shop.worker(IDLE);
    let build = shop.plain();
    shop.hand_over(build, worker, Fit::Always, Closed);
    assert_eq!(shop.answer(build, worker, WorkerAnswer::ShutDown), [shut_down(build)]);
}
