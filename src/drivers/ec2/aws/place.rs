//! Where the provider is asked: the region, and the address of each service in it.
//!
//! What the environment says is given.

use ureq::http::Uri;

use super::surroundings::Surroundings;

/// A service of the provider, by the name that signatures have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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
    ///
    /// # Errors
    /// When what is set is none.
    pub(super) fn endpoint(
        &self,
        service: Service,
        explicit: Option<&Endpoint>,
        around: &dyn Surroundings,
    ) -> Result<Endpoint, String> {
        if let Some(explicit) = explicit {
            return Ok(explicit.clone());
        }
        let of_service = format!("AWS_ENDPOINT_URL_{}", service.name().to_uppercase());
        for variable in [of_service.as_str(), "AWS_ENDPOINT_URL"] {
            if let Some(set) = around.variable(variable) {
                return Endpoint::parse(&set).map_err(|why| format!("{variable}: {why}"));
            }
        }
        Endpoint::parse(&format!("https://{}.{}.{}", service.name(), self.0, self.suffix()))
    }

    /// By partition ("Partitions" of the AWS SDKs and Tools Reference Guide).
    fn suffix(&self) -> &'static str {
        match &self.0 {
            region if region.starts_with("cn-") => "amazonaws.com.cn",
            region if region.starts_with("us-isob-") => "sc2s.sgov.gov",
            region if region.starts_with("us-iso-") => "c2s.ic.gov",
            region if region.starts_with("us-isof-") => "csp.hci.ic.gov",
            region if region.starts_with("eu-isoe-") => "cloud.adc-e.uk",
            region if region.starts_with("eusc-") => "amazonaws.eu",
            _ => "amazonaws.com",
        }
    }
}

/// The address of a service. Without TLS only where somebody has written `http:`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    pub(super) uri: String,
    /// With its port, if one is said: what is signed.
    pub(super) host: String,
}

impl Endpoint {
    /// Of `https://host[:port]`. There is nothing behind it, because what is signed is a request for `/`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        // Before an @ there may be a password.
        let shown = text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("…@{rest}"));
        let none = || format!("{shown:?} is no address of a service; write https://host[:port]");
        let uri: Uri = text.parse().map_err(|_| none())?;
        let (Some(scheme @ ("https" | "http")), Some(host)) = (uri.scheme_str(), uri.authority()) else {
            return Err(none());
        };
        if uri.path() != "/" || uri.query().is_some() || host.as_str().contains('@') {
            return Err(none());
        }
        Ok(Self { uri: format!("{scheme}://{host}/"), host: host.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::support::Around;
    use super::*;

    fn region(name: &str) -> Region {
        Region(name.into())
    }

    #[test]
    fn a_service_is_in_the_regions_partition_unless_it_is_said_where() {
        let none = Around::default();
        let own = |name: &str, service| region(name).endpoint(service, None, &none).unwrap().uri;
        assert_eq!(own("eu-central-1", Service::Ec2), "https://ec2.eu-central-1.amazonaws.com/");
        assert_eq!(own("cn-north-1", Service::Sts), "https://sts.cn-north-1.amazonaws.com.cn/");
        for (name, suffix) in [
            ("us-iso-east-1", "c2s.ic.gov"),
            ("us-isob-east-1", "sc2s.sgov.gov"),
            ("us-isof-south-1", "csp.hci.ic.gov"),
            ("eu-isoe-west-1", "cloud.adc-e.uk"),
            ("eusc-de-east-1", "amazonaws.eu"),
        ] {
            assert_eq!(own(name, Service::Ec2), format!("https://ec2.{name}.{suffix}/"));
        }
        assert_eq!(own("us-gov-west-1", Service::Ssm), "https://ssm.us-gov-west-1.amazonaws.com/");
        let around = Around::default()
            .variable("AWS_ENDPOINT_URL", "http://all/")
            .variable("AWS_ENDPOINT_URL_EC2", "http://one:1");
        let set = |service, explicit| region("x").endpoint(service, explicit, &around).unwrap().uri;
        assert_eq!(set(Service::Ec2, None), "http://one:1/");
        assert_eq!(set(Service::Sts, None), "http://all/");
        assert_eq!(set(Service::Sts, Some(&Endpoint::parse("http://mine").unwrap())), "http://mine/");
        let around = Around::default().variable("AWS_ENDPOINT_URL", "nonsense");
        let error = region("x").endpoint(Service::Ec2, None, &around).unwrap_err();
        assert!(error.contains("AWS_ENDPOINT_URL") && error.contains("nonsense"), "{error}");
    }

    #[test]
    fn an_address_is_a_scheme_and_a_host() {
        assert_eq!(Endpoint::parse("https://one:1/").unwrap().host, "one:1");
        assert_eq!(Endpoint::parse("http://[::1]:80").unwrap().host, "[::1]:80");
        for bad in ["", "one", "one:1", "ftp://one", "https://", "http://a/b", "http://a/?b", "http://user:pass@a"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
        for bad in ["http://user:hush@one", "user:hush@one", "http://user:hu@sh@one/ x"] {
            let error = Endpoint::parse(bad).unwrap_err();
            assert!(error.contains("@one") && !error.contains("user") && !error.contains("sh@"), "{error}");
        }
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
