//! A driver that speaks HTTP, with the faults of `FaultyHttp`: what the kit and the proxy are for together.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use latent_worker::testing::conformance::{Fault, Subject};
use latent_worker::testing::{FaultyHttp, HttpFault, HttpRule};
use latent_worker::{
    FailureCause, Health, LatentWorker, Leftover, Reclaimed, StartError, StartRequest, Started, StopError, StopRequest,
};

type Machines = Arc<Mutex<BTreeSet<String>>>;

/// `POST`, `GET` and `DELETE` of `/machines/NAME`, one request on each connection.
fn provider(machines: Machines) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            _ = serve(&machines, stream.unwrap());
        }
    });
    address
}

fn serve(machines: &Machines, mut stream: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let name = path.strip_prefix("/machines/").unwrap();
    let mut machines = machines.lock().unwrap();
    let found = match method {
        "POST" => {
            machines.insert(name.to_owned());
            true
        }
        "DELETE" => machines.remove(name),
        _ => machines.contains(name),
    };
    let status = if found { "200 OK" } else { "404 Not Found" };
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
}

struct Driver {
    provider: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("too many requests")]
    Throttled(Option<Duration>),
}

impl From<Refused> for StartErrorOf {
    fn from(refused: Refused) -> Self {
        Self(match refused {
            Refused::Throttled(retry_after) => {
                StartError::failed(FailureCause::Throttled { retry_after }, "too many requests")
            }
            other => StartError::infrastructure(other),
        })
    }
}

struct StartErrorOf(StartError);

impl Driver {
    /// False when there is no such machine.
    fn request(&self, method: &str, name: &str) -> Result<bool, Refused> {
        let mut stream = TcpStream::connect(self.provider)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(stream, "{method} /machines/{name} HTTP/1.1\r\nHost: cloud\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.split(' ').nth(1).and_then(|status| status.parse().ok()) {
            Some(200) => Ok(true),
            Some(404) => Ok(false),
            Some(429) => {
                let seconds = answer.lines().find_map(|line| line.strip_prefix("Retry-After: ")?.parse().ok());
                Err(Refused::Throttled(seconds.map(Duration::from_secs)))
            }
            Some(status) => Err(Refused::Status(status)),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// What is gone is gone; what nobody has answered about is asked for once more.
    fn remove(&self, name: &str) -> Result<(), Refused> {
        self.request("DELETE", name).or_else(|_| self.request("DELETE", name)).map(drop)
    }

    fn start(&self, start: &StartRequest<'_>) -> Result<String, StartErrorOf> {
        let name = start.key().to_owned();
        start.record(&name).map_err(|error| StartErrorOf(error.into()))?;
        self.request("POST", &name)?;
        // 503: not booted yet.
        while let Err(refused) = self.request("GET", &name) {
            if !matches!(refused, Refused::Status(503)) {
                return Err(refused.into());
            }
            start.sleep(Duration::from_millis(5)).map_err(|cancelled| StartErrorOf(cancelled.into()))?;
        }
        Ok(name)
    }
}

impl LatentWorker for Driver {
    type Instance = String;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<String>, StartError> {
        self.start(start).map(Started::new).map_err(|StartErrorOf(error)| error)
    }

    fn stop_instance(&self, stop: StopRequest<String>) -> Result<(), StopError> {
        Ok(self.remove(stop.key())?)
    }

    fn check_instance(&self, name: &String) -> Health {
        match self.request("GET", name) {
            Ok(false) => Health::bad("the machine is gone"),
            Ok(true) | Err(_) => Health::Good,
        }
    }

    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        self.remove(leftover.key())?;
        Ok(Reclaimed::Gone)
    }
}

/// With what is done to a request that creates, and to one that removes.
fn run(after_create: HttpFault, after_remove: HttpFault) {
    let machines = Machines::default();
    let proxy = Arc::new(FaultyHttp::to(provider(machines.clone())).unwrap());
    let provider = proxy.address();
    let (listed, destroyed) = (machines.clone(), machines);
    let list = move || listed.lock().unwrap().iter().cloned().collect();
    let mut subject = Subject::new("machines behind HTTP", move || Driver { provider }, list)
        .destroy(move |name| _ = destroyed.lock().unwrap().remove(name));
    for (fault, rule) in [
        (Fault::ErrorAfterCreate, HttpRule::new(after_create).method("POST")),
        (Fault::ErrorAfterRemove, HttpRule::new(after_remove).method("DELETE")),
        (Fault::SlowStart, HttpRule::new(HttpFault::Status(503)).method("GET")),
        (
            Fault::Throttled,
            HttpRule::new(HttpFault::TooManyRequests { retry_after: Duration::from_secs(1) })
                .path_contains("/machines/"),
        ),
        (Fault::Unavailable, HttpRule::new(HttpFault::CutBefore)),
    ] {
        let proxy = proxy.clone();
        subject = subject.fault(fault, move || proxy.inject(rule.clone()));
    }
    let report = subject.settle(Duration::from_millis(300)).run();
    println!("{report}");
    report.expect_all_but(&[
        "w11_incompatible_build",
        "d6_lagging_list",
        "d6_lagging_reclaim",
        "d6_vanishes",
        "d2_failed_start",
        "b3_impossible_build",
    ]);
    assert!(proxy.request_count() > 100);
}

#[test]
fn d6_http_with_errors() {
    run(HttpFault::StatusAfter(500), HttpFault::StatusAfter(500));
}

#[test]
fn d6_http_with_cut_connections() {
    run(HttpFault::CutAfter, HttpFault::CutMidAnswer);
}
