//! The shared files `config` and `credentials` of the provider's command line: profiles, and what stands in them.
//!
//! Pure: it is given the text. As in "Shared config and credentials files" of the AWS SDKs and Tools Reference Guide.

use std::collections::BTreeMap;

/// The settings of each profile, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Profiles(BTreeMap<String, BTreeMap<String, String>>);

impl Profiles {
    /// Of `config`, where profiles but the default are called `[profile NAME]`, and of `credentials`, which wins.
    pub(super) fn of_files(config: &str, credentials: &str) -> Self {
        let mut profiles = Self::default();
        profiles.read(config, in_config);
        profiles.read(credentials, in_credentials);
        profiles
    }

    fn read(&mut self, text: &str, name_of: fn(&str) -> Option<&str>) {
        let mut current: Option<String> = None;
        for line in text.lines() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
                continue;
            }
            if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                current = name_of(section.0.trim()).map(str::to_owned);
                if let Some(name) = &current {
                    self.0.entry(name.clone()).or_default();
                }
                continue;
            }
            // What is indented belongs to a setting that has settings of its own, of services that are not used here.
            if line.starts_with([' ', '\t']) {
                continue;
            }
            if let (Some(name), Some((key, value))) = (&current, trimmed.split_once('=')) {
                let value = value.split(" #").next().unwrap_or_default();
                let settings = self.0.entry(name.clone()).or_default();
                settings.insert(key.trim().to_lowercase(), value.trim().to_owned());
            }
        }
    }

    pub(super) fn has(&self, profile: &str) -> bool {
        self.0.contains_key(profile)
    }

    /// A setting that is not empty.
    pub(super) fn get(&self, profile: &str, key: &str) -> Option<&str> {
        self.0.get(profile)?.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

fn in_config(section: &str) -> Option<&str> {
    match section.strip_prefix("profile ") {
        Some(name) => Some(name.trim()),
        None => (section == "default").then_some(section),
    }
}

fn in_credentials(section: &str) -> Option<&str> {
    Some(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_say_something_and_credentials_win() {
        let config = "[default]\nregion = eu-west-1\n# a comment\n\n[profile  ci ]\nrole_arn=arn:aws:iam::1:role/ci  # why\n\
                      source_profile = default\naws_access_key_id = OLD\ns3 =\n  max_concurrent_requests = 20\n[sso-session x]\nregion=no";
        let credentials =
            "[default]\naws_access_key_id = AKID\naws_secret_access_key = a=b#c\n[ci]\naws_access_key_id=NEW\n";
        let profiles = Profiles::of_files(config, credentials);
        assert_eq!(profiles.get("default", "region"), Some("eu-west-1"));
        assert_eq!(profiles.get("default", "aws_secret_access_key"), Some("a=b#c"));
        assert_eq!(profiles.get("ci", "role_arn"), Some("arn:aws:iam::1:role/ci"));
        assert_eq!(profiles.get("ci", "aws_access_key_id"), Some("NEW"));
        assert_eq!(profiles.get("ci", "max_concurrent_requests"), None);
        assert_eq!(profiles.get("ci", "s3"), None);
        assert!(profiles.has("ci") && !profiles.has("sso-session x") && !profiles.has("x"));
        assert_eq!(profiles.get("nobody", "region"), None);
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let profiles = Profiles::of_files("key = before any section\n[default\n[default]\nno sense\n=x\n", "");
        assert!(profiles.has("default"));
        assert_eq!(profiles.get("default", "key"), None);
    }
}
