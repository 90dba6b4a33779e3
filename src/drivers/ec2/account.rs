//! The provider as the driver sees it: one account in one region, what can be asked of it, and what its answers are.
//!
//! Here is what is said; what it is said for is in the driver.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;

use super::ami::{Image, Newest};
use super::aws::{AwsClient, AwsError, AwsSettings, Class, Element, Patience, Query, Repeat};
use super::names::Identity;
use super::offers::{Offer, Place};
use super::settings::Ec2SettingsError;
use super::state::{Machine, SpotRequest, Status};
use super::watch::{Asked, Registry, Wait, Watch};
use crate::Health;

/// "You can specify up to 200 values for each filter" (Amazon EC2 API Reference, "Filter").
const MOST_FILTERED: usize = 200;
/// "You can specify a maximum of 100 explicitly specified instance IDs" (`DescribeInstanceStatus`).
const MOST_STATUSES: usize = 100;
/// The largest page ("MaxResults" of `DescribeImages`); without one, all images come in one answer, however long that takes.
const MOST_IMAGES: &str = "1000";
/// No list that is asked for here comes to more pages than that.
const MOST_PAGES: usize = 50;
/// The provider's own checks and plans change slowly.
const STATUS_INTERVAL: Duration = Duration::from_secs(60);

/// What the provider says of a machine that should be well.
#[derive(Clone, Debug)]
pub(super) struct Observation {
    machine: Machine,
    status: Option<Status>,
    spot: Option<SpotRequest>,
}

impl Observation {
    pub(super) fn health(&self) -> Health {
        let told = [
            Some(self.machine.health()),
            self.spot.as_ref().map(SpotRequest::health),
            self.status.as_ref().map(Status::health),
        ];
        told.into_iter().flatten().find(|health| *health != Health::Good).unwrap_or(Health::Good)
    }
}

/// Questions about many machines, which all drivers of the account and region ask together.
struct Together {
    /// Machines that come up or go away.
    moving: Watch<Machine, AwsError>,
    /// Machines that should be well.
    checks: Watch<Observation, AwsError>,
    checked: Mutex<Checked>,
    /// Whether the account does not allow the question for the requests of spot machines.
    no_notices: FirstDenial,
    /// Whether it does not allow the one for the status of machines.
    no_statuses: FirstDenial,
}

/// That something may not be looked at is told once: what it would have told is never seen then.
#[derive(Default)]
struct FirstDenial(AtomicBool);

impl FirstDenial {
    fn level(&self, error: &AwsError) -> log::Level {
        let first = error.class() == Class::Denied && !self.0.swap(true, Ordering::Relaxed);
        if first { log::Level::Warn } else { log::Level::Debug }
    }
}

/// The last round of checks, and who is in the next one.
#[derive(Default)]
struct Checked {
    /// Whoever was checked once, until it is stopped.
    live: HashSet<String>,
    last: Option<(Instant, HashMap<String, Observation>)>,
    statuses: Option<(Instant, HashMap<String, Status>)>,
}

static TOGETHER: Registry<String, Together> = Registry::new();

#[derive(Clone)]
pub(super) struct Account {
    client: AwsClient,
    together: Arc<Together>,
}

impl Account {
    pub(super) fn new(settings: AwsSettings) -> Result<Self, Ec2SettingsError> {
        let scope = settings.scope();
        let client = AwsClient::new(settings).map_err(Ec2SettingsError::Account)?;
        let together = TOGETHER.get(&scope, || Together {
            moving: Watch::new(),
            checks: Watch::new(),
            checked: Mutex::default(),
            no_notices: FirstDenial::default(),
            no_statuses: FirstDenial::default(),
        });
        Ok(Self { client, together })
    }

    pub(super) fn region(&self, patience: &Patience<'_>) -> Result<String, AwsError> {
        self.client.region(patience)
    }

    // ---- machines

    /// Makes a machine, once for each token.
    pub(super) fn run(&self, parameters: Vec<(String, String)>, patience: &Patience<'_>) -> Result<Machine, AwsError> {
        let query = Query::new("RunInstances", Repeat::Harmless).with_all(parameters);
        let answer = self.client.ec2(&query, patience)?;
        let machine = answer.items("instancesSet").find_map(Machine::of);
        machine.ok_or_else(|| AwsError::lost("RunInstances", "the answer names no machine"))
    }

    /// The machines that fit all of these filters.
    pub(super) fn find<V: AsRef<str>>(
        &self,
        filters: &[(String, V)],
        patience: &Patience<'_>,
    ) -> Result<Vec<Machine>, AwsError> {
        let query = filters.iter().fold(Query::new("DescribeInstances", Repeat::Harmless), |query, (name, value)| {
            query.with_filter(name.as_str(), [value.as_ref()])
        });
        let mut machines = Vec::new();
        self.pages(&query, patience, |page| machines.extend(Machine::all_of(page)))?;
        Ok(machines)
    }

    /// The machines of these ids, as far as they are known.
    pub(super) fn machines(&self, ids: &[String], patience: &Patience<'_>) -> Result<Vec<Machine>, AwsError> {
        let mut machines = Vec::new();
        for some in ids.chunks(MOST_FILTERED) {
            // A filter and no list of ids: with that, one that is not known would make the whole call fail.
            let query = Query::new("DescribeInstances", Repeat::Harmless).with_filter("instance-id", some);
            self.pages(&query, patience, |page| machines.extend(Machine::all_of(page)))?;
        }
        Ok(machines)
    }

    /// How far this one is; asked together with all that wait at the same time.
    pub(super) fn moving<'p>(
        &self,
        id: &str,
        round: Duration,
        wait: &Wait<'_>,
        patience: &dyn Fn() -> Patience<'p>,
    ) -> Asked<Machine, AwsError> {
        self.together.moving.ask(id, round, wait, |ids| {
            not_given_up(self.machines(ids, &patience()).map(|machines| by_id(machines, |machine| &machine.id)))
        })
    }

    /// Whether this one is well. What was found out within `fresh` counts; otherwise all are asked about that were checked
    /// before and not stopped since.
    pub(super) fn check<'p>(
        &self,
        id: &str,
        round: Duration,
        fresh: Duration,
        wait: &Wait<'_>,
        patience: &dyn Fn() -> Patience<'p>,
    ) -> Asked<Observation, AwsError> {
        let together = &*self.together;
        {
            let mut checked = together.checked.lock();
            let known = !checked.live.insert(id.to_owned());
            if let Some((at, last)) = &checked.last
                && known
                && at.elapsed() < fresh
            {
                return Asked::Answered(last.get(id).cloned());
            }
        }
        together.checks.ask(id, round, wait, |ids| {
            let mut all: Vec<String> = together.checked.lock().live.iter().cloned().collect();
            all.extend(ids.iter().filter(|id| !all.contains(id)).cloned().collect::<Vec<_>>());
            not_given_up(self.observe(&all, &patience()))
        })
    }

    /// It is not checked any more.
    pub(super) fn forget(&self, id: &str) {
        self.together.checked.lock().live.remove(id);
    }

    fn observe(&self, ids: &[String], patience: &Patience<'_>) -> Result<HashMap<String, Observation>, AwsError> {
        let machines = self.machines(ids, patience)?;
        let requests: Vec<String> = machines.iter().filter_map(|machine| machine.spot_request.clone()).collect();
        // That these are not to be had says nothing of a machine.
        let spots = match requests.is_empty() {
            true => HashMap::new(),
            false => self.spot_requests(&requests, patience).unwrap_or_else(|error| {
                let level = self.together.no_notices.level(&error);
                log::log!(level, "that a spot machine is going to be interrupted is not seen in time: {error}");
                HashMap::new()
            }),
        };
        let statuses = self.statuses(&machines, patience);
        let observed = machines.into_iter().map(|machine| {
            let spot = machine.spot_request.as_ref().and_then(|request| spots.get(request).cloned());
            let status = statuses.get(&machine.id).cloned();
            (machine.id.clone(), Observation { machine, status, spot })
        });
        let observed: HashMap<_, _> = observed.collect();
        self.together.checked.lock().last = Some((Instant::now(), observed.clone()));
        Ok(observed)
    }

    /// What the provider's own checks say, once in a while. That they are not to be had says nothing of a machine.
    fn statuses(&self, machines: &[Machine], patience: &Patience<'_>) -> HashMap<String, Status> {
        if let Some((at, statuses)) = &self.together.checked.lock().statuses
            && at.elapsed() < STATUS_INTERVAL
        {
            return statuses.clone();
        }
        let running = machines.iter().filter(|machine| machine.state == "running");
        let running: Vec<&str> = running.map(|machine| machine.id.as_str()).collect();
        let mut statuses = HashMap::new();
        for some in running.chunks(MOST_STATUSES) {
            let query = Query::new("DescribeInstanceStatus", Repeat::Harmless);
            match self.client.ec2(&query.with_list("InstanceId", some.iter().copied()), patience) {
                Ok(answer) => statuses.extend(by_id(Status::all_of(&answer), |status| &status.id)),
                Err(error) => {
                    let level = self.together.no_statuses.level(&error);
                    log::log!(level, "that a machine fails its checks, or is to be retired, is not seen: {error}");
                }
            }
        }
        self.together.checked.lock().statuses = Some((Instant::now(), statuses.clone()));
        statuses
    }

    pub(super) fn terminate(&self, id: &str, patience: &Patience<'_>) -> Result<(), AwsError> {
        let query = Query::new("TerminateInstances", Repeat::Harmless).with_list("InstanceId", [id]);
        self.client.ec2(&query, patience).map(drop)
    }

    pub(super) fn stop(&self, id: &str, hibernate: bool, patience: &Patience<'_>) -> Result<(), AwsError> {
        let query = Query::new("StopInstances", Repeat::Harmless).with_list("InstanceId", [id]);
        let query = if hibernate { query.with("Hibernate", "true") } else { query };
        self.client.ec2(&query, patience).map(drop)
    }

    /// Has a machine that was stopped go on.
    pub(super) fn start(&self, id: &str, patience: &Patience<'_>) -> Result<(), AwsError> {
        let query = Query::new("StartInstances", Repeat::Harmless).with_list("InstanceId", [id]);
        self.client.ec2(&query, patience).map(drop)
    }

    /// Gives a machine other tags of the driver's own.
    pub(super) fn tag(&self, id: &str, identity: &Identity, patience: &Patience<'_>) -> Result<(), AwsError> {
        let query = Query::new("CreateTags", Repeat::Harmless).with_list("ResourceId", [id]);
        let tags = (1..).zip(identity.attempt_tags());
        let query = tags.fold(query, |query, (number, (key, value))| {
            query.with(format!("Tag.{number}.Key"), key).with(format!("Tag.{number}.Value"), value)
        });
        self.client.ec2(&query, patience).map(drop)
    }

    /// Of a machine that does not run.
    pub(super) fn set_user_data(&self, id: &str, encoded: &str, patience: &Patience<'_>) -> Result<(), AwsError> {
        let query = Query::new("ModifyInstanceAttribute", Repeat::Harmless).with("InstanceId", id);
        self.client.ec2(&query.with("Attribute", "userData").with("Value", encoded), patience).map(drop)
    }

    /// Has these devices deleted with their machine.
    pub(super) fn delete_with_machine(
        &self,
        id: &str,
        devices: &[&str],
        patience: &Patience<'_>,
    ) -> Result<(), AwsError> {
        let query = Query::new("ModifyInstanceAttribute", Repeat::Harmless).with("InstanceId", id);
        let query = (1..).zip(devices).fold(query, |query, (number, device)| {
            let mapping = format!("BlockDeviceMapping.{number}");
            query
                .with(format!("{mapping}.DeviceName"), *device)
                .with(format!("{mapping}.Ebs.DeleteOnTermination"), "true")
        });
        self.client.ec2(&query, patience).map(drop)
    }

    // ---- what a machine has besides

    pub(super) fn attach_volume(
        &self,
        id: &str,
        volume: &str,
        device: &str,
        patience: &Patience<'_>,
    ) -> Result<(), AwsError> {
        // A second time it would be refused, because it is attached.
        let query = Query::new("AttachVolume", Repeat::Never).with("InstanceId", id);
        let query = query.with("VolumeId", volume).with("Device", device);
        self.client.ec2(&query, patience).map(drop)
    }

    /// Gives a machine an address, by the id of its allocation.
    pub(super) fn associate(&self, id: &str, allocation: &str, patience: &Patience<'_>) -> Result<(), AwsError> {
        let query = Query::new("AssociateAddress", Repeat::Harmless).with("InstanceId", id);
        let query = query.with("AllocationId", allocation).with("AllowReassociation", "false");
        self.client.ec2(&query, patience).map(drop)
    }

    /// The id of the allocation of an address, if the account has it: in a network of one's own an address is only known by
    /// that.
    pub(super) fn allocation(&self, address: &str, patience: &Patience<'_>) -> Result<Option<String>, AwsError> {
        let query = Query::new("DescribeAddresses", Repeat::Harmless).with_filter("public-ip", [address]);
        let answer = self.client.ec2(&query, patience)?;
        Ok(answer.items("addressesSet").find_map(|item| item.text("allocationId")).map(str::to_owned))
    }

    fn spot_requests(&self, ids: &[String], patience: &Patience<'_>) -> Result<HashMap<String, SpotRequest>, AwsError> {
        let mut found = HashMap::new();
        for some in ids.chunks(MOST_FILTERED) {
            let query = Query::new("DescribeSpotInstanceRequests", Repeat::Harmless);
            let query = query.with_filter("spot-instance-request-id", some);
            self.pages(&query, patience, |page| found.extend(by_id(SpotRequest::all_of(page), |request| &request.id)))?;
        }
        Ok(found)
    }

    /// The requests for spot machines that an attempt has made and that wait for one.
    pub(super) fn open_spot_requests(
        &self,
        identity: &Identity,
        patience: &Patience<'_>,
    ) -> Result<Vec<String>, AwsError> {
        let query = Query::new("DescribeSpotInstanceRequests", Repeat::Harmless);
        let query = identity.filters().into_iter().fold(query, |query, (name, value)| query.with_filter(name, [value]));
        let mut open = Vec::new();
        self.pages(&query.with_filter("state", ["open", "active"]), patience, |page| {
            open.extend(SpotRequest::all_of(page).map(|request| request.id));
        })?;
        Ok(open)
    }

    pub(super) fn cancel_spot_requests(&self, ids: Vec<String>, patience: &Patience<'_>) -> Result<(), AwsError> {
        let query = Query::new("CancelSpotInstanceRequests", Repeat::Harmless);
        self.client.ec2(&query.with_list("SpotInstanceRequestId", ids), patience).map(drop)
    }

    pub(super) fn put_secret(&self, name: &str, secret: &str, patience: &Patience<'_>) -> Result<(), AwsError> {
        let body = json!({ "Name": name, "Value": secret, "Type": "SecureString", "Overwrite": true });
        self.client.ssm("PutParameter", Repeat::Harmless, &body, patience).map(drop)
    }

    /// It is gone afterwards, or was before.
    pub(super) fn delete_parameter(&self, name: &str, patience: &Patience<'_>) -> Result<(), AwsError> {
        let deleted = self.client.ssm("DeleteParameter", Repeat::Harmless, &json!({ "Name": name }), patience);
        match deleted {
            Err(error) if error.already_gone() => Ok(()),
            deleted => deleted.map(drop),
        }
    }

    // ---- what is looked up before a launch

    pub(super) fn parameter(&self, name: &str, patience: &Patience<'_>) -> Result<String, AwsError> {
        let answer = self.client.ssm("GetParameter", Repeat::Harmless, &json!({ "Name": name }), patience)?;
        let value = answer["Parameter"]["Value"].as_str();
        value.map(str::to_owned).ok_or_else(|| AwsError::lost("GetParameter", "the answer has no value"))
    }

    /// The image of this id, if the account may see it.
    pub(super) fn image(&self, id: &str, patience: &Patience<'_>) -> Result<Option<Image>, AwsError> {
        // By its id and no filter: only so is an image of somebody else told of that is deprecated.
        let query = Query::new("DescribeImages", Repeat::Harmless).with_list("ImageId", [id]);
        match self.described_images(&query, patience) {
            Ok(mut images) => Ok(images.pop()),
            // The launch says that better.
            Err(error) if error.code().is_some_and(|code| code.starts_with("InvalidAMIID")) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn images(&self, newest: &Newest, patience: &Patience<'_>) -> Result<Vec<Image>, AwsError> {
        let query = Query::new("DescribeImages", Repeat::Harmless).with_list("Owner", newest.owners.iter().cloned());
        let query = query.with("MaxResults", MOST_IMAGES).with_filter("state", ["available"]);
        let query = newest
            .filters
            .iter()
            .fold(query, |query, (name, values)| query.with_filter(name.as_str(), values.iter().cloned()));
        self.described_images(&query, patience)
    }

    fn described_images(&self, query: &Query, patience: &Patience<'_>) -> Result<Vec<Image>, AwsError> {
        let mut images = Vec::new();
        self.pages(query, patience, |page| images.extend(page.items("imagesSet").filter_map(Image::of)))?;
        Ok(images)
    }

    /// What spot machines of this kind have cost for so long, in dollars an hour.
    pub(super) fn spot_prices(
        &self,
        offer: &Offer,
        since: Duration,
        patience: &Patience<'_>,
    ) -> Result<Vec<f64>, AwsError> {
        let query = Query::new("DescribeSpotPriceHistory", Repeat::Harmless)
            .with("StartTime", self.client.time_ago(since, patience))
            .with_list("InstanceType", [offer.instance_type.as_str()])
            .with_list("ProductDescription", ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"]);
        let query = match &offer.place {
            Place::Zone(zone) => query.with("AvailabilityZone", zone),
            Place::Anywhere | Place::Subnet(_) => query,
        };
        let mut prices = Vec::new();
        self.pages(&query, patience, |page| {
            let items = page.items("spotPriceHistorySet");
            prices.extend(items.filter_map(|item| item.text("spotPrice")?.trim().parse::<f64>().ok()));
        })?;
        Ok(prices)
    }

    /// Asks for one page after the other.
    fn pages(&self, query: &Query, patience: &Patience<'_>, mut page: impl FnMut(&Element)) -> Result<(), AwsError> {
        let mut next = None;
        for _ in 0..MOST_PAGES {
            let query = match &next {
                None => query.clone(),
                Some(token) => query.clone().with("NextToken", token),
            };
            let answer = self.client.ec2(&query, patience)?;
            page(&answer);
            next = answer.text("nextToken").map(str::to_owned).filter(|token: &String| !token.is_empty());
            if next.is_none() {
                return Ok(());
            }
        }
        Err(AwsError::lost(query.action(), format!("the answer has more than {MOST_PAGES} pages; filter it")))
    }
}

/// An answer for all, unless the one who has asked has given up.
fn not_given_up<T>(result: Result<T, AwsError>) -> Option<Result<T, AwsError>> {
    match result {
        Err(error) if error.class() == Class::Cancelled => None,
        result => Some(result),
    }
}

fn by_id<T>(items: impl IntoIterator<Item = T>, id: impl Fn(&T) -> &String) -> HashMap<String, T> {
    items.into_iter().map(|item| (id(&item).clone(), item)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_looked_at_is_told_once_and_what_fails_is_not() {
        let denial = FirstDenial::default();
        let levels = [Class::Server, Class::Denied, Class::Denied, Class::Server].map(|class| {
            let error = AwsError::of(class, "DescribeInstanceStatus", "words");
            denial.level(&error)
        });
        assert_eq!(levels, [log::Level::Debug, log::Level::Warn, log::Level::Debug, log::Level::Debug]);
    }
}
