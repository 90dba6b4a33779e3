//! One request to the provider, and its answer; or to a metadata service. No tries here, and no meaning.
//!
//! The thread that asks does all of the work, and `watch` knows for it how far it has come and who can end it; `connect`
//! finds the way, on which every wait can be ended.

mod connect;
#[cfg(test)]
mod tests;
mod watch;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use ureq::Agent;
use ureq::http::{Method, Request};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, RustlsConnector};

use self::connect::{Lookups, TcpConnector};
use self::watch::{BeginConnector, Facts, SentConnector, VeilConnector, Watched};
use super::element::ANSWER_LIMIT;
use super::sign::Header;
use crate::drivers::veil::{Length, Veil};

/// Longer than any answer takes; what hangs is asked again.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The metadata services are on this machine or next to it. Where there is none, a packet may vanish.
const METADATA_LIMIT: Duration = Duration::from_secs(2);

/// What is asked.
pub(super) struct Asking<'a> {
    pub(super) method: Method,
    pub(super) uri: &'a str,
    /// With `host` or without; what is signed must be what is sent.
    pub(super) headers: &'a [Header],
    pub(super) body: &'a [u8],
}

/// What is answered, whatever the status.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    /// When the provider has answered, by its clock.
    pub(super) date: Option<String>,
    pub(super) retry_after: Option<Duration>,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) enum NoAnswer {
    /// Nothing was sent.
    Unreachable(String),
    /// Something may have been.
    Lost(String),
    /// Something was sent, and nothing came.
    TimedOut,
    /// Whoever asked has given up.
    Cancelled { sent: bool },
}

/// The way to a provider. Tests have one of their own.
pub(super) trait Wire: Send + Sync + fmt::Debug {
    fn ask(
        &self,
        asking: &Asking<'_>,
        limit: Duration,
        cancel: Option<&Receiver<Infallible>>,
    ) -> Result<Answer, NoAnswer>;
}

/// HTTP, with TLS where the address says so. Idle connections are kept for the next. No redirect is followed: one who
/// sends it would be told what was meant for another.
#[derive(Clone, Debug)]
pub(super) struct Http {
    agent: Agent,
    most: Duration,
}

impl Http {
    /// To the provider. A proxy is used where the environment names one (`HTTPS_PROXY`, `NO_PROXY`), and nobody is trusted
    /// but `roots`.
    pub(super) fn to_provider(roots: RootCerts) -> Self {
        // Whatever others in this process have made the default.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider).build();
        let config =
            base().timeout_connect(Some(CONNECT_LIMIT)).timeout_resolve(Some(CONNECT_LIMIT)).tls_config(tls).build();
        Self { agent: agent(config), most: REQUEST_LIMIT }
    }

    /// To a metadata service, which no proxy can stand before. With TLS, which an endpoint of a container's may have, as to
    /// the provider.
    pub(super) fn to_metadata(roots: RootCerts) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider).build();
        let config = base().proxy(None).timeout_connect(Some(METADATA_LIMIT)).tls_config(tls).build();
        Self { agent: agent(config), most: METADATA_LIMIT }
    }
}

fn base() -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    Agent::config_builder().http_status_as_error(false).max_redirects(0).max_redirects_will_error(false)
}

fn agent(config: ureq::config::Config) -> Agent {
    let connector = BeginConnector
        .chain(ConnectProxyConnector::default())
        .chain(TcpConnector)
        .chain(RustlsConnector::default())
        .chain(SentConnector)
        .chain(VeilConnector);
    Agent::with_parts(config, connector, Lookups::default())
}

impl Wire for Http {
    fn ask(
        &self,
        asking: &Asking<'_>,
        limit: Duration,
        cancel: Option<&Receiver<Infallible>>,
    ) -> Result<Answer, NoAnswer> {
        let mut request = Request::builder().method(asking.method.clone()).uri(asking.uri);
        for (name, value) in asking.headers {
            request = request.header(*name, value);
        }
        let veil = Veil::default();
        let watched = Watched::begin(cancel.cloned(), veil.clone());
        let result = request
            .body(())
            .map_err(ureq::Error::from)
            .and_then(|request| self.run(&veil, &request, asking.body, limit.min(self.most)));
        result.map_err(|error| explained(&error, &watched.end()))
    }
}

impl Http {
    fn run(&self, veil: &Veil, request: &Request<()>, body: &[u8], limit: Duration) -> Result<Answer, ureq::Error> {
        let is_get = *request.method() == Method::GET;
        let length = if is_get { Length::Nothing } else { Length::Bytes(body.len()) };
        let given = veil.begin(request, length)?;
        let mut answer = if is_get {
            let given = self.agent.configure_request(given.map(|()| ureq::SendBody::none()));
            self.agent.run(given.timeout_global(Some(limit)).build())?
        } else {
            let given = self.agent.configure_request(given.map(|()| veil.body(body)));
            self.agent.run(given.timeout_global(Some(limit)).build())?
        };
        let mut text = answer.body_mut().with_config().limit(ANSWER_LIMIT).read_to_vec()?;
        veil.reveal(&mut text)?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (date, retry_after) = (header("date"), header("retry-after"));
        Ok(Answer {
            status: answer.status().as_u16(),
            date,
            // In seconds; the other form, a date, needs a clock that both agree on.
            retry_after: retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs),
            body: String::from_utf8_lossy(&text).into_owned(),
        })
    }
}

fn explained(error: &ureq::Error, facts: &Facts) -> NoAnswer {
    match error {
        _ if facts.cancelled => NoAnswer::Cancelled { sent: facts.sent },
        error if !facts.sent => NoAnswer::Unreachable(error.to_string()),
        ureq::Error::Timeout(_) => NoAnswer::TimedOut,
        error => NoAnswer::Lost(error.to_string()),
    }
}
