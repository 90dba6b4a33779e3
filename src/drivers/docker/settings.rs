//! What a container is to be: the settings as they were given, and as they are for one build.
//!
//! Pure. What becomes of them at the engine is in `body`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde_json::{Map, Value};

use super::engine::EngineAddressError;
use super::names;
use crate::{BoxError, ByteSize, Properties, Setting};

/// What is done about an image before a container is made from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum PullPolicy {
    /// Only what is on the engine's machine; that it is missing is the build's own fault.
    Never,
    /// It is pulled when it is missing, or when the one that is there is for another platform. The default.
    #[default]
    IfMissing,
    /// It is pulled before every start, so that a tag that has moved is noticed. Costs a question to the registry each
    /// time, and nothing starts while that does not answer.
    Always,
}

/// `never`, `missing` or `always`, the words of `docker run --pull`.
impl FromStr for PullPolicy {
    type Err = BoxError;

    fn from_str(text: &str) -> Result<Self, BoxError> {
        match text {
            "never" => Ok(Self::Never),
            "missing" => Ok(Self::IfMissing),
            "always" => Ok(Self::Always),
            _ => Err("a pull policy is one of never, missing, always".into()),
        }
    }
}

/// What an image is built from when it is missing; see
/// [`DockerLatentWorkerBuilder::build_image_from`](crate::DockerLatentWorkerBuilder::build_image_from).
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageRecipe {
    /// The text of a Dockerfile; `COPY` and `ADD` find no files.
    Dockerfile(String),
    /// A directory on this machine, which is sent to the engine.
    Directory {
        /// The directory. A relative path counts from the one that is current when the image is built.
        path: PathBuf,
        /// The path of the Dockerfile within the directory; `Dockerfile`, if none is given.
        dockerfile: Option<PathBuf>,
    },
}

impl ImageRecipe {
    /// The text of a Dockerfile.
    pub fn dockerfile(text: impl Into<String>) -> Self {
        Self::Dockerfile(text.into())
    }

    /// A directory with a `Dockerfile` in it.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::Directory { path: path.into(), dockerfile: None }
    }
}

/// Without the text of a Dockerfile, which may have secrets in it.
impl fmt::Debug for ImageRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dockerfile(text) => write!(f, "Dockerfile({} lines)", text.lines().count()),
            Self::Directory { path, dockerfile } => {
                f.debug_struct("Directory").field("path", path).field("dockerfile", dockerfile).finish()
            }
        }
    }
}

/// Why a driver of containers cannot be made from its settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DockerSettingsError {
    /// A setting makes no sense, whatever the build.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which one.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The environment does not say where the engine is.
    #[error(transparent)]
    Address(#[from] EngineAddressError),
}

/// The settings as they were given.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) image: Setting<String>,
    pub(super) recipe: Option<Setting<ImageRecipe>>,
    pub(super) pull: Setting<PullPolicy>,
    pub(super) platform: Setting<String>,
    pub(super) command: Setting<Vec<String>>,
    pub(super) environment: BTreeMap<String, Setting<String>>,
    pub(super) volumes: Vec<Setting<String>>,
    pub(super) labels: BTreeMap<String, Setting<String>>,
    pub(super) memory: Setting<ByteSize>,
    pub(super) cpus: Setting<f64>,
    pub(super) network: Setting<String>,
    pub(super) hostname: Setting<String>,
    pub(super) init: Setting<bool>,
    pub(super) host_config: Setting<Value>,
    pub(super) master_address: Setting<String>,
}

/// The settings as they are for one build. An instance fits a build exactly when these are equal, which is when
/// [kinds](Settings::kind) are. No `Debug`: there may be secrets in the environment.
#[derive(Clone, PartialEq)]
pub(super) struct Rendered {
    pub(super) image: String,
    pub(super) recipe: Option<ImageRecipe>,
    pub(super) pull: PullPolicy,
    pub(super) platform: Option<String>,
    pub(super) command: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) volumes: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) memory: ByteSize,
    pub(super) nano_cpus: u64,
    pub(super) network: String,
    pub(super) hostname: String,
    pub(super) init: bool,
    pub(super) host_config: Map<String, Value>,
    pub(super) master_address: Option<String>,
}

/// A setting that has no value, or a value that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub(super) struct BadSetting {
    pub(super) setting: String,
    pub(super) reason: String,
}

impl From<BadSetting> for DockerSettingsError {
    fn from(bad: BadSetting) -> Self {
        Self::Setting { setting: bad.setting, reason: bad.reason }
    }
}

/// How settings are looked at: for these properties; without any, those alone that are constants, so that what is wrong
/// with them is told before any build comes.
struct Look<'a>(Option<&'a Properties>);

impl Look<'_> {
    /// The name of a setting, itself, and how its value is checked and made into what is used.
    fn at<T: Clone, R: Default>(
        &self,
        name: &str,
        setting: &Setting<T>,
        check: impl FnOnce(T) -> Result<R, String>,
    ) -> Result<R, BadSetting> {
        let value = match self.0 {
            Some(properties) => setting.render(properties).map(Some).map_err(|error| error.to_string()),
            None => Ok(setting.as_constant().cloned()),
        };
        let checked = value.and_then(|value| value.map_or_else(|| Ok(R::default()), check));
        checked.map_err(|reason| BadSetting { setting: name.into(), reason })
    }
}

impl Settings {
    pub(super) fn new(image: Setting<String>) -> Self {
        Self {
            image,
            recipe: None,
            pull: PullPolicy::default().into(),
            platform: "".into(),
            command: Vec::<String>::new().into(),
            environment: BTreeMap::new(),
            volumes: Vec::new(),
            labels: BTreeMap::new(),
            memory: ByteSize::default().into(),
            cpus: 0.0.into(),
            network: "".into(),
            hostname: "".into(),
            init: true.into(),
            host_config: Value::Object(Map::new()).into(),
            master_address: "".into(),
        }
    }

    /// Whether instances differ from build to build.
    pub(super) fn depend_on_the_build(&self) -> bool {
        let texts = [&self.image, &self.platform, &self.network, &self.hostname, &self.master_address];
        let lists = texts.into_iter().chain(self.environment.values()).chain(self.labels.values());
        lists.chain(&self.volumes).any(is_computed)
            || self.recipe.as_ref().is_some_and(is_computed)
            || is_computed(&self.pull)
            || is_computed(&self.command)
            || is_computed(&self.memory)
            || is_computed(&self.cpus)
            || is_computed(&self.init)
            || is_computed(&self.host_config)
    }

    pub(super) fn check_constants(&self) -> Result<(), BadSetting> {
        self.look(&Look(None)).map(drop)
    }

    pub(super) fn render(&self, properties: &Properties) -> Result<Rendered, BadSetting> {
        self.look(&Look(Some(properties)))
    }

    fn look(&self, look: &Look<'_>) -> Result<Rendered, BadSetting> {
        let mut environment = BTreeMap::new();
        for (name, setting) in &self.environment {
            let what = format!("the variable {name:?}");
            names::variable(name).map_err(|reason| BadSetting { setting: what.clone(), reason })?;
            environment.insert(name.clone(), look.at(&what, setting, no_nul)?);
        }
        let mut labels = BTreeMap::new();
        for (name, setting) in &self.labels {
            let what = format!("the label {name:?}");
            names::label(name).map_err(|reason| BadSetting { setting: what.clone(), reason })?;
            labels.insert(name.clone(), look.at(&what, setting, no_nul)?);
        }
        let mut volumes = Vec::new();
        for setting in &self.volumes {
            volumes.extend(Some(look.at("a volume", setting, volume)?).filter(|volume| !volume.is_empty()));
        }
        Ok(Rendered {
            image: look.at("the image", &self.image, image)?,
            recipe: match &self.recipe {
                Some(setting) => look.at("the recipe of the image", setting, recipe)?,
                None => None,
            },
            pull: look.at("the pull policy", &self.pull, Ok)?,
            platform: look.at("the platform", &self.platform, |text| word(text).map(non_empty))?,
            command: look.at("the command", &self.command, |words| words.into_iter().map(no_nul).collect())?,
            environment,
            volumes,
            labels,
            memory: look.at("the memory", &self.memory, |size| {
                if size.bytes() > i64::MAX as u64 { Err("there is no machine with so much".into()) } else { Ok(size) }
            })?,
            nano_cpus: look.at("the cpus", &self.cpus, nano_cpus)?,
            network: look.at("the network", &self.network, word)?,
            hostname: look.at("the hostname", &self.hostname, hostname)?,
            init: look.at("init", &self.init, Ok)?,
            host_config: look.at("the host config", &self.host_config, host_config)?,
            master_address: look
                .at("the address of the master", &self.master_address, |text| word(text).map(non_empty))?,
        })
    }
}

/// Names of variables and labels, without their values.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("image", &self.image)
            .field("recipe", &self.recipe)
            .field("pull", &self.pull)
            .field("platform", &self.platform)
            .field("environment", &self.environment.keys())
            .field("volumes", &self.volumes)
            .field("labels", &self.labels.keys())
            .field("memory", &self.memory)
            .field("cpus", &self.cpus)
            .field("network", &self.network)
            .field("hostname", &self.hostname)
            .field("init", &self.init)
            .field("master_address", &self.master_address)
            .finish_non_exhaustive()
    }
}

pub(super) fn is_computed<T>(setting: &Setting<T>) -> bool {
    setting.as_constant().is_none()
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn no_nul(text: String) -> Result<String, String> {
    if text.contains('\0') { Err("there is a NUL character in it".into()) } else { Ok(text) }
}

/// What is one word or nothing: names and addresses.
fn word(text: String) -> Result<String, String> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{text:?} has characters in it that are not to be seen"));
    }
    Ok(text)
}

fn image(text: String) -> Result<String, String> {
    if text.is_empty() { Err("it is empty".into()) } else { word(text) }
}

fn recipe(recipe: ImageRecipe) -> Result<Option<ImageRecipe>, String> {
    let inside = |path: &Path| {
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
            && path.to_str().is_some()
    };
    match &recipe {
        ImageRecipe::Dockerfile(text) if text.trim().is_empty() => Err("the Dockerfile is empty".into()),
        ImageRecipe::Directory { dockerfile: Some(path), .. } if !inside(path) => {
            Err(format!("the Dockerfile {} must be a path within the directory, in UTF-8", path.display()))
        }
        _ => Ok(Some(recipe)),
    }
}

/// `[source:]target[:options]`; the rest is for the engine to say.
fn volume(text: String) -> Result<String, String> {
    let text = no_nul(text)?;
    if text.is_empty() || text.split(':').any(|part| part.starts_with('/')) {
        return Ok(text);
    }
    Err(format!("{text:?} names no absolute path in the container; write source:/target or source:/target:ro"))
}

fn nano_cpus(cpus: f64) -> Result<u64, String> {
    if (0.0..=1e6).contains(&cpus) {
        Ok((cpus * 1e9).round() as u64)
    } else {
        Err(format!("{cpus} is no number of processors"))
    }
}

/// RFC 1123, section 2.1.
fn hostname(text: String) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.is_empty() || (text.len() <= 253 && text.split('.').all(label)) {
        return Ok(text);
    }
    Err(format!("{text:?} is no host name: letters, digits and hyphens, 63 at most between two dots"))
}

fn host_config(value: Value) -> Result<Map<String, Value>, String> {
    let Value::Object(map) = value else { return Err("it is not a JSON object".into()) };
    // Engines find their keys whatever their case.
    let owned = |key: &&String| OWNED_BY_US.iter().any(|(owned, _)| owned.eq_ignore_ascii_case(key));
    if let Some(key) = map.keys().find(owned) {
        let advice = OWNED_BY_US.iter().find(|(owned, _)| owned.eq_ignore_ascii_case(key)).map_or("", |found| found.1);
        return Err(format!("{key} is not for the host config: {advice}"));
    }
    Ok(map)
}

/// Keys of the engine's HostConfig that the driver sets, or needs to be as they are, and what to do instead.
const OWNED_BY_US: &[(&str, &str)] = &[
    ("AutoRemove", "the log of a container that has died would be gone, and stopping it removes it anyway"),
    ("Binds", "use volume"),
    ("Init", "use init"),
    ("Memory", "use memory"),
    ("NanoCpus", "use cpus"),
    ("NetworkMode", "use network"),
    ("RestartPolicy", "what has exited is noticed, stopped and started anew by the master"),
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn properties(list: &[(&str, &str)]) -> Properties {
        list.iter().copied().collect()
    }

    fn template<T: FromStr<Err: Into<BoxError>>>(text: &str) -> Setting<T> {
        Setting::template(text).unwrap()
    }

    fn refused(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::new("an-image".into());
        change(&mut settings);
        let early = settings.check_constants().unwrap_err();
        assert_eq!(settings.render(&Properties::new()).err(), Some(BadSetting { ..early }), "the same error later");
        settings.check_constants().unwrap_err().to_string()
    }

    #[test]
    fn what_makes_no_sense_is_refused_when_it_is_constant() {
        let error = refused(|settings| settings.image = "".into());
        assert_eq!(error, "the image: it is empty");
        assert!(refused(|settings| settings.image = "a b".into()).contains("the image: \"a b\""));
        assert!(refused(|settings| settings.platform = "linux amd64".into()).starts_with("the platform"));
        assert!(refused(|settings| settings.command = ["a\0"].into()).starts_with("the command: there is a NUL"));
        assert!(refused(|settings| settings.volumes.push("data".into())).contains("no absolute path"));
        assert!(refused(|settings| settings.memory = ByteSize::new(u64::MAX).into()).starts_with("the memory"));
        for cpus in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(refused(|settings| settings.cpus = cpus.into()).contains("no number of processors"));
        }
        for name in ["a b", "-a", "a-", "a..b", "ü", &"a".repeat(64)] {
            assert!(refused(|settings| settings.hostname = name.into()).starts_with("the hostname"), "{name}");
        }
        assert!(refused(|settings| settings.host_config = json!([1]).into()).contains("not a JSON object"));
        let error = refused(|settings| settings.host_config = json!({"autoremove": true}).into());
        assert!(error.starts_with("the host config: autoremove is not for"), "{error}");
        let dockerfile = Some("../Dockerfile".into());
        let recipe = ImageRecipe::Directory { path: "/".into(), dockerfile };
        assert!(refused(|settings| settings.recipe = Some(recipe.into())).contains("within the directory"));
        for name in ["", "A=B", "LATENT_WORKER_X", "WORKERPASS", "BUILDMASTER"] {
            let error = refused(|settings| _ = settings.environment.insert(name.into(), "secret-value".into()));
            assert!(error.starts_with("the variable") && !error.contains("secret-value"), "{name}: {error}");
        }
        for name in ["", "latent-worker.owner"] {
            assert!(refused(|settings| _ = settings.labels.insert(name.into(), "x".into())).starts_with("the label"));
        }
    }

    #[test]
    fn what_is_computed_is_checked_when_it_is_known() {
        let mut settings = Settings::new(template("{image}"));
        settings.memory = template("{memory:-0}");
        settings.host_config = Setting::computed(|_| Ok(json!({"Memory": 5})));
        settings.check_constants().unwrap();
        let error = settings.render(&properties(&[])).err().unwrap().to_string();
        assert_eq!(error, "the image: the build has no property \"image\", and the template has no default for it");
        let error = settings.render(&properties(&[("image", "a"), ("memory", "much")])).err().unwrap().to_string();
        assert!(error.starts_with("the memory: \"much\": \"much\" is no amount"), "{error}");
        let error = settings.render(&properties(&[("image", "a")])).err().unwrap().to_string();
        assert!(error.starts_with("the host config: Memory is not for the host config: use memory"), "{error}");
    }

    #[test]
    fn an_instance_fits_exactly_the_builds_for_which_the_settings_come_out_equal() {
        let mut settings = Settings::new(template("rust:{toolchain}"));
        settings.memory = template("{memory:-1G}");
        settings.environment.insert("A".into(), template("{a:-x}"));
        let of = |list: &[(&str, &str)]| settings.render(&properties(list)).ok().unwrap();
        let running = of(&[("toolchain", "1")]);
        assert!(running == of(&[("toolchain", "1"), ("memory", "1024M"), ("a", "x"), ("unused", "y")]));
        assert!(running != of(&[("toolchain", "2")]));
        assert!(running != of(&[("toolchain", "1"), ("memory", "2G")]));
        assert!(running != of(&[("toolchain", "1"), ("a", "y")]));
    }

    #[test]
    fn every_setting_that_is_computed_makes_builds_differ() {
        let dependent = |change: &dyn Fn(&mut Settings)| {
            let mut settings = Settings::new("a".into());
            settings.volumes.push("/a:/a".into());
            assert!(!settings.depend_on_the_build());
            change(&mut settings);
            settings.depend_on_the_build()
        };
        assert!(dependent(&|settings| settings.image = template("{a}")));
        assert!(dependent(&|settings| settings.recipe = Some(Setting::computed(|_| Err("no".into())))));
        assert!(dependent(&|settings| settings.pull = template("{a}")));
        assert!(dependent(&|settings| settings.platform = template("{a}")));
        assert!(dependent(&|settings| settings.command = ["a".into(), template("{a}")].into()));
        assert!(dependent(&|settings| _ = settings.environment.insert("A".into(), template("{a}"))));
        assert!(dependent(&|settings| settings.volumes.push(template("{a}"))));
        assert!(dependent(&|settings| _ = settings.labels.insert("a".into(), template("{a}"))));
        assert!(dependent(&|settings| settings.memory = template("{a}")));
        assert!(dependent(&|settings| settings.cpus = template("{a}")));
        assert!(dependent(&|settings| settings.network = template("{a}")));
        assert!(dependent(&|settings| settings.hostname = template("{a}")));
        assert!(dependent(&|settings| settings.init = template("{a}")));
        assert!(dependent(&|settings| settings.host_config = template("{a}")));
        assert!(dependent(&|settings| settings.master_address = template("{a}")));
    }

    #[test]
    fn values_of_variables_and_labels_and_texts_are_not_in_debug() {
        let mut settings = Settings::new("a".into());
        settings.environment.insert("TOKEN".into(), "hush".into());
        settings.labels.insert("PAROLE".into(), "hush".into());
        settings.recipe = Some(ImageRecipe::dockerfile("FROM x\nENV KEY=hush").into());
        let text = format!("{settings:?}");
        assert!(text.contains("TOKEN") && text.contains("PAROLE") && !text.contains("hush"), "{text}");
        assert!(text.contains("Dockerfile(2 lines)"), "{text}");
    }
}
