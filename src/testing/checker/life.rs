//! The state of one worker, according to its events.

use std::time::Duration;

use super::Rule;
use crate::{BuildId, DriverCall, Epoch, EventKind};

/// What is wrong with an event.
pub(super) type Broken = (Rule, String);

#[derive(Default)]
pub(super) struct Worker {
    /// The last attempt.
    epoch: Option<Epoch>,
    life: Life,
    call: Option<DriverCall>,
    attached: bool,
    /// A check after the attach has failed: the instance takes no new build.
    bad: bool,
    paused: bool,
    quarantined_until: Duration,
    pub(super) leases: Vec<Option<BuildId>>,
    /// Places that may still be taken: their lease has ended, which does not tell when it is given back.
    held: usize,
    /// Since when a place has been free.
    pub(super) free_since: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Life {
    /// There is no instance, or its stop has returned.
    #[default]
    Down,
    Starting,
    /// The start has returned an instance.
    Up,
    /// The start has returned without one.
    Failed,
    Stopping,
}

impl Worker {
    /// Applies an event of this worker, and returns the rules that it breaks.
    pub(super) fn take(
        &mut self,
        kind: &EventKind,
        epoch: Option<Epoch>,
        build: Option<BuildId>,
        at: Duration,
        places: Option<usize>,
    ) -> Vec<Broken> {
        let mut broken = Vec::new();
        let mut expect = |holds: bool, rule, otherwise: &dyn Fn() -> String| {
            if !holds {
                broken.push((rule, otherwise()));
            }
        };
        let before = (self.life, self.call);
        let out = || before.1.map_or_else(|| "no call is running".to_owned(), |call| format!("{call} is running"));
        match kind {
            EventKind::StartCalled => {
                expect(self.call.is_none(), Rule::OneCall, &|| format!("start_instance is called while {}", out()));
                expect(self.life == Life::Down, Rule::OneStop, &|| {
                    format!("start_instance is called while the instance before is {:?}", before.0)
                });
                expect(self.epoch < epoch, Rule::Record, &|| "the number of the attempt is not new".to_owned());
                *self = Self {
                    epoch,
                    life: Life::Starting,
                    call: Some(DriverCall::Start),
                    paused: self.paused,
                    quarantined_until: self.quarantined_until,
                    leases: std::mem::take(&mut self.leases),
                    ..Self::default()
                };
                return broken;
            }
            EventKind::Paused => self.paused = true,
            EventKind::Unpaused => (self.paused, self.quarantined_until) = (false, Duration::ZERO),
            EventKind::QuarantineLifted { .. } => self.quarantined_until = Duration::ZERO,
            EventKind::Quarantined { length, .. } => self.quarantined_until = at.saturating_add(*length),
            EventKind::StartReturned { .. }
            | EventKind::CheckCalled
            | EventKind::CheckReturned { .. }
            | EventKind::StopCalled { .. }
            | EventKind::StopReturned { .. }
            | EventKind::Attached
            | EventKind::Detached { .. }
            | EventKind::BuildStarted
            | EventKind::Released { .. } => {
                expect(epoch.is_some() && self.epoch == epoch, Rule::Record, &|| {
                    "the event does not belong to the last attempt of the worker".to_owned()
                });
            }
            _ => {}
        }
        let has_instance = matches!(self.life, Life::Starting | Life::Up);
        let mut returns = |call: DriverCall, current: &mut Option<DriverCall>| {
            expect(*current == Some(call), Rule::OneCall, &|| format!("{call} returns while {}", out()));
            *current = None;
        };
        match kind {
            EventKind::StartReturned { result } => {
                returns(DriverCall::Start, &mut self.call);
                if self.life == Life::Starting {
                    self.life = if result.is_ok() { Life::Up } else { Life::Failed };
                }
            }
            EventKind::CheckReturned { result } => {
                returns(DriverCall::Check, &mut self.call);
                self.bad |= result.is_err();
            }
            EventKind::StopReturned { .. } => {
                returns(DriverCall::Stop, &mut self.call);
                self.life = Life::Down;
            }
            EventKind::CheckCalled => {
                expect(self.call.is_none(), Rule::OneCall, &|| format!("check_instance is called while {}", out()));
                expect(self.life == Life::Up, Rule::OneCall, &|| {
                    format!("check_instance is called while the instance is {:?}", before.0)
                });
                self.call = Some(DriverCall::Check);
            }
            EventKind::StopCalled { .. } => {
                expect(self.call.is_none(), Rule::OneCall, &|| format!("stop_instance is called while {}", out()));
                expect(matches!(self.life, Life::Up | Life::Failed), Rule::OneStop, &|| {
                    format!("stop_instance is called while the instance is {:?}", before.0)
                });
                let leases = self.leases.len();
                expect(leases == 0, Rule::Attached, &|| {
                    format!("the instance is stopped while leases are in use: {leases}")
                });
                (self.life, self.call) = (Life::Stopping, Some(DriverCall::Stop));
            }
            EventKind::Attached => {
                expect(has_instance, Rule::Attached, &|| {
                    format!("an agent attaches while the instance is {:?}", before.0)
                });
                expect(!self.attached, Rule::Attached, &|| {
                    "an agent attaches while another one is attached".to_owned()
                });
                self.attached = true;
            }
            EventKind::Detached { .. } => {
                expect(self.attached, Rule::Attached, &|| "an agent detaches, but none is attached".to_owned());
                self.attached = false;
            }
            EventKind::BuildStarted => {
                let attached = self.attached;
                expect(attached && has_instance, Rule::Attached, &|| {
                    let without = if attached { "an" } else { "no" };
                    format!("a lease is given while the instance is {:?} and {without} agent is attached", before.0)
                });
                self.leases.push(build);
                let leases = self.leases.len();
                self.held = self.held.min(places.unwrap_or(1).saturating_sub(leases));
                expect(places.is_none_or(|places| leases <= places), Rule::Places, &|| {
                    format!("the worker has {leases} leases, more than its places")
                });
            }
            EventKind::Released { end } => {
                self.held += usize::from(end.is_some());
                let lease = self.leases.iter().position(|lease| *lease == build);
                expect(lease.is_some(), Rule::Places, &|| {
                    "the worker does not have the lease that is given back".to_owned()
                });
                lease.map(|lease| self.leases.swap_remove(lease));
            }
            _ => {}
        }
        broken
    }

    /// Returns the earliest time since which a place has been free; `None` if no place is free.
    pub(super) fn free_from(&self, at: Duration, places: Option<usize>) -> Option<Duration> {
        let usable = self.life == Life::Up && self.attached && self.call.is_none() && !self.bad && !self.paused;
        (usable && self.leases.len() + self.held < places.unwrap_or(1)).then(|| self.quarantined_until.max(at))
    }

    /// Returns what is missing at the end of a complete shutdown.
    pub(super) fn end(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        if let Some(call) = self.call {
            broken.push((Rule::OneCall, format!("{call} has not returned")));
        }
        match self.life {
            Life::Down => {}
            life @ Life::Stopping => broken.push((Rule::OneCall, format!("the instance is {life:?}"))),
            life => broken.push((Rule::OneStop, format!("the instance is {life:?} and was not stopped"))),
        }
        if !self.leases.is_empty() {
            broken.push((Rule::Places, format!("leases that were not given back: {}", self.leases.len())));
        }
        if self.attached {
            broken.push((Rule::Attached, "an agent is still attached".to_owned()));
        }
        broken
    }
}
