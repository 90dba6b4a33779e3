//! The agent of a local instance: it lives in the master's own process and runs each command as a child process.
//!
//! It decides what is run, where and with which environment, and knows which commands run. How one command is run and
//! ended is in `process`; the directory belongs to the driver.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use rustix::process::Pid;

use super::process::{self, Control, Running};
use super::supervisors::Supervisors;
use crate::drivers::orphans::Survivors;
use crate::{Agent, Command, CommandError, Files, LeaseEnd, Process, Program};

/// The secrets in the environment of a process that is an agent.
const TOLD_TO_AGENTS: &[&str] = &["LATENT_WORKER_SECRET", "LATENT_WORKER_SECRET_FILE", "WORKERPASS"];

/// How long the thread that starts a command waits for its end. A command that does nothing needs less.
const BRIEF: Duration = Duration::from_millis(2);

/// Changes to an environment; `None` removes a variable.
pub(super) type Environment = BTreeMap<String, Option<String>>;

/// The agent of an instance of [`LocalLatentWorker`](super::LocalLatentWorker). A copy is a handle of the same agent.
///
/// Commands go through the lease. What only a local instance has is reached through
/// [`Lease::agent`](crate::Lease::agent): its directory, into which a build can put files directly.
#[derive(Clone)]
pub struct LocalAgent {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    environment: Environment,
    state: Mutex<State>,
    supervisors: Arc<Supervisors>,
    survivors: Survivors,
    /// Disconnected when the agent is closed and no command is left.
    ended: Receiver<Infallible>,
}

struct State {
    /// Whether a command was ever started.
    has_run: bool,
    /// Of which every command holds a copy; `None` when the agent is closed.
    alive: Option<Sender<Infallible>>,
    /// Those that run, and some that have ended since the last one was started.
    running: Vec<Weak<Control>>,
}

impl LocalAgent {
    /// Creates an agent. `survivors` identifies the attempt by its directory.
    pub(super) fn new(directory: PathBuf, environment: Environment, survivors: Survivors) -> Self {
        let (alive, ended) = bounded(0);
        let state = Mutex::new(State { has_run: false, alive: Some(alive), running: Vec::new() });
        Self {
            shared: Arc::new(Shared { directory, environment, state, supervisors: Arc::default(), survivors, ended }),
        }
    }

    /// An agent apart from any driver, for a program that is itself the agent of a master elsewhere. Its commands run
    /// in `directory` and have the environment of this process, but not the agent's own secret, which is not for the log
    /// of a build. A relative path counts from the directory that is current now; it need not exist before the first
    /// command, and nobody removes it.
    ///
    /// Commands go on when this is dropped: [`close`](Agent::close) and
    /// [`close_and_wait`](LocalAgent::close_and_wait) end them.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self::new(super::absolute(directory.into()), Environment::new(), Survivors::default())
    }

    /// Reaps the orphaned processes that this process inherits, until the agent is closed; otherwise they stay as
    /// zombies. Call this in a program that is an agent in a container: as the first process of the container (process
    /// id 1) it inherits all orphans. Does nothing if this process does not inherit orphans, and on systems other than
    /// Linux.
    ///
    /// A thread looks for such processes once a second. Processes that agents and drivers of this library have started
    /// are not affected. **A child that this process has started by other means may be reaped**; its exit status is
    /// then lost.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started.
    pub fn reap_orphans(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if std::process::id() == 1 || rustix::process::child_subreaper().is_ok_and(|reaper| reaper.is_some()) {
            /// The pause between two looks.
            const PAUSE: Duration = Duration::from_secs(1);
            let ended = self.shared.ended.clone();
            let reap = move || {
                while ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                    if let Err(error) = crate::drivers::process_group::reap_inherited() {
                        log::warn!("cannot look for processes to reap: {error}");
                    }
                }
            };
            let thread = std::thread::Builder::new().name("local reaper".into()).spawn(reap)?;
            self.shared.supervisors.keep(thread);
        }
        Ok(())
    }

    /// The instance's own directory, an absolute path. The driver removes it when the instance is stopped.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// [Closes](Agent::close) the agent and blocks until all commands have ended. Returns false if `limit` has passed
    /// before that, or if a process still runs after it was killed: it is stuck in the kernel, or has changed its user.
    /// May be called again.
    pub fn close_and_wait(&self, limit: Duration) -> bool {
        self.close();
        if self.shared.ended.recv_timeout(limit) != Err(RecvTimeoutError::Disconnected) {
            return false;
        }
        self.shared.supervisors.join();
        self.shared.survivors.check(&self.shared.directory).is_ok()
    }

    /// Returns whether commands may have left processes behind outside their groups.
    pub(super) fn has_run(&self) -> bool {
        self.shared.state.lock().has_run
    }

    /// Unless the agent is closed: what [`close_and_wait`](LocalAgent::close_and_wait) waits for to be dropped.
    pub(super) fn alive(&self) -> Result<Sender<Infallible>, LeaseEnd> {
        self.shared.state.lock().alive.clone().ok_or(LeaseEnd::Stopped)
    }

    fn prepare(&self, command: &Command) -> io::Result<std::process::Command> {
        let mut prepared = match &command.program {
            Program::Shell(line) => {
                let mut shell = std::process::Command::new("/bin/sh");
                shell.arg("-c").arg(line);
                shell
            }
            Program::Exec(arguments) => {
                let (program, arguments) = arguments
                    .split_first()
                    .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the command names no program"))?;
                let mut prepared = std::process::Command::new(program);
                prepared.args(arguments);
                prepared
            }
        };

        let directory = self.shared.directory.join(command.directory.as_deref().unwrap_or(Path::new("")));
        // The system has one and the same answer for a missing program and for a missing directory.
        if !directory.is_dir() {
            let message = format!("there is no directory {}", directory.display());
            return Err(io::Error::new(ErrorKind::NotADirectory, message));
        }
        prepared.current_dir(directory);

        // What this process itself may have been told as an agent is not for builds.
        TOLD_TO_AGENTS.iter().for_each(|name| _ = prepared.env_remove(name));
        change_environment(&mut prepared, &self.shared.environment);
        prepared.env("LATENT_WORKER_INSTANCE", &self.shared.directory);
        change_environment(&mut prepared, &command.environment);
        Ok(prepared)
    }
}

impl Agent for LocalAgent {
    /// Starts the command as a child process that leads a process group of its own.
    ///
    /// - `Command::directory` may be absolute or lead out of the instance's directory: a local instance keeps builds
    ///   apart, it does not lock them in.
    /// - The environment is that of this process without the secret of an agent (`LATENT_WORKER_SECRET`,
    ///   `LATENT_WORKER_SECRET_FILE`, `WORKERPASS`), then the kind's, then `LATENT_WORKER_INSTANCE` (the instance's
    ///   directory), then the command's. `HOME` is left alone.
    /// - When the process has ended, the command has: whatever else is left of its group is killed. A process that has
    ///   left the group (`setsid`) lives on until the stop of the instance. Its output is delivered only up to the end
    ///   of the command.
    /// - If a process of the group cannot be killed because it has changed its user, the command ends with
    ///   [`Output::Failed`](crate::Output::Failed), which names the process (on Linux). Nothing waits for that process.
    /// - Output that is not read slows the command and does not count as silence. After an interrupt only the last
    ///   16 pieces (of 64 KiB at most) of what nobody has read are kept.
    ///
    /// Blocks for as long as the system takes to start a process, plus up to 50 ms when the program's file is busy, plus up
    /// to 2 ms: a command that ends within that needs no other thread.
    ///
    /// # Errors
    ///
    /// [`CommandError::Start`] when the program or the directory does not exist or the system refuses;
    /// [`CommandError::LeaseEnded`] when the agent was closed.
    fn start_command(&self, command: &Command) -> Result<Process, CommandError> {
        // Held from before the start, so that `close_and_wait` waits for a command that is just being started.
        let alive = self.alive()?;
        let started = self.prepare(command).and_then(|prepared| {
            let (survivors, directory) = (self.shared.survivors.clone(), self.shared.directory.clone());
            let outlived = Box::new(move |pids: &[Pid]| survivors.add(directory, pids));
            let Running { process, control, supervisor } = process::start(prepared, command, alive, outlived)?;
            if let Some(supervisor) = supervisor.run_briefly(Instant::now() + BRIEF) {
                self.shared.supervisors.begin(supervisor)?;
            }
            Ok((process, control))
        });
        let (process, control) =
            started.map_err(|source| CommandError::Start { program: command.program_name().to_owned(), source })?;
        let mut state = self.shared.state.lock();
        state.has_run = true;
        state.running.retain(|control| control.strong_count() > 0);
        state.running.push(Arc::downgrade(&control));
        let closed = state.alive.is_none();
        drop(state);
        if closed {
            control.interrupt();
        }
        Ok(process)
    }

    fn files(&self) -> Option<&dyn Files> {
        Some(self)
    }

    /// Kills all commands that run, ends transfers of files and refuses new ones. Does not wait; repeating it is harmless.
    fn close(&self) {
        let mut state = self.shared.state.lock();
        state.alive = None;
        let running: Vec<_> = state.running.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        self.shared.supervisors.close();
        running.iter().for_each(|control| control.interrupt());
    }
}

impl fmt::Debug for LocalAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalAgent").field("directory", &self.shared.directory).finish_non_exhaustive()
    }
}

fn change_environment(prepared: &mut std::process::Command, changes: &Environment) {
    for (name, value) in changes {
        match value {
            Some(value) => prepared.env(name, value),
            None => prepared.env_remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{PATIENCE, Place, collect};
    use super::*;
    use crate::Exit;

    fn agent(place: &Place) -> LocalAgent {
        LocalAgent::new(place.path().to_owned(), Environment::new(), Survivors::default())
    }

    fn stdout(agent: &LocalAgent, command: &Command) -> String {
        let (stdout, stderr, end) = collect(&agent.start_command(command).unwrap());
        assert!(end.exit.success(), "{}: {}", end.exit, String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    #[test]
    fn the_environment_is_ours_then_the_kinds_then_the_commands() {
        let place = Place::new("environment");
        let ours = std::env::var("PATH").unwrap();
        let kind = [("A", Some("kind")), ("B", Some("kind")), ("C", Some("kind")), ("HOME", None)];
        let kind = kind.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        let agent = LocalAgent::new(place.path().to_owned(), kind.into(), Survivors::default());
        let line = "echo $PATH $A $B ${C-none} ${HOME-none}; echo $LATENT_WORKER_INSTANCE";
        let seen = stdout(&agent, &Command::shell(line).env("B", "command").env_remove("C"));
        assert_eq!(seen, format!("{ours} kind command none none\n{}\n", place.path().display()));
    }

    #[test]
    fn commands_run_in_the_instances_directory_or_below_it() {
        let place = Place::new("directory");
        std::fs::create_dir(place.path().join("below")).unwrap();
        let agent = agent(&place);
        assert_eq!(stdout(&agent, &Command::exec(["pwd"])), format!("{}\n", place.path().display()));
        let below = stdout(&agent, &Command::exec(["pwd"]).directory("below"));
        assert_eq!(below, format!("{}\n", place.path().join("below").display()));
        assert_eq!(stdout(&agent, &Command::exec(["pwd"]).directory("/")), "/\n");
    }

    #[test]
    fn an_agent_of_a_relative_directory_stays_where_it_is() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(LocalAgent::in_directory("below").directory(), here.join("below"));
    }

    #[test]
    fn a_program_with_a_relative_path_is_that_of_the_instance() {
        let place = Place::new("relative");
        stdout(&agent(&place), &Command::shell("printf '#!/bin/sh\necho own\n' >tool; chmod +x tool"));
        assert_eq!(stdout(&agent(&place), &Command::exec(["./tool"])), "own\n");
    }

    #[test]
    fn what_cannot_be_started_is_an_error_that_names_it() {
        let place = Place::new("missing");
        let agent = agent(&place);
        let error = |command: &Command| agent.start_command(command).unwrap_err().to_string();
        assert!(
            error(&Command::exec(["./no-such-program"]))
                .starts_with("cannot start \"./no-such-program\": No such file")
        );
        let missing = place.path().join("nowhere");
        let message = error(&Command::shell("true").directory("nowhere"));
        assert_eq!(message, format!("cannot start \"/bin/sh\": there is no directory {}", missing.display()));
        assert_eq!(error(&Command::exec([""; 0])), "cannot start \"\": the command names no program");
        assert!(agent.close_and_wait(PATIENCE));
    }

    #[test]
    fn a_program_that_stays_busy_is_an_error() {
        let place = Place::new("busy");
        let tool = place.path().join("tool");
        std::fs::copy("/bin/sh", &tool).unwrap();
        let writer = std::fs::File::options().append(true).open(&tool).unwrap();
        let command = Command::exec(["./tool", "-c", "true"]);
        assert!(matches!(
            agent(&place).start_command(&command),
            Err(CommandError::Start { source, .. }) if source.kind() == ErrorKind::ExecutableFileBusy
        ));
        drop(writer);
        stdout(&agent(&place), &command);
    }

    #[test]
    fn close_interrupts_what_runs_and_refuses_what_is_new() {
        let place = Place::new("close");
        let agent = agent(&place);
        let running: Vec<_> = (0..3).map(|_| agent.start_command(&Command::shell("sleep 1000")).unwrap()).collect();
        agent.close();
        agent.close();
        for process in &running {
            assert_eq!(collect(process).2.exit, Exit::Interrupted);
        }
        let refused = agent.start_command(&Command::shell("true"));
        assert!(matches!(refused, Err(CommandError::LeaseEnded(LeaseEnd::Stopped))), "{refused:?}");
    }

    #[test]
    fn the_end_waits_for_commands_whose_output_nobody_reads() {
        let place = Place::new("end");
        let agent = agent(&place);
        let running = agent.start_command(&Command::shell("yes")).unwrap();
        // Nobody tells when a channel is full.
        while !running.output().is_full() {
            std::thread::yield_now();
        }
        assert!(agent.close_and_wait(PATIENCE));
        assert!(agent.close_and_wait(Duration::ZERO), "the second time there is nothing to wait for");
        assert_eq!(collect(&running).2.exit, Exit::Interrupted);
    }

    #[test]
    fn ended_commands_are_forgotten() {
        let place = Place::new("forgotten");
        let agent = agent(&place);
        for _ in 0..50 {
            stdout(&agent, &Command::exec(["true"]));
        }
        assert!(agent.shared.state.lock().running.len() < 10);
    }
}
