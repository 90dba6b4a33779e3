//! What this process finds around it: variables and files. Tests have their own.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, RootCerts};

use super::profile::Profiles;
use crate::pem::certificates;

pub(super) trait Surroundings: Send + Sync + fmt::Debug {
    /// A variable that is not empty.
    fn variable(&self, name: &str) -> Option<String>;
    fn file(&self, path: &Path) -> io::Result<String>;
}

#[derive(Debug)]
pub(super) struct System;

/// Nobody has more in a file of settings, or in one with a token.
const LARGEST_FILE: u64 = 4 << 20;

impl Surroundings for System {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        use io::Read;
        let mut text = String::new();
        std::fs::File::open(path)?.take(LARGEST_FILE).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Trusts the certificates of a file.
pub(super) fn roots_of(path: &Path) -> Result<RootCerts, String> {
    let certificates = certificates(path).map_err(|error| error.to_string())?;
    let owned = certificates.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
    Ok(RootCerts::Specific(Arc::new(owned.collect())))
}

impl dyn Surroundings + '_ {
    /// Whom to trust: those of `AWS_CA_BUNDLE`; otherwise Mozilla's, which are built in.
    pub(super) fn roots(&self) -> Result<RootCerts, String> {
        let Some(path) = self.variable("AWS_CA_BUNDLE") else { return Ok(RootCerts::WebPki) };
        roots_of(Path::new(&path)).map_err(|why| format!("AWS_CA_BUNDLE: {why}"))
    }

    /// The profile that is meant when none is named.
    pub(super) fn profile(&self) -> String {
        self.variable("AWS_PROFILE").unwrap_or_else(|| "default".into())
    }

    /// The profiles of both files; one that is not there is empty. An error when one cannot be read.
    pub(super) fn profiles(&self) -> io::Result<Profiles> {
        let text = |variable, name| {
            let path = match self.variable(variable) {
                Some(path) => PathBuf::from(path),
                None => match self.variable("HOME").or_else(|| self.variable("USERPROFILE")) {
                    Some(home) => Path::new(&home).join(".aws").join(name),
                    None => return Ok(String::new()),
                },
            };
            match self.file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
                text => text,
            }
        };
        let config = text("AWS_CONFIG_FILE", "config")?;
        Ok(Profiles::of_files(&config, &text("AWS_SHARED_CREDENTIALS_FILE", "credentials")?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::support::Around;
    use super::*;

    #[test]
    fn certificates_that_cannot_be_used_are_named() {
        let roots = |around: Around| (&around as &dyn Surroundings).roots();
        for (path, problem) in
            [("/no/bundle", "No such file"), (concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "no cert")]
        {
            let error = roots(Around::default().variable("AWS_CA_BUNDLE", path)).unwrap_err();
            assert!(error.starts_with("AWS_CA_BUNDLE: ") && error.contains(path) && error.contains(problem), "{error}");
        }
        assert!(matches!(roots(Around::default()), Ok(RootCerts::WebPki)));
    }
}
