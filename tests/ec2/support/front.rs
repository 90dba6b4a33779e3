//! What stands before moto and makes of it what the real service is: launches with the same client token are one launch,
//! machines are pending for a while, lists lag behind; and what goes wrong there: no capacity, too many requests, trouble of
//! its own, answers that are lost.
//!
//! It knows the requests by their bodies, which a proxy for HTTP does not, and counts them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use latent_worker::testing::conformance::Injection;

use super::cloud::{ACCOUNT, Cloud, between, decoded, machines_in};
use super::moto::rest;

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `RunInstances`, or `PutParameter`.
    pub(crate) action: String,
    /// Of a query; empty otherwise.
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Asked {
    pub(crate) fn is(&self, action: &str) -> bool {
        self.action == action
    }

    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

/// What is done to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It is not forwarded; the answer is an error with this status and code.
    Refuse(u16, &'static str),
    /// It is not forwarded; the connection is cut.
    CutBefore,
    /// It is done; the connection is cut in place of the answer.
    CutAfter,
    /// It is done; the answer is an error of the server's own.
    FailAfter,
    /// It is held back for so long, or until the fault is taken away. Then it is done, even if nobody waits for it any more.
    Delay(Duration),
    /// It is not forwarded; this is the answer.
    Say(String),
    /// The answer is as it would be, with some texts in place of others.
    Replace(&'static [(&'static str, &'static str)]),
}

type Pick = Box<dyn Fn(&Asked) -> bool + Send + Sync>;

struct Rule {
    pick: Pick,
    fault: Fault,
    left: AtomicU64,
    met: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    rules: Vec<Arc<Rule>>,
    asked: Vec<Asked>,
    /// How machines have been since when.
    born: HashMap<String, Instant>,
    ended: HashMap<String, Instant>,
    pending: Duration,
    lag: Duration,
    /// Met by what lags behind.
    lagged: Arc<AtomicU64>,
}

struct Shared {
    cloud: Cloud,
    state: Mutex<State>,
    /// What was answered to a launch, and what it was. One launch at a time looks at it.
    tokens: Mutex<HashMap<String, (String, Vec<u8>)>>,
    closed: AtomicBool,
}

pub(crate) struct Front {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

/// In force for as long as it lives.
pub(crate) struct InForce {
    shared: Arc<Shared>,
    rule: Arc<Rule>,
}

impl InForce {
    pub(crate) fn met(&self) -> u64 {
        self.rule.met.load(Ordering::Relaxed)
    }
}

impl Drop for InForce {
    fn drop(&mut self) {
        self.shared.state().rules.retain(|rule| !Arc::ptr_eq(rule, &self.rule));
    }
}

impl From<InForce> for Injection {
    fn from(fault: InForce) -> Self {
        let met = fault.rule.met.clone();
        Self::new(fault).counted(move || met.load(Ordering::Relaxed))
    }
}

/// Lists lag behind for as long as this lives.
pub(crate) struct Lagging(Arc<Shared>);

impl Drop for Lagging {
    fn drop(&mut self) {
        self.0.state().lag = Duration::ZERO;
    }
}

impl From<Lagging> for Injection {
    fn from(lagging: Lagging) -> Self {
        let met = lagging.0.state().lagged.clone();
        Self::new(lagging).counted(move || met.load(Ordering::Relaxed))
    }
}

impl Front {
    pub(crate) fn before(cloud: &Cloud) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            cloud: cloud.clone(),
            state: Mutex::default(),
            tokens: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let acceptor = {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if shared.closed.load(Ordering::Relaxed) {
                        return;
                    }
                    let shared = shared.clone();
                    std::thread::spawn(move || shared.serve(stream));
                }
            })
        };
        Self { shared, address, acceptor: Some(acceptor) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts a fault in force for the requests that are picked.
    pub(crate) fn inject(&self, fault: Fault, pick: impl Fn(&Asked) -> bool + Send + Sync + 'static) -> InForce {
        self.inject_times(u64::MAX, fault, pick)
    }

    /// The same, so often at most.
    pub(crate) fn inject_times(
        &self,
        times: u64,
        fault: Fault,
        pick: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    ) -> InForce {
        let rule = Rule { pick: Box::new(pick), fault, left: AtomicU64::new(times), met: Arc::default() };
        let rule = Arc::new(rule);
        self.shared.state().rules.push(rule.clone());
        InForce { shared: self.shared.clone(), rule }
    }

    /// From now on machines are pending for so long.
    pub(crate) fn pending(&self, time: Duration) {
        self.shared.state().pending = time;
    }

    /// What is made is in no list, and known to nobody, for so long; and what is ended still looks as it did.
    pub(crate) fn lag(&self, time: Duration) -> Lagging {
        let mut state = self.shared.state();
        state.lag = time;
        state.lagged = Arc::default();
        Lagging(self.shared.clone())
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.clone()
    }

    /// How many of these there were so far.
    pub(crate) fn count(&self, action: &str) -> usize {
        self.shared.state().asked.iter().filter(|asked| asked.is(action)).count()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            _ = acceptor.join();
        }
    }
}

/// The parts of an answer that are passed on.
struct Answer {
    status: String,
    kind: String,
    body: Vec<u8>,
}

impl Answer {
    fn error(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\"?><Response><Errors><Error><Code>{code}</Code><Message>the front says so</Message></Error>\
             </Errors><RequestID>front</RequestID></Response>"
        );
        Self { status: format!("{status} Error"), kind: "text/xml".into(), body: body.into_bytes() }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some((head, body)) = read_request(&mut reader) {
            let answer = self.answer(&head, &body);
            let stream = reader.get_mut();
            let Some(Answer { status, kind, body }) = answer else {
                _ = stream.shutdown(Shutdown::Both);
                return;
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
            if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_err() {
                return;
            }
        }
    }

    /// Nothing when the connection is to be cut.
    fn answer(&self, head: &[String], body: &[u8]) -> Option<Answer> {
        let text = String::from_utf8_lossy(body);
        let target = header(head, "x-amz-target").and_then(|target| target.split_once('.')).map(|(_, action)| action);
        let asked = match target {
            Some(action) => Asked { action: action.to_owned(), parameters: BTreeMap::new() },
            None => {
                let parameters = decoded(&text);
                Asked { action: parameters.get("Action").cloned().unwrap_or_default(), parameters }
            }
        };
        let rule = self.fault(&asked);
        let fault = rule.as_ref().map(|rule| rule.fault.clone());
        match &fault {
            Some(Fault::Refuse(status, code)) => return Some(Answer::error(*status, code)),
            Some(Fault::CutBefore) => return None,
            Some(Fault::Say(body)) => {
                let body = body.clone().into_bytes();
                return Some(Answer { status: "200 OK".into(), kind: "text/xml".into(), body });
            }
            Some(Fault::Delay(time)) => self.delay(*time, &rule),
            _ => {}
        }
        let mut answer = match self.refused_for_lag(&asked) {
            Some(answer) => answer,
            None if asked.is("RunInstances") => self.launch(&asked, head, body)?,
            None => self.forward(head, body)?,
        };
        self.look(&asked, &answer);
        if asked.is("DescribeInstances") {
            answer.body = self.as_it_is_seen(&String::from_utf8_lossy(&answer.body)).into_bytes();
        }
        match fault {
            Some(Fault::CutAfter) => None,
            Some(Fault::FailAfter) => Some(Answer::error(500, "InternalError")),
            Some(Fault::Replace(texts)) => {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                answer.body = texts.iter().fold(text, |text, (from, to)| text.replace(from, to)).into_bytes();
                Some(answer)
            }
            _ => Some(answer),
        }
    }

    fn fault(&self, asked: &Asked) -> Option<Arc<Rule>> {
        let mut state = self.state();
        state.asked.push(asked.clone());
        let meets = |rule: &&Arc<Rule>| {
            (rule.pick)(asked)
                && rule.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        };
        let rule = state.rules.iter().find(meets)?;
        rule.met.fetch_add(1, Ordering::Relaxed);
        Some(rule.clone())
    }

    fn delay(&self, time: Duration, rule: &Option<Arc<Rule>>) {
        let end = Instant::now() + time;
        let in_force = |rule: &Arc<Rule>| self.state().rules.iter().any(|other| Arc::ptr_eq(rule, other));
        while Instant::now() < end && rule.as_ref().is_some_and(in_force) && !self.closed.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A launch that was answered already has the same answer again.
    fn launch(&self, asked: &Asked, head: &[String], body: &[u8]) -> Option<Answer> {
        let token = asked.parameter("ClientToken").to_owned();
        let asks = format!("{:?}", asked.parameters);
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((its, answer)) = tokens.get(&token) {
            if *its != asks {
                return Some(Answer::error(400, "IdempotentParameterMismatch"));
            }
            return Some(Answer { status: "200 OK".into(), kind: "text/xml".into(), body: answer.clone() });
        }
        let answer = self.forward(head, body)?;
        if answer.status.starts_with("200") && !token.is_empty() {
            tokens.insert(token, (asks, answer.body.clone()));
        }
        Some(answer)
    }

    fn forward(&self, head: &[String], body: &[u8]) -> Option<Answer> {
        let mut server = TcpStream::connect(self.cloud.address).ok()?;
        let mut request = String::new();
        for (number, line) in head.iter().enumerate() {
            let line = if number == 0 { line.replace("HTTP/1.1", "HTTP/1.0") } else { line.clone() };
            if !line.to_lowercase().starts_with("connection:") {
                request.push_str(&line);
                request.push_str("\r\n");
            }
        }
        request.push_str(&format!("{ACCOUNT}: {}\r\n\r\n", self.cloud.account));
        server.write_all(request.as_bytes()).ok()?;
        server.write_all(body).ok()?;
        let answer = rest(&mut server);
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let lines: Vec<String> = String::from_utf8_lossy(&answer[..end]).split("\r\n").map(str::to_owned).collect();
        let status = lines.first()?.split_once(' ')?.1.to_owned();
        let kind = header(&lines, "content-type").unwrap_or("text/xml").to_owned();
        Some(Answer { status, kind, body: answer[end + 4..].to_vec() })
    }

    /// Notes what was made and ended.
    fn look(&self, asked: &Asked, answer: &Answer) {
        let text = String::from_utf8_lossy(&answer.body);
        let mut state = self.state();
        if asked.is("RunInstances")
            && let Some(id) = between(&text, "instanceId")
        {
            state.born.entry(id.to_owned()).or_insert_with(Instant::now);
        }
        if asked.is("TerminateInstances") && answer.status.starts_with("200") {
            let id = asked.parameter("InstanceId.1").to_owned();
            state.ended.entry(id).or_insert_with(Instant::now);
        }
    }

    /// What names a machine that is not known yet.
    fn refused_for_lag(&self, asked: &Asked) -> Option<Answer> {
        let state = self.state();
        let named = asked.parameters.iter().filter(|(name, _)| name.starts_with("InstanceId"));
        let young = |id: &String| state.born.get(id).is_some_and(|born| born.elapsed() < state.lag);
        let unknown = named.map(|(_, id)| id).any(young);
        if unknown {
            state.lagged.fetch_add(1, Ordering::Relaxed);
        }
        unknown.then(|| Answer::error(400, "InvalidInstanceID.NotFound"))
    }

    /// A list with what is not to be seen yet left out, and what is pending as that.
    fn as_it_is_seen(&self, listed: &str) -> String {
        let state = self.state();
        let younger = |at: Option<&Instant>, than: Duration| at.is_some_and(|at| at.elapsed() < than);
        let (first, rest) = listed.split_once("<item><reservationId>").unwrap_or((listed, ""));
        let mut seen = first.to_owned();
        let end = rest.rfind("</reservationSet>").unwrap_or(rest.len());
        let (reservations, tail) = rest.split_at(end);
        for reservation in reservations.split("<item><reservationId>").filter(|text| !text.is_empty()) {
            let whole = format!("<item><reservationId>{reservation}");
            let ids: HashSet<String> = machines_in(&whole).into_iter().map(|machine| machine.id).collect();
            let Some(id) = ids.into_iter().next() else { continue };
            if younger(state.born.get(&id), state.lag) {
                state.lagged.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let mut whole = whole;
            if younger(state.ended.get(&id), state.lag) {
                state.lagged.fetch_add(1, Ordering::Relaxed);
                whole = whole.replace("<code>48</code><name>terminated</name>", "<code>16</code><name>running</name>");
            }
            if younger(state.born.get(&id), state.pending) {
                whole = whole.replace("<code>16</code><name>running</name>", "<code>0</code><name>pending</name>");
            }
            seen.push_str(&whole);
        }
        seen + tail
    }
}

fn header<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let lines = head.iter().filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(its, _)| its.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(Vec<String>, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let length = header(&head, "content-length").map_or(Some(0), |length| length.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}
