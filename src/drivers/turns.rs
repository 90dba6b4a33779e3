//! Work that one start does for all that need it at the same time: the others wait for it instead of doing it again.
//!
//! What the work leaves behind is for its users to know: whoever has waited takes the next turn, and looks first.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, after, bounded, select};
use parking_lot::Mutex;

/// What is just being done, by what it is. `E` is why it may fail.
pub(super) struct Turns<K, E> {
    under_way: Mutex<HashMap<K, Arc<UnderWay<E>>>>,
}

impl<K, E> Default for Turns<K, E> {
    fn default() -> Self {
        Self { under_way: Mutex::default() }
    }
}

struct UnderWay<E> {
    /// Disconnected at the end.
    over: Receiver<Infallible>,
    /// What those who wait learn, if it has failed for them too.
    failure: OnceLock<E>,
}

/// The right to do one piece of work. When it is dropped, the others go on.
pub(super) struct Turn<'a, K: Eq + Hash, E> {
    turns: &'a Turns<K, E>,
    what: K,
    under_way: Arc<UnderWay<E>>,
    _over: Sender<Infallible>,
}

/// Why there was no turn.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum NoTurn<E> {
    /// Another has failed, and would have for everybody.
    Failed(E),
    Cancelled,
    TimedOut,
}

impl<K: Eq + Hash + Clone, E: Clone> Turns<K, E> {
    /// Waits until nobody else does this. `waiting` is called before each wait, on this thread.
    pub(super) fn take(
        &self,
        what: K,
        cancel: &Receiver<Infallible>,
        limit: Duration,
        waiting: impl Fn(),
    ) -> Result<Turn<'_, K, E>, NoTurn<E>> {
        let timer = after(limit);
        loop {
            let other = {
                let mut under_way = self.under_way.lock();
                match under_way.get(&what) {
                    Some(other) => other.clone(),
                    None => {
                        let (sender, over) = bounded(0);
                        let ours = Arc::new(UnderWay { over, failure: OnceLock::new() });
                        under_way.insert(what.clone(), ours.clone());
                        return Ok(Turn { turns: self, what, under_way: ours, _over: sender });
                    }
                }
            };
            waiting();
            select! {
                recv(other.over) -> _ => {}
                recv(cancel) -> _ => return Err(NoTurn::Cancelled),
                recv(timer) -> _ => return Err(NoTurn::TimedOut),
            }
            if let Some(failure) = other.failure.get() {
                return Err(NoTurn::Failed(failure.clone()));
            }
        }
    }
}

impl<K: Eq + Hash, E> Turn<'_, K, E> {
    /// Tells those who wait now that they need not try it themselves.
    pub(super) fn fail(self, failure: E) {
        let _ = self.under_way.failure.set(failure);
    }
}

impl<K: Eq + Hash, E> Drop for Turn<'_, K, E> {
    fn drop(&mut self) {
        self.turns.under_way.lock().remove(&self.what);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use crossbeam_channel::never;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// What the second of two learns, which waits for the first.
    fn second(first: impl FnOnce(Turn<'_, u8, &'static str>)) -> Result<(), NoTurn<&'static str>> {
        let turns = Turns::<u8, &str>::default();
        let turn = turns.take(1, &never(), LONG, || panic!("nobody else is there")).ok().unwrap();
        let (waits, waiting) = bounded(1);
        thread::scope(|scope| {
            let second = scope.spawn(|| turns.take(1, &never(), LONG, || waits.send(()).unwrap()).map(drop));
            waiting.recv_timeout(LONG).unwrap();
            first(turn);
            second.join().unwrap()
        })
    }

    #[test]
    fn who_waits_has_the_next_turn_or_hears_why_there_is_none() {
        assert_eq!(second(|turn| drop(turn)), Ok(()));
        assert_eq!(second(|turn| turn.fail("no")), Err(NoTurn::Failed("no")));
    }

    #[test]
    fn a_wait_is_cancelled_and_ends_at_its_limit() {
        let turns = Turns::<u8, ()>::default();
        let turn = turns.take(1, &never(), LONG, || {}).ok().unwrap();
        let (cancels, cancel) = bounded(0);
        drop(cancels);
        assert_eq!(turns.take(1, &cancel, LONG, || {}).map(drop), Err(NoTurn::Cancelled));
        assert_eq!(turns.take(1, &never(), Duration::ZERO, || {}).map(drop), Err(NoTurn::TimedOut));
        assert!(turns.take(2, &cancel, Duration::ZERO, || {}).is_ok(), "something else is free");
        drop(turn);
        assert!(turns.take(1, &cancel, Duration::ZERO, || {}).is_ok());
    }
}
