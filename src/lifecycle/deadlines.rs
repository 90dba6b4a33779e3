//! What a worker does by itself when a time has come: one table, from which everything about deadlines follows.

use std::time::Instant;

use super::*;
use crate::event::NextStep;

/// What is due. What is due at the same time is done in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    /// The quarantine ends.
    Quarantine,
    /// A request has waited for too long.
    Request,
    /// The instance has had no work for too long.
    Idle,
    /// The agent has been gone for too long.
    Reattach,
    /// The instance is checked.
    Check,
}

impl Timer {
    fn step(self) -> NextStep {
        match self {
            Self::Quarantine => NextStep::EndQuarantine,
            Self::Request | Self::Reattach => NextStep::GiveUp,
            Self::Idle => NextStep::StopIdle,
            Self::Check => NextStep::Check,
        }
    }
}

/// The deadlines of a worker, except for those of its requests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Deadlines {
    pub(super) quarantine: Option<Instant>,
    /// Only while an attached instance has no lease.
    pub(super) idle: Option<Instant>,
    /// Only while the agent of an instance is gone.
    pub(super) reattach: Option<Instant>,
    /// Waits until no other call is in flight.
    pub(super) check: Option<Instant>,
}

impl Deadlines {
    /// All of them. The pattern names every field, so that one that is not listed here does not compile.
    pub(super) fn entries(&mut self) -> [(Timer, &mut Option<Instant>); 4] {
        let Self { quarantine, idle, reattach, check } = self;
        [(Timer::Quarantine, quarantine), (Timer::Idle, idle), (Timer::Reattach, reattach), (Timer::Check, check)]
    }

    /// Nothing is expected of the instance any more.
    pub(super) fn end_instance(&mut self) {
        *self = Self { quarantine: self.quarantine, ..Self::default() };
    }
}

impl Lifecycle {
    /// When [`Input::Time`] is due next. Asked after every turn.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        let Deadlines { quarantine, idle, reattach, check } = self.deadlines;
        let check = check.filter(|_| self.call.is_none());
        let requests = self.waiters.iter().filter_map(|waiter| waiter.deadline).min();
        [quarantine, idle, reattach, check, requests].into_iter().flatten().min()
    }

    /// When [`Input::Time`] is due next, and what for.
    pub(crate) fn next_deadline(&self) -> Option<(Instant, NextStep)> {
        self.table().map(|(timer, at)| (at, timer.step())).min()
    }

    fn table(&self) -> impl Iterator<Item = (Timer, Instant)> {
        let mut deadlines = self.deadlines;
        let entries = deadlines.entries().map(|(timer, at)| (timer, *at));
        let requests = self.waiters.iter().map(|waiter| (Timer::Request, waiter.deadline));
        let all = entries.into_iter().chain(requests).filter_map(|(timer, at)| Some((timer, at?)));
        // One call at a time: another one that is in flight comes first.
        all.filter(|(timer, _)| *timer != Timer::Check || self.call.is_none())
    }

    /// Does what is due.
    pub(super) fn time(&mut self, now: Instant, effects: &mut Effects) {
        while let Some(timer) = self.table().filter(|(_, at)| *at <= now).map(|(timer, _)| timer).min() {
            for (entry, at) in self.deadlines.entries() {
                if entry == timer {
                    *at = None;
                }
            }
            self.fire(now, timer, effects);
        }
    }

    fn fire(&mut self, now: Instant, timer: Timer, effects: &mut Effects) {
        match timer {
            Timer::Quarantine => self.quarantine.end(),
            Timer::Request => self.requests_late(now, effects),
            Timer::Idle => self.go_down(now, false, StopCause::Idle, effects),
            Timer::Reattach => self.lose(now, &"the agent did not re-attach".into(), effects),
            Timer::Check => match &self.stage {
                Stage::Starting => self.call_check(now, false, effects),
                // Nothing that it finds would make a difference to an instance that takes no new build.
                Stage::Attached(up) if up.draining.is_none() => self.call_check(now, true, effects),
                _ => {}
            },
        }
    }
}
