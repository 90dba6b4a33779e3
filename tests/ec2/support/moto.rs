//! moto: a server that speaks the provider's API and has no machines.
//!
//! One of them serves all tests, each in a region of its own; it ends when this process does.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// It imports a lot.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Those that moto has.
const REGIONS: [&str; 15] = [
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "eu-central-1",
    "eu-north-1",
    "ap-south-1",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ca-central-1",
];

pub(crate) struct Moto {
    pub(crate) address: SocketAddr,
    /// Ends when its standard input does.
    _process: Child,
    regions: AtomicUsize,
}

impl Moto {
    /// The one of all tests.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Moto> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// One for a test that changes what is the same in all regions.
    pub(crate) fn start() -> Self {
        let program = std::env::var("TEST_MOTO_SERVER").expect("TEST_MOTO_SERVER says where moto_server is");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let line = "\"$0\" -H 127.0.0.1 -p \"$1\" >/dev/null 2>&1 & moto=$!; read -r _; kill $moto";
        let process = Command::new("/bin/sh")
            .args(["-c", line, &program, &address.port().to_string()])
            .envs([
                ("MOTO_ENABLE_AMI_VALIDATION", "1"),
                ("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "1"),
                ("MOTO_EC2_LOAD_DEFAULT_AMIS", "false"),
            ])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "moto does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { address, _process: process, regions: AtomicUsize::new(0) }
    }

    /// A region that no other test uses.
    pub(crate) fn region(&self) -> &'static str {
        let next = self.regions.fetch_add(1, Ordering::Relaxed);
        REGIONS.get(next).expect("there are fewer tests than regions; use one for several cases")
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self._process.stdin.take());
        let _ = self._process.wait();
    }
}

/// All that is left of a stream.
pub(crate) fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // One that was cut has said what it has said.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}
