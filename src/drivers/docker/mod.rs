//! Instances that are containers of a Docker engine, or of Podman's compatible socket.
//!
//! Here is the order in which things are done. `engine` speaks to the engine; what is asked of it is in `settings`, `body`,
//! `images`, `names` and `master_address`, what its answers mean in `verdict`.

mod body;
mod builder;
mod engine;
mod images;
mod kind;
mod master_address;
mod names;
mod settings;
mod verdict;

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use self::body::{Handover, SECRET_PATH};
use self::engine::{Ended, Engine, EngineError, Keyring, Patience};
use self::images::Images;
use self::master_address::{Loopback, is_of_this_machine, network_to_ask, seen_from_inside};
use self::names::Identity;
use self::settings::{Rendered, Settings};
use super::variables;
use crate::{BoxError, Health, Kind, LatentWorker, Leftover, Properties, Reclaimed, Secret, Setting};
use crate::{StartError, StartRequest, Started, StopError, StopRequest};

pub use builder::DockerLatentWorkerBuilder;
pub use engine::{EngineAddress, EngineAddressError, RegistryCredentials, RegistryCredentialsError};
pub use settings::{DockerSettingsError, ImageRecipe, PullPolicy};

/// As `docker stop` has it.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// The longest wait for an answer that should take a moment, on a machine that has much else to do.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// For a check, which is made again soon, and which nothing can end.
const CHECK_LIMIT: Duration = Duration::from_secs(10);
/// Of the log of a container that has ended, in the reason of the failure.
const LOG_LINES: usize = 100;
/// A container whose creation was not answered may still come: so long it is looked for at once, and so often. Of 30 that
/// were created at once, the slowest took 2 s (Podman 4.3, two processors).
const LATE_LOOKS: Duration = Duration::from_secs(5);
const LATE_LOOK_PAUSE: Duration = Duration::from_millis(250);
/// After this an engine has created a container, or never will: its image is there, so that it copies nothing large, and a
/// minute is what it is given to answer.
const CREATED_BY_THEN: Duration = Duration::from_secs(300);

/// A driver whose instances are containers.
///
/// The agent in the container connects back to an [`AgentListener`](crate::AgentListener) of the master; what is run in the
/// container goes through the lease, as with every driver.
///
/// ```no_run
/// # #[cfg(feature = "agent")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use latent_worker::{AgentListener, Build, ByteSize, Command, DockerLatentWorker, Master, Setting, WorkerConfig};
///
/// let master = Master::builder().agent_address("0.0.0.0:9989").build();
/// let _listener = AgentListener::bind(&master, "0.0.0.0:9989")?;
/// // Each build says which toolchain it wants; an instance is used again by builds that want the same.
/// let driver = DockerLatentWorker::builder(Setting::template("my-agent:{toolchain:-stable}")?)
///     .memory(ByteSize::new(2 << 30))
///     .volume("cargo-cache:/cargo")
///     .build()?;
/// master.add_worker(WorkerConfig::new("docker-1"), driver)?;
///
/// let build = Build::new("tests").with_property("toolchain", "1.89");
/// let finished = master.run(build, |lease| lease.run(&Command::shell("cargo test")))?;
/// print!("{}", String::from_utf8_lossy(&finished.stdout));
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "agent"))]
/// # fn main() {}
/// ```
///
/// # The image
///
/// It starts an agent, with its `CMD` or with the [command](DockerLatentWorkerBuilder::command) of the driver. Ours is one
/// static file:
///
/// ```dockerfile
/// FROM debian:stable-slim
/// COPY agent /usr/local/bin/
/// CMD ["agent", "/work"]
/// ```
///
/// The image of Buildbot's own worker, `buildbot/buildbot-worker`, does as it is, from Buildbot 4.2 on: earlier ones do not
/// ask which protocol they are to speak. An image of one's own with `buildbot-worker` in it does with this command, which
/// is for a shell:
///
/// ```sh
/// buildbot-worker create-worker --protocol "$BUILDMASTER_PROTOCOL" /work \
///     "$BUILDMASTER:$BUILDMASTER_PORT" "$WORKERNAME" "$WORKERPASS" && exec buildbot-worker start --nodaemon /work
/// ```
///
/// An image that is missing is pulled, or [built](DockerLatentWorkerBuilder::build_image_from); what that comes to is told
/// as progress of the start. Starts that need the same missing image at once wait for one of them to fetch it, and fail
/// with it; those that [always pull](PullPolicy::Always) each ask for themselves.
///
/// For a registry that requires a login, give the driver its
/// [credentials](DockerLatentWorkerBuilder::registry_credentials). They are sent for images of that registry only, whatever
/// image a build names.
///
/// # What the agent is told
///
/// These variables of the environment, besides those of the image and of the driver's settings:
///
/// | variable | what |
/// |---|---|
/// | `LATENT_WORKER_MASTER` | where to connect to, `host:port`; also as `BUILDMASTER` and `BUILDMASTER_PORT` |
/// | `LATENT_WORKER_NAME` | the name of the worker; also as `WORKERNAME` |
/// | `LATENT_WORKER_SECRET` | the secret of this attempt; also as `WORKERPASS` |
/// | `LATENT_WORKER_SECRET_FILE` | instead of that, where it stands; see below |
/// | `LATENT_WORKER_KEY`, `LATENT_WORKER_EPOCH`, `LATENT_WORKER_OWNER` | which attempt this is, and whose |
/// | `LATENT_WORKER_PROPERTY_...` | the properties of the build that started it, one each; what is no letter, digit or `_` in a name is `_` |
///
/// The names that begin with `BUILDMASTER` and `WORKER` are those of the images that Buildbot publishes. For these there are
/// `BUILDMASTER_PROTOCOL`, and `WORKER_ENVIRONMENT_BLACKLIST`, so that builds do not inherit the secret; a
/// [variable](DockerLatentWorkerBuilder::env) of the driver's settings replaces either.
///
/// # The secret in a file
///
/// Everybody who may look at containers of the engine sees their environment. With
/// [`secret_in_file`](DockerLatentWorkerBuilder::secret_in_file) the secret stands in the file
/// `/run/latent-worker/secret`, on an anonymous volume of the container: it is written before the container starts, and
/// removed with it. Every user within the container can read the file; it lets one connection in. It is no tmpfs: an
/// engine can write to one only when the container is running, and the agent may have looked for it before. Our agent
/// reads the file, and removes it if it has the permission; Buildbot's images do not.
///
/// # How the agent finds the master
///
/// By [`master_address`](DockerLatentWorkerBuilder::master_address), if that is set. Otherwise by the
/// [address that the master was told](crate::MasterBuilder::agent_address); where that is one that only this machine can use
/// (loopback, or unspecified), and the container has a network of its own, by the gateway of that network: this is right
/// when master and engine are on one machine and the listener listens there, on `0.0.0.0` say. With the network of the host it
/// is loopback. Where the engine is on another machine, or the network is not a bridge, there is no such default, and the
/// start says that `master_address` is needed.
///
/// # What is left behind, and what is not touched
///
/// A container is called `latent-worker-OWNER-KEY`, with the first 12 digits of the [owner](StartRequest::owner) and the
/// [key](StartRequest::key) of the attempt, and has labels: `latent-worker.owner`, `.worker`, `.key`, `.epoch`. The name is
/// recorded before the container is created, with the engine's address, so that whatever happens then is found. A create
/// that was never answered may be carried out late: for five minutes it is
/// [pending](Reclaimed::Pending), and looked for again. Stopping and
/// [reclaiming](LatentWorker::reclaim) go by the exact name and by labels that are exactly equal; nothing else is ever
/// touched. Anonymous volumes are removed with the container, named ones and images stay.
///
/// # Whose fault it is
///
/// What the engine refuses, an image that is not there, that is for another platform or that cannot be built, and a setting
/// that cannot be rendered are the build's own fault: [`StartError::CannotSubstantiate`]. An engine that does not answer or
/// has trouble of its own is infrastructure; a disk that is full is [`Capacity`](crate::FailureCause::Capacity); a registry
/// can also mean [`Credentials`](crate::FailureCause::Credentials) and [`Throttled`](crate::FailureCause::Throttled).
///
/// A container that has ended before its agent has attached is told with its exit code and the last 100 lines of its log. An
/// engine that does not answer says nothing about a container: it counts as well, until the
/// [`missing_timeout`](crate::WorkerConfig::with_missing_timeout).
///
/// # Threads and blocking
///
/// No thread is made, but one that looks up the engine's host when that is a name. Every call to the engine has a limit of a
/// minute (a check 10 seconds, fetching an image six hours), and ends within a second when the start is cancelled. Stopping blocks until the container has ended: for the
/// [grace](DockerLatentWorkerBuilder::stop_grace) at most, if it does not end by itself; a fast stop kills it, and one that
/// becomes fast within a second.
///
/// A clone shares the connections to the engine. What is said to the engine is its API (Docker Engine API, 1.41 to 1.52:
/// Docker 20.10 and later, Podman 4).
///
/// # Known limits
///
/// - A machine that loses its engine for good leaves its instances on the list of [leftovers](crate::Master::leftovers).
/// - Podman 4.3 does not say that memory was short; the exit code 137 is told with that guess.
/// - A worker that is given another engine cannot reclaim what it had left at the one before: it says so, with the address.
/// - The engine's machine is not the gateway of its networks when the engine runs without root, or in a virtual machine as
///   Docker Desktop does: say with `master_address` where the master is (`host.docker.internal`, there).
/// - There is no Swarm, no Compose, and no `docker context`; `DOCKER_HOST` is understood.
#[derive(Clone)]
pub struct DockerLatentWorker {
    settings: Arc<Settings>,
    credentials: Keyring,
    secret_in_file: bool,
    grace: Duration,
    engine: Engine,
    images: Arc<Images>,
    /// The keys of the attempts whose container may come although nobody has heard that it was created.
    unanswered: Arc<Mutex<HashSet<String>>>,
    /// Whether the engine has not answered the last check, so that this is told once.
    silent: Arc<AtomicBool>,
}

/// A container that was started.
pub struct DockerInstance {
    id: String,
    name: String,
    rendered: Rendered,
    /// Not for the log of a container that prints its environment.
    secret: Secret,
}

impl DockerInstance {
    /// The engine's id of the container.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of the container.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for DockerInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerInstance").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl DockerLatentWorker {
    /// Settings for containers of this image.
    pub fn builder(image: impl Into<Setting<String>>) -> DockerLatentWorkerBuilder {
        DockerLatentWorkerBuilder::new(image.into())
    }

    /// Where the engine is.
    pub fn engine(&self) -> &EngineAddress {
        self.engine.address()
    }

    /// Creates the container. Whether an error leaves one behind is remembered.
    fn create(&self, identity: &Identity, rendered: &Rendered, start: &StartRequest<'_>) -> Result<String, StartError> {
        let master = self.master_address(rendered, start)?;
        let handover = if self.secret_in_file { Handover::File } else { Handover::Environment(start.secret()) };
        let properties = start.properties();
        let environment = body::environment(identity, rendered, &properties, master.as_deref(), handover)?;
        let body = body::create(identity, rendered, environment, handover);
        let (name, platform) = (identity.container(), rendered.platform.as_deref());
        let create = || self.engine.create(&name, platform, &body, patience(start.cancel_signal()));
        let mut created = create();
        if created.as_ref().is_err_and(EngineError::is_conflict) {
            // Something of this attempt: an earlier call whose answer was lost, by a proxy that asks again, say.
            self.remove(identity, &name, patience(start.cancel_signal()))?;
            created = create();
        }
        if created.as_ref().is_err_and(EngineError::is_no_such_image) {
            // Somebody has removed it since it was looked at.
            self.images.provide(&self.engine, start, rendered, &self.credentials)?;
            created = create();
        }
        if created.as_ref().is_err_and(EngineError::outcome_unknown) {
            self.unanswered.lock().insert(identity.key.clone());
        }
        created.map_err(|error| verdict::of_container(error.without(start.secret())))
    }

    /// What is recorded before the container is created: its name, and which engine is to be asked for it.
    fn place_of(&self, name: &str) -> String {
        format!("{}/{name}", self.engine.address())
    }

    /// Where the agent finds the master.
    fn master_address(&self, rendered: &Rendered, start: &StartRequest<'_>) -> Result<Option<String>, StartError> {
        let (chosen, told) = (rendered.master_address.as_deref(), start.agent_address());
        let mut loopback = if rendered.network == "host" { Loopback::Shared } else { Loopback::Unseen };
        if let Some(network) = network_to_ask(&rendered.network)
            && chosen.is_none()
            && told.is_some_and(is_of_this_machine)
            && self.engine.address().is_of_this_machine()
        {
            let gateway = self.engine.gateway(network, patience(start.cancel_signal()));
            loopback = gateway.map_err(verdict::of_container)?.map_or(Loopback::Unseen, Loopback::Gateway);
        }
        seen_from_inside(chosen, told, loopback).map_err(StartError::cannot)
    }

    /// Removes a container of the attempt, by a name or an id that somebody else's could have: so its labels are looked
    /// at first. Whether there was one.
    fn remove(&self, identity: &Identity, name: &str, patience: Patience<'_>) -> Result<bool, EngineError> {
        match self.engine.inspect(name, patience)? {
            Some(container) if identity.owns(&container.labels) => {
                Ok(self.engine.remove(&container.id, patience)? != Ended::Gone)
            }
            _ => Ok(false),
        }
    }

    /// Removes what an attempt has left, wherever it shows: a list may lag behind. Whether there was anything.
    fn remove_all(&self, identity: &Identity, leftover: &Leftover) -> Result<bool, EngineError> {
        let patience = patience(leftover.cancel_signal());
        let mut any = false;
        for listed in self.engine.list(&identity.filter(), patience)? {
            any |= self.engine.remove(&listed.id, patience)? != Ended::Gone;
        }
        any |= self.remove(identity, &identity.container(), patience)?;
        for id in leftover.ids().filter(|id| !is_place(id)) {
            any |= self.remove(identity, id, patience)?;
        }
        Ok(any)
    }

    /// Gives a container its grace, as long as the stop is not a fast one. One that has not ended then is left to be removed
    /// by force, as is one that the engine cannot stop: it answers, and may do so what it cannot do gently.
    fn give_grace<I>(&self, stop: &StopRequest<I>, id: &str, name: &str) -> Result<(), EngineError> {
        if stop.fast() {
            return Ok(());
        }
        let limit = self.grace.saturating_add(CALL_LIMIT);
        let patience = Patience::new(limit).cancelled_by(stop.hurry_signal());
        match self.engine.stop(id, self.grace, patience) {
            Ok(_) | Err(EngineError::Cancelled { .. }) => Ok(()),
            Err(error) if error.status().is_some() => {
                log::warn!("container {name} does not stop, and is killed: {error}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Stops what a start has left that has returned no instance. It may run, and even have run a build: an agent can attach
    /// before the engine has answered.
    fn stop_by_name(&self, stop: &StopRequest<DockerInstance>) -> Result<(), StopError> {
        let identity = &Identity::of_stop(stop);
        let name = identity.container();
        let unanswered = self.unanswered.lock().remove(&identity.key);
        if !stop.fast()
            && let Some(container) = self.engine.inspect(&name, Patience::new(CALL_LIMIT))?
            && container.state.running
            && identity.owns(&container.labels)
        {
            self.give_grace(stop, &container.id, &name)?;
        }
        let remove = || Ok(self.remove(identity, &name, Patience::new(CALL_LIMIT))?);
        if !unanswered {
            return remove().map(drop);
        }
        // Also when the stop is a fast one: it is short, and what comes after it is left behind.
        let removed = remove_late(remove, || {
            thread::sleep(LATE_LOOK_PAUSE);
            Ok(())
        })?;
        if removed {
            return Ok(());
        }
        Err(StopError::new(format!(
            "the engine has not answered whether container {name} was created; it is looked for again, because it may \
             still come"
        )))
    }
}

/// Removes what nobody has heard that it was created: looks until there was something to remove, or it has been long
/// enough. Whether there was anything.
fn remove_late(
    remove: impl Fn() -> Result<bool, StopError>,
    pause: impl Fn() -> Result<(), StopError>,
) -> Result<bool, StopError> {
    let begun = Instant::now();
    loop {
        if remove()? {
            return Ok(true);
        }
        if begun.elapsed() >= LATE_LOOKS {
            return Ok(false);
        }
        pause()?;
    }
}

/// Whether a recorded id says where a container was to be made, and is not its id.
fn is_place(id: &str) -> bool {
    id.contains("://")
}

fn patience(cancel: &Receiver<Infallible>) -> Patience<'_> {
    Patience::new(CALL_LIMIT).cancelled_by(cancel)
}

impl LatentWorker for DockerLatentWorker {
    type Instance = DockerInstance;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<DockerInstance>, StartError> {
        let identity = Identity::of_start(start);
        let rendered = self.settings.render(&start.properties()).map_err(StartError::cannot)?;
        self.images.provide(&self.engine, start, &rendered, &self.credentials)?;

        let name = identity.container();
        start.record(&self.place_of(&name))?;
        let id = self.create(&identity, &rendered, start)?;
        start.record(&id)?;
        if self.secret_in_file {
            let secret = start.secret().expose().as_bytes();
            let written = self.engine.put_file(&id, SECRET_PATH, secret, 0o444, patience(start.cancel_signal()));
            written.map_err(|error| verdict::of_container(error.without(start.secret())))?;
        }
        self.engine.start(&id, patience(start.cancel_signal())).map_err(verdict::of_container)?;

        let detail = [rendered.image.clone(), id.chars().take(12).collect()];
        let secret = start.secret().clone();
        let started = Started::new(DockerInstance { id, name, rendered, secret });
        Ok(detail.into_iter().fold(started, Started::detail))
    }

    /// Blocks until the container has ended and is removed. An error when the engine does not answer or cannot do it: then
    /// it is [reclaimed](LatentWorker::reclaim).
    fn stop_instance(&self, stop: StopRequest<DockerInstance>) -> Result<(), StopError> {
        let Some(instance) = stop.instance() else { return self.stop_by_name(&stop) };
        self.give_grace(&stop, &instance.id, &instance.name)?;
        self.engine.remove(&instance.id, Patience::new(CALL_LIMIT))?;
        Ok(())
    }

    fn check_instance(&self, instance: &DockerInstance) -> Health {
        let patience = Patience::new(CHECK_LIMIT);
        match self.engine.inspect(&instance.id, patience) {
            Ok(found) => {
                self.silent.store(false, Ordering::Relaxed);
                let Some(container) = found else {
                    return Health::bad(format!("container {} is gone: somebody else has removed it", instance.name));
                };
                verdict::of_state(&instance.name, &container.state, instance.rendered.memory, || {
                    let log = self.engine.log_tail(&instance.id, LOG_LINES, patience);
                    let log = log.unwrap_or_else(|error| format!("(it cannot be read: {error})"));
                    log.replace(instance.secret.expose(), "[secret]")
                })
            }
            Err(error) => {
                if !self.silent.swap(true, Ordering::Relaxed) {
                    log::warn!("container {} cannot be checked: {error}", instance.name);
                }
                Health::Good
            }
        }
    }

    fn builds_may_be_incompatible(&self) -> bool {
        self.settings.depend_on_the_build()
    }

    fn says_kinds(&self) -> bool {
        self.settings.depend_on_the_build()
    }

    fn kind(&self, properties: &Properties) -> Result<Kind, BoxError> {
        // A container cannot be made for a build whose properties cannot be told to it.
        variables::properties(properties)?;
        Ok(self.settings.kind(&self.settings.render(properties)?))
    }

    fn is_compatible_with_build(&self, instance: &DockerInstance, properties: &Properties) -> Result<bool, BoxError> {
        Ok(LatentWorker::kind(self, properties)? == self.settings.kind(&instance.rendered))
    }

    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        let identity = Identity::of_leftover(leftover);
        let place = self.place_of(&identity.container());
        if let Some(other) = leftover.ids().find(|id| is_place(id) && *id != place) {
            return Err(StopError::new(format!(
                "it was made as {other}, and the driver of this worker is now for the engine at {}: look there, and forget \
                 this leftover; or have the worker use that engine again",
                self.engine.address()
            )));
        }
        // The name is recorded before the container is created. Without an id, the engine may still be at it: its master
        // may have died a moment ago.
        let unanswered = leftover.ids().eq([place.as_str()]);
        let remove = || Ok(self.remove_all(&identity, leftover)?);
        if !unanswered {
            remove()?;
            return Ok(Reclaimed::Gone);
        }
        let removed = remove_late(remove, || Ok(leftover.sleep(LATE_LOOK_PAUSE)?))?;
        let settled = removed || leftover.age() >= CREATED_BY_THEN;
        Ok(if settled { Reclaimed::Gone } else { Reclaimed::Pending })
    }
}

/// Without the values of variables and the credentials.
impl fmt::Debug for DockerLatentWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerLatentWorker")
            .field("engine", self.engine.address())
            .field("settings", &self.settings)
            .field("secret_in_file", &self.secret_in_file)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}
