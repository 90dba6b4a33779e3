//! The machines: what boots where moto only writes a line. Each machine that runs has a real agent, which is told by the
//! machine's user data where its master is.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use data_encoding::BASE64;
use latent_worker::{AgentClient, AgentStopper, LocalAgent, Secret};

use super::cloud::Cloud;

/// What a machine is told. The room understands that, and a script that makes a stock worker.
pub(crate) const USER_DATA: &str =
    "MASTER=@LATENT_WORKER_MASTER@\nNAME=@LATENT_WORKER_NAME@\nSECRET=@LATENT_WORKER_SECRET@\n";

pub(crate) struct Room {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    booted: Arc<AtomicUsize>,
}

/// An agent on its machine.
struct Booted {
    stopper: AgentStopper,
    thread: JoinHandle<()>,
    /// What it was told.
    told: String,
}

impl Room {
    /// Looks after the machines of a region.
    pub(crate) fn of(cloud: &Cloud) -> Self {
        let (end, booted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = {
            let (cloud, end, booted) = (cloud.clone(), end.clone(), booted.clone());
            std::thread::spawn(move || run(&cloud, &end, &booted))
        };
        Self { end, thread: Some(thread), booted }
    }

    /// In which nothing boots.
    pub(crate) fn empty() -> Self {
        Self { end: Arc::default(), thread: None, booted: Arc::default() }
    }

    /// How many machines have booted so far.
    pub(crate) fn booted(&self) -> usize {
        self.booted.load(Ordering::Relaxed)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return };
        if thread.join().is_err() && !std::thread::panicking() {
            panic!("the room has panicked");
        }
    }
}

fn run(cloud: &Cloud, end: &AtomicBool, count: &AtomicUsize) {
    let mut machines: HashMap<String, Booted> = HashMap::new();
    while !end.load(Ordering::Relaxed) {
        let running = cloud.machines().into_iter().filter(|machine| machine.state == "running");
        let running: Vec<String> = running.map(|machine| machine.id).collect();
        let gone: Vec<String> = machines.keys().filter(|id| !running.contains(id)).cloned().collect();
        gone.into_iter().filter_map(|id| machines.remove(&id)).for_each(Booted::off);
        for id in running {
            if !machines.contains_key(&id)
                && let Some(booted) = Booted::on(cloud, &id)
            {
                count.fetch_add(1, Ordering::Relaxed);
                machines.insert(id, booted);
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    machines.into_values().for_each(Booted::off);
}

impl Booted {
    /// Nothing, when the machine is told nothing that the room understands.
    fn on(cloud: &Cloud, id: &str) -> Option<Self> {
        let told = String::from_utf8(BASE64.decode(cloud.user_data(id).as_bytes()).ok()?).ok()?;
        let value = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let script = told.split_once("create-worker").map_or("", |(_, script)| script);
        let quoted: Vec<&str> = script.split('\'').skip(1).step_by(2).take(3).collect();
        let (master, name, secret) = match (&quoted[..], value("MASTER")) {
            (_, Some(master)) => (master, value("NAME")?, value("SECRET")?),
            ([master, name, secret], None) => (*master, *name, *secret),
            _ => return None,
        };
        let (master, name) = (master.to_owned(), name.to_owned());
        let directory: PathBuf = std::env::temp_dir().join(format!("lw-ec2-{}-{id}", std::process::id()));
        std::fs::create_dir_all(&directory).ok()?;
        let agent = LocalAgent::in_directory(&directory);
        let client = AgentClient::builder(master, name, Secret::new(secret)).build(&directory, agent.clone());
        let stopper = client.stopper();
        let thread = std::thread::spawn(move || {
            _ = client.run();
            agent.close_and_wait(Duration::from_secs(10));
            _ = std::fs::remove_dir_all(directory);
        });
        Some(Self { stopper, thread, told })
    }

    fn off(self) {
        self.stopper.stop();
        _ = self.thread.join();
        drop(self.told);
    }
}
