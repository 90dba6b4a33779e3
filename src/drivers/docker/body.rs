//! What the engine is asked to create: its `ContainerCreate` body (Docker Engine API, "Create a container").
//!
//! Pure.

use serde_json::{Map, Value, json};

use super::master_address::split;
use super::names::Identity;
use super::settings::Rendered;
use crate::drivers::variables::{self, MASTER, SECRET, SECRET_FILE};
use crate::{Properties, Secret, StartError};

/// An anonymous volume for the file with the secret: it can be written to before the container runs, which no tmpfs can,
/// also when the root of the container is read-only.
const SECRET_VOLUME: &str = "/run/latent-worker";
pub(super) const SECRET_PATH: &str = "/run/latent-worker/secret";

/// What the images of Buildbot's workers need besides, unless the user says otherwise: the only protocol that we speak,
/// and which variables they are to take out of their environment, which builds inherit and which they tell the master.
/// Names and use as in `worker/docker/buildbot.tac` of Buildbot 4.2 and later.
const BUILDBOTS_OWN: [(&str, &str); 2] = [
    ("BUILDMASTER_PROTOCOL", "msgpack_experimental_v7"),
    ("WORKER_ENVIRONMENT_BLACKLIST", "WORKERPASS LATENT_WORKER_SECRET"),
];

/// How the agent learns its secret.
#[derive(Clone, Copy)]
pub(super) enum Handover<'a> {
    Environment(&'a Secret),
    File,
}

/// The variables for the agent, then those of the user, as `NAME=value`. An error when the properties cannot be told as
/// variables, which is the build's own fault.
pub(super) fn environment(
    identity: &Identity,
    rendered: &Rendered,
    properties: &Properties,
    master: Option<&str>,
    secret: Handover<'_>,
) -> Result<Vec<String>, StartError> {
    let mut all: Vec<(String, String)> = rendered.environment.clone().into_iter().collect();
    all.extend(variables::properties(properties).map_err(StartError::cannot)?);
    all.extend(variables::attempt(&identity.worker, identity.epoch, &identity.key, &identity.owner));
    let mut set = |name: &str, value: &str| all.push((name.to_owned(), value.to_owned()));
    // The names that the images of Buildbot's workers know.
    set("WORKERNAME", &identity.worker);
    BUILDBOTS_OWN
        .into_iter()
        .filter(|(name, _)| !rendered.environment.contains_key(*name))
        .for_each(|(name, value)| set(name, value));
    if let Some(master) = master {
        let (host, port) = split(master);
        set(MASTER, master);
        set("BUILDMASTER", host);
        set("BUILDMASTER_PORT", port);
    }
    match secret {
        Handover::Environment(secret) => {
            set(SECRET, secret.expose());
            set("WORKERPASS", secret.expose());
        }
        Handover::File => set(SECRET_FILE, SECRET_PATH),
    }
    Ok(all.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// The whole body. What is not set is left out, so that the engine's or the image's own holds.
pub(super) fn create(
    identity: &Identity,
    rendered: &Rendered,
    environment: Vec<String>,
    secret: Handover<'_>,
) -> Value {
    let mut labels: Map<String, Value> =
        rendered.labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    labels.extend(identity.labels().map(|(name, value)| (name.to_owned(), json!(value))));
    let (mut anonymous, binds): (Vec<&str>, Vec<&str>) =
        rendered.volumes.iter().map(String::as_str).partition(|volume| !volume.contains(':'));
    if matches!(secret, Handover::File) {
        anonymous.push(SECRET_VOLUME);
    }

    let mut host = rendered.host_config.clone();
    host.insert("Init".into(), json!(rendered.init));
    if !binds.is_empty() {
        host.insert("Binds".into(), json!(binds));
    }
    if rendered.memory.bytes() > 0 {
        host.insert("Memory".into(), json!(rendered.memory.bytes()));
    }
    if rendered.nano_cpus > 0 {
        host.insert("NanoCpus".into(), json!(rendered.nano_cpus));
    }
    if !rendered.network.is_empty() {
        host.insert("NetworkMode".into(), json!(rendered.network));
    }

    let mut body = json!({ "Image": rendered.image, "Env": environment, "Labels": labels, "HostConfig": host });
    if !rendered.command.is_empty() {
        body["Cmd"] = json!(rendered.command);
    }
    if !rendered.hostname.is_empty() {
        body["Hostname"] = json!(rendered.hostname);
    }
    if !anonymous.is_empty() {
        body["Volumes"] = anonymous.into_iter().map(|target| (target.to_owned(), json!({}))).collect();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::docker::settings::Settings;
    use crate::{ByteSize, Epoch};

    fn identity() -> Identity {
        Identity { worker: "w".into(), owner: "o".into(), key: "k".into(), epoch: Epoch::default() }
    }

    fn rendered(change: impl FnOnce(&mut Settings)) -> Rendered {
        let mut settings = Settings::new("an-image".into());
        change(&mut settings);
        settings.render(&Properties::new()).ok().unwrap()
    }

    #[test]
    fn what_is_not_set_is_left_out() {
        let body =
            create(&identity(), &rendered(|_| ()), vec!["A=1".into()], Handover::Environment(&Secret::new("hush")));
        let labels = json!({
            "latent-worker.owner": "o", "latent-worker.worker": "w", "latent-worker.key": "k",
            "latent-worker.epoch": Epoch::default().to_string(),
        });
        let expected = json!({ "Image": "an-image", "Env": ["A=1"], "Labels": labels, "HostConfig": { "Init": true } });
        assert_eq!(body, expected);
    }

    #[test]
    fn every_setting_has_its_place() {
        let rendered = rendered(|settings| {
            settings.command = vec!["a".to_owned(), "b".to_owned()].into();
            settings.volumes = vec!["/src:/in:ro".into(), "/data".into()];
            settings.labels.insert("mine".into(), "yes".into());
            settings.memory = ByteSize::new(5 << 20).into();
            settings.cpus = 1.5.into();
            settings.network = "net".into();
            settings.hostname = "inside".into();
            settings.init = false.into();
            settings.host_config = json!({ "PidsLimit": 9 }).into();
        });
        let body = create(&identity(), &rendered, Vec::new(), Handover::File);
        let host = json!({
            "Init": false, "Binds": ["/src:/in:ro"], "Memory": 5 << 20, "NanoCpus": 1_500_000_000_u64,
            "NetworkMode": "net", "PidsLimit": 9,
        });
        assert_eq!(body["HostConfig"], host);
        assert_eq!(body["Cmd"], json!(["a", "b"]));
        assert_eq!(body["Hostname"], json!("inside"));
        assert_eq!(body["Volumes"], json!({ "/data": {}, "/run/latent-worker": {} }));
        assert_eq!(body["Labels"]["mine"], json!("yes"));
    }

    #[test]
    fn the_agent_is_told_in_our_words_and_in_those_of_buildbots_images() {
        let rendered = rendered(|settings| _ = settings.environment.insert("MINE".into(), "x".into()));
        let secret = Secret::new("hush");
        let properties: Properties = [("os", "linux")].into_iter().collect();
        let told = |handover| environment(&identity(), &rendered, &properties, Some("[fd00::1]:99"), handover).unwrap();
        let environment = told(Handover::Environment(&secret));
        for expected in [
            "MINE=x",
            "LATENT_WORKER_PROPERTY_os=linux",
            "LATENT_WORKER_NAME=w",
            "LATENT_WORKER_KEY=k",
            "LATENT_WORKER_OWNER=o",
            "LATENT_WORKER_MASTER=[fd00::1]:99",
            "LATENT_WORKER_SECRET=hush",
            "BUILDMASTER=fd00::1",
            "BUILDMASTER_PORT=99",
            "WORKERNAME=w",
            "WORKERPASS=hush",
            "BUILDMASTER_PROTOCOL=msgpack_experimental_v7",
            "WORKER_ENVIRONMENT_BLACKLIST=WORKERPASS LATENT_WORKER_SECRET",
        ] {
            assert!(environment.iter().any(|variable| variable == expected), "{expected}: {environment:?}");
        }
        let environment = told(Handover::File);
        assert!(environment.iter().all(|variable| !variable.contains("hush")), "{environment:?}");
        assert!(environment.contains(&format!("LATENT_WORKER_SECRET_FILE={SECRET_PATH}")));
    }

    #[test]
    fn a_user_may_choose_the_protocol_and_what_is_hidden_from_builds() {
        let rendered = rendered(|settings| {
            settings.environment.insert("BUILDMASTER_PROTOCOL".into(), "pb".into());
            settings.environment.insert("WORKER_ENVIRONMENT_BLACKLIST".into(), "*".into());
        });
        let environment = environment(&identity(), &rendered, &Properties::new(), None, Handover::File).unwrap();
        for (name, value) in [("BUILDMASTER_PROTOCOL=", "pb"), ("WORKER_ENVIRONMENT_BLACKLIST=", "*")] {
            let told: Vec<_> = environment.iter().filter_map(|variable| variable.strip_prefix(name)).collect();
            assert_eq!(told, [value], "{name}");
        }
    }
}
