//! Instances that programs of the user start, check and stop: the smallest way to a new kind of worker, in any
//! language.
//!
//! [`CommandLatentWorker`] decides which program is run when and what its end means; `program` runs one, `environment`
//! is what it is told, `program_output` what it says, and `program_log` where that goes. How the agent gets to the
//! instance, and how it attaches, is the programs' own affair.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use super::environment::{Environment, SecretFile, kind_by, secret_files};
use super::orphans::{Grace, Survivors, any_marked, end_marked, end_programs, nothing_found, still_running};
use super::program::{Bounds, End, Ran, Spawned, UserProgram};
use super::program_log::ProgramLog;
use super::program_output::{FirstLine, LINE_LIMIT, Output, Source};
use super::variables::KEY_VARIABLE;
use crate::{BoxError, Cancelled, FailureCause, Health, Kind, LatentWorker, Leftover, Properties, Reclaimed, Secret};
use crate::{StartError, StartRequest, Started, StopError, StopRequest};

/// The program says that the build asks for what can never be (`EX_DATAERR` of sysexits.h).
const EXIT_CANNOT: i32 = 65;
/// The program says that there is none left now (`EX_TEMPFAIL`).
const EXIT_NO_CAPACITY: i32 = 75;

const DEFAULT_GRACE: Duration = Duration::from_secs(10);
const DEFAULT_STOP_LIMIT: Duration = Duration::from_secs(600);
const DEFAULT_CHECK_LIMIT: Duration = Duration::from_secs(60);
/// How long a reclaim waits for a program that was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How many times a reclaim runs its program at most while processes of the attempt are still found.
const MOST_ROUNDS: u32 = 5;

/// A driver whose instances are started, checked and stopped by programs of the user. Unix only.
///
/// The start program makes an instance whose agent connects to the master, writes one line about it (an id) to its
/// standard output, and exits. The stop program gets that line and removes the instance.
///
/// ```
/// use std::time::Duration;
/// use latent_worker::CommandLatentWorker;
///
/// let driver = CommandLatentWorker::new(["./start.sh"], ["./stop.sh", "--verbose"])
///     .check(["./check.sh"])
///     .stop_limit(Duration::from_secs(60))
///     .compatible_by(["image"])
///     .secret_in_file();
/// ```
///
/// ```sh
/// #!/bin/sh -e
/// # start.sh: exit 65 when the build asks for what cannot be, 75 when there is no room now
/// image=${LATENT_WORKER_PROPERTY_image:-debian}
/// docker run --detach --label "key=$LATENT_WORKER_KEY" \
///     --env LATENT_WORKER_NAME --env LATENT_WORKER_SECRET --env LATENT_WORKER_MASTER "$image" agent
/// ```
///
/// ```sh
/// #!/bin/sh -e
/// # stop.sh: by the key, because a start that failed may have left something without saying so
/// docker ps --all --quiet --filter "label=key=$LATENT_WORKER_KEY" | xargs --no-run-if-empty docker rm --force
/// ```
///
/// # What a program is told
///
/// It inherits the environment and the current directory of this process; its standard input is empty. These variables
/// are added, and only these: where one of these names is set in this process already, that is not passed on.
///
/// | variable | value | for |
/// |---|---|---|
/// | `LATENT_WORKER_NAME` | the name of the worker, under which the agent must attach | all |
/// | `LATENT_WORKER_SECRET` | what the agent must prove itself with; not set with [`secret_in_file`](Self::secret_in_file) | all |
/// | `LATENT_WORKER_SECRET_FILE` | only with [`secret_in_file`](Self::secret_in_file): the path of a file with the secret, without a newline | all |
/// | `LATENT_WORKER_MASTER` | where the agent must connect to, `host:port`, if the master was [told](crate::MasterBuilder::agent_address) | all |
/// | `LATENT_WORKER_KEY` | 32 hexadecimal digits that belong to this attempt alone: for tags and names | all |
/// | `LATENT_WORKER_EPOCH` | the number of the attempt of this worker | all |
/// | `LATENT_WORKER_OWNER` | 32 hexadecimal digits that all attempts of one master, or of one [journal](crate::MasterBuilder::journal), have in common: for tags | all |
/// | `LATENT_WORKER_PROPERTY_<name>` | a property of the build that the instance is (or was) started for | all |
/// | `LATENT_WORKER_INSTANCE` | the first line that start wrote to its standard output, if it wrote one | stop, check |
/// | `LATENT_WORKER_FAST` | `1` when somebody waits for the end, so that all grace is to be skipped; else `0` | stop |
///
/// In the name of a property every character that is not an ASCII letter, a digit or `_` becomes `_`. A build with two
/// properties that would be the same variable ends with an error, as does one with a property that holds a NUL
/// character or is too long for the system.
///
/// # What a program tells
///
/// | exit code | start | check | stop |
/// |---|---|---|---|
/// | 0 | the instance runs | it looks well | it is gone |
/// | 65 | cannot substantiate: the build's own fault; no retry, no quarantine | bad | failed |
/// | 75 | failed, [no capacity](crate::FailureCause::Capacity): try again later | bad | failed |
/// | other, or a signal | failed, infrastructure | bad | failed |
///
/// The last line of its standard error that is not empty is the message. Lines that start writes to its standard error
/// are told to observers as [progress](StartRequest::progress): 100 at once and 10 a second after that. All other lines
/// are written to the log, at the level `debug`, by a thread of the driver that exists if the log takes such messages;
/// a logger that is too slow misses lines. A program never waits for a reader, however much it writes.
/// Lines longer than 4 KiB are cut, and the first line of start's standard output must not be longer. The secret is
/// blotted out in all of these.
///
/// # What it leaves running
///
/// When *start* has exited, whatever it has left in the background lives on: that may be the instance itself
/// (`agent & echo $!`). Its output is read until the stop program has exited; one thread does that, unless the output
/// of what is left goes elsewhere (`agent >agent.log 2>&1 &`). What *check* and *stop* leave in their process group is
/// killed when they exit.
///
/// A start that is cancelled, and a check or a stop that runs longer than its limit, is ended: its process group gets a
/// SIGTERM. After the [grace](Self::grace), or as soon as the program has exited and nobody holds its output any more,
/// what is left of the group gets a SIGKILL. A process that has left the group (`setsid`) lives on in all these cases.
/// If a process of the group cannot be killed because it has changed its user, the error of the stop names it (on
/// Linux), and the attempt is a leftover until that process has ended.
///
/// # Stopping
///
/// The stop program is run exactly once for every start program that was run (but see
/// [`restart_hurried_stop`](Self::restart_hurried_stop)), also after one that failed or was
/// cancelled: then with `LATENT_WORKER_INSTANCE` only if a complete line had been written. It must succeed when there
/// is nothing (left) to stop, and finds what has no line yet by `LATENT_WORKER_KEY`.
///
/// # Reclaiming
///
/// With a [journal](crate::MasterBuilder::journal) the first line of start's standard output is
/// [recorded](StartRequest::record), if it is UTF-8 and the secret is not in it. When this process was killed, the next
/// one has the [reclaim](Self::reclaim) program remove what may be left of each instance, as often as it takes; so it
/// does after a stop program has failed. Like the stop program it must succeed when there is nothing left. It is told
/// `LATENT_WORKER_NAME`, `_KEY`, `_EPOCH` and `_OWNER`, `_INSTANCE` if that was recorded, and `LATENT_WORKER_FAST=1`:
/// not the secret, the address and the properties, for they are in no journal.
///
/// On Linux every process that has the key of the attempt as `LATENT_WORKER_KEY` in its environment belongs to the
/// attempt. Programs of the attempt that still run are ended first, as after a cancel: those that lead a process group
/// and were run with the same arguments. Then the reclaim program runs, and after it every other process with the key
/// is ended in the same way. Such a process may be a part of the instance, or a start program that has executed another
/// program. It may have created something after the reclaim program had looked, so the reclaim program is then run
/// again. The instance is gone when the reclaim program has succeeded and no process had the key when that run began. A
/// process that must outlive the instance must therefore be started without the variable (`env -u LATENT_WORKER_KEY`).
/// A process that has changed its user or its environment is not found.
///
/// A clone has the same settings; clones share nothing that matters but the thread for the log.
#[derive(Clone)]
pub struct CommandLatentWorker {
    start: UserProgram,
    stop: UserProgram,
    check: Option<UserProgram>,
    /// The stop program, unless there is one for this alone.
    reclaim: Option<UserProgram>,
    grace: Duration,
    stop_limit: Duration,
    restart_hurried_stop: bool,
    check_limit: Duration,
    /// Where files with secrets are made.
    secret_files: Option<PathBuf>,
    compatible_by: Vec<String>,
    /// By key: those whose start program was run and whose stop has not come yet.
    attempts: Arc<Mutex<BTreeMap<String, Arc<Attempt>>>>,
    survivors: Survivors,
    /// Below the attempts, whose output it is to write.
    log: Arc<ProgramLog>,
}

impl CommandLatentWorker {
    /// With a program that starts an instance and one that stops it, each as the program and its arguments.
    ///
    /// A program with a slash in it is a path, and a relative one counts from the directory that is current now; one
    /// without is looked for in `PATH`. That it is missing shows when it is run.
    pub fn new<A: Into<OsString>, O: Into<OsString>>(
        start: impl IntoIterator<Item = A>,
        stop: impl IntoIterator<Item = O>,
    ) -> Self {
        Self {
            start: UserProgram::new(start),
            stop: UserProgram::new(stop),
            check: None,
            reclaim: None,
            grace: DEFAULT_GRACE,
            stop_limit: DEFAULT_STOP_LIMIT,
            restart_hurried_stop: false,
            check_limit: DEFAULT_CHECK_LIMIT,
            secret_files: None,
            compatible_by: Vec::new(),
            attempts: Arc::default(),
            survivors: Survivors::default(),
            log: Arc::default(),
        }
    }

    /// A program that tells by its exit code whether an instance whose agent has not attached yet looks well. Without
    /// one they always do.
    #[must_use]
    pub fn check<S: Into<OsString>>(mut self, check: impl IntoIterator<Item = S>) -> Self {
        self.check = Some(UserProgram::new(check));
        self
    }

    /// A program that removes what an attempt has left behind: see [Reclaiming](Self#reclaiming). The stop program by
    /// default.
    #[must_use]
    pub fn reclaim<S: Into<OsString>>(mut self, reclaim: impl IntoIterator<Item = S>) -> Self {
        self.reclaim = Some(UserProgram::new(reclaim));
        self
    }

    /// How long a program has to end between SIGTERM and SIGKILL; 10 s by default. A fast stop gives its program 1 s at
    /// most, counted from the moment at which the stop is or becomes fast.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How long the stop program, and the one that reclaims, may run before it is ended, which counts as a failure; 10
    /// minutes by default.
    #[must_use]
    pub fn stop_limit(mut self, limit: Duration) -> Self {
        self.stop_limit = limit;
        self
    }

    /// Restarts the stop program when a graceful stop becomes a fast one: the program that runs is ended as by its limit,
    /// and run again with `LATENT_WORKER_FAST=1`. Set this if the program waits when it is not told to be fast, and may
    /// be ended at any point. By default the program that runs goes on, and is not told.
    #[must_use]
    pub fn restart_hurried_stop(mut self) -> Self {
        self.restart_hurried_stop = true;
        self
    }

    /// How long the check program may run before it is ended, which counts as bad; 1 minute by default. A stop waits
    /// for a check that runs. There is no such limit for start: that is the worker's
    /// [`missing_timeout`](crate::WorkerConfig::with_missing_timeout).
    #[must_use]
    pub fn check_limit(mut self, limit: Duration) -> Self {
        self.check_limit = limit;
        self
    }

    /// Hands the secret over in a file, `LATENT_WORKER_SECRET_FILE`, and not in the environment. The file can only be
    /// read by this user (mode 0600), in a directory of its own in [`std::env::temp_dir`] that only this user can
    /// enter. It is removed after the instance was stopped or reclaimed; without a journal it
    /// stays when this process is killed.
    #[must_use]
    pub fn secret_in_file(mut self) -> Self {
        self.secret_files = Some(secret_files());
        self
    }

    /// The names of properties that make a difference: a running instance is only used for builds whose values of all
    /// of these are the same as those of the build that it was started for (to have none is a value, too). None by
    /// default: every instance fits every build.
    #[must_use]
    pub fn compatible_by<S: Into<String>>(mut self, properties: impl IntoIterator<Item = S>) -> Self {
        self.compatible_by = properties.into_iter().map(Into::into).collect();
        self
    }

    fn source(&self, name: &str, secret: Option<&Secret>, call: &str) -> Source {
        Source {
            name: format!("{name}: {call}"),
            secret: secret.cloned(),
            progress: call == "start",
            log: self.log.sender(),
        }
    }

    /// Runs a program other than start. The error is for people.
    fn run_within(
        &self,
        subject: &Subject<'_>,
        call: &str,
        program: &UserProgram,
        limit: Duration,
        more: &[(&str, &OsStr)],
    ) -> Result<(), String> {
        let mut told = more.to_vec();
        told.extend(subject.id.map(|id| ("LATENT_WORKER_INSTANCE", id)));
        let Subject { cancel, hurry, .. } = *subject;
        let bounds = Bounds { cancel, limit: Some(limit), grace: self.grace, hurry, may_leave_processes: false };
        let spawned = program.spawn(Stdio::null(), subject.environment, &told);
        let spawned = spawned.map_err(|error| program.cannot_run(&error))?;
        let source = self.source(subject.name, subject.secret, call);
        let ran = spawned.follow(source).and_then(|running| running.wait(&bounds, &|_| {}));
        let ran = ran.map_err(|error| program.unknown_end(&error))?;
        if !ran.survivors.is_empty() {
            self.survivors.add(subject.key, &ran.survivors);
            return Err(format!("{program}: {}; {}", ran.end, still_running(&ran.survivors)));
        }
        if ran.end == End::Code(0) { Ok(()) } else { Err(message(program, ran.end, ran.heard.message)) }
    }
}

impl LatentWorker for CommandLatentWorker {
    type Instance = CommandInstance;

    /// Blocks until the start program has exited, or after a cancel until it was ended.
    ///
    /// # Errors
    ///
    /// What the exit code says; see [`CommandLatentWorker`]. `CannotSubstantiate` also when the properties of the build
    /// cannot be variables. An infrastructure failure also when the program cannot be run, when the first line of its
    /// standard output is longer than 4 KiB or holds a NUL character, and when the start was cancelled.
    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<CommandInstance>, StartError> {
        let (environment, secret_file) = Environment::new(start, self.secret_files.as_deref())?;
        let attempt = Arc::new(Attempt {
            name: format!("{} (attempt {})", start.worker(), start.epoch()),
            key: start.key().to_owned(),
            environment,
            kind: kind_by(&self.compatible_by, &start.properties()).map_err(StartError::cannot)?,
            secret: start.secret().clone(),
            id: OnceLock::new(),
            belongings: Mutex::new(Belongings { _output: None, secret_file }),
        });
        let spawned = self.start.spawn(Stdio::null(), &attempt.environment, &[]);
        let spawned = spawned.map_err(|error| self.start.not_started(&error))?;
        // From here on there may be something to stop.
        self.attempts.lock().insert(start.key().to_owned(), attempt.clone());
        self.wait_for_start(spawned, start, &attempt)?;

        let id = attempt.shown_id();
        let started = Started::new(CommandInstance { attempt });
        Ok(id.into_iter().fold(started, Started::detail))
    }

    /// Runs the stop program, unless no start program was run; blocks until it has exited or was ended. Then the output
    /// of what start has left running is no longer read, and the file with the secret is removed, whatever the stop
    /// program came to.
    ///
    /// # Errors
    ///
    /// Returns an error if the program cannot be run, fails or runs longer than its limit; if a process of a program
    /// still runs after it was killed; or if the file cannot be removed.
    fn stop_instance(&self, stop: StopRequest<CommandInstance>) -> Result<(), StopError> {
        let Some(attempt) = self.attempts.lock().remove(stop.key()) else {
            // Nothing was started, but a file that could not be removed at that time may still exist.
            let file = self.secret_files.as_ref().map(|parent| SecretFile::left_behind(parent, stop.key()));
            return file.map_or(Ok(()), SecretFile::remove);
        };
        let run = |fast: bool| {
            // One that was told to be fast already is not run again.
            let cancel = (self.restart_hurried_stop && !fast).then_some(stop.hurry_signal());
            let subject = Subject { cancel, hurry: Some(stop.hurry_signal()), ..attempt.subject() };
            let told = [("LATENT_WORKER_FAST", OsStr::new(if fast { "1" } else { "0" }))];
            self.run_within(&subject, "stop", &self.stop, self.stop_limit, &told)
        };
        let fast = stop.fast();
        let mut stopped = run(fast);
        if self.restart_hurried_stop && stopped.is_err() && !fast && stop.fast() {
            stopped = run(true);
        }
        let belongings = std::mem::take(&mut *attempt.belongings.lock());
        let removed = belongings.secret_file.map_or(Ok(()), SecretFile::remove);
        stopped.map_err(StopError::new)?;
        self.survivors.check(stop.key())?;
        removed
    }

    /// Runs the check program, if there is one; blocks until it has exited or was ended. Bad for every exit code but 0,
    /// when it cannot be run and when it runs longer than its limit.
    fn check_instance(&self, instance: &CommandInstance) -> Health {
        let Some(check) = &self.check else { return Health::Good };
        match self.run_within(&instance.attempt.subject(), "check", check, self.check_limit, &[]) {
            Ok(()) => Health::Good,
            Err(reason) => Health::Bad(reason),
        }
    }

    /// Ends programs of the attempt that a dead master has left running (on Linux), runs the
    /// [reclaim](CommandLatentWorker::reclaim) program, then ends every other process that has the key of the attempt,
    /// and removes the file with the secret; see [`CommandLatentWorker`]. Blocks until all of them have ended. On other
    /// systems running programs cannot be found, and an administrator must remove what they may still create:
    /// [`Reclaimed::Unsupported`].
    ///
    /// # Errors
    ///
    /// Returns an error if the program cannot be run, fails, runs longer than the
    /// [limit](CommandLatentWorker::stop_limit) or is cancelled by a shutdown; if a process still runs 10 s after it
    /// was killed; or if the file cannot be removed.
    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        let program = self.reclaim.as_ref().unwrap_or(&self.stop);
        let programs = [Some(&self.start), self.check.as_ref(), Some(&self.stop), Some(program)];
        let orphans: Vec<_> = programs.into_iter().flatten().map(UserProgram::words).collect();
        let (key, cancel) = (OsStr::new(leftover.key()), leftover.cancel_signal());
        let grace = Grace { length: self.grace, cancel };
        end_programs(&orphans, KEY_VARIABLE, key, grace, KILL_PATIENCE)?;
        let subject = Subject {
            name: &format!("{} (attempt {})", leftover.worker(), leftover.epoch()),
            key: leftover.key(),
            environment: &Environment::of_leftover(leftover),
            id: leftover.ids().next().map(OsStr::new),
            secret: None,
            cancel: Some(cancel),
            hurry: None,
        };
        let fast = [("LATENT_WORKER_FAST", OsStr::new("1"))];
        // A process that has the key may create something after the program has looked. The last run of the program
        // must therefore begin when no process has the key.
        let mut rounds = 0;
        while any_marked(KEY_VARIABLE, key)? {
            if rounds == MOST_ROUNDS {
                return Err(StopError::new(
                    "new processes with the key of the attempt appear after each run of the reclaim program",
                ));
            }
            rounds += 1;
            // The remaining processes may be the instance itself, which its own program stops in a better way. The last
            // run shows whether that has succeeded.
            let stopped = self.run_within(&subject, "reclaim", program, self.stop_limit, &fast);
            end_marked(KEY_VARIABLE, key, grace, KILL_PATIENCE)?;
            if leftover.cancelled() {
                stopped.map_err(StopError::new)?;
            }
        }
        self.run_within(&subject, "reclaim", program, self.stop_limit, &fast).map_err(StopError::new)?;
        self.survivors.check(leftover.key())?;
        if let Some(parent) = &self.secret_files {
            SecretFile::left_behind(parent, leftover.key()).remove()?;
        }
        Ok(nothing_found())
    }

    /// Whether any properties make a difference; see [`CommandLatentWorker::compatible_by`].
    fn builds_may_be_incompatible(&self) -> bool {
        !self.compatible_by.is_empty()
    }

    /// As [`builds_may_be_incompatible`](Self::builds_may_be_incompatible).
    fn says_kinds(&self) -> bool {
        !self.compatible_by.is_empty()
    }

    /// The properties that make a difference, with their values; see [`CommandLatentWorker::compatible_by`].
    ///
    /// # Errors
    ///
    /// When the properties of the build cannot be variables.
    fn kind(&self, properties: &Properties) -> Result<Kind, BoxError> {
        Ok(kind_by(&self.compatible_by, properties)?)
    }

    /// Whether the build asks for the kind of this instance.
    fn is_compatible_with_build(&self, instance: &CommandInstance, properties: &Properties) -> Result<bool, BoxError> {
        Ok(self.kind(properties)? == instance.attempt.kind)
    }
}

impl CommandLatentWorker {
    fn wait_for_start(&self, spawned: Spawned, start: &StartRequest<'_>, attempt: &Attempt) -> Result<(), StartError> {
        let (cancel, grace) = (Some(start.cancel_signal()), self.grace);
        let bounds = Bounds { cancel, limit: None, grace, hurry: None, may_leave_processes: true };
        let running = spawned.follow(self.source(&attempt.name, Some(&attempt.secret), "start"));
        let ran = running.and_then(|running| running.wait(&bounds, &|line| start.progress(line)));
        let Ran { end, heard, output, survivors } =
            ran.map_err(|error| StartError::infrastructure(self.start.unknown_end(&error)))?;
        // The stop reports these processes.
        self.survivors.add(start.key(), &survivors);
        attempt.belongings.lock()._output = Some(output);
        let succeeded = end == End::Code(0);
        match heard.first_line.map(|line| instance_id(line, succeeded)) {
            Some(Ok(Some(id))) => {
                let text = id.to_str().filter(|text| !text.is_empty() && !text.contains(attempt.secret.expose()));
                let recorded = text.map_or(Ok(()), |text| start.record(text));
                _ = attempt.id.set(id);
                recorded?;
            }
            Some(Err(reason)) if succeeded => {
                return Err(StartError::infrastructure(format!("{}: {reason}", self.start)));
            }
            _ => {}
        }
        match end {
            End::Code(0) => Ok(()),
            End::Cancelled => Err(Cancelled.into()),
            End::Code(EXIT_CANNOT) => Err(StartError::cannot(message(&self.start, end, heard.message))),
            End::Code(EXIT_NO_CAPACITY) => {
                Err(StartError::failed(FailureCause::Capacity, message(&self.start, end, heard.message)))
            }
            _ => Err(StartError::infrastructure(message(&self.start, end, heard.message))),
        }
    }
}

/// Shows the programs without their arguments.
impl fmt::Debug for CommandLatentWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandLatentWorker")
            .field("start", &self.start)
            .field("stop", &self.stop)
            .field("check", &self.check)
            .field("reclaim", &self.reclaim)
            .field("grace", &self.grace)
            .field("stop_limit", &self.stop_limit)
            .field("restart_hurried_stop", &self.restart_hurried_stop)
            .field("check_limit", &self.check_limit)
            .field("secret_in_file", &self.secret_files.is_some())
            .field("compatible_by", &self.compatible_by)
            .finish_non_exhaustive()
    }
}

/// An instance of [`CommandLatentWorker`].
pub struct CommandInstance {
    attempt: Arc<Attempt>,
}

impl CommandInstance {
    /// The first line that the start program wrote to its standard output; `None` when it wrote nothing.
    pub fn id(&self) -> Option<&OsStr> {
        self.attempt.id.get().map(OsString::as_os_str)
    }
}

impl fmt::Debug for CommandInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandInstance").field("id", &self.attempt.shown_id()).finish()
    }
}

/// What is known about one attempt from the run of its start program to the end of its stop.
struct Attempt {
    /// For the log.
    name: String,
    key: String,
    environment: Environment,
    kind: Kind,
    secret: Secret,
    id: OnceLock<OsString>,
    belongings: Mutex<Belongings>,
}

/// What a program is run about.
struct Subject<'a> {
    /// For the log.
    name: &'a str,
    key: &'a str,
    environment: &'a Environment,
    id: Option<&'a OsStr>,
    secret: Option<&'a Secret>,
    cancel: Option<&'a Receiver<Infallible>>,
    hurry: Option<&'a Receiver<Infallible>>,
}

impl Attempt {
    /// Nobody cancels a check.
    fn subject(&self) -> Subject<'_> {
        Subject {
            name: &self.name,
            key: &self.key,
            environment: &self.environment,
            id: self.id.get().map(OsString::as_os_str),
            secret: Some(&self.secret),
            cancel: None,
            hurry: None,
        }
    }

    /// For people.
    fn shown_id(&self) -> Option<String> {
        self.id.get().map(|id| id.to_string_lossy().replace(self.secret.expose(), "(secret)"))
    }
}

/// What ends with the stop of an instance.
#[derive(Default)]
struct Belongings {
    /// Read for as long as it is here.
    _output: Option<Output>,
    secret_file: Option<SecretFile>,
}

/// What a first line means. Half a line is an id only when the program cannot have been ended within it: half a number
/// is another process.
fn instance_id(line: FirstLine, succeeded: bool) -> Result<Option<OsString>, String> {
    if line.cut {
        return Err(format!("the first line of its standard output is longer than {LINE_LIMIT} bytes"));
    }
    if line.bytes.contains(&0) {
        return Err("the first line of its standard output has a NUL character in it".to_owned());
    }
    Ok((line.complete || succeeded).then(|| OsString::from_vec(line.bytes)))
}

/// The program's own words. An end that has no meaning of its own is added.
fn message(program: &UserProgram, end: End, words: Option<String>) -> String {
    match (words, end) {
        (Some(words), End::Code(EXIT_CANNOT | EXIT_NO_CAPACITY)) => words,
        (words, end) => program.last_words(end, words),
    }
}
