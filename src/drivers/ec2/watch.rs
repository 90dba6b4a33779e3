//! Questions about many machines, asked together: whoever waits for an answer first asks for all who wait by then.
//!
//! So there is one call in each round, however many starts wait, and no thread of its own that would live on. The first who
//! comes leads: it lets a while go by in which others may join, makes the call, and hands out the answers. Who leads and gives
//! up hands that over.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use parking_lot::Mutex;

/// What becomes of a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Asked<T, E> {
    /// What the provider says of it; nothing, if it does not know it.
    Answered(Option<T>),
    Failed(E),
    /// Whoever asked has given up.
    Cancelled,
    /// Nobody has answered in time.
    TimedOut,
}

/// How somebody waits.
pub(super) struct Wait<'a> {
    /// Waits for others to join. `false` when whoever waits has given up.
    pub(super) pause: &'a dyn Fn(Duration) -> bool,
    /// Disconnected when whoever waits has given up.
    pub(super) cancel: &'a Receiver<Infallible>,
    /// No answer is waited for longer than this.
    pub(super) limit: Duration,
}

/// Questions of one kind to one provider.
pub(super) struct Watch<T, E> {
    inner: Mutex<Inner<T, E>>,
}

struct Inner<T, E> {
    waiting: VecDeque<Waiting<T, E>>,
    led: bool,
    last: u64,
}

struct Waiting<T, E> {
    number: u64,
    id: String,
    tell: Sender<Told<T, E>>,
}

enum Told<T, E> {
    Answer(Result<Option<T>, E>),
    Lead,
}

impl<T: Clone, E: Clone> Watch<T, E> {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::new(Inner { waiting: VecDeque::new(), led: false, last: 0 }) }
    }

    /// Asks about this one, together with all others. `call` is made on the thread of one of those who wait, for ids without
    /// repetition, and answers for those that the provider knows; nothing, when whoever makes it has given up.
    pub(super) fn ask<F>(&self, id: &str, round: Duration, wait: &Wait<'_>, call: F) -> Asked<T, E>
    where
        F: Fn(&[String]) -> Option<Result<HashMap<String, T>, E>>,
    {
        let deadline = Instant::now().checked_add(wait.limit);
        let (tell, told) = bounded(2);
        let (number, leads) = {
            let mut inner = self.inner.lock();
            inner.last += 1;
            let number = inner.last;
            inner.waiting.push_back(Waiting { number, id: id.into(), tell });
            (number, !mem::replace(&mut inner.led, true))
        };
        // From here on, leaving hands the lead over and takes the question back.
        let mut seat = Seat { watch: self, number, leads, told, batch: Vec::new() };
        loop {
            if seat.leads {
                if !(wait.pause)(round) {
                    return Asked::Cancelled;
                }
                if !seat.lead(&call) {
                    return Asked::Cancelled;
                }
                seat.hand_over();
            }
            let timer = deadline.map_or_else(crossbeam_channel::never, crossbeam_channel::at);
            // An answer first: it may have come at the same time as the end of patience.
            let received = match seat.told.try_recv() {
                Ok(told) => Some(told),
                Err(_) => select! {
                    recv(seat.told) -> told => told.ok(),
                    recv(wait.cancel) -> _ => return Asked::Cancelled,
                    recv(timer) -> _ => return Asked::TimedOut,
                },
            };
            match received {
                Some(Told::Answer(Ok(answer))) => return Asked::Answered(answer),
                Some(Told::Answer(Err(error))) => return Asked::Failed(error),
                Some(Told::Lead) => seat.leads = true,
                None => return Asked::TimedOut,
            }
        }
    }
}

/// The place of one who waits. Dropping it leaves no question behind, and no round without somebody who leads it: also when
/// the call panics.
struct Seat<'a, T, E> {
    watch: &'a Watch<T, E>,
    number: u64,
    leads: bool,
    told: Receiver<Told<T, E>>,
    /// Those who are being asked for just now.
    batch: Vec<Waiting<T, E>>,
}

impl<T: Clone, E: Clone> Seat<'_, T, E> {
    /// One call; the answers are handed out. `false` when there was none.
    fn lead(&mut self, call: impl Fn(&[String]) -> Option<Result<HashMap<String, T>, E>>) -> bool {
        self.batch = self.watch.inner.lock().waiting.drain(..).collect();
        let mut ids: Vec<String> = self.batch.iter().map(|waiting| waiting.id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        let Some(answer) = call(&ids) else { return false };
        for waiting in self.batch.drain(..) {
            let its = answer.as_ref().map(|known| known.get(&waiting.id).cloned()).map_err(Clone::clone);
            // Who has gone hears nothing.
            _ = waiting.tell.try_send(Told::Answer(its));
        }
        true
    }
}

impl<T, E> Seat<'_, T, E> {
    fn hand_over(&mut self) {
        if !mem::take(&mut self.leads) {
            return;
        }
        let mut inner = self.watch.inner.lock();
        inner.led =
            inner.waiting.iter().any(|next| next.number != self.number && next.tell.try_send(Told::Lead).is_ok());
    }
}

impl<T, E> Drop for Seat<'_, T, E> {
    fn drop(&mut self) {
        {
            let mut inner = self.watch.inner.lock();
            inner.waiting.extend(self.batch.drain(..));
            inner.waiting.retain(|waiting| waiting.number != self.number);
        }
        // From now on nobody can hand the lead over to this one. It may have been done a moment ago.
        self.leads |= self.told.try_iter().any(|told| matches!(told, Told::Lead));
        self.hand_over();
    }
}

/// Watches that all drivers of one account and region have in common, for as long as one of them lives.
pub(super) struct Registry<K, W>(Mutex<Vec<(K, std::sync::Weak<W>)>>);

impl<K: Eq + Clone, W> Registry<K, W> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    pub(super) fn get(&self, key: &K, make: impl FnOnce() -> W) -> Arc<W> {
        let mut known = self.0.lock();
        known.retain(|(_, watch)| watch.strong_count() > 0);
        let found = known.iter().find(|(its, _)| its == key).and_then(|(_, watch)| watch.upgrade());
        found.unwrap_or_else(|| {
            let made = Arc::new(make());
            known.push((key.clone(), Arc::downgrade(&made)));
            made
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn patient<'a>(pause: &'a dyn Fn(Duration) -> bool, cancel: &'a Receiver<Infallible>) -> Wait<'a> {
        Wait { pause, cancel, limit: LONG }
    }

    type Known = Option<Result<HashMap<String, String>, String>>;

    fn knowing(ids: &[String]) -> Known {
        Some(Ok(ids.iter().filter(|id| *id != "unknown").map(|id| (id.clone(), format!("about {id}"))).collect()))
    }

    /// Waits until so many questions wait.
    fn waiting<T, E>(watch: &Watch<T, E>, many: usize) {
        let deadline = Instant::now() + LONG;
        while watch.inner.lock().waiting.len() < many {
            assert!(Instant::now() < deadline, "they do not come");
            thread::yield_now();
        }
    }

    #[test]
    fn fifty_who_wait_together_are_answered_by_one_call() {
        let watch = Watch::<String, String>::new();
        let calls = AtomicUsize::new(0);
        let never = crossbeam_channel::never();
        thread::scope(|scope| {
            for number in 0..50 {
                let (watch, calls, never) = (&watch, &calls, &never);
                scope.spawn(move || {
                    let pause = |_| {
                        waiting(watch, 50);
                        true
                    };
                    let asked = watch.ask(&format!("i-{number}"), LONG, &patient(&pause, never), |ids| {
                        calls.fetch_add(1, Ordering::Relaxed);
                        knowing(ids)
                    });
                    assert_eq!(asked, Asked::Answered(Some(format!("about i-{number}"))));
                });
            }
        });
        assert_eq!(calls.into_inner(), 1);
        assert!(!watch.inner.lock().led && watch.inner.lock().waiting.is_empty());
    }

    #[test]
    fn what_the_provider_does_not_know_and_what_fails_is_told_to_all() {
        let watch = Watch::<String, String>::new();
        let never = crossbeam_channel::never();
        let wait = patient(&|_| true, &never);
        assert_eq!(watch.ask("unknown", LONG, &wait, knowing), Asked::Answered(None));
        assert_eq!(watch.ask("i-1", LONG, &wait, |_| Some(Err("no".into()))), Asked::Failed("no".to_owned()));
        assert_eq!(watch.ask("i-1", LONG, &wait, knowing), Asked::Answered(Some("about i-1".into())));
    }

    /// What becomes of who leads and asks about i-1, and goes on or gives up when another has come, who asks about i-2.
    fn two(
        goes_on: bool,
        first: impl Fn(&[String]) -> Known + Send,
        second: impl Fn(&[String]) -> Known + Send,
    ) -> (thread::Result<Asked<String, String>>, Asked<String, String>) {
        let watch = Watch::<String, String>::new();
        let never = crossbeam_channel::never();
        let told = thread::scope(|scope| {
            let (watch, never) = (&watch, &never);
            let leader = scope.spawn(move || {
                let pause = |_| {
                    waiting(watch, 2);
                    goes_on
                };
                watch.ask("i-1", LONG, &patient(&pause, never), first)
            });
            waiting(watch, 1);
            let follower = scope.spawn(move || watch.ask("i-2", LONG, &patient(&|_| true, never), second));
            (leader.join(), follower.join().unwrap())
        });
        assert!(!watch.inner.lock().led);
        told
    }

    #[test]
    fn one_who_leads_and_gives_up_hands_that_over() {
        let second = |ids: &[String]| {
            assert_eq!(ids, ["i-2"]);
            knowing(ids)
        };
        let (leader, follower) = two(false, |_| panic!("it has given up"), second);
        assert_eq!(leader.unwrap(), Asked::Cancelled);
        assert_eq!(follower, Asked::Answered(Some("about i-2".into())));
    }

    #[test]
    fn one_who_gives_up_within_the_call_takes_nobody_along() {
        let first = |ids: &[String]| {
            assert_eq!(ids, ["i-1", "i-2"]);
            None
        };
        let (leader, follower) = two(true, first, knowing);
        assert_eq!(leader.unwrap(), Asked::Cancelled);
        assert_eq!(follower, Asked::Answered(Some("about i-2".into())));
    }

    #[test]
    fn one_whose_call_panics_hands_over_too_and_loses_no_question() {
        let (leader, follower) = two(true, |_| panic!("a test"), knowing);
        assert!(leader.is_err());
        assert_eq!(follower, Asked::Answered(Some("about i-2".into())));
    }

    #[test]
    fn w5_one_who_only_waits_can_give_up_and_has_a_limit() {
        let watch = Watch::<String, String>::new();
        let never = crossbeam_channel::never();
        let (end, ended) = bounded::<Infallible>(0);
        thread::scope(|scope| {
            let (watch, never, ended) = (&watch, &never, &ended);
            let (go, gone) = bounded::<()>(0);
            let leader = scope.spawn(move || {
                let pause = |_| {
                    _ = gone.recv();
                    true
                };
                watch.ask("i-1", LONG, &patient(&pause, never), |ids| {
                    assert_eq!(ids, ["i-1"], "nobody else waits any more");
                    knowing(ids)
                })
            });
            waiting(watch, 1);
            let short = Wait { pause: &|_| true, cancel: never, limit: Duration::from_millis(1) };
            assert_eq!(watch.ask("i-2", LONG, &short, knowing), Asked::TimedOut);
            let cancelled = scope.spawn(move || watch.ask("i-3", LONG, &patient(&|_| true, ended), knowing));
            waiting(watch, 2);
            drop(end);
            assert_eq!(cancelled.join().unwrap(), Asked::Cancelled);
            drop(go);
            assert!(matches!(leader.join().unwrap(), Asked::Answered(Some(_))));
        });
    }

    #[test]
    fn drivers_of_one_account_share_their_watch_while_one_of_them_lives() {
        let registry = Registry::<&str, u8>::new();
        let first = registry.get(&"a", || 1);
        assert!(Arc::ptr_eq(&first, &registry.get(&"a", || 2)));
        assert_eq!(*registry.get(&"b", || 3), 3);
        drop(first);
        assert_eq!(*registry.get(&"a", || 4), 4);
    }
}
