//! What the workers of a [`World`] do with orders, and what placement hears of it.

use super::super::*;
use super::world::{Asker, Driver, Message, World, index_of, letter, properties};
use crate::error::{FailureCause, LeaseEnd, SubstantiateError};
use crate::event::{StartFailure, StopCause};
use crate::lifecycle::{Answer, Effect, Effects, Fit, Input, Occasion, RequestId, Want};

impl World {
    pub(super) fn carry_out(&mut self, worker: usize, order: Order) {
        let sim = &mut self.workers[worker];
        match order {
            Order::Start { replace, .. } => {
                replace.into_iter().for_each(|epoch| self.apply(worker, Input::Replace(epoch)));
                self.request(worker, Want::Instance, Fit::Always, Asker::Start);
            }
            Order::Forgive { epoch, .. } => self.apply(worker, Input::Forgive(epoch)),
            Order::CancelStart { .. } => self.cancel_start(worker),
            Order::Drain { epoch, .. } => self.apply(worker, Input::Drain(epoch, StopCause::Incompatible)),
            Order::Lease { epoch, build, .. } => {
                let mut effects = Effects::new(false);
                let grant = sim.life.lease(self.now, epoch, build, &mut effects);
                let lease = grant.and_then(|grant| grant.lease);
                sim.leases.extend(lease.map(|lease| (lease, Some(build))));
                let version = sim.life.version();
                sim.messages.push(Message::Leased { build, lease, version });
                self.follow(worker, effects);
            }
            Order::AskKind { properties, .. } => {
                let Driver::Says { refuses } = self.setting.workers[worker].driver else { panic!("it says no kinds") };
                let kind = match letter(&properties) {
                    kind if kind.is_some() && kind == refuses => Err("refused".into()),
                    Some(kind) => Ok(Kind::new(kind.to_string())),
                    None => Ok(Kind::by_properties()),
                };
                if !self.setting.silent {
                    sim.messages.push(Message::Kind { properties, kind });
                }
            }
            Order::AskFit { epoch, properties, .. } => {
                if sim.life.epoch() == epoch {
                    let kind = self.kinds.values().find(|kind| properties.get("kind") == Some(**kind));
                    self.request(worker, Want::Answer, Fit::Ask, Asker::Fit(kind.expect("a build had it")));
                } else {
                    sim.messages.push(Message::Fits { epoch, properties, fits: None });
                }
            }
            Order::Abandon { build, .. } => self.apply(worker, Input::Abandon(build, LeaseEnd::Abandoned)),
            other => panic!("{other:?} is not an order to a worker"),
        }
    }

    pub(super) fn cancel_start(&mut self, worker: usize) {
        let of_queue = self.workers[worker].requests.iter().find(|(_, asker)| *asker == Asker::Start);
        if let Some(&(request, _)) = of_queue {
            self.apply(worker, Input::Cancel(request));
        }
    }

    /// The start of this attempt can be called. Nobody may need it any more.
    pub(super) fn announce(&mut self, worker: usize, epoch: Epoch) {
        let sim = &mut self.workers[worker];
        let initiator = sim.life.initiator();
        let of_queue = sim.requests.iter().any(|(id, asker)| Some(*id) == initiator && *asker == Asker::Start);
        let ordered_for = self.placement.worker(index_of(worker)).starting().map(|demand| demand.occasion);
        let occasion = if of_queue { self.placement.occasion(self.now, index_of(worker)) } else { None };
        if let Some(Occasion { build, .. }) = occasion {
            if Some(build) != ordered_for {
                self.check_occasion(worker, build);
            }
        } else if of_queue {
            return self.cancel_start(worker);
        }
        self.workers[worker].called |= of_queue;
        self.apply(worker, Input::ThreadReady(epoch, occasion));
    }

    pub(super) fn call_returns(&mut self, worker: usize, answer: usize) {
        let sim = &mut self.workers[worker];
        let (call, epoch) = sim.call.take().expect("a call is out");
        let reason = || Arc::from("reason");
        let input = match (call, answer) {
            (DriverCall::Start, 0) => Input::StartReturned(epoch, Ok(Vec::new())),
            (DriverCall::Start, 1) => Input::StartReturned(epoch, Err(StartFailure::Cannot(reason()))),
            (DriverCall::Start, _) => {
                Input::StartReturned(epoch, Err(StartFailure::Failed(FailureCause::Infrastructure, reason())))
            }
            (DriverCall::Stop, 0) => Input::StopReturned(epoch, Ok(())),
            (DriverCall::Stop, _) => Input::StopReturned(epoch, Err(reason())),
            (DriverCall::Compatible, 2) => Input::CompatibleReturned(epoch, Err(reason())),
            (DriverCall::Compatible, _) => Input::CompatibleReturned(epoch, Ok(answer == 0)),
            (call, _) => panic!("{call} is never made"),
        };
        self.apply(worker, input);
    }

    /// The true answer to the question that the driver is asked; nobody may wait for it any more.
    pub(super) fn would_fit(&self, worker: usize) -> bool {
        let sim = &self.workers[worker];
        let about = sim.requests.iter().find_map(|(_, asker)| match asker {
            Asker::Fit(kind) => Some(properties(kind)),
            _ => None,
        });
        about.is_none_or(|about| letter(&about) == letter(&sim.made_for))
    }

    /// Does what follows from a transition of a worker.
    pub(super) fn follow(&mut self, worker: usize, effects: Effects) {
        for effect in effects.orders {
            let sim = &mut self.workers[worker];
            match effect {
                Effect::SpawnThread(epoch) => {
                    self.announce(worker, epoch);
                }
                Effect::CallStart => {
                    sim.call = Some((DriverCall::Start, sim.life.epoch()));
                    let occasion = sim.life.occasion();
                    sim.made_for = occasion.map(|id| properties(self.kinds[&id])).unwrap_or_default();
                }
                Effect::CallCompatible(_) => sim.call = Some((DriverCall::Compatible, sim.life.epoch())),
                Effect::CallStop { .. } => {
                    sim.call = Some((DriverCall::Stop, sim.life.epoch()));
                    sim.connection = None;
                }
                Effect::Answer(request, answer) => self.answered(worker, request, answer),
                // Whoever has them gives them back some time.
                Effect::EndLeases(_) | Effect::CancelStart | Effect::HurryStop | Effect::Gone => {}
                Effect::CallCheck => panic!("nothing is checked"),
            }
        }
    }

    pub(super) fn answered(&mut self, worker: usize, request: RequestId, answer: Answer) {
        let sim = &mut self.workers[worker];
        let position = sim.requests.iter().position(|(id, _)| *id == request).expect("w3: one answer");
        let (_, asker) = sim.requests.remove(position);
        let (epoch, occasion) = (sim.life.epoch(), sim.life.occasion());
        match asker {
            Asker::Direct => {
                if let Some(lease) = answer.ok().and_then(|grant| grant.lease) {
                    sim.leases.push((lease, None));
                }
            }
            Asker::Fit(kind) => {
                let fits = match answer {
                    Ok(_) => Some(true),
                    Err(SubstantiateError::Incompatible { .. }) => Some(false),
                    Err(_) => None,
                };
                sim.messages.push(Message::Fits { epoch, properties: properties(kind), fits });
            }
            Asker::Start => {
                let called = std::mem::take(&mut sim.called);
                let end = match answer {
                    Ok(_) => StartEnd::Attached,
                    Err(_) if occasion.is_none() => StartEnd::NotMade,
                    Err(SubstantiateError::Cannot { reason }) => StartEnd::Cannot { reason },
                    Err(error @ (SubstantiateError::Failed { .. } | SubstantiateError::TimedOut { .. })) => {
                        StartEnd::Failed { reason: error.to_string().into() }
                    }
                    Err(_) => StartEnd::NotMade,
                };
                sim.messages.push(Message::Started { epoch, end, called });
            }
        }
    }

    pub(super) fn hear(&mut self, worker: usize, message: Message, orders: &mut Orders) {
        let (now, index) = (self.now, index_of(worker));
        match message {
            Message::Started { epoch, end, called } => {
                self.workers[worker].ordered = false;
                let occasion = self.placement.worker(index).demand.as_ref().expect("it was ordered").occasion;
                let slot = self.builds.iter().position(|build| build.id == occasion);
                let waits = matches!(self.placement.queue.place(occasion), Some(Place::Waiting));
                // B2: an attempt counts only when its start was called.
                if let (StartEnd::Failed { .. }, Some(slot), true) = (&end, slot, waits && called) {
                    self.attempt_failed(slot, worker);
                }
                let version = self.workers[worker].life.version();
                self.placement.start_ended(now, index, epoch, version, end, 1.0, orders);
            }
            Message::Leased { build, lease, version } => {
                let leased = self.placement.leased(now, index, build, lease.is_some(), version);
                self.leased(build, worker, leased);
            }
            Message::Fits { epoch, properties, fits } => {
                let asked = self.placement.worker(index).question();
                let about = asked.and_then(|kind| self.placement.kinds.properties(kind));
                if let Some(fits) = fits
                    && epoch == self.workers[worker].told.epoch
                    && about == Some(&properties)
                {
                    self.workers[worker].said.insert(properties.clone(), fits);
                }
                let version = self.workers[worker].life.version();
                self.placement.fit_answered(index, epoch, version, &properties, fits);
            }
            Message::Kind { properties, kind } => self.placement.kind_said(index, &properties, kind, orders),
        }
    }
}
