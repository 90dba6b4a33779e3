//! Where the provider is asked: the region, and the address of each service in it.
//!
//! Pure, but for what the environment says, which is given.

use super::surroundings::Surroundings;

/// A service of the provider, by the name that signatures have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Service {
    Ec2,
    Sts,
    Ssm,
}

impl Service {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Sts => "sts",
            Self::Ssm => "ssm",
        }
    }

    /// Of the query API.
    pub(super) fn version(self) -> &'static str {
        match self {
            Self::Sts => "2011-06-15",
            _ => "2016-11-15",
        }
    }
}

/// A region, and where its services are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Region(pub(super) String);

impl Region {
    /// What the settings, the environment or the profile say; a machine of the provider's can ask where it is otherwise.
    pub(super) fn known(explicit: Option<&str>, profile: Option<&str>, around: &dyn Surroundings) -> Option<Self> {
        let of_profile = || {
            let profile = profile.map_or_else(|| around.profile(), str::to_owned);
            around.profiles().ok()?.get(&profile, "region").map(str::to_owned)
        };
        let named = explicit.map(str::to_owned);
        let named = named.or_else(|| around.variable("AWS_REGION")).or_else(|| around.variable("AWS_DEFAULT_REGION"));
        named.or_else(of_profile).map(Self)
    }

    /// What can be part of an address: letters, digits and hyphens.
    pub(super) fn check(self) -> Result<Self, String> {
        let plain = self.0.chars().all(|character| character.is_ascii_alphanumeric() || character == '-');
        if plain && !self.0.is_empty() {
            Ok(self)
        } else {
            Err(format!("{:?} is no region; write eu-central-1, say", self.0))
        }
    }

    /// The address of a service: the one that is set, or the provider's own.
    pub(super) fn endpoint(&self, service: Service, explicit: Option<&str>, around: &dyn Surroundings) -> String {
        let variable = format!("AWS_ENDPOINT_URL_{}", service.name().to_uppercase());
        let set = explicit.map(str::to_owned);
        let set = set.or_else(|| around.variable(&variable)).or_else(|| around.variable("AWS_ENDPOINT_URL"));
        let own = || format!("https://{}.{}.{}", service.name(), self.0, self.suffix());
        set.map_or_else(own, |set| set.trim_end_matches('/').to_owned())
    }

    /// By partition ("Partitions" of the AWS SDKs and Tools Reference Guide).
    fn suffix(&self) -> &'static str {
        match &self.0 {
            region if region.starts_with("cn-") => "amazonaws.com.cn",
            region if region.starts_with("us-isob-") => "sc2s.sgov.gov",
            region if region.starts_with("us-iso-") => "c2s.ic.gov",
            region if region.starts_with("eusc-") => "amazonaws.eu",
            _ => "amazonaws.com",
        }
    }
}

/// The host of an address, with its port: what is signed.
pub(super) fn host_of(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Around;
    use super::*;

    fn region(name: &str) -> Region {
        Region(name.into())
    }

    #[test]
    fn a_service_is_in_the_regions_partition_unless_it_is_said_where() {
        let none = Around::default();
        let own = |name: &str, service| region(name).endpoint(service, None, &none);
        assert_eq!(own("eu-central-1", Service::Ec2), "https://ec2.eu-central-1.amazonaws.com");
        assert_eq!(own("cn-north-1", Service::Sts), "https://sts.cn-north-1.amazonaws.com.cn");
        assert_eq!(own("us-gov-west-1", Service::Ssm), "https://ssm.us-gov-west-1.amazonaws.com");
        let around = Around::default()
            .variable("AWS_ENDPOINT_URL", "http://all/")
            .variable("AWS_ENDPOINT_URL_EC2", "http://one:1");
        let set = |service, explicit| region("x").endpoint(service, explicit, &around);
        assert_eq!(set(Service::Ec2, None), "http://one:1");
        assert_eq!(set(Service::Sts, None), "http://all");
        assert_eq!(set(Service::Sts, Some("http://mine")), "http://mine");
        assert_eq!(host_of("http://one:1/path"), "one:1");
    }

    #[test]
    fn the_region_is_the_first_that_is_named() {
        let config = "[default]\nregion=of-default\n[profile p]\nregion=of-p";
        let around = Around::default().variable("HOME", "/h").file("/h/.aws/config", config);
        let known =
            |explicit, profile, around: &Around| Region::known(explicit, profile, around).map(|region| region.0);
        assert_eq!(known(None, None, &around).as_deref(), Some("of-default"));
        assert_eq!(known(None, Some("p"), &around).as_deref(), Some("of-p"));
        let around = around.variable("AWS_PROFILE", "p");
        assert_eq!(known(None, None, &around).as_deref(), Some("of-p"));
        let around = around.variable("AWS_DEFAULT_REGION", "second");
        assert_eq!(known(None, None, &around).as_deref(), Some("second"));
        let around = around.variable("AWS_REGION", "first");
        assert_eq!(known(None, None, &around).as_deref(), Some("first"));
        assert_eq!(known(Some("mine"), None, &around).as_deref(), Some("mine"));
        assert_eq!(known(None, None, &Around::default()), None);
        assert!(region("eu/../x").check().is_err() && region("").check().is_err() && region("eu-1").check().is_ok());
    }
}
