//! Agents over TLS: everything passes through it unchanged, and nobody comes in that should not.
//!
//! The certificates beside this file are made by `make-certificates.sh`.
#![cfg(unix)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use latent_worker::testing::{Script, ScriptedWorker};
use latent_worker::{
    AgentClient, AgentClientBuilder, AgentClientError, AgentEnd, AgentListener, AgentListenerBuilder, Build, Command,
    Exit, Lease, LocalAgent, Master, Output, Secret, ShutdownMode, Substantiation, Worker, WorkerConfig,
};

/// The longest wait for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Settings with a certificate and its key.
fn showing(name: &str) -> AgentListenerBuilder {
    let files = (pem(&format!("{name}.pem")), pem(&format!("{name}.key.pem")));
    AgentListener::builder().tls_from_files(files.0, files.1).unwrap()
}

/// A master with one worker, whose instance is started by the test itself.
struct World {
    master: Master,
    listener: AgentListener,
    worker: Worker,
    script: Script,
}

impl World {
    fn new(listener: AgentListenerBuilder) -> Self {
        let master = Master::new();
        let listener = listener.bind(&master, "127.0.0.1:0").unwrap();
        let (driver, script) = ScriptedWorker::new();
        let worker = master.add_worker(WorkerConfig::new("w"), driver).unwrap();
        Self { master, listener, worker, script }
    }

    fn address(&self) -> SocketAddr {
        self.listener.addresses()[0]
    }

    /// An attempt whose agent is missing, and its secret.
    fn started(&self) -> (Substantiation<Lease>, Secret) {
        let request = self.worker.substantiate(&Build::new("a build"));
        let start = self.script.expect_start();
        let secret = start.secret().clone();
        start.succeed();
        self.script.automate_all();
        (request, secret)
    }

    fn client(&self, secret: &Secret) -> AgentClientBuilder {
        AgentClient::builder(self.address().to_string(), "w", secret.clone())
    }

    /// Why an agent does not attach.
    fn refusal(&self, client: AgentClientBuilder) -> String {
        let once = client.max_tries(NonZeroU32::MIN).connect_timeout(PATIENCE);
        let client = once.build(".", LocalAgent::in_directory("."));
        let (sender, ended) = bounded(1);
        std::thread::spawn(move || sender.send(client.run()));
        match ended.recv_timeout(2 * PATIENCE).expect("it gives up in time") {
            Err(AgentClientError::TriesExhausted { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn await_refused(&self, connections: u64) {
        // Nobody tells.
        let deadline = Instant::now() + PATIENCE;
        while self.listener.refused_connections() < connections {
            assert!(Instant::now() < deadline, "{} were refused", self.listener.refused_connections());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn finish(self) {
        self.script.automate_all();
        let report = self.master.shutdown(ShutdownMode::Fast, PATIENCE);
        assert!(report.complete, "{report}");
        assert!(self.listener.shutdown(PATIENCE), "threads are left");
    }
}

/// An agent on a thread, in a directory of its own.
struct Agent {
    directory: PathBuf,
    thread: JoinHandle<Result<AgentEnd, AgentClientError>>,
}

impl Agent {
    fn start(client: AgentClientBuilder, name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("lw-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let client = client.build(&directory, LocalAgent::in_directory(&directory));
        Self { directory, thread: std::thread::spawn(move || client.run()) }
    }

    fn end(self) {
        assert_eq!(self.thread.join().unwrap().unwrap(), AgentEnd::ShutDown);
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

fn answer(mut request: Substantiation<Lease>) -> Lease {
    request.wait_timeout(PATIENCE).expect("it attaches in time").unwrap()
}

#[test]
fn output_and_files_pass_byte_for_byte() {
    let world = World::new(showing("master"));
    let (request, secret) = world.started();
    let agent = Agent::start(world.client(&secret).tls_trusting(pem("authority.pem")).unwrap(), "bytes");
    let lease = answer(request);

    let mut content = vec![0; 64 * MIB];
    fastrand::Rng::with_seed(1).fill(&mut content);
    assert_eq!(lease.files().write("file", &mut content.as_slice()).unwrap(), content.len() as u64);
    assert!(std::fs::read(agent.directory.join("file")).unwrap() == content, "another file has arrived");
    let mut back = Vec::new();
    lease.files().read("file", &mut back).unwrap();
    assert!(back == content, "another file came back");

    let running = lease.start(&Command::exec(["cat", "file"])).unwrap();
    let mut seen = Vec::new();
    let end = loop {
        match running.recv_timeout(PATIENCE).unwrap().expect("it goes on") {
            Output::Stdout(bytes) => seen.extend(bytes),
            Output::End(end) => break end,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(end.exit, Exit::Code(0));
    assert!(seen == content, "{} bytes of output, and not the same", seen.len());

    let both = lease.run(&Command::exec(["cat"]).stdin(&content[..MIB]).keep_output(2 * MIB)).unwrap();
    assert!(both.stdout == content[..MIB], "{} bytes of input came back", both.stdout.len());
    drop(running);
    drop(lease);
    world.finish();
    agent.end();
}

#[test]
fn an_authority_that_is_not_trusted_is_not_talked_to() {
    let world = World::new(showing("master"));
    let (request, secret) = world.started();
    let reason = world.refusal(world.client(&secret).tls_trusting(pem("stranger.pem")).unwrap());
    assert!(reason.contains("UnknownIssuer"), "{reason}");
    world.await_refused(1);
    drop(request);
    world.finish();
}

#[test]
fn a_certificate_for_another_host_is_not_talked_to() {
    let world = World::new(showing("elsewhere"));
    let (request, secret) = world.started();
    let reason = world.refusal(world.client(&secret).tls_trusting(pem("authority.pem")).unwrap());
    assert!(reason.contains("elsewhere.test") && reason.contains("127.0.0.1"), "{reason}");
    world.await_refused(1);
    drop(request);
    world.finish();
}

#[test]
fn who_speaks_plainly_and_who_does_not_do_not_meet() {
    // Both sides wait longer than anybody else.
    let secure = World::new(showing("master").handshake_timeout(2 * PATIENCE));
    let (request, secret) = secure.started();
    let reason = secure.refusal(secure.client(&secret));
    assert!(reason.contains("no WebSocket master"), "{reason}");
    secure.await_refused(1);
    drop(request);
    secure.finish();

    let plain = World::new(AgentListener::builder().handshake_timeout(2 * PATIENCE));
    let (request, secret) = plain.started();
    let reason = plain.refusal(plain.client(&secret).tls_trusting(pem("authority.pem")).unwrap());
    assert!(reason.contains("corrupt message"), "{reason}");
    plain.await_refused(1);
    drop(request);
    plain.finish();
}

#[test]
fn a5_a_handshake_byte_by_byte_ends_at_its_time_limit() {
    let limit = Duration::from_secs(2);
    let world = World::new(showing("master").handshake_timeout(limit));
    let mut socket = TcpStream::connect(world.address()).unwrap();
    // A record that is announced long and comes slowly: no single read of the listener takes long.
    let began = Instant::now();
    socket.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap();
    while socket.write_all(b"x").is_ok() {
        assert!(began.elapsed() < 10 * limit, "it goes on for as long as somebody sends");
        std::thread::sleep(Duration::from_millis(100));
    }
    world.await_refused(1);
    world.finish();
}

#[test]
fn a5_half_a_handshake_ends_at_its_time_limit_and_holds_up_nobody() {
    // What a client says first begins like this: a record with a handshake of TLS 1.
    let beginnings: [&[u8]; 3] = [b"", b"\x16\x03", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"];
    let world = World::new(showing("master").handshake_timeout(Duration::from_secs(5)));
    let mut halves: Vec<TcpStream> = beginnings
        .iter()
        .map(|beginning| {
            let mut socket = TcpStream::connect(world.address()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(beginning).unwrap();
            socket
        })
        .collect();
    let (request, secret) = world.started();
    let agent = Agent::start(world.client(&secret).tls_trusting(pem("authority.pem")).unwrap(), "halves");
    let lease = answer(request);
    assert!(lease.run(&Command::shell("true")).unwrap().success());
    for socket in &mut halves {
        // Whatever is said before the end.
        let end = socket.read_to_end(&mut Vec::new());
        let is_end = |error: std::io::Error| error.kind() == ErrorKind::ConnectionReset;
        assert!(end.map_or_else(is_end, |_| true), "it is closed");
    }
    world.await_refused(3);
    drop(lease);
    world.finish();
    agent.end();
}

/// Passes one connection on, and returns what went over it in both directions.
fn eavesdrop(server: SocketAddr) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    fn pass_on(mut from: TcpStream, mut to: TcpStream) -> JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                heard.extend_from_slice(&buffer[..count]);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            heard
        })
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = TcpStream::connect(server).unwrap();
        let there = pass_on(client.try_clone().unwrap(), server.try_clone().unwrap());
        let back = pass_on(server, client);
        [there.join().unwrap(), back.join().unwrap()].concat()
    });
    (address, heard)
}

#[test]
fn nothing_that_is_said_can_be_overheard() {
    for secure in [true, false] {
        let world = World::new(if secure { showing("master") } else { AgentListener::builder() });
        let (request, secret) = world.started();
        let (address, heard) = eavesdrop(world.address());
        let client = AgentClient::builder(address.to_string(), "w", secret.clone());
        let client = if secure { client.tls_trusting(pem("authority.pem")).unwrap() } else { client };
        let agent = Agent::start(client, &format!("overheard-{secure}"));
        let lease = answer(request);
        assert!(lease.run(&Command::shell("echo what was said")).unwrap().success());
        drop(lease);
        world.finish();
        agent.end();
        let heard = heard.join().unwrap();
        let has = |text: &str| heard.windows(text.len()).any(|part| part == text.as_bytes());
        // Without TLS it can, or the test would show nothing.
        assert_eq!(!has("what was said") && !has("Authorization"), secure);
        assert!(heard.len() > 500, "{} bytes", heard.len());
    }
}

#[test]
fn files_that_will_not_do_are_refused_with_their_names() {
    let listener = |certificates: &str, key: &str| {
        AgentListener::builder().tls_from_files(pem(certificates), pem(key)).unwrap_err().to_string()
    };
    for (certificates, key, named) in [
        ("none.pem", "master.key.pem", "none.pem"),
        ("master.pem", "none.pem", "none.pem"),
        ("main.rs", "master.key.pem", "main.rs"),
        ("master.pem", "main.rs", "main.rs"),
        ("master.key.pem", "master.key.pem", "master.key.pem"),
        ("master.pem", "master.pem", "master.pem"),
        ("master.pem", "elsewhere.key.pem", "master.pem"),
    ] {
        let error = listener(certificates, key);
        assert!(error.contains(named), "{certificates}, {key}: {error}");
    }
    for file in ["none.pem", "main.rs", "master.key.pem"] {
        let client = AgentClient::builder("localhost:1", "w", Secret::new("secret"));
        let error = client.tls_trusting(pem(file)).unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn the_program_speaks_tls_when_it_is_given_authorities() {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples/agent");
    assert!(program.exists(), "{} is missing: cargo build --example agent --features tls", program.display());
    let world = World::new(showing("master"));
    let (request, secret) = world.started();
    let mut agent = Program::new(program)
        .arg("--authorities")
        .arg(pem("authority.pem"))
        .arg(std::env::temp_dir())
        // A name this time, not a number.
        .env("LATENT_WORKER_MASTER", format!("localhost:{}", world.address().port()))
        .env("LATENT_WORKER_NAME", "w")
        .env("LATENT_WORKER_SECRET", secret.expose())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let lease = answer(request);
    assert!(lease.run(&Command::shell("true")).unwrap().success());
    drop(lease);
    world.finish();
    assert_eq!(agent.wait().unwrap().code(), Some(0));
}

#[test]
#[ignore = "needs buildbot-worker"]
fn a_stock_worker_attaches_over_tls() {
    let program = std::env::var_os("TEST_BUILDBOT_WORKER").expect("the path of buildbot-worker");
    let world = World::new(showing("master"));
    let (request, secret) = world.started();
    let directory = std::env::temp_dir().join(format!("lw-tls-{}-stock", std::process::id()));
    let master = format!("localhost:{}", world.address().port());
    let created = Program::new(&program)
        .args(["create-worker", "--use-tls", "--protocol", "msgpack_experimental_v7"])
        .arg(&directory)
        .args([&master, "w", secret.expose()])
        .output()
        .unwrap();
    assert!(created.status.success(), "{created:?}");
    let mut stock = Program::new(&program)
        .args(["start", "--nodaemon"])
        .arg(&directory)
        // What OpenSSL takes in place of the authorities of the system.
        .env("SSL_CERT_FILE", pem("authority.pem"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lease = answer(request);
    assert_eq!(lease.run(&Command::shell("echo over TLS")).unwrap().stdout, b"over TLS\n");
    let content: Vec<u8> = (0..MIB).map(|at| (at % 251) as u8).collect();
    lease.files().write("file", &mut content.as_slice()).unwrap();
    let mut back = Vec::new();
    lease.files().read("file", &mut back).unwrap();
    assert!(back == content);
    drop(lease);
    world.finish();
    assert!(stock.wait().unwrap().success());
    std::fs::remove_dir_all(&directory).unwrap();
}

/// More connections than may be open for strangers; each of them logs in at the first try.
#[test]
fn a5_many_agents_attach_at_the_same_time() {
    const AGENTS: usize = 200;
    let master = Master::new();
    let listener = showing("master").handshake_timeout(PATIENCE).bind(&master, "127.0.0.1:0").unwrap();
    let address = listener.addresses()[0].to_string();
    let mut expected = Vec::new();
    for number in 0..AGENTS {
        let (driver, script) = ScriptedWorker::new();
        let name = format!("w{number}");
        let worker = master.add_worker(WorkerConfig::new(name.clone()), driver).unwrap();
        let request = worker.substantiate(&Build::new("a build"));
        let start = script.expect_start();
        let client = AgentClient::builder(address.clone(), name, start.secret().clone());
        let client = client.tls_trusting(pem("authority.pem")).unwrap().max_tries(NonZeroU32::MIN);
        start.succeed();
        script.automate_all();
        expected.push((request, client.connect_timeout(PATIENCE).build("/", ()), script));
    }
    let (requests, agents): (Vec<_>, Vec<_>) = expected
        .into_iter()
        .map(|(request, client, script)| ((request, script), std::thread::spawn(move || client.run())))
        .unzip();
    let leases: Vec<_> = requests.into_iter().map(|(request, script)| (answer(request), script)).collect();
    assert_eq!(listener.refused_connections(), 0);
    drop(leases);
    assert!(master.shutdown(ShutdownMode::Fast, PATIENCE).complete);
    agents.into_iter().for_each(|agent| assert_eq!(agent.join().unwrap().unwrap(), AgentEnd::ShutDown));
    assert!(listener.shutdown(PATIENCE), "threads are left");
}
