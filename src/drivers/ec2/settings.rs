//! What a machine is to be: the settings as they were given, and as they are for one build.
//!
//! Pure. What becomes of them at the provider is in `launch`.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;
use std::fmt;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::ami::Ami;
use super::names;
use super::offers::Offer;
use super::user_data::{self, Blank};
use crate::{Properties, Setting};

/// "Each instance can have at most 50 tags" (Amazon EC2 User Guide); six are the driver's own, of a machine that is kept.
const MOST_TAGS: usize = 44;

/// Beginnings of codes of what is no fault of what was asked for.
const NEVER_OF_THE_BUILD: [&str; 10] = [
    // Somebody else has it, or it is not ready: that passes.
    "Resource.AlreadyAssociated",
    "VolumeInUse",
    "IncorrectState",
    "IncorrectInstanceState",
    // Of the token that is the attempt's.
    "IdempotentInstanceTerminated",
    "IdempotentParameterMismatch",
    // Of the machine that the attempt has made.
    "InvalidInstanceID",
    // Of the account and its network.
    "VPCIdNotSpecified",
    "Gateway.NotAttached",
    "OperationNotPermitted",
];

/// What a stop does with the machine; see [`Ec2LatentWorkerBuilder::at_stop`](crate::Ec2LatentWorkerBuilder::at_stop).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum AtStop {
    /// It is terminated: nothing is left that costs anything. The default.
    #[default]
    Terminate,
    /// It is stopped, and the worker's next start has it go on. Its disks stay, and cost.
    Stop,
    /// The same, with its memory kept on its root volume, which must be encrypted and large enough. A machine that the provider
    /// does not have hibernate, because it is not ready for that yet, say, is stopped.
    Hibernate,
}

/// How the machine's own metadata service answers those on the machine; see
/// [`Ec2LatentWorkerBuilder::metadata`](crate::Ec2LatentWorkerBuilder::metadata).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum MetadataAccess {
    /// Only with a token (IMDSv2), so that a build that can be made to fetch an address of somebody's choice gives nothing
    /// away. The default.
    #[default]
    TokenRequired,
    /// Also without one.
    TokenOptional,
    /// Not at all. The machine does not get its user data then, nor the credentials of its profile.
    Off,
}

/// A disk of a machine, made with it, in place of what its image says about the device; see
/// [`Ec2LatentWorkerBuilder::block_device`](crate::Ec2LatentWorkerBuilder::block_device). It is deleted with the machine,
/// unless something else is said.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BlockDevice {
    pub(super) device: String,
    pub(super) gibibytes: Option<u32>,
    pub(super) volume_type: Option<String>,
    pub(super) iops: Option<u32>,
    pub(super) throughput: Option<u32>,
    pub(super) encrypted: bool,
    pub(super) kms_key: Option<String>,
    pub(super) snapshot: Option<String>,
    pub(super) kept: bool,
}

impl BlockDevice {
    /// The disk at this device: `/dev/xvda`, say.
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            gibibytes: None,
            volume_type: None,
            iops: None,
            throughput: None,
            encrypted: false,
            kms_key: None,
            snapshot: None,
            kept: false,
        }
    }

    /// How large it is, in GiB. As large as its snapshot by default.
    #[must_use]
    pub fn size(self, gibibytes: u32) -> Self {
        Self { gibibytes: Some(gibibytes), ..self }
    }

    /// What kind of volume: `gp3`, say. The provider's default by default.
    #[must_use]
    pub fn volume_type(self, volume_type: impl Into<String>) -> Self {
        Self { volume_type: Some(volume_type.into()), ..self }
    }

    /// How many operations a second, for the kinds that can be asked for that.
    #[must_use]
    pub fn iops(self, iops: u32) -> Self {
        Self { iops: Some(iops), ..self }
    }

    /// How many MiB a second, for the kinds that can be asked for that.
    #[must_use]
    pub fn throughput(self, mebibytes_a_second: u32) -> Self {
        Self { throughput: Some(mebibytes_a_second), ..self }
    }

    /// Encrypted, with the account's own key.
    #[must_use]
    pub fn encrypted(self) -> Self {
        Self { encrypted: true, ..self }
    }

    /// Encrypted, with this key of the key management service.
    #[must_use]
    pub fn encrypted_with(self, key: impl Into<String>) -> Self {
        Self { encrypted: true, kms_key: Some(key.into()), ..self }
    }

    /// With what is in this snapshot: `snap-…`.
    #[must_use]
    pub fn snapshot(self, snapshot: impl Into<String>) -> Self {
        Self { snapshot: Some(snapshot.into()), ..self }
    }

    /// It stays when the machine is terminated. Nobody removes it then but you.
    #[must_use]
    pub fn kept_after_termination(self) -> Self {
        Self { kept: true, ..self }
    }
}

/// Why a driver of machines cannot be made from its settings.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ec2SettingsError {
    /// A setting makes no sense, whatever the build.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which one.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is not known, or cannot be known, whose account is used and where.
    #[error("{0}")]
    Account(String),
}

/// The settings as they were given.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) image: Option<Setting<Ami>>,
    pub(super) launch_template: Setting<String>,
    pub(super) offers: Vec<Setting<Offer>>,
    pub(super) subnet: Setting<String>,
    pub(super) key_pair: Setting<String>,
    pub(super) security_groups: Setting<Vec<String>>,
    pub(super) placement_group: Setting<String>,
    pub(super) tenancy: Setting<String>,
    pub(super) profile: Setting<String>,
    pub(super) user_data: Setting<String>,
    pub(super) block_devices: Vec<Setting<BlockDevice>>,
    /// By the device.
    pub(super) volumes: BTreeMap<String, Setting<String>>,
    pub(super) elastic_ip: Setting<String>,
    pub(super) tags: BTreeMap<String, Setting<String>>,
    pub(super) metadata: Setting<MetadataAccess>,
    pub(super) master_address: Setting<String>,
    /// Where the secret is put, if it is not in the user data.
    pub(super) parameter_prefix: Option<String>,
    pub(super) at_stop: AtStop,
}

/// The settings as they are for one build. A machine fits a build exactly when these are equal, which is when
/// [kinds](Settings::kind) are. No `Debug`: there may be secrets in the user data.
#[derive(Clone, PartialEq)]
pub(super) struct Rendered {
    pub(super) image: Option<Ami>,
    pub(super) launch_template: Option<String>,
    pub(super) offers: Vec<Offer>,
    pub(super) subnet: Option<String>,
    pub(super) key_pair: Option<String>,
    pub(super) security_groups: Vec<String>,
    pub(super) placement_group: Option<String>,
    pub(super) tenancy: Option<String>,
    pub(super) profile: Option<String>,
    /// Before it is filled in.
    pub(super) user_data: String,
    pub(super) block_devices: Vec<BlockDevice>,
    pub(super) volumes: BTreeMap<String, String>,
    pub(super) elastic_ip: Option<String>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) metadata: MetadataAccess,
    pub(super) master_address: Option<String>,
}

impl Rendered {
    /// The same for settings that are equal, also in another process; what is in it cannot be read from it.
    pub(super) fn fingerprint(&self) -> String {
        let Self {
            image, launch_template, offers, subnet, key_pair, security_groups, placement_group, tenancy, ..
        } = self;
        let Self { profile, user_data, block_devices, volumes, elastic_ip, tags, metadata, master_address, .. } = self;
        let machine = (image, launch_template, offers, subnet, key_pair, security_groups, placement_group, tenancy);
        let more = (profile, user_data, block_devices, volumes, elastic_ip, tags, metadata, master_address);
        let digest = Sha256::digest(format!("{machine:?} {more:?}"));
        HEXLOWER.encode(&digest[..16])
    }
}

/// A setting that has no value, or a value that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub(super) struct BadSetting {
    pub(super) setting: String,
    pub(super) reason: String,
}

impl From<BadSetting> for Ec2SettingsError {
    fn from(bad: BadSetting) -> Self {
        Self::Setting { setting: bad.setting, reason: bad.reason }
    }
}

/// How settings are looked at: for these properties; without any, those alone that are constants, so that what is wrong
/// with them is told before any build comes.
struct Look<'a>(Option<&'a Properties>);

impl Look<'_> {
    /// The name of a setting, itself, and how its value is checked and made into what is used. `None` when it is not known
    /// yet.
    fn at<T: Clone, R>(
        &self,
        name: &str,
        setting: &Setting<T>,
        check: impl FnOnce(T) -> Result<R, String>,
    ) -> Result<Option<R>, BadSetting> {
        let value = match self.0 {
            Some(properties) => setting.render(properties).map(Some).map_err(|error| error.to_string()),
            None => Ok(setting.as_constant().cloned()),
        };
        let checked = value.and_then(|value| value.map(check).transpose());
        checked.map_err(|reason| BadSetting { setting: name.into(), reason })
    }

    /// One word, or none when it is empty.
    fn word(&self, name: &str, setting: &Setting<String>) -> Result<Option<String>, BadSetting> {
        Ok(self.at(name, setting, word)?.flatten())
    }
}

impl Settings {
    pub(super) fn new() -> Self {
        let nothing = || Setting::<String>::from("");
        Self {
            image: None,
            launch_template: nothing(),
            offers: Vec::new(),
            subnet: nothing(),
            key_pair: nothing(),
            security_groups: Vec::<String>::new().into(),
            placement_group: nothing(),
            tenancy: nothing(),
            profile: nothing(),
            user_data: nothing(),
            block_devices: Vec::new(),
            volumes: BTreeMap::new(),
            elastic_ip: nothing(),
            tags: BTreeMap::new(),
            metadata: MetadataAccess::default().into(),
            master_address: nothing(),
            parameter_prefix: None,
            at_stop: AtStop::default(),
        }
    }

    /// Whether machines differ from build to build.
    pub(super) fn depend_on_the_build(&self) -> bool {
        let texts = [
            &self.launch_template,
            &self.subnet,
            &self.key_pair,
            &self.placement_group,
            &self.tenancy,
            &self.profile,
            &self.user_data,
            &self.elastic_ip,
            &self.master_address,
        ];
        texts.into_iter().chain(self.volumes.values()).chain(self.tags.values()).any(is_computed)
            || self.image.as_ref().is_some_and(is_computed)
            || self.offers.iter().any(is_computed)
            || self.block_devices.iter().any(is_computed)
            || is_computed(&self.security_groups)
            || is_computed(&self.metadata)
    }

    /// Whether a machine may be a spot machine: also a launch template can ask for one.
    pub(super) fn may_be_spot(&self) -> bool {
        self.offers_may_be_spot() || self.launch_template.as_constant().is_none_or(|name| !name.is_empty())
    }

    /// Whether one of the offers may be for a spot machine.
    pub(super) fn offers_may_be_spot(&self) -> bool {
        self.offers.iter().any(|offer| offer.as_constant().is_none_or(Offer::is_spot))
    }

    /// Whether it comes from the build's properties when the provider refuses a launch with this code and these words. Where
    /// they do not tell which setting is wrong, any that is computed may be; what no setting can mend is never the build's.
    pub(super) fn is_of_the_build(&self, code: Option<&str>, message: &str) -> bool {
        // Without a code it is not the provider that has refused.
        let Some(code) = code else { return false };
        if NEVER_OF_THE_BUILD.iter().any(|never| code.starts_with(never)) {
            return false;
        }
        let begins = |words: &[&str]| words.iter().any(|word| code.starts_with(word));
        let offers = || self.offers.iter().any(is_computed);
        let image = || self.image.as_ref().is_some_and(is_computed);
        if begins(&["InvalidAMIID"]) {
            image()
        } else if begins(&["InvalidInstanceType"]) {
            offers()
        } else if begins(&["InvalidKeyPair"]) {
            is_computed(&self.key_pair)
        } else if begins(&["InvalidGroup", "InvalidSecurityGroup"]) {
            is_computed(&self.security_groups)
        } else if begins(&["InvalidSubnet"]) {
            is_computed(&self.subnet) || offers()
        } else if begins(&["InvalidBlockDevice", "InvalidSnapshot"]) {
            image() || self.block_devices.iter().any(is_computed)
        } else if begins(&["InvalidIamInstanceProfile"])
            || (code == "InvalidParameterValue" && message.contains("iamInstanceProfile"))
        {
            is_computed(&self.profile)
        } else if begins(&["InvalidUserData"]) {
            is_computed(&self.user_data)
        } else if begins(&["InvalidVolume"]) {
            self.volumes.values().any(is_computed)
        } else if begins(&["InvalidAllocationID", "InvalidAddress"]) {
            is_computed(&self.elastic_ip)
        } else if begins(&["InvalidLaunchTemplate"]) {
            is_computed(&self.launch_template)
        } else {
            self.depend_on_the_build()
        }
    }

    /// What can be wrong without any build: single constants, and what does not go together.
    pub(super) fn check_constants(&self) -> Result<(), BadSetting> {
        self.look(&Look(None)).map(drop)?;
        let wrong = |setting: &str, reason: &str| Err(BadSetting { setting: setting.into(), reason: reason.into() });
        let template = self.launch_template.as_constant().is_none_or(|name| !name.is_empty());
        if self.image.is_none() && !template {
            return wrong("the image", "there is none: call image, or name a launch template that has one");
        }
        if self.offers.is_empty() && !template {
            return wrong("the offers", "there are none: call offer, or name a launch template that has a type");
        }
        let spot = |offer: &Setting<Offer>| offer.as_constant().is_some_and(Offer::is_spot);
        if self.at_stop != AtStop::Terminate && self.offers.iter().any(spot) {
            return wrong("at_stop", "a spot machine of this driver can be terminated only");
        }
        Ok(())
    }

    pub(super) fn render(&self, properties: &Properties) -> Result<Rendered, BadSetting> {
        let rendered = self.look(&Look(Some(properties)))?;
        if self.at_stop != AtStop::Terminate
            && let Some(offer) = rendered.offers.iter().find(|offer| offer.is_spot())
        {
            let reason = "a spot machine of this driver can be terminated only, and its stop is to keep it".into();
            return Err(BadSetting { setting: format!("the offer {offer}"), reason });
        }
        Ok(rendered)
    }

    fn look(&self, look: &Look<'_>) -> Result<Rendered, BadSetting> {
        let mut tags = BTreeMap::new();
        if self.tags.len() > MOST_TAGS {
            let reason = format!("there are {}; a machine can have {MOST_TAGS} of yours", self.tags.len());
            return Err(BadSetting { setting: "the tags".into(), reason });
        }
        for (key, setting) in &self.tags {
            let what = format!("the tag {key:?}");
            names::tag(key).map_err(|reason| BadSetting { setting: what.clone(), reason })?;
            tags.extend(look.at(&what, setting, names::tag_value)?.map(|value| (key.clone(), value)));
        }
        let mut volumes = BTreeMap::new();
        for (device, setting) in &self.volumes {
            let volume = look.word(&format!("the volume at {device:?}"), setting)?;
            volumes.extend(volume.map(|volume| (device.clone(), volume)));
        }
        let mut offers = Vec::new();
        for setting in &self.offers {
            offers.extend(look.at("an offer", setting, Offer::check)?);
        }
        let mut block_devices = Vec::new();
        for setting in &self.block_devices {
            block_devices.extend(look.at("a block device", setting, block_device)?);
        }
        if let Some(prefix) = &self.parameter_prefix {
            let reason = parameter_prefix(prefix);
            reason.map_err(|reason| BadSetting { setting: "the prefix of parameters".into(), reason })?;
        }
        let in_parameter = self.parameter_prefix.is_some();
        Ok(Rendered {
            image: match &self.image {
                Some(setting) => look.at("the image", setting, Ami::check)?,
                None => None,
            },
            launch_template: look.word("the launch template", &self.launch_template)?,
            offers,
            subnet: look.word("the subnet", &self.subnet)?,
            key_pair: look.at("the key pair", &self.key_pair, |text| Ok(non_empty(text)))?.flatten(),
            security_groups: look
                .at("the security groups", &self.security_groups, |groups| {
                    if groups.iter().any(String::is_empty) { Err("one of them has no name".into()) } else { Ok(groups) }
                })?
                .unwrap_or_default(),
            placement_group: look
                .at("the placement group", &self.placement_group, |text| Ok(non_empty(text)))?
                .flatten(),
            tenancy: look.at("the tenancy", &self.tenancy, tenancy)?.flatten(),
            profile: look.word("the profile", &self.profile)?,
            user_data: look
                .at("the user data", &self.user_data, |text| user_data(text, in_parameter))?
                .unwrap_or_default(),
            block_devices,
            volumes,
            elastic_ip: look.at("the elastic IP", &self.elastic_ip, elastic_ip)?.flatten(),
            tags,
            metadata: look.at("the metadata service", &self.metadata, Ok)?.unwrap_or_default(),
            master_address: look.at("the address of the master", &self.master_address, master_address)?.flatten(),
        })
    }
}

/// Without the user data.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("image", &self.image)
            .field("launch_template", &self.launch_template)
            .field("offers", &self.offers)
            .field("subnet", &self.subnet)
            .field("key_pair", &self.key_pair)
            .field("security_groups", &self.security_groups)
            .field("placement_group", &self.placement_group)
            .field("tenancy", &self.tenancy)
            .field("profile", &self.profile)
            .field("block_devices", &self.block_devices)
            .field("volumes", &self.volumes)
            .field("elastic_ip", &self.elastic_ip)
            .field("tags", &self.tags)
            .field("metadata", &self.metadata)
            .field("master_address", &self.master_address)
            .field("parameter_prefix", &self.parameter_prefix)
            .field("at_stop", &self.at_stop)
            .finish_non_exhaustive()
    }
}

pub(super) fn is_computed<T>(setting: &Setting<T>) -> bool {
    setting.as_constant().is_none()
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// What is one word or nothing: ids and names.
fn word(text: String) -> Result<Option<String>, String> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{text:?} has characters in it that are not to be seen"));
    }
    Ok(non_empty(text))
}

fn tenancy(text: String) -> Result<Option<String>, String> {
    match &*text {
        "" | "default" | "dedicated" | "host" => Ok(non_empty(text)),
        _ => Err(format!("{text:?} is none of default, dedicated, host")),
    }
}

fn elastic_ip(text: String) -> Result<Option<String>, String> {
    if text.is_empty() || text.starts_with("eipalloc-") || text.parse::<Ipv4Addr>().is_ok() {
        return Ok(non_empty(text));
    }
    Err(format!("{text:?} is neither an address nor the id of its allocation, eipalloc-…"))
}

/// Whether an address is one that only the machine of the master can use.
pub(super) fn is_of_one_machine(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

fn master_address(text: String) -> Result<Option<String>, String> {
    match text.rsplit_once(':') {
        _ if text.is_empty() => Ok(None),
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => word(text),
        _ => Err(format!("{text:?} is not host:port")),
    }
}

fn user_data(text: String, in_parameter: bool) -> Result<String, String> {
    let blanks = user_data::blanks(&text)?;
    if in_parameter && blanks.contains(&Blank::Secret) {
        return Err(
            "the secret is in a parameter: use @LATENT_WORKER_SECRET_PARAMETER@, which is that one's name".into()
        );
    }
    if !in_parameter && blanks.contains(&Blank::SecretParameter) {
        return Err("there is no parameter without secret_in_parameter; use @LATENT_WORKER_SECRET@".into());
    }
    // Until the user has filled it in, so that it is known early.
    user_data::encode(&text)?;
    Ok(text)
}

fn block_device(device: BlockDevice) -> Result<BlockDevice, String> {
    if device.device.is_empty() || device.device.contains(char::is_whitespace) {
        return Err(format!("{:?} is no name of a device; write /dev/xvda, say", device.device));
    }
    if device.gibibytes == Some(0) {
        return Err(format!("{} has no size", device.device));
    }
    Ok(device)
}

/// Names of parameters: letters, digits and `.-_` between slashes, at most 15 levels of which two are the driver's (AWS
/// Systems Manager User Guide, "Requirements and constraints for parameter names").
fn parameter_prefix(prefix: &str) -> Result<(), String> {
    let level =
        |level: &str| !level.is_empty() && level.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    let reserved = |level: &str| ["aws", "ssm"].iter().any(|word| level.to_lowercase().starts_with(word));
    match prefix.strip_prefix('/') {
        Some(levels)
            if levels.split('/').all(level)
                && levels.split('/').count() <= 12
                && prefix.len() < 900
                && !levels.split('/').next().is_some_and(reserved) =>
        {
            Ok(())
        }
        _ => Err(format!("{prefix:?} is none: write /latent-worker, say; it cannot begin with aws or ssm")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoxError;

    fn settings() -> Settings {
        let mut settings = Settings::new();
        settings.image = Some(Ami::id("ami-1").into());
        settings.offers = vec![Offer::new("c7i.large").into()];
        settings
    }

    fn properties(list: &[(&str, &str)]) -> Properties {
        list.iter().copied().collect()
    }

    fn template<T: std::str::FromStr<Err: Into<BoxError>>>(text: &str) -> Setting<T> {
        Setting::template(text).unwrap()
    }

    fn refused(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = settings();
        change(&mut settings);
        settings.check_constants().unwrap_err().to_string()
    }

    #[test]
    fn what_makes_no_sense_is_refused_when_it_is_constant() {
        assert!(settings().check_constants().is_ok());
        assert!(refused(|settings| settings.image = None).starts_with("the image: there is none"));
        assert!(refused(|settings| settings.image = Some(Ami::id("x").into())).starts_with("the image: \"x\""));
        assert!(refused(|settings| settings.offers.clear()).starts_with("the offers: there are none"));
        assert!(refused(|settings| settings.offers.push(Offer::new("").into())).starts_with("an offer"));
        assert!(refused(|settings| settings.subnet = "a b".into()).starts_with("the subnet"));
        assert!(refused(|settings| settings.tenancy = "mine".into()).contains("none of default"));
        assert!(refused(|settings| settings.elastic_ip = "x".into()).contains("eipalloc-"));
        assert!(refused(|settings| settings.master_address = "host".into()).contains("not host:port"));
        assert!(refused(|settings| settings.security_groups = [""].into()).contains("no name"));
        let device = BlockDevice::new("/dev/xvda").size(0);
        assert!(refused(|settings| settings.block_devices.push(device.into())).contains("no size"));
        assert!(refused(|settings| settings.block_devices.push(BlockDevice::new("").into())).contains("no name of"));
        let data = "@LATENT_WORKER_SECRET_PARAMETER@";
        assert!(refused(|settings| settings.user_data = data.into()).contains("secret_in_parameter"));
        assert!(refused(|settings| settings.user_data = "@LATENT_WORKER_X@".into()).contains("unknown"));
        let error = refused(|settings| {
            settings.parameter_prefix = Some("/a".into());
            settings.user_data = "@LATENT_WORKER_SECRET@".into();
        });
        assert!(error.contains("in a parameter"), "{error}");
        for prefix in ["", "a", "/", "/a//b", "/a b", "/aws/x", "/SSMx"] {
            assert!(refused(|settings| settings.parameter_prefix = Some(prefix.into())).contains("prefix"), "{prefix}");
        }
        for key in ["", "aws:x", "latent-worker.owner"] {
            assert!(refused(|settings| _ = settings.tags.insert(key.into(), "x".into())).starts_with("the tag"));
        }
        let many = |settings: &mut Settings| {
            (0..46).for_each(|number| _ = settings.tags.insert(format!("t{number}"), "x".into()));
        };
        assert!(refused(many).contains("there are 46"));
        for keeps in [AtStop::Stop, AtStop::Hibernate] {
            let error = refused(|settings| {
                settings.at_stop = keeps;
                settings.offers.push(Offer::new("a").spot().into());
            });
            assert!(error.starts_with("at_stop"), "{error}");
        }
    }

    #[test]
    fn a_launch_template_stands_for_image_and_type() {
        let mut settings = Settings::new();
        settings.launch_template = "lt-1:3".into();
        settings.check_constants().unwrap();
        let rendered = settings.render(&Properties::new()).ok().unwrap();
        assert_eq!((rendered.launch_template.as_deref(), rendered.offers.len()), (Some("lt-1:3"), 0));
    }

    #[test]
    fn an_offer_and_a_launch_template_may_be_for_a_spot_machine() {
        let may = |change: fn(&mut Settings)| {
            let mut settings = settings();
            change(&mut settings);
            (settings.may_be_spot(), settings.offers_may_be_spot())
        };
        assert_eq!(may(|_| {}), (false, false));
        assert_eq!(may(|settings| settings.offers.push(Offer::new("a").spot().into())), (true, true));
        assert_eq!(may(|settings| settings.offers.push(template("{type}"))), (true, true));
        assert_eq!(may(|settings| settings.launch_template = "a-template".into()), (true, false));
        assert_eq!(may(|settings| settings.launch_template = template("{template}")), (true, false));
    }

    #[test]
    fn what_is_computed_is_checked_when_it_is_known() {
        let mut settings = settings();
        settings.image = Some(template("{image}"));
        settings.offers = vec![template("{type:-c7i.large}")];
        settings.check_constants().unwrap();
        let error = |list: &[(&str, &str)]| settings.render(&properties(list)).err().unwrap().to_string();
        assert!(error(&[]).contains("no property \"image\""));
        assert!(error(&[("image", "x")]).starts_with("the image: \"x\""), "{}", error(&[("image", "x")]));
        assert!(error(&[("image", "ami-1"), ("type", "a b")]).starts_with("an offer"));
        let mut keeping = settings.clone();
        keeping.at_stop = AtStop::Stop;
        let spot = properties(&[("image", "ami-1"), ("type", "a:spot")]);
        assert!(keeping.render(&spot).err().unwrap().to_string().contains("terminated only"));
        assert!(settings.render(&spot).is_ok());
    }

    #[test]
    fn w11_a_machine_fits_exactly_the_builds_for_which_the_settings_come_out_equal() {
        let mut settings = settings();
        settings.image = Some(template("{image:-ami-1}"));
        settings.offers = vec![template("{type:-c7i.large}")];
        settings.user_data = template("echo {word:-x}");
        settings.tags.insert("team".into(), template("{team:-a}"));
        let of = |list: &[(&str, &str)]| settings.render(&properties(list)).ok().unwrap();
        let running = of(&[]);
        assert!(running == of(&[("image", "ami-1"), ("type", "c7i.large"), ("word", "x"), ("unused", "y")]));
        for other in [("image", "ami-2"), ("type", "m7i.large"), ("word", "y"), ("team", "b")] {
            assert!(running != of(&[other]), "{other:?}");
        }
    }

    #[test]
    fn settings_that_are_equal_have_the_same_fingerprint_and_others_another() {
        let of = |change: &dyn Fn(&mut Settings)| {
            let mut settings = settings();
            change(&mut settings);
            settings.render(&Properties::new()).ok().unwrap().fingerprint()
        };
        let plain = of(&|_| {});
        assert_eq!(plain, of(&|_| {}));
        assert!(plain.len() == 32 && plain.chars().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(plain, of(&|settings| settings.user_data = "x".into()));
        assert_ne!(plain, of(&|settings| settings.image = Some(Ami::id("ami-2").into())));
        assert_ne!(plain, of(&|settings| _ = settings.tags.insert("a".into(), "b".into())));
    }

    #[test]
    fn every_setting_that_is_computed_makes_builds_differ() {
        let dependent = |change: &dyn Fn(&mut Settings)| {
            let mut settings = settings();
            assert!(!settings.depend_on_the_build());
            change(&mut settings);
            settings.depend_on_the_build()
        };
        assert!(dependent(&|settings| settings.image = Some(template("{a}"))));
        assert!(dependent(&|settings| settings.offers.push(template("{a}"))));
        assert!(dependent(&|settings| settings.launch_template = template("{a}")));
        assert!(dependent(&|settings| settings.subnet = template("{a}")));
        assert!(dependent(&|settings| settings.key_pair = template("{a}")));
        assert!(dependent(&|settings| settings.security_groups = ["a".into(), template("{a}")].into()));
        assert!(dependent(&|settings| settings.placement_group = template("{a}")));
        assert!(dependent(&|settings| settings.tenancy = template("{a}")));
        assert!(dependent(&|settings| settings.profile = template("{a}")));
        assert!(dependent(&|settings| settings.user_data = template("{a}")));
        assert!(dependent(&|settings| settings.block_devices.push(Setting::computed(|_| Err("no".into())))));
        assert!(dependent(&|settings| _ = settings.volumes.insert("a".into(), template("{a}"))));
        assert!(dependent(&|settings| settings.elastic_ip = template("{a}")));
        assert!(dependent(&|settings| _ = settings.tags.insert("a".into(), template("{a}"))));
        assert!(dependent(&|settings| settings.metadata = Setting::computed(|_| Err("no".into()))));
        assert!(dependent(&|settings| settings.master_address = template("{a}")));
    }

    #[test]
    fn b3_a_refusal_is_the_builds_fault_when_its_properties_have_made_what_is_refused() {
        let mut settings = settings();
        let codes =
            ["InvalidAMIID.NotFound", "InvalidInstanceType.NotFound", "InvalidParameterValue", "InvalidGroup.NotFound"];
        let of = |settings: &Settings, code: &str| settings.is_of_the_build(Some(code), "words");
        let blamed = |settings: &Settings| codes.map(|code| of(settings, code));
        assert_eq!(blamed(&settings), [false; 4]);
        settings.image = Some(template("{image}"));
        assert_eq!(blamed(&settings), [true, false, true, false]);
        settings.security_groups = Setting::computed(|_| Ok(vec![]));
        assert_eq!(blamed(&settings), [true, false, true, true]);
        settings.offers = vec![template("{type}")];
        assert_eq!(blamed(&settings), [true; 4]);
    }

    #[test]
    fn b3_what_is_wrong_with_the_farm_is_never_the_builds_fault() {
        let mut farm = settings();
        farm.tags.insert("why".into(), template("{why}"));
        let of = |settings: &Settings, code: &str, words: &str| settings.is_of_the_build(Some(code), words);
        assert!(of(&farm, "InvalidParameterValue", "words"), "nobody knows of which setting");
        assert!(!farm.is_of_the_build(None, "nobody says which region"), "the provider has refused nothing");
        for code in [
            "VolumeInUse",
            "InvalidInstanceID.NotFound",
            "InvalidInstanceID.Malformed",
            "VPCIdNotSpecified",
            "Gateway.NotAttached",
            "OperationNotPermitted",
        ] {
            assert!(!of(&farm, code, "words"), "{code}");
        }
        let no_profile =
            "Value (x) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name";
        type Compute = fn(&mut Settings);
        let computed: [(&str, &str, &[Compute]); 6] = [
            (
                "InvalidBlockDeviceMapping",
                "",
                &[
                    |settings| settings.block_devices.push(Setting::computed(|_| Err("no".into()))),
                    |settings| settings.image = Some(template("{image}")),
                ],
            ),
            (
                "InvalidSnapshot.NotFound",
                "",
                &[
                    |settings| settings.block_devices.push(Setting::computed(|_| Err("no".into()))),
                    |settings| settings.image = Some(template("{image}")),
                ],
            ),
            ("InvalidIamInstanceProfileArn.Malformed", "", &[|settings| settings.profile = template("{profile}")]),
            ("InvalidParameterValue", no_profile, &[|settings| settings.profile = template("{profile}")]),
            ("InvalidAddress.NotFound", "", &[|settings| settings.elastic_ip = template("{address}")]),
            ("InvalidSubnetID.NotFound", "", &[|settings| settings.subnet = template("{subnet}")]),
        ];
        for (code, words, changes) in computed {
            assert!(!of(&farm, code, words), "{code}");
            for change in changes {
                let mut chosen = farm.clone();
                change(&mut chosen);
                assert!(of(&chosen, code, words), "{code}");
            }
        }
    }

    #[test]
    fn addresses_of_one_machine_are_known() {
        for of_one in ["127.0.0.1:1", "localhost:1", "[::1]:1", "0.0.0.0:1", "[::]:1"] {
            assert!(is_of_one_machine(of_one), "{of_one}");
        }
        for other in ["10.0.0.1:1", "master:1", "[2001:db8::1]:1"] {
            assert!(!is_of_one_machine(other), "{other}");
        }
    }

    #[test]
    fn user_data_is_not_in_debug() {
        let mut settings = settings();
        settings.user_data = "hush".into();
        assert!(!format!("{settings:?}").contains("hush"));
    }
}
