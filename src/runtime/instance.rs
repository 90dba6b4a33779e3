//! The thread of one instance: it makes all calls into the driver, one after the other, and then it ends, or does the
//! same for the next instance of its worker if that has begun meanwhile.
//!
//! What is to be called is decided by the lifecycle and comes as [`Order`]s; what a call returned goes back to the
//! lifecycle. While a call hangs, only this thread hangs.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::call_signal::CallSignal;
use super::cell::{Attempt, Initiator, Transition, WorkerCell};
use super::entropy;
use super::fence::fenced;
use super::queue::BuildCell;
use super::shared::{Agenda, Shared, SharedPoint};
use crate::build::{Build, Epoch, Properties};
use crate::error::{Cancelled, FailureCause, RecordError, chain};
use crate::event::{DriverCall, EventKind, StartFailure};
use crate::journal::{self, LeftoverStage, Record, Remains, Until};
use crate::lifecycle::{Effect, Input, Occasion};
use crate::printable::printable;
use crate::worker::{
    Attacher, AttemptIdentity, DriverIdentity, Health, Kind, LatentWorker, Leftover, Reclaimed, Secret, StartControls,
    StartRequest, Started, StopRequest,
};

/// The longest id that can be recorded, in bytes.
const LONGEST_ID: usize = 4096;

/// The next call to make. The lifecycle never has two in flight, so that the channel of orders has room for one.
pub(super) enum Order {
    Check,
    Compare(Properties),
    /// The signal is disconnected when the stop is, or becomes, a fast one.
    Stop {
        hurried: Receiver<Infallible>,
    },
}

/// A [`LatentWorker`] of any type of instance.
pub(super) trait Driver: Send + Sync {
    fn builds_may_be_incompatible(&self) -> bool;
    fn attached_check_interval(&self) -> Option<Duration>;
    fn identity(&self) -> Option<DriverIdentity>;
    fn says_kinds(&self) -> bool;
    fn kind(&self, properties: &Properties) -> Result<Kind, Arc<str>>;
    /// The body of an instance thread.
    fn run_instance(&self, shared: &Arc<Shared>, worker: &Arc<WorkerCell>, epoch: Epoch);
    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, Arc<str>>;
}

impl<W: LatentWorker> Driver for W {
    fn builds_may_be_incompatible(&self) -> bool {
        LatentWorker::builds_may_be_incompatible(self)
    }

    fn attached_check_interval(&self) -> Option<Duration> {
        LatentWorker::attached_check_interval(self)
    }

    fn identity(&self) -> Option<DriverIdentity> {
        LatentWorker::driver_identity(self)
    }

    fn says_kinds(&self) -> bool {
        LatentWorker::says_kinds(self)
    }

    fn kind(&self, properties: &Properties) -> Result<Kind, Arc<str>> {
        LatentWorker::kind(self, properties).map_err(|error| chain(error.as_ref()).into())
    }

    fn run_instance(&self, shared: &Arc<Shared>, worker: &Arc<WorkerCell>, epoch: Epoch) {
        let report = |input: Input| {
            worker.turn(shared, |turn| turn.apply(input));
        };
        let identity = match identity(shared, worker, epoch) {
            Ok(identity) => identity,
            Err(error) => {
                let reason = format!("no random numbers for a secret: {}", chain(&error));
                return report(Input::NoThread(epoch, reason.into()));
            }
        };
        let (begun, key) = (journal::seconds_since_1970(), identity.key.clone());
        if let Some(journal) = &shared.journal
            && let Err(reason) =
                worker.in_journal(|| shared.write_journal(journal, || journal.intend(&worker.name, epoch, &key)))
        {
            // It may have got into the file all the same.
            worker.in_journal(|| shared.tell_journal(Record::Gone { key }, Until::Written));
            return report(Input::NoThread(epoch, format!("nothing is started without a journal: {reason}").into()));
        }
        let Some(Announced { build, made_for, orders, cancelled }) = announce(shared, worker, &identity) else {
            // Cancelled before the start was called.
            return worker.in_journal(|| shared.tell_journal(Record::Gone { key }, Until::Written));
        };

        let controls = Controls { shared, worker, identity: &identity, cancelled, ids: RefCell::default() };
        let request = StartRequest { identity: &identity, build: build.as_ref(), controls: &controls };
        // What an error says is its own code, so that it is asked within the fence: here and below.
        let start = || self.start_instance(&request).map_err(StartFailure::from);
        let started = fenced("start_instance", start)
            .unwrap_or_else(|panic| Err(StartFailure::Failed(FailureCause::Infrastructure, panic)));
        let (instance, result) = match started {
            Ok(Started { instance, details }) => {
                let details = details.iter().map(|detail| printable(detail).into_owned()).collect();
                (Some(instance), Ok(details))
            }
            Err(failure) => (None, Err(failure)),
        };
        let ids = controls.ids.into_inner();
        report_started(shared, worker, epoch, result);

        for order in orders {
            match (order, &instance) {
                (Order::Check, Some(instance)) => {
                    let result = match fenced("check_instance", || self.check_instance(instance)) {
                        Ok(Health::Good) => Ok(()),
                        Ok(Health::Bad(reason)) => Err(printable(&reason).into()),
                        Err(panic) => Err(panic),
                    };
                    report(Input::CheckReturned(epoch, result));
                }
                (Order::Compare(properties), Some(instance)) => {
                    let compare = || {
                        let compatible = self.is_compatible_with_build(instance, &properties);
                        compatible.map_err(|error| chain(error.as_ref()).into())
                    };
                    let driver = &worker.driver;
                    let same_kind = if driver.says_kinds { driver.same_kind(&made_for, &properties) } else { Ok(true) };
                    let result = match same_kind {
                        Ok(true) => fenced("is_compatible_with_build", compare).unwrap_or_else(Err),
                        differs => differs,
                    };
                    report(Input::CompatibleReturned(epoch, result));
                }
                (Order::Check | Order::Compare(_), None) => {
                    unreachable!("an instance is only looked after when there is one")
                }
                (Order::Stop { hurried }, _) => {
                    close_agent(shared, worker);
                    if let Some(journal) = &shared.journal {
                        // A disk that hangs must not keep an instance from being stopped.
                        journal.note(Record::Stopping { attempt: attempt_of(&identity) });
                    }
                    let controls = Arc::new(CallSignal::new(shared, hurried));
                    let request = StopRequest { identity: identity.clone(), instance, controls };
                    let stop = || self.stop_instance(request).map_err(|error| error.to_string().into());
                    let result = fenced("stop_instance", stop).unwrap_or_else(Err);
                    let remains = Remains {
                        worker: worker.name.clone(),
                        epoch,
                        key,
                        owner: identity.owner,
                        ids,
                        stage: LeftoverStage::Stopping,
                        at: Some(begun),
                    };
                    return report_stopped(shared, worker, remains, result);
                }
            }
        }
    }

    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, Arc<str>> {
        LatentWorker::reclaim(self, leftover).map_err(|error| error.to_string().into())
    }
}

/// How the journal names the attempt.
fn attempt_of(identity: &AttemptIdentity) -> journal::Attempt {
    let AttemptIdentity { worker, epoch, key, owner, .. } = identity.clone();
    journal::Attempt { worker, epoch, key, owner }
}

fn identity(shared: &Shared, worker: &WorkerCell, epoch: Epoch) -> std::io::Result<AttemptIdentity> {
    Ok(AttemptIdentity {
        worker: worker.name.clone(),
        epoch,
        key: entropy::hex::<16>()?.into(),
        owner: shared.owner()?,
        secret: Secret::new(entropy::hex::<32>()?),
    })
}

/// A start that is called now.
struct Announced {
    build: Option<Build>,
    made_for: Properties,
    orders: Receiver<Order>,
    cancelled: Receiver<Infallible>,
}

/// Reports that the start can be called, and finds out for which build. `None` when nobody wants it any more.
///
/// From here on a cancel does not keep the driver from being called. The caller therefore makes the call at once, and this
/// thread does not look at the queue before that, which may take long. The queue need not know of it: for the queue the
/// start is out since its thread was wanted.
fn announce(shared: &Arc<Shared>, worker: &Arc<WorkerCell>, identity: &AttemptIdentity) -> Option<Announced> {
    let mut found: Option<(Arc<BuildCell>, Occasion)> = None;
    // Each further round means that a build has ended that the start was to be called for.
    loop {
        #[cfg(feature = "testing")]
        let _step = shared.steps.begin();
        let mut agenda = Agenda::default();
        let mut begin = |occasion| worker.transition(shared, &mut agenda, |turn| begin_start(turn, identity, occasion));
        let begun = match &found {
            None => begin(None),
            Some((build, occasion)) => {
                build.unless_ended(|| begin(Some((&build.build, *occasion)))).unwrap_or(Begun::AskQueue)
            }
        };
        agenda.leave_the_look();
        shared.perform(agenda);
        match begun {
            Begun::Called(announced) => return Some(announced),
            Begun::Unwanted => return None,
            Begun::AskQueue => {
                found = shared.occasion_of_start(worker.index);
                if found.is_none() {
                    worker.turn(shared, |turn| turn.cancel_start());
                }
            }
        }
    }
}

enum Begun {
    Called(Announced),
    Unwanted,
    /// The queue says for which build.
    AskQueue,
}

fn begin_start(turn: &mut Transition<'_>, identity: &AttemptIdentity, of_queue: Option<(&Build, Occasion)>) -> Begun {
    let (build, occasion) = match turn.inner.initiator() {
        None => (None, None),
        Some(Initiator::Direct(build)) => (build, None),
        Some(Initiator::Queue) => match of_queue {
            Some((build, occasion)) => (Some(build.clone()), Some(occasion)),
            None => return Begun::AskQueue,
        },
    };
    turn.apply(Input::ThreadReady(identity.epoch, occasion));
    if !turn.effects.orders.contains(&Effect::CallStart) {
        return Begun::Unwanted;
    }
    let (orders, received) = bounded(1);
    let (cancel, cancelled) = bounded(0);
    turn.inner.progress = None;
    let made_for = build.as_ref().map(|build| build.properties().clone()).unwrap_or_default();
    let identity = identity.clone();
    turn.inner.attempt = Some(Attempt {
        identity,
        made_for: made_for.clone(),
        orders,
        cancel: Some(cancel),
        hurry: None,
        connection: None,
    });
    Begun::Called(Announced { build, made_for, orders: received, cancelled })
}

/// Lets the agent end what it runs, before its instance is taken away.
fn close_agent(shared: &Shared, worker: &WorkerCell) {
    if let Some(connection) = worker.connection()
        && let Err(panic) = fenced("Agent::close", || connection.agent().close())
    {
        shared.tell_panic(worker, panic);
    }
}

fn report_started(
    shared: &Arc<Shared>,
    worker: &Arc<WorkerCell>,
    epoch: Epoch,
    result: Result<Vec<String>, StartFailure>,
) {
    worker.turn(shared, |turn| {
        turn.inner.progress = None;
        turn.apply(Input::StartReturned(epoch, result));
    });
}

/// `remains` is what may be left when the stop has failed. The journal knows it before anybody else does.
fn report_stopped(shared: &Arc<Shared>, worker: &Arc<WorkerCell>, remains: Remains, result: Result<(), Arc<str>>) {
    let key = remains.key.clone();
    match &result {
        Ok(()) => shared.tell_journal(Record::Gone { key }, Until::Synced),
        Err(reason) => shared.tell_journal(Record::Failed { key, tries: 1, reason: reason.clone() }, Until::Written),
    }
    let chance = if result.is_err() { entropy::fraction() } else { 0.0 };
    let ended = worker.turn(shared, |turn| {
        // Before the next attempt begins, and dropped after the lock is gone: the agent is user code.
        let ended = turn.inner.attempt.take();
        turn.inner.ended_secret = ended.as_ref().map(|attempt| attempt.identity.secret.clone());
        turn.inner.progress = None;
        let failure = result.as_ref().err().cloned();
        turn.apply(Input::StopReturned(remains.epoch, result));
        if let Some(reason) = failure {
            turn.left_behind(shared, remains, reason, chance);
        }
        ended
    });
    drop(ended);
}

/// What a start can ask for while it runs.
struct Controls<'a> {
    shared: &'a Arc<Shared>,
    worker: &'a Arc<WorkerCell>,
    identity: &'a AttemptIdentity,
    cancelled: Receiver<Infallible>,
    /// What the start has recorded.
    ids: RefCell<Vec<Arc<str>>>,
}

impl StartControls for Controls<'_> {
    fn cancel_signal(&self) -> &Receiver<Infallible> {
        &self.cancelled
    }

    fn sleep(&self, duration: Duration) -> Result<(), Cancelled> {
        self.shared.sleep(duration, &self.cancelled)
    }

    fn record(&self, id: &str) -> Result<(), RecordError> {
        let id: Arc<str> = id.into();
        let refused = |reason: &str| Err(RecordError { id: id.clone(), reason: reason.into() });
        if id.is_empty() {
            return refused("it is empty");
        }
        if id.len() > LONGEST_ID {
            return refused("it is longer than 4096 bytes");
        }
        // It is written again all the same: that it is known does not mean that it is durable.
        if !self.ids.borrow().contains(&id) {
            self.ids.borrow_mut().push(id.clone());
        }
        match &self.shared.journal {
            Some(journal) => {
                let known = Record::Known { attempt: attempt_of(self.identity), id: id.clone() };
                let written = self.shared.write_journal(journal, || journal.append(known, Until::Synced));
                written.map_err(|reason| RecordError { id, reason })
            }
            None => Ok(()),
        }
    }

    fn progress(&self, text: &str) {
        let text: Arc<str> = printable(text).into();
        self.worker.turn(self.shared, |turn| {
            // A start that goes on after its cancel speaks for itself only.
            if turn.inner.life.call().is_some_and(|(call, _)| call == DriverCall::Start) {
                turn.inner.progress = Some(text.clone());
                turn.tell(EventKind::Progress { text });
            }
        });
    }

    fn attacher(&self) -> Attacher {
        Attacher {
            point: Arc::new(SharedPoint(Arc::downgrade(self.shared))),
            worker: self.worker.name.clone(),
            secret: self.identity.secret.clone(),
        }
    }

    fn agent_address(&self) -> Option<&str> {
        self.shared.agent_address.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::{Sender, bounded};

    use crate::{Build, LatentWorker, Master, StartError, StartRequest, Started, StopError, StopRequest, WorkerConfig};

    /// Tells when it is called.
    struct Driver(Sender<()>);

    impl LatentWorker for Driver {
        type Instance = ();

        fn start_instance(&self, _: &StartRequest<'_>) -> Result<Started<()>, StartError> {
            let _ = self.0.send(());
            Err(StartError::infrastructure("it was only to be called"))
        }

        fn stop_instance(&self, _: StopRequest<()>) -> Result<(), StopError> {
            Ok(())
        }
    }

    #[test]
    fn b4_the_queue_does_not_come_between_the_announcement_of_a_start_and_its_call() {
        let (called, calls) = bounded(1);
        let master = Master::new();
        let paused = master.add_worker(WorkerConfig::new("paused").with_label("x"), Driver(called.clone())).unwrap();
        paused.pause();
        // While it waits, every change of a worker is a reason to look at the queue.
        let _waits = master.submit(Build::new("waits").with_label("x"));
        let worker = master.add_worker(WorkerConfig::new("w"), Driver(called)).unwrap();

        let queue = worker.shared.queue.lock();
        std::thread::scope(|scope| {
            scope.spawn(|| worker.warm_up());
            let was_called = calls.recv_timeout(Duration::from_secs(10));
            drop(queue);
            assert_eq!(was_called, Ok(()), "the start was announced, and waits for the queue");
        });
    }
}
