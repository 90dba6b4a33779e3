//! Containers of a real engine: how long until an agent has attached, beside `docker run` of the same image in the same
//! run, and how many threads instances take that are looked after.
//!
//! `TEST_DOCKER_HOST` says where the engine is, as `DOCKER_HOST` does, and `TEST_AGENT` names a static agent: see
//! `tests/docker`. Without them nothing is measured. `docker` itself must be installed.

mod support;

#[path = "../tests/docker/support/engine.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod engine;
#[path = "../tests/docker/support/images.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod images;

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, unbounded};
use latent_worker::{
    AgentListener, Build, DockerLatentWorker, IdlePolicy, LatentWorker, Master, StartError, StartRequest, Started,
    StopError, StopRequest, Worker, WorkerConfig,
};

use engine::Engine;
use images::Image;
use serde_json::json;
use support::{Figure, Line, Process, Report, Times, in_earnest};

const LONG: Duration = Duration::from_secs(120);
const MANY: usize = 30;

fn main() {
    let Some(engine) = std::env::var("TEST_DOCKER_HOST").ok().map(Engine::at) else {
        return eprintln!("docker: TEST_DOCKER_HOST is not set, so that nothing is measured");
    };
    if std::env::var_os("TEST_AGENT").is_none() {
        return eprintln!("docker: TEST_AGENT is not set, so that nothing is measured");
    }
    let mut report = Report::new("docker");
    attach(&engine, &mut report);
    threads(&engine, &mut report);
    report.print();
}

/// From the start of a container to its agent at work. All sides use the same image, the default network and `init`.
fn attach(engine: &Engine, report: &mut Report) {
    let image = Image::agent(engine, "bench");
    let farm = Farm::new();
    let gateway = gateway(engine, &image);
    let (begun, begins) = unbounded();
    let peer = |how| Peer {
        engine: engine.clone(),
        gateway: gateway.clone(),
        image: image.reference().to_owned(),
        how,
        begun: begun.clone(),
    };
    let sides = [
        ("peer: docker run", farm.worker("run", peer(How::Program))),
        ("peer: create and start through the API", farm.worker("api", peer(How::Api))),
        ("DockerLatentWorker", farm.worker("driver", driver(engine, &image))),
    ];
    let (turns, warming) = if in_earnest() { (20, 2) } else { (1, 0) };
    let mut taken = [const { Vec::new() }; 3];
    for turn in 0..warming + turns {
        for ((_, worker), taken) in sides.iter().zip(&mut taken) {
            let requested = Instant::now();
            let request = worker.substantiate(&Build::new("build"));
            let lease = request.wait().unwrap_or_else(|error| panic!("{error}"));
            let attached = Instant::now();
            // A peer has said when its `docker run` began.
            let began = begins.try_recv().unwrap_or(requested);
            if turn >= warming {
                taken.push(attached - began);
            }
            drop(lease);
            assert!(worker.insubstantiate(true).wait_timeout(LONG), "the stop is answered");
        }
    }
    let mut taken = taken.into_iter();
    let [run, api, ours] =
        sides.map(|(name, _)| (name.to_owned(), Times::of(taken.next().expect("as many times as sides"))));
    report.compare(&run, &[ours], 1.3);
    report.beside(&run, &api);
}

/// Threads of this process while containers run that are checked again and again because no agent attaches.
fn threads(engine: &Engine, report: &mut Report) {
    let many = if in_earnest() { MANY } else { 2 };
    let image = Image::shell(engine, "exec sleep 1000000");
    let farm = Farm::new();
    let driver = driver(engine, &image);
    let before = Process::now();
    let peak = Peak::watch();
    let workers: Vec<Worker> = (0..many).map(|number| farm.worker(&format!("w{number}"), driver.clone())).collect();
    let requests: Vec<_> = workers.iter().map(Worker::warm_up).collect();
    let all_up = || engine.made_of(image.reference()).iter().filter(|one| one.state == "running").count() == many;
    while !all_up() {
        thread::sleep(Duration::from_millis(100));
    }
    thread::sleep(Duration::from_secs(2)); // of checks, one every 20 ms
    let of_each = peak.most().saturating_sub(before.threads + 1) as f64 / many as f64;
    report.add(
        Line::new(format!("a container that is checked, of {many}: threads at most"), Figure::Count(of_each))
            .at_most(2.0),
    );
    requests.iter().for_each(|request| request.cancel());
    let stops: Vec<_> = workers.iter().map(|worker| worker.insubstantiate(true)).collect();
    stops.iter().for_each(|stop| assert!(stop.wait_timeout(LONG), "the stop is answered"));
}

fn driver(engine: &Engine, image: &Image) -> DockerLatentWorker {
    let address = engine.host().parse().expect("DOCKER_HOST has such addresses");
    DockerLatentWorker::builder(image.reference()).engine(address).build().expect("they make sense")
}

/// Where this machine is for containers of the default network, as one of them sees it.
fn gateway(engine: &Engine, image: &Image) -> String {
    let name = format!("lw-bench-{}", std::process::id());
    let probe = engine.run(&name, &json!({ "Image": image.reference(), "Cmd": ["sleep", "1000000"] }));
    let gateway = engine.inspect(&probe)["NetworkSettings"]["Gateway"].as_str().map(str::to_owned);
    engine.remove(&probe);
    gateway.expect("the default network has one")
}

struct Farm {
    master: Master,
    _listener: AgentListener,
}

impl Farm {
    fn new() -> Self {
        let socket = TcpListener::bind("0.0.0.0:0").expect("a free port");
        let address = socket.local_addr().expect("it has one");
        let master = Master::builder().agent_address(address.to_string()).build();
        let _listener = AgentListener::builder().listen_on(&master, vec![socket]).expect("it listens");
        Self { master, _listener }
    }

    fn worker(&self, name: &str, driver: impl LatentWorker) -> Worker {
        let config = WorkerConfig::new(name).with_idle(IdlePolicy::Never);
        let config = config.with_check_instance_interval(Duration::from_millis(20));
        self.master.add_worker(config, driver).expect("a new name")
    }
}

/// What somebody without a driver would do.
struct Peer {
    engine: Engine,
    gateway: String,
    image: String,
    how: How,
    begun: Sender<Instant>,
}

#[derive(Clone, Copy)]
enum How {
    /// `docker run`.
    Program,
    Api,
}

impl LatentWorker for Peer {
    type Instance = String;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<String>, StartError> {
        let name = format!("lw-bench-{}", start.key());
        let port = start.agent_address().and_then(|address| address.rsplit_once(':')).expect("there is a listener").1;
        let environment = [
            ("LATENT_WORKER_MASTER", format!("{}:{port}", self.gateway)),
            ("LATENT_WORKER_NAME", start.worker().to_owned()),
            ("LATENT_WORKER_SECRET", start.secret().expose().to_owned()),
        ];
        self.begun.send(Instant::now())?;
        match self.how {
            How::Program => {
                let mut run = Command::new("docker");
                run.args(["run", "--detach", "--init", "--name", &name]).env("DOCKER_HOST", self.engine.host());
                for (name, value) in environment {
                    run.args(["--env", name]).env(name, value);
                }
                let status = run.arg(&self.image).stdout(Stdio::null()).status()?;
                assert!(status.success(), "docker run: {status}");
            }
            How::Api => {
                let environment = environment.map(|(name, value)| format!("{name}={value}"));
                let body = json!({ "Image": self.image, "Env": environment, "HostConfig": { "Init": true } });
                self.engine.run(&name, &body);
            }
        }
        Ok(Started::new(name))
    }

    fn stop_instance(&self, mut stop: StopRequest<String>) -> Result<(), StopError> {
        if let Some(name) = stop.take_instance() {
            self.engine.remove(&name);
        }
        Ok(())
    }
}

/// Looks at the number of threads every few milliseconds.
struct Peak {
    enough: Sender<()>,
    most: thread::JoinHandle<usize>,
}

impl Peak {
    fn watch() -> Self {
        let (enough, end) = bounded::<()>(0);
        let most = thread::spawn(move || {
            let mut most = 0;
            while end.recv_timeout(Duration::from_millis(2)).is_err_and(|error| error.is_timeout()) {
                most = most.max(Process::now().threads);
            }
            most
        });
        Self { enough, most }
    }

    fn most(self) -> usize {
        drop(self.enough);
        self.most.join().expect("it does not panic")
    }
}
