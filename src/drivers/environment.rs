//! What a program is told: the variables of its environment, and the file that can hold the secret instead of one.
//!
//! Which program is run, and when, is decided by the driver.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::kinds::KindName;
use super::variables::{DIRECTORY, KEY_VARIABLE, MASTER, PROPERTY, SECRET, SECRET_FILE, attempt, properties};
use crate::{Kind, Properties, Secret, StartError, StartRequest, StopError};

/// The other variables. A program sees those that it is told about, never those of the master's own environment: that
/// may be an instance of a latent worker itself.
const OTHERS: &[&str] = &[
    "LATENT_WORKER_NAME",
    SECRET,
    SECRET_FILE,
    MASTER,
    DIRECTORY,
    KEY_VARIABLE,
    "LATENT_WORKER_EPOCH",
    "LATENT_WORKER_OWNER",
    "LATENT_WORKER_INSTANCE",
    "LATENT_WORKER_FAST",
];

/// What all programs of one attempt are told.
pub(super) struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// With the secret as a variable; or in a file that is made in the directory.
    ///
    /// An error when the properties of the build cannot be told as variables, which is the build's own fault, and when
    /// the file cannot be made.
    pub(super) fn new(
        start: &StartRequest<'_>,
        secret_files: Option<&Path>,
    ) -> Result<(Self, Option<SecretFile>), StartError> {
        let mut environment = Self(Vec::new());
        environment.extend(properties(&start.properties()).map_err(StartError::cannot)?);
        let file = secret_files.map(|directory| SecretFile::create(directory, start.key(), start.secret()));
        let file = file
            .transpose()
            .map_err(|error| StartError::infrastructure(format!("cannot write the file for the secret: {error}")))?;
        environment.extend(attempt(start.worker(), start.epoch(), start.key(), start.owner()));
        match &file {
            None => environment.set(SECRET, start.secret().expose()),
            Some(file) => environment.set(SECRET_FILE, file.path()),
        }
        if let Some(address) = start.agent_address() {
            environment.set(MASTER, address);
        }
        Ok((environment, file))
    }

    /// What is known of an attempt that has been left behind. The secret, the address and the properties of the build
    /// are not: they are in no journal.
    #[cfg(feature = "command")]
    pub(super) fn of_leftover(leftover: &crate::Leftover) -> Self {
        let mut environment = Self(Vec::new());
        environment.extend(attempt(leftover.worker(), leftover.epoch(), leftover.key(), leftover.owner()));
        environment
    }

    fn extend(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        self.0.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
    }

    fn set(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.0.push((name.into(), value.as_ref().to_owned()));
    }

    /// Tells the program this and `more`. Everything else it inherits.
    pub(super) fn apply(&self, prepared: &mut std::process::Command, more: &[(&str, &OsStr)]) {
        OTHERS.iter().for_each(|name| _ = prepared.env_remove(name));
        let inherited = env::vars_os().map(|(name, _)| name);
        inherited.filter(|name| name.as_bytes().starts_with(PROPERTY.as_bytes())).for_each(|name| {
            prepared.env_remove(name);
        });
        prepared.envs(self.0.iter().map(|(name, value)| (name, value)));
        prepared.envs(more.iter().copied());
    }
}

/// The kind of a build: its values of the properties that make a difference.
///
/// An error when its properties cannot be told as variables: no instance can be started for it then.
pub(super) fn kind_by(names: &[String], of: &Properties) -> Result<Kind, String> {
    properties(of)?;
    let mut kind = KindName::default();
    for name in names {
        match of.get(name) {
            Some(value) => kind.show(name, &value),
            None => kind.show(name, &format_args!("none")),
        }
    }
    Ok(kind.kind())
}

/// The directory in which files with secrets are made: the usual one for what is temporary.
pub(super) fn secret_files() -> PathBuf {
    let directory = env::temp_dir();
    std::path::absolute(&directory).unwrap_or(directory)
}

/// A file that holds the secret of one attempt, in a directory that nobody else can enter. Removed when dropped.
pub(super) struct SecretFile {
    path: PathBuf,
    removed: bool,
}

impl SecretFile {
    /// The key is unique and cannot be guessed, so that nobody can have made the directory before.
    fn create(parent: &Path, key: &str, secret: &Secret) -> io::Result<Self> {
        let path = Self::path_of(parent, key);
        fs::DirBuilder::new().mode(0o700).create(path.parent().unwrap_or(parent))?;
        // From here on the drop removes what there is.
        let file = Self { path, removed: false };
        let mut opened = fs::File::options().write(true).create_new(true).mode(0o600).open(&file.path)?;
        opened.write_all(secret.expose().as_bytes())?;
        Ok(file)
    }

    fn path_of(parent: &Path, key: &str) -> PathBuf {
        parent.join(format!("latent-worker-{key}")).join("secret")
    }

    /// The one that a dead master has made for this attempt, if it is there.
    pub(super) fn left_behind(parent: &Path, key: &str) -> Self {
        Self { path: Self::path_of(parent, key), removed: false }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file and its directory. What is gone already counts as removed.
    pub(super) fn remove(mut self) -> Result<(), StopError> {
        self.try_remove().map_err(|error| StopError::new(format!("cannot remove the file with the secret: {error}")))
    }

    fn try_remove(&mut self) -> io::Result<()> {
        self.removed = true;
        gone(fs::remove_file(&self.path))?;
        self.path.parent().map_or(Ok(()), |directory| gone(fs::remove_dir(directory)))
    }
}

impl Drop for SecretFile {
    /// For a start that failed before it had an instance. The stop tries again, and reports an error if that fails.
    fn drop(&mut self) {
        if !self.removed {
            let _ = self.try_remove();
        }
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [Option<&str>; 6] = [None, Some(""), Some("none"), Some("a"), Some("a\" b=\"a"), Some("a b=none")];

    #[test]
    fn w11_builds_are_of_one_kind_exactly_when_what_makes_a_difference_is_equal() {
        let names = ["a".to_owned(), "b".to_owned()];
        let mut all = Vec::new();
        for (a, b, c) in
            VALUES.iter().flat_map(|a| VALUES.map(|b| (*a, b))).flat_map(|(a, b)| [(a, b, "1"), (a, b, "2")])
        {
            let given = [("a", a), ("b", b), ("c", Some(c))];
            let properties: Properties = given.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect();
            all.push(((a, b), kind_by(&names, &properties).unwrap()));
        }
        for (values, kind) in &all {
            assert!(all.iter().all(|(others, other)| (others == values) == (other == kind)), "{kind:?}");
        }
        let kind = kind_by(&names, &[("b", "x"), ("c", "y")].into_iter().collect()).unwrap();
        assert_eq!(&**kind.name().unwrap(), "a=none b=\"x\"");
    }

    #[test]
    fn b3_a_build_whose_properties_cannot_be_told_has_no_kind() {
        let error = kind_by(&[], &[("a-b", "1"), ("a.b", "1")].into_iter().collect()).unwrap_err();
        assert!(error.contains("would both be the variable"), "{error}");
    }
}
