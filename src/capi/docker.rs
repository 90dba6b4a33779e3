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
    let settings: Settings = serde_json::from_str(json)
        .map_err(|error| Failure::argument(format!("settings: {}", without_value(&error))))?;
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

/// What is wrong and where, without the value that is: it may be a password.
fn without_value(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(", expected ").filter(|(what, _)| what.starts_with("invalid ")) {
        Some((_, expected)) => format!("a value of a wrong kind; expected {expected}"),
        None if error.is_data() => text,
        None => format!("no JSON at line {} column {}", error.line(), error.column()),
    }
}

/// A list of templates, as one setting.
fn words(texts: &[String]) -> Result<Setting<Vec<String>>> {
    let words = texts.iter().map(|text| template::<String>("command", text)).collect::<Result<Vec<_>>>()?;
    Ok(Setting::computed(move |properties| {
        words.iter().map(|word| word.render(properties).map_err(BoxError::from)).collect()
    }))
}

#[cfg(test)]
mod tests {
    use super::driver_from;

    fn refused(json: &str) -> String {
        driver_from(json).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn all_settings_make_a_driver() {
        let driver = driver_from(
            r#"{
                "image": "agent:{toolchain:-stable}", "platform": "linux/amd64", "network": "bridge", "hostname": "h",
                "master_address": "10.0.0.1", "command": ["agent", "{kind:-plain}"], "env": {"CI": "1"},
                "labels": {"team": "a"}, "volumes": ["cache:/cache"], "memory": "512M", "cpus": 1.5, "init": false,
                "pull": "never", "host_config": {"CapDrop": ["ALL"]}, "dockerfile": "FROM scratch",
                "engine": "unix:///run/engine.sock", "registry": {"user": "robot", "password": "hunter2"},
                "secret_in_file": true, "stop_grace_ms": 5000
            }"#,
        );
        assert_eq!(driver.unwrap().engine().to_string(), "unix:///run/engine.sock");
        assert!(driver_from(r#"{"image": "agent", "cpus": "{cpus:-2}", "build_directory": "."}"#).is_ok());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name() {
        for (json, words) in [
            ("", "no JSON at line 1"),
            ("{}", "image"),
            (r#"{"image": "a", "imgae": "b"}"#, "imgae"),
            (r#"{"image": "{open"}"#, "image"),
            (r#"{"image": "a", "memory": "much"}"#, "memory"),
            (r#"{"image": "a", "pull": "sometimes"}"#, "pull"),
            (r#"{"image": "a", "engine": "carrier pigeon"}"#, "engine"),
            (r#"{"image": "a", "dockerfile": "b", "build_directory": "c"}"#, "either dockerfile or build_directory"),
        ] {
            assert!(refused(json).contains(words), "{json}: {}", refused(json));
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        for json in [
            r#"{"image": "a", "registry": {"user": "robot", "password": "hunter2", "more": 1}}"#,
            r#"{"image": "a", "registry": "hunter2"}"#,
            r#"{"image": "a", "env": "hunter2, expected nothing"}"#,
            r#"{"image": "a", "pull": "never", "init": "hunter2"}"#,
            r#"{"image": "a", "registry": {"user": "robot", "password": hunter2}}"#,
        ] {
            assert!(!refused(json).contains("hunter2"), "{}", refused(json));
        }
    }
}
