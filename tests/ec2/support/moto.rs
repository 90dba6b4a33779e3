//! moto: a server that speaks the provider's API and has no machines.
//!
//! One of them serves all tests, each with an account of its own; it ends when this process does.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// It imports a lot.
const START_LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct Moto {
    pub(crate) address: SocketAddr,
    /// Ends when its standard input does.
    _process: Child,
    accounts: AtomicU64,
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
        Self { address, _process: process, accounts: AtomicU64::new(100_000_000_001) }
    }

    /// An account that no other test uses, twelve digits.
    pub(crate) fn account(&self) -> u64 {
        self.accounts.fetch_add(1, Ordering::Relaxed)
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
