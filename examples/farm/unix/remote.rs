//! Instances whose agents connect to the farm, and where they do.

use std::io::{self, Write};
use std::net::TcpListener;
use std::sync::Arc;

use latent_worker::{
    AddWorkerError, AgentListener, CommandLatentWorker, LatentWorker, Master, MasterBuilder, Worker, WorkerConfig,
};

use super::args::Programs;
use super::drivers::Instances;
use super::jobs;

/// A driver and the way in for its agents.
pub(crate) struct Remote<D> {
    driver: Arc<D>,
    door: Door,
    listener: Option<AgentListener>,
}

pub(crate) fn command(programs: &Programs) -> Result<Remote<CommandLatentWorker>, String> {
    let shell = |line: &str| ["/bin/sh", "-c", line].map(str::to_owned);
    let driver = CommandLatentWorker::new(shell(&programs.start), shell(&programs.stop)).compatible_by([jobs::KIND]);
    let driver = match &programs.check {
        Some(check) => driver.check(shell(check)),
        None => driver,
    };
    Remote::new(driver, &programs.listen)
}

impl<D: LatentWorker> Remote<D> {
    fn new(driver: D, listen: &str) -> Result<Self, String> {
        let door = Door::open(listen).map_err(|error| format!("cannot listen on {listen}: {error}"))?;
        // Also with --quiet: a script may have asked for any port.
        let _ = writeln!(io::stderr(), "farm: agents connect to {}", door.address);
        Ok(Self { driver: Arc::new(driver), door, listener: None })
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
        master.add_worker(config, self.driver.clone())
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
