//! Where the provider is asked: the region, and the address of each service in it.
//!
//! What the environment says is given.

use std::net::IpAddr;

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

/// A region: letters, digits and hyphens, so that it can be a part of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Region(pub(super) String);

impl Region {
    /// Creates a region from a name that was parsed before.
    pub(super) fn of(known: &str) -> Self {
        Self(known.into())
    }

    /// Parses a region. The error contains `origin`, and not the value.
    pub(super) fn parse(name: &str, origin: &str) -> Result<Self, String> {
        let plain = name.chars().all(|character| character.is_ascii_alphanumeric() || character == '-');
        if plain && !name.is_empty() {
            Ok(Self(name.into()))
        } else {
            Err(format!("invalid region in {origin}: use letters, digits and hyphens, such as eu-central-1"))
        }
    }

    /// What the settings, the environment or the profile say; a machine of the provider's can ask where it is otherwise.
    pub(super) fn known(
        explicit: Option<&str>,
        profile: Option<&str>,
        around: &dyn Surroundings,
    ) -> Result<Option<Self>, String> {
        if let Some(explicit) = explicit {
            return Self::parse(explicit, "the setting `region`").map(Some);
        }
        for variable in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
            if let Some(region) = around.variable(variable)? {
                return Self::parse(&region, variable).map(Some);
            }
        }
        let of_profile = around.setting(profile, "region")?;
        of_profile.map(|(profile, region)| Self::parse(&region, &format!("the profile {profile:?}"))).transpose()
    }

    /// The address of a service: the one that is set, or the provider's own.
    ///
    /// # Errors
    /// When what is set is none.
    pub(super) fn endpoint(
        &self,
        service: Service,
        explicit: Option<&Endpoint>,
        profile: Option<&str>,
        around: &dyn Surroundings,
    ) -> Result<Endpoint, String> {
        if let Some(explicit) = explicit {
            return Ok(explicit.clone());
        }
        let of_service = format!("AWS_ENDPOINT_URL_{}", service.name().to_uppercase());
        for variable in [of_service.as_str(), "AWS_ENDPOINT_URL"] {
            if let Some(set) = around.word(variable)? {
                return Endpoint::parse(&set).map_err(|why| format!("{variable}: {why}"));
            }
        }
        if let Some((profile, set)) = around.setting(profile, "endpoint_url")? {
            return Endpoint::parse(&set).map_err(|why| format!("endpoint_url of the profile {profile:?}: {why}"));
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
        // The error does not contain the text: there may be a password in it.
        let none = || "invalid address of a service: use https://host[:port]".to_owned();
        let uri: Uri = text.parse().map_err(|_| none())?;
        let (Some(scheme @ ("https" | "http")), Some(host)) = (uri.scheme_str(), uri.authority()) else {
            return Err(none());
        };
        if uri.path() != "/" || uri.query().is_some() || host.as_str().contains('@') {
            return Err(none());
        }
        Ok(Self { uri: format!("{scheme}://{host}/"), host: host.to_string() })
    }

    /// Checks that a token may be sent to this address: with TLS, or to this machine.
    pub(super) fn takes_tokens(&self) -> Result<(), String> {
        let uri: Uri = self.uri.parse().map_err(|_| "the address is invalid")?;
        if uri.scheme_str() == Some("https") || uri.host().is_some_and(is_this_machine) {
            return Ok(());
        }
        let host = &self.host;
        Err(format!("credentials with a token are not sent to {host} without TLS: use https:// in its address"))
    }
}

/// Returns whether the host of an address is this machine.
pub(super) fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
        let own = |name: &str, service| region(name).endpoint(service, None, None, &none).unwrap().uri;
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
        let set = |service, explicit| region("x").endpoint(service, explicit, None, &around).unwrap().uri;
        assert_eq!(set(Service::Ec2, None), "http://one:1/");
        assert_eq!(set(Service::Sts, None), "http://all/");
        assert_eq!(set(Service::Sts, Some(&Endpoint::parse("http://mine").unwrap())), "http://mine/");
        let around = Around::default().variable("AWS_ENDPOINT_URL", "nonsense");
        let error = region("x").endpoint(Service::Ec2, None, None, &around).unwrap_err();
        assert!(error.contains("AWS_ENDPOINT_URL") && !error.contains("nonsense"), "{error}");
    }

    /// The keys of a profile may be valid for its own address only.
    #[test]
    fn a_profile_may_say_where_its_services_are() {
        let config = "[default]\nregion=x\n[profile p]\nendpoint_url = http://mine:1 # ours";
        let around = Around::default().variable("HOME", "/h").file("/h/.aws/config", config);
        let found = |profile| region("x").endpoint(Service::Ec2, None, profile, &around).unwrap().uri;
        assert_eq!(found(Some("p")), "http://mine:1/");
        assert_eq!(found(None), "https://ec2.x.amazonaws.com/");
    }

    #[test]
    fn a1_a_token_is_sent_with_tls_or_to_this_machine_only() {
        for good in ["https://h", "http://localhost:1", "http://127.0.0.1:5000", "http://[::1]:1"] {
            Endpoint::parse(good).unwrap().takes_tokens().unwrap();
        }
        for bad in ["http://h", "http://10.0.0.1:5000", "http://localhost.example.org", "http://127.0.0.1.example.org"]
        {
            assert!(Endpoint::parse(bad).unwrap().takes_tokens().unwrap_err().contains("without TLS"), "{bad}");
        }
    }

    #[test]
    fn an_address_is_a_scheme_and_a_host() {
        assert_eq!(Endpoint::parse("https://one:1/").unwrap().host, "one:1");
        assert_eq!(Endpoint::parse("http://[::1]:80").unwrap().host, "[::1]:80");
        for bad in ["", "one", "one:1", "ftp://one", "https://", "http://a/b", "http://a/?b", "http://user:pass@a"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
        for bad in ["ftp://user:hush@one", "user:hush@one", "http://user:hu@sh@one/ x"] {
            let error = Endpoint::parse(bad).unwrap_err();
            crate::secrecy::assert_reveals_nothing(&error, bad.as_bytes());
        }
    }

    #[test]
    fn the_region_is_the_first_that_is_named() {
        let config = "[default]\nregion=of-default\n[profile p]\nregion=of-p";
        let around = Around::default().variable("HOME", "/h").file("/h/.aws/config", config);
        let known = |explicit, profile, around: &Around| {
            Region::known(explicit, profile, around).unwrap().map(|region| region.0)
        };
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
        for bad in ["eu/../x", "", "eu-1\n", "eu-1.evil.example"] {
            let error = Region::parse(bad, "AWS_REGION").unwrap_err();
            assert!(error.contains("AWS_REGION") && !error.contains("evil"), "{error}");
        }
        // The region of the machine is not used instead.
        let broken = Around::default().variable("HOME", "/h").file("/h/.aws/config", "region = x");
        let error = Region::known(None, None, &broken).unwrap_err();
        assert!(error.contains("/h/.aws/config, line 1"), "{error}");
    }
}
