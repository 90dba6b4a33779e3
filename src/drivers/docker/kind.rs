//! The kind of a build: its settings in words that people may see.
//!
//! Pure, but for the digest of what they may not see.

use std::fmt::Debug;

use super::settings::{ImageRecipe, Rendered, Settings, is_computed};
use crate::Kind;
use crate::drivers::kinds::KindName;

impl Settings {
    /// The kind of a build: all of these settings that can differ from build to build, as they are for this one. Values
    /// that may have secrets in them are hidden.
    pub(super) fn kind(&self, rendered: &Rendered) -> Kind {
        let mut kind = KindName::default();
        let mut show = |name: &str, differs: bool, value: &dyn Debug| {
            if differs {
                kind.show(name, value);
            }
        };
        show("image", is_computed(&self.image), &rendered.image);
        show("platform", is_computed(&self.platform), &rendered.platform.as_deref().unwrap_or_default());
        show("memory", is_computed(&self.memory), &format_args!("{}", rendered.memory));
        show("cpus", is_computed(&self.cpus), &(rendered.nano_cpus as f64 / 1e9));
        show("network", is_computed(&self.network), &rendered.network);
        show("hostname", is_computed(&self.hostname), &rendered.hostname);
        show("init", is_computed(&self.init), &rendered.init);
        show("pull", is_computed(&self.pull), &rendered.pull);
        show(
            "master_address",
            is_computed(&self.master_address),
            &rendered.master_address.as_deref().unwrap_or_default(),
        );
        show("volumes", self.volumes.iter().any(is_computed), &rendered.volumes);
        show("command", is_computed(&self.command), &rendered.command);
        let mut hide = |name: &str, differs: bool, value: &dyn Debug| {
            if differs {
                kind.hide(name, value);
            }
        };
        hide("environment", self.environment.values().any(is_computed), &rendered.environment);
        hide("labels", self.labels.values().any(is_computed), &rendered.labels);
        hide("host_config", is_computed(&self.host_config), &rendered.host_config);
        let recipe = rendered.recipe.as_ref().map(|recipe| match recipe {
            ImageRecipe::Dockerfile(text) => (text.as_str(), None, None),
            ImageRecipe::Directory { path, dockerfile } => ("", Some(path), dockerfile.as_ref()),
        });
        hide("recipe", self.recipe.as_ref().is_some_and(is_computed), &recipe);
        kind.kind()
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use serde_json::json;

    use super::*;
    use crate::{BoxError, Properties, PullPolicy, Setting};

    fn template<T: FromStr<Err: Into<BoxError>>>(text: &str) -> Setting<T> {
        Setting::template(text).unwrap()
    }

    /// All settings depend on properties of their own.
    fn settings() -> Settings {
        let mut settings = Settings::new(template("rust:{image:-stable}"));
        let of = |properties: &Properties, name: &str| properties.get(name).unwrap_or("1").to_owned();
        settings.recipe = Some(Setting::computed(move |properties| {
            Ok(match properties.get("recipe") {
                Some("directory") => ImageRecipe::directory("Dockerfile"),
                text => ImageRecipe::dockerfile(text.unwrap_or("FROM x")),
            })
        }));
        settings.pull = Setting::computed(|properties| {
            Ok(if properties.get("pull").is_some() { PullPolicy::Always } else { PullPolicy::Never })
        });
        settings.platform = template("{platform:-}");
        settings.command = ["run".into(), template("{command:-}")].into();
        settings.environment.insert("A".into(), template("{a:-}"));
        settings.environment.insert("B".into(), template("{b:-}"));
        settings.volumes = vec![template("/v{volume:-}"), "/always".into()];
        settings.labels.insert("l".into(), template("{label:-}"));
        settings.memory = template("{memory:-1G}");
        settings.cpus = template("{cpus:-1}");
        settings.network = template("{network:-}");
        settings.hostname = template("h{hostname:-}");
        settings.init = Setting::computed(|properties| Ok(properties.get("init").is_none()));
        settings.host_config = Setting::computed(move |properties| Ok(json!({ "ShmSize": of(properties, "config") })));
        settings.master_address = template("{master:-}");
        settings
    }

    const VALUES: &[(&str, &[&str])] = &[
        ("image", &["stable", "a", "b"]),
        ("recipe", &["FROM x", "Dockerfile", "directory"]),
        ("pull", &["yes"]),
        ("platform", &["", "linux"]),
        ("command", &["", "a", "a\" \"b"]),
        ("a", &["", "hunter2", "B=\"x"]),
        ("b", &["", "hunter2", "x"]),
        ("volume", &["", "1", "2"]),
        ("label", &["", "hunter2"]),
        ("memory", &["1G", "1024M", "2G"]),
        ("cpus", &["1", "1.0", "0.5", "1.000000001"]),
        ("network", &["", "host"]),
        ("hostname", &["", "1"]),
        ("init", &["no"]),
        ("config", &["1", "hunter2"]),
        ("master", &["", "host:1"]),
        ("unused", &["1", "2"]),
    ];

    #[test]
    fn w11_builds_are_of_one_kind_exactly_when_their_settings_come_out_equal() {
        let (settings, mut random) = (settings(), fastrand::Rng::with_seed(11));
        let mut any = |properties: &mut Properties| {
            let (name, values) = VALUES[random.usize(..VALUES.len())];
            properties.set(name, values[random.usize(..values.len())]);
        };
        let (mut same, mut different) = (0, 0);
        for _ in 0..20_000 {
            let mut one = Properties::new();
            (0..4).for_each(|_| any(&mut one));
            let mut other = one.clone();
            (0..2).for_each(|_| any(&mut other));
            let [(one_kind, one), (other_kind, other)] = [&one, &other].map(|properties| {
                let rendered = settings.render(properties).ok().unwrap();
                (settings.kind(&rendered), rendered)
            });
            assert!(!one_kind.name().unwrap().contains("hunter2"), "{one_kind:?}");
            let equal = one == other;
            assert_eq!(one_kind == other_kind, equal, "{one_kind:?} {other_kind:?}");
            *if equal { &mut same } else { &mut different } += 1;
        }
        assert!(same > 1000 && different > 1000, "{same} {different}");
    }

    #[test]
    fn the_name_of_a_kind_has_what_can_differ_and_nothing_else() {
        let mut settings = Settings::new(template("rust:{toolchain}"));
        settings.memory = template("{memory:-1G}");
        settings.network = "host".into();
        settings.environment.insert("TOKEN".into(), "hush".into());
        let properties: Properties = [("toolchain", "1.89"), ("unused", "x")].into_iter().collect();
        let kind = settings.kind(&settings.render(&properties).ok().unwrap());
        assert_eq!(&**kind.name().unwrap(), "image=\"rust:1.89\" memory=1G");
    }
}
