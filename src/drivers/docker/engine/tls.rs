//! TLS with an engine: both sides show certificates.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::socket::Socket;

pub(super) type TlsStream = StreamOwned<ClientConnection, Socket>;

/// Whom to trust, what to show, and the name that the engine must prove.
#[derive(Clone)]
pub(super) struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsClient {
    /// `ca.pem`, `cert.pem`, `key.pem`, as the docker command names them. The error names the file.
    pub(super) fn from_directory(host: &str, directory: &Path) -> Result<Self, String> {
        let authority = directory.join("ca.pem");
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&authority)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", authority.display()))?;
        }
        let shown = directory.join("cert.pem");
        let key = directory.join("key.pem");
        let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, error))?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&shown)?, private)
            .map_err(|error| format!("{} with {}: {error}", shown.display(), key.display()))?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host:?} is not a name that a certificate can be for"))?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// Exchanges keys with the engine.
    pub(super) fn agree(&self, mut socket: Socket) -> io::Result<TlsStream> {
        let mut connection = ClientConnection::new(self.config.clone(), self.name.clone()).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(connection, socket))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{}: there is no certificate in it", path.display()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// Without what was read: it may be a key.
fn unreadable(path: &Path, error: PemError) -> String {
    match error {
        PemError::Io(error) => format!("cannot read {}: {error}", path.display()),
        PemError::NoItemsFound => format!("{}: there is nothing of the kind in it", path.display()),
        _ => format!("{}: no valid PEM", path.display()),
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient")
    }
}
