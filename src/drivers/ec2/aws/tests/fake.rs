//! A server on loopback that answers what a test says, one request after the other on each connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

/// What came.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Request {
    /// Such as `GET /a HTTP/1.1`.
    pub(in super::super) line: String,
    /// With names in lower case.
    pub(in super::super) headers: Vec<(String, String)>,
    pub(in super::super) body: String,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let mut request = Self { line: line(reader)?, ..Self::default() };
        loop {
            let header = line(reader)?;
            let Some((name, value)) = header.split_once(':') else { break };
            request.headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        request.body = String::from_utf8(body).unwrap();
        Ok(request)
    }

    pub(in super::super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(its, _)| its == name).map(|(_, value)| value.as_str())
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    match reader.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// Whole, with its length.
pub(in super::super) fn said(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

/// Of each request: what is said, and whether the connection lasts.
pub(in super::super) type Says = dyn Fn(&Request) -> (String, bool) + Send + Sync;

/// Until the process ends.
pub(in super::super) fn server(says: impl Fn(&Request) -> (String, bool) + Send + Sync + 'static) -> SocketAddr {
    let says: Arc<Says> = Arc::new(says);
    serve(move |stream| converse(stream, &*says))
}

/// Each connection on a thread of its own.
pub(in super::super) fn serve(serve: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address
}

pub(in super::super) fn converse(stream: impl Read + Write, says: &Says) {
    let mut reader = BufReader::new(stream);
    while let Ok(request) = Request::read(&mut reader) {
        let (answer, lasts) = says(&request);
        if reader.get_mut().write_all(answer.as_bytes()).and_then(|()| reader.get_mut().flush()).is_err() || !lasts {
            break;
        }
    }
}
