//! Certificates and private keys from PEM files, for everything in this library that speaks TLS.
//!
//! Errors contain nothing that was read. The parser's own errors quote the text, and would quote a whole key that has
//! lost its line breaks.

#![cfg_attr(not(feature = "tls"), allow(dead_code, reason = "EC2 alone has no private key"))]

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The largest file that is read; the bundle of all public authorities has less than 1 MiB.
const LARGEST_FILE: u64 = 16 << 20;

/// Reads all certificates of a file, in the order of the file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let error = |problem| PemError { what: "the certificates", path: path.to_owned(), problem };
    let text = read(path).map_err(error)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found.map_err(|why| error(Problem::of(&why)))? {
        none if none.is_empty() => Err(error(Problem::Missing("certificate"))),
        certificates => Ok(certificates),
    }
}

/// Reads the first private key of a file, which must not be encrypted.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let error = |problem| PemError { what: "the private key", path: path.to_owned(), problem };
    let text = read(path).map_err(error)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|why| match why {
        pem::Error::NoItemsFound => error(Problem::Missing("unencrypted private key")),
        why => error(Problem::of(&why)),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut text));
    match read {
        Err(error) => Err(Problem::Unreadable(error)),
        Ok(_) if text.len() as u64 > LARGEST_FILE => Err(Problem::TooLarge),
        Ok(_) => Ok(text),
    }
}

/// Why a file with certificates or a key cannot be used. It names the file.
pub(crate) struct PemError {
    what: &'static str,
    path: PathBuf,
    problem: Problem,
}

enum Problem {
    Unreadable(io::Error),
    TooLarge,
    Missing(&'static str),
    NoBegin,
    NoEnd,
    NotBase64,
}

impl Problem {
    fn of(error: &pem::Error) -> Self {
        match error {
            pem::Error::MissingSectionEnd { .. } => Self::NoEnd,
            pem::Error::Base64Decode(_) => Self::NotBase64,
            pem::Error::SectionTooLarge => Self::TooLarge,
            _ => Self::NoBegin,
        }
    }
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot load {} from {}: ", self.what, ShownPath(&self.path))?;
        match &self.problem {
            Problem::Unreadable(error) => write!(f, "{error}"),
            Problem::TooLarge => write!(f, "the file is larger than {} MiB", LARGEST_FILE >> 20),
            Problem::Missing(what) => write!(f, "the file contains no {what}"),
            Problem::NoBegin => {
                f.write_str("invalid PEM: a BEGIN line is malformed; each must be on a line of its own")
            }
            Problem::NoEnd => f.write_str("invalid PEM: an END line is missing; each must be on a line of its own"),
            Problem::NotBase64 => f.write_str("invalid PEM: the text between BEGIN and END is not base64"),
        }
    }
}

/// The same as [`Display`](fmt::Display): the derived `Debug` would always show the path.
impl fmt::Debug for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PemError({self})")
    }
}

impl std::error::Error for PemError {}

/// A path in an error. It is not shown if the caller has passed the text of a key instead of the path of its file.
struct ShownPath<'a>(&'a Path);

impl fmt::Display for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string_lossy();
        if text.contains("-----BEGIN") || text.contains(char::is_control) {
            f.write_str("a path that is not shown, because it is the text of a PEM file or contains control characters")
        } else {
            f.write_str(&text)
        }
    }
}

#[cfg(test)]
mod tests;
