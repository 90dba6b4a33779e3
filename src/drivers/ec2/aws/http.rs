//! One request to the provider, and its answer; or to a metadata service. No tries here, and no meaning.
//!
//! The thread that asks does all of the work. It looks at the cancel whenever it waits for input: whose cancel that is, is
//! known to the thread for as long as it asks, because idle connections belong to nobody.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::io::{self, ErrorKind};
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};
use ureq::Agent;
use ureq::http::{Method, Request};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector, TcpConnector, Transport,
};

use super::element::ANSWER_LIMIT;

/// So often a waiting call looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(200);
/// Longer than any answer takes; what hangs is asked again.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The metadata services are on this machine or next to it. Where there is none, a packet may vanish.
const METADATA_LIMIT: Duration = Duration::from_secs(2);

/// What is asked.
pub(super) struct Asking<'a> {
    pub(super) method: Method,
    pub(super) uri: &'a str,
    pub(super) headers: &'a [(&'static str, String)],
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
    TimedOut,
    Cancelled {
        sent: bool,
    },
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

/// HTTP, with TLS where the address says so. Idle connections are kept for the next.
#[derive(Clone, Debug)]
pub(super) struct Http {
    agent: Agent,
    most: Duration,
}

impl Http {
    /// To the provider. A proxy is used where the environment names one, and `roots` are trusted beside nothing else.
    pub(super) fn to_provider(roots: RootCerts) -> Self {
        let config = base()
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_resolve(Some(CONNECT_LIMIT))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        Self { agent: agent(config), most: REQUEST_LIMIT }
    }

    /// To a metadata service, which no proxy can stand before.
    pub(super) fn to_metadata() -> Self {
        let config = base().proxy(None).timeout_connect(Some(METADATA_LIMIT)).build();
        Self { agent: agent(config), most: METADATA_LIMIT }
    }
}

fn base() -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("latent-worker/", env!("CARGO_PKG_VERSION")))
}

fn agent(config: ureq::config::Config) -> Agent {
    let connector =
        ().chain(TcpConnector::default())
            .chain(CancelConnector)
            .chain(ConnectProxyConnector::default())
            .chain(RustlsConnector::default())
            .chain(SentConnector);
    Agent::with_parts(config, connector, DefaultResolver::default())
}

impl Wire for Http {
    fn ask(
        &self,
        asking: &Asking<'_>,
        limit: Duration,
        cancel: Option<&Receiver<Infallible>>,
    ) -> Result<Answer, NoAnswer> {
        let mut request = Request::builder().method(asking.method.clone()).uri(asking.uri);
        for (name, value) in asking.headers.iter().filter(|(name, _)| *name != "host") {
            request = request.header(*name, value);
        }
        let asked = Asked::begin(cancel.cloned());
        let limit = limit.min(self.most);
        let result = request.body(asking.body).map_err(ureq::Error::from).and_then(|request| {
            let request = self.agent.configure_request(request).timeout_global(Some(limit)).build();
            let mut answer = if asking.body.is_empty() && asking.method == Method::GET {
                self.agent.run(request.map(|_| ureq::SendBody::none()))?
            } else {
                self.agent.run(request)?
            };
            let header =
                |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let (date, retry_after) = (header("date"), header("retry-after"));
            Ok(Answer {
                status: answer.status().as_u16(),
                date,
                retry_after: retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs),
                body: answer.body_mut().with_config().limit(ANSWER_LIMIT).lossy_utf8(true).read_to_string()?,
            })
        });
        let facts = asked.end();
        result.map_err(|error| explained(&error, &facts))
    }
}

fn explained(error: &ureq::Error, facts: &Facts) -> NoAnswer {
    if facts.cancelled {
        return NoAnswer::Cancelled { sent: facts.sent };
    }
    match error {
        // Before anything of the request was sent.
        error if !facts.sent => NoAnswer::Unreachable(error.to_string()),
        ureq::Error::Timeout(_) => NoAnswer::TimedOut,
        error => NoAnswer::Lost(error.to_string()),
    }
}

/// What is going on on this thread.
#[derive(Default)]
struct Facts {
    cancel: Option<Receiver<Infallible>>,
    cancelled: bool,
    /// The request, or a part of it. The words by which TLS is agreed on, or a proxy, are none.
    sent: bool,
}

thread_local! {
    static FACTS: RefCell<Option<Facts>> = const { RefCell::new(None) };
}

/// As long as it is there, this thread asks.
struct Asked;

impl Asked {
    fn begin(cancel: Option<Receiver<Infallible>>) -> Self {
        FACTS.set(Some(Facts { cancel, ..Facts::default() }));
        Self
    }

    fn end(self) -> Facts {
        FACTS.take().unwrap_or_default()
    }
}

/// Also when a panic goes through.
impl Drop for Asked {
    fn drop(&mut self) {
        FACTS.set(None);
    }
}

fn is_cancelled() -> bool {
    FACTS.with_borrow_mut(|facts| {
        let Some(Facts { cancel: Some(cancel), cancelled, .. }) = facts else { return false };
        *cancelled |= matches!(cancel.try_recv(), Err(TryRecvError::Disconnected));
        *cancelled
    })
}

/// Makes each wait for input one that can be cancelled.
#[derive(Debug)]
struct CancelConnector;

impl<In: Transport> Connector<In> for CancelConnector {
    type Out = Cancellable<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(Cancellable))
    }
}

#[derive(Debug)]
struct Cancellable<In>(In);

impl<In: Transport> Transport for Cancellable<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        stop_if_cancelled()?;
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let mut left = *timeout.after;
        loop {
            stop_if_cancelled()?;
            let tick = left.min(TICK);
            let once = NextTimeout { after: tick.into(), reason: timeout.reason, ..timeout };
            match self.0.await_input(once) {
                Err(ureq::Error::Timeout(reason)) => {
                    left = left.saturating_sub(tick);
                    if left.is_zero() {
                        return Err(ureq::Error::Timeout(reason));
                    }
                }
                result => return result,
            }
        }
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

/// Notes that something of the request is sent: it is the last, so that the words of TLS do not come through it.
#[derive(Debug)]
struct SentConnector;

impl<In: Transport> Connector<In> for SentConnector {
    type Out = Sent<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(Sent))
    }
}

#[derive(Debug)]
struct Sent<In>(In);

impl<In: Transport> Transport for Sent<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        stop_if_cancelled()?;
        FACTS.with_borrow_mut(|facts| facts.iter_mut().for_each(|facts| facts.sent = true));
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

fn stop_if_cancelled() -> Result<(), ureq::Error> {
    if is_cancelled() {
        // Of no kind that has a meaning for the layers in between.
        return Err(ureq::Error::Io(io::Error::new(ErrorKind::Other, "the call was cancelled")));
    }
    Ok(())
}
