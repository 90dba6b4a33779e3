//! The variables of the environment in which an agent, or a program that makes one, is told what it belongs to.
//!
//! Plain names and values; how they get there is decided by the driver.

use crate::{Epoch, Properties};

/// The variable that everything of an attempt has, and nothing else that did not inherit it.
pub(super) const KEY_VARIABLE: &str = "LATENT_WORKER_KEY";
pub(super) const PROPERTY: &str = "LATENT_WORKER_PROPERTY_";
pub(super) const SECRET: &str = "LATENT_WORKER_SECRET";
pub(super) const SECRET_FILE: &str = "LATENT_WORKER_SECRET_FILE";
pub(super) const MASTER: &str = "LATENT_WORKER_MASTER";
#[cfg(any(feature = "command", feature = "process"))]
pub(super) const DIRECTORY: &str = "LATENT_WORKER_DIRECTORY";

/// What names an attempt.
pub(super) fn attempt(worker: &str, epoch: Epoch, key: &str, owner: &str) -> [(String, String); 4] {
    [
        ("LATENT_WORKER_NAME".into(), worker.into()),
        (KEY_VARIABLE.into(), key.into()),
        ("LATENT_WORKER_EPOCH".into(), epoch.to_string()),
        ("LATENT_WORKER_OWNER".into(), owner.into()),
    ]
}

/// The name of a property as (a part of) the name of a variable.
fn variable(property: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    property.chars().map(letter).collect()
}

/// The properties of a build, one variable each. An error when they cannot be told so, which is the build's own fault.
pub(super) fn properties(properties: &Properties) -> Result<Vec<(String, String)>, String> {
    let mut variables: Vec<(String, &str, &str)> =
        properties.iter().map(|(name, value)| (variable(name), name, value)).collect();
    variables.sort_unstable();
    // Left to chance, one of them would be lost, and the instance would be of the wrong kind.
    let mut neighbours = variables.iter().zip(variables.iter().skip(1));
    if let Some(((variable, one, _), (_, other, _))) = neighbours.find(|(a, b)| a.0 == b.0) {
        return Err(format!("the properties {one:?} and {other:?} would both be the variable {PROPERTY}{variable}"));
    }
    if let Some((_, name, _)) = variables.iter().find(|(_, _, value)| value.contains('\0')) {
        return Err(format!("the property {name:?} has a NUL character in it, which no variable can have"));
    }
    Ok(variables.into_iter().map(|(variable, _, value)| (format!("{PROPERTY}{variable}"), value.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(list: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        properties(&list.iter().copied().collect())
    }

    #[test]
    fn names_of_properties_become_names_of_variables() {
        let seen = told(&[("image", "rust"), ("os.version-2", "ü"), ("grün", "a b\nc"), ("", "")]).unwrap();
        let expected = [("", ""), ("gr_n", "a b\nc"), ("image", "rust"), ("os_version_2", "ü")];
        assert_eq!(seen, expected.map(|(name, value)| (format!("{PROPERTY}{name}"), value.into())));
    }

    #[test]
    fn properties_that_cannot_be_told_are_the_builds_own_fault() {
        let error = told(&[("a-b", "1"), ("z", ""), ("a.b", "1")]).unwrap_err();
        let expected = "the properties \"a-b\" and \"a.b\" would both be the variable LATENT_WORKER_PROPERTY_a_b";
        assert_eq!(error, expected);
        let error = told(&[("a", "x\0y")]).unwrap_err();
        assert!(error.starts_with("the property \"a\" has a NUL"), "{error}");
    }
}
