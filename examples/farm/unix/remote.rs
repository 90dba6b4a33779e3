//! Instances whose agents connect to the farm, and where they do.

use std::io::{self, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "command")]
use latent_worker::CommandLatentWorker;
#[cfg(feature = "process")]
use latent_worker::ProcessLatentWorker;
#[cfg(any(feature = "docker", feature = "ec2"))]
use latent_worker::Setting;
use latent_worker::{AddWorkerError, AgentListener, LatentWorker, Master, MasterBuilder, Worker, WorkerConfig};
#[cfg(feature = "ec2")]
use latent_worker::{Ami, Ec2LatentWorker, Offer};
#[cfg(feature = "docker")]
use latent_worker::{ByteSize, DockerLatentWorker};

#[cfg(feature = "process")]
use super::agent;
#[cfg(feature = "docker")]
use super::args::Containers;
#[cfg(feature = "ec2")]
use super::args::Machines;
#[cfg(feature = "command")]
use super::args::Programs;
use super::drivers::Instances;
#[cfg(feature = "ec2")]
use super::input;
use super::jobs;

/// Docker does not accept less, and no machine has more.
#[cfg(feature = "docker")]
const MEMORY: std::ops::RangeInclusive<u64> = 6 << 20..=1024 << 40;

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
    let farm = std::env::current_exe().map_err(|error| format!("cannot find the program farm itself: {error}"))?;
    let driver = ProcessLatentWorker::new([farm.into_os_string(), agent::ARGUMENT.into()]);
    // To look at a process costs nothing.
    Remote::new(driver.compatible_by([jobs::KIND]).secret_in_file().private_directory(), Duration::from_secs(1), listen)
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
        let size: ByteSize = memory.parse().map_err(|error| format!("--memory: {error}"))?;
        if !MEMORY.contains(&size.bytes()) {
            return Err(format!("invalid --memory {memory:?}: use 6M to 1024T"));
        }
        driver = driver.memory(size);
    }
    let driver = driver.build().map_err(|error| format!("--driver docker: {error}"))?;
    Remote::new(driver, Duration::from_secs(1), &containers.listen)
}

/// The account is the one that `aws` would use. Machines are not used for builds of another image, nor of another kind.
#[cfg(feature = "ec2")]
pub(crate) fn ec2(machines: &Machines) -> Result<Remote<Ec2LatentWorker>, String> {
    let user_data = input::text_of(&machines.user_data);
    let user_data =
        user_data.map_err(|what| format!("cannot read --user-data {}: {what}", machines.user_data.display()))?;
    let usual: Ami = machines.image.parse().map_err(|error| format!("--image: {error}"))?;
    let image = Setting::computed(move |properties| match properties.get(jobs::IMAGE) {
        Some(image) => image.parse(),
        None => Ok(usual.clone()),
    });
    let kind = Setting::computed(|properties| Ok(properties.get(jobs::KIND).unwrap_or_default().to_owned()));
    let door = Door::announced(&machines.listen)?;
    let driver = Ec2LatentWorker::builder().image(image).tag("farm.kind", kind).user_data(user_data);
    let driver = driver.master_address(&*door.address);
    let driver = machines.offers.iter().try_fold(driver, |driver, offer| {
        let offer: Offer = offer.parse().map_err(|error| format!("--offer {offer}: {error}"))?;
        Ok::<_, String>(driver.offer(offer))
    })?;
    let driver = driver.build().map_err(|error| format!("--driver ec2: {error}"))?;
    Ok(Remote::at(door, driver, Duration::from_secs(10)))
}

impl<D: LatentWorker> Remote<D> {
    #[cfg(any(feature = "command", feature = "process", feature = "docker"))]
    fn new(driver: D, check_interval: Duration, listen: &str) -> Result<Self, String> {
        Ok(Self::at(Door::announced(listen)?, driver, check_interval))
    }

    fn at(door: Door, driver: D, check_interval: Duration) -> Self {
        Self { driver: Arc::new(driver), check_interval, door, listener: None }
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
    /// Open, and told.
    fn announced(listen: &str) -> Result<Self, String> {
        let door = Self::open(listen).map_err(|error| format!("cannot listen on {listen}: {error}"))?;
        // Also with --quiet: a script may have asked for any port.
        let _ = writeln!(io::stderr(), "farm: agents connect to {}", door.address);
        Ok(door)
    }

    fn open(listen: &str) -> io::Result<Self> {
        let socket = TcpListener::bind(listen)?;
        let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
        let address = format!("{host}:{}", socket.local_addr()?.port());
        Ok(Self { sockets: vec![socket], address })
    }
}
