//! The lives of the workers: their transitions, and what follows from them.

use super::*;

/// Workers, as `runtime::cell` holds them.
impl Run {
    pub(super) fn apply(&mut self, worker: WorkerIndex, input: Input) {
        let now = self.now;
        self.transition(worker, |worker, effects| worker.life.apply(now, input, effects));
    }

    /// One turn of a worker: `step` changes its lifecycle, and what follows goes on the agenda.
    pub(super) fn transition<R>(&mut self, index: WorkerIndex, step: impl FnOnce(&mut Worker, &mut Effects) -> R) -> R {
        let mut effects = Effects::new(self.observer.is_some());
        let worker = &mut self.workers[index.0 as usize];
        let result = step(worker, &mut effects);
        for occurrence in effects.occurrences {
            self.tell(Some(index), Some(occurrence.epoch), occurrence.build, occurrence.kind);
        }
        effects.orders.into_iter().for_each(|effect| self.resolve_effect(index, effect));
        let now = self.now;
        let worker = &mut self.workers[index.0 as usize];
        match (worker.life.leases() > 0, worker.busy_since) {
            (true, None) => worker.busy_since = Some(now),
            (false, Some(since)) => {
                worker.busy_since = None;
                self.report.busy_time += now - since;
            }
            (true, Some(_)) | (false, None) => {}
        }
        if let Some((at, _)) = worker.life.next_deadline()
            && worker.scheduled.is_none_or(|scheduled| at < scheduled)
        {
            let at = at.max(now);
            worker.scheduled = Some(at);
            self.at(at, Happening::WorkerTime(index));
        }
        let worker = &mut self.workers[index.0 as usize];
        if !std::mem::replace(&mut worker.dirty, true) {
            self.dirty.push(index);
        }
        self.look_if_waiting();
        result
    }

    pub(super) fn resolve_effect(&mut self, index: WorkerIndex, effect: Effect) {
        let worker = &mut self.workers[index.0 as usize];
        let epoch = worker.life.epoch();
        let task = match effect {
            Effect::SpawnThread(epoch) => Task::ThreadReady(index, epoch),
            Effect::CancelStart => {
                self.report.cancelled_starts += 1;
                let after = self.pool_of(index).cancel.clone().sample(&mut self.random);
                return self.later(after, Happening::StartReturns { worker: index, epoch, fails: true });
            }
            // `thread_ready` makes the call of a start itself, and stops take as long when they are hurried.
            Effect::CallStart | Effect::HurryStop | Effect::Gone => return,
            Effect::CallCheck => Task::CheckReturns(index, epoch),
            Effect::CallCompatible(request) => {
                let asked = worker.requests.iter().find(|(id, _)| *id == request);
                let Some((_, Asker::Fit(properties))) = asked else { return };
                let fits = worker.fits(&self.pools[worker.pool].serves, properties);
                Task::FitAnswered { worker: index, epoch, fits }
            }
            Effect::CallStop { .. } => {
                let (duration, failing) = (self.pool_of(index).stop.clone(), self.pool_of(index).failing_stops);
                let duration = duration.sample(&mut self.random);
                let fails = self.random.chance(failing);
                return self.later(duration, Happening::StopReturns { worker: index, epoch, fails });
            }
            Effect::Answer(request, answer) => {
                let Some(position) = worker.requests.iter().position(|(id, _)| *id == request) else { return };
                let (_, asker) = worker.requests.remove(position);
                let occasion = worker.life.occasion();
                Task::Answer { worker: index, asker, answer, epoch, occasion }
            }
            Effect::EndLeases(end) => Task::EndLeases(index, end),
        };
        self.agenda.push_back(task);
    }
}
