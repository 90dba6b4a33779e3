//! moto: a server that speaks the provider's API and has no machines.
//!
//! One of them serves all tests, each with an account of its own; it ends when this process does.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use moto_server::MotoServer;

#[path = "../../../src/drivers/ec2/aws/tests/moto_server.rs"]
mod moto_server;

pub(crate) struct Moto {
    pub(crate) address: SocketAddr,
    _server: MotoServer,
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
        let server = MotoServer::start();
        Self { address: server.address, _server: server, accounts: AtomicU64::new(100_000_000_001) }
    }

    /// An account that no other test uses, twelve digits.
    pub(crate) fn account(&self) -> u64 {
        self.accounts.fetch_add(1, Ordering::Relaxed)
    }
}

/// All that is left of a stream.
pub(crate) fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // One that was cut has said what it has said.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}
