//! Instances that are child processes: a program of the user that is the agent itself, and connects back to the master.
//!
//! [`ProcessLatentWorker`] decides when it is started and ended; `program` does that, `environment` is what it is told.
//! How the agent attaches is its own affair.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::directory;
use super::environment::{Environment, SecretFile, kind_by, secret_files};
use super::orphans::{Grace, ProcessId, Survivors, end_programs, kill_marked, nothing_found};
use super::program::{FAST_GRACE, Running, UserProgram};
use super::program_log::ProgramLog;
use super::program_output::Source;
use super::variables::{DIRECTORY, KEY_VARIABLE};
use crate::{BoxError, Health, Kind, LatentWorker, Leftover, Properties, Reclaimed};
use crate::{StartError, StartRequest, Started, StopError, StopRequest};

const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// How long a reclaim waits for a process that was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A driver whose instances are child processes, each of them an agent: a program of the user that runs as long as its
/// instance does, and connects to the master by itself. Unix only.
///
/// ```
/// use std::time::Duration;
/// use latent_worker::ProcessLatentWorker;
///
/// let driver = ProcessLatentWorker::new(["./agent", "--verbose"])
///     .grace(Duration::from_secs(60))
///     .compatible_by(["image"])
///     .secret_in_file();
/// ```
///
/// # What the agent is told
///
/// It inherits the environment and the current directory of this process. These variables are added, and only these:
/// where one of these names is set in this process already, that is not passed on.
///
/// | variable | value |
/// |---|---|
/// | `LATENT_WORKER_NAME` | the name of the worker, under which the agent must attach |
/// | `LATENT_WORKER_SECRET` | what the agent must prove itself with; not set with [`secret_in_file`](Self::secret_in_file) |
/// | `LATENT_WORKER_SECRET_FILE` | only with [`secret_in_file`](Self::secret_in_file): the path of a file with the secret, without a newline |
/// | `LATENT_WORKER_MASTER` | where the agent must connect to, `host:port`, if the master was [told](crate::MasterBuilder::agent_address) |
/// | `LATENT_WORKER_KEY` | 32 hexadecimal digits that belong to this attempt alone: for the name of a directory, say |
/// | `LATENT_WORKER_EPOCH` | the number of the attempt of this worker |
/// | `LATENT_WORKER_OWNER` | 32 hexadecimal digits that all attempts of one master, or of one [journal](crate::MasterBuilder::journal), have in common |
/// | `LATENT_WORKER_DIRECTORY` | only with [`private_directory`](Self::private_directory): the path of a directory for this instance alone |
/// | `LATENT_WORKER_PROPERTY_<name>` | a property of the build that the instance is started for |
///
/// In the name of a property every character that is not an ASCII letter, a digit or `_` becomes `_`. A build with two
/// properties that would be the same variable ends with an error, as does one with a property that holds a NUL
/// character or is too long for the system.
///
/// # When this process is gone
///
/// The agent's standard input is a pipe that this process holds open and never writes to. When this process ends in any
/// way, `kill -9` included, reading it comes to its end: **an agent reads its standard input, and ends when that
/// does.** Nothing else ends it then. It is the agent alone that can know this: its own children should not get that
/// pipe as their standard input.
///
/// With a [journal](crate::MasterBuilder::journal) the next master makes sure of it, on Linux: an agent that still runs
/// is ended as by a fast stop, and then every process is killed that has the key of the attempt as `LATENT_WORKER_KEY`
/// in its environment, and the agent by its recorded number and start time, each with the group that it leads. The
/// same is done about an agent whose stop has failed.
///
/// # What it says
///
/// Both streams of output are read as long as the instance lives, so that the agent never waits for a reader, and are
/// written to the log, at the level `debug`, by a thread of the driver that exists if the log takes such messages; a
/// logger that is too slow misses lines. Lines longer than 4 KiB are cut, and the secret is blotted out. When the agent
/// ends before it has attached, the last line of its standard error that is not empty is the reason.
///
/// # Stopping
///
/// The agent leads a process group of its own, which gets a SIGTERM. After the [grace](Self::grace), or as soon as the
/// agent has ended and nobody holds its output any more, whatever is left of the group gets a SIGKILL. A fast stop has
/// a grace of 1 s at most, for the agent to kill what it runs, and one that becomes fast leaves at most 1 s of it; none has what an agent that ended by itself has left
/// behind. What has left the group (`setsid`, or an agent that puts its commands into groups of their own) is for the
/// agent to end: on SIGTERM, and when its connection or its standard input ends.
///
/// Each instance takes one thread, to read its output.
///
/// A clone has the same settings; clones share nothing that matters but the thread for the log.
#[derive(Clone)]
pub struct ProcessLatentWorker {
    agent: UserProgram,
    grace: Duration,
    /// Where files with secrets are made.
    secret_files: Option<PathBuf>,
    /// Where the directories of instances are created.
    directories: Option<PathBuf>,
    compatible_by: Vec<String>,
    survivors: Survivors,
    log: Arc<ProgramLog>,
}

impl ProcessLatentWorker {
    /// With the program that is the agent, and its arguments.
    ///
    /// A program with a slash in it is a path, and a relative one counts from the directory that is current now; one
    /// without is looked for in `PATH`. That it is missing shows when an instance is started.
    pub fn new<S: Into<OsString>>(agent: impl IntoIterator<Item = S>) -> Self {
        Self {
            agent: UserProgram::new(agent),
            grace: DEFAULT_GRACE,
            secret_files: None,
            directories: None,
            compatible_by: Vec::new(),
            survivors: Survivors::default(),
            log: Arc::default(),
        }
    }

    /// How long the agent has to end between SIGTERM and SIGKILL when it is stopped; 10 s by default. A fast stop gives
    /// it 1 s at most, counted from the moment at which the stop is or becomes fast.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Hands the secret over in a file, `LATENT_WORKER_SECRET_FILE`, and not in the environment, which the commands of
    /// builds may inherit from the agent or read. An agent that uses `AgentClient::take_secret` removes the file before
    /// it runs a command. The file can only be read by this user (mode 0600), in a directory of its own in
    /// [`std::env::temp_dir`] that only this user can enter. It is removed at the latest after the instance was stopped
    /// or reclaimed; without a journal it stays when this process is killed.
    #[must_use]
    pub fn secret_in_file(mut self) -> Self {
        self.secret_files = Some(secret_files());
        self
    }

    /// Makes a directory for each instance, `LATENT_WORKER_DIRECTORY`, in [`std::env::temp_dir`]: empty, and only for
    /// this user (mode 0700). It is removed, with everything in it, when the instance is stopped or reclaimed, also when
    /// its agent has died. Without a journal it stays when this process is killed. By default no directory is created.
    #[must_use]
    pub fn private_directory(mut self) -> Self {
        self.directories = Some(secret_files());
        self
    }

    /// Returns the directory for the instance of one attempt. The agent may create anything in it.
    fn directory(&self, key: &str) -> Option<PathBuf> {
        self.directories.as_ref().map(|parent| parent.join(directory_name(key)))
    }

    /// The names of properties that make a difference: a running instance is only used for builds whose values of all
    /// of these are the same as those of the build that it was started for (to have none is a value, too). None by
    /// default: every instance fits every build.
    #[must_use]
    pub fn compatible_by<S: Into<String>>(mut self, properties: impl IntoIterator<Item = S>) -> Self {
        self.compatible_by = properties.into_iter().map(Into::into).collect();
        self
    }
}

fn directory_name(key: &str) -> String {
    format!("latent-worker-{key}.instance")
}

impl LatentWorker for ProcessLatentWorker {
    type Instance = ProcessInstance;

    /// Blocks for as long as the system takes to start a process, plus up to 50 ms when the program's file is busy.
    ///
    /// # Errors
    ///
    /// `CannotSubstantiate` when the properties of the build cannot be variables; an infrastructure failure when the
    /// program cannot be run. [`stop_instance`](LatentWorker::stop_instance) removes what was created before the error.
    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<ProcessInstance>, StartError> {
        let kind = kind_by(&self.compatible_by, &start.properties()).map_err(StartError::cannot)?;
        let directory = self.directory(start.key());
        if let Some(directory) = &directory {
            // Recorded before the directory is created, so that a reclaim always finds it. A path that is not UTF-8 is
            // found by the key.
            if let Some(path) = directory.to_str() {
                start.record(path)?;
            }
            directory::create(directory).map_err(|error| {
                StartError::infrastructure(format!("cannot create {}: {error}", directory.display()))
            })?;
        }
        let (environment, secret_file) = Environment::new(start, self.secret_files.as_deref())?;
        let source = Source {
            name: format!("{} (attempt {}): agent", start.worker(), start.epoch()),
            secret: Some(start.secret().clone()),
            progress: false,
            log: self.log.sender(),
        };
        let more = directory.iter().map(|path| (DIRECTORY, path.as_os_str())).collect::<Vec<_>>();
        let spawned = self.agent.spawn(Stdio::piped(), &environment, &more);
        let running = spawned.map_err(|error| self.agent.not_started(&error))?.follow(source)?;
        // Found by this when it has another environment by then; until then, by its environment. When it cannot be
        // recorded, dropping it kills it.
        if let Some(id) = ProcessId::of(running.leader())? {
            start.record(&id.to_string())?;
        }
        let instance = ProcessInstance { running, secret_file, kind, bad: OnceLock::new() };
        let detail = format!("pid {}", instance.pid());
        Ok(Started::new(instance).detail(detail))
    }

    /// Ends the agent and its process group, blocks until it was reaped, and removes the file with the secret. An agent
    /// that has ended already counts as stopped.
    ///
    /// # Errors
    ///
    /// Returns an error if a process of the group still runs after it was killed, because it has changed its user (on
    /// Linux); if the file cannot be removed; or if other code has reaped the agent: the rest of its group cannot be
    /// killed then, because its number may belong to another process.
    fn stop_instance(&self, mut stop: StopRequest<ProcessInstance>) -> Result<(), StopError> {
        let (key, directory) = (stop.key().to_owned(), self.directory(stop.key()));
        let (ended, removed) = match stop.take_instance() {
            Some(ProcessInstance { running, secret_file, .. }) => {
                (Some(running.end(self.grace, stop.hurry_signal())), secret_file.map_or(Ok(()), SecretFile::remove))
            }
            // No agent runs, but a file that could not be removed at that time may still exist.
            None => {
                let file = self.secret_files.as_ref().map(|parent| SecretFile::left_behind(parent, &key));
                (None, file.map_or(Ok(()), SecretFile::remove))
            }
        };
        let emptied = directory.map_or(Ok(()), |directory| directory::remove(&directory));
        if let Some(ended) = ended {
            let survivors = ended.map_err(|error| StopError::new(self.agent.unknown_end(&error)))?;
            self.survivors.add(&key, &survivors);
            self.survivors.check(&key)?;
        }
        removed.and(emptied)
    }

    /// Ends what is left of the agent of a dead master (on Linux), and removes the file with the secret; see
    /// [`ProcessLatentWorker`]. Elsewhere it cannot be found, and is for people to look after:
    /// [`Reclaimed::Unsupported`].
    ///
    /// # Errors
    ///
    /// When a process outlives its kill for 10 s, when the file cannot be removed, and when what is recorded is not the
    /// id of a process.
    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        let mut recorded = Vec::new();
        let mut directories: BTreeSet<PathBuf> = self.directory(leftover.key()).into_iter().collect();
        for id in leftover.ids() {
            let path = Path::new(id);
            if let Ok(process) = id.parse::<ProcessId>() {
                recorded.push(process);
            } else if path.is_absolute() && path.file_name() == Some(OsStr::new(&directory_name(leftover.key()))) {
                directories.insert(path.to_owned());
            } else {
                let what =
                    format!("{id:?} is neither a process nor the directory of this instance; nothing was touched");
                return Err(StopError::new(what));
            }
        }
        let key = OsStr::new(leftover.key());
        // Asked first, because it is the agent that knows what it runs elsewhere.
        let grace = Grace { length: self.grace.min(FAST_GRACE), cancel: leftover.cancel_signal() };
        end_programs(&[self.agent.words()], KEY_VARIABLE, key, grace, KILL_PATIENCE)?;
        kill_marked(KEY_VARIABLE, key, KILL_PATIENCE)?;
        for process in recorded {
            process.kill(KILL_PATIENCE)?;
        }
        self.survivors.check(leftover.key())?;
        if let Some(parent) = &self.secret_files {
            SecretFile::left_behind(parent, leftover.key()).remove()?;
        }
        for directory in directories {
            directory::remove_left(&directory, leftover)?;
        }
        Ok(nothing_found())
    }

    /// Bad when the agent has ended; the reason has its last words and its exit code or signal. Does not block.
    fn check_instance(&self, instance: &ProcessInstance) -> Health {
        let bad = match instance.running.end_by_now() {
            Ok(None) => return Health::Good,
            Ok(Some(end)) => {
                instance.bad.get_or_init(|| self.agent.last_words(end, instance.running.heard_by_now().message))
            }
            Err(error) => instance.bad.get_or_init(|| self.agent.unknown_end(&error)),
        };
        Health::bad(bad)
    }

    /// Whether any properties make a difference; see [`ProcessLatentWorker::compatible_by`].
    fn builds_may_be_incompatible(&self) -> bool {
        !self.compatible_by.is_empty()
    }

    /// As [`builds_may_be_incompatible`](Self::builds_may_be_incompatible).
    fn says_kinds(&self) -> bool {
        !self.compatible_by.is_empty()
    }

    /// The properties that make a difference, with their values; see [`ProcessLatentWorker::compatible_by`].
    ///
    /// # Errors
    ///
    /// When the properties of the build cannot be variables.
    fn kind(&self, properties: &Properties) -> Result<Kind, BoxError> {
        Ok(kind_by(&self.compatible_by, properties)?)
    }

    /// Whether the build asks for the kind of this instance.
    fn is_compatible_with_build(&self, instance: &ProcessInstance, properties: &Properties) -> Result<bool, BoxError> {
        Ok(self.kind(properties)? == instance.kind)
    }
}

/// Shows the program without its arguments.
impl fmt::Debug for ProcessLatentWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessLatentWorker")
            .field("agent", &self.agent)
            .field("grace", &self.grace)
            .field("secret_in_file", &self.secret_files.is_some())
            .field("private_directory", &self.directories.is_some())
            .field("compatible_by", &self.compatible_by)
            .finish_non_exhaustive()
    }
}

/// An instance of [`ProcessLatentWorker`]. Dropping it kills the agent.
pub struct ProcessInstance {
    running: Running,
    secret_file: Option<SecretFile>,
    kind: Kind,
    /// Why a check was bad: its last words can only be heard once.
    bad: OnceLock<String>,
}

impl ProcessInstance {
    /// The process id of the agent, which is the id of its process group too.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }
}

impl fmt::Debug for ProcessInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessInstance").field("pid", &self.pid()).finish_non_exhaustive()
    }
}
