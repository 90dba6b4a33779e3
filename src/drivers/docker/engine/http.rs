//! One request and its answer, over a connection of its own or one that was idle.
//!
//! Each connection belongs to a line, which serves one call at a time: so what watches over the call is the line's, and
//! no thread is needed to end it. A line whose answer was read to its end is used again; any other is closed.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use ureq::http::{self, HeaderMap, Method, Response};
use ureq::{Agent, BodyReader, SendBody};

use super::address::{EngineAddress, Place};
use super::names::Names;
use super::transport::{EngineConnector, NoResolver};
use super::watch::{Facts, Interruption, Watch};
use super::{EngineError, Patience, floor_char_boundary};
use crate::drivers::veil::{Length, Veil};
use crate::printable::printable;

/// So many idle connections are kept, and so long; then an engine may have closed its side.
const MAX_IDLE: usize = 8;
const MAX_IDLE_AGE: Duration = Duration::from_secs(15);
/// The engine's words about an error, and its longest answer to anything else that is read whole.
const ERROR_LIMIT: u64 = 16 << 10;
const ANSWER_LIMIT: u64 = 64 << 20;

pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// Percent-encoded, from the first slash on; the version is put before it.
    pub(super) path: String,
    pub(super) query: Query,
    pub(super) body: Body<'a>,
    /// Credentials for registries.
    pub(super) secret_header: Option<(&'static str, String)>,
    /// Whether doing it twice is as good as doing it once.
    pub(super) repeatable: bool,
    /// For errors: `start container 4f`.
    pub(super) doing: String,
}

pub(super) enum Body<'a> {
    Nothing,
    Json(Vec<u8>),
    Tar(&'a mut dyn Read),
}

impl<'a> Request<'a> {
    fn new(method: Method, path: String, doing: String) -> Self {
        let repeatable = matches!(method, Method::GET | Method::DELETE);
        Self { method, path, query: Query::default(), body: Body::Nothing, secret_header: None, repeatable, doing }
    }

    pub(super) fn get(path: impl Into<String>, doing: impl Into<String>) -> Self {
        Self::new(Method::GET, path.into(), doing.into())
    }

    pub(super) fn post(path: impl Into<String>, doing: impl Into<String>) -> Self {
        Self::new(Method::POST, path.into(), doing.into())
    }

    pub(super) fn put(path: impl Into<String>, doing: impl Into<String>) -> Self {
        Self::new(Method::PUT, path.into(), doing.into())
    }

    pub(super) fn delete(path: impl Into<String>, doing: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path.into(), doing.into())
    }

    pub(super) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    pub(super) fn query(mut self, name: &str, value: &str) -> Self {
        self.query.add(name, value);
        self
    }

    pub(super) fn query_if(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }
}

/// What follows the path.
#[derive(Default)]
pub(super) struct Query(String);

impl Query {
    fn add(&mut self, name: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&percent_encoded(value, ""));
    }
}

/// Everything but letters, digits, `-_.~` and what is to be kept (RFC 3986, 2.3).
pub(super) fn percent_encoded(text: &str, keep: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_alphanumeric() || "-_.~".contains(character) || keep.contains(character) {
            encoded.push(character);
        } else {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                encoded.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    encoded
}

/// The way to one engine.
#[derive(Debug)]
pub(super) struct Lines {
    address: EngineAddress,
    names: Arc<Names>,
    idle: Mutex<Vec<Line>>,
}

/// An agent that has at most one connection, used by one call at a time.
#[derive(Debug)]
struct Line {
    agent: Agent,
    watch: Arc<Watch>,
    veil: Veil,
    idle_since: Instant,
}

impl Lines {
    pub(super) fn new(address: EngineAddress) -> Self {
        Self { address, names: Arc::default(), idle: Mutex::default() }
    }

    pub(super) fn address(&self) -> &EngineAddress {
        &self.address
    }

    /// Asks, and returns as soon as the answer begins; an answer of 400 or more is an error. `prefix` is the version.
    pub(super) fn call(
        self: &Arc<Self>,
        request: &mut Request<'_>,
        prefix: &str,
        patience: Patience<'_>,
    ) -> Result<Answer, EngineError> {
        let line = self.idle_line().unwrap_or_else(|| self.new_line());
        let (mut line, mut result, mut facts) = self.attempt(line, request, prefix, patience);
        let closed_while_idle = result.is_err() && !facts.connecting && !facts.received && facts.interrupted.is_none();
        if closed_while_idle && request.repeatable {
            // The engine closed the connection just before it was used; asking again does no harm.
            (line, result, facts) = self.attempt(self.new_line(), request, prefix, patience);
        }
        let response = result.map_err(|error| self.explained(error, facts, &request.doing, patience.limit))?;
        let (head, body) = response.into_parts();
        let answer = Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.into_reader(),
            line: Some(line),
            lines: self.clone(),
            doing: request.doing.clone(),
            limit: patience.limit,
        };
        // No redirect is followed: an engine sends one only for a path that is none.
        if answer.status < 300 || answer.status == 304 { Ok(answer) } else { Err(answer.into_error()) }
    }

    fn attempt(
        &self,
        line: Line,
        request: &mut Request<'_>,
        prefix: &str,
        patience: Patience<'_>,
    ) -> (Line, Result<Response<ureq::Body>, ureq::Error>, Facts) {
        line.watch.begin(patience);
        let length = match &request.body {
            Body::Nothing if request.method == Method::GET => Length::Nothing,
            Body::Nothing => Length::Bytes(0),
            Body::Json(bytes) => Length::Bytes(bytes.len()),
            Body::Tar(_) => Length::Unknown,
        };
        let head = request.head(&self.authority(), prefix).and_then(|head| line.veil.begin(&head, length));
        let result = head.map_err(ureq::Error::from).and_then(|head| match &mut request.body {
            Body::Nothing if request.method == Method::GET => line.agent.run(head.map(|()| SendBody::none())),
            Body::Nothing => line.agent.run(head.map(|()| &[][..] as &[u8])),
            Body::Json(bytes) => line.agent.run(head.map(|()| line.veil.body(bytes))),
            Body::Tar(reader) => {
                let mut streamed = line.veil.streamed(*reader);
                line.agent.run(head.map(|()| SendBody::from_reader(&mut streamed)))
            }
        });
        let facts = line.watch.facts();
        (line, result, facts)
    }

    /// What the engine is told that it is called.
    fn authority(&self) -> String {
        match &self.address.place {
            Place::Unix(_) => "localhost".into(),
            Place::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Place::Tcp { host, port } => format!("{host}:{port}"),
        }
    }

    fn new_line(&self) -> Line {
        let watch = Arc::<Watch>::default();
        let veil = Veil::default();
        let connector = EngineConnector {
            address: self.address.clone(),
            names: self.names.clone(),
            watch: watch.clone(),
            veil: veil.clone(),
        };
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(MAX_IDLE_AGE)
            .build();
        Line { agent: Agent::with_parts(config, connector, NoResolver), watch, veil, idle_since: Instant::now() }
    }

    fn idle_line(&self) -> Option<Line> {
        let mut idle = self.idle.lock();
        let old = idle.iter().take_while(|line| line.idle_since.elapsed() >= MAX_IDLE_AGE).count();
        let old: Vec<Line> = idle.drain(..old).collect();
        let line = idle.pop();
        drop(idle);
        // Connections are closed without the lock.
        drop(old);
        line
    }

    fn keep(&self, mut line: Line) {
        line.watch.end();
        line.idle_since = Instant::now();
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push(line);
        }
    }

    fn explained(&self, error: ureq::Error, facts: Facts, doing: &str, limit: Duration) -> EngineError {
        let doing = doing.to_owned();
        let no_connection = facts.connecting && !facts.connected;
        match facts.interrupted {
            Some(Interruption::Cancelled) => return EngineError::Cancelled { doing, sent: facts.sent },
            Some(Interruption::TimedOut) if no_connection => {
                let error = io::Error::new(ErrorKind::TimedOut, format!("no connection within {limit:?}"));
                return self.unreachable(&error);
            }
            Some(Interruption::TimedOut) => return EngineError::TimedOut { doing, limit },
            None => {}
        }
        match unwrapped(error) {
            ureq::Error::Io(error) if no_connection || is_refusal(&error, facts) => self.unreachable(&error),
            ureq::Error::Io(error) => EngineError::Cut { doing, reason: error.to_string() },
            ureq::Error::BodyStalled => EngineError::Cut { doing, reason: "the answer ends in the middle".into() },
            ureq::Error::Http(error) => EngineError::BadParameter { doing, message: error.to_string() },
            error => EngineError::Malformed { doing, reason: error.to_string() },
        }
    }

    fn unreachable(&self, error: &io::Error) -> EngineError {
        let advice = match (error.kind(), &self.address.place) {
            (ErrorKind::NotFound, Place::Unix(_)) => {
                "no such file; is the engine running, and is this its socket?".into()
            }
            (ErrorKind::PermissionDenied, Place::Unix(_)) => {
                "permission denied; may this user open the socket? (root may, and mostly the group `docker`)".into()
            }
            (ErrorKind::ConnectionRefused, _) => "nobody listens there; is the engine running?".into(),
            (ErrorKind::TimedOut, _) => format!("{error}; does it run, and is this its address?"),
            _ => error.to_string(),
        };
        EngineError::Unreachable(format!("cannot connect to the Docker engine at {}: {advice}", self.address))
    }
}

impl Request<'_> {
    fn head(&self, authority: &str, prefix: &str) -> Result<http::Request<()>, http::Error> {
        let uri = format!("http://{authority}{prefix}{}{}", self.path, self.query.0);
        let mut head = http::Request::builder().method(self.method.clone()).uri(uri);
        match &self.body {
            Body::Nothing => {}
            Body::Json(_) => head = head.header("content-type", "application/json"),
            Body::Tar(_) => head = head.header("content-type", "application/x-tar"),
        }
        if let Some((name, value)) = &self.secret_header {
            head = head.header(*name, value);
        }
        head.body(())
    }
}

/// An error of ureq may come as one of the system that holds it.
fn unwrapped(error: ureq::Error) -> ureq::Error {
    match error {
        ureq::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<ureq::Error>()) => {
            let inner = error.into_inner().and_then(|inner| inner.downcast::<ureq::Error>().ok());
            inner.map_or(ureq::Error::ConnectionFailed, |inner| unwrapped(*inner))
        }
        error => error,
    }
}

/// With TLS 1.3 an engine looks at our certificate when we are done already: its refusal is the first thing that is read.
#[cfg(feature = "tls")]
fn is_refusal(error: &io::Error, facts: Facts) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    facts.connecting && matches!(inner, Some(rustls::Error::AlertReceived(_)))
}

#[cfg(not(feature = "tls"))]
fn is_refusal(_: &io::Error, _: Facts) -> bool {
    false
}

/// An answer whose body has not been read yet. Dropped before its end, it closes the connection.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    body: BodyReader<'static>,
    line: Option<Line>,
    lines: Arc<Lines>,
    doing: String,
    limit: Duration,
}

impl Answer {
    /// 0 at the end, and from then on.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, EngineError> {
        let Some(line) = &self.line else { return Ok(0) };
        let read = self.body.read(buffer);
        match read.and_then(|count| line.veil.reveal(&mut buffer[..count]).map(|()| count)) {
            Ok(0) if !buffer.is_empty() => {
                let line = self.line.take();
                line.into_iter().for_each(|line| self.lines.keep(line));
                Ok(0)
            }
            Ok(count) => Ok(count),
            Err(error) => {
                let facts = line.watch.end();
                self.line = None;
                Err(self.lines.explained(ureq::Error::Io(error), facts, &self.doing, self.limit))
            }
        }
    }

    /// The whole body; `None` when it is longer.
    fn read_whole(&mut self, limit: u64) -> Result<Option<Vec<u8>>, EngineError> {
        let mut all = Vec::new();
        let mut buffer = [0; 8 << 10];
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(Some(all)),
                count => all.extend_from_slice(&buffer[..count]),
            }
            if all.len() as u64 > limit {
                return Ok(None);
            }
        }
    }

    pub(super) fn json<T: DeserializeOwned>(mut self) -> Result<T, EngineError> {
        match self.read_whole(ANSWER_LIMIT)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| self.malformed(invalid_json(&error))),
            None => Err(self.malformed(format!("it is longer than {} MiB", ANSWER_LIMIT >> 20))),
        }
    }

    /// Whatever it says, it was successful.
    pub(super) fn done(mut self) -> Result<u16, EngineError> {
        // Read to the end, so that the connection can be used again. What was asked for is done in any case.
        let _ = self.read_whole(ERROR_LIMIT);
        Ok(self.status)
    }

    pub(super) fn malformed(&self, reason: impl fmt::Display) -> EngineError {
        EngineError::Malformed { doing: self.doing.clone(), reason: reason.to_string() }
    }

    pub(super) fn reported(&self, message: impl Into<String>) -> EngineError {
        EngineError::Reported { doing: self.doing.clone(), message: printable(&message.into()).into_owned() }
    }

    fn into_error(mut self) -> EngineError {
        // An error whose text is cut off is an error all the same; one that was cancelled meanwhile is too.
        let text = match self.read_whole(ERROR_LIMIT) {
            Ok(Some(text)) => message_of(&text),
            Ok(None) => "(its message is too long)".into(),
            Err(error @ EngineError::Cancelled { .. }) => return error,
            Err(_) => "(its message was cut off)".into(),
        };
        // In seconds; the other form, a date, needs a clock that both agree on.
        let retry_after = self.headers.get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let message = printable(&text).into_owned();
        EngineError::Status { doing: self.doing, status: self.status, message, retry_after }
    }
}

/// Does not quote what was read, because it may contain secrets such as the environment of a container.
pub(super) fn invalid_json(error: &serde_json::Error) -> String {
    let problem = if error.is_data() { "unexpected JSON" } else { "invalid JSON" };
    format!("{problem} at line {} column {}", error.line(), error.column())
}

/// Engines send JSON with a `message`; what stands before them may send anything.
fn message_of(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }

    let text = match serde_json::from_slice::<Message>(body) {
        Ok(Message { message }) => message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text = text.trim();
    let end = floor_char_boundary(text, 2048);
    match text {
        "" => "it does not say why".into(),
        _ if end < text.len() => format!("{}…", &text[..end]),
        _ => text.into(),
    }
}
