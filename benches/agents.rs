//! Agents in processes of their own, over loopback: how long one takes to attach, what a command costs, how fast output
//! comes through, and what a thousand of them take in the master.
//!
//! With `TEST_BUILDBOT_WORKER` naming the program, a stock worker is measured beside ours.

mod support;

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command as Program, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use latent_worker::{
    Agent as _, AgentClient, AgentListener, Build, Command, IdlePolicy, LatentWorker, Lease, LocalAgent,
    LocalLatentWorker, Master, Output, Secret, StartError, StartRequest, Started, StopError, StopRequest, Worker,
    WorkerConfig,
};
use support::{Figure, Line, Plan, Process, Report, Side, Times, in_earnest, in_own_process, part, take_turns};

const LONG: Duration = Duration::from_secs(60);
const ATTACH_TARGET: f64 = 2e-3;
const RATE_TARGET: f64 = 200.0;
const MANY: usize = 1000;

fn main() {
    match part().as_deref() {
        Some("agent") => return agent(LocalAgent::in_directory(".")),
        Some("agents") => return many_agents(),
        Some("many") => return many(),
        _ => {}
    }
    let mut report = Report::new("agents");
    let farm = Farm::new();
    attach(&farm, &mut report);
    command(&farm, &mut report);
    output(&farm, &mut report);

    let numbers = in_own_process("many");
    let [bytes, threads] = numbers[..] else { panic!("two numbers, not {numbers:?}") };
    let agents = if in_earnest() { MANY } else { 10 };
    report
        .add(Line::new(format!("an attached agent, of {agents}: memory"), Figure::Bytes(bytes)).at_most(64.0 * 1024.0));
    report.add(Line::new(format!("an attached agent, of {agents}: threads"), Figure::Count(threads)).at_most(2.0));
    report.print();
}

/// From the accepted connection to the answer of the request.
fn attach(farm: &Farm, report: &mut Report) {
    let turns = if in_earnest() { 200 } else { 2 };
    let times = |what: &dyn Fn(&Identity, SocketAddr) -> Child, turns: usize| {
        let mut taken = Vec::new();
        for _ in 0..turns {
            let relay = Relay::new(farm.address);
            let started = farm.begin(&|identity| what(identity, relay.address));
            let lease = started.request.wait().expect("it attaches");
            taken.push(relay.accepted.recv_timeout(LONG).expect("it connects").elapsed());
            farm.end(lease, started.child);
        }
        Times::of(taken)
    };
    let ours = times(&our_agent, turns);
    report.add(Line::new("ours attaches", Figure::Times(ours)).at_most(ATTACH_TARGET));
    if let Some(program) = std::env::var_os("TEST_BUILDBOT_WORKER") {
        let stock = times(&|identity, address| stock_agent(&program, identity, address), turns.min(5));
        report.add(Line::new("the stock worker attaches", Figure::Times(stock)).ratio(stock.ratio_to(&ours)));
    }
}

/// What a command costs that does nothing.
fn command(farm: &Farm, report: &mut Report) {
    let (lease, child) = farm.attached();
    let local = farm.master.add_worker(WorkerConfig::new("local"), LocalLatentWorker::new()).expect("a new name");
    let here = local.substantiate(&Build::new("build")).wait().expect("it attaches");
    let plan = Plan { turns: 100, samples: 5, operations: 1 };
    let [peer, beside, ours] = take_turns(
        &plan,
        [
            Side::new("peer: spawn true and wait", || {
                let mut program = Program::new("true");
                program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                assert!(program.status().expect("it runs").success());
            }),
            Side::new("true on a local instance", || {
                assert!(here.run(&Command::exec(["true"])).expect("it runs").success());
            }),
            Side::new("true on an agent", || {
                assert!(lease.run(&Command::exec(["true"])).expect("it runs").success());
            }),
        ],
    );
    report.compare(&peer, &[ours], 1.5);
    report.beside(&peer, &beside);
    farm.end(lease, child);
}

/// How many MiB of output come through in a second.
fn output(farm: &Farm, report: &mut Report) {
    let (lease, child) = farm.attached();
    let (mib, turns) = if in_earnest() { (1024, 5) } else { (1, 1) };
    let arguments = ["head".to_owned(), "-c".to_owned(), format!("{}", mib << 20), "/dev/zero".to_owned()];
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        let start = Instant::now();
        let mut program = Program::new(&arguments[0]);
        let mut child = program.args(&arguments[1..]).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut pipe = child.stdout.take().expect("it is a pipe");
        let mut buffer = vec![0; 64 << 10];
        while pipe.read(&mut buffer).expect("it can be read") > 0 {}
        child.wait().expect("it ends");
        here.push(start.elapsed());

        let start = Instant::now();
        let running = lease.start(&Command::exec(arguments.clone())).expect("it starts");
        let mut bytes = 0;
        loop {
            match running.recv().expect("it goes on") {
                Output::Stdout(piece) => bytes += piece.len(),
                Output::End(end) => break assert!(end.exit.success()),
                other => panic!("{other:?}"),
            }
        }
        there.push(start.elapsed());
        assert_eq!(bytes, mib << 20);
    }
    let rate = |times: Vec<Duration>| mib as f64 / Times::of(times).median.as_secs_f64();
    let (here, there) = (rate(here), rate(there));
    report.add(Line::new("peer: MiB/s through a pipe", Figure::Rate(here)));
    report.add(
        Line::new("MiB/s from an agent to the caller", Figure::Rate(there)).ratio(there / here).at_least(RATE_TARGET),
    );
    farm.end(lease, child);
}

/// Prints what one of many attached agents takes in the master.
fn many() {
    let count = if in_earnest() { MANY } else { 10 };
    let farm = Farm::new();
    let config = |number: usize| WorkerConfig::new(format!("w{number}")).with_idle(IdlePolicy::Never);
    let workers: Vec<Worker> = (0..count)
        .map(|number| farm.master.add_worker(config(number), Handover(farm.identities.0.clone())).expect("a new name"))
        .collect();
    let warm: Vec<_> = workers.iter().map(Worker::warm_up).collect();
    let identities: Vec<Identity> =
        (0..count).map(|_| farm.identities.1.recv_timeout(LONG).expect("it is started")).collect();
    // The instance threads are there already; what comes is the agents' own.
    let before = Process::now();
    let mut program = this_program("agents");
    program.stdin(Stdio::piped()).env("LATENT_WORKER_MASTER", farm.address.to_string());
    let mut child = program.spawn().expect("a bench can be run");
    let lines: String =
        identities.iter().map(|identity| format!("{} {}\n", identity.name, identity.secret.expose())).collect();
    io::Write::write_all(child.stdin.as_mut().expect("it is a pipe"), lines.as_bytes()).expect("it reads");
    drop(child.stdin.take());
    for request in warm {
        request.wait().expect("it attaches");
    }
    thread::sleep(Duration::from_millis(500)); // until every greeting is over and its buffers are back
    let taken = Process::now().since(before);
    println!("{} {}", taken.resident as f64 / count as f64, taken.threads as f64 / count as f64);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

/// Many agents that do nothing, in one process: one for each line of standard input.
fn many_agents() {
    let threads: Vec<_> = io::stdin()
        .lines()
        .map(|line| {
            let line = line.expect("a line");
            let (name, secret) = line.split_once(' ').expect("a name and a secret");
            let client =
                AgentClient::builder(variable("LATENT_WORKER_MASTER"), name, Secret::new(secret)).build("/", ());
            thread::spawn(move || client.run())
        })
        .collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

fn agent(agent: LocalAgent) {
    let (master, name) = (variable("LATENT_WORKER_MASTER"), variable("LATENT_WORKER_NAME"));
    let client = AgentClient::builder(master, name, Secret::new(variable("LATENT_WORKER_SECRET")));
    let _ = client.build(agent.directory(), agent.clone()).run();
    agent.close();
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is set"))
}

fn this_program(part: &str) -> Program {
    let mut program = Program::new(std::env::current_exe().expect("a bench is a file"));
    program.args(["--part", part]);
    program
}

fn our_agent(identity: &Identity, address: SocketAddr) -> Child {
    let mut program = this_program("agent");
    program.env("LATENT_WORKER_MASTER", address.to_string()).env("LATENT_WORKER_NAME", &identity.name);
    program.env("LATENT_WORKER_SECRET", identity.secret.expose()).stdin(Stdio::null());
    program.spawn().expect("a bench can be run")
}

fn stock_agent(program: &std::ffi::OsStr, identity: &Identity, address: SocketAddr) -> Child {
    let directory: PathBuf = std::env::temp_dir().join(format!("latent-worker-bench-{}", identity.key));
    let mut create = Program::new(program);
    create.args(["create-worker", "--force", "--protocol", "msgpack_experimental_v7"]).arg(&directory);
    create.args([&address.to_string(), &identity.name, identity.secret.expose()]).stdout(Stdio::null());
    assert!(create.status().expect("it runs").success());
    let mut start = Program::new(program);
    start.args(["start", "--nodaemon"]).arg(directory).stdin(Stdio::null());
    start.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs")
}

/// What an agent has to know of its attempt.
struct Identity {
    name: String,
    secret: Secret,
    key: String,
}

/// A driver that leaves it to the bench to start an agent.
struct Handover(Sender<Identity>);

impl LatentWorker for Handover {
    type Instance = ();

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<()>, StartError> {
        let (name, secret) = (start.worker().to_owned(), start.secret().clone());
        self.0.send(Identity { name, secret, key: start.key().to_owned() }).expect("the bench waits");
        Ok(Started::new(()))
    }

    fn stop_instance(&self, _: StopRequest<()>) -> Result<(), StopError> {
        Ok(())
    }
}

struct Farm {
    master: Master,
    worker: Worker,
    address: SocketAddr,
    identities: (Sender<Identity>, Receiver<Identity>),
    _listener: AgentListener,
}

/// An agent on its way.
struct Begun {
    request: latent_worker::Substantiation<Lease>,
    child: Child,
}

impl Farm {
    fn new() -> Self {
        let master = Master::new();
        let listener = AgentListener::bind(&master, "127.0.0.1:0").expect("a free port");
        let identities = unbounded();
        let config = WorkerConfig::new("w").with_idle(IdlePolicy::Never);
        let worker = master.add_worker(config, Handover(identities.0.clone())).expect("a new name");
        Self { master, worker, address: listener.addresses()[0], identities, _listener: listener }
    }

    fn begin(&self, spawn: &dyn Fn(&Identity) -> Child) -> Begun {
        let request = self.worker.substantiate(&Build::new("build"));
        let identity = self.identities.1.recv_timeout(LONG).expect("it is started");
        Begun { request, child: spawn(&identity) }
    }

    fn attached(&self) -> (Lease, Child) {
        let Begun { request, child } = self.begin(&|identity| our_agent(identity, self.address));
        (request.wait().expect("it attaches"), child)
    }

    /// The agent is told to shut down.
    fn end(&self, lease: Lease, mut child: Child) {
        drop(lease);
        assert!(self.worker.insubstantiate(false).wait_timeout(LONG), "the stop is answered");
        child.wait().expect("it ends");
    }
}

/// Stands between one agent and the listener, to see when the agent connects.
struct Relay {
    address: SocketAddr,
    accepted: Receiver<Instant>,
}

impl Relay {
    fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has one");
        let (tell, accepted) = bounded(1);
        thread::spawn(move || {
            let (agent, _) = listener.accept().expect("an agent connects");
            tell.send(Instant::now()).expect("the bench waits");
            let master = TcpStream::connect(to).expect("the master listens");
            let ends = [&agent, &master].map(|end| {
                end.set_nodelay(true).expect("it is a socket");
                end.try_clone().expect("a handle more")
            });
            let [from_agent, from_master] = ends;
            let back = thread::spawn(move || pump(from_master, agent));
            pump(from_agent, master);
            back.join().expect("it does not panic");
        });
        Self { address, accepted }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}
