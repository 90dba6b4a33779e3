//! TLS with an engine: both sides show certificates.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::socket::Socket;
use crate::pem::{certificates, private_key};

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
        for certificate in certificates(&authority).map_err(|error| error.to_string())? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", authority.display()))?;
        }
        let shown = directory.join("cert.pem");
        let key = directory.join("key.pem");
        let chain = certificates(&shown).map_err(|error| error.to_string())?;
        let private = private_key(&key).map_err(|error| error.to_string())?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, private)
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

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient")
    }
}
