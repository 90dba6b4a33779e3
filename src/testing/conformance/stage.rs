//! What all checks have in common: masters with observed workers, waits that end, and the provider's own truth.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::gate::{Gate, Mode};
use super::observed::{AnyDriver, Notes};
use super::record::{Noted, Outcome, SharedRecord};
use super::subject::{Fault, Injection, Means};
use crate::{
    Attachment, Build, BuildResult, DriverCall, Event, IdlePolicy, Lease, LeftoverStep, Master, ShutdownMode,
    SubstantiateError, Substantiation, Worker, WorkerConfig,
};

/// Why a check does not hold.
#[derive(Debug)]
pub(super) enum Unproved {
    Broken(String),
    NotTried(String),
}

pub(super) type Proved<T = ()> = Result<T, Unproved>;

pub(super) fn broken<T>(reason: impl Into<String>) -> Proved<T> {
    Err(Unproved::Broken(reason.into()))
}

pub(super) fn not_tried<T>(reason: impl Into<String>) -> Proved<T> {
    Err(Unproved::NotTried(reason.into()))
}

/// The same, with the case in which it showed.
pub(super) fn about(unproved: Unproved, case: &str) -> Unproved {
    match unproved {
        Unproved::Broken(reason) => Unproved::Broken(format!("{case}: {reason}")),
        not_tried => not_tried,
    }
}

/// A means that the author may have given.
pub(super) fn given<'a, T>(means: &'a Option<T>, what: &str) -> Proved<&'a T> {
    means.as_ref().map_or_else(|| not_tried(format!("the subject has no {what}")), Ok)
}

pub(super) type Make = Box<dyn Fn() -> Box<dyn AnyDriver> + Send + Sync>;

/// Names of what the provider has.
pub(super) type Listing = BTreeSet<String>;

/// How often something is looked at that nobody can tell the kit of.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub(super) struct Stage {
    pub(super) make: Make,
    pub(super) means: Means,
    pub(super) record: SharedRecord,
    pub(super) masters: AtomicUsize,
    /// Files of the kit.
    pub(super) place: Place,
    /// All that was there before, or was left behind by a check that has told of it.
    pub(super) known: std::sync::Mutex<Listing>,
}

/// A directory, gone with it.
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new() -> std::io::Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("latent-worker-conformance-{}-{number}", std::process::id()));
        // What is there under this name is of a process that has died.
        _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn file(&self) -> PathBuf {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        self.0.join(format!("journal-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Stage {
    pub(super) fn driver(&self) -> Box<dyn AnyDriver> {
        (self.make)()
    }

    pub(super) fn list(&self) -> Listing {
        let listing: Listing = (self.means.list)().into_iter().collect();
        listing.iter().for_each(|name| self.record.look_at("a name in the provider's list", name));
        listing
    }

    pub(super) fn build(&self) -> &Build {
        &self.means.build
    }

    /// A build whose agent does not attach before the kit lets it.
    pub(super) fn silent_build(&self) -> Proved<&Build> {
        match (&self.means.silent, self.means.attaches_by_itself) {
            (Some(build), _) => Ok(build),
            (None, false) => Ok(&self.means.build),
            (None, true) => not_tried("the subject has no build whose agent never comes (Subject::silent)"),
        }
    }

    pub(super) fn inject(&self, fault: Fault) -> Proved<Injection> {
        let what = || format!("the subject has no means for it (Subject::fault with Fault::{fault:?})");
        self.means.faults.get(&fault).map_or_else(|| not_tried(what()), |inject| Ok(inject()))
    }

    /// What is there now and was not `before`.
    pub(super) fn new_since(&self, before: &Listing) -> Listing {
        self.list().difference(before).cloned().collect()
    }

    /// Blocks until `count` things are listed that were not in `before`, at most for as long as a listing may lag.
    /// Returns the new things.
    pub(super) fn appeared(&self, before: &Listing, count: usize) -> Listing {
        let deadline = Instant::now() + self.means.settle;
        loop {
            let new = self.new_since(before);
            if new.len() >= count || Instant::now() >= deadline {
                return new;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Blocks until none of these things is listed, at most for as long as a listing may lag. Returns those that are
    /// left.
    pub(super) fn left_of(&self, these: &Listing) -> Listing {
        let deadline = Instant::now() + self.means.settle;
        loop {
            let left: Listing = self.list().intersection(these).cloned().collect();
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits, as long as a listing may lag, until nothing is there that was not `before`.
    pub(super) fn nothing_left(&self, before: &Listing, after: &str) -> Proved {
        let deadline = Instant::now() + self.means.settle;
        loop {
            let left = self.new_since(before);
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return broken(format!("left behind {after}: {}", shown(&left)));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    pub(super) fn still_there(&self, these: &Listing, whose: &str) -> Proved {
        let now = self.list();
        let gone: Listing = these.difference(&now).cloned().collect();
        if gone.is_empty() { Ok(()) } else { broken(format!("{whose} is gone: {}", shown(&gone))) }
    }

    pub(super) fn destroy_all(&self, these: &Listing) -> Proved {
        let destroy =
            given(&self.means.destroy, "means to remove something behind the driver's back (Subject::destroy)")?;
        these.iter().for_each(|name| destroy(name));
        let left = self.left_of(these);
        if left.is_empty() {
            return Ok(());
        }
        broken(format!("Subject::destroy has returned, and they are still listed: {}", shown(&left)))
    }

    /// A master without a journal.
    pub(super) fn farm(&self) -> Farm<'_> {
        self.gated_farm(Mode::Open)
    }

    /// The same, with a gate before its workers.
    pub(super) fn gated_farm(&self, mode: Mode) -> Farm<'_> {
        self.farm_with(Master::builder(), Arc::new(Gate::new(mode, self.means.patience)), None)
    }

    /// A master with a new journal, and a gate before its workers and within that.
    pub(super) fn journal_farm(&self, mode: Mode) -> Proved<Farm<'_>> {
        self.farm_on(self.place.file(), mode)
    }

    fn farm_on(&self, path: PathBuf, mode: Mode) -> Proved<Farm<'_>> {
        let gate = Arc::new(Gate::new(mode, self.means.patience));
        let hook = gate.clone();
        let builder = Master::builder().journal_with_steps(&path, 1 << 20, move |step| hook.reach(step));
        let builder = builder.or_else(|error| broken(format!("the kit has no journal: {error}")))?;
        Ok(self.farm_with(builder, gate, Some(path)))
    }

    fn farm_with(&self, builder: crate::MasterBuilder, gate: Arc<Gate>, journal: Option<PathBuf>) -> Farm<'_> {
        // A call that hangs has been waited for by then.
        let master = builder.agent_address("127.0.0.1:9").drop_timeout(Duration::from_millis(100)).build();
        let events = master.events(100_000);
        let number = self.masters.fetch_add(1, Ordering::Relaxed) + 1;
        Farm { stage: self, number, events, gate, journal, hangs: Cell::new(false), master }
    }
}

pub(super) fn shown(listing: &Listing) -> String {
    listing.iter().cloned().collect::<Vec<_>>().join(", ")
}

/// A master of a check.
pub(super) struct Farm<'a> {
    stage: &'a Stage,
    number: usize,
    events: Receiver<Event>,
    pub(super) gate: Arc<Gate>,
    journal: Option<PathBuf>,
    /// Something was waited for in vain.
    hangs: Cell<bool>,
    pub(super) master: Master,
}

impl<'a> Farm<'a> {
    pub(super) fn worker(&self, name: &str, driver: &dyn AnyDriver) -> Proved<Hand<'_, 'a>> {
        self.worker_that(name, driver, false)
    }

    /// With `hides_kinds` the master does not learn that the driver says kinds.
    pub(super) fn worker_that(&self, name: &str, driver: &dyn AnyDriver, hides_kinds: bool) -> Proved<Hand<'_, 'a>> {
        let config = WorkerConfig::new(name)
            .with_idle(IdlePolicy::Never)
            .with_check_instance_interval(Duration::from_millis(20))
            .with_missing_timeout(self.stage.means.patience.saturating_mul(4));
        let record = self.stage.record.clone();
        let notes = Notes { record, master: self.number, gate: self.gate.clone(), hides_kinds };
        match driver.add_to(&self.master, config, notes) {
            Ok(worker) => Ok(Hand { farm: self, worker, lives: Cell::new(0) }),
            Err(error) => broken(format!("the worker cannot be added: {error}")),
        }
    }

    /// The master that comes after this one has died as it is now.
    pub(super) fn next_after_crash(&self) -> Proved<Farm<'a>> {
        self.next_on(self.journal()?)
    }

    /// The journal as it is now, for a master that comes later.
    pub(super) fn snapshot(&self) -> Proved<PathBuf> {
        self.copy(self.journal()?)
    }

    pub(super) fn next_on(&self, snapshot: &Path) -> Proved<Farm<'a>> {
        self.stage.farm_on(self.copy(snapshot)?, Mode::Open)
    }

    fn journal(&self) -> Proved<&Path> {
        self.journal.as_deref().map_or_else(|| broken("this master of the kit has no journal"), Ok)
    }

    fn copy(&self, journal: &Path) -> Proved<PathBuf> {
        let path = self.stage.place.file();
        match std::fs::copy(journal, &path) {
            Ok(_) => Ok(path),
            Err(error) => broken(format!("the kit cannot copy a journal: {error}")),
        }
    }

    /// Waits until the driver says of all leftovers of this worker that they are gone.
    pub(super) fn reclaimed(&self, worker: &str) -> Proved {
        let deadline = Instant::now() + self.stage.means.patience;
        loop {
            let leftovers = self.master.leftovers();
            let Some(left) = leftovers.iter().find(|left| &*left.worker == worker) else { return Ok(()) };
            if left.next == LeftoverStep::Unsupported {
                return not_tried("the driver cannot reclaim (Reclaimed::Unsupported)");
            }
            if Instant::now() >= deadline {
                self.hangs.set(true);
                return broken(format!("not reclaimed within {:?}: {left}", self.stage.means.patience));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// The first answer of reclaim about this worker has to be a good one.
    pub(super) fn reclaimed_at_once(&self, worker: &str) -> Proved {
        let first = |calls: &[Noted]| {
            calls.iter().find(|noted| noted.call.kind == DriverCall::Reclaim).and_then(|noted| noted.outcome().cloned())
        };
        match self.wait_for(worker, "reclaim has not returned", first)? {
            Outcome::Well => self.reclaimed(worker),
            Outcome::Unsupported => not_tried("the driver cannot reclaim (Reclaimed::Unsupported)"),
            Outcome::Failed(reason) => broken(format!("reclaim failed: {reason}")),
            Outcome::Panicked => broken("reclaim panicked"),
        }
    }

    fn wait_for<T>(&self, worker: &str, otherwise: &str, pick: impl Fn(&[Noted]) -> Option<T>) -> Proved<T> {
        let patience = self.stage.means.patience;
        self.stage.record.wait_for(self.number, worker, patience, pick).map_or_else(
            || {
                self.hangs.set(true);
                broken(format!("{otherwise} within {patience:?}{}", self.doing(worker)))
            },
            Ok,
        )
    }

    fn doing(&self, worker: &str) -> String {
        self.master.worker(worker).map(|worker| format!("; {}", worker.status())).unwrap_or_default()
    }

    pub(super) fn shut_down(&self) -> Proved {
        let report = self.master.shutdown(ShutdownMode::Fast, self.stage.means.patience);
        if report.complete {
            return Ok(());
        }
        self.hangs.set(true);
        broken(format!("the shutdown is not complete after {:?}: {report}", self.stage.means.patience))
    }
}

impl Drop for Farm<'_> {
    /// Whatever is still up is stopped, so that a broken check does not disturb the next one.
    fn drop(&mut self) {
        self.gate.let_go();
        let limit = if self.hangs.get() { Duration::from_millis(100) } else { self.stage.means.patience };
        self.master.shutdown(ShutdownMode::Fast, limit);
        for event in self.events.try_iter() {
            self.stage.record.look_at("an event", &format!("{event} {event:?}"));
        }
        self.stage.record.look_at("the list of leftovers", &format!("{:?}", self.master.leftovers()));
        if let Some(text) = self.journal.as_ref().and_then(|path| std::fs::read(path).ok()) {
            self.stage.record.look_at("the journal", &String::from_utf8_lossy(&text));
        }
    }
}

/// One worker in the hand of a check. A life is one start with all that follows from it; they are counted from 0.
pub(super) struct Hand<'f, 'a> {
    farm: &'f Farm<'a>,
    pub(super) worker: Worker,
    lives: Cell<usize>,
}

/// A start that was asked for.
pub(super) struct Asked {
    life: usize,
    pub(super) answer: Substantiation<Lease>,
}

/// An instance that is up, with its agent.
pub(super) struct Up {
    life: usize,
    pub(super) lease: Lease,
    pub(super) attachment: Option<Attachment>,
}

impl Hand<'_, '_> {
    fn means(&self) -> &Means {
        &self.farm.stage.means
    }

    fn wait_for<T>(&self, otherwise: &str, pick: impl Fn(&[Noted]) -> Option<T>) -> Proved<T> {
        self.farm.wait_for(self.worker.name(), otherwise, pick)
    }

    /// The same without waiting.
    fn look<T>(&self, pick: impl Fn(&[Noted]) -> Option<T>) -> Option<T> {
        self.farm.stage.record.wait_for(self.farm.number, self.worker.name(), Duration::ZERO, pick)
    }

    /// Asks for an instance that is expected to be started.
    pub(super) fn ask(&self, build: &Build) -> Asked {
        let life = self.lives.replace(self.lives.get() + 1);
        Asked { life, answer: self.worker.substantiate(build) }
    }

    /// Waits until the start was called, and returns its key.
    pub(super) fn called(&self, life: usize) -> Proved<Noted> {
        self.wait_for("start_instance was not called", move |calls| nth_start(calls, life).cloned())
    }

    /// Waits until the start has returned.
    pub(super) fn returned(&self, asked: &Asked) -> Proved<Noted> {
        let life = asked.life;
        self.wait_for("start_instance has not returned", move |calls| {
            nth_start(calls, life).filter(|noted| noted.ended.is_some()).cloned()
        })
    }

    pub(super) fn has_returned(&self, asked: &Asked) -> bool {
        let life = asked.life;
        let returned = move |calls: &[Noted]| nth_start(calls, life).filter(|noted| noted.ended.is_some()).map(|_| ());
        self.look(returned).is_some()
    }

    /// Waits until the start has returned, which must be well.
    pub(super) fn returned_well(&self, asked: &Asked) -> Proved<Noted> {
        let noted = self.returned(asked)?;
        match noted.outcome() {
            Some(Outcome::Well) => Ok(noted),
            Some(Outcome::Failed(reason)) => broken(format!("start_instance failed: {reason}")),
            other => broken(format!("start_instance: {other:?}")),
        }
    }

    /// Waits for the agent of the driver, or attaches one.
    pub(super) fn attach(&self, asked: &Asked) -> Proved<Option<Attachment>> {
        if self.means().attaches_by_itself {
            return Ok(None);
        }
        let key = self.called(asked.life)?.call.key;
        let Some(secret) = self.farm.stage.record.secret_of(&key) else { return broken("there is no such attempt") };
        match self.farm.master.attach(self.worker.name(), secret.expose(), ()) {
            Ok(attachment) => Ok(Some(attachment)),
            Err(error) => broken(format!("the agent is not let in: {error}")),
        }
    }

    pub(super) fn answered(&self, asked: &mut Asked) -> Proved<Result<Lease, SubstantiateError>> {
        let patience = self.means().patience;
        asked.answer.wait_timeout(patience).map_or_else(
            || {
                self.farm.hangs.set(true);
                broken(format!("no instance and no failure within {patience:?}{}", self.farm.doing(self.worker.name())))
            },
            Ok,
        )
    }

    /// Waits until the instance is up; attaches its agent if that does not come by itself.
    pub(super) fn finish(&self, mut asked: Asked) -> Proved<Up> {
        self.returned_well(&asked)?;
        let attachment = self.attach(&asked)?;
        match self.answered(&mut asked)? {
            Ok(lease) => Ok(Up { life: asked.life, lease, attachment }),
            Err(error) => broken(format!("the instance does not come up: {error}")),
        }
    }

    pub(super) fn up(&self, build: &Build) -> Proved<Up> {
        self.finish(self.ask(build))
    }

    /// Ends the build, and has the instance stopped. The stop must succeed.
    pub(super) fn stop(&self, up: Up, fast: bool) -> Proved {
        let life = up.life;
        up.lease.finish(BuildResult::Succeeded);
        self.ask_stop(fast)?;
        self.stopped_well(life).map(drop)
    }

    /// Waits until the instance is gone, however its stop ended.
    pub(super) fn ask_stop(&self, fast: bool) -> Proved {
        if self.worker.insubstantiate(fast).wait_timeout(self.means().patience) {
            return Ok(());
        }
        self.farm.hangs.set(true);
        let doing = self.farm.doing(self.worker.name());
        broken(format!("stop_instance has not returned within {:?}{doing}", self.means().patience))
    }

    /// Waits until the stop was called.
    pub(super) fn stop_called(&self, life: usize) -> Proved<Noted> {
        self.wait_for("stop_instance was not called", move |calls| nth_stop(calls, life).cloned())
    }

    /// Waits until the stop has returned.
    pub(super) fn stopped(&self, life: usize) -> Proved<Noted> {
        self.wait_for("stop_instance has not returned", move |calls| {
            nth_stop(calls, life).filter(|noted| noted.ended.is_some()).cloned()
        })
    }

    /// Waits until the stop of this life has returned, or a request that should wait for it has its answer.
    pub(super) fn stopped_or_answered(
        &self,
        life: usize,
        asked: &mut Asked,
    ) -> Proved<Option<Result<Lease, SubstantiateError>>> {
        let deadline = Instant::now() + self.means().patience;
        loop {
            // The stop first: its worker's next start may have been answered since.
            if self.count_of_ended_stops() > life {
                return Ok(None);
            }
            if let Some(answer) = asked.answer.wait_timeout(LOOK_AGAIN) {
                return Ok(Some(answer));
            }
            if Instant::now() >= deadline {
                self.farm.hangs.set(true);
                let doing = self.farm.doing(self.worker.name());
                return broken(format!("neither stopped nor answered within {:?}{doing}", self.means().patience));
            }
        }
    }

    fn count_of_ended_stops(&self) -> usize {
        let stops = |calls: &[Noted]| {
            Some(calls.iter().filter(|noted| noted.call.kind == DriverCall::Stop && noted.ended.is_some()).count())
        };
        self.look(stops).unwrap_or_default()
    }

    pub(super) fn stopped_well(&self, life: usize) -> Proved<Noted> {
        let noted = self.stopped(life)?;
        match noted.outcome() {
            Some(Outcome::Well) => Ok(noted),
            Some(Outcome::Failed(reason)) => broken(format!("stop_instance failed: {reason}")),
            other => broken(format!("stop_instance: {other:?}")),
        }
    }

    /// Waits for so many good checks since the beginning.
    pub(super) fn good_checks(&self, life: usize, wanted: usize) -> Proved {
        let key = self.called(life)?.call.key;
        self.wait_for("check_instance was not called often enough", move |calls| {
            let of_life = |noted: &&Noted| noted.call.kind == DriverCall::Check && noted.call.key == key;
            let ended: Vec<_> = calls.iter().filter(of_life).filter_map(Noted::outcome).collect();
            let bad = ended.iter().find(|outcome| ***outcome != Outcome::Well);
            match bad {
                Some(Outcome::Failed(reason)) => Some(Some(format!("check_instance: {reason}"))),
                Some(other) => Some(Some(format!("check_instance: {other:?}"))),
                None => (ended.len() >= wanted).then_some(None),
            }
        })?
        .map_or(Ok(()), broken)
    }
}

impl Asked {
    pub(super) fn life(&self) -> usize {
        self.life
    }

    pub(super) fn into_up(self, lease: Lease, attachment: Option<Attachment>) -> Up {
        Up { life: self.life, lease, attachment }
    }
}

impl Up {
    pub(super) fn life(&self) -> usize {
        self.life
    }
}

fn nth_stop(calls: &[Noted], life: usize) -> Option<&Noted> {
    calls.iter().filter(|noted| noted.call.kind == DriverCall::Stop).nth(life)
}

fn nth_start(calls: &[Noted], life: usize) -> Option<&Noted> {
    calls.iter().filter(|noted| noted.call.kind == DriverCall::Start).nth(life)
}
