//! Our agent as a program: when it comes, when it goes, and what it tells nobody.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::{Child, Command as Program, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use latent_worker::testing::{Script, ScriptedWorker, StartCall};
use latent_worker::{
    AgentClient, AgentClientError, AgentEnd, AgentListener, Build, Command, Event, EventKind, IdlePolicy, Lease,
    LocalAgent, Master, Output, Secret, ShutdownMode, Substantiation, Worker, WorkerConfig,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{PATIENCE, Place, eventually, is_gone, next, our_agent, text};

/// A master with one worker, whose instance is started by the test itself.
pub(crate) struct World {
    master: Master,
    listener: AgentListener,
    events: Receiver<Event>,
    worker: Worker,
    script: Script,
    pub(crate) place: Place,
}

impl World {
    pub(crate) fn new(idle: IdlePolicy) -> Self {
        let master = Master::new();
        let events = master.events(10_000);
        let listener = AgentListener::bind(&master, "127.0.0.1:0").unwrap();
        let (driver, script) = ScriptedWorker::new();
        let worker = master.add_worker(WorkerConfig::new("w").with_idle(idle), driver).unwrap();
        Self { master, listener, events, worker, script, place: Place::new() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.addresses()[0]
    }

    /// An attempt whose start is under way.
    pub(crate) fn starting(&self) -> (Substantiation<Lease>, StartCall) {
        let request = self.worker.substantiate(&Build::new("a build"));
        let start = self.script.expect_start();
        self.script.automate_all();
        (request, start)
    }

    fn agent(&self, secret: &Secret, arguments: &[&str]) -> Agent {
        Agent::start(self.address(), secret, self.place.path(), arguments)
    }

    /// A lease, and its agent.
    fn attached(&self, arguments: &[&str]) -> (Lease, Agent) {
        let (mut request, start) = self.starting();
        let agent = self.agent(start.secret(), arguments);
        start.succeed();
        (request.wait_timeout(PATIENCE).expect("it attaches in time").unwrap(), agent)
    }

    fn await_event(&self, wanted: impl Fn(&EventKind) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&self.events.recv_deadline(deadline).expect("the event comes in time").kind) {}
    }
}

/// Our agent as a child process, killed with this.
pub(crate) struct Agent {
    child: Child,
}

impl Agent {
    fn start(master: SocketAddr, secret: &Secret, directory: &Path, arguments: &[&str]) -> Self {
        Self::start_with(master, ("LATENT_WORKER_SECRET", secret.expose()), directory, arguments)
    }

    /// With a variable that says the secret, or where it is.
    pub(crate) fn start_with(
        master: SocketAddr,
        (name, value): (&str, &str),
        directory: &Path,
        arguments: &[&str],
    ) -> Self {
        let child = Program::new(our_agent())
            .args(arguments)
            .arg(directory)
            .env("LATENT_WORKER_MASTER", master.to_string())
            .env("LATENT_WORKER_NAME", "w")
            .env(name, value)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its end, which must come by itself, and what it has said.
    fn end(mut self) -> (ExitStatus, String) {
        let (sender, ended) = bounded(1);
        let mut child = std::mem::replace(&mut self.child, Program::new("true").spawn().unwrap());
        let pid = Pid::from_child(&child);
        // Its standard input stays open.
        let stdin = child.stdin.take();
        std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
        let output = ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let _ = kill_process(pid, Signal::KILL);
            panic!("it does not end by itself");
        });
        drop(stdin);
        (output.status, text(&output.stdout).to_owned() + text(&output.stderr))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a command that has a child of its own and does not end; the pids of both.
fn start_endless(lease: &Lease) -> (latent_worker::Running<'_>, Vec<Pid>) {
    let mut running = lease.start(&Command::shell("sleep 600 & echo $! $$; wait")).unwrap();
    let Output::Stdout(line) = next(&mut running) else { panic!("it says its pids first") };
    let pids = text(&line).split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect();
    (running, pids)
}

fn all_gone(pids: &[Pid]) -> bool {
    eventually(|| pids.iter().copied().all(is_gone))
}

#[test]
fn w6_it_attaches_before_start_instance_has_returned() {
    let world = World::new(IdlePolicy::AfterBuild);
    let (mut request, start) = world.starting();
    let _agent = world.agent(start.secret(), &[]);
    let lease = request.wait_timeout(PATIENCE).expect("attached is enough").unwrap();
    assert!(lease.run(&Command::shell("true")).unwrap().success());
    start.succeed();
    world.await_event(|kind| matches!(kind, EventKind::Substantiated { .. }));
    assert_eq!(lease.end(), None);
}

/// As in the image of a container, where nothing has made one.
#[test]
fn it_makes_its_directory_when_there_is_none() {
    let world = World::new(IdlePolicy::Never);
    let (mut request, start) = world.starting();
    let directory = world.place.path().join("not/there");
    let _agent = Agent::start(world.address(), start.secret(), &directory, &[]);
    start.succeed();
    let lease = request.wait_timeout(PATIENCE).expect("it attaches in time").unwrap();
    assert_eq!(text(&lease.run(&Command::shell("pwd")).unwrap().stdout).trim_end(), directory.to_str().unwrap());
}

#[test]
fn it_ends_with_its_commands_when_it_is_told_to_shut_down() {
    let world = World::new(IdlePolicy::AfterBuild);
    let (lease, agent) = world.attached(&[]);
    let (running, pids) = start_endless(&lease);
    let stopped = world.worker.insubstantiate(true);
    let (status, said) = agent.end();
    assert_eq!((status.code(), said.as_str()), (Some(0), "agent: the master has told the agent to shut down\n"));
    assert!(all_gone(&pids));
    drop(running);
    drop(lease);
    assert!(stopped.wait_timeout(PATIENCE));
}

#[test]
fn it_ends_with_its_commands_when_the_master_is_gone_for_too_long() {
    let world = World::new(IdlePolicy::AfterBuild);
    let (lease, agent) = world.attached(&["--master-timeout", "2"]);
    let (running, pids) = start_endless(&lease);
    assert!(world.listener.shutdown(PATIENCE));
    // Nobody wants the output of these any more.
    assert!(all_gone(&pids));
    let (status, said) = agent.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("is gone for 2s: ") && said.contains("refused"), "{said}");
    drop(running);
}

#[test]
fn it_ends_with_its_commands_at_a_sigterm() {
    let world = World::new(IdlePolicy::AfterBuild);
    let (lease, agent) = world.attached(&[]);
    let (running, pids) = start_endless(&lease);
    kill_process(agent.pid(), Signal::TERM).unwrap();
    let (status, said) = agent.end();
    assert_eq!((status.code(), said.as_str()), (Some(0), "agent: the agent was stopped\n"));
    assert!(all_gone(&pids));
    drop(running);
}

#[test]
fn it_ends_with_its_commands_at_the_end_of_stdin_if_it_follows_that() {
    let world = World::new(IdlePolicy::AfterBuild);
    let (lease, mut agent) = world.attached(&["--follow-stdin"]);
    let (running, pids) = start_endless(&lease);
    drop(agent.child.stdin.take());
    let (status, said) = agent.end();
    assert_eq!((status.code(), said.as_str()), (Some(0), "agent: the agent was stopped\n"));
    assert!(all_gone(&pids));
    drop(running);
}

#[test]
fn the_end_of_stdin_means_nothing_to_it_otherwise() {
    let world = World::new(IdlePolicy::AfterBuild);
    let (lease, mut agent) = world.attached(&[]);
    drop(agent.child.stdin.take());
    assert!(lease.run(&Command::shell("sleep 1")).unwrap().success());
    assert_eq!(lease.end(), None);
}

#[test]
fn w13_it_comes_back_when_the_listener_does() {
    let mut world = World::new(IdlePolicy::Never);
    let (lease, agent) = world.attached(&[]);
    let epoch = lease.epoch();
    drop(lease);
    let address = world.address();
    assert!(world.listener.shutdown(PATIENCE));
    world.await_event(|kind| matches!(kind, EventKind::Detached { .. }));
    // A port that was just in use is free again for whoever says that it knows: std does.
    world.listener = AgentListener::bind(&world.master, address).unwrap();
    world.await_event(|kind| *kind == EventKind::Attached);
    let mut request = world.worker.substantiate(&Build::new("a build"));
    let lease = request.wait_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(lease.epoch(), epoch, "it is the same instance");
    assert!(lease.run(&Command::shell("true")).unwrap().success());
    drop(lease);
    assert!(world.master.shutdown(ShutdownMode::Fast, PATIENCE).complete);
    assert_eq!(agent.end().0.code(), Some(0));
}

#[test]
fn it_gives_up_after_so_many_tries() {
    // Nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let agent = LocalAgent::in_directory(".");
    let client = AgentClient::builder(&address, "w", Secret::new("secret"))
        .max_tries(NonZeroU32::new(3).unwrap())
        .backoff(Duration::from_millis(10), Duration::from_millis(20))
        .build(".", agent);
    match client.run() {
        Err(AgentClientError::TriesExhausted { address: tried, tries: 3, reason }) => {
            assert_eq!(tried, address);
            assert!(reason.contains("refused"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_stopped_while_it_waits_for_the_master() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let client = AgentClient::builder(&address, "w", Secret::new("secret"))
        .backoff(Duration::from_secs(600), Duration::from_secs(600))
        .build(".", LocalAgent::in_directory("."));
    let stopper = client.stopper();
    let (sender, ended) = bounded(1);
    let thread = std::thread::spawn(move || sender.send(client.run()).unwrap());
    assert!(ended.recv_timeout(Duration::from_millis(100)).is_err());
    stopper.stop();
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap().unwrap(), AgentEnd::Stopped);
    thread.join().unwrap();
}

#[test]
fn a1_its_secret_is_seen_nowhere() {
    let world = World::new(IdlePolicy::AfterBuild);
    let (mut request, start) = world.starting();
    let secret = start.secret().clone();
    let agent = world.agent(&secret, &[]);
    start.succeed();
    let lease = request.wait_timeout(PATIENCE).unwrap().unwrap();

    #[cfg(target_os = "linux")]
    {
        let mut arguments = String::new();
        let path = format!("/proc/{}/cmdline", agent.pid().as_raw_nonzero());
        fs::File::open(path).unwrap().read_to_string(&mut arguments).unwrap();
        assert!(arguments.contains("agent") && !arguments.contains(secret.expose()), "{arguments}");
    }
    // A build shows its environment in its log.
    let environment = lease.run(&Command::exec(["env"]).keep_output(1 << 20)).unwrap();
    assert!(text(&environment.stdout).contains("PATH="));
    assert!(!text(&environment.stdout).contains(secret.expose()), "a command has it in its environment");
    let agent_of_lease = format!("{:?}", lease.agent::<latent_worker::ConnectedAgent>().unwrap());
    assert!(!agent_of_lease.contains(secret.expose()));
    kill_process(agent.pid(), Signal::TERM).unwrap();
    let (_, said) = agent.end();
    assert!(!said.is_empty() && !said.contains(secret.expose()), "{said}");

    let builder = AgentClient::builder("127.0.0.1:1", "w", secret.clone());
    assert!(!format!("{builder:?}").contains(secret.expose()));
    let client = builder.build(".", LocalAgent::in_directory("."));
    assert!(!format!("{client:?} {:?}", client.stopper()).contains(secret.expose()));
    // Nor when it is refused.
    let wrong =
        Agent::start(world.address(), &Secret::new("hunter2hunter2"), world.place.path(), &["--master-timeout", "0.2"]);
    let (status, said) = wrong.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
