//! What must hold in every state of a [`World`], worked out from what its workers and drivers said, independently of
//! the indexes of placement.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::super::queue::Entry;
use super::super::*;
use super::world::{Asker, BuildState, Driver, Message, Step, World, index_of, letter, properties};
use crate::lifecycle::Standing;

impl World {
    /// Takes what placement orders.
    pub(super) fn obey(&mut self, orders: Orders) {
        for order in orders {
            match order {
                Order::Start { worker, .. } => {
                    let occasion = self.placement.worker(worker).starting().expect("it was ordered").occasion;
                    let worker = worker.0 as usize;
                    assert!(!self.shut_down, "s1: a start after the shutdown began");
                    self.check_occasion(worker, occasion);
                    let sim = &mut self.workers[worker];
                    assert!(!std::mem::replace(&mut sim.ordered, true), "one start at a time");
                    sim.orders.push(order);
                }
                Order::Lease { worker, epoch, build } => {
                    let slot = self.slot(build);
                    let worker = worker.0 as usize;
                    let sim = &self.workers[worker];
                    assert_eq!(self.builds[slot].state, BuildState::Waiting, "b1: a place for a build that waits");
                    assert!(!self.shut_down, "s1: a place after the shutdown began");
                    assert!(self.fits(slot, worker), "b1: a place of a worker whose labels fit");
                    assert!(!self.avoids(slot, worker), "b2: a build avoids the worker that failed");
                    assert_eq!(epoch, sim.told.epoch, "b1: a place of the instance that is up");
                    let Standing::Attached { open: true, leases } = sim.told.standing else {
                        panic!("b1: a place of an attached instance: {:?}", sim.told);
                    };
                    assert!(leases < self.setting.workers[worker].max_builds, "b6: a place that is free");
                    let serves = self.serves(slot, worker);
                    assert!(serves, "w11: a place of an instance that fits");
                    self.builds[slot].state = BuildState::Leasing(worker);
                    let sim = &mut self.workers[worker];
                    sim.used = epoch;
                    sim.orders.push(order);
                }
                Order::AskFit { worker, epoch, ref properties } => {
                    let sim = &mut self.workers[worker.0 as usize];
                    let known = epoch == sim.told.epoch && sim.said.contains_key(properties);
                    assert!(!known, "w11: one question for each instance and kind");
                    sim.orders.push(order);
                }
                Order::CancelStart { worker } => {
                    assert!(self.workers[worker.0 as usize].ordered, "a cancel without a start");
                    self.workers[worker.0 as usize].orders.push(order);
                }
                Order::Drain { worker, .. } | Order::AskKind { worker, .. } | Order::Forgive { worker, .. } => {
                    self.workers[worker.0 as usize].orders.push(order);
                }
                Order::Answer { build, error } => {
                    let slot = self.slot(build);
                    let limit = self.setting.builds[slot].max_attempts.unwrap_or(self.setting.placement.max_attempts);
                    let build = &mut self.builds[slot];
                    assert_ne!(build.state, BuildState::Ended, "b4: a second answer: {error}");
                    build.state = BuildState::Ended;
                    match error {
                        BuildError::AttemptsExhausted { history, .. } => {
                            assert_eq!(build.attempts, limit.get(), "b2: as many attempts as the build may have");
                            assert_eq!(history.len(), build.attempts as usize);
                        }
                        BuildError::Cannot { history, .. } => assert_eq!(history.len(), build.attempts as usize),
                        BuildError::NoWorkerFits { .. } => {
                            assert!((0..self.workers.len()).all(|worker| !self.fits(slot, worker)));
                        }
                        BuildError::Cancelled => {}
                        BuildError::ShutDown => assert!(self.shut_down),
                        other => panic!("unexpected: {other}"),
                    }
                }
                Order::EndLease { build, .. } => {
                    let state = self.builds[self.slot(build)].state;
                    assert!(matches!(state, BuildState::Running(_) | BuildState::Leasing(_)));
                }
                Order::Abandon { worker, build } => {
                    let slot = self.slot(build);
                    let build = &mut self.builds[slot];
                    assert_eq!(build.state, BuildState::Running(worker.0 as usize), "b4: a lease that is out");
                    assert!(!build.taken, "b4: a lease that somebody has");
                    build.state = BuildState::Ended;
                    self.workers[worker.0 as usize].orders.push(order);
                }
                Order::Requeued { build, .. } => {
                    let build = &self.builds[self.slot(build)];
                    assert!(build.state == BuildState::Waiting && build.attempts > 0);
                }
            }
        }
    }

    /// A worker has answered an order to give this build a place.
    pub(super) fn leased(&mut self, build: BuildId, of: usize, leased: Leased) {
        let slot = self.builds.iter().position(|of| of.id == build);
        let Some(build) = slot.map(|slot| &mut self.builds[slot]).filter(|build| build.state != BuildState::Ended)
        else {
            assert_eq!(leased, Leased::HasEnded);
            return;
        };
        let is_there = build.state == BuildState::Leasing(of);
        match leased {
            Leased::Runs(history) => {
                assert!(is_there, "it runs while {:?}", build.state);
                assert_eq!(history.len(), build.attempts as usize);
                build.state = BuildState::Running(of);
                build.taken = !self.setting.claims;
            }
            Leased::Waits if is_there => build.state = BuildState::Waiting,
            Leased::Waits => {}
            Leased::HasEnded => panic!("b1: a build that goes on has ended"),
        }
    }

    /// A start is ordered, or called, for this build.
    pub(super) fn check_occasion(&self, worker: usize, build: BuildId) {
        let slot = self.slot(build);
        assert_eq!(self.builds[slot].state, BuildState::Waiting, "b8: a start for a build that waits");
        assert!(self.fits(slot, worker) && self.can_make(slot, worker), "a start that serves nobody");
        assert!(!self.avoids(slot, worker), "b2: a build avoids the worker that failed");
    }

    fn slot(&self, build: BuildId) -> usize {
        self.builds.iter().position(|of| of.id == build).expect("an order is about a build that was submitted")
    }

    fn fits(&self, slot: usize, worker: usize) -> bool {
        self.setting.workers[worker].labels.contains_all(&self.setting.builds[slot].labels)
    }

    /// Whether the driver makes instances for this build.
    fn can_make(&self, slot: usize, worker: usize) -> bool {
        match self.setting.workers[worker].driver {
            Driver::Any | Driver::Asked => true,
            Driver::Says { refuses } => {
                let kind = letter(&properties(self.setting.builds[slot].kind));
                kind.is_none() || kind != refuses
            }
        }
    }

    /// Whether the build has failed there and has somewhere else to go.
    fn avoids(&self, slot: usize, worker: usize) -> bool {
        let Some((entry, said)) = self.entry(slot) else { return false };
        self.avoids_for(slot, worker, |other| {
            let known = self.placement.worker(index_of(other));
            let kind = self.placement.kind_for(index_of(other), self.placement.queue.line_of_need(entry.need));
            let is_up = known.is_attached() && kind.is_some_and(|kind| known.serves(kind));
            let is_silent = said.get(&known.driver) == Some(&Said::Silent);
            self.can_make(slot, other) && !is_silent && (!self.placement.is_paused(known.driver, kind) || is_up)
        })
    }

    /// Whether the build goes elsewhere as far as placement can know: a driver that was not heard may make what it needs.
    fn may_avoid(&self, slot: usize, worker: usize) -> bool {
        let Some((_, said)) = self.entry(slot) else { return false };
        self.avoids_for(slot, worker, |other| {
            let driver = self.placement.worker(index_of(other)).driver;
            self.can_make(slot, other) || !matches!(said.get(&driver), Some(Said::Cannot(_)))
        })
    }

    /// What placement knows of a build that has not ended, and what drivers said of its kind.
    fn entry(&self, slot: usize) -> Option<(&Entry, &BTreeMap<u32, Said>)> {
        let entry = self.placement.queue.builds.get(&self.builds[slot].id)?;
        Some((entry, &self.placement.queue.need(entry.need).said))
    }

    fn avoids_for(&self, slot: usize, worker: usize, may_serve: impl Fn(usize) -> bool) -> bool {
        let failed_on = &self.builds[slot].failed_on;
        let is_alternative = |other: usize| {
            self.fits(slot, other)
                && !failed_on.contains(&other)
                && may_serve(other)
                && self.placement.worker(index_of(other)).readiness() != Readiness::OutOfUse
        };
        failed_on.contains(&worker) && (0..self.workers.len()).any(is_alternative)
    }

    /// Whether the attached instance is known to serve this build.
    fn serves(&self, slot: usize, worker: usize) -> bool {
        let wanted = properties(self.setting.builds[slot].kind);
        let sim = &self.workers[worker];
        let made_for = &sim.told.made_for.clone().unwrap_or_default();
        match self.setting.workers[worker].driver {
            Driver::Any => true,
            Driver::Asked => {
                let own = *made_for == wanted && sim.used != sim.told.epoch;
                sim.said.get(&wanted).copied().unwrap_or(own)
            }
            Driver::Says { .. } => self.can_make(slot, worker) && letter(made_for) == letter(&wanted),
        }
    }

    /// What holds always, after a plan.
    pub(super) fn check(&mut self) {
        self.placement.check(!self.setting.learns);
        for (build, setup) in self.builds.iter().zip(&self.setting.builds) {
            if let Some(entry) = self.placement.queue.builds.get(&build.id) {
                let need = self.placement.queue.need(entry.need);
                assert_eq!(*self.placement.labels.needed(need.route), setup.labels);
                assert!(need.properties.as_ref().is_none_or(|needed| *needed == properties(setup.kind)));
            }
            let place = self.placement.queue.place(build.id);
            match (place, build.state) {
                (None, BuildState::New | BuildState::Ended) => {}
                (Some(Place::Waiting | Place::Paused { .. }), BuildState::Waiting) => {
                    let past = self.placement.queue.builds[&build.id].past.as_ref();
                    assert_eq!(past.map_or(0, |past| past.attempts), build.attempts);
                }
                (Some(Place::Leasing { worker, .. }), BuildState::Leasing(at)) => assert_eq!(worker, index_of(at)),
                (Some(Place::Running { worker, .. }), BuildState::Running(at)) => assert_eq!(worker, index_of(at)),
                (place, state) => panic!("b4: {} is at {place:?} but {state:?}", build.id),
            }
        }
        for (i, sim) in self.workers.iter().enumerate() {
            let known = self.placement.worker(index_of(i));
            assert_eq!(known.starting().is_some(), sim.ordered, "one end for every start");
            assert!(sim.life.leases() <= self.setting.workers[i].max_builds, "b6: more leases than places");
            if self.is_quiet(i) && !known.draining {
                let expected = match sim.life.standing(self.now) {
                    Standing::Attached { leases, open: true } => self.setting.workers[i].max_builds - leases,
                    _ => 0,
                };
                assert_eq!(known.free(), expected, "b7: the free places of a worker that has said everything");
            }
            let draining = known.draining && self.is_quiet(i);
            let goes_on = matches!(sim.life.standing(self.now), Standing::Attached { open: true, .. });
            assert!(!draining || !goes_on, "b7: nothing drains this instance, and it is given no builds");
        }
        if self.shut_down {
            assert!(self.placement.queue.nobody_waits(), "s1: every build that does not run is answered");
            return;
        }
        self.check_places();
        self.check_starts();
    }

    /// Whether everything was done and heard that was said to or by this worker.
    fn is_quiet(&self, worker: usize) -> bool {
        let sim = &self.workers[worker];
        sim.orders.is_empty() && sim.messages.is_empty() && sim.told.version == sim.life.version()
    }

    /// L1: no build waits while an attached, undrained place that fits is free.
    fn check_places(&self) {
        for slot in 0..self.builds.len() {
            if self.placement.queue.place(self.builds[slot].id) != Some(Place::Waiting) {
                continue;
            }
            let wanted = properties(self.setting.builds[slot].kind);
            for (i, sim) in self.workers.iter().enumerate() {
                let known = self.placement.worker(index_of(i));
                if known.free() == 0 || !self.fits(slot, i) || self.may_avoid(slot, i) {
                    continue;
                }
                let id = self.builds[slot].id;
                match self.setting.workers[i].driver {
                    Driver::Any => panic!("b7: {id} waits and w{i} has a place"),
                    Driver::Asked => {
                        assert!(!self.serves(slot, i), "b7: {id} waits and w{i} has a place");
                        let asking = known.question().is_some() || !known.is_curious();
                        assert!(asking || sim.said.contains_key(&wanted), "b7: w{i} was not asked about {id}");
                    }
                    Driver::Says { .. } => {
                        let being_asked = |about: &Properties| {
                            let of_driver =
                                |other: &usize| self.placement.worker(index_of(*other)).driver == known.driver;
                            (0..self.workers.len()).filter(of_driver).any(|other| self.is_asked_for(other, about))
                        };
                        let asking = being_asked(&wanted) || sim.told.made_for.as_ref().is_some_and(being_asked);
                        assert!(asking || !self.serves(slot, i), "b7: {id} waits and w{i} has a place");
                    }
                }
            }
        }
    }

    /// Whether a worker is being asked of which kind builds with these properties are.
    fn is_asked_for(&self, worker: usize, about: &Properties) -> bool {
        let sim = &self.workers[worker];
        let ordered = |order: &Order| matches!(order, Order::AskKind { properties, .. } if properties == about);
        let said = |message: &Message| matches!(message, Message::Kind { properties, .. } if properties == about);
        sim.orders.iter().any(ordered) || sim.messages.iter().any(said)
    }

    /// L4: starts in flight, overdue ones aside, never exceed the places wanted.
    fn check_starts(&self) {
        let waits = |slot: &usize| self.placement.queue.place(self.builds[*slot].id) == Some(Place::Waiting);
        let waiting: Vec<usize> = (0..self.builds.len()).filter(waits).collect();
        let starts: Vec<usize> = (0..self.workers.len())
            .filter(|worker| {
                let known = self.placement.worker(index_of(*worker));
                known.starting().is_some_and(|demand| !demand.cancelled && !demand.overdue)
                    && !known.has_come()
                    && !self.has_come_up(*worker)
            })
            .collect();
        let fewest = starts.iter().map(|worker| self.setting.workers[*worker].max_builds).min().unwrap_or(1);
        let enough = waiting.len().div_ceil(fewest);
        let shapes: BTreeSet<_> = self.setting.builds.iter().map(|build| (&build.labels, build.kind)).collect();
        let most = match shapes.len() {
            1 => enough,
            _ if self.has_simple_demand() => waiting.len(),
            // Builds that can use some of what others can use may be counted twice.
            _ if waiting.is_empty() => 0,
            _ => usize::MAX,
        };
        assert!(starts.len() <= most, "b8: {starts:?} start, and {waiting:?} wait");
        for (i, sim) in self.workers.iter().enumerate() {
            let starts = sim.life.standing(self.now) == Standing::Starting;
            let asked = sim.requests.iter().any(|(_, asker)| !matches!(asker, Asker::Fit(_)));
            assert!(!starts || asked, "b8: w{i} starts for a question");
        }
        for (i, sim) in self.workers.iter().enumerate().filter(|(i, _)| self.is_quiet(*i)) {
            // One that was not called is given up before that. It may have been called for somebody else first.
            let started = sim.called && matches!(sim.call, Some((DriverCall::Start, _)));
            let cancelled = self.placement.worker(index_of(i)).starting().is_some_and(|demand| demand.cancelled);
            let asked = sim.requests.iter().any(|(_, asker)| *asker == Asker::Start);
            assert!(!started || !asked || !cancelled, "b8: the start of w{i} was cancelled, and goes on");
        }
    }

    /// Whether what one build can use another one can use as well, or nothing of it but instances of all.
    fn has_simple_demand(&self) -> bool {
        let says = self.setting.workers.iter().any(|worker| matches!(worker.driver, Driver::Says { .. }));
        !says && self.setting.builds.iter().all(|build| build.labels.is_empty())
    }

    /// Whether the start has ended well, and placement has not heard of it.
    fn has_come_up(&self, worker: usize) -> bool {
        self.workers[worker].messages.iter().any(|message| matches!(message, Message::Started { .. }))
    }

    /// L2: from here, with calls that return what they should and with time, every build ends for which a fitting
    /// worker works.
    pub(super) fn run_out(mut self, within: Duration) {
        self.setting =
            std::rc::Rc::new(super::world::Setting { failures: false, losses: false, ..(*self.setting).clone() });
        let began = self.now;
        let mut last = Vec::new();
        for _ in 0..2000 {
            if self.is_done() {
                return self.check_end();
            }
            match self.good_step() {
                Some(step) => {
                    last.push(step);
                    self.act(step);
                    self.settle();
                }
                None => {
                    panic!("b7: nothing will ever happen, and builds wait: {:?} after {last:?}", self.builds)
                }
            }
            let waited = self.now - began;
            assert!(waited < within, "b7: builds wait for {waited:?}: {:?} {:?}", self.builds, self.standings());
        }
        last.drain(..last.len() - 20);
        panic!(
            "b7: builds wait though everything works: {:?}, and these steps follow each other: {last:?}",
            self.builds
        );
    }

    fn standings(&self) -> Vec<(Standing, Facts, bool)> {
        self.workers.iter().map(|worker| (worker.life.standing(self.now), worker.told.clone(), worker.hung)).collect()
    }

    fn works(&self, worker: usize) -> bool {
        !self.workers[worker].hung && !self.workers[worker].paused
    }

    /// Whether all builds have ended that a worker that works can run.
    fn is_done(&self) -> bool {
        let done = |slot: usize| match self.builds[slot].state {
            BuildState::New | BuildState::Ended => true,
            BuildState::Running(_) => false,
            _ => !(0..self.workers.len())
                .any(|worker| self.works(worker) && self.fits(slot, worker) && self.can_make(slot, worker)),
        };
        (0..self.builds.len()).all(done)
    }

    /// What happens next where everything works and time passes only when nothing else happens.
    fn good_step(&self) -> Option<Step> {
        for (i, worker) in self.workers.iter().enumerate() {
            if !worker.messages.is_empty() {
                return Some(Step::Hear(i, 0));
            }
            if !worker.orders.is_empty() {
                return Some(Step::CarryOut(i, 0));
            }
            if worker.told.version < worker.life.version() {
                return Some(Step::Tell(i));
            }
            if worker.call.is_some() && !worker.hung {
                let is_question = worker.call.is_some_and(|(call, _)| call == DriverCall::Compatible);
                return Some(Step::Return(i, usize::from(is_question && !self.would_fit(i))));
            }
            if !worker.hung && worker.connection.is_none() && worker.life.admits_agent(worker.life.epoch()).is_ok() {
                return Some(Step::Attach(i));
            }
            if let Some(lease) = (0..worker.leases.len()).find(|lease| self.is_unclaimed(i, *lease)) {
                return Some(Step::GiveBack(i, lease));
            }
        }
        let running = self.builds.iter().position(|build| matches!(build.state, BuildState::Running(_)));
        let step = |slot: usize| if self.builds[slot].taken { Step::Finish(slot) } else { Step::Take(slot) };
        running.map(step).or_else(|| self.next_deadline().map(|_| Step::Deadline))
    }

    /// When all builds have ended, nothing of them is left.
    fn check_end(&mut self) {
        while let Some(step) = self.good_step().filter(|step| !matches!(step, Step::Deadline)) {
            self.act(step);
            self.settle();
        }
        self.check();
    }

    /// The state without numbers that only grow, so that states repeat. Times are relative to the present.
    pub(super) fn key(&self) -> u64 {
        let mut key = DefaultHasher::new();
        self.shut_down.hash(&mut key);
        let until = |at: Instant| at.saturating_duration_since(self.now);
        let slot = |id: BuildId| self.builds.iter().position(|build| build.id == id);
        for (i, sim) in self.workers.iter().enumerate() {
            let life = &sim.life;
            let relative = |epoch: Epoch| life.epoch().0 - epoch.0;
            let standing = |standing: Standing| match standing {
                Standing::Detached { since } => (5, 0, self.now.saturating_duration_since(since)),
                Standing::Attached { leases, open } => (4 + 10 * u8::from(open), leases, Duration::ZERO),
                Standing::Closed(_) => (0, 0, Duration::ZERO),
                Standing::Down => (1, 0, Duration::ZERO),
                Standing::Starting => (2, 0, Duration::ZERO),
                Standing::Stopping => (3, 0, Duration::ZERO),
            };
            let call = |call: Option<(DriverCall, Instant)>| {
                call.map(|(call, since)| (call, self.now.saturating_duration_since(since)))
            };
            (life.state() as u8, life.leases(), life.waiting(), life.attached(), call(life.call())).hash(&mut key);
            (standing(life.standing(self.now)), life.next_deadline().map(|(at, step)| (until(at), step)))
                .hash(&mut key);
            (life.occasion().map(slot), life.quarantine(self.now)).hash(&mut key);
            for order in &sim.orders {
                match order {
                    Order::Start { replace, .. } => (0, replace.map(relative)).hash(&mut key),
                    Order::Forgive { epoch, .. } => (10, relative(*epoch)).hash(&mut key),
                    Order::CancelStart { .. } => 1.hash(&mut key),
                    Order::Drain { epoch, .. } => (2, relative(*epoch)).hash(&mut key),
                    Order::Lease { epoch, build, .. } => (3, relative(*epoch), slot(*build)).hash(&mut key),
                    Order::AskKind { properties, .. } => (4, properties).hash(&mut key),
                    Order::AskFit { epoch, properties, .. } => (5, relative(*epoch), properties).hash(&mut key),
                    _ => {}
                }
            }
            for message in &sim.messages {
                match message {
                    Message::Started { epoch, end, called } => {
                        let end = match end {
                            StartEnd::Attached => 0,
                            StartEnd::Failed { .. } => 1,
                            StartEnd::Cannot { .. } => 2,
                            StartEnd::NotMade => 3,
                        };
                        (6, relative(*epoch), end, called).hash(&mut key);
                    }
                    Message::Leased { build, lease, version } => {
                        (7, slot(*build), lease.is_some(), *version > sim.told.version).hash(&mut key);
                    }
                    Message::Fits { epoch, properties, fits } => (8, relative(*epoch), properties, fits).hash(&mut key),
                    Message::Kind { properties, kind } => (9, properties, kind.is_ok()).hash(&mut key),
                }
            }
            let up_to_date = sim.told.version == life.version();
            (up_to_date, standing(sim.told.standing), relative(sim.told.epoch), call(sim.told.call)).hash(&mut key);
            (sim.hung, sim.paused, &sim.made_for, &sim.said, sim.used == sim.told.epoch, sim.ordered).hash(&mut key);
            sim.leases.iter().map(|(_, build)| build.and_then(slot)).collect::<Vec<_>>().hash(&mut key);
            let known = self.placement.worker(index_of(i));
            (known.draining, known.overdue, known.fresh, known.free()).hash(&mut key);
            known.kind.map(|kind| self.placement.kinds.name(kind)).hash(&mut key);
            let answers = known.answers.iter().map(|(kind, answer)| (self.placement.kinds.name(*kind), *answer));
            answers.collect::<BTreeSet<_>>().hash(&mut key);
            let demand = known.demand.as_ref().map(|demand| {
                let age = |at: Instant| self.now.saturating_duration_since(at);
                let ended = demand.ended.map(|ended| ended <= life.version());
                (
                    slot(demand.occasion),
                    self.placement.kinds.name(demand.kind),
                    (demand.cancelled, demand.overdue),
                    (age(demand.since), demand.called.map(age)),
                    ended,
                )
            });
            (demand, self.placement.worker(index_of(i)).timer.map(until)).hash(&mut key);
        }
        for build in &self.builds {
            (build.state, build.attempts, &build.failed_on, build.taken).hash(&mut key);
            if let Some(Place::Running { since, claimed: false, .. }) = self.placement.queue.place(build.id)
                && self.setting.claims
            {
                self.now.saturating_duration_since(since).hash(&mut key);
            }
            let Some(entry) = self.placement.queue.builds.get(&build.id) else { continue };
            if let Place::Paused { until: at } = entry.place {
                until(at).hash(&mut key);
            }
            let line = self.placement.queue.line_of_need(entry.need);
            let (queue, rank) = (&self.placement.queue, entry.rank(build.id));
            queue.progress_of(line).map(|(at, stalled)| (at.map(until), stalled)).hash(&mut key);
            (queue.patience_of(line, rank).map(|at| at.map(until)), queue.is_passed_over(line, rank)).hash(&mut key);
        }
        key.finish()
    }
}
