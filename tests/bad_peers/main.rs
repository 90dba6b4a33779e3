//! Peers that do what they should not, over real sockets, while good agents work undelayed.

mod fake;
mod flood;
mod memory;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use latent_worker::testing::{PATIENCE, Script, ScriptedWorker};
use latent_worker::{
    Agent, AgentListener, AgentListenerBuilder, AttachError, Build, Command, CommandError, ConnectedAgent, DriverCall,
    Event, EventKind, Exit, FileError, Lease, LeaseEnd, Master, Output, ShutdownMode, Worker, WorkerConfig,
};

use fake::{Fake, basic, connect, is_closed, request, status};

/// Longer than a command of a good agent ever takes, and shorter than any time-out of these tests.
const UNDELAYED: Duration = Duration::from_millis(1500);
const GOOD: usize = 10;

struct World {
    listener: AgentListener,
    master: Master,
    events: Receiver<Event>,
    scripts: Vec<Script>,
    threads: Vec<JoinHandle<()>>,
}

impl World {
    fn new() -> Self {
        Self::with(|listener| listener)
    }

    fn with(change: impl FnOnce(AgentListenerBuilder) -> AgentListenerBuilder) -> Self {
        let master = Master::builder().drop_timeout(PATIENCE).build();
        let events = master.events(100_000);
        let listener = change(AgentListener::builder()).bind(&master, "127.0.0.1:0").unwrap();
        Self { listener, master, events, scripts: Vec::new(), threads: Vec::new() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.addresses()[0]
    }

    /// A worker whose instance is up and whose agent has not attached; its secret.
    fn started(&mut self, name: &str) -> (Worker, latent_worker::Substantiation<Lease>, String) {
        let (driver, script) = ScriptedWorker::new();
        let worker = self.master.add_worker(WorkerConfig::new(name), driver).unwrap();
        let request = worker.substantiate(&Build::new("a build"));
        let start = script.expect_start();
        let secret = start.secret().expose().to_owned();
        start.succeed();
        script.automate_all();
        self.scripts.push(script);
        (worker, request, secret)
    }

    /// A worker with a lease, and its agent in the hand of the test.
    fn attached(&mut self, name: &str) -> (Worker, Lease, Fake) {
        let (worker, mut request, secret) = self.started(name);
        let fake = Fake::attach(self.address(), name, &secret);
        let lease = request.wait_timeout(PATIENCE).expect("it attaches in time").unwrap();
        (worker, lease, fake)
    }

    /// Agents that work, with their leases.
    fn good_agents(&mut self) -> Vec<Lease> {
        let attached: Vec<_> = (0..GOOD).map(|number| self.attached(&format!("good-{number}"))).collect();
        let mut leases = Vec::new();
        for (_, lease, fake) in attached {
            self.threads.push(std::thread::spawn(move || fake.work()));
            leases.push(lease);
        }
        leases
    }

    /// The reason for which the agent of a worker was detached.
    fn detached(&self, name: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.events.recv_deadline(deadline).expect("the agent is detached in time");
            if let (EventKind::Detached { reason }, Some(name)) = (event.kind, Some(name))
                && event.worker.as_deref() == Some(name)
            {
                return reason.to_string();
            }
        }
    }

    /// Ends everything; no thread and no connection is left.
    fn finish(self, leases: Vec<Lease>) {
        drop(leases);
        self.scripts.iter().for_each(Script::automate_all);
        let report = self.master.shutdown(ShutdownMode::Fast, PATIENCE);
        assert!(report.complete, "{report}");
        assert!(self.listener.shutdown(PATIENCE), "threads are left");
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// Every agent runs a command, and none takes long.
fn work_undelayed(leases: &[Lease]) {
    for lease in leases {
        let begin = Instant::now();
        let finished = lease.run(&Command::shell("anything")).unwrap();
        assert_eq!((finished.stdout.as_slice(), finished.end.exit), (b"ok\n".as_slice(), Exit::Code(0)));
        assert!(begin.elapsed() < UNDELAYED, "{:?}", begin.elapsed());
    }
}

#[test]
fn a_listener_takes_sockets_that_are_bound_already() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let mut world = World::new();
    world.listener = AgentListener::builder().listen_on(&world.master, vec![socket]).unwrap();
    assert_eq!(world.listener.addresses(), [address]);
    let (_, lease, fake) = world.attached("w");
    world.threads.push(std::thread::spawn(move || fake.work()));
    work_undelayed(std::slice::from_ref(&lease));
    let none = AgentListener::builder().listen_on(&world.master, Vec::new());
    assert!(none.unwrap_err().to_string().contains("no address"));
    world.finish(vec![lease]);
}

#[test]
fn a2_wrong_names_and_secrets_get_401_and_no_request_gets_400() {
    let mut world = World::new();
    let (worker, _request, secret) = world.started("w");
    let ask = |bytes: String| {
        let mut socket = connect(world.address());
        socket.write_all(bytes.as_bytes()).unwrap();
        let status = status(&mut socket);
        assert!(is_closed(&mut socket));
        status
    };
    assert_eq!(ask(request(None)), Some(401));
    assert_eq!(ask(request(Some("Basic !"))), Some(401));
    assert_eq!(ask(request(Some(&basic("w", "wrong")))), Some(401));
    assert_eq!(ask(request(Some(&basic("stranger", &secret)))), Some(401));
    assert_eq!(ask("GET / HTTP/1.1\r\n\r\n".to_owned()), Some(400));
    assert_eq!(ask("nonsense\r\n\r\n".to_owned()), Some(400));
    assert_eq!(ask(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(20_000))), Some(400));
    let status = worker.status();
    assert!(!status.attached && status.refused_agents == 1, "{status}");
    assert_eq!(world.master.unknown_agents(), 1);
    // The last one may still be on its way out.
    let deadline = Instant::now() + PATIENCE;
    while world.listener.refused_connections() < 7 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(world.listener.refused_connections(), 7);
    world.finish(Vec::new());
}

#[test]
fn a1_a3_a_secret_lets_one_connection_in_at_a_time() {
    let mut world = World::new();
    let (worker, _lease, fake) = world.attached("w");
    world.threads.push(std::thread::spawn(move || fake.work()));
    let (_, mut other, secret) = world.started("other");
    // One that has logged in and says nothing more holds its name, not for ever.
    let silent = Fake::log_in(world.address(), "other", &secret).unwrap();
    assert_eq!(Fake::log_in(world.address(), "other", &secret).err(), Some(Some(401)));
    assert!(other.try_wait().is_none(), "it has logged in and not attached");
    drop(silent);
    let deadline = Instant::now() + PATIENCE;
    let fake = loop {
        match Fake::log_in(world.address(), "other", &secret) {
            Ok(fake) => break fake,
            Err(_) => assert!(Instant::now() < deadline, "the name is never free again"),
        }
    };
    drop(fake);
    assert_eq!(worker.status().refused_agents, 0);
    drop(other);
    world.finish(vec![_lease]);
}

#[test]
fn a2_the_agent_of_an_ended_attempt_is_told_to_shut_down() {
    let mut world = World::new();
    let (worker, request, secret) = world.started("w");
    drop(request);
    world.scripts[0].by_hand(DriverCall::Start);
    assert!(worker.insubstantiate(false).wait_timeout(PATIENCE));
    let mut fake = Fake::log_in(world.address(), "w", &secret).expect("it is let in to be told");
    assert_eq!(fake.request().unwrap().op, "shutdown");
    let refused =
        world.events.try_iter().filter(|event| event.kind == EventKind::AttachRefused { error: AttachError::Stale });
    assert_eq!(refused.count(), 1);
    // It stays, and does not keep the next one out.
    let mut request = worker.substantiate(&Build::new("the next one"));
    let start = world.scripts[0].expect_start();
    let secret = start.secret().expose().to_owned();
    start.succeed();
    let next = Fake::attach(world.address(), "w", &secret);
    let lease = request.wait_timeout(PATIENCE).expect("it attaches in time").unwrap();
    drop((fake, next));
    world.finish(vec![lease]);
}

#[test]
fn a5_garbage_and_half_handshakes_are_closed_while_good_agents_work() {
    let mut world = World::with(|listener| listener.handshake_timeout(Duration::from_secs(2)));
    let leases = world.good_agents();
    let mut random = fastrand::Rng::with_seed(3);
    let mut sockets: Vec<TcpStream> = (0..20).map(|_| connect(world.address())).collect();
    for (number, socket) in sockets.iter_mut().enumerate() {
        let garbage: Vec<u8> = match number % 4 {
            0 => (0..5000).map(|_| random.u8(..)).collect(),
            1 => request(None).into_bytes()[..100].to_vec(),
            2 => b"\r\n\r\n\r\n".to_vec(),
            _ => Vec::new(),
        };
        // The other side may have closed it before all of it was sent.
        let _ = socket.write_all(&garbage);
    }
    work_undelayed(&leases);
    assert!(sockets.iter_mut().all(is_closed), "each is closed, at the latest by the time-out");
    work_undelayed(&leases);
    world.finish(leases);
}

#[test]
fn a5_a_handshake_byte_by_byte_ends_at_its_time_limit() {
    let mut world = World::with(|listener| listener.handshake_timeout(Duration::from_secs(1)));
    let leases = world.good_agents();
    let mut socket = connect(world.address());
    let begin = Instant::now();
    let text = request(None);
    // A byte in time, each time: the limit is for all of them.
    let pause = crossbeam_channel::tick(Duration::from_millis(50));
    let closed = text.bytes().any(|byte| {
        pause.recv().unwrap();
        socket.write_all(&[byte]).is_err()
    });
    assert!(closed, "it was let finish");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    work_undelayed(&leases);
    world.finish(leases);
}

#[test]
fn a5_many_idle_connections_make_room_for_an_agent() {
    let mut world = World::with(|listener| listener.max_handshakes(16));
    let leases = world.good_agents();
    let idle: Vec<TcpStream> = (0..200).map(|_| connect(world.address())).collect();
    let begin = Instant::now();
    let (_, lease, fake) = world.attached("late");
    assert!(begin.elapsed() < UNDELAYED, "{:?}", begin.elapsed());
    world.threads.push(std::thread::spawn(move || fake.work()));
    work_undelayed(&leases);
    work_undelayed(std::slice::from_ref(&lease));
    // Sixteen may stay, and each attached agent has two threads.
    #[cfg(target_os = "linux")]
    {
        let deadline = Instant::now() + PATIENCE;
        let ours = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
            names.filter(|name| name.trim() == "lw agent").count()
        };
        // Other tests of this process have agents too, though not that many.
        while ours() > 150 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(ours() <= 150, "{}", ours());
    }
    drop(idle);
    let mut leases = leases;
    leases.push(lease);
    world.finish(leases);
}

/// An attached agent sends this, and is detached for this reason while good agents work.
fn is_detached_for(reason: &str, misbehave: impl FnOnce(&mut Fake)) {
    let mut world = World::new();
    let mut leases = world.good_agents();
    let (_, lease, mut fake) = world.attached("bad");
    misbehave(&mut fake);
    let end = lease.wait_end(PATIENCE);
    assert!(matches!(end, Some(LeaseEnd::Lost(_))), "{end:?}");
    let told = world.detached("bad");
    assert!(told.contains(reason), "{told}");
    assert!(fake.is_closed());
    work_undelayed(&leases);
    leases.push(lease);
    world.finish(leases);
}

#[test]
fn a5_a_frame_of_4_gib_is_refused_before_it_comes() {
    is_detached_for("too long", |fake| {
        let header = [0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4];
        fake.socket.get_mut().write_all(&header).unwrap();
    });
}

#[test]
fn a5_deep_nesting_is_refused() {
    is_detached_for("nested too deeply", |fake| {
        let mut args = vec![0x91; 1_000_000];
        args.push(0xc0);
        fake.ask("update", Some("0"), Some(&args));
    });
}

#[test]
fn a5_bytes_that_are_no_message_are_refused() {
    is_detached_for("no message", |fake| fake.send(vec![0xc1; 100]));
}

#[test]
fn a5_text_and_unmasked_frames_are_refused() {
    is_detached_for("text", |fake| fake.socket.send(tungstenite::Message::text("hello")).unwrap());
    is_detached_for("unmasked", |fake| fake.socket.get_mut().write_all(&[0x82, 1, 0xc0]).unwrap());
}

#[test]
fn a5_unknown_ops_and_answers_to_unknown_numbers_harm_nobody() {
    let mut world = World::new();
    let mut leases = world.good_agents();
    let (_, lease, mut fake) = world.attached("odd");
    for number in 0..100 {
        fake.ask("dance", None, None);
        fake.ask("update", Some("77"), Some(&[0x90]));
        fake.answer(&fake::rmp_map::Map { op: "print".to_owned(), number: 1000 + number, command: String::new() });
        fake.send(vec![0x80]);
    }
    world.threads.push(std::thread::spawn(move || fake.work()));
    leases.push(lease);
    work_undelayed(&leases);
    world.finish(leases);
}

#[test]
fn a6_a_peer_that_never_reads_delays_nobody_and_is_lost() {
    let mut world = World::with(|listener| listener.write_timeout(Duration::from_secs(1)));
    let leases = world.good_agents();
    let (_, lease, fake) = world.attached("deaf");
    // More than all buffers between the two take.
    let begin = Instant::now();
    let running = lease.start(&Command::shell("x").stdin(vec![7; 32 << 20])).unwrap();
    assert!(begin.elapsed() < UNDELAYED, "the start does not wait for the peer: {:?}", begin.elapsed());
    work_undelayed(&leases);
    let error = running.recv_timeout(PATIENCE).unwrap_err();
    assert!(
        matches!(&error, CommandError::LeaseEnded(LeaseEnd::Lost(reason)) if reason.contains("not read")),
        "{error}"
    );
    drop(running);
    drop((lease, fake));
    world.finish(leases);
}

#[test]
fn a4_a_silent_peer_is_lost_by_heartbeat() {
    let mut world = World::with(|listener| listener.heartbeat(Duration::from_millis(100), Duration::from_millis(600)));
    let leases = world.good_agents();
    // The good ones answer pings, because they read.
    let (_, lease, fake) = world.attached("silent");
    let begin = Instant::now();
    assert!(matches!(lease.wait_end(PATIENCE), Some(LeaseEnd::Lost(_))));
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    work_undelayed(&leases);
    drop((lease, fake));
    world.finish(leases);
}

#[test]
fn a6_output_that_nobody_takes_waits_and_an_interrupt_still_gets_through() {
    /// How many pieces wait for whoever takes the output.
    const KEPT: usize = 64;
    /// How many of them are answered as long as nobody takes any.
    const ANSWERED: usize = 16;
    const WRITTEN: usize = 300;
    let mut world = World::new();
    let leases = world.good_agents();
    let (_, lease, mut fake) = world.attached("chatty");
    let running = lease.start(&Command::shell("x")).unwrap();
    let start = fake.request().unwrap();
    fake.answer(&start);
    let command = start.command.clone();
    let (interrupted, told) = crossbeam_channel::bounded(1);
    let (answered, answers) = crossbeam_channel::unbounded();
    let writer = fake.socket.get_ref().try_clone().unwrap();
    world.threads.push(std::thread::spawn(move || {
        let mut output = Fake::over(writer);
        let piece = "x".repeat(60_000) + "\n";
        for _ in 0..WRITTEN {
            output.output(&command, &piece);
        }
        output.finish_command(&command, "last\n");
    }));
    fake.answered = Some(answered);
    world.threads.push(std::thread::spawn(move || {
        while let Some(request) = fake.request() {
            if request.op == "interrupt_command" {
                interrupted.send(()).unwrap();
            }
        }
    }));
    let await_answers = |count: usize| (0..count).for_each(|_| answers.recv_timeout(PATIENCE).expect("it is answered"));
    await_answers(ANSWERED);
    work_undelayed(&leases);
    assert!(answers.is_empty(), "what nobody has room for is not answered");
    running.interrupt();
    told.recv_timeout(PATIENCE).expect("the interrupt reaches the worker though its output waits");
    // The rest, the last line, the exit code and the end; the interrupt is ours to ask, not to answer.
    await_answers(WRITTEN - ANSWERED + 3);
    let mut pieces = 0;
    while !matches!(running.recv_timeout(PATIENCE).unwrap().expect("it comes to its end"), Output::End(_)) {
        pieces += 1;
    }
    assert_eq!(pieces, KEPT - 1, "the last ones are kept, and the end");
    drop(running);
    drop(lease);
    world.finish(leases);
}

#[test]
fn a5_names_that_lead_out_of_a_directory_are_no_names() {
    let mut world = World::new();
    let leases = world.good_agents();
    let (_, lease, mut fake) = world.attached("liar");
    let names = [["file", "../../etc/passwd"], ["", "file"], ["..", "file"], ["/etc/passwd", "file"]];
    let liar = std::thread::spawn(move || {
        for names in names {
            let start = fake.request().expect("a listing is asked for");
            fake.answer(&start);
            fake.list(&start.command, &names);
        }
        fake
    });
    for _ in names {
        let error = lease.files().list(".").unwrap_err();
        assert!(matches!(&error, FileError::Failed(reason) if reason.contains("as the name of")), "{error}");
    }
    drop((liar.join().unwrap(), lease));
    world.finish(leases);
}

#[test]
fn w13_an_agent_whose_connection_is_lost_starts_nothing_and_keeps_nobody_waiting() {
    let mut world = World::new();
    let (_, lease, mut fake) = world.attached("lost");
    let agent = lease.agent::<ConnectedAgent>().unwrap();
    // Past the lease, which would know by itself.
    let process = agent.start_command(&Command::shell("x")).unwrap();
    fake.request().expect("the command comes");
    drop(fake);
    let disconnected = process.output().recv_timeout(PATIENCE).is_err_and(|error| error.is_disconnected());
    assert!(disconnected, "it comes to an end without one");
    let refused = agent.start_command(&Command::shell("x"));
    assert!(matches!(refused, Err(CommandError::LeaseEnded(LeaseEnd::Lost(_)))), "{refused:?}");
    drop((process, lease));
    world.finish(Vec::new());
}
