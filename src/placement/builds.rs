//! What happens to builds: they come, end, fail and come back.

use super::*;

impl Placement {
    /// A new build. One that no worker will ever take is answered at once.
    pub(crate) fn submit(&mut self, now: Instant, id: BuildId, build: &Build, orders: &mut Orders) {
        if self.shut_down {
            orders.push(Order::Answer { build: id, error: BuildError::ShutDown });
            return;
        }
        let Some(need) = self.need_of(build) else {
            let needed = build.labels();
            let advice = self.labels.why_nobody_fits(needed).into();
            let error = BuildError::NoWorkerFits { needed: needed.clone(), advice };
            orders.push(Order::Answer { build: id, error });
            return;
        };
        let rank = Rank { key: self.claim(now, build), build: id };
        self.queue.insert(rank, build.max_attempts(), need);
        if self.labels.speakers(self.queue.need(need).route) > 0 {
            let speakers: Vec<u32> = self.speakers.iter().copied().collect();
            speakers.into_iter().for_each(|driver| self.ask_kind(now, driver, need, orders));
        }
        // Where nobody waits, nobody has a better claim.
        let line = self.queue.line(self.queue.line_of_need(need));
        let free = self.free_places(line).next();
        match free.filter(|_| self.queue.nobody_waits()) {
            Some(worker) => self.lease(now, worker, rank, orders),
            None => self.queue.set_place(id, Place::Waiting),
        }
    }

    /// What a new build needs; `None` when no worker fits.
    fn need_of(&mut self, build: &Build) -> Option<NeedIndex> {
        self.queue.recent_need(build, &self.labels).or_else(|| {
            let route = self.labels.hold_route(build.labels())?;
            Some(self.queue.need_of(route, build, &mut self.labels, &mut self.kinds))
        })
    }

    /// The claim of a build that is submitted now. It does not change while the build waits: with ageing, the builds
    /// that come later start with less.
    fn claim(&mut self, now: Instant, build: &Build) -> i64 {
        let origin = *self.origin.get_or_insert(now);
        let later = self.config.ageing.map_or(0, |per_priority| {
            let passed = now.saturating_duration_since(origin).as_nanos() / per_priority.as_nanos();
            i64::try_from(passed).unwrap_or(i64::MAX / 2)
        });
        later - i64::from(build.priority())
    }

    /// Ends the build, wherever it is; `false` if it had ended already.
    pub(crate) fn cancel(&mut self, id: BuildId, orders: &mut Orders) -> bool {
        self.end(id, BuildError::Cancelled, orders)
    }

    fn end(&mut self, id: BuildId, error: BuildError, orders: &mut Orders) -> bool {
        match self.queue.place(id) {
            None => return false,
            Some(Place::Running { worker, .. } | Place::Leasing { worker, .. }) => {
                orders.push(Order::EndLease { worker, build: id });
            }
            Some(_) => {}
        }
        self.conclude(id, error, orders);
        true
    }

    /// The build gives its lease back and wants another one.
    pub(crate) fn retry(&mut self, now: Instant, id: BuildId, reason: Arc<str>, chance: f64, orders: &mut Orders) {
        let Some(Place::Running { worker, epoch, .. }) = self.queue.place(id) else { return };
        if self.shut_down {
            self.conclude(id, BuildError::ShutDown, orders);
        } else {
            self.attempt_failed(now, id, worker, epoch, reason, chance, orders);
        }
    }

    /// The lease of the build came back, and that was the last of it: what is left of the build. `None` if it does not
    /// run (any more).
    pub(crate) fn finished(&mut self, now: Instant, id: BuildId) -> Option<Forgotten> {
        let Some(Place::Running { worker, epoch, since, .. }) = self.queue.place(id) else { return None };
        let of = self.worker(worker);
        if let Some(kind) = of.kind.filter(|_| of.facts.epoch == epoch) {
            self.remember(kind);
            self.learned.builds.learn(kind, now.saturating_duration_since(since));
        }
        self.forget_build(id)
    }

    /// From now on nothing is given out or started. All builds end, except for those that run.
    pub(crate) fn shutdown(&mut self, orders: &mut Orders) {
        self.shut_down = true;
        let runs = |place: Place| matches!(place, Place::Running { .. });
        let to_end: Vec<BuildId> =
            self.queue.builds.iter().filter(|(_, entry)| !runs(entry.place)).map(|(id, _)| *id).collect();
        for id in to_end {
            self.end(id, BuildError::ShutDown, orders);
        }
    }

    /// An attempt of the build has failed. It pauses before the next one, or ends.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attempt_failed(
        &mut self,
        now: Instant,
        id: BuildId,
        worker: WorkerIndex,
        epoch: Epoch,
        reason: Arc<str>,
        chance: f64,
        orders: &mut Orders,
    ) {
        let attempt = Attempt { worker: self.worker(worker).name.clone(), epoch, reason: reason.clone() };
        let Some(past) = self.queue.failed(id, worker, attempt) else { return };
        let attempts = past.attempts;
        let most = self.queue.builds[&id].max_attempts.unwrap_or(self.config.max_attempts);
        if attempts >= most.get() {
            let history = self.history(id);
            self.conclude(id, BuildError::AttemptsExhausted { attempts, history }, orders);
            return;
        }
        let pause = self.config.pause(attempts, chance);
        let place = if pause.is_zero() { Place::Waiting } else { Place::Paused { until: now + pause } };
        self.queue.set_place(id, place);
        orders.push(Order::Requeued { build: id, reason });
    }

    pub(super) fn conclude(&mut self, id: BuildId, error: BuildError, orders: &mut Orders) {
        if self.forget_build(id).is_some() {
            orders.push(Order::Answer { build: id, error });
        }
    }

    pub(super) fn forget_build(&mut self, id: BuildId) -> Option<Forgotten> {
        self.blame.build_ended(id);
        self.queue.remove(id, &mut self.labels, &mut self.kinds)
    }

    pub(super) fn history(&self, id: BuildId) -> Vec<Attempt> {
        let past = self.queue.builds.get(&id).and_then(|entry| entry.past.as_ref());
        past.map(|past| past.history.clone()).unwrap_or_default()
    }
}
