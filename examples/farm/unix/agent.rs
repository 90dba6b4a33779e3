//! The farm as the agent of an instance: what `--driver process` starts. It learns from its environment where to connect
//! and as whom, and in which directory to run builds. The driver removes that directory.
//!
//! It ends when the master says so, on a signal, and when its standard input ends: then the farm itself is gone.

use std::env;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;
use latent_worker::{AgentClient, LocalAgent, Secret};
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::raise;

use super::{complain, signals};

/// The only argument of an agent.
pub(crate) const ARGUMENT: &str = "--agent";
/// How long commands that were killed may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let told = Told::read()?;
    let end = end().map_err(|error| format!("cannot listen to signals: {error}"))?;
    serve(told, end)
}

/// Runs the commands of the master in the directory, until it says that this is the end, or somebody else does.
fn serve(told: Told, end: Receiver<()>) -> Result<(), String> {
    let agent = LocalAgent::in_directory(&told.directory);
    agent.reap_orphans().map_err(|error| format!("cannot reap processes: {error}"))?;
    let client = AgentClient::builder(told.master, told.name, told.secret).build(&told.directory, agent.clone());
    let stopper = client.stopper();
    let stop = move || _ = end.recv().map(|()| stopper.stop());
    let watching = thread::Builder::new().name("farm-agent-end".into()).spawn(stop);
    watching.map_err(|error| format!("cannot listen to signals: {error}"))?;
    let served = client.run();
    // The directory is theirs until they have ended.
    if !agent.close_and_wait(PATIENCE) {
        complain("a process of a command still runs after it was killed");
    }
    served.map(drop).map_err(|error| error.to_string())
}

/// What an agent is told.
struct Told {
    name: String,
    secret: Secret,
    master: String,
    directory: PathBuf,
}

impl Told {
    fn read() -> Result<Self, String> {
        let variable = |name: &str| env::var(name).map_err(|_| format!("{ARGUMENT} is for farm itself: no {name}"));
        Ok(Self {
            name: variable("LATENT_WORKER_NAME")?,
            secret: AgentClient::take_secret().map_err(|error| error.to_string())?,
            master: variable("LATENT_WORKER_MASTER")?,
            directory: variable("LATENT_WORKER_DIRECTORY")?.into(),
        })
    }
}

/// Gets an item for each signal, and one when the farm is gone.
fn end() -> io::Result<Receiver<()>> {
    let signals = signals::interrupts()?;
    thread::Builder::new().name("farm-agent-stdin".into()).spawn(|| {
        // Nobody writes to it.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = raise(SIGTERM);
    })?;
    Ok(signals)
}
