//! Where instances come from: the driver that was asked for, as the rest of the farm sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use latent_worker::{AddWorkerError, LocalKind, LocalLatentWorker, Master, MasterBuilder, Worker, WorkerConfig};

use super::args::Driver;
use super::jobs::{self, Job};
#[cfg(all(feature = "agent", any(feature = "command", feature = "process", feature = "docker", feature = "ec2")))]
use super::remote;

/// A driver with all that belongs to it.
pub(crate) trait Instances {
    /// Settings that the master needs.
    fn master(&self) -> MasterBuilder;

    /// Lets agents in, if they come over a network. To be called once, before there is work.
    fn let_in(&mut self, master: &Master) -> io::Result<()>;

    fn add_worker(&self, master: &Master, config: WorkerConfig) -> Result<Worker, AddWorkerError>;
}

/// The errors are those of a user: nothing was started.
pub(crate) fn prepare(driver: &Driver, jobs: &[Job]) -> Result<Box<dyn Instances>, String> {
    match driver {
        Driver::Local { templates } => Ok(Box::new(Local(Arc::new(local(templates, jobs))))),
        #[cfg(all(feature = "agent", feature = "command"))]
        Driver::Command(programs) => Ok(Box::new(remote::command(programs)?)),
        #[cfg(not(all(feature = "agent", feature = "command")))]
        Driver::Command(_) => Err(needs(driver, "agent,command")),
        #[cfg(all(feature = "agent", feature = "process"))]
        Driver::Process { listen } => Ok(Box::new(remote::process(listen)?)),
        #[cfg(not(all(feature = "agent", feature = "process")))]
        Driver::Process { .. } => Err(needs(driver, "agent,process")),
        #[cfg(all(feature = "agent", feature = "docker"))]
        Driver::Docker(containers) => Ok(Box::new(remote::docker(containers)?)),
        #[cfg(not(all(feature = "agent", feature = "docker")))]
        Driver::Docker(_) => Err(needs(driver, "agent,docker")),
        #[cfg(all(feature = "agent", feature = "ec2"))]
        Driver::Ec2(machines) => Ok(Box::new(remote::ec2(machines)?)),
        #[cfg(not(all(feature = "agent", feature = "ec2")))]
        Driver::Ec2(_) => Err(needs(driver, "agent,ec2")),
    }
}

#[cfg(not(all(feature = "agent", feature = "command", feature = "process", feature = "docker", feature = "ec2")))]
fn needs(driver: &Driver, features: &str) -> String {
    let name = driver.name();
    format!(
        "--driver {name} is not part of this build of farm; it needs more features: \
         cargo run --release --features {features} --example farm"
    )
}

struct Local(Arc<LocalLatentWorker>);

impl Instances for Local {
    fn master(&self) -> MasterBuilder {
        Master::builder()
    }

    fn let_in(&mut self, _: &Master) -> io::Result<()> {
        Ok(())
    }

    fn add_worker(&self, master: &Master, config: WorkerConfig) -> Result<Worker, AddWorkerError> {
        master.add_worker(config, self.0.clone())
    }
}

/// Has every kind that a build asks for or that has a template. Instances of different kinds are never used for each
/// other, even if they look the same.
fn local(templates: &BTreeMap<String, PathBuf>, jobs: &[Job]) -> LocalLatentWorker {
    let asked_for = jobs.iter().filter_map(Job::kind);
    let kinds: BTreeSet<&str> = asked_for.chain(templates.keys().map(String::as_str)).collect();
    kinds.into_iter().fold(LocalLatentWorker::new().kind_property(jobs::KIND), |driver, name| {
        let kind = LocalKind::new().env("LATENT_WORKER_KIND", name);
        driver.kind(
            name,
            match templates.get(name) {
                Some(template) => kind.template(template),
                None => kind,
            },
        )
    })
}
