//! What this process finds around it: variables and files. Tests have their own.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, RootCerts};

use super::profile::{Profiles, SharedFile};
use crate::drivers::given::{check_text, check_word};
use crate::pem::certificates;

pub(super) trait Surroundings: Send + Sync + fmt::Debug {
    /// Returns a variable as it is, unchecked.
    fn raw_variable(&self, name: &str) -> Option<OsString>;
    /// The home directory of the user.
    fn home(&self) -> Option<PathBuf>;
    fn file(&self, path: &Path) -> io::Result<String>;
}

#[derive(Debug)]
pub(super) struct System;

/// Nobody has more in a file of settings, or in one with a token.
const LARGEST_FILE: u64 = 4 << 20;

impl Surroundings for System {
    fn raw_variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn home(&self) -> Option<PathBuf> {
        // An empty variable would mean the current directory.
        std::env::home_dir().filter(|home| !home.as_os_str().is_empty())
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        use io::Read;
        let mut text = String::new();
        std::fs::File::open(path)?.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > LARGEST_FILE {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("the file is larger than {} MiB", LARGEST_FILE >> 20),
            ));
        }
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
    /// A variable that is set and not empty.
    ///
    /// # Errors
    ///
    /// Returns an error if the value is invalid: it would otherwise be skipped, or fail much later with a misleading
    /// error. The error contains the name of the variable, and not the value.
    pub(super) fn variable(&self, name: &str) -> Result<Option<String>, String> {
        let Some(value) = self.raw_variable(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        let invalid = |problem| format!("the environment variable {name} {problem}");
        let value = value.into_string().map_err(|_| invalid("is not UTF-8"))?;
        check_text(&value).map_err(invalid)?;
        Ok(Some(value))
    }

    /// A variable that is sent in a header, or is part of an address; see [`variable`](Self::variable).
    pub(super) fn word(&self, name: &str) -> Result<Option<String>, String> {
        let value = self.variable(name)?;
        match value.as_deref().map(check_word) {
            Some(Err(problem)) => Err(format!("the environment variable {name} {problem}")),
            _ => Ok(value),
        }
    }

    /// Rejects an invalid proxy: the HTTP library would ignore it and connect directly to the server.
    pub(super) fn check_proxies(&self) -> Result<(), String> {
        // The order is that of the library.
        for name in ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
            if let Some(proxy) = self.word(name)? {
                let advice = "use http://[user:password@]host[:port]";
                ureq::Proxy::new(&proxy)
                    .map_err(|_| format!("the environment variable {name} is not the address of a proxy: {advice}"))?;
            }
        }
        for name in ["NO_PROXY", "no_proxy"] {
            self.variable(name)?;
        }
        Ok(())
    }

    /// Whom to trust: those of `AWS_CA_BUNDLE`; otherwise Mozilla's, which are built in.
    pub(super) fn roots(&self) -> Result<RootCerts, String> {
        let Some(path) = self.variable("AWS_CA_BUNDLE")? else { return Ok(RootCerts::WebPki) };
        roots_of(Path::new(&path)).map_err(|why| format!("AWS_CA_BUNDLE: {why}"))
    }

    /// The profile that the environment names.
    pub(super) fn named_profile(&self) -> Result<Option<String>, String> {
        // Some tools read only one of the variables; botocore reads both.
        match (self.variable("AWS_PROFILE")?, self.variable("AWS_DEFAULT_PROFILE")?) {
            (Some(one), Some(other)) if one != other => {
                Err("AWS_PROFILE and AWS_DEFAULT_PROFILE name different profiles: set only one of them".into())
            }
            (one, other) => Ok(one.or(other)),
        }
    }

    /// Returns a setting of this profile, or of the profile that the environment names, and the name of the profile.
    pub(super) fn setting(&self, profile: Option<&str>, name: &str) -> Result<Option<(String, String)>, String> {
        let profile = match profile {
            Some(profile) => profile.to_owned(),
            None => self.named_profile()?.unwrap_or_else(|| "default".into()),
        };
        let value = self.profiles()?.get(&profile, name).map(str::to_owned);
        Ok(value.map(|value| (profile, value)))
    }

    /// Returns the profiles of both files. A missing file counts as empty. Returns an error if a file cannot be read or
    /// parsed.
    pub(super) fn profiles(&self) -> Result<Profiles, String> {
        let config = self.shared_file("AWS_CONFIG_FILE", "config")?;
        Profiles::of_files(&config, &self.shared_file("AWS_SHARED_CREDENTIALS_FILE", "credentials")?)
    }

    fn shared_file(&self, variable: &str, name: &str) -> Result<SharedFile, String> {
        let path = match self.variable(variable)? {
            Some(path) => self.expanded(&path).map_err(|why| format!("the environment variable {variable} {why}"))?,
            None => match self.home() {
                Some(home) => home.join(".aws").join(name),
                None => return Ok(SharedFile { path: format!("~/.aws/{name}"), text: String::new() }),
            },
        };
        let shown = path.display().to_string();
        match self.file(&path) {
            Ok(text) => Ok(SharedFile { path: shown, text }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(SharedFile { path: shown, text: String::new() })
            }
            Err(error) => Err(format!("cannot read {shown}: {error}")),
        }
    }

    /// Replaces `~` as the provider's own tools do: only a shell would replace it in a variable.
    fn expanded(&self, path: &str) -> Result<PathBuf, &'static str> {
        match path.strip_prefix('~') {
            _ if path.contains('$') => Err("contains a dollar sign: variables in a path are not supported"),
            None => Ok(path.into()),
            Some(rest) => match (rest.strip_prefix('/').or(rest.is_empty().then_some("")), self.home()) {
                (Some(rest), Some(home)) => Ok(home.join(rest)),
                (Some(_), None) => Err("begins with ~, and the home directory is unknown"),
                (None, _) => Err("names the home directory of another user: write the whole path"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::support::Around;
    use super::*;

    #[test]
    fn a1_a_proxy_that_cannot_be_used_is_told_by_the_variable() {
        let check = |name: &str, value: &str| {
            let around = Around::default().variable(name, value);
            (&around as &dyn Surroundings).check_proxies()
        };
        for good in ["http://h:1", "h:1", "http://robot:hunter2@h:1", ""] {
            check("HTTPS_PROXY", good).unwrap();
        }
        for bad in ["http://robot:hunter2@h:1\n", "ftp://robot:hunter2@h", "http://robot:hunter2@", "hunter2 hunter2"] {
            let error = check("https_proxy", bad).unwrap_err();
            assert!(error.contains("the environment variable https_proxy "), "{error}");
            crate::secrecy::assert_reveals_nothing(&error, b"hunter2");
        }
        assert!(check("NO_PROXY", "localhost\n").unwrap_err().contains("NO_PROXY"));
    }

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
