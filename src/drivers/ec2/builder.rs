//! The settings of an [`Ec2LatentWorker`], one method each.

use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use super::ami::Ami;
use super::aws::{AwsCredentials, AwsSettings};
use super::offers::Offer;
use super::settings::{AtStop, BlockDevice, Ec2SettingsError, MetadataAccess, Settings};
use super::{Ec2LatentWorker, LONGEST_POLL_INTERVAL, Limits, SHORTEST_POLL_INTERVAL};
use crate::Setting;

/// Settings of an [`Ec2LatentWorker`]. Those that take a [`Setting`] are a constant, a template or a function of the build's
/// properties. Where a text is taken, an empty one is the same as not setting it, so that a build can choose.
#[must_use = "build it"]
#[derive(Clone, Debug)]
pub struct Ec2LatentWorkerBuilder {
    settings: Settings,
    aws: AwsSettings,
    limits: Limits,
}

impl Ec2LatentWorkerBuilder {
    pub(super) fn new() -> Self {
        Self { settings: Settings::new(), aws: AwsSettings::default(), limits: Limits::default() }
    }

    /// What machines are made of. That of the [launch template](Self::launch_template) by default.
    pub fn image(mut self, image: impl Into<Setting<Ami>>) -> Self {
        self.settings.image = Some(image.into());
        self
    }

    /// A kind of machine that will do, where, and at what price; every call adds one, the preferred ones first. When the
    /// provider has none left of one, or the account may not have more of it, the next one is asked for; what was out of
    /// capacity is asked for last for [a while](Self::shortage_memory). The type of the
    /// [launch template](Self::launch_template), if there is none.
    pub fn offer(mut self, offer: impl Into<Setting<Offer>>) -> Self {
        self.settings.offers.push(offer.into());
        self
    }

    /// What the provider knows of a machine already, `NAME` or `lt-…`, with `:VERSION` (its default version, if that is not
    /// said). What is set here replaces what is in it; one with network interfaces takes no subnet and no groups from here. It
    /// must not ask for persistent spot machines: the provider would replace each that is ended, for ever.
    pub fn launch_template(mut self, template: impl Into<Setting<String>>) -> Self {
        self.settings.launch_template = template.into();
        self
    }

    /// The subnet (`subnet-…`) of offers that do not name a place themselves. An offer in a zone is not in it, but in the
    /// default network of the account, whose security groups are others: one that is to be in another subnet of the same
    /// network [names that](Offer::in_subnet).
    pub fn subnet(mut self, subnet: impl Into<Setting<String>>) -> Self {
        self.settings.subnet = subnet.into();
        self
    }

    /// The key pair with which people can log in. None by default.
    pub fn key_pair(mut self, name: impl Into<Setting<String>>) -> Self {
        self.settings.key_pair = name.into();
        self
    }

    /// The security groups, by id (`sg-…`) or by name; names are for machines without a subnet, in the default
    /// network. The default group of the network by default. A machine needs no way in: its agent connects out.
    pub fn security_groups(mut self, groups: impl Into<Setting<Vec<String>>>) -> Self {
        self.settings.security_groups = groups.into();
        self
    }

    /// The placement group.
    pub fn placement_group(mut self, name: impl Into<Setting<String>>) -> Self {
        self.settings.placement_group = name.into();
        self
    }

    /// `default`, `dedicated` or `host`.
    pub fn tenancy(mut self, tenancy: impl Into<Setting<String>>) -> Self {
        self.settings.tenancy = tenancy.into();
        self
    }

    /// The instance profile, by name or ARN: what the machine itself may do at the provider. None by default. Builds on the
    /// machine may do it too.
    pub fn profile(mut self, name_or_arn: impl Into<Setting<String>>) -> Self {
        self.settings.profile = name_or_arn.into();
        self
    }

    /// What the machine is told when it boots: a script or a cloud-config, in which the driver fills in who the agent is. See
    /// [What the agent is told](Ec2LatentWorker#what-the-agent-is-told). It is compressed (gzip) when it has more than
    /// 16 KiB, and may have 16 KiB then.
    pub fn user_data(mut self, text: impl Into<Setting<String>>) -> Self {
        self.settings.user_data = text.into();
        self
    }

    /// Puts the secret into an encrypted parameter of Systems Manager, `PREFIX/OWNER/KEY`, and not into the user data, which
    /// everybody sees who may describe the machine, and every process on it. The machine must be allowed to read it by its
    /// [profile](Self::profile); it is removed by the stop.
    pub fn secret_in_parameter(mut self, prefix: impl Into<String>) -> Self {
        self.settings.parameter_prefix = Some(prefix.into());
        self
    }

    /// A disk, in place of what the image says about its device; every call adds one.
    pub fn block_device(mut self, device: impl Into<Setting<BlockDevice>>) -> Self {
        self.settings.block_devices.push(device.into());
        self
    }

    /// Attaches a volume that is there already (`vol-…`) as this device (`/dev/sdf`), when the machine runs; every call adds
    /// one. It can be used by one machine at a time, which must be in its zone, and it is never deleted.
    pub fn volume(mut self, device: impl Into<String>, volume: impl Into<Setting<String>>) -> Self {
        self.settings.volumes.insert(device.into(), volume.into());
        self
    }

    /// The elastic IP that the machine has when it runs, by its address or the id of its allocation (`eipalloc-…`). It can be
    /// used by one machine at a time, and is taken from none.
    pub fn elastic_ip(mut self, address: impl Into<Setting<String>>) -> Self {
        self.settings.elastic_ip = address.into();
        self
    }

    /// A tag of the machine, its disks and its network interfaces, from their first moment on; every call sets one.
    /// `latent-worker.…` is refused; `Name` is `latent-worker` and the name of the worker by default.
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<Setting<String>>) -> Self {
        self.settings.tags.insert(key.into(), value.into());
        self
    }

    /// How the machine's metadata service answers; [only with a token](MetadataAccess::TokenRequired) by default.
    pub fn metadata(mut self, access: impl Into<Setting<MetadataAccess>>) -> Self {
        self.settings.metadata = access.into();
        self
    }

    /// Where the master is seen from the machine: `host:port`. The
    /// [address that the master was told](crate::MasterBuilder::agent_address) by default, if another machine can use it.
    pub fn master_address(mut self, address: impl Into<Setting<String>>) -> Self {
        self.settings.master_address = address.into();
        self
    }

    /// What a stop does; it [terminates](AtStop::Terminate) the machine by default. See
    /// [Machines that are kept](Ec2LatentWorker#machines-that-are-kept).
    pub fn at_stop(mut self, at_stop: AtStop) -> Self {
        self.settings.at_stop = at_stop;
        self
    }

    /// The region, `eu-west-1`. What the environment, the profile or the machine of the master says by default.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.aws.region = Some(region.into());
        self
    }

    /// Sets the address of all services of the provider, such as `http://127.0.0.1:5000`. The default is the address
    /// that `AWS_ENDPOINT_URL` or the profile names, or the address of the region. Credentials with a session token are
    /// not sent to another machine without TLS.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.aws.endpoint = Some(url.into());
        self
    }

    /// Whose account is used. By default they are looked for [where the provider's own tools
    /// look](Ec2LatentWorker#whose-account-it-is), and replaced before they expire.
    pub fn credentials(mut self, credentials: AwsCredentials) -> Self {
        self.aws.credentials = Some(credentials);
        self
    }

    /// The profile of the files that the provider's own tools share. That of `AWS_PROFILE`, or `default`, by default.
    pub fn aws_profile(mut self, name: impl Into<String>) -> Self {
        self.aws.profile = Some(name.into());
        self
    }

    /// How often a start and a stop look at how far the machine is; 2 s by default, 50 ms at least, a minute at most. All
    /// that wait at the same time look with one call.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.limits.poll_interval = interval.clamp(SHORTEST_POLL_INTERVAL, LONGEST_POLL_INTERVAL);
        self
    }

    /// How long one call may go on, with all that is tried again and waited for; 60 s by default. A check has 10 s at most.
    /// When many start or stop at the same time they take turns, so that the provider need not refuse them, and wait for
    /// these besides: for as long as the start or the stop has.
    pub fn call_limit(mut self, limit: Duration) -> Self {
        self.limits.call = limit;
        self
    }

    /// How long a machine may take from its launch until it runs; 10 minutes by default. Before that a launch waits for its turn
    /// as long as that: five machines come at once, and two in each second then, of all workers in this process that use the
    /// account in the region.
    pub fn start_limit(mut self, limit: Duration) -> Self {
        self.limits.start = limit;
        self
    }

    /// How long a machine may take from the request to terminate or stop until it has; 10 minutes by default. A stop
    /// that is or becomes a fast one does not wait for that.
    pub fn stop_limit(mut self, limit: Duration) -> Self {
        self.limits.stop = limit;
        self
    }

    /// How long what is made may be missing in the provider's answers; 10 minutes by default. What was asked for and never
    /// answered is looked for as long as that before it counts as never made.
    pub fn listing_lag(mut self, lag: Duration) -> Self {
        self.limits.listing_lag = lag;
        self
    }

    /// How long an offer that was out of capacity is asked for last; 5 minutes by default.
    pub fn shortage_memory(mut self, memory: Duration) -> Self {
        self.limits.shortage_memory = memory;
        self
    }

    /// How often a machine whose agent has attached is looked at; at least 1 s. By default 20 s when it may be a spot machine,
    /// by an offer or a [launch template](Self::launch_template), for the notice of an interruption comes two minutes before it,
    /// and 5 minutes otherwise.
    pub fn attached_check_interval(mut self, interval: Duration) -> Self {
        self.limits.attached_check_interval = Some(interval);
        self
    }

    /// The driver. Does not talk to the provider.
    ///
    /// # Errors
    /// Returns an error if a constant is invalid (what is computed is checked for each build), if settings do not go together,
    /// if the region, the address of the provider or the credentials are invalid, or if a variable of the environment that
    /// names a proxy or a file with certificates is.
    pub fn build(self) -> Result<Ec2LatentWorker, Ec2SettingsError> {
        self.settings.check_constants()?;
        Ok(Ec2LatentWorker {
            account: Account::new(self.aws)?,
            settings: Arc::new(self.settings),
            limits: self.limits,
            shared: Arc::default(),
        })
    }
}
