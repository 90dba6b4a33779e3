//! One start: a machine of the first offer that is to be had, or the one that was kept, with all that belongs to it.
//!
//! What it makes is recorded before it may be there. What becomes of that when the start fails is for the stop, in the driver.

use std::cell::Cell;
use std::time::Instant;

use super::aws::{AwsError, Class, Patience};
use super::launch::Launch;
use super::lookups::NoImage;
use super::names::{self, Identity, Recorded};
use super::settings::{AtStop, BlockDevice, Rendered, is_computed, is_of_one_machine};
use super::state::{Coming, Machine};
use super::user_data::{self, Blank};
use super::{Ec2LatentWorker, Kept, Unfollowed, Waiter};
use crate::{BoxError, Cancelled, FailureCause, StartError, StartRequest};

/// A machine that goes on may be described as stopped for a while: descriptions lag behind.
const STALE_LOOKS: u32 = 10;

/// What a start of one attempt works with.
pub(super) struct Attempt<'a> {
    pub(super) driver: &'a Ec2LatentWorker,
    pub(super) start: &'a StartRequest<'a>,
    pub(super) identity: &'a Identity,
    pub(super) rendered: &'a Rendered,
}

/// What is on a machine, whichever offer it is of.
struct Content<'a> {
    /// The id of the image.
    image: Option<&'a str>,
    image_disks: &'a [BlockDevice],
    user_data: &'a str,
}

/// A launch that has come to nothing.
enum Unlaunched {
    /// For want of machines, or of this one; another may do.
    Short(FailureCause, BoxError),
    Failed(StartError),
}

impl From<StartError> for Unlaunched {
    fn from(error: StartError) -> Self {
        Self::Failed(error)
    }
}

impl From<Cancelled> for Unlaunched {
    fn from(cancelled: Cancelled) -> Self {
        Self::Failed(cancelled.into())
    }
}

impl Attempt<'_> {
    fn patience(&self) -> Patience<'_> {
        let limits = &self.driver.limits;
        Patience::of_start(self.start, limits.call).with_turns_within(limits.start)
    }

    fn failed(&self, error: AwsError) -> StartError {
        if error.class() == Class::Cancelled {
            return Cancelled.into();
        }
        let blame = self.driver.settings.is_of_the_build(error.code(), error.message());
        error.into_start_error(blame)
    }

    /// Of a call that asks for a machine.
    fn unlaunched(&self, error: AwsError) -> Unlaunched {
        match error.class() {
            Class::Capacity => Unlaunched::Short(FailureCause::Capacity, error.into()),
            Class::Quota => Unlaunched::Short(FailureCause::Quota, error.into()),
            _ => self.failed(error).into(),
        }
    }

    /// Of a call about nothing that a build could have chosen.
    fn failed_by_itself(&self, error: AwsError) -> StartError {
        if error.class() == Class::Cancelled { Cancelled.into() } else { error.into_start_error(false) }
    }

    /// Before it may be there.
    fn will_make(&self, what: Recorded) -> Result<(), StartError> {
        self.start.record(&what.to_string())?;
        self.driver.made(self.identity, |made| made.traces.add(what));
        Ok(())
    }

    /// When it is there.
    fn has_made(&self, what: Recorded) -> Result<(), StartError> {
        self.driver.made(self.identity, |made| {
            made.traces.add(what.clone());
            made.launch = None;
        });
        Ok(self.start.record(&what.to_string())?)
    }

    pub(super) fn bring_up(&self) -> Result<Machine, StartError> {
        let Self { driver, rendered, .. } = self;
        let user_data = self.user_data()?;
        self.put_secret()?;
        let machine = match self.kept()? {
            // What has been attached to it meanwhile is somebody else's.
            Some(kept) => match self.resume(&kept, &user_data) {
                Ok(machine) => machine,
                Err(Unlaunched::Failed(error)) => return Err(error),
                Err(Unlaunched::Short(_, reason)) => {
                    self.discard(&kept.id, &format!("is not to be had again: {reason}"))?;
                    self.launch_anew(&user_data)?
                }
            },
            None => self.launch_anew(&user_data)?,
        };
        // A machine that was kept has its volumes still.
        for (device, volume) in rendered.volumes.iter().filter(|(_, volume)| !machine.volumes.contains(volume)) {
            let attached = driver.account.attach_volume(&machine.id, volume, device, &self.patience());
            attached.map_err(|error| self.failed(error))?;
        }
        if let Some(elastic_ip) = &rendered.elastic_ip {
            let allocation = driver.shared.lookups.allocation(&driver.account, elastic_ip, &self.patience());
            let allocation = allocation.map_err(|error| self.failed(error))?;
            let associated = driver.account.associate(&machine.id, &allocation, &self.patience());
            associated.map_err(|error| self.failed(error))?;
        }
        Ok(machine)
    }

    fn launch_anew(&self, user_data: &str) -> Result<Machine, StartError> {
        let machine = self.launch(user_data)?;
        self.have_disks_end(&machine)?;
        Ok(machine)
    }

    /// Disks that a launch template wants to outlive the machine, or an image that could not be looked at: nobody would ever
    /// remove them.
    fn have_disks_end(&self, machine: &Machine) -> Result<(), StartError> {
        let kept = |device: &str| self.rendered.block_devices.iter().any(|disk| disk.kept && disk.device == device);
        let attached = |device: &str| self.rendered.volumes.contains_key(device);
        let devices = machine.lasting.iter().map(String::as_str).filter(|device| !kept(device) && !attached(device));
        let devices: Vec<&str> = devices.collect();
        if devices.is_empty() {
            return Ok(());
        }
        let changed = self.driver.account.delete_with_machine(&machine.id, &devices, &self.patience());
        changed.map_err(|error| self.failed(error))
    }

    /// As a launch has it.
    fn user_data(&self) -> Result<String, StartError> {
        let Self { driver, start, rendered, .. } = self;
        if rendered.user_data.is_empty() {
            return Ok(String::new());
        }
        let master = || match (&rendered.master_address, start.agent_address()) {
            (Some(chosen), _) => Ok(chosen.as_str()),
            (None, Some(told)) if !is_of_one_machine(told) => Ok(told),
            (None, Some(told)) => {
                Err(format!("no other machine can use the address of the master, {told}: set master_address"))
            }
            (None, None) => {
                Err("nobody has said where the master is: set master_address, or the agent_address of the master"
                    .into())
            }
        };
        let part = |split: fn((&str, &str)) -> String| {
            let address = master()?;
            let parts = address.rsplit_once(':').map(split);
            parts.ok_or_else(|| format!("the address of the master, {address:?}, is not host:port"))
        };
        let filled = user_data::fill(&rendered.user_data, |blank| match blank {
            Blank::Master => part(|(host, port)| format!("{host}:{port}")),
            Blank::MasterHost => part(|(host, _)| host.trim_matches(['[', ']']).to_owned()),
            Blank::MasterPort => part(|(_, port)| port.to_owned()),
            Blank::Name => Ok(start.worker().to_owned()),
            Blank::Secret => Ok(start.secret().expose().to_owned()),
            Blank::SecretParameter => Ok(self.parameter().unwrap_or_default()),
            Blank::Key => Ok(start.key().to_owned()),
            Blank::Epoch => Ok(start.epoch().to_string()),
            Blank::Owner => Ok(start.owner().to_owned()),
            Blank::Region => driver.account.region(&self.patience()).map_err(|error| error.to_string()),
        });
        let wrong = |error: String| format!("the user data: {error}");
        // Where the master and the region are is for the farm to say.
        let filled = filled.map_err(|error| StartError::infrastructure(wrong(error)))?;
        user_data::encode(&filled).map_err(|error| match is_computed(&driver.settings.user_data) {
            true => StartError::cannot(wrong(error)),
            false => StartError::infrastructure(wrong(error)),
        })
    }

    /// The name of the parameter with the secret, if that is where it is.
    fn parameter(&self) -> Option<String> {
        self.driver.settings.parameter_prefix.as_deref().map(|prefix| self.identity.parameter(prefix))
    }

    fn put_secret(&self) -> Result<(), StartError> {
        let Some(name) = self.parameter() else { return Ok(()) };
        self.will_make(Recorded::Parameter(name.clone()))?;
        let put = self.driver.account.put_secret(&name, self.start.secret().expose(), &self.patience());
        put.map_err(|error| self.failed_by_itself(error))
    }

    /// One offer after the other, until one is to be had.
    fn launch(&self, user_data: &str) -> Result<Machine, StartError> {
        let Self { driver, start, rendered, .. } = self;
        let of_the_build = driver.settings.image.as_ref().is_some_and(is_computed);
        let image = match &rendered.image {
            None => None,
            Some(ami) => match driver.shared.lookups.image(&driver.account, ami, &self.patience()) {
                Ok(found) => Some(found),
                Err(NoImage::Failed(error)) if of_the_build => return Err(self.failed(error)),
                Err(NoImage::Failed(error)) => return Err(self.failed_by_itself(error)),
                Err(NoImage::None(reason)) if of_the_build => return Err(StartError::cannot(reason)),
                Err(NoImage::None(reason)) => return Err(StartError::infrastructure(reason)),
            },
        };
        // A template may have disks of its own in place of the image's: what is said here would undo that.
        let image_disks = match &image {
            Some(found) if rendered.launch_template.is_none() => {
                let disks = driver.shared.lookups.lasting_disks(&driver.account, found, &self.patience());
                disks.map_err(|error| self.failed_by_itself(error))?
            }
            _ => Vec::new(),
        };
        let what = Content { image: image.as_ref().map(|found| &*found.id), image_disks: &image_disks, user_data };
        if rendered.offers.is_empty() {
            return self.launch_one(None, &what).map_err(|unlaunched| match unlaunched {
                Unlaunched::Short(cause, reason) => StartError::failed(cause, reason),
                Unlaunched::Failed(error) => error,
            });
        }
        let order = driver.shared.shortages.lock().order(&rendered.offers, Instant::now());
        let mut short = Vec::new();
        for index in order {
            let offer = &rendered.offers[index];
            match self.launch_one(Some(index), &what) {
                Ok(machine) => {
                    driver.shared.shortages.lock().forget(offer);
                    return Ok(machine);
                }
                Err(Unlaunched::Short(cause, reason)) => {
                    driver.shared.shortages.lock().note(offer, Instant::now(), driver.limits.shortage_memory);
                    start.progress(&format!("{offer} is not to be had: {reason}"));
                    short.push((cause, format!("{offer}: {reason}")));
                }
                Err(Unlaunched::Failed(error)) => return Err(error),
            }
        }
        let capacity = short.iter().any(|(cause, _)| *cause == FailureCause::Capacity);
        let cause = if capacity { FailureCause::Capacity } else { FailureCause::Quota };
        let reasons: Vec<_> = short.into_iter().map(|(_, reason)| reason).collect();
        Err(StartError::failed(cause, format!("no offer is to be had: {}", reasons.join("; "))))
    }

    fn launch_one(&self, index: Option<usize>, content: &Content<'_>) -> Result<Machine, Unlaunched> {
        let Self { driver, start, identity, rendered } = self;
        let offer = index.map(|index| (index, &rendered.offers[index]));
        let max_price = match offer {
            None => None,
            Some((_, offer)) => {
                let price = driver.shared.lookups.max_price(&driver.account, offer, &self.patience());
                price.map_err(|error| self.failed(error))?
            }
        };
        let at_stop = driver.settings.at_stop;
        let Content { image, image_disks, user_data } = *content;
        let max_price = max_price.as_deref();
        let launch = Launch { identity, rendered, offer, image, image_disks, user_data, max_price, at_stop };
        if start.cancelled() {
            return Err(Cancelled.into());
        }
        self.will_make(Recorded::Launch(launch.token()))?;
        let parameters = launch.parameters();
        driver.made(identity, |made| made.launch = Some(parameters.clone()));
        let made = match driver.account.run(parameters, &self.patience()) {
            Ok(machine) => machine,
            Err(error) => {
                if !error.outcome_unknown() {
                    driver.made(identity, |made| {
                        made.traces.unanswered = false;
                        made.launch = None;
                    });
                }
                return Err(self.unlaunched(error));
            }
        };
        self.has_made(Recorded::Machine(made.id.clone()))?;
        start.progress(&format!("machine {} ({}) comes up in {}", made.id, made.instance_type, made.zone));
        self.wait_until_it_runs(&made.id, 0)
    }

    /// A machine that goes on may be said to be stopped for so many looks more, until it is known to be coming.
    fn wait_until_it_runs(&self, id: &str, stale_looks: u32) -> Result<Machine, Unlaunched> {
        let Self { driver, start, .. } = self;
        let pause = |duration| start.sleep(duration).is_ok();
        let patience = || self.patience();
        let waiter = Waiter { pause: &pause, cancel: start.cancel_signal(), patience: &patience };
        let stale = Cell::new(stale_looks);
        let up = |machine: Option<&Machine>| match machine?.coming() {
            Coming::Failed(_) if machine?.state == "stopped" && stale.get() > 0 => {
                stale.set(stale.get() - 1);
                None
            }
            Coming::NotYet => {
                stale.set(0);
                None
            }
            Coming::Up => Some(Ok(machine?.clone())),
            Coming::Failed(cause) => Some(Err((cause, machine?.story()))),
        };
        match driver.follow(id, driver.limits.start, &waiter, up) {
            Ok(Ok(machine)) => Ok(machine),
            Ok(Err((cause @ (FailureCause::Capacity | FailureCause::Quota), story))) => {
                Err(Unlaunched::Short(cause, story.into()))
            }
            Ok(Err((cause, story))) => Err(StartError::failed(cause, story).into()),
            Err(Unfollowed::Cancelled) => Err(Cancelled.into()),
            Err(Unfollowed::Refused(error) | Unfollowed::TimedOut(Some(error))) => Err(self.failed(error).into()),
            Err(Unfollowed::TimedOut(None)) => {
                let limit = driver.limits.start;
                Err(StartError::infrastructure(format!("machine {id} does not run {limit:?} after its launch")).into())
            }
        }
    }

    /// The machine that this worker has kept, if it fits. One that does not is ended: a worker has one.
    fn kept(&self) -> Result<Option<Kept>, StartError> {
        let Self { driver, identity, rendered, .. } = self;
        if driver.settings.at_stop == AtStop::Terminate {
            return Ok(None);
        }
        let settings = rendered.fingerprint();
        let remembered = driver.shared.kept.lock().remove(&(identity.owner.clone(), identity.worker.clone()));
        if let Some(kept) = remembered.filter(|kept| kept.settings == settings) {
            return Ok(Some(kept));
        }
        let found = driver.account.find(&identity.worker_filters(), &self.patience());
        let found = found.map_err(|error| self.failed(error))?;
        let stopped = |machine: &&Machine| matches!(&*machine.state, "stopped" | "stopping");
        let ours = found.iter().filter(stopped).filter(|machine| identity.is_of_worker(|key| machine.tag(key)));
        let mut fitting = None;
        for machine in ours {
            if fitting.is_none() && machine.tag(names::SETTINGS) == Some(&settings) {
                let (id, is_stopping) = (machine.id.clone(), machine.state == "stopping");
                fitting = Some(Kept { id, is_stopping, settings: settings.clone() });
                continue;
            }
            self.discard(&machine.id, "does not fit")?;
        }
        Ok(fitting)
    }

    /// Ends a machine that was kept.
    fn discard(&self, id: &str, why: &str) -> Result<(), StartError> {
        let Self { driver, rendered, start, .. } = self;
        start.progress(&format!("machine {id}, which was kept, {why}; it is terminated"));
        match driver.account.terminate(id, &self.patience()) {
            Err(error) if !error.already_gone() => return Err(self.failed(error)),
            _ => {}
        }
        if !rendered.volumes.is_empty() || rendered.elastic_ip.is_some() {
            // It has them until it is gone, and another machine cannot have them before.
            self.wait_until_rests(id, "terminated")?;
        }
        Ok(())
    }

    /// Waits until a machine that has been told to is `stopped` or `terminated`.
    fn wait_until_rests(&self, id: &str, state: &str) -> Result<(), StartError> {
        let Self { driver, start, .. } = self;
        let pause = |duration| start.sleep(duration).is_ok();
        let patience = || self.patience();
        let waiter = Waiter { pause: &pause, cancel: start.cancel_signal(), patience: &patience };
        // What has ended is not described for ever.
        let rests = |machine: Option<&Machine>| {
            machine.map_or(state == "terminated", |machine| machine.rests_as(state)).then_some(())
        };
        match driver.follow(id, driver.limits.stop, &waiter, rests) {
            Ok(()) => Ok(()),
            Err(Unfollowed::Cancelled) => Err(Cancelled.into()),
            Err(Unfollowed::Refused(error) | Unfollowed::TimedOut(Some(error))) => Err(self.failed(error)),
            Err(Unfollowed::TimedOut(None)) => {
                let limit = driver.limits.stop;
                Err(StartError::infrastructure(format!(
                    "machine {id} is not {state} {limit:?} after it was asked to be"
                )))
            }
        }
    }

    /// Has a machine that was kept go on.
    fn resume(&self, kept: &Kept, user_data: &str) -> Result<Machine, Unlaunched> {
        let Self { driver, start, identity, .. } = self;
        let (account, id) = (&driver.account, &kept.id);
        start.progress(&format!("machine {id}, which was kept, goes on"));
        if kept.is_stopping {
            // One that ends is refused when it is to go on.
            self.wait_until_rests(id, "stopped")?;
        }
        self.has_made(Recorded::Machine(id.clone()))?;
        // Somebody may have ended it, or started it, since it was kept.
        let unresumed = |error: AwsError| match error.already_gone() || error.code() == Some("IncorrectInstanceState") {
            true => Unlaunched::Short(FailureCause::Infrastructure, error.into()),
            false => self.unlaunched(error),
        };
        account.tag(id, identity, &self.patience()).map_err(unresumed)?;
        if !user_data.is_empty() {
            account.set_user_data(id, user_data, &self.patience()).map_err(unresumed)?;
        }
        account.start(id, &self.patience()).map_err(unresumed)?;
        self.wait_until_it_runs(id, STALE_LOOKS)
    }
}
