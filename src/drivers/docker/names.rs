//! How the containers of an attempt are known to the engine: a name and labels that are theirs alone; and which names
//! of labels and variables are not for others.
//!
//! Pure.

use std::collections::BTreeMap;

pub(super) use crate::drivers::identity::Identity;

const PREFIX: &str = "latent-worker.";
const OWNER: &str = "latent-worker.owner";
const KEY: &str = "latent-worker.key";
const WORKER: &str = "latent-worker.worker";
const EPOCH: &str = "latent-worker.epoch";

/// Of the owner's digits in a name: with all of them it would be no host name. The labels have all.
const OWNER_DIGITS: usize = 12;

impl Identity {
    /// The name of the container: 59 characters, also valid as a host name in the networks of the engine.
    pub(super) fn container(&self) -> String {
        let owner: String = self.owner.chars().take(OWNER_DIGITS).collect();
        format!("latent-worker-{owner}-{}", self.key)
    }

    /// The labels of the container.
    pub(super) fn labels(&self) -> [(&'static str, String); 4] {
        [
            (OWNER, self.owner.clone()),
            (WORKER, self.worker.clone()),
            (KEY, self.key.clone()),
            (EPOCH, self.epoch.to_string()),
        ]
    }

    /// The labels by which its containers are looked for.
    pub(super) fn filter(&self) -> [(&'static str, &str); 2] {
        [(OWNER, &self.owner), (KEY, &self.key)]
    }

    /// Whether a container with these labels was made for this attempt: its name alone says nothing.
    pub(super) fn owns(&self, labels: &BTreeMap<String, String>) -> bool {
        self.filter().iter().all(|(name, value)| labels.get(*name).map(String::as_str) == Some(*value))
    }
}

/// Whether a label can be set by a user.
pub(super) fn label(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a label needs a name".into());
    }
    if name.starts_with(PREFIX) {
        return Err(format!("labels that begin with {PREFIX:?} are the driver's own"));
    }
    Ok(())
}

/// Whether a variable can be set by a user.
pub(super) fn variable(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("this is no name for a variable".into());
    }
    let ours = ["BUILDMASTER", "BUILDMASTER_PORT", "WORKERNAME", "WORKERPASS"];
    if ours.contains(&name) || name.starts_with("LATENT_WORKER_") {
        return Err("the driver sets this itself, for the agent".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Epoch;

    fn identity(owner: &str, key: &str) -> Identity {
        Identity::new("a worker", owner, key, Epoch::default())
    }

    #[test]
    fn names_are_valid_and_differ_by_attempt() {
        let (owner, key) = ("0123456789abcdef".repeat(2), "f".repeat(32));
        let name = identity(&owner, &key).container();
        assert_eq!(name, format!("latent-worker-0123456789ab-{key}"));
        assert!(name.len() <= 63);
        assert_ne!(name, identity(&owner, &"e".repeat(32)).container());
    }

    #[test]
    fn j4_only_exact_labels_make_a_container_ours() {
        let ours = identity("owner", "key");
        let labels = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert!(ours.owns(&labels(&[(OWNER, "owner"), (KEY, "key"), ("more", "")])));
        assert!(ours.owns(&ours.labels().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()));
        for others in [
            &[(OWNER, "owner")] as &[_],
            &[(KEY, "key")],
            &[],
            &[(OWNER, "owner"), (KEY, "key2")],
            &[(OWNER, "owner2"), (KEY, "key")],
            &[(OWNER, "owner"), (KEY, "ke")],
        ] {
            assert!(!ours.owns(&labels(others)), "{others:?}");
        }
    }
}
