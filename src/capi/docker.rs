//! The settings of containers, of which there are too many for a structure of C: read from JSON.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::boundary::{Failure, Result};
use crate::{BoxError, ByteSize, DockerLatentWorker, EngineAddress, ImageRecipe, PullPolicy, RegistryCredentials};
use crate::{Secret, Setting};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    image: String,
    platform: Option<String>,
    network: Option<String>,
    hostname: Option<String>,
    master_address: Option<String>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    volumes: Vec<String>,
    memory: Option<String>,
    cpus: Option<NumberOrText>,
    init: Option<bool>,
    pull: Option<String>,
    host_config: Option<Value>,
    dockerfile: Option<String>,
    build_directory: Option<String>,
    engine: Option<String>,
    registry: Option<Registry>,
    #[serde(default)]
    secret_in_file: bool,
    stop_grace_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(f64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    user: String,
    password: String,
}

/// A template that becomes whatever the setting is.
fn template<T: FromStr<Err: Into<BoxError>>>(name: &str, text: &str) -> Result<Setting<T>> {
    Setting::template(text).map_err(|error| Failure::argument(format!("{name}: {error}")))
}

pub(super) fn driver_from(json: &str) -> Result<DockerLatentWorker> {
    // The error tells a line and a name, and no value: a password is not repeated.
    let settings: Settings = serde_json::from_str(json).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let what = if error.is_data() { error.to_string() } else { format!("no JSON at line {line} column {column}") };
        Failure::argument(format!("settings: {what}"))
    })?;
    let mut builder = DockerLatentWorker::builder(template::<String>("image", &settings.image)?);
    if let Some(text) = settings.platform {
        builder = builder.platform(template::<String>("platform", &text)?);
    }
    if let Some(text) = settings.network {
        builder = builder.network(template::<String>("network", &text)?);
    }
    if let Some(text) = settings.hostname {
        builder = builder.hostname(template::<String>("hostname", &text)?);
    }
    if let Some(text) = settings.master_address {
        builder = builder.master_address(template::<String>("master_address", &text)?);
    }
    if !settings.command.is_empty() {
        builder = builder.command(words(&settings.command)?);
    }
    for (name, text) in settings.env {
        let value = template::<String>(&format!("env.{name}"), &text)?;
        builder = builder.env(name, value);
    }
    for (name, text) in settings.labels {
        let value = template::<String>(&format!("labels.{name}"), &text)?;
        builder = builder.label(name, value);
    }
    for text in settings.volumes {
        builder = builder.volume(template::<String>("volumes", &text)?);
    }
    if let Some(text) = settings.memory {
        builder = builder.memory(template::<ByteSize>("memory", &text)?);
    }
    builder = match settings.cpus {
        Some(NumberOrText::Number(cpus)) => builder.cpus(cpus),
        Some(NumberOrText::Text(text)) => builder.cpus(template::<f64>("cpus", &text)?),
        None => builder,
    };
    if let Some(init) = settings.init {
        builder = builder.init(init);
    }
    if let Some(text) = settings.pull {
        builder = builder.pull(template::<PullPolicy>("pull", &text)?);
    }
    if let Some(json) = settings.host_config {
        builder = builder.host_config(json);
    }
    match (settings.dockerfile, settings.build_directory) {
        (Some(text), None) => builder = builder.build_image_from(ImageRecipe::dockerfile(text)),
        (None, Some(path)) => builder = builder.build_image_from(ImageRecipe::directory(path)),
        (None, None) => {}
        (Some(_), Some(_)) => return Err(Failure::argument("settings: either dockerfile or build_directory")),
    }
    if let Some(address) = settings.engine {
        let address: EngineAddress = address.parse().map_err(|error| Failure::argument(format!("engine: {error}")))?;
        builder = builder.engine(address);
    }
    if let Some(Registry { user, password }) = settings.registry {
        builder = builder.registry_credentials(RegistryCredentials::new(user, Secret::new(password)));
    }
    if settings.secret_in_file {
        builder = builder.secret_in_file();
    }
    if let Some(grace) = settings.stop_grace_ms {
        builder = builder.stop_grace(Duration::from_millis(grace));
    }
    builder.build().map_err(|error| Failure::argument(format!("settings: {error}")))
}

/// A list of templates, as one setting.
fn words(texts: &[String]) -> Result<Setting<Vec<String>>> {
    let words = texts.iter().map(|text| template::<String>("command", text)).collect::<Result<Vec<_>>>()?;
    Ok(Setting::computed(move |properties| {
        words.iter().map(|word| word.render(properties).map_err(BoxError::from)).collect()
    }))
}
