//! The settings of machines of EC2, of which there are too many for a structure of C: read from JSON.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::boundary::{Failure, Result};
use crate::{Ami, AtStop, AwsCredentials, BlockDevice, BoxError, Ec2LatentWorker, Offer, Secret, Setting};

/// What is left of the settings: each is taken out once, and nothing may remain.
struct Settings(Map<String, Value>);

impl Settings {
    fn read(json: &str) -> Result<Self> {
        match serde_json::from_str(json) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(Failure::argument("settings: not a JSON object")),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                Err(Failure::argument(format!("settings: no JSON at line {line} column {column}")))
            }
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>> {
        self.0.remove(name).map(|value| as_text(name, value)).transpose()
    }

    fn template<T: FromStr<Err: Into<BoxError>>>(&mut self, name: &str) -> Result<Option<Setting<T>>> {
        self.text(name)?.map(|text| template(name, &text)).transpose()
    }

    fn texts(&mut self, name: &str) -> Result<Vec<String>> {
        match self.0.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.into_iter().map(|item| as_text(name, item)).collect(),
            Some(_) => Err(Failure::argument(format!("{name}: not a list of texts"))),
        }
    }

    fn pairs(&mut self, name: &str) -> Result<Vec<(String, String)>> {
        match self.0.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Object(map)) => map.into_iter().map(|(key, value)| Ok((key, as_text(name, value)?))).collect(),
            Some(_) => Err(Failure::argument(format!("{name}: not an object of texts"))),
        }
    }

    fn end(self) -> Result<()> {
        let unknown: Vec<_> = self.0.into_iter().map(|(name, _)| name).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Failure::argument(format!("settings: there is no {}", unknown.join(", "))))
    }
}

/// The value is not in the error: it may be a password.
fn as_text(name: &str, value: Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(Failure::argument(format!("{name}: not a text"))),
    }
}

/// A template that becomes whatever the setting is.
fn template<T: FromStr<Err: Into<BoxError>>>(name: &str, text: &str) -> Result<Setting<T>> {
    Setting::template(text).map_err(|error| Failure::argument(format!("{name}: {error}")))
}

pub(super) fn driver_from(json: &str) -> Result<Ec2LatentWorker> {
    let mut settings = Settings::read(json)?;
    let mut builder = Ec2LatentWorker::builder();
    if let Some(image) = settings.template::<Ami>("image")? {
        builder = builder.image(image);
    }
    for text in settings.texts("offers")? {
        builder = builder.offer(template::<Offer>("offers", &text)?);
    }
    let groups = settings.texts("security_groups")?;
    if !groups.is_empty() {
        builder = builder.security_groups(groups);
    }
    for (device, text) in settings.pairs("volumes")? {
        builder = builder.volume(device, template::<String>("volumes", &text)?);
    }
    for (key, text) in settings.pairs("tags")? {
        builder = builder.tag(key, template::<String>("tags", &text)?);
    }
    for (device, size) in settings.pairs("disks")? {
        let size = size.parse().map_err(|_| Failure::argument(format!("disks: {size:?} is no number of GiB")))?;
        builder = builder.block_device(BlockDevice::new(device).size(size));
    }
    macro_rules! templates {
        ($($name:ident),*) => { $(
            if let Some(text) = settings.template::<String>(stringify!($name))? {
                builder = builder.$name(text);
            }
        )* };
    }
    templates!(launch_template, subnet, key_pair, placement_group, tenancy, profile, elastic_ip, master_address);
    macro_rules! texts {
        ($($name:ident),*) => { $(
            if let Some(text) = settings.text(stringify!($name))? {
                builder = builder.$name(text);
            }
        )* };
    }
    // A script has braces of its own, and blanks that are filled in: it is no template.
    texts!(user_data, secret_in_parameter, region, endpoint, aws_profile);
    match settings.text("at_stop")?.as_deref() {
        None | Some("terminate") => {}
        Some("stop") => builder = builder.at_stop(AtStop::Stop),
        Some("hibernate") => builder = builder.at_stop(AtStop::Hibernate),
        Some(_) => return Err(Failure::argument("at_stop: one of terminate, stop and hibernate")),
    }
    match (settings.text("access_key_id")?, settings.text("secret_access_key")?) {
        (Some(id), Some(secret)) => {
            let credentials = AwsCredentials::new(id, Secret::new(secret));
            builder = builder.credentials(match settings.text("session_token")? {
                Some(token) => credentials.with_session_token(Secret::new(token)),
                None => credentials,
            });
        }
        (None, None) => {}
        _ => return Err(Failure::argument("settings: access_key_id and secret_access_key belong together")),
    }
    settings.end()?;
    builder.build().map_err(|error| Failure::argument(format!("settings: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_nothing_is_misspelt_in_silence() {
        let all = r#"{"region": "eu-west-1", "image": "{image:-ami-12345678}", "offers": ["{type:-t3.small}:spot", "t3.small"],
            "security_groups": ["sg-1"], "tags": {"team": "{team:-a}"}, "volumes": {"/dev/sdf": "vol-1"}, "disks": {"/dev/xvda": "20"},
            "user_data": "{ @LATENT_WORKER_NAME@ }", "at_stop": "stop", "access_key_id": "A", "secret_access_key": "hush"}"#;
        let driver = driver_from(all).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(!format!("{driver:?}").contains("hush"));
        for (bad, expected) in [
            ("[]", "not a JSON object"),
            ("{", "no JSON at line 1"),
            (r#"{"immage": "ami-1"}"#, "immage"),
            (r#"{"image": 7}"#, "image: not a text"),
            (r#"{"offers": "t3.small"}"#, "offers: not a list"),
            (r#"{"at_stop": "never"}"#, "at_stop"),
            (r#"{"access_key_id": "A"}"#, "belong together"),
            (r#"{"secret_access_key": ["hush"]}"#, "not a text"),
            (r#"{"region": "a b", "image": "ami-12345678", "offers": ["t3.small"]}"#, "region"),
        ] {
            let failure = driver_from(bad).unwrap_err().to_string();
            assert!(failure.contains(expected) && !failure.contains("hush"), "{bad}: {failure}");
        }
    }
}
