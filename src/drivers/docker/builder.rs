//! The settings of a [`DockerLatentWorker`], one method each.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::engine::{Engine, EngineAddress, Keyring, RegistryCredentials};
use super::settings::{DockerSettingsError, ImageRecipe, PullPolicy, Settings};
use super::{DEFAULT_GRACE, DockerLatentWorker};
use crate::{ByteSize, Setting};

/// Settings of a [`DockerLatentWorker`]. Each is a constant, a template or a function of the build's properties: see
/// [`Setting`]. Where it says so, an empty text or a zero is the same as not setting it, so that a build can choose.
#[must_use = "build it"]
#[derive(Clone, Debug)]
pub struct DockerLatentWorkerBuilder {
    settings: Settings,
    credentials: Vec<RegistryCredentials>,
    secret_in_file: bool,
    grace: Duration,
    engine: Option<EngineAddress>,
}

impl DockerLatentWorkerBuilder {
    pub(super) fn new(image: Setting<String>) -> Self {
        Self {
            settings: Settings::new(image),
            credentials: Vec::new(),
            secret_in_file: false,
            grace: DEFAULT_GRACE,
            engine: None,
        }
    }

    /// The words of the command, instead of the image's own `CMD`; the image's `ENTRYPOINT` stays before them. The
    /// image's own by default, and when there are no words.
    pub fn command(mut self, words: impl Into<Setting<Vec<String>>>) -> Self {
        self.settings.command = words.into();
        self
    }

    /// Sets a variable of the container's environment; every call sets one. Those for the agent are set by the driver,
    /// and their names are refused here: see [`DockerLatentWorker`]. Everybody who may look at containers of the engine
    /// sees the values.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<Setting<String>>) -> Self {
        self.settings.environment.insert(name.into(), value.into());
        self
    }

    /// Mounts a directory of the engine's machine, or a named volume: `source:/target[:options]`, as `docker run
    /// --volume` has it; `/target` alone is an anonymous volume, which is removed with the container. Every call adds
    /// one; an empty text adds none.
    pub fn volume(mut self, volume: impl Into<Setting<String>>) -> Self {
        self.settings.volumes.push(volume.into());
        self
    }

    /// Sets a label of the container; every call sets one. Names that begin with `latent-worker.` are refused.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<Setting<String>>) -> Self {
        self.settings.labels.insert(name.into(), value.into());
        self
    }

    /// How much memory the container may use before the kernel kills something in it. No limit by default, and for 0.
    /// The engine adds swap of the same size, unless `MemorySwap` of the [host config](Self::host_config) says
    /// otherwise.
    pub fn memory(mut self, memory: impl Into<Setting<ByteSize>>) -> Self {
        self.settings.memory = memory.into();
        self
    }

    /// How many processors' worth of time the container may use: 1.5, say. No limit by default, and for 0.
    pub fn cpus(mut self, cpus: impl Into<Setting<f64>>) -> Self {
        self.settings.cpus = cpus.into();
        self
    }

    /// The network: `bridge`, `host`, `none`, the name of a network, or `container:NAME`. The engine's default by
    /// default, and when it is empty.
    pub fn network(mut self, network: impl Into<Setting<String>>) -> Self {
        self.settings.network = network.into();
        self
    }

    /// The host name within the container. The engine's choice by default, and when it is empty.
    pub fn hostname(mut self, hostname: impl Into<Setting<String>>) -> Self {
        self.settings.hostname = hostname.into();
        self
    }

    /// More of the engine's `HostConfig`, as a JSON object: devices, capabilities, tmpfs mounts, limits. What has a
    /// method of its own here is refused, as are `AutoRemove` and `RestartPolicy`. What the engine does not know it
    /// does not mind.
    pub fn host_config(mut self, json: impl Into<Setting<Value>>) -> Self {
        self.settings.host_config = json.into();
        self
    }

    /// Whether the engine's own small init is process 1: it reaps what others leave and passes signals on. `true` by
    /// default; without it most agents take the whole [grace](Self::stop_grace) to stop.
    pub fn init(mut self, init: impl Into<Setting<bool>>) -> Self {
        self.settings.init = init.into();
        self
    }

    /// The platform of the image: `os[/architecture[/variant]]`, such as `linux/arm64`. The engine's own by default,
    /// and when it is empty.
    pub fn platform(mut self, platform: impl Into<Setting<String>>) -> Self {
        self.settings.platform = platform.into();
        self
    }

    /// When the image is pulled; [`PullPolicy::IfMissing`] by default. An image that has a
    /// [recipe](Self::build_image_from) is never pulled.
    pub fn pull(mut self, policy: impl Into<Setting<PullPolicy>>) -> Self {
        self.settings.pull = policy.into();
        self
    }

    /// Adds the credentials of one registry; call it again for another registry. The credentials are used for images of
    /// that registry, including the base images of a [recipe](Self::build_image_from). They are never sent for an image
    /// of another registry, whatever image a build names. By default there are no credentials.
    pub fn registry_credentials(mut self, credentials: RegistryCredentials) -> Self {
        self.credentials.push(credentials);
        self
    }

    /// Builds the image when it is missing, under its name, and does not pull it. Starts that need the same image at
    /// once wait for one build of it. An image that is there is used, whatever has become of its recipe: give it
    /// another tag when it changes.
    pub fn build_image_from(mut self, recipe: impl Into<Setting<ImageRecipe>>) -> Self {
        self.settings.recipe = Some(recipe.into());
        self
    }

    /// Hands the secret over in a file, `LATENT_WORKER_SECRET_FILE`, and not in the environment, which everybody sees
    /// who may look at containers of the engine. See [The secret in a file](DockerLatentWorker#the-secret-in-a-file).
    pub fn secret_in_file(mut self) -> Self {
        self.secret_in_file = true;
        self
    }

    /// How long the container has to end between its stop signal and SIGKILL, in whole seconds; 10 s by default. A fast
    /// stop gives it no time, and a stop that becomes fast no more time.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Where the engine listens. [What the environment says](EngineAddress::from_environment) by default.
    pub fn engine(mut self, address: EngineAddress) -> Self {
        self.engine = Some(address);
        self
    }

    /// Where the master is seen from inside the container: `host:port`, or a host alone, with the port of the
    /// [address that the master was told](crate::MasterBuilder::agent_address). See
    /// [How the agent finds the master](DockerLatentWorker#how-the-agent-finds-the-master) for the default, which also
    /// holds when this is empty.
    pub fn master_address(mut self, address: impl Into<Setting<String>>) -> Self {
        self.settings.master_address = address.into();
        self
    }

    /// The driver. Does not talk to the engine.
    ///
    /// # Errors
    /// Returns an error if a constant is invalid (what is computed is checked for each build), if there are two credentials
    /// for one registry, or if the environment variables that name the engine are invalid.
    pub fn build(self) -> Result<DockerLatentWorker, DockerSettingsError> {
        self.settings.check_constants()?;
        let address = self.engine.map_or_else(EngineAddress::from_environment, Ok)?;
        let mut credentials = Keyring::default();
        for one in self.credentials {
            credentials.add(one).map_err(|registry| DockerSettingsError::Setting {
                setting: "registry credentials".into(),
                reason: format!("found two credentials for the registry {registry}, expected one"),
            })?;
        }
        Ok(DockerLatentWorker {
            settings: Arc::new(self.settings),
            credentials,
            secret_in_file: self.secret_in_file,
            grace: self.grace,
            engine: Engine::new(address),
            images: Arc::default(),
            unanswered: Arc::default(),
            silent: Arc::default(),
        })
    }
}
