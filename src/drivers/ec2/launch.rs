//! The one call that makes a machine: its parameters, from what the machine is to be.
//!
//! Pure.

use super::names::{Identity, SETTINGS};
use super::offers::{Market, Offer, Place};
use super::settings::{AtStop, BlockDevice, MetadataAccess, Rendered};

/// What is made with a launch and can have tags from its first moment on.
const TAGGED: [&str; 3] = ["instance", "volume", "network-interface"];

/// What is known only when the launch is about to happen.
pub(super) struct Launch<'a> {
    pub(super) identity: &'a Identity,
    pub(super) rendered: &'a Rendered,
    /// Which of the offers, if there are any.
    pub(super) offer: Option<(usize, &'a Offer)>,
    /// The id of the image, if it is not that of a launch template.
    pub(super) image: Option<&'a str>,
    /// Disks of the image that are to be otherwise than it says.
    pub(super) image_disks: &'a [BlockDevice],
    /// As the provider wants it; empty for none.
    pub(super) user_data: &'a str,
    /// The highest price of a spot machine, in dollars, if it has one of its own.
    pub(super) max_price: Option<&'a str>,
    pub(super) at_stop: AtStop,
}

impl Launch<'_> {
    /// What makes this launch happen once.
    pub(super) fn token(&self) -> String {
        self.identity.token(self.offer.map_or(0, |(index, _)| index))
    }

    /// The parameters of `RunInstances`, in order.
    pub(super) fn parameters(&self) -> Vec<(String, String)> {
        let mut list = List::default();
        let Self { rendered, .. } = self;
        list.add("MinCount", "1");
        list.add("MaxCount", "1");
        list.add("ClientToken", self.token());
        list.maybe("ImageId", self.image);
        list.maybe("KeyName", rendered.key_pair.as_deref());
        list.maybe("UserData", Some(self.user_data).filter(|text| !text.is_empty()));
        if let Some(template) = &rendered.launch_template {
            let (name, version) = template.split_once(':').unwrap_or((template, "$Default"));
            let by = if name.starts_with("lt-") { "LaunchTemplateId" } else { "LaunchTemplateName" };
            list.add(format!("LaunchTemplate.{by}"), name);
            list.add("LaunchTemplate.Version", version);
        }
        self.place(&mut list);
        self.market(&mut list);
        let (ids, names): (Vec<_>, Vec<_>) =
            rendered.security_groups.iter().partition(|group| group.starts_with("sg-"));
        list.numbered("SecurityGroupId", ids);
        list.numbered("SecurityGroup", names);
        if let Some(profile) = &rendered.profile {
            let by = if profile.starts_with("arn:") { "Arn" } else { "Name" };
            list.add(format!("IamInstanceProfile.{by}"), profile);
        }
        self.disks(&mut list);
        match rendered.metadata {
            MetadataAccess::TokenRequired => list.add("MetadataOptions.HttpTokens", "required"),
            MetadataAccess::TokenOptional => list.add("MetadataOptions.HttpTokens", "optional"),
            MetadataAccess::Off => list.add("MetadataOptions.HttpEndpoint", "disabled"),
        }
        match self.at_stop {
            // A machine that shuts itself down is gone as well: nobody would start it again.
            AtStop::Terminate => list.add("InstanceInitiatedShutdownBehavior", "terminate"),
            AtStop::Stop => list.add("InstanceInitiatedShutdownBehavior", "stop"),
            AtStop::Hibernate => {
                list.add("InstanceInitiatedShutdownBehavior", "stop");
                list.add("HibernationOptions.Configured", "true");
            }
        }
        self.tags(&mut list);
        list.0
    }

    fn place(&self, list: &mut List) {
        let mut subnet = self.rendered.subnet.as_deref();
        if let Some((_, offer)) = self.offer {
            list.add("InstanceType", &offer.instance_type);
            match &offer.place {
                Place::Anywhere => {}
                Place::Zone(zone) => {
                    // A subnet is in a zone of its own.
                    subnet = None;
                    list.add("Placement.AvailabilityZone", zone);
                }
                Place::Subnet(its) => subnet = Some(its),
            }
        }
        list.maybe("SubnetId", subnet);
        list.maybe("Placement.GroupName", self.rendered.placement_group.as_deref());
        list.maybe("Placement.Tenancy", self.rendered.tenancy.as_deref());
    }

    fn market(&self, list: &mut List) {
        if let Some((_, Offer { market: Market::Spot(_), .. })) = self.offer {
            list.add("InstanceMarketOptions.MarketType", "spot");
            list.add("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time");
            list.add("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior", "terminate");
            list.maybe("InstanceMarketOptions.SpotOptions.MaxPrice", self.max_price);
        }
    }

    fn disks(&self, list: &mut List) {
        let chosen = &self.rendered.block_devices;
        let is_chosen = |device: &str| chosen.iter().any(|disk| disk.device == device);
        let of_image = self.image_disks.iter().filter(|disk| !is_chosen(&disk.device));
        for (number, disk) in (1..).zip(chosen.iter().chain(of_image)) {
            let mut add = |name: &str, value: Option<String>| {
                list.maybe(format!("BlockDeviceMapping.{number}.{name}"), value.as_deref());
            };
            add("DeviceName", Some(disk.device.clone()));
            add("Ebs.DeleteOnTermination", Some((!disk.kept).to_string()));
            add("Ebs.VolumeSize", disk.gibibytes.map(|size| size.to_string()));
            add("Ebs.VolumeType", disk.volume_type.clone());
            add("Ebs.Iops", disk.iops.map(|iops| iops.to_string()));
            add("Ebs.Throughput", disk.throughput.map(|throughput| throughput.to_string()));
            add("Ebs.SnapshotId", disk.snapshot.clone());
            add("Ebs.Encrypted", disk.encrypted.then(|| "true".into()));
            add("Ebs.KmsKeyId", disk.kms_key.clone());
        }
    }

    fn tags(&self, list: &mut List) {
        // What is kept is found again by what it was made with.
        let settings = (self.at_stop != AtStop::Terminate).then(|| self.rendered.fingerprint());
        let spot = self.offer.is_some_and(|(_, offer)| offer.is_spot()).then_some("spot-instances-request");
        for (kind, what) in (1..).zip(TAGGED.into_iter().chain(spot)) {
            list.add(format!("TagSpecification.{kind}.ResourceType"), what);
            let ours = self.identity.tags();
            let ours = ours.iter().filter(|(key, _)| !self.rendered.tags.contains_key(*key));
            let ours = ours.map(|(key, value)| (*key, value.as_str()));
            let ours = ours.chain(settings.iter().map(|settings| (SETTINGS, settings.as_str())));
            let theirs = self.rendered.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            for (number, (key, value)) in (1..).zip(ours.chain(theirs)) {
                list.add(format!("TagSpecification.{kind}.Tag.{number}.Key"), key);
                list.add(format!("TagSpecification.{kind}.Tag.{number}.Value"), value);
            }
        }
    }
}

#[derive(Default)]
struct List(Vec<(String, String)>);

impl List {
    fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    fn maybe(&mut self, name: impl Into<String>, value: Option<&str>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    fn numbered(&mut self, name: &str, values: Vec<&String>) {
        for (number, value) in (1..).zip(values) {
            self.add(format!("{name}.{number}"), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::ami::Ami;
    use super::super::settings::Settings;
    use super::*;
    use crate::{Epoch, Properties};

    fn parameters(change: impl FnOnce(&mut Settings)) -> BTreeMap<String, String> {
        let mut settings = Settings::new();
        settings.image = Some(Ami::id("ami-1").into());
        settings.offers = vec![Offer::new("c7i.large").into()];
        change(&mut settings);
        settings.check_constants().unwrap();
        let rendered = settings.render(&Properties::new()).ok().unwrap();
        let identity = Identity::new("w", "owner", "key", Epoch::default());
        let launch = Launch {
            identity: &identity,
            rendered: &rendered,
            offer: rendered.offers.first().map(|offer| (0, offer)),
            image: Some("ami-1"),
            image_disks: &image_disks(),
            user_data: "ZGF0YQ==",
            max_price: Some("0.5"),
            at_stop: settings.at_stop,
        };
        let list = launch.parameters();
        let map: BTreeMap<_, _> = list.iter().cloned().collect();
        assert_eq!(map.len(), list.len(), "every name once");
        map
    }

    /// Both would outlive their machine.
    fn image_disks() -> [BlockDevice; 2] {
        [BlockDevice::new("/dev/xvda").size(8), BlockDevice::new("/dev/sdh").snapshot("snap-2")]
    }

    fn has(parameters: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
        for (name, value) in expected {
            assert_eq!(parameters.get(*name).map(String::as_str), Some(*value), "{name} in {parameters:#?}");
        }
    }

    #[test]
    fn a_plain_launch_has_the_safe_defaults() {
        let plain = parameters(|_| {});
        has(
            &plain,
            &[
                ("MinCount", "1"),
                ("MaxCount", "1"),
                ("ClientToken", "latent-worker-key-0"),
                ("ImageId", "ami-1"),
                ("InstanceType", "c7i.large"),
                ("UserData", "ZGF0YQ=="),
                ("MetadataOptions.HttpTokens", "required"),
                ("InstanceInitiatedShutdownBehavior", "terminate"),
            ],
        );
        assert!(plain.keys().all(|name| !name.starts_with("InstanceMarketOptions")));
        assert!(plain.values().all(|value| !value.is_empty()));
    }

    #[test]
    fn d4_everything_a_launch_makes_has_the_tags_of_its_attempt_from_the_first_moment() {
        let tagged = parameters(|settings| {
            settings.tags.insert("team".into(), "a".into());
            settings.tags.insert("Name".into(), "mine".into());
        });
        let tags = |kind: usize| -> BTreeMap<&str, &str> {
            let of = |number: usize, what: &str| {
                tagged.get(&format!("TagSpecification.{kind}.Tag.{number}.{what}")).map(String::as_str)
            };
            (1..).map_while(|number| Some((of(number, "Key")?, of(number, "Value")?))).collect()
        };
        let expected = [
            ("Name", "mine"),
            ("latent-worker.attempt", "key"),
            ("latent-worker.epoch", "0"),
            ("latent-worker.owner", "owner"),
            ("latent-worker.worker", "w"),
            ("team", "a"),
        ];
        for (kind, what) in (1..).zip(TAGGED) {
            has(&tagged, &[(&format!("TagSpecification.{kind}.ResourceType"), what)]);
            assert_eq!(tags(kind), expected.into(), "{what}");
        }
        assert!(!tagged.contains_key("TagSpecification.4.ResourceType"), "a machine on demand has no spot request");
    }

    #[test]
    fn disks_go_with_their_machine_unless_something_else_is_said() {
        let disks = parameters(|settings| {
            let root = BlockDevice::new("/dev/xvda").size(20).volume_type("gp3").iops(4000).throughput(200);
            settings.block_devices.push(root.encrypted_with("a-key").into());
            settings
                .block_devices
                .push(BlockDevice::new("/dev/sdf").snapshot("snap-1").kept_after_termination().into());
        });
        has(
            &disks,
            &[
                ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
                ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true"),
                ("BlockDeviceMapping.1.Ebs.VolumeSize", "20"),
                ("BlockDeviceMapping.1.Ebs.VolumeType", "gp3"),
                ("BlockDeviceMapping.1.Ebs.Iops", "4000"),
                ("BlockDeviceMapping.1.Ebs.Throughput", "200"),
                ("BlockDeviceMapping.1.Ebs.Encrypted", "true"),
                ("BlockDeviceMapping.1.Ebs.KmsKeyId", "a-key"),
                ("BlockDeviceMapping.2.Ebs.SnapshotId", "snap-1"),
                ("BlockDeviceMapping.2.Ebs.DeleteOnTermination", "false"),
                ("BlockDeviceMapping.3.DeviceName", "/dev/sdh"),
                ("BlockDeviceMapping.3.Ebs.SnapshotId", "snap-2"),
                ("BlockDeviceMapping.3.Ebs.DeleteOnTermination", "true"),
            ],
        );
        assert!(!disks.contains_key("BlockDeviceMapping.4.DeviceName"), "a disk that was chosen is as chosen");
    }

    #[test]
    fn a_spot_machine_is_asked_for_once_and_ends_when_it_is_interrupted() {
        let spot = parameters(|settings| {
            settings.offers = vec![Offer::new("c7i.large").in_zone("z").spot_below(0.5).into()];
            settings.subnet = "subnet-1".into();
        });
        has(
            &spot,
            &[
                ("InstanceMarketOptions.MarketType", "spot"),
                ("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time"),
                ("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior", "terminate"),
                ("InstanceMarketOptions.SpotOptions.MaxPrice", "0.5"),
                ("Placement.AvailabilityZone", "z"),
                ("TagSpecification.4.ResourceType", "spot-instances-request"),
            ],
        );
        assert!(!spot.contains_key("SubnetId"), "a zone of the offer's own");
    }

    #[test]
    fn every_other_setting_is_in_the_launch() {
        let all = parameters(|settings| {
            settings.launch_template = "a-template:7".into();
            settings.offers = vec![Offer::new("c7i.large").in_subnet("subnet-2").into()];
            settings.subnet = "subnet-1".into();
            settings.key_pair = "a key".into();
            settings.security_groups = ["sg-1", "web", "sg-2"].into();
            settings.placement_group = "group".into();
            settings.tenancy = "dedicated".into();
            settings.profile = "arn:aws:iam::1:instance-profile/p".into();
            settings.metadata = MetadataAccess::Off.into();
            settings.at_stop = AtStop::Hibernate;
        });
        has(
            &all,
            &[
                ("LaunchTemplate.LaunchTemplateName", "a-template"),
                ("LaunchTemplate.Version", "7"),
                ("SubnetId", "subnet-2"),
                ("KeyName", "a key"),
                ("SecurityGroupId.1", "sg-1"),
                ("SecurityGroupId.2", "sg-2"),
                ("SecurityGroup.1", "web"),
                ("Placement.GroupName", "group"),
                ("Placement.Tenancy", "dedicated"),
                ("IamInstanceProfile.Arn", "arn:aws:iam::1:instance-profile/p"),
                ("MetadataOptions.HttpEndpoint", "disabled"),
                ("InstanceInitiatedShutdownBehavior", "stop"),
                ("HibernationOptions.Configured", "true"),
            ],
        );
        let by_id = parameters(|settings| {
            settings.launch_template = "lt-1".into();
            settings.profile = "p".into();
            settings.metadata = MetadataAccess::TokenOptional.into();
            settings.at_stop = AtStop::Stop;
        });
        has(
            &by_id,
            &[
                ("LaunchTemplate.LaunchTemplateId", "lt-1"),
                ("LaunchTemplate.Version", "$Default"),
                ("IamInstanceProfile.Name", "p"),
                ("MetadataOptions.HttpTokens", "optional"),
                ("InstanceInitiatedShutdownBehavior", "stop"),
            ],
        );
    }
}
