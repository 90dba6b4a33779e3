//! Instances that are machines of Amazon EC2, or of what speaks its API.
//!
//! Here is the order in which things are done. `aws` speaks to the provider, `account` says what; what is asked for is in
//! `settings`, `ami`, `offers`, `launch`, `user_data` and `names`, what answers mean in `state`. `watch` has those who wait at
//! the same time ask together.

mod account;
mod ami;
mod attempt;
mod aws;
mod builder;
mod kind;
mod launch;
mod lookups;
mod names;
mod offers;
mod settings;
mod state;
mod user_data;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use self::account::Account;
use self::attempt::Attempt;
use self::aws::{AwsError, Class, Patience};
use self::lookups::Lookups;
use self::names::{Identity, Traces};
use self::offers::Shortages;
use self::settings::{Rendered, Settings};
use self::state::Machine;
use self::watch::{Asked, Wait};
use crate::{BoxError, Health, Kind, LatentWorker, Leftover, Properties, Reclaimed};
use crate::{StartError, StartRequest, Started, StopError, StopRequest};

pub use ami::Ami;
pub use aws::AwsCredentials;
pub use builder::Ec2LatentWorkerBuilder;
pub use offers::Offer;
pub use settings::{AtStop, BlockDevice, Ec2SettingsError, MetadataAccess};

/// For a check, which is made again soon, and which nothing can end.
const CHECK_LIMIT: Duration = Duration::from_secs(10);
const SHORTEST_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Others of the account look with the same call, and wait for it.
const LONGEST_POLL_INTERVAL: Duration = Duration::from_secs(60);
/// How long checks wait for others to join.
const CHECK_ROUND: Duration = Duration::from_millis(500);
/// The notice of an interruption comes two minutes before; plans of the provider, days.
const SPOT_CHECK_INTERVAL: Duration = Duration::from_secs(20);
const PLAN_CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// A machine that is not described so often in a row is gone; once may be an answer that lags behind.
const MISSED_CHECKS: u32 = 3;
/// What is not known to the provider yet is looked for so often before a stop gives up, and leaves it to a reclaim.
const LATE_LOOKS: u32 = 5;

/// That a machine is not to hibernate, and may well be stopped.
const NO_HIBERNATION: [&str; 2] = ["UnsupportedOperation", "UnsupportedHibernationConfiguration"];

#[doc = include_str!("guide.md")]
#[derive(Clone)]
pub struct Ec2LatentWorker {
    account: Account,
    settings: Arc<Settings>,
    limits: Limits,
    shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
struct Limits {
    poll_interval: Duration,
    call: Duration,
    start: Duration,
    stop: Duration,
    listing_lag: Duration,
    shortage_memory: Duration,
    attached_check_interval: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            poll_interval: Duration::from_secs(2),
            call: minutes(1),
            start: minutes(10),
            stop: minutes(10),
            listing_lag: minutes(10),
            shortage_memory: minutes(5),
            attached_check_interval: None,
        }
    }
}

/// What all workers of a driver know together.
#[derive(Default)]
struct Shared {
    /// What the attempts that are not stopped yet have made, by their keys.
    made: Mutex<HashMap<String, Made>>,
    /// The machines that were kept last, by owner and worker, so that the next start need not look for them.
    kept: Mutex<HashMap<(String, String), Kept>>,
    shortages: Mutex<Shortages>,
    lookups: Lookups,
    /// Whether the provider has not answered the last check, so that this is told once.
    silent: AtomicBool,
}

/// What an attempt has made, or may have.
#[derive(Default)]
struct Made {
    traces: Traces,
    /// The launch that was asked for last, secret included, as long as it is not answered.
    launch: Option<Vec<(String, String)>>,
}

/// A machine that was kept.
struct Kept {
    id: String,
    /// Whether it is only just coming to its stop.
    is_stopping: bool,
    /// What it was made with.
    settings: String,
}

/// A machine that was started.
pub struct Ec2Instance {
    id: String,
    instance_type: String,
    zone: String,
    rendered: Rendered,
    missed: AtomicU32,
}

impl Ec2Instance {
    /// The provider's id of the machine, `i-…`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its type.
    pub fn instance_type(&self) -> &str {
        &self.instance_type
    }

    /// The availability zone that it is in.
    pub fn zone(&self) -> &str {
        &self.zone
    }
}

impl fmt::Debug for Ec2Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ec2Instance").field("id", &self.id).field("zone", &self.zone).finish_non_exhaustive()
    }
}

impl Ec2LatentWorker {
    /// Settings to begin with.
    pub fn builder() -> Ec2LatentWorkerBuilder {
        Ec2LatentWorkerBuilder::new()
    }

    fn made(&self, identity: &Identity, change: impl FnOnce(&mut Made)) {
        change(self.shared.made.lock().entry(identity.key.clone()).or_default());
    }

    /// For what a stop must have done, however fast it is.
    fn call(&self) -> Patience<'static> {
        Patience::limit(self.limits.call).with_turns_within(self.limits.stop)
    }

    /// Looks at a machine in each round until `done` says something. What the provider does not say now it may say later.
    fn follow<R>(
        &self,
        id: &str,
        limit: Duration,
        waiter: &Waiter<'_>,
        done: impl Fn(Option<&Machine>) -> Option<R>,
    ) -> Result<R, Unfollowed> {
        let deadline = Instant::now().checked_add(limit);
        let mut last = None;
        loop {
            let left = deadline.map_or(limit, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Unfollowed::TimedOut(last));
            }
            let wait = Wait { pause: waiter.pause, cancel: waiter.cancel, limit: left };
            match self.account.moving(id, self.limits.poll_interval, &wait, waiter.patience) {
                Asked::Answered(machine) => match done(machine.as_ref()) {
                    Some(result) => return Ok(result),
                    None => last = None,
                },
                Asked::Failed(error) if may_pass(&error) => last = Some(error),
                Asked::Failed(error) => return Err(Unfollowed::Refused(error)),
                Asked::Cancelled => return Err(Unfollowed::Cancelled),
                Asked::TimedOut => return Err(Unfollowed::TimedOut(last)),
            }
        }
    }

    /// Has a machine end, and waits for that unless the stop is a fast one; see [`ask_to_end`](Self::ask_to_end).
    fn terminate(&self, id: &str, seen: bool, stop: &StopRequest<Ec2Instance>) -> Result<(), StopError> {
        self.ask_to_end(id, seen)?;
        self.wait_for_end(id, "terminated", stop)
    }

    /// Has the provider end a machine. It may not be known to the provider yet when nobody has `seen` it.
    fn ask_to_end(&self, id: &str, seen: bool) -> Result<(), StopError> {
        let mut looks = LATE_LOOKS;
        loop {
            match self.account.terminate(id, &self.call()) {
                Ok(()) => return Ok(()),
                Err(error) if error.already_gone() && seen => {
                    // Which of the provider's servers has answered? A machine that goes on would cost for ever.
                    let machines = self.account.machines(&[id.to_owned()], &self.call())?;
                    if machines.iter().all(Machine::is_ending) {
                        return Ok(());
                    }
                    if looks == 0 {
                        return Err(error.into());
                    }
                    looks -= 1;
                    pause(self.limits.poll_interval);
                }
                Err(error) if error.already_gone() && looks > 0 => {
                    looks -= 1;
                    pause(self.limits.poll_interval);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until a machine is `stopped` or `terminated`, or the stop is a fast one; a machine that nobody knows is gone.
    fn wait_for_end(&self, id: &str, state: &'static str, stop: &StopRequest<Ec2Instance>) -> Result<(), StopError> {
        if stop.fast() {
            return Ok(());
        }
        let hurry = stop.hurry_signal();
        let pause = |duration| stop.sleep(duration).is_ok();
        let patience = || Patience::until_hurried(hurry, self.limits.call).with_turns_within(self.limits.stop);
        let waiter = Waiter { pause: &pause, cancel: hurry, patience: &patience };
        let ended = |machine: Option<&Machine>| machine.is_none_or(|machine| machine.rests_as(state)).then_some(());
        match self.follow(id, self.limits.stop, &waiter, ended) {
            // The provider has taken the request.
            Ok(()) | Err(Unfollowed::Cancelled) => Ok(()),
            Err(Unfollowed::Refused(error) | Unfollowed::TimedOut(Some(error))) => Err(error.into()),
            Err(Unfollowed::TimedOut(None)) => Err(StopError::new(format!(
                "machine {id} is not {state} {:?} after it was asked to be; look at it in the console",
                self.limits.stop
            ))),
        }
    }

    /// Looks for the machines of an attempt, by tags that are exactly its own.
    fn find(&self, identity: &Identity, patience: &Patience<'_>) -> Result<Vec<Machine>, AwsError> {
        let mut found = self.account.find(&identity.filters(), patience)?;
        found.retain(|machine| identity.is_ours(|key| machine.tag(key)));
        Ok(found)
    }

    /// Has everything end that a start has made which has returned no instance.
    fn stop_made(&self, identity: &Identity, made: Made, stop: &StopRequest<Ec2Instance>) -> Result<(), StopError> {
        let Made { traces, launch } = made;
        let known = traces.machines.iter().map(|id| self.terminate(id, false, stop));
        // Each of them is tried, whatever becomes of another.
        let known: Vec<_> = known.collect();
        if traces.unanswered {
            self.stop_unanswered(identity, &traces, launch, stop)?;
        }
        known.into_iter().collect()
    }

    /// A launch was asked for and never answered. With the same token it is asked for again: the answer is the machine that
    /// it has made, or one that is made now, and then it is certain that no other comes.
    fn stop_unanswered(
        &self,
        identity: &Identity,
        traces: &Traces,
        launch: Option<Vec<(String, String)>>,
        stop: &StopRequest<Ec2Instance>,
    ) -> Result<(), StopError> {
        if let Some(launch) = launch {
            match self.account.run(launch, &self.call()) {
                Ok(machine) => return self.terminate(&machine.id, false, stop),
                Err(error) if is_for_good(&error) => return Ok(()),
                Err(error) => log::debug!("the launch of attempt {} is still not answered: {error}", identity.key),
            }
        }
        // What is there is ended first, also when this is refused.
        let cancelled = self.cancel_spot_requests(identity, &self.call());
        for look in 0..=LATE_LOOKS {
            if look > 0 {
                pause(self.limits.poll_interval);
            }
            let found = self.find(identity, &self.call())?;
            for machine in found.iter().filter(|machine| !machine.is_ending()) {
                self.terminate(&machine.id, true, stop)?;
            }
            if found.iter().any(|machine| !traces.machines.contains(&machine.id)) {
                return Ok(cancelled?);
            }
        }
        cancelled?;
        Err(StopError::new(format!(
            "the launch of attempt {} was not answered, and there is no machine of it yet; it is looked for again for {:?}",
            identity.key, self.limits.listing_lag
        )))
    }

    /// Ends the requests for spot machines that an attempt may have made and that wait for one.
    fn cancel_spot_requests(&self, identity: &Identity, patience: &Patience<'_>) -> Result<(), AwsError> {
        if !self.settings.may_be_spot() {
            return Ok(());
        }
        match self.account.open_spot_requests(identity, patience) {
            Ok(open) if open.is_empty() => Ok(()),
            Ok(open) => self.account.cancel_spot_requests(open, patience),
            // Most launch templates ask for none, and the account need not allow the question then.
            Err(error) if error.class() == Class::Denied && !self.settings.offers_may_be_spot() => {
                log::debug!("whether attempt {} has a request for a spot machine is not known: {error}", identity.key);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn remove_parameters(&self, names: &[String], patience: &Patience<'_>) -> Result<(), StopError> {
        let removed: Vec<_> = names.iter().map(|name| self.account.delete_parameter(name, patience)).collect();
        removed.into_iter().collect::<Result<_, _>>().map_err(Into::into)
    }

    /// The machine is to be there for the next start.
    fn keep(&self, id: &str, stop: &StopRequest<Ec2Instance>) -> Result<(), StopError> {
        let hibernate = self.settings.at_stop == AtStop::Hibernate;
        let stopped = match self.account.stop(id, hibernate, &self.call()) {
            // It is not ready for that yet, say, or of a type or an image that cannot.
            Err(error) if hibernate && error.code().is_some_and(|code| NO_HIBERNATION.contains(&code)) => {
                log::warn!("machine {id} is stopped and does not hibernate: {error}");
                self.account.stop(id, false, &self.call())
            }
            stopped => stopped,
        };
        match stopped {
            Ok(()) => self.wait_for_end(id, "stopped", stop),
            Err(error) if error.already_gone() => Ok(()),
            // It ends already, or does what is wanted; otherwise it would go on, and be nobody's.
            Err(error) if error.code() == Some("IncorrectInstanceState") => {
                let machines = self.account.machines(&[id.to_owned()], &self.call())?;
                let rests =
                    |machine: &Machine| matches!(&*machine.state, "stopping" | "stopped") || machine.is_ending();
                if machines.iter().all(rests) { Ok(()) } else { Err(error.into()) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// How long something of an attempt may still appear: lists lag behind the last launch, and that comes after those of all
    /// offers before it.
    fn may_appear_for(&self) -> Duration {
        let before = u32::try_from(self.settings.offers.len().saturating_sub(1)).unwrap_or(u32::MAX);
        self.limits.listing_lag.saturating_add(self.limits.start.saturating_mul(before))
    }
}

/// How somebody waits for a machine.
struct Waiter<'a> {
    pause: &'a dyn Fn(Duration) -> bool,
    cancel: &'a Receiver<std::convert::Infallible>,
    patience: &'a dyn Fn() -> Patience<'a>,
}

/// Why a machine was not followed to the end.
enum Unfollowed {
    Cancelled,
    /// With what the provider has said last, if it was no answer.
    TimedOut(Option<AwsError>),
    Refused(AwsError),
}

/// For what must be done however fast a stop is, and for a check, which nobody ends. It is short.
fn pause(duration: Duration) -> bool {
    std::thread::sleep(duration);
    true
}

/// Whether the same question may have an answer later.
fn may_pass(error: &AwsError) -> bool {
    matches!(
        error.class(),
        Class::Throttled { .. } | Class::Unreachable | Class::Server | Class::Lost | Class::TimedOut | Class::Cancelled
    )
}

/// Whether the same launch can have made nothing, before as well: had it made a machine, its token would tell of that.
fn is_for_good(error: &AwsError) -> bool {
    matches!(error.class(), Class::Capacity | Class::Quota | Class::BadParameter | Class::NotFound)
        && !error.outcome_unknown()
}

impl LatentWorker for Ec2LatentWorker {
    type Instance = Ec2Instance;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Ec2Instance>, StartError> {
        let identity = Identity::of_start(start);
        let rendered = self.settings.render(&start.properties()).map_err(StartError::cannot)?;
        let attempt = Attempt { driver: self, start, identity: &identity, rendered: &rendered };
        let machine = attempt.bring_up()?;
        let Machine { id, instance_type, zone, address, spot_request, .. } = machine;
        let market = spot_request.map(|_| "spot".to_owned());
        let details = [Some(id.clone()), Some(instance_type.clone()), Some(zone.clone()), market, address];
        let details = details.into_iter().flatten().filter(|detail| !detail.is_empty());
        let instance = Ec2Instance { id, instance_type, zone, rendered, missed: AtomicU32::new(0) };
        Ok(details.fold(Started::new(instance), Started::detail))
    }

    /// Blocks until the machine is terminated or stopped, minutes at times; a stop that is or becomes a fast one until the
    /// provider has taken the request. An error when it does not answer or cannot do it: then it is [reclaimed](LatentWorker::reclaim).
    fn stop_instance(&self, stop: StopRequest<Ec2Instance>) -> Result<(), StopError> {
        let identity = Identity::of_stop(&stop);
        let made = self.shared.made.lock().remove(&identity.key).unwrap_or_default();
        let parameters = made.traces.parameters.clone();
        let stopped = match stop.instance() {
            Some(instance) => {
                self.account.forget(&instance.id);
                let stopped = if self.settings.at_stop == AtStop::Terminate {
                    self.terminate(&instance.id, true, &stop)
                } else {
                    self.keep(&instance.id, &stop).inspect(|()| {
                        let settings = instance.rendered.fingerprint();
                        let kept = Kept { id: instance.id.clone(), is_stopping: stop.fast(), settings };
                        self.shared.kept.lock().insert((identity.owner.clone(), identity.worker.clone()), kept);
                    })
                };
                // Of offers that were tried before this one. They have ended by themselves, if the provider is right.
                let others = made.traces.machines.iter().filter(|id| **id != instance.id);
                let others: Vec<_> = others.map(|id| self.ask_to_end(id, true)).collect();
                stopped.and(others.into_iter().collect())
            }
            None => self.stop_made(&identity, made, &stop),
        };
        let removed = self.remove_parameters(&parameters, &self.call());
        stopped.and(removed)
    }

    fn check_instance(&self, instance: &Ec2Instance) -> Health {
        let never = crossbeam_channel::never();
        let wait = Wait { pause: &pause, cancel: &never, limit: CHECK_LIMIT };
        let patience = || Patience::limit(CHECK_LIMIT);
        let round = CHECK_ROUND.min(self.limits.poll_interval);
        match self.account.check(&instance.id, round, self.limits.poll_interval, &wait, &patience) {
            Asked::Answered(Some(observation)) => {
                self.shared.silent.store(false, Ordering::Relaxed);
                instance.missed.store(0, Ordering::Relaxed);
                observation.health()
            }
            Asked::Answered(None) => {
                let missed = instance.missed.fetch_add(1, Ordering::Relaxed) + 1;
                if missed < MISSED_CHECKS {
                    return Health::Good;
                }
                Health::bad(format!("machine {} is not known to the provider any more", instance.id))
            }
            Asked::Failed(error) => {
                if !self.shared.silent.swap(true, Ordering::Relaxed) {
                    log::warn!("machine {} cannot be checked: {error}", instance.id);
                }
                Health::Good
            }
            Asked::Cancelled | Asked::TimedOut => Health::Good,
        }
    }

    fn attached_check_interval(&self) -> Option<Duration> {
        let usual = if self.settings.may_be_spot() { SPOT_CHECK_INTERVAL } else { PLAN_CHECK_INTERVAL };
        Some(self.limits.attached_check_interval.unwrap_or(usual))
    }

    fn builds_may_be_incompatible(&self) -> bool {
        self.settings.depend_on_the_build()
    }

    fn says_kinds(&self) -> bool {
        self.settings.depend_on_the_build()
    }

    fn kind(&self, properties: &Properties) -> Result<Kind, BoxError> {
        Ok(self.settings.kind(&self.settings.render(properties)?))
    }

    fn is_compatible_with_build(&self, instance: &Ec2Instance, properties: &Properties) -> Result<bool, BoxError> {
        Ok(LatentWorker::kind(self, properties)? == self.settings.kind(&instance.rendered))
    }

    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        let identity = Identity::of_leftover(leftover);
        let traces = Traces::of_ids(leftover.ids());
        // Everything is recorded before it can be there.
        if traces.is_empty() {
            return Ok(Reclaimed::Gone);
        }
        let patience = || Patience::of_leftover(leftover, self.limits.call).with_turns_within(self.limits.stop);
        let mut found = self.find(&identity, &patience())?;
        let unknown = |machines: &[Machine]| -> Vec<String> {
            let known = |id: &&String| machines.iter().any(|machine| machine.id == **id);
            traces.machines.iter().filter(|id| !known(id)).cloned().collect()
        };
        let missing = unknown(&found);
        if !missing.is_empty() {
            // One that has gone over to a later attempt has the tags of that, and is not ours any more.
            found.extend(self.account.machines(&missing, &patience())?);
        }
        let missing = unknown(&found);
        // A machine that this attempt has had go on may have the tags of the one before still, in a description that lags behind.
        let kept = self.settings.at_stop != AtStop::Terminate;
        let not_yet_ours = kept && found.iter().any(|machine| !identity.is_ours(|key| machine.tag(key)));
        let of_nobody = |machine: &&Machine| {
            let tag = |key: &str| machine.tag(key);
            !machine.is_ending() && !identity.is_ours(tag) && !identity.is_of_another_attempt(tag)
        };
        let of_nobody: Vec<_> = found.iter().filter(of_nobody).map(|machine| machine.id.clone()).collect();
        found.retain(|machine| identity.is_ours(|key| machine.tag(key)));
        for machine in found.iter().filter(|machine| !machine.is_ending()) {
            match self.account.terminate(&machine.id, &patience()) {
                Err(error) if !error.already_gone() => return Err(error.into()),
                _ => {}
            }
        }
        if traces.unanswered {
            self.cancel_spot_requests(&identity, &patience())?;
        }
        self.remove_parameters(&traces.parameters, &patience())?;
        if !of_nobody.is_empty() {
            // It was made by this attempt, and nothing proves that it is not somebody else's by now.
            return Err(StopError::new(format!(
                "machine {} has lost its tags ({}): end it yourself, or give them back",
                of_nobody.join(", "),
                identity.proof()
            )));
        }
        let answered = || found.iter().any(|machine| !traces.machines.contains(&machine.id));
        let may_come = (traces.unanswered && !answered()) || !missing.is_empty() || not_yet_ours;
        if may_come && leftover.age() < self.may_appear_for() {
            return Ok(Reclaimed::Pending);
        }
        Ok(Reclaimed::Gone)
    }
}

/// Without the user data and the credentials.
impl fmt::Debug for Ec2LatentWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ec2LatentWorker")
            .field("settings", &self.settings)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
