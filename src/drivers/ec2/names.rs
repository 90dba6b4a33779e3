//! How what an attempt makes is known to the provider: tags and tokens that are its alone; and what its start records.
//!
//! Pure.

use std::fmt;

pub(super) use crate::drivers::identity::Identity;

const PREFIX: &str = "latent-worker.";
const OWNER: &str = "latent-worker.owner";
const WORKER: &str = "latent-worker.worker";
const ATTEMPT: &str = "latent-worker.attempt";
const EPOCH: &str = "latent-worker.epoch";
const NAME: &str = "Name";
/// What a machine that may be kept was made with.
pub(super) const SETTINGS: &str = "latent-worker.settings";

/// Of a client token; the key of the attempt and the number of the offer follow.
const TOKEN: &str = "latent-worker-";
/// "Tag value must be … 256 characters or fewer" (Amazon EC2 User Guide, tag restrictions).
const LONGEST_VALUE: usize = 256;
/// Of a key of a tag (the same place).
const LONGEST_KEY: usize = 128;

impl Identity {
    /// The tags of all that the attempt makes.
    pub(super) fn tags(&self) -> [(&'static str, String); 5] {
        [
            (NAME, value(&format!("latent-worker {}", self.worker))),
            (OWNER, self.owner.clone()),
            (WORKER, value(&self.worker)),
            (ATTEMPT, self.key.clone()),
            (EPOCH, self.epoch.to_string()),
        ]
    }

    /// Those of them that change when a machine goes over from one attempt to the next.
    pub(super) fn attempt_tags(&self) -> [(&'static str, String); 2] {
        [(ATTEMPT, self.key.clone()), (EPOCH, self.epoch.to_string())]
    }

    /// The filters by which what the attempt has made is looked for. Owner and key are hexadecimal digits, so that none of the
    /// characters is a wildcard.
    pub(super) fn filters(&self) -> [(String, &str); 2] {
        [(format!("tag:{OWNER}"), &self.owner), (format!("tag:{ATTEMPT}"), &self.key)]
    }

    /// The filters by which a machine is looked for that this worker has stopped and kept. The name of a worker may have
    /// wildcards in it, so that what is found must be looked at: see [`is_of_worker`](Self::is_of_worker).
    pub(super) fn worker_filters(&self) -> [(String, String); 2] {
        [(format!("tag:{OWNER}"), self.owner.clone()), (format!("tag:{WORKER}"), value(&self.worker))]
    }

    /// Whether what has these tags was made by this attempt.
    pub(super) fn is_ours<'a>(&self, tag: impl Fn(&str) -> Option<&'a str>) -> bool {
        tag(OWNER) == Some(&self.owner) && tag(ATTEMPT) == Some(&self.key)
    }

    /// Whether what has these tags was made by some attempt of this worker of this owner.
    pub(super) fn is_of_worker<'a>(&self, tag: impl Fn(&str) -> Option<&'a str>) -> bool {
        tag(OWNER) == Some(&self.owner) && tag(WORKER) == Some(&value(&self.worker))
    }

    /// Whether what has these tags has gone over to another attempt of this owner.
    pub(super) fn is_of_another_attempt<'a>(&self, tag: impl Fn(&str) -> Option<&'a str>) -> bool {
        tag(OWNER) == Some(&self.owner) && tag(ATTEMPT).is_some_and(|attempt| attempt != self.key)
    }

    /// The tags that prove that something is this attempt's, for people.
    pub(super) fn proof(&self) -> String {
        format!("{OWNER}={}, {ATTEMPT}={}", self.owner, self.key)
    }

    /// What makes the launch of one offer happen once, however often it is asked for; at most 64 ASCII characters.
    pub(super) fn token(&self, offer: usize) -> String {
        format!("{TOKEN}{}-{offer}", self.key)
    }

    /// The name of the parameter that holds the secret.
    pub(super) fn parameter(&self, prefix: &str) -> String {
        format!("{prefix}/{}/{}", self.owner, self.key)
    }
}

/// As long as a tag may be.
fn value(text: &str) -> String {
    text.chars().take(LONGEST_VALUE).collect()
}

/// Whether a tag can be set by a user.
pub(super) fn tag(key: &str) -> Result<(), String> {
    if key.is_empty() || key.chars().count() > LONGEST_KEY {
        return Err(format!("the key of a tag has 1 to {LONGEST_KEY} characters"));
    }
    if key.starts_with(PREFIX) || key.to_lowercase().starts_with("aws:") {
        return Err(format!("tags that begin with {PREFIX:?} are the driver's own, and \"aws:\" is the provider's"));
    }
    Ok(())
}

/// The value of a tag of a user.
pub(super) fn tag_value(text: String) -> Result<String, String> {
    if text.chars().count() > LONGEST_VALUE {
        return Err(format!("the value of a tag has at most {LONGEST_VALUE} characters"));
    }
    Ok(text)
}

/// What a start records, so that it is found whatever happens then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Recorded {
    /// A launch with this token may be carried out from now on.
    Launch(String),
    /// The machine that the last launch has made, or that was there already.
    Machine(String),
    /// A parameter of this name may be there from now on.
    Parameter(String),
}

impl Recorded {
    pub(super) fn parse(id: &str) -> Option<Self> {
        let id = id.to_owned();
        if id.starts_with(TOKEN) {
            Some(Self::Launch(id))
        } else if id.starts_with("i-") {
            Some(Self::Machine(id))
        } else if id.starts_with('/') {
            Some(Self::Parameter(id))
        } else {
            None
        }
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launch(id) | Self::Machine(id) | Self::Parameter(id) => f.write_str(id),
        }
    }
}

/// What an attempt has left to look for, as far as its start has recorded it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Traces {
    pub(super) machines: Vec<String>,
    pub(super) parameters: Vec<String>,
    /// A launch was asked for, and nobody has heard what came of it.
    pub(super) unanswered: bool,
}

impl Traces {
    pub(super) fn add(&mut self, recorded: Recorded) {
        match recorded {
            Recorded::Launch(_) => self.unanswered = true,
            Recorded::Machine(id) => {
                self.unanswered = false;
                self.machines.push(id);
            }
            Recorded::Parameter(name) => self.parameters.push(name),
        }
    }

    pub(super) fn of_ids<'a>(ids: impl Iterator<Item = &'a str>) -> Self {
        let mut traces = Self::default();
        ids.filter_map(Recorded::parse).for_each(|recorded| traces.add(recorded));
        traces
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Epoch;

    fn identity(owner: &str, key: &str) -> Identity {
        Identity::new("a worker", owner, key, Epoch::default())
    }

    #[test]
    fn d4_a_token_is_that_of_one_offer_of_one_attempt() {
        let (key, other) = ("f".repeat(32), "e".repeat(32));
        let token = identity("owner", &key).token(12);
        assert_eq!(token, format!("latent-worker-{key}-12"));
        assert!(token.len() <= 64 && token.is_ascii());
        assert_ne!(token, identity("owner", &key).token(1));
        assert_ne!(token, identity("owner", &other).token(12));
    }

    #[test]
    fn j4_only_exact_tags_make_a_machine_ours() {
        let ours = identity("owner", "key");
        let is_ours = |list: &[(&str, &str)]| {
            let list: Vec<(String, String)> = list.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
            ours.is_ours(|name| list.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()))
        };
        assert!(is_ours(&[(OWNER, "owner"), (ATTEMPT, "key"), ("more", "")]));
        for others in [
            &[(OWNER, "owner")] as &[_],
            &[(ATTEMPT, "key")],
            &[],
            &[(OWNER, "owner"), (ATTEMPT, "key2")],
            &[(OWNER, "owner2"), (ATTEMPT, "key")],
            &[(OWNER, "owner"), (ATTEMPT, "ke")],
            &[(OWNER, "key"), (ATTEMPT, "owner")],
        ] {
            assert!(!is_ours(others), "{others:?}");
        }
    }

    #[test]
    fn long_names_of_workers_are_cut_to_what_a_tag_can_hold() {
        let long = Identity::new(&"ü".repeat(300), "owner", "key", Epoch::default());
        assert!(long.tags().iter().all(|(_, value)| value.chars().count() <= LONGEST_VALUE));
        let tags = long.tags();
        assert!(long.is_of_worker(|name| tags.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())));
    }

    #[test]
    fn tags_of_the_driver_and_of_the_provider_are_not_for_users() {
        for name in ["", "latent-worker.owner", "aws:x", "AWS:x", &"a".repeat(129)] {
            assert!(tag(name).is_err(), "{name}");
        }
        assert_eq!((tag("team"), tag("Name")), (Ok(()), Ok(())));
        assert!(tag_value("ü".repeat(257)).is_err() && tag_value("ü".repeat(256)).is_ok());
    }

    #[test]
    fn j2_a_launch_is_unanswered_until_its_machine_is_known() {
        let identity = identity("owner", "key");
        let (first, second) = (identity.token(0), identity.token(1));
        let traces = |ids: &[&str]| Traces::of_ids(ids.iter().copied());
        assert!(traces(&[]).is_empty() && traces(&["of another driver"]).is_empty());
        assert!(traces(&[&first]).unanswered);
        assert!(traces(&[&first, &second]).unanswered);
        let done = traces(&["/p/owner/key", &first, &second, "i-1"]);
        let expected =
            Traces { machines: vec!["i-1".into()], parameters: vec!["/p/owner/key".into()], unanswered: false };
        assert_eq!(done, expected);
        // The machine of one offer came to nothing, and the next one was asked for.
        assert!(traces(&[&first, "i-1", &second]).unanswered);
        for id in [first.as_str(), "i-1", "/p"] {
            assert_eq!(Recorded::parse(id).unwrap().to_string(), id);
        }
    }
}
