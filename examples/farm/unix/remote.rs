//! Instances whose agents connect to the farm, and where they do.

use std::io::{self, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "command")]
use latent_worker::CommandLatentWorker;
#[cfg(feature = "process")]
use latent_worker::ProcessLatentWorker;
use latent_worker::{AddWorkerError, AgentListener, LatentWorker, Master, MasterBuilder, Worker, WorkerConfig};
#[cfg(feature = "docker")]
use latent_worker::{ByteSize, DockerLatentWorker, Setting};

#[cfg(feature = "process")]
use super::agent;
#[cfg(feature = "docker")]
use super::args::Containers;
#[cfg(feature = "command")]
use super::args::Programs;
use super::drivers::Instances;
use super::jobs;

/// A driver and the way in for its agents.
pub(crate) struct Remote<D> {
    driver: Arc<D>,
    /// How often instances are checked until their agents have attached.
    check_interval: Duration,
    door: Door,
    listener: Option<AgentListener>,
}

#[cfg(feature = "command")]
pub(crate) fn command(programs: &Programs) -> Result<Remote<CommandLatentWorker>, String> {
    let shell = |line: &str| ["/bin/sh", "-c", line].map(str::to_owned);
    let driver = CommandLatentWorker::new(shell(&programs.start), shell(&programs.stop)).compatible_by([jobs::KIND]);
    let driver = match &programs.check {
        Some(check) => driver.check(shell(check)),
        None => driver,
    };
    Remote::new(driver, Duration::from_secs(10), &programs.listen)
}

/// Each instance is this program again. What it is to connect with is in a file, so that a build that shows its
/// environment does not show that.
#[cfg(feature = "process")]
pub(crate) fn process(listen: &str) -> Result<Remote<ProcessLatentWorker>, String> {
    let farm = std::env::current_exe().map_err(|error| format!("cannot tell where farm itself is: {error}"))?;
    let driver = ProcessLatentWorker::new([farm.into_os_string(), agent::ARGUMENT.into()]);
    // To look at a process costs nothing.
    Remote::new(driver.compatible_by([jobs::KIND]).secret_in_file(), Duration::from_secs(1), listen)
}

/// The engine is the one that `docker` would use. Containers are not used for builds of another image, nor of another
/// kind.
#[cfg(feature = "docker")]
pub(crate) fn docker(containers: &Containers) -> Result<Remote<DockerLatentWorker>, String> {
    let usual = containers.image.clone();
    let image = Setting::computed(move |properties| Ok(properties.get(jobs::IMAGE).unwrap_or(&usual).to_owned()));
    let kind = Setting::computed(|properties| Ok(properties.get(jobs::KIND).unwrap_or_default().to_owned()));
    let mut driver = DockerLatentWorker::builder(image).label("farm.kind", kind);
    if let Some(memory) = &containers.memory {
        driver = driver.memory(memory.parse::<ByteSize>().map_err(|error| format!("--memory: {error}"))?);
    }
    let driver = driver.build().map_err(|error| format!("--driver docker: {error}"))?;
    Remote::new(driver, Duration::from_secs(1), &containers.listen)
}

impl<D: LatentWorker> Remote<D> {
    fn new(driver: D, check_interval: Duration, listen: &str) -> Result<Self, String> {
        let door = Door::open(listen).map_err(|error| format!("cannot listen on {listen}: {error}"))?;
        // Also with --quiet: a script may have asked for any port.
        let _ = writeln!(io::stderr(), "farm: agents connect to {}", door.address);
        Ok(Self { driver: Arc::new(driver), check_interval, door, listener: None })
    }
}

impl<D: LatentWorker> Instances for Remote<D> {
    fn master(&self) -> MasterBuilder {
        Master::builder().agent_address(&*self.door.address)
    }

    fn let_in(&mut self, master: &Master) -> io::Result<()> {
        let sockets = std::mem::take(&mut self.door.sockets);
        self.listener = Some(AgentListener::builder().listen_on(master, sockets)?);
        Ok(())
    }

    fn add_worker(&self, master: &Master, config: WorkerConfig) -> Result<Worker, AddWorkerError> {
        master.add_worker(config.with_check_instance_interval(self.check_interval), self.driver.clone())
    }
}

/// Sockets that agents connect to.
struct Door {
    sockets: Vec<TcpListener>,
    /// What agents are told: the host as it was given, and the port that it got.
    address: String,
}

impl Door {
    fn open(listen: &str) -> io::Result<Self> {
        let socket = TcpListener::bind(listen)?;
        let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
        let address = format!("{host}:{}", socket.local_addr()?.port());
        Ok(Self { sockets: vec![socket], address })
    }
}
