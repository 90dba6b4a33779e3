//! The farm as the agent of an instance: what `--driver process` starts. It learns from its environment where to connect
//! and as whom, and runs builds in a directory of its own, which goes with it.
//!
//! It ends when the master says so, on a signal, and when its standard input ends: then the farm itself is gone.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
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
    let directory = Directory::create(&told.key)?;
    let served = serve(told, &directory.0, end);
    drop(directory);
    served
}

/// Runs the commands of the master in the directory, until it says that this is the end, or somebody else does.
fn serve(told: Told, directory: &Path, end: Receiver<()>) -> Result<(), String> {
    let agent = LocalAgent::in_directory(directory);
    agent.reap_orphans().map_err(|error| format!("cannot reap processes: {error}"))?;
    let client = AgentClient::builder(told.master, told.name, told.secret).build(directory, agent.clone());
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
    key: String,
}

impl Told {
    fn read() -> Result<Self, String> {
        let variable = |name: &str| env::var(name).map_err(|_| format!("{ARGUMENT} is for farm itself: no {name}"));
        let file = variable("LATENT_WORKER_SECRET_FILE")?;
        Ok(Self {
            name: variable("LATENT_WORKER_NAME")?,
            secret: fs::read_to_string(&file)
                .map(Secret::new)
                .map_err(|error| format!("cannot read {file}: {error}"))?,
            master: variable("LATENT_WORKER_MASTER")?,
            key: variable("LATENT_WORKER_KEY")?,
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

/// The directory of the instance. Removed when dropped.
struct Directory(PathBuf);

impl Directory {
    /// The key is unique, so that nobody has made it before.
    fn create(key: &str) -> Result<Self, String> {
        let path = env::temp_dir().join(format!("farm-{key}"));
        let created = fs::DirBuilder::new().mode(0o700).create(&path);
        created.map_err(|error| format!("cannot create {}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            complain(format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}
