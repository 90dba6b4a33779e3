//! One connection of a client, and the one to the server that belongs to it.
//!
//! One thread reads what the client sends, and passes it on; another one reads what the server sends. So a body can go
//! in both directions at once, and the end of either side is seen whenever it comes. There is one exchange at a time:
//! the next request is looked at when the last one has been answered.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::head::{self, Body, Framing, Malformed, RequestHead, ResponseHead};
use super::rule::HttpFault;
use super::shared::{ActiveRule, Shared};
use super::upstream::Upstream;

/// The largest piece that is read at once.
const PIECE: usize = 16 * 1024;
/// After the system had no connection to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The body of the thread that listens.
pub(super) fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.is_closed() {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(_) => {
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let (Ok(()), Ok(register)) = (client.set_nodelay(true), client.try_clone()) else { continue };
        let Some(number) = shared.open(register) else { break };
        shared.thread_begins();
        let serve = {
            let shared = shared.clone();
            move || {
                let _ended = Ended { shared: shared.clone(), number };
                Connection::new(&shared, number, client).serve();
            }
        };
        // When there is no thread the closure is dropped, and with it the connection.
        if std::thread::Builder::new().name("faulty http".to_owned()).spawn(serve).is_err() {
            drop(Ended { shared: shared.clone(), number });
        }
    }
    shared.thread_ends();
}

/// Tells when the thread of a connection ends, in whatever way.
struct Ended {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.shared.ended(self.number);
        self.shared.thread_ends();
    }
}

/// What was read and is not used yet.
struct Input<R> {
    stream: R,
    buffer: Vec<u8>,
}

impl<R: Read> Input<R> {
    fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Reads more. False at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0; PIECE];
        let read = loop {
            match self.stream.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.buffer.extend_from_slice(&piece[..read]);
        Ok(read > 0)
    }

    /// Takes a whole head out; `None` when the stream ends before.
    fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(length) = head::head_length(&self.buffer).map_err(io::Error::from)? {
                return Ok(Some(self.buffer.drain(..length).collect()));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Hands a body on, piece by piece as it comes. False when the stream ends before the body does.
    fn body(&mut self, framing: Framing, mut piece: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<bool> {
        let mut body = Body::new(framing);
        while !body.is_over() {
            if self.buffer.is_empty() && !self.fill()? {
                return Ok(body.ends_with_connection());
            }
            let taken = body.take(&self.buffer).map_err(io::Error::from)?;
            piece(&self.buffer[..taken])?;
            self.buffer.drain(..taken);
        }
        Ok(true)
    }
}

impl From<Malformed> for io::Error {
    fn from(Malformed(what): Malformed) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, what)
    }
}

/// A request that was passed on.
#[derive(Clone)]
struct Exchange {
    method: String,
    closes: bool,
    fault: Option<(HttpFault, Arc<ActiveRule>)>,
}

/// Whose turn it is.
#[derive(Default)]
struct Turn {
    inner: Mutex<TurnInner>,
    changed: Condvar,
}

#[derive(Default)]
struct TurnInner {
    /// Not answered yet.
    exchange: Option<Exchange>,
    /// There are no requests and answers any more, but bytes.
    tunnel: bool,
    /// The client sends nothing any more.
    client_ended: bool,
    /// No answer will come any more.
    server_ended: bool,
}

enum Next {
    Request,
    Tunnel,
    Nothing,
}

impl Turn {
    fn lock(&self) -> MutexGuard<'_, TurnInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, exchange: Exchange) {
        self.lock().exchange = Some(exchange);
    }

    /// Waits until the last request was answered.
    fn wait(&self) -> Next {
        let inner = self.lock();
        let waits = |inner: &mut TurnInner| inner.exchange.is_some() && !inner.tunnel && !inner.server_ended;
        let inner = self.changed.wait_while(inner, waits).unwrap_or_else(PoisonError::into_inner);
        match (inner.tunnel, inner.server_ended) {
            (true, _) => Next::Tunnel,
            (false, true) => Next::Nothing,
            (false, false) => Next::Request,
        }
    }

    fn change(&self, change: impl FnOnce(&mut TurnInner)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

struct Connection<'a> {
    shared: &'a Arc<Shared>,
    number: u64,
    client: TcpStream,
    turn: Arc<Turn>,
    /// Once there was something to pass on.
    server: Option<(Upstream, JoinHandle<()>)>,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Arc<Shared>, number: u64, client: TcpStream) -> Self {
        Self { shared, number, client, turn: Arc::default(), server: None }
    }

    fn serve(mut self) {
        let ended_well = match self.client.try_clone() {
            Ok(stream) => self.requests(Input::new(stream)),
            Err(error) => Err(error),
        };
        let Some((upstream, answers)) = self.server.take() else {
            _ = self.client.shutdown(Shutdown::Both);
            return;
        };
        match ended_well {
            // It may still read: the answer, or what comes through the tunnel.
            Ok(()) => {
                let mut in_use = false;
                self.turn.change(|turn| {
                    turn.client_ended = true;
                    in_use = turn.tunnel || turn.exchange.is_some();
                });
                upstream.shutdown(if in_use { Shutdown::Write } else { Shutdown::Both });
            }
            Err(_) => {
                self.turn.change(|turn| turn.client_ended = true);
                _ = self.client.shutdown(Shutdown::Both);
                upstream.shutdown(Shutdown::Both);
            }
        }
        _ = answers.join();
        _ = self.client.shutdown(Shutdown::Both);
    }

    /// Until the client sends nothing any more. An error means that the connection is cut.
    fn requests(&mut self, mut input: Input<TcpStream>) -> io::Result<()> {
        loop {
            if input.buffer.is_empty() && !input.fill()? {
                return Ok(());
            }
            match self.turn.wait() {
                Next::Request => {}
                Next::Tunnel => return self.tunnel(input),
                Next::Nothing => return Err(cut()),
            }
            let Some(head) = input.head()? else { return Ok(()) };
            let request = head::request(&head)?;
            let rule = self.shared.request(&request.method, &request.target);
            match rule.as_ref().map(|rule| (rule.rule().fault, rule)) {
                Some((HttpFault::Status(status), _)) => self.refuse(&mut input, &request, status, "")?,
                Some((HttpFault::TooManyRequests { retry_after }, _)) => {
                    let header = format!("Retry-After: {}\r\n", retry_after.as_secs());
                    self.refuse(&mut input, &request, 429, &header)?;
                }
                Some((HttpFault::CutBefore, _)) => return Err(cut()),
                Some((HttpFault::Hang, rule)) => {
                    rule.hang(&self.client);
                    while input.fill()? {
                        input.buffer.clear();
                    }
                    return Err(cut());
                }
                Some((HttpFault::DelayBefore(time), rule)) => {
                    rule.pause(time);
                    if is_gone(&self.client) {
                        return Err(cut());
                    }
                    self.pass_on(&mut input, &head, request, None)?;
                }
                Some((fault, _)) => self.pass_on(&mut input, &head, request, Some(fault).zip(rule))?,
                None => self.pass_on(&mut input, &head, request, None)?,
            }
        }
    }

    /// Answers in the place of the server.
    fn refuse(
        &mut self,
        input: &mut Input<TcpStream>,
        request: &RequestHead,
        status: u16,
        header: &str,
    ) -> io::Result<()> {
        // Whoever asks whether to send a body may send none after this.
        let closes = request.closes || request.expects;
        if !request.expects && !input.body(request.body, |_| Ok(()))? {
            return Err(cut());
        }
        self.client.write_all(empty_answer(status, header, closes).as_bytes())?;
        if closes { Err(cut()) } else { Ok(()) }
    }

    fn pass_on(
        &mut self,
        input: &mut Input<TcpStream>,
        head: &[u8],
        request: RequestHead,
        fault: Option<(HttpFault, Arc<ActiveRule>)>,
    ) -> io::Result<()> {
        let RequestHead { method, body, closes, .. } = request;
        self.turn.begin(Exchange { method, closes, fault });
        let upstream = self.connect()?;
        // A server that has ended its side may have said why: its answer is passed on.
        let mut is_taken = upstream.write_all(head).is_ok();
        let whole = input.body(body, |piece| {
            is_taken = is_taken && upstream.write_all(piece).is_ok();
            Ok(())
        })?;
        if whole { Ok(()) } else { Err(cut()) }
    }

    /// The connection to the server; the first time it is made, with the thread that reads from it.
    fn connect(&mut self) -> io::Result<&mut Upstream> {
        if self.server.is_none() {
            let upstream = self.shared.server.connect()?;
            if !self.shared.connected(self.number, upstream.try_clone()?) {
                return Err(cut());
            }
            let mut answers = Answers {
                input: Input::new(upstream.try_clone()?),
                client: self.client.try_clone()?,
                turn: self.turn.clone(),
            };
            let thread = std::thread::Builder::new().name("faulty http answers".to_owned());
            self.server = Some((upstream, thread.spawn(move || answers.run())?));
        }
        match &mut self.server {
            Some((upstream, _)) => Ok(upstream),
            None => Err(cut()),
        }
    }

    fn tunnel(&mut self, mut input: Input<TcpStream>) -> io::Result<()> {
        let upstream = self.connect()?;
        loop {
            upstream.write_all(&input.buffer)?;
            input.buffer.clear();
            if !input.fill()? {
                return Ok(());
            }
        }
    }
}

fn cut() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted)
}

/// Whether the client has ended its side, as far as that can be seen without reading. Nothing else is done with the
/// connection meanwhile: no request is under way.
fn is_gone(client: &TcpStream) -> bool {
    if client.set_nonblocking(true).is_err() {
        return true;
    }
    let gone = match client.peek(&mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    client.set_nonblocking(false).is_err() || gone
}

fn empty_answer(status: u16, header: &str, closes: bool) -> String {
    let close = if closes { "Connection: close\r\n" } else { "" };
    format!("HTTP/1.1 {status} Injected Fault\r\n{header}{close}Content-Length: 0\r\n\r\n")
}

/// The side that reads from the server.
struct Answers {
    input: Input<Upstream>,
    client: TcpStream,
    turn: Arc<Turn>,
}

impl Answers {
    fn run(&mut self) {
        if self.answers().is_err() {
            _ = self.client.shutdown(Shutdown::Both);
        }
        self.turn.change(|turn| turn.server_ended = true);
        self.input.stream.shutdown(Shutdown::Both);
    }

    /// Until the server, or an answer, has ended the connection.
    fn answers(&mut self) -> io::Result<()> {
        loop {
            if self.input.buffer.is_empty() && !self.input.fill()? {
                return Err(cut());
            }
            let Some(exchange) = self.turn.lock().exchange.clone() else {
                // A server may say why it closes.
                return self.client.write_all(&self.input.buffer).and_then(|()| Err(cut()));
            };
            let Some((head, answer)) = self.final_head(&exchange.method)? else { return Err(cut()) };
            if answer.tunnel {
                return self.tunnel(&head);
            }
            let closes = answer.closes || exchange.closes;
            self.answer(&head, &answer, exchange.fault, closes)?;
            let mut client_ended = false;
            self.turn.change(|turn| {
                turn.exchange = None;
                client_ended = turn.client_ended;
            });
            if closes || client_ended {
                return Err(cut());
            }
        }
    }

    /// Passes on answers before the answer.
    fn final_head(&mut self, method: &str) -> io::Result<Option<(Vec<u8>, ResponseHead)>> {
        loop {
            let Some(head) = self.input.head()? else { return Ok(None) };
            let answer = head::response(method, &head)?;
            if !answer.is_interim() {
                return Ok(Some((head, answer)));
            }
            self.client.write_all(&head)?;
        }
    }

    fn answer(
        &mut self,
        head: &[u8],
        answer: &ResponseHead,
        fault: Option<(HttpFault, Arc<ActiveRule>)>,
        closes: bool,
    ) -> io::Result<()> {
        let Self { input, client, .. } = self;
        match fault {
            Some((HttpFault::StatusAfter(status), _)) => {
                input.body(answer.body, |_| Ok(()))?;
                client.write_all(empty_answer(status, "", closes).as_bytes())
            }
            Some((HttpFault::CutAfter, _)) => {
                input.body(answer.body, |_| Ok(()))?;
                Err(cut())
            }
            Some((HttpFault::CutMidAnswer, _)) => {
                input.body(answer.body, |_| Ok(()))?;
                let first_line = head.iter().position(|byte| *byte == b'\n').unwrap_or(head.len());
                client.write_all(&head[..first_line / 2])?;
                Err(cut())
            }
            Some((HttpFault::TruncatedBody(bytes), _)) => {
                client.write_all(head)?;
                let mut left = bytes;
                input.body(answer.body, |piece| {
                    let passed = piece.len().min(left);
                    client.write_all(&piece[..passed])?;
                    left -= passed;
                    if passed < piece.len() { Err(cut()) } else { Ok(()) }
                })?;
                Ok(())
            }
            Some((HttpFault::Trickle { bytes, pause }, rule)) => {
                let mut trickle = |piece: &[u8]| {
                    piece.chunks(bytes.max(1)).try_for_each(|drop| {
                        client.write_all(drop)?;
                        rule.pause(pause);
                        Ok(())
                    })
                };
                trickle(head)?;
                whole(input.body(answer.body, trickle)?)
            }
            Some((HttpFault::DelayAnswer(time), rule)) => {
                rule.pause(time);
                client.write_all(head)?;
                whole(input.body(answer.body, |piece| client.write_all(piece))?)
            }
            _ => {
                client.write_all(head)?;
                whole(input.body(answer.body, |piece| client.write_all(piece))?)
            }
        }
    }

    fn tunnel(&mut self, head: &[u8]) -> io::Result<()> {
        self.client.write_all(head)?;
        self.turn.change(|turn| turn.tunnel = true);
        loop {
            self.client.write_all(&self.input.buffer)?;
            self.input.buffer.clear();
            if !self.input.fill()? {
                // The client may go on sending.
                self.client.shutdown(Shutdown::Write)?;
                return self.until_client_ends();
            }
        }
    }

    /// The other direction of a tunnel is the other thread's; the connection to the server must not be shut before.
    fn until_client_ends(&self) -> io::Result<()> {
        let inner = self.turn.lock();
        drop(self.turn.changed.wait_while(inner, |inner| !inner.client_ended));
        Ok(())
    }
}

/// A server that ends in the middle of an answer is passed on as such.
fn whole(whole: bool) -> io::Result<()> {
    if whole { Ok(()) } else { Err(cut()) }
}
