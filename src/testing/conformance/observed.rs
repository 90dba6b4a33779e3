//! The subject's driver with somebody who takes notes: every call into it passes through here.

use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use super::record::{Call, Outcome, Record};
use super::subject::Show;
use crate::{
    AddWorkerError, BoxError, Build, DriverCall, Health, Kind, LatentWorker, Leftover, Master, Properties, Reclaimed,
    StartError, StartRequest, Started, StopError, StopRequest, Worker, WorkerConfig,
};

/// A driver of any type of instance.
pub(super) trait AnyDriver: Send {
    /// Adds a worker of this driver. Several workers of one driver share it.
    fn add_to(&self, master: &Master, config: WorkerConfig, notes: Notes) -> Result<Worker, AddWorkerError>;
    fn builds_may_be_incompatible(&self) -> bool;
    fn says_kinds(&self) -> bool;
    fn kind(&self, build: &Build) -> Result<Kind, String>;
}

/// Where the calls of one master's workers are noted.
#[derive(Clone)]
pub(super) struct Notes {
    pub(super) record: Arc<Record>,
    pub(super) master: usize,
    pub(super) gate: Arc<Gate>,
    pub(super) hides_kinds: bool,
}

pub(super) struct Observable<W: LatentWorker> {
    pub(super) driver: Arc<W>,
    pub(super) show_driver: Option<Show<W>>,
    pub(super) show_instance: Option<Show<W::Instance>>,
}

impl<W: LatentWorker> AnyDriver for Observable<W> {
    fn add_to(&self, master: &Master, config: WorkerConfig, notes: Notes) -> Result<Worker, AddWorkerError> {
        let Self { driver, show_driver, show_instance } = self;
        let observed = Observed {
            driver: driver.clone(),
            show_driver: show_driver.clone(),
            show_instance: show_instance.clone(),
            notes,
        };
        master.add_worker(config, observed)
    }

    fn builds_may_be_incompatible(&self) -> bool {
        self.driver.builds_may_be_incompatible()
    }

    fn says_kinds(&self) -> bool {
        self.driver.says_kinds()
    }

    fn kind(&self, build: &Build) -> Result<Kind, String> {
        LatentWorker::kind(&*self.driver, build.properties()).map_err(|error| error.to_string())
    }
}

struct Observed<W: LatentWorker> {
    driver: Arc<W>,
    show_driver: Option<Show<W>>,
    show_instance: Option<Show<W::Instance>>,
    notes: Notes,
}

/// An instance of the driver, and the attempt that it belongs to.
struct Tracked<I> {
    instance: I,
    call: Call,
}

impl<W: LatentWorker> Observed<W> {
    /// Makes a call and notes how it went; a panic goes on after it was noted.
    fn note<T>(&self, call: Call, make: impl FnOnce() -> T, outcome: impl FnOnce(&T) -> Outcome) -> T {
        let noted = self.notes.record.begin(call);
        let result = make();
        noted.ended(outcome(&result));
        result
    }

    /// Errors are seen by people as they print themselves, and by those who use `{:?}`.
    fn failed(&self, what: &str, error: &(impl Display + Debug)) -> Outcome {
        let text = error.to_string();
        self.notes.record.look_at(what, &format!("{text} {error:?}"));
        Outcome::Failed(text)
    }
}

impl<W: LatentWorker> LatentWorker for Observed<W> {
    type Instance = Tracked<W::Instance>;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Self::Instance>, StartError> {
        let call = Call {
            master: self.notes.master,
            worker: start.worker().to_owned(),
            epoch: start.epoch(),
            key: start.key().to_owned(),
            owner: start.owner().to_owned(),
            kind: DriverCall::Start,
            fast: false,
            had_instance: false,
        };
        self.notes.record.knows_secret(start.key(), start.secret());
        let make = || {
            self.notes.gate.before_start(start.cancel_signal());
            let result = self.driver.start_instance(start);
            self.notes.gate.after_start();
            result
        };
        let outcome = |result: &Result<_, _>| match result {
            Ok(_) => Outcome::Well,
            Err(error) => self.failed("the error of start_instance", error),
        };
        let started = self.note(call.clone(), make, outcome)?;
        if let Some(show) = &self.show_driver {
            self.notes.record.look_at("Debug of the driver", &show(&self.driver));
        }
        Ok(started.map(|instance| {
            if let Some(show) = &self.show_instance {
                self.notes.record.look_at("Debug of the instance", &show(&instance));
            }
            Tracked { instance, call }
        }))
    }

    fn stop_instance(&self, stop: StopRequest<Self::Instance>) -> Result<(), StopError> {
        let call = Call {
            master: self.notes.master,
            worker: stop.worker().to_owned(),
            epoch: stop.epoch(),
            key: stop.key().to_owned(),
            owner: stop.owner().to_owned(),
            kind: DriverCall::Stop,
            fast: stop.fast(),
            had_instance: stop.instance().is_some(),
        };
        let stop = stop.map(|tracked| tracked.instance);
        self.note(
            call,
            || self.driver.stop_instance(stop),
            |result| match result {
                Ok(()) => Outcome::Well,
                Err(error) => self.failed("the error of stop_instance", error),
            },
        )
    }

    fn check_instance(&self, tracked: &Self::Instance) -> Health {
        let call = Call { kind: DriverCall::Check, ..tracked.call.clone() };
        self.note(
            call,
            || self.driver.check_instance(&tracked.instance),
            |health| match health {
                Health::Good => Outcome::Well,
                Health::Bad(reason) => {
                    self.notes.record.look_at("the reason of check_instance", reason);
                    Outcome::Failed(reason.clone())
                }
            },
        )
    }

    fn builds_may_be_incompatible(&self) -> bool {
        self.driver.builds_may_be_incompatible()
    }

    fn says_kinds(&self) -> bool {
        self.driver.says_kinds() && !self.notes.hides_kinds
    }

    fn kind(&self, properties: &Properties) -> Result<Kind, BoxError> {
        let said = LatentWorker::kind(&*self.driver, properties);
        match &said {
            Ok(kind) => self.notes.record.look_at("the name of a kind", &format!("{kind:?}")),
            Err(error) => _ = self.failed("the error of kind", error),
        }
        said
    }

    fn attached_check_interval(&self) -> Option<Duration> {
        self.driver.attached_check_interval()
    }

    fn is_compatible_with_build(&self, tracked: &Self::Instance, properties: &Properties) -> Result<bool, BoxError> {
        let call = Call { kind: DriverCall::Compatible, ..tracked.call.clone() };
        self.note(
            call,
            || self.driver.is_compatible_with_build(&tracked.instance, properties),
            |result| match result {
                Ok(_) => Outcome::Well,
                Err(error) => self.failed("the error of is_compatible_with_build", error),
            },
        )
    }

    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        let call = Call {
            master: self.notes.master,
            worker: leftover.worker().to_owned(),
            epoch: leftover.epoch(),
            key: leftover.key().to_owned(),
            owner: leftover.owner().to_owned(),
            kind: DriverCall::Reclaim,
            fast: false,
            had_instance: false,
        };
        self.note(
            call,
            || self.driver.reclaim(leftover),
            |result| match result {
                Ok(Reclaimed::Gone | Reclaimed::Pending) => Outcome::Well,
                Ok(Reclaimed::Unsupported) => Outcome::Unsupported,
                Err(error) => self.failed("the error of reclaim", error),
            },
        )
    }
}
