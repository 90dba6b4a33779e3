//! A client of the provider's APIs, as far as a driver of machines needs them: EC2 and STS (query APIs), Systems Manager (JSON).
//!
//! It signs, keeps the pace, tries again, and says what an error means. What is asked, and what an answer means for a machine, is
//! the driver's. Every call blocks on the thread that makes it until it is answered, its [`Patience`] ends, or it is cancelled.

mod credentials;
mod element;
mod error;
mod http;
mod pace;
mod patience;
mod place;
mod profile;
mod query;
mod request;
mod sign;
mod surroundings;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod time;
mod tries;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::http::Method;
use ureq::tls::RootCerts;

use self::credentials::{Cache, Sources};
use self::http::{Answer, Asking, Http, Wire};
use self::pace::{Kind, Pace};
use self::place::{Region, Service, host_of};
use self::request::{FORM, signed, understood};
use self::surroundings::{Surroundings, System};
use self::time::Timestamp;

pub use self::credentials::AwsCredentials;
pub(super) use self::element::Element;
pub(super) use self::error::{AwsError, Class};
pub(super) use self::patience::Patience;
pub(super) use self::query::{Query, Repeat};

/// A clock that differs by more than this from the provider's is corrected: signatures are good for five minutes (EC2) or
/// fifteen.
const SKEW: i64 = 120;

/// What the user has said of the provider.
#[derive(Clone, Debug, Default)]
pub(super) struct AwsSettings {
    pub(super) region: Option<String>,
    /// For all services.
    pub(super) endpoint: Option<String>,
    pub(super) credentials: Option<AwsCredentials>,
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
    around: Box<dyn Surroundings>,
    provider: Box<dyn Wire>,
    metadata: Box<dyn Wire>,
    /// Known after the first call.
    region: Mutex<Option<Region>>,
    cache: Cache,
    /// How many seconds the provider's clock is ahead.
    skew: AtomicI64,
}

/// How fast each account is asked at each endpoint, by whoever in this process.
static PACES: LazyLock<Mutex<HashMap<(String, String), Weak<Mutex<Pace>>>>> = LazyLock::new(Mutex::default);

fn pace_of(endpoint: &str, identity: &str, now: Instant) -> Arc<Mutex<Pace>> {
    let mut paces = PACES.lock();
    paces.retain(|_, pace| pace.strong_count() > 0);
    let held = paces.entry((endpoint.to_owned(), identity.to_owned())).or_default();
    held.upgrade().unwrap_or_else(|| {
        let pace = Arc::new(Mutex::new(Pace::new(now)));
        *held = Arc::downgrade(&pace);
        pace
    })
}

/// One call: what is sent, and how it may be.
struct Call<'a> {
    service: Service,
    action: &'a str,
    repeat: Repeat,
    headers: Vec<(&'static str, String)>,
    body: &'a [u8],
}

impl AwsClient {
    /// Does not call anybody yet.
    ///
    /// # Errors
    /// When the settings make no sense, or the certificates that the environment names cannot be read.
    pub(super) fn new(settings: AwsSettings) -> Result<Self, String> {
        let roots = roots(&System)?;
        Self::with(settings, Box::new(System), Box::new(Http::to_provider(roots)), Box::new(Http::to_metadata()))
    }

    fn with(
        settings: AwsSettings,
        around: Box<dyn Surroundings>,
        provider: Box<dyn Wire>,
        metadata: Box<dyn Wire>,
    ) -> Result<Self, String> {
        if let Some(region) = &settings.region {
            Region(region.clone()).check()?;
        }
        if let Some(endpoint) = &settings.endpoint
            && !endpoint.starts_with("https://")
            && !endpoint.starts_with("http://")
        {
            return Err(format!("{endpoint:?} is no address of a service; write https://host[:port]"));
        }
        let (region, cache, skew) = (Mutex::default(), Cache::default(), AtomicI64::new(0));
        Ok(Self { shared: Arc::new(Shared { settings, around, provider, metadata, region, cache, skew }) })
    }

    /// Asks EC2.
    pub(super) fn ec2(&self, query: &Query, patience: &Patience<'_>) -> Result<Element, AwsError> {
        self.query(Service::Ec2, query, patience)
    }

    /// Asks STS.
    pub(super) fn sts(&self, query: &Query, patience: &Patience<'_>) -> Result<Element, AwsError> {
        self.query(Service::Sts, query, patience)
    }

    /// Asks Systems Manager: `GetParameter`, say, with a body of JSON.
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
        serde_json::from_str(&answer.body).map_err(|error| malformed(action, &error.to_string()))
    }

    /// The region that is asked. Blocks only when nobody has said it, and the machine's own is asked for.
    pub(super) fn region(&self, patience: &Patience<'_>) -> Result<String, AwsError> {
        let shared = &*self.shared;
        if let Some(region) = shared.region.lock().clone() {
            return Ok(region.0);
        }
        let AwsSettings { region, profile, .. } = &shared.settings;
        let known = Region::known(region.as_deref(), profile.as_deref(), &*shared.around);
        let asked = || credentials::machine::region(&self.sources("", "", patience)).map(Region);
        let found = known.or_else(asked).ok_or_else(|| {
            let what = "nobody says which region: set it, or AWS_REGION, or `region` of the profile";
            AwsError::new(Class::BadParameter, "find the region", what)
        })?;
        let found = found.check().map_err(|why| AwsError::new(Class::BadParameter, "find the region", why))?;
        *shared.region.lock() = Some(found.clone());
        Ok(found.0)
    }

    /// The point in time so long ago, by the provider's clock, as EC2 has it in its parameters.
    pub(super) fn time_ago(&self, ago: Duration, patience: &Patience<'_>) -> String {
        let now = patience.wall().0.saturating_add(self.shared.skew.load(Ordering::Relaxed));
        Timestamp(now.saturating_sub_unsigned(ago.as_secs())).iso8601()
    }

    fn query(&self, service: Service, query: &Query, patience: &Patience<'_>) -> Result<Element, AwsError> {
        let body = query.body(service.version());
        let headers = vec![("content-type", FORM.to_owned())];
        let (action, repeat) = (query.action(), query.repeat());
        let answer = self.call(Call { service, action, repeat, headers, body: body.as_bytes() }, patience)?;
        Element::parse(&answer.body).map_err(|why| malformed(action, &why))
    }

    /// Until it is answered well, or trying again is of no use.
    fn call(&self, call: Call<'_>, patience: &Patience<'_>) -> Result<Answer, AwsError> {
        let mut failures = 0;
        let mut mended = false;
        let mut unknown = false;
        loop {
            patience.left(call.action).map_err(|error| error.unknown(unknown))?;
            let error = match self.once(&call, patience) {
                Ok(answer) => return Ok(answer),
                Err((error, true)) if !mended => {
                    // Other credentials, or another clock: that alone may have been wrong.
                    mended = true;
                    log::debug!("asked again: {error}");
                    continue;
                }
                Err((error, _)) => error,
            };
            failures += 1;
            // What is asked again harmlessly, and then answered, is known: it would have been the same answer.
            let settled = call.repeat == Repeat::Harmless && error.is_an_answer();
            unknown = if settled { false } else { unknown || error.outcome_unknown() };
            let Some(pause) = tries::pause(&error, call.repeat, failures, chance()) else {
                return Err(error.unknown(unknown));
            };
            log::debug!("asked again in {pause:.1?}: {error}");
            if let Err(end) = patience.wait(pause, call.action) {
                // Why it had to wait says more than that it has waited long enough.
                return Err(if end.class() == Class::Cancelled { end } else { error }.unknown(unknown));
            }
        }
    }

    /// Once. With an error, whether it may have been for the credentials or the clock, and these are others now.
    fn once(&self, call: &Call<'_>, patience: &Patience<'_>) -> Result<Answer, (AwsError, bool)> {
        let shared = &*self.shared;
        let plain = |error| (error, false);
        let region = self.region(patience).map_err(plain)?;
        let endpoint =
            |service| Region(region.clone()).endpoint(service, shared.settings.endpoint.as_deref(), &*shared.around);
        let credentials = match &shared.settings.credentials {
            Some(credentials) => credentials.clone(),
            None => shared.cache.get(&self.sources(&endpoint(Service::Sts), &region, patience)).map_err(plain)?,
        };
        let endpoint = endpoint(call.service);

        let kind = Kind::of(call.action);
        let pace = pace_of(&endpoint, &credentials.identity, patience.now());
        let wait = pace.lock().take(kind, patience.now());
        if !wait.is_zero()
            && let Err(error) = patience.wait(wait, call.action)
        {
            pace.lock().give_back(kind, patience.now());
            return Err(plain(error));
        }

        let mut headers = call.headers.clone();
        headers.push(("host", host_of(&endpoint).to_owned()));
        let skew = shared.skew.load(Ordering::Relaxed);
        let now = Timestamp(patience.wall().0.saturating_add(skew));
        let headers = signed(&credentials, call.service, &region, now, headers, call.body);
        let uri = format!("{endpoint}/");
        let asking = Asking { method: Method::POST, uri: &uri, headers: &headers, body: call.body };
        let left = patience.left(call.action).map_err(plain)?;
        let answer = shared.provider.ask(&asking, left, patience.cancel());
        let date = answer.as_ref().ok().and_then(|answer| Timestamp::from_http_date(answer.date.as_deref()?));
        let error = match understood(call.action, answer) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match error.class() {
            Class::Throttled { .. } => pace.lock().throttled(kind, patience.now()),
            Class::Credentials => {
                let off = date.map_or(0, |date| date.0.saturating_sub(now.0));
                if off.abs() > SKEW {
                    log::warn!(
                        "the clock of this machine is {} s off the provider's, which is allowed for",
                        off + skew
                    );
                    shared.skew.store(skew.saturating_add(off), Ordering::Relaxed);
                    return Err((error, true));
                }
                if shared.settings.credentials.is_none() {
                    shared.cache.rejected(&credentials);
                    return Err((error, true));
                }
            }
            _ => {}
        }
        Err((error, false))
    }

    fn sources<'a>(&'a self, sts: &'a str, region: &'a str, patience: &'a Patience<'a>) -> Sources<'a> {
        Sources {
            around: &*self.shared.around,
            metadata: &*self.shared.metadata,
            provider: &*self.shared.provider,
            sts,
            region,
            profile: self.shared.settings.profile.as_deref(),
            patience,
            skew: self.shared.skew.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for AwsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsClient").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl AwsError {
    fn unknown(mut self, unknown: bool) -> Self {
        self.outcome_unknown |= unknown;
        self
    }

    /// The service has decided.
    fn is_an_answer(&self) -> bool {
        !matches!(
            self.class(),
            Class::Throttled { .. }
                | Class::Unreachable
                | Class::Server
                | Class::Lost
                | Class::Cancelled
                | Class::TimedOut
        )
    }
}

fn malformed(action: &str, why: &str) -> AwsError {
    AwsError::new(Class::Lost, action, format!("the answer makes no sense: {why}"))
}

/// In 0..1. For pauses: it need not be unpredictable, only different from that of others.
fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0_u8);
    #[expect(clippy::cast_precision_loss, reason = "it is cut to what fits")]
    let fraction = (random >> 11) as f64 / (1_u64 << 53) as f64;
    fraction
}

/// Those of `AWS_CA_BUNDLE`; otherwise Mozilla's, which are built in.
fn roots(around: &dyn Surroundings) -> Result<RootCerts, String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    let Some(path) = around.variable("AWS_CA_BUNDLE") else { return Ok(RootCerts::WebPki) };
    let wrong = |why: String| format!("AWS_CA_BUNDLE, {path}: {why}");
    let text = around.file(path.as_ref()).map_err(|error| wrong(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let certificates = certificates.map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("there is no certificate in it".into()));
    }
    let owned = certificates.iter().map(|certificate| ureq::tls::Certificate::from_der(certificate).to_owned());
    Ok(RootCerts::Specific(Arc::new(owned.collect())))
}
