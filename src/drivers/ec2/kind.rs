//! The kind of a build: its settings in words that people may see.
//!
//! Pure, but for the digest of what they may not see.

use std::fmt::Debug;

use super::settings::{Rendered, Settings, is_computed};
use crate::Kind;
use crate::drivers::kinds::KindName;

impl Settings {
    /// The kind of a build: all of these settings that can differ from build to build, as they are for this one. The user
    /// data, which may have secrets in it, is hidden.
    pub(super) fn kind(&self, rendered: &Rendered) -> Kind {
        let mut kind = KindName::default();
        // None is never empty.
        let word = |word: &Option<String>| word.clone().unwrap_or_default();
        if let (true, Some(image)) = (self.image.as_ref().is_some_and(is_computed), &rendered.image) {
            kind.show_parsed("image", image);
        }
        if self.offers.iter().any(is_computed) {
            rendered.offers.iter().for_each(|offer| kind.show_parsed("offer", offer));
        }
        let mut show = |name: &str, differs: bool, value: &dyn Debug| {
            if differs {
                kind.show(name, value);
            }
        };
        show("launch_template", is_computed(&self.launch_template), &word(&rendered.launch_template));
        show("subnet", is_computed(&self.subnet), &word(&rendered.subnet));
        show("key_pair", is_computed(&self.key_pair), &word(&rendered.key_pair));
        show("security_groups", is_computed(&self.security_groups), &rendered.security_groups);
        show("placement_group", is_computed(&self.placement_group), &word(&rendered.placement_group));
        show("tenancy", is_computed(&self.tenancy), &word(&rendered.tenancy));
        show("profile", is_computed(&self.profile), &word(&rendered.profile));
        show("elastic_ip", is_computed(&self.elastic_ip), &word(&rendered.elastic_ip));
        show("metadata", is_computed(&self.metadata), &rendered.metadata);
        show("master_address", is_computed(&self.master_address), &word(&rendered.master_address));
        show("volumes", self.volumes.values().any(is_computed), &rendered.volumes);
        show("tags", self.tags.values().any(is_computed), &rendered.tags);
        if self.block_devices.iter().any(is_computed) {
            kind.hide("block_devices", &rendered.block_devices);
        }
        if is_computed(&self.user_data) {
            kind.hide("user_data", &rendered.user_data);
        }
        kind.kind()
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::super::ami::Ami;
    use super::super::offers::Offer;
    use super::super::settings::{BlockDevice, MetadataAccess};
    use super::*;
    use crate::{BoxError, Properties, Setting};

    fn template<T: FromStr<Err: Into<BoxError>>>(text: &str) -> Setting<T> {
        Setting::template(text).unwrap()
    }

    /// All settings depend on properties of their own.
    fn settings() -> Settings {
        let mut settings = Settings::new();
        settings.image = Some(Setting::computed(|properties: &Properties| {
            Ok(match properties.get("image") {
                Some("newest") => Ami::newest_by_name(["1"], "image-.*"),
                Some("newest of another") => Ami::newest_by_name(["2"], "image-.*"),
                Some("newest by location") => Ami::newest_by_location(["1"], "image-.*"),
                id => id.unwrap_or("ami-1").parse()?,
            })
        }));
        settings.launch_template = template("{template:-}");
        settings.offers = vec![
            Setting::computed(|properties: &Properties| {
                Ok(match properties.get("place") {
                    Some("zone") => Offer::new("a").in_zone("x-1"),
                    Some("subnet") => Offer::new("a").in_subnet("x-1"),
                    Some("spot") => Offer::new("a").spot_below(0.5),
                    _ => Offer::new("a"),
                })
            }),
            template("{offer:-b}"),
        ];
        settings.subnet = template("{subnet:-}");
        settings.key_pair = template("{key:-}");
        settings.security_groups = ["a".into(), template("{group:-b}")].into();
        settings.placement_group = template("{placement:-}");
        settings.tenancy = template("{tenancy:-}");
        settings.profile = template("{profile:-}");
        settings.user_data = template("key={data:-}");
        settings.block_devices = vec![Setting::computed(|properties: &Properties| {
            Ok(BlockDevice::new("/dev/xvda").size(properties.get("size").unwrap_or("1").parse()?))
        })];
        settings.volumes.insert("/dev/sdf".into(), template("{volume:-}"));
        settings.elastic_ip = template("{ip:-}");
        settings.tags.insert("t".into(), template("{tag:-}"));
        settings.metadata = Setting::computed(|properties: &Properties| {
            Ok(if properties.get("metadata").is_some() { MetadataAccess::Off } else { MetadataAccess::TokenRequired })
        });
        settings.master_address = template("{master:-}");
        settings
    }

    const VALUES: &[(&str, &[&str])] = &[
        ("image", &["ami-1", "ami-2", "ssm:/a", "newest", "newest of another", "newest by location"]),
        ("template", &["", "a"]),
        ("place", &["zone", "subnet", "spot", ""]),
        ("offer", &["b", "a@x-1", "b:spot"]),
        ("subnet", &["", "a"]),
        ("key", &["", "a b", "a\" b"]),
        ("group", &["b", "c"]),
        ("placement", &["", "a"]),
        ("tenancy", &["", "host"]),
        ("profile", &["", "a"]),
        ("data", &["", "hunter2", "hunter2b"]),
        ("size", &["1", "2"]),
        ("volume", &["", "vol-1"]),
        ("ip", &["", "1.2.3.4"]),
        ("tag", &["", "a"]),
        ("metadata", &["no"]),
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
        let mut settings = Settings::new();
        settings.image = Some(template("{image}"));
        settings.offers = vec![template("{type:-c7i.large:spot}")];
        settings.user_data = "password".into();
        let properties: Properties = [("image", "ami-1"), ("unused", "x")].into_iter().collect();
        let kind = settings.kind(&settings.render(&properties).ok().unwrap());
        assert_eq!(&**kind.name().unwrap(), "image=\"ami-1\" offer=\"c7i.large:spot\"");
    }
}
