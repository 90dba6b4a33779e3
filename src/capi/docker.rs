//! The settings of containers, as JSON.

use super::boundary::{Failure, Result};
use super::settings::Members;
use crate::{ByteSize, DockerLatentWorker, EngineAddress, ImageRecipe, PullPolicy, RegistryCredentials, Secret};

pub(super) fn driver_from(json: &str) -> Result<DockerLatentWorker> {
    let mut settings = Members::parse(json)?;
    let image = settings.template("image")?;
    let mut builder = DockerLatentWorker::builder(settings.needed("image", image)?);
    if let Some(platform) = settings.template("platform")? {
        builder = builder.platform(platform);
    }
    if let Some(network) = settings.template("network")? {
        builder = builder.network(network);
    }
    if let Some(hostname) = settings.template("hostname")? {
        builder = builder.hostname(hostname);
    }
    if let Some(address) = settings.template("master_address")? {
        builder = builder.master_address(address);
    }
    let command = settings.templates("command")?;
    if !command.is_empty() {
        builder = builder.command(command);
    }
    for (name, value) in settings.named_templates("env")? {
        builder = builder.env(name, value);
    }
    for (name, value) in settings.named_templates("labels")? {
        builder = builder.label(name, value);
    }
    for volume in settings.templates("volumes")? {
        builder = builder.volume(volume);
    }
    if let Some(memory) = settings.typed_template::<ByteSize>("memory")? {
        builder = builder.memory(memory);
    }
    if let Some(cpus) = settings.typed_template::<f64>("cpus")? {
        builder = builder.cpus(cpus);
    }
    if let Some(init) = settings.flag("init")? {
        builder = builder.init(init);
    }
    if let Some(policy) = settings.typed_template::<PullPolicy>("pull")? {
        builder = builder.pull(policy);
    }
    if let Some(json) = settings.json("host_config") {
        builder = builder.host_config(json);
    }
    match (settings.text("dockerfile")?, settings.text("build_directory")?) {
        (Some(text), None) => builder = builder.build_image_from(ImageRecipe::dockerfile(text)),
        (None, Some(path)) => builder = builder.build_image_from(ImageRecipe::directory(path)),
        (None, None) => {}
        (Some(_), Some(_)) => return Err(Failure::argument("settings: either dockerfile or build_directory")),
    }
    if let Some(address) = settings.text("engine")? {
        let address: EngineAddress = address.parse().map_err(|error| Failure::argument(format!("engine: {error}")))?;
        builder = builder.engine(address);
    }
    for registry in settings.objects("registries")? {
        builder = builder.registry_credentials(registry_credentials(registry)?);
    }
    if settings.flag("secret_in_file")? == Some(true) {
        builder = builder.secret_in_file();
    }
    if let Some(grace) = settings.milliseconds("stop_grace_ms")? {
        builder = builder.stop_grace(grace);
    }
    settings.end()?;
    builder.build().map_err(|error| Failure::argument(format!("settings: {error}")))
}

fn registry_credentials(mut given: Members) -> Result<RegistryCredentials> {
    let [registry, user, password] = ["registry", "user", "password"].map(|name| {
        let text = given.text(name)?;
        given.needed(name, text)
    });
    let credentials = RegistryCredentials::new(registry?, user?, Secret::new(password?));
    given.end()?;
    credentials.map_err(|error| Failure::argument(format!("settings: registries: {error}")))
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
                "engine": "unix:///run/engine.sock", "registries": [
                    {"registry": "ghcr.io", "user": "robot", "password": "hunter2"},
                    {"registry": "localhost:5000", "user": "robot", "password": "hunter3"}
                ],
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
            r#"{"image": "a", "registries": [{"registry": "r", "user": "u", "password": "hunter2", "more": 1}]}"#,
            r#"{"image": "a", "registries": [{"user": "u", "password": "hunter2"}]}"#,
            r#"{"image": "a", "registries": [{"registry": "u:hunter2@r", "user": "u", "password": "hunter2"}]}"#,
            r#"{"image": "a", "registries": [{"registry": "r", "user": "u", "password": "hunter2\n"}]}"#,
            r#"{"image": "a", "registries": ["hunter2"]}"#,
            r#"{"image": "a", "registries": {"registry": "hunter2"}}"#,
            r#"{"image": "a", "env": "hunter2, expected nothing"}"#,
            r#"{"image": "a", "pull": "never", "init": "hunter2"}"#,
            r#"{"image": "a", "env": {"TOKEN": "{hunter2"}}"#,
            r#"{"image": "a", "env": {"TOKEN": ["hunter2"]}}"#,
            r#"{"image": "a", "registries": [{"user": "robot", "password": hunter2}]}"#,
        ] {
            assert!(!refused(json).contains("hunter2"), "{}", refused(json));
        }
    }
}
