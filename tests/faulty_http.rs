//! The proxy of `testing` in front of a tiny server: all goes through unchanged, but for what a fault is for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use latent_worker::testing::{FaultyHttp, HttpFault, HttpRule, InjectedFault};

const LONG: Duration = Duration::from_secs(30);

/// Takes connections, and hands each to `serve` on a thread of its own.
fn server(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, stream) = (serve.clone(), stream.unwrap());
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head).unwrap())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A body of a known length or in chunks, undone.
fn body(head: &str, stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = header(head, "Content-Length") {
        body.resize(length.parse().unwrap(), 0);
        stream.read_exact(&mut body)?;
    } else if header(head, "Transfer-Encoding").is_some() {
        loop {
            let mut line = String::new();
            while !line.ends_with("\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                line.push(byte[0].into());
            }
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    Ok(body)
}

/// Answers each request with its own method, path and body, until the client ends; tells of each that was done.
fn echo(done: &mpsc::Sender<String>, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let head = head(&mut stream)?;
        if header(&head, "Expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = body(&head, &mut stream)?;
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let mut text = format!("{method} {path} ").into_bytes();
        text.extend(body);
        done.send(format!("{method} {path}")).unwrap();
        match path {
            "/chunks" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                for piece in text.chunks((text.len() / 100).max(5)) {
                    write!(stream, "{:x}\r\n", piece.len())?;
                    stream.write_all(piece)?;
                    stream.write_all(b"\r\n")?;
                }
                stream.write_all(b"0\r\n\r\n")?;
            }
            "/until-close" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                return stream.write_all(&text);
            }
            "/none" => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?,
            "/upgrade" => {
                stream.write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")?;
                let mut back = stream.try_clone()?;
                io::copy(&mut back, &mut stream)?;
                return stream.write_all(b"bye");
            }
            _ => {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len())?;
                if method != "HEAD" {
                    stream.write_all(&text)?;
                }
            }
        }
        if header(&head, "Connection") == Some("close") {
            return Ok(());
        }
    }
}

fn echo_server() -> (FaultyHttp, mpsc::Receiver<String>) {
    let (sender, done) = mpsc::channel();
    let address = server(move |stream| _ = echo(&sender, stream));
    (FaultyHttp::to(address).unwrap(), done)
}

struct Client(TcpStream);

impl Client {
    fn new(proxy: &FaultyHttp) -> Self {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Self(stream)
    }

    fn send(&mut self, method: &str, path: &str, body: &str) {
        let length = body.len();
        write!(self.0, "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    }

    fn answer(&mut self) -> io::Result<(u16, Vec<u8>)> {
        let head = head(&mut self.0)?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok((status, body(&head, &mut self.0)?))
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
        self.send(method, path, body);
        self.answer().map(|(status, body)| (status, String::from_utf8(body).unwrap()))
    }

    fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        if let Err(error) = self.0.read_to_end(&mut rest) {
            // So may a connection that is cut.
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        rest
    }
}

#[test]
fn healthy_exchanges_go_through_unchanged_on_one_connection() {
    let (proxy, done) = echo_server();
    let mut client = Client::new(&proxy);
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "/a?secret=b", "").unwrap(), (200, "GET /a?secret=b ".to_owned()));
        assert_eq!(client.ask("POST", "/a", "hello").unwrap(), (200, "POST /a hello".to_owned()));
        assert_eq!(client.ask("POST", "/chunks", "hello").unwrap(), (200, "POST /chunks hello".to_owned()));
        assert_eq!(client.ask("GET", "/none", "").unwrap(), (204, String::new()));
        client.send("HEAD", "/a", "");
        assert!(head(&mut client.0).unwrap().starts_with("HTTP/1.1 200"));
    }
    client.0.write_all(b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n").unwrap();
    assert_eq!(client.answer().unwrap(), (200, b"PUT /a abc".to_vec()));
    assert_eq!(done.try_iter().count(), 16);
    assert_eq!(proxy.request_count(), 16);
    assert_eq!(proxy.requests()[..2], ["GET /a", "POST /a"]);
    assert!(!format!("{:?} {proxy:?}", proxy.requests()).contains("secret"));
}

#[test]
fn requests_that_come_at_once_are_answered_in_their_order() {
    let (proxy, _done) = echo_server();
    let mut client = Client::new(&proxy);
    for path in ["/1", "/2", "/3"] {
        client.send("POST", path, "x");
    }
    client.0.shutdown(Shutdown::Write).unwrap();
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.answer().unwrap().1, format!("POST {path} x").as_bytes());
    }
    assert_eq!(client.rest(), b"");
}

#[test]
fn the_end_of_a_connection_is_passed_on_both_ways() {
    let (proxy, _done) = echo_server();
    let mut client = Client::new(&proxy);
    client.send("GET", "/until-close", "");
    assert_eq!(client.rest(), b"HTTP/1.1 200 OK\r\n\r\nGET /until-close ");
    let mut client = Client::new(&proxy);
    client.0.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    assert!(client.rest().ends_with(b"\r\n\r\nGET / "));

    // A client that gives up while it waits: the server sees that.
    let (sender, told) = mpsc::channel();
    let address = server(move |mut stream| {
        head(&mut stream).unwrap();
        sender.send("asked").unwrap();
        // A connection that is cut may be an error.
        _ = stream.read(&mut [0]);
        sender.send("gone").unwrap();
    });
    let proxy = FaultyHttp::to(address).unwrap();
    let mut client = Client::new(&proxy);
    client.send("GET", "/wait", "");
    assert_eq!(told.recv_timeout(LONG), Ok("asked"));
    drop(client);
    assert_eq!(told.recv_timeout(LONG), Ok("gone"));
}

#[test]
fn a_client_that_asks_before_it_sends_is_answered() {
    let (proxy, _done) = echo_server();
    let mut client = Client::new(&proxy);
    client.0.write_all(b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").unwrap();
    assert_eq!(head(&mut client.0).unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.0.write_all(b"ab").unwrap();
    assert_eq!(client.answer().unwrap(), (200, b"POST /a ab".to_vec()));
}

#[test]
fn after_an_upgrade_bytes_go_both_ways_and_each_way_has_its_own_end() {
    let (proxy, _done) = echo_server();
    let mut client = Client::new(&proxy);
    client.0.write_all(b"POST /upgrade HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly ").unwrap();
    assert!(head(&mut client.0).unwrap().starts_with("HTTP/1.1 101"));
    // More than all buffers hold, so that the two directions must not wait for each other.
    let much = vec![b'x'; 8 << 20];
    let mut sending = client.0.try_clone().unwrap();
    let sent = much.clone();
    let sender = thread::spawn(move || {
        sending.write_all(&sent).unwrap();
        sending.shutdown(Shutdown::Write).unwrap();
    });
    let received = client.rest();
    sender.join().unwrap();
    assert_eq!(received, [b"early ", &much[..], b"bye"].concat());
}

#[test]
fn a_large_body_is_streamed() {
    let (proxy, _done) = echo_server();
    let mut client = Client::new(&proxy);
    let much = "y".repeat(4 << 20);
    assert!(client.ask("POST", "/a", &much).unwrap().1.ends_with(&much));
    assert!(client.ask("POST", "/chunks", &much).unwrap().1.ends_with(&much));
}

#[test]
fn an_answer_that_comes_before_the_request_is_whole_is_passed_on() {
    let address = server(|mut stream| {
        head(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").unwrap();
        // It reads what comes all the same, as a server does that wants its answer to be read.
        _ = io::copy(&mut stream, &mut io::sink());
    });
    let proxy = FaultyHttp::to(address).unwrap();
    let mut client = Client::new(&proxy);
    client.0.write_all(b"POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\nsome").unwrap();
    assert_eq!(client.answer().unwrap().0, 413);
}

/// What the client hears when one request meets a fault, and whether the server has done it.
fn with_fault(fault: HttpFault) -> (Vec<u8>, Vec<String>) {
    let (proxy, done) = echo_server();
    let injected = proxy.inject(HttpRule::new(fault).method("POST").path_contains("/create").times(1));
    let mut client = Client::new(&proxy);
    // Another request is not touched.
    assert_eq!(client.ask("GET", "/create", "").unwrap().0, 200);
    client.0.write_all(b"POST /create HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    let heard = client.rest();
    assert_eq!(injected.met(), 1);
    // Nor is the next one.
    assert_eq!(Client::new(&proxy).ask("POST", "/create", "").unwrap().0, 200);
    (heard, done.try_iter().collect())
}

const NOT_DONE: [&str; 2] = ["GET /create", "POST /create"];
const DONE: [&str; 3] = ["GET /create", "POST /create", "POST /create"];

#[test]
fn a_request_that_is_refused_was_not_done() {
    let (heard, done) = with_fault(HttpFault::Status(503));
    assert_eq!(heard, b"HTTP/1.1 503 Injected Fault\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(done, NOT_DONE);
    let (heard, done) = with_fault(HttpFault::TooManyRequests { retry_after: Duration::from_secs(7) });
    assert!(heard.starts_with(b"HTTP/1.1 429 Injected Fault\r\nRetry-After: 7\r\n"));
    assert_eq!(done, NOT_DONE);
    assert_eq!(with_fault(HttpFault::CutBefore), (Vec::new(), NOT_DONE.map(str::to_owned).into()));
}

#[test]
fn an_error_after_success_was_done() {
    let (heard, done) = with_fault(HttpFault::StatusAfter(500));
    assert_eq!(heard, b"HTTP/1.1 500 Injected Fault\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(done, DONE);
    assert_eq!(with_fault(HttpFault::CutAfter), (Vec::new(), DONE.map(str::to_owned).into()));
    let (heard, done) = with_fault(HttpFault::CutMidAnswer);
    assert_eq!((&heard[..], done), (&b"HTTP/1.1"[..], DONE.map(str::to_owned).into()));
    let (heard, done) = with_fault(HttpFault::TruncatedBody(6));
    assert!(heard.ends_with(b"Content-Length: 16\r\n\r\nPOST /"), "{}", String::from_utf8_lossy(&heard));
    assert_eq!(done, DONE);
}

#[test]
fn a_connection_goes_on_after_a_status() {
    let (proxy, _done) = echo_server();
    let mut client = Client::new(&proxy);
    for fault in [HttpFault::Status(500), HttpFault::StatusAfter(500)] {
        let injected = proxy.inject(HttpRule::new(fault));
        assert_eq!(client.ask("HEAD", "/a", "").unwrap().0, 500);
        assert_eq!(client.ask("POST", "/a", "body").unwrap(), (500, String::new()));
        drop(injected);
        assert_eq!(client.ask("POST", "/a", "body").unwrap(), (200, "POST /a body".to_owned()));
    }
}

#[test]
fn a_slow_answer_is_slow_and_whole() {
    let pause = Duration::from_millis(20);
    let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\nPOST /create abc";
    for (fault, least) in [
        (HttpFault::DelayBefore(pause), pause),
        (HttpFault::DelayAnswer(pause), pause),
        (HttpFault::Trickle { bytes: 10, pause }, pause * 4),
    ] {
        let begun = Instant::now();
        let (heard, done) = with_fault(fault);
        assert_eq!(String::from_utf8_lossy(&heard), String::from_utf8_lossy(&whole[..]), "{fault:?}");
        assert!(begun.elapsed() >= least, "{fault:?}");
        assert_eq!(done, DONE);
    }
}

/// An hour is over when the rule is taken away.
#[test]
fn what_is_held_back_goes_on_when_the_fault_is_taken_away() {
    let hour = Duration::from_secs(3600);
    for fault in
        [HttpFault::DelayBefore(hour), HttpFault::DelayAnswer(hour), HttpFault::Trickle { bytes: 1, pause: hour }]
    {
        let (proxy, _done) = echo_server();
        let injected = proxy.inject(HttpRule::new(fault));
        let mut client = Client::new(&proxy);
        client.send("GET", "/a", "");
        while injected.met() == 0 {
            thread::yield_now();
        }
        drop(injected);
        assert_eq!(client.answer().unwrap(), (200, b"GET /a ".to_vec()), "{fault:?}");
    }
}

#[test]
fn a_request_that_is_held_back_is_never_passed_on_when_its_client_has_gone() {
    let (proxy, done) = echo_server();
    let injected = proxy.inject(HttpRule::new(HttpFault::DelayBefore(Duration::from_secs(3600))).times(1));
    let mut client = Client::new(&proxy);
    client.send("POST", "/create", "");
    while injected.met() == 0 {
        thread::yield_now();
    }
    drop(client);
    // The end of the connection is there before a new one is, on this machine's own interface.
    assert_eq!(Client::new(&proxy).ask("GET", "/a", "").unwrap().0, 200);
    proxy.clear();
    assert_eq!(Client::new(&proxy).ask("GET", "/b", "").unwrap().0, 200);
    drop(proxy);
    assert_eq!(done.try_iter().collect::<Vec<_>>(), ["GET /a", "GET /b"]);
}

#[test]
fn a_hanging_request_ends_with_its_fault_its_client_or_the_proxy() {
    let (proxy, done) = echo_server();
    // It hangs when the fault has met it, and not as soon as it is counted.
    let hang = |injected: &InjectedFault| {
        let before = injected.met();
        let mut client = Client::new(&proxy);
        client.send("GET", "/a", "");
        while injected.met() == before {
            thread::yield_now();
        }
        client
    };
    let injected = proxy.inject(HttpRule::new(HttpFault::Hang));
    let (first, gone) = (hang(&injected), hang(&injected));
    drop(gone);
    drop(injected);
    assert_eq!(first.rest(), b"");
    let injected = proxy.inject(HttpRule::new(HttpFault::Hang));
    let second = hang(&injected);
    let begun = Instant::now();
    drop(proxy);
    assert!(begun.elapsed() < Duration::from_secs(5), "the threads have ended");
    assert_eq!(second.rest(), b"");
    assert_eq!(done.try_iter().count(), 0);
}

#[test]
fn a_drop_cuts_what_the_server_hangs_in() {
    let (sender, told) = mpsc::channel();
    let address = server(move |mut stream| {
        head(&mut stream).unwrap();
        sender.send(()).unwrap();
        _ = stream.read(&mut [0]);
        sender.send(()).unwrap();
    });
    let proxy = FaultyHttp::to(address).unwrap();
    let mut client = Client::new(&proxy);
    client.send("GET", "/wait", "");
    told.recv_timeout(LONG).unwrap();
    let begun = Instant::now();
    drop(proxy);
    assert!(begun.elapsed() < Duration::from_secs(5), "the threads have ended");
    assert_eq!(client.rest(), b"");
    told.recv_timeout(LONG).unwrap();
}

#[test]
fn the_first_rule_that_has_not_been_used_up_is_used() {
    let (proxy, _done) = echo_server();
    let first = proxy.inject(HttpRule::new(HttpFault::Status(501)).skip(1).times(1));
    let second = proxy.inject(HttpRule::new(HttpFault::Status(502)).times(2));
    let mut client = Client::new(&proxy);
    let statuses: Vec<_> = (0..4).map(|_| client.ask("GET", "/", "").unwrap().0).collect();
    assert_eq!(statuses, [502, 501, 502, 200]);
    assert_eq!((first.met(), second.met()), (1, 2));
}

#[test]
fn a_server_that_is_not_there_and_bytes_that_are_no_http_cut_the_connection() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = FaultyHttp::to(nobody).unwrap();
    let mut client = Client::new(&proxy);
    client.send("GET", "/", "");
    assert_eq!(client.rest(), b"");

    let (proxy, _done) = echo_server();
    let mut client = Client::new(&proxy);
    client.0.write_all(b"\x16\x03\x01 hello\r\n\r\n").unwrap();
    assert_eq!(client.rest(), b"");
}

#[cfg(unix)]
#[test]
fn a_server_on_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("lw-faulty-{}", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while head(&mut stream).is_ok() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let proxy = FaultyHttp::to_unix(&path).unwrap();
    let mut client = Client::new(&proxy);
    for _ in 0..2 {
        assert_eq!(client.ask("GET", "/", "").unwrap(), (200, "ok".to_owned()));
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn many_clients_at_once() {
    let (proxy, _done) = echo_server();
    thread::scope(|scope| {
        for number in 0..20 {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut client = Client::new(proxy);
                for round in 0..50 {
                    let body = format!("{number} {round}");
                    assert_eq!(client.ask("POST", "/a", &body).unwrap(), (200, format!("POST /a {body}")));
                }
            });
        }
    });
    assert_eq!(proxy.request_count(), 1000);
}
