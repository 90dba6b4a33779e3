//! What drivers are asked: which kind of instance a build needs, and whether an instance fits.

use super::*;

impl Placement {
    /// Finds out of which kind an attached instance is.
    pub(super) fn name_instance(&mut self, now: Instant, index: WorkerIndex, orders: &mut Orders) {
        let worker = self.worker(index);
        let properties = worker.made_for();
        let kind = match worker.space {
            Space::Any => Some(ANY),
            Space::Asked => Some(self.kinds.hold_asked(&properties)),
            Space::Said(driver) => {
                self.speak(now, driver, orders);
                let kind = self.kinds.said(driver, &properties);
                if kind.is_none() && self.unnamed.insert(index) {
                    orders.push(Order::AskKind { worker: index, properties });
                }
                kind.map(|kind| self.kinds.hold(kind))
            }
        };
        self.worker_mut(index).kind = kind;
    }

    /// From now on this driver is asked about every new need, and now about those that wait.
    pub(super) fn speak(&mut self, now: Instant, driver: u32, orders: &mut Orders) {
        if !self.speakers.insert(driver) {
            return;
        }
        for need in self.queue.all_needs() {
            self.ask_kind(now, driver, need, orders);
        }
    }

    /// Asks the drivers about the needs that were made anew.
    pub(super) fn ask_again(&mut self, now: Instant, orders: &mut Orders) {
        for route in std::mem::take(&mut self.renewed) {
            let needs: Vec<NeedIndex> = self.queue.needs_of(route).collect();
            let drivers: Vec<u32> = self.speakers.iter().copied().collect();
            for (need, driver) in needs.iter().flat_map(|need| drivers.iter().map(move |driver| (*need, *driver))) {
                self.ask_kind(now, driver, need, orders);
            }
        }
    }

    /// Asks the driver about a need that one of its workers fits, unless it was asked.
    pub(super) fn ask_kind(&mut self, now: Instant, driver: u32, index: NeedIndex, orders: &mut Orders) {
        let need = self.queue.need(index);
        let Some(worker) = self.labels.speaker(need.route, driver) else { return };
        if need.said.contains_key(&driver) {
            return;
        }
        let properties = need.properties.clone().expect("where a driver says kinds, properties matter");
        match self.kinds.said(driver, &properties) {
            Some(kind) => {
                let said = Said::Kind(self.kinds.hold(kind));
                self.queue.said(index, driver, said, self.labels.workers(need.route).any > 0, &mut self.kinds);
            }
            None => {
                self.queue.asks(index, driver, now.checked_add(self.config.overdue.unknown));
                orders.push(Order::AskKind { worker, properties });
            }
        }
    }

    /// A driver has said what kind the properties ask for, or why it cannot make such an instance.
    pub(crate) fn kind_said(
        &mut self,
        index: WorkerIndex,
        properties: &Properties,
        kind: Result<Kind, Arc<str>>,
        orders: &mut Orders,
    ) {
        let Space::Said(driver) = self.worker(index).space else { return };
        let kind = kind.map(|kind| self.kinds.hold_said(driver, &kind, properties));
        if let Ok(kind) = kind {
            self.kinds.remember_said(driver, properties, kind);
        }
        let routes: Vec<_> = self.labels.routes_of(index).collect();
        for route in routes {
            let Some(need) = self.queue.find_need(route, properties) else { continue };
            if !matches!(self.queue.need(need).said.get(&driver), Some(Said::Asked { .. } | Said::Silent)) {
                continue;
            }
            let said = match &kind {
                Ok(kind) => Said::Kind(self.kinds.hold(*kind)),
                Err(reason) => Said::Cannot(reason.clone()),
            };
            let any = self.labels.workers(route).any > 0;
            self.queue.said(need, driver, said, any, &mut self.kinds);
            self.end_impossible(need, orders);
        }
        // Also if its agent is gone or the worker is closed at the moment: nobody asks again.
        if self.worker(index).made_for() == *properties && self.unnamed.remove(&index) {
            // An instance of no kind serves nobody, and can be replaced.
            self.worker_mut(index).kind = kind.as_ref().ok().map(|kind| self.kinds.hold(*kind));
            self.refresh(index);
        }
        if let Ok(kind) = kind {
            self.kinds.release(kind);
        }
    }

    /// Ends the builds of a need that every driver that fits has refused.
    pub(super) fn end_impossible(&mut self, index: NeedIndex, orders: &mut Orders) {
        let need = self.queue.need(index);
        let census = self.labels.workers(need.route);
        let refused = need.said.values().filter(|said| matches!(said, Said::Cannot(_))).count();
        if census.any + census.asked > 0 || refused < self.labels.speakers(need.route) {
            return;
        }
        let reason = need.said.values().find_map(|said| if let Said::Cannot(why) = said { Some(why) } else { None });
        let reason = reason.cloned().unwrap_or_else(|| "no driver can make an instance for it".into());
        for build in self.queue.waiting_of(index) {
            let history = self.history(build);
            self.conclude(build, BuildError::Cannot { reason: reason.clone(), history }, orders);
        }
    }

    /// A driver has said whether its instance fits; `None`: it could not be asked. The worker's facts tell of that from
    /// `version` on.
    pub(crate) fn fit_answered(
        &mut self,
        index: WorkerIndex,
        epoch: Epoch,
        version: u64,
        properties: &Properties,
        fits: Option<bool>,
    ) {
        let Some(kind) = self.worker(index).question() else { return };
        if self.worker(index).facts.epoch != epoch || self.kinds.properties(kind) != Some(properties) {
            return;
        }
        match fits {
            Some(fits) => _ = self.worker_mut(index).answers.insert(kind, Some(fits)),
            None => {
                let worker = self.worker_mut(index);
                worker.answers.remove(&kind);
                worker.unasked = Some(version);
            }
        }
        self.hunger.questions.remove(&(kind, index));
        self.queue.touch_lines_of(kind);
        self.refresh(index);
        if fits.is_none() {
            self.kinds.release(kind);
        }
    }
}
