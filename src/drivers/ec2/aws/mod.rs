//! A client of the provider's APIs, as far as a driver of machines needs them: EC2 and STS (query APIs), Systems Manager (JSON).
//!
//! It signs, keeps the pace, tries again, and says what an error means. What is asked, and what an answer means for a machine, is
//! the driver's. Every call blocks on the thread that makes it until it is answered, its [`Patience`] ends, or it is cancelled.

mod credentials;
mod element;
mod error;
mod http;
mod ini;
mod pace;
mod paces;
mod patience;
mod place;
mod profile;
mod query;
mod request;
mod sign;
mod skew;
mod surroundings;
#[cfg(test)]
mod tests;
mod time;
mod tries;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ureq::http::Method;

use self::credentials::{Cache, Metadata, Sources, region_of_machine};
use self::http::{Answer, Asking, Http, Wire};
use self::pace::Kind;
use self::paces::Paces;
use self::place::{Endpoint, Region, Service};
use self::request::{FORM, date_of, signed, understood};
use self::skew::Skew;
use self::surroundings::{Surroundings, System};
use self::time::Timestamp;
use crate::drivers::given::check_text;

pub use self::credentials::AwsCredentials;
pub(super) use self::element::Element;
pub(super) use self::error::{AwsError, Class};
pub(super) use self::patience::Patience;
pub(super) use self::query::{Query, Repeat};

/// What the user has said of the provider.
#[derive(Clone, Debug, Default)]
pub(super) struct AwsSettings {
    /// `eu-central-1`, say. None: what the environment, the profile or the machine say.
    pub(super) region: Option<String>,
    /// For all services, `https://host[:port]`. None: what the environment says, or the provider's own.
    pub(super) endpoint: Option<String>,
    /// None: what is found, in the usual order.
    pub(super) credentials: Option<AwsCredentials>,
    /// None: that of `AWS_PROFILE`, or `default`.
    pub(super) profile: Option<String>,
}

impl AwsSettings {
    /// The same for those who ask the same account at the same place.
    pub(super) fn scope(&self) -> String {
        let Self { region, endpoint, credentials, profile } = self;
        format!("{region:?} {endpoint:?} {:?} {profile:?}", credentials.as_ref().map(|known| &known.identity))
    }
}

/// The provider. Cheap to clone; usable from many threads.
#[derive(Clone)]
pub(super) struct AwsClient {
    shared: Arc<Shared>,
}

struct Shared {
    settings: AwsSettings,
    /// That of the settings.
    endpoint: Option<Endpoint>,
    around: Box<dyn Surroundings>,
    provider: Box<dyn Wire>,
    metadata: Box<dyn Wire>,
    /// Known after the first call.
    region: Mutex<Option<Region>>,
    /// The same, of each service.
    endpoints: Mutex<HashMap<Service, Endpoint>>,
    cache: Cache,
    paces: Paces,
    skew: Skew,
}

/// One call: what is sent, and how it may be.
struct Call<'a> {
    service: Service,
    action: &'a str,
    repeat: Repeat,
    headers: Vec<(&'static str, String)>,
    body: &'a [u8],
}

/// Why one request has failed.
struct Failure {
    error: AwsError,
    /// The credentials or the clock may have been why, and they are others now.
    is_mended: bool,
}

impl From<AwsError> for Failure {
    fn from(error: AwsError) -> Self {
        Self { error, is_mended: false }
    }
}

impl AwsClient {
    /// Does not call anybody yet.
    ///
    /// # Errors
    /// Returns an error if a setting is invalid, if the environment names a proxy that is invalid, or if the certificates that
    /// `AWS_CA_BUNDLE` names cannot be read.
    pub(super) fn new(settings: AwsSettings) -> Result<Self, String> {
        let around: &dyn Surroundings = &System;
        around.check_proxies()?;
        let roots = around.roots()?;
        let (provider, metadata) = (Http::to_provider(roots.clone()), Http::to_metadata(roots));
        Self::with(settings, Box::new(System), Box::new(provider), Box::new(metadata))
    }

    fn with(
        settings: AwsSettings,
        around: Box<dyn Surroundings>,
        provider: Box<dyn Wire>,
        metadata: Box<dyn Wire>,
    ) -> Result<Self, String> {
        if let Some(region) = &settings.region {
            Region::parse(region, "the setting `region`")?;
        }
        let endpoint = settings.endpoint.as_deref().map(Endpoint::parse).transpose();
        let endpoint = endpoint.map_err(|why| format!("the setting `endpoint`: {why}"))?;
        if let Some(profile) = &settings.profile {
            check_text(profile).map_err(|problem| format!("the setting `aws_profile` {problem}"))?;
        }
        if let Some(credentials) = &settings.credentials {
            credentials.check()?;
        }
        let (region, endpoints, cache, paces, skew) = Default::default();
        let shared = Shared { settings, endpoint, around, provider, metadata, region, endpoints, cache, paces, skew };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Asks EC2.
    ///
    /// # Errors
    /// When there is no good answer, as often as it makes sense to ask and as long as `patience` lasts.
    pub(super) fn ec2(&self, query: &Query, patience: &Patience<'_>) -> Result<Element, AwsError> {
        self.query(Service::Ec2, query, patience)
    }

    /// Asks Systems Manager: `GetParameter`, say, with a body of JSON; see [`ec2`](Self::ec2).
    pub(super) fn ssm(
        &self,
        action: &'static str,
        repeat: Repeat,
        body: &serde_json::Value,
        patience: &Patience<'_>,
    ) -> Result<serde_json::Value, AwsError> {
        let headers = vec![
            ("content-type", "application/x-amz-json-1.1".to_owned()),
            ("x-amz-target", format!("AmazonSSM.{action}")),
        ];
        let body = body.to_string();
        let call = Call { service: Service::Ssm, action, repeat, headers, body: body.as_bytes() };
        let answer = self.call(call, patience)?;
        // Without the answer, in which there may be a secret.
        serde_json::from_str(&answer.body).map_err(|_| malformed(action, "it is no JSON"))
    }

    /// The region that is asked. Blocks only when nobody has said it, and the machine's own is asked for.
    pub(super) fn region(&self, patience: &Patience<'_>) -> Result<String, AwsError> {
        const DOING: &str = "find the region";
        let shared = &*self.shared;
        if let Some(region) = shared.region.lock().clone() {
            return Ok(region.0);
        }
        let AwsSettings { region, profile, .. } = &shared.settings;
        let invalid = |why| AwsError::new(Class::BadParameter, DOING, why);
        let known = Region::known(region.as_deref(), profile.as_deref(), &*shared.around).map_err(invalid)?;
        let found = match known {
            Some(region) => region,
            None => match region_of_machine(&self.metadata(patience))? {
                Some(region) => Region::parse(&region, "the metadata service").map_err(invalid)?,
                None => {
                    let what = "no region is set: use the setting `region`, AWS_REGION, or `region` of the profile";
                    return Err(invalid(what.into()));
                }
            },
        };
        *shared.region.lock() = Some(found.clone());
        Ok(found.0)
    }

    /// The point in time so long ago, by the provider's clock, as EC2 has it in its parameters.
    pub(super) fn time_ago(&self, ago: Duration, patience: &Patience<'_>) -> String {
        let now = self.shared.skew.corrected(patience.wall());
        Timestamp(now.0.saturating_sub_unsigned(ago.as_secs())).iso8601()
    }

    fn query(&self, service: Service, query: &Query, patience: &Patience<'_>) -> Result<Element, AwsError> {
        let body = query.body(service.version());
        let headers = vec![("content-type", FORM.to_owned())];
        let (action, repeat) = (query.action(), query.repeat());
        let answer = self.call(Call { service, action, repeat, headers, body: body.as_bytes() }, patience)?;
        Element::parse(&answer.body).map_err(|why| malformed(action, &why))
    }

    /// Until it is answered well, or asking again is of no use.
    fn call(&self, call: Call<'_>, patience: &Patience<'_>) -> Result<Answer, AwsError> {
        let mut failures = 0;
        let mut mended = false;
        let mut unknown = false;
        loop {
            patience.left(call.action).map_err(|end| end.or_unknown(unknown))?;
            let error = match self.once(&call, patience) {
                Ok(answer) => return Ok(answer),
                Err(Failure { error, is_mended: true }) if !mended => {
                    mended = true;
                    log::debug!("asked again: {error}");
                    continue;
                }
                Err(Failure { error, .. }) => error,
            };
            failures += 1;
            // What is asked again harmlessly, and then decided, is known: the first would have been decided the same way.
            let settled = call.repeat == Repeat::Harmless && error.is_decided();
            unknown = !settled && (unknown || error.outcome_unknown());
            let Some(pause) = tries::pause(&error, call.repeat, failures, patience.chance()) else {
                return Err(error.or_unknown(unknown));
            };
            log::debug!("asked again in {pause:.1?}: {error}");
            if let Err(end) = patience.wait(pause, call.action) {
                // Why it had to wait says more than that there is no time to.
                return Err(if end.class() == Class::Cancelled { end } else { error }.or_unknown(unknown));
            }
        }
    }

    /// Once.
    fn once(&self, call: &Call<'_>, patience: &Patience<'_>) -> Result<Answer, Failure> {
        let shared = &*self.shared;
        let region = self.region(patience)?;
        let endpoint = self.endpoint(call.service, &region)?;
        let identity = self.credentials(&region, patience)?.identity;

        let kind = Kind::of(call.action);
        let pace = shared.paces.of(call.service, [&endpoint.uri, &region, &identity], patience.now());
        pace.wait(kind, call.action, patience)?;

        // Those that there were may not have lasted until its turn.
        let credentials = self.credentials(&region, patience)?;
        if credentials.session_token.is_some() {
            endpoint.takes_tokens().map_err(|why| AwsError::new(Class::BadParameter, call.action, why))?;
        }
        let now = shared.skew.corrected(patience.wall());
        let headers = [&[("host", endpoint.host)], &*call.headers].concat();
        let headers = signed(&credentials, call.service, &region, now, headers, call.body);
        let asking = Asking { method: Method::POST, uri: &endpoint.uri, headers: &headers, body: call.body };
        let answer = shared.provider.ask(&asking, patience.left(call.action)?, patience.cancel());
        let date = date_of(&answer);
        let error = match understood(call.action, answer) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let is_mended = match error.class() {
            Class::Throttled { .. } => {
                pace.throttled(kind, patience.now());
                false
            }
            Class::Credentials if date.is_some_and(|date| shared.skew.learn(now, date, patience.wall())) => true,
            Class::Credentials if shared.settings.credentials.is_none() => {
                shared.cache.reject(&credentials);
                true
            }
            _ => false,
        };
        Err(Failure { error, is_mended })
    }

    fn endpoint(&self, service: Service, region: &str) -> Result<Endpoint, AwsError> {
        let shared = &*self.shared;
        if let Some(known) = shared.endpoints.lock().get(&service) {
            return Ok(known.clone());
        }
        let profile = shared.settings.profile.as_deref();
        let found = Region::of(region).endpoint(service, shared.endpoint.as_ref(), profile, &*shared.around);
        let found = found.map_err(|why| AwsError::new(Class::BadParameter, "find the endpoint", why))?;
        shared.endpoints.lock().insert(service, found.clone());
        Ok(found)
    }

    fn credentials(&self, region: &str, patience: &Patience<'_>) -> Result<AwsCredentials, AwsError> {
        let shared = &*self.shared;
        match &shared.settings.credentials {
            Some(credentials) => Ok(credentials.clone()),
            None => shared.cache.get(&Sources {
                metadata: self.metadata(patience),
                provider: &*shared.provider,
                sts: &self.endpoint(Service::Sts, region)?,
                region,
                profile: shared.settings.profile.as_deref(),
                skew: &shared.skew,
            }),
        }
    }

    fn metadata<'a>(&'a self, patience: &'a Patience<'a>) -> Metadata<'a> {
        Metadata { around: &*self.shared.around, wire: &*self.shared.metadata, patience }
    }
}

impl fmt::Debug for AwsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsClient").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

fn malformed(action: &str, why: &str) -> AwsError {
    AwsError::lost(action, format!("the answer makes no sense: {why}"))
}
