//! Tests that agents can log in while another address floods the listener with connections.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use latent_worker::testing::PATIENCE;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::World;
use crate::fake::{Fake, basic, request, status};

const FLOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How many connections of a flood are open at the same time.
const OPEN: usize = 300;

/// Opens a connection from this address of the machine.
fn connect_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    // Reset when it is closed: thousands of closed connections that linger would take the ports that other tests need.
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    bind(&socket, &SocketAddrV4::new(source, 0))?;
    connect(&socket, &address)?;
    Ok(socket.into())
}

/// Opens silent connections from one address, one after the other, until it is dropped.
struct Flood {
    over: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    fn begin(address: SocketAddr, says: &'static [u8]) -> Self {
        let (over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (is_over, counted) = (over.clone(), count.clone());
        let thread = thread::spawn(move || {
            let mut open: Vec<Option<TcpStream>> = (0..OPEN).map(|_| None).collect();
            for number in 0.. {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(mut socket) = connect_from(FLOOD, address) {
                    let _ = socket.write_all(says);
                    open[number % OPEN] = Some(socket);
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let flood = Self { over, count, thread: Some(thread) };
        while flood.count() < OPEN {
            thread::yield_now();
        }
        flood
    }

    /// Waits until as many further connections were opened as may be open at the same time.
    fn go_on(&self) {
        let before = self.count();
        while self.count() < before + OPEN {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Logs in as an agent that is far away: the flood goes on between the two halves of its request, for as many connections
/// as there may be.
fn log_in_slowly(source: Ipv4Addr, world: &World, flood: &Flood, name: &str, secret: &str) -> Option<Fake> {
    let mut socket = connect_from(source, world.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = request(Some(&basic(name, secret)));
    let (first, second) = request.as_bytes().split_at(20);
    socket.write_all(first).ok()?;
    flood.go_on();
    socket.write_all(second).ok()?;
    (status(&mut socket) == Some(101)).then(|| Fake::over(socket))
}

fn agents_log_in_during_a_flood(says: &'static [u8]) {
    let mut world = World::with(|listener| listener.handshake_timeout(PATIENCE));
    let workers: Vec<_> = (0..20).map(|number| world.started(&format!("agent-{number}"))).collect();
    let flood = Flood::begin(world.address(), says);
    let agent = Ipv4Addr::new(127, 0, 0, 3);
    let fakes: Vec<_> = workers
        .iter()
        .enumerate()
        .map(|(number, (.., secret))| log_in_slowly(agent, &world, &flood, &format!("agent-{number}"), secret))
        .collect();
    let refused = fakes.iter().filter(|fake| fake.is_none()).count();
    assert_eq!(refused, 0, "of {} agents", fakes.len());
    drop((flood, fakes, workers));
    world.finish(Vec::new());
}

#[test]
fn a5_agents_log_in_while_another_address_floods_in_silence() {
    agents_log_in_during_a_flood(b"");
}

#[test]
fn a5_agents_log_in_while_another_address_floods_with_half_requests() {
    agents_log_in_during_a_flood(b"GET / HTTP/1.1\r\nHost: m");
}

/// All agents come from one address, and at once, when there is a flood from another one.
#[test]
fn a5_many_agents_behind_one_address_log_in_during_a_flood() {
    const AGENTS: usize = 150;
    let mut world = World::with(|listener| listener.handshake_timeout(PATIENCE));
    let workers: Vec<_> = (0..AGENTS).map(|number| world.started(&format!("agent-{number}"))).collect();
    let flood = Flood::begin(world.address(), b"G");
    let begun: Vec<_> = workers
        .iter()
        .enumerate()
        .map(|(number, (.., secret))| {
            let mut socket = connect_from(Ipv4Addr::new(127, 0, 0, 3), world.address()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let request = request(Some(&basic(&format!("agent-{number}"), secret)));
            socket.write_all(&request.as_bytes()[..20]).unwrap();
            (socket, request)
        })
        .collect();
    flood.go_on();
    let mut refused = 0;
    for (mut socket, request) in begun {
        let sent = socket.write_all(&request.as_bytes()[20..]);
        refused += usize::from(sent.is_err() || status(&mut socket) != Some(101));
    }
    assert_eq!(refused, 0, "of {AGENTS} agents");
    drop((flood, workers));
    world.finish(Vec::new());
}
