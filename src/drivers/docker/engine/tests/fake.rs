//! An engine of the test's own: it accepts connections, and does with each what the test says.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::super::EngineAddress;

pub(super) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One connection, on a thread of its own. Closed when dropped.
pub(super) struct Peer(BufReader<Box<dyn Stream>>);

/// What was asked.
#[derive(Debug)]
pub(super) struct Asked {
    /// `GET /v1.41/version`.
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(its, _)| its == name).map(|(_, value)| value.as_str())
    }
}

impl Peer {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        Self(BufReader::new(Box::new(stream)))
    }

    /// The next request; none when the client has closed the connection.
    pub(super) fn asked(&mut self) -> Option<Asked> {
        let mut asked = self.asked_without_body()?;
        let body = &mut asked.body;
        if let Some(length) = asked.headers.iter().find(|(name, _)| name == "content-length") {
            body.resize(length.1.parse().unwrap(), 0);
            self.0.read_exact(body).ok()?;
        } else if asked.headers.iter().any(|(name, _)| name == "transfer-encoding") {
            loop {
                let length = usize::from_str_radix(&self.line()?, 16).unwrap();
                let begin = body.len();
                body.resize(begin + length, 0);
                self.0.read_exact(&mut body[begin..]).ok()?;
                assert_eq!(self.line()?, "");
                if length == 0 {
                    break;
                }
            }
        }
        Some(asked)
    }

    pub(super) fn asked_without_body(&mut self) -> Option<Asked> {
        let line = self.line()?;
        let line = line.strip_suffix(" HTTP/1.1").unwrap().to_owned();
        let mut headers = Vec::new();
        loop {
            match self.line()?.split_once(':') {
                Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
                None => return Some(Asked { line, headers, body: Vec::new() }),
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(count) if count > 0 => Some(line.trim_end().to_owned()),
            _ => None,
        }
    }

    /// The next request but greetings, which are answered as an engine of this version would.
    pub(super) fn asked_of(&mut self, version: &str) -> Option<Asked> {
        loop {
            let asked = self.asked()?;
            if asked.line != "GET /_ping" {
                return Some(asked);
            }
            self.pong(version);
        }
    }

    pub(super) fn pong(&mut self, version: &str) {
        self.send(format!("HTTP/1.1 200 OK\r\nApi-Version: {version}\r\nContent-Length: 2\r\n\r\nOK"));
    }

    /// With a length.
    pub(super) fn answer(&mut self, status: u16, body: &str) {
        self.send(format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    }

    /// The head of an answer in chunks, and these.
    pub(super) fn begin_chunks(&mut self, chunks: &[&[u8]]) {
        self.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        chunks.iter().for_each(|chunk| self.chunk(chunk));
    }

    /// An empty one is the end.
    pub(super) fn chunk(&mut self, chunk: &[u8]) {
        self.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    }

    /// A client that has gone is none of our business.
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.try_send(bytes.as_ref());
    }

    pub(super) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)?;
        self.0.get_mut().flush()
    }

    pub(super) fn skip(&mut self, count: u64) {
        let skipped = io::copy(&mut self.0.by_ref().take(count), &mut io::sink());
        assert_eq!(skipped.unwrap(), count);
    }

    /// Until the client has closed the connection.
    pub(super) fn wait_for_the_end(&mut self) {
        let _ = io::copy(&mut self.0, &mut io::sink());
    }
}

pub(super) struct Fake {
    address: EngineAddress,
    count: Arc<AtomicUsize>,
}

impl Fake {
    /// `serve` gets the number of the connection, from 0 on.
    pub(super) fn unix(directory: &Path, serve: impl Fn(usize, Peer) + Send + Sync + 'static) -> Self {
        let path = directory.join("engine.sock");
        let listener = UnixListener::bind(&path).unwrap();
        Self::serving(EngineAddress::unix(path), serve, move || listener.accept().unwrap().0)
    }

    pub(super) fn tcp(serve: impl Fn(usize, Peer) + Send + Sync + 'static) -> Self {
        let (address, accept) = listening();
        Self::serving(format!("tcp://{address}").parse().unwrap(), serve, accept)
    }

    fn serving<S: Stream + 'static>(
        address: EngineAddress,
        serve: impl Fn(usize, Peer) + Send + Sync + 'static,
        accept: impl Fn() -> S + Send + 'static,
    ) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let (counted, serve) = (count.clone(), Arc::new(serve));
        // Both kinds of threads end with the test's process.
        thread::spawn(move || {
            loop {
                let stream = accept();
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let serve = serve.clone();
                thread::spawn(move || serve(number, Peer::new(stream)));
            }
        });
        Self { address, count }
    }

    pub(super) fn address(&self) -> EngineAddress {
        self.address.clone()
    }

    /// So many connections have been made.
    pub(super) fn connections(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

pub(super) fn listening() -> (SocketAddr, impl Fn() -> TcpStream + Send + 'static) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap(), move || listener.accept().unwrap().0)
}

/// A socket that is listened on, whose queue is full: nobody accepts.
pub(super) fn full(directory: &Path) -> (EngineAddress, (UnixListener, Vec<UnixStream>)) {
    let path = directory.join("full.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    // With a queue of 0 there is room for one.
    let waiting = UnixStream::connect(&path).unwrap();
    (EngineAddress::unix(path), (listener, vec![waiting]))
}
