//! TLS over one TCP connection, for one thread that reads and one that writes; and the settings of both sides, from files.
//!
//! The state of a TLS connection is one value that both directions change. It is locked while bytes are opened or sealed,
//! and never while a thread waits for the socket. What TLS itself has to answer (new keys) is sealed with the next thing
//! that is written: the protocol asks for no more, and so only one thread writes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

use super::transport::{WriteBefore, time_left};
use crate::pem::{self, PemError};

/// How much is read from the socket at once.
const INCOMING: usize = 16 << 10;
/// How much is sealed at once: the most that fits into a record (RFC 8446, 5.1).
const RECORD: usize = 16 << 10;

pub(super) struct Tls {
    connection: Mutex<Connection>,
    /// Read from the socket and not opened yet; used by the reading thread alone.
    incoming: Mutex<Incoming>,
}

struct Incoming {
    bytes: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl Tls {
    /// Exchanges keys with the peer.
    pub(super) fn agree(tcp: &TcpStream, mut connection: Connection, deadline: Instant) -> io::Result<Self> {
        let write_all = |connection: &mut Connection| -> io::Result<()> {
            while connection.wants_write() {
                connection.write_tls(&mut WriteBefore { tcp, deadline })?;
            }
            Ok(())
        };
        write_all(&mut connection)?;
        while connection.is_handshaking() {
            // Before each read, however little the peer sends at a time.
            tcp.set_read_timeout(Some(time_left(deadline)?))?;
            match connection.read_tls(&mut &*tcp) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            }
            let processed = connection.process_new_packets().map(drop).map_err(io::Error::other);
            // What is wrong is told to the peer as well.
            let written = write_all(&mut connection);
            processed.and(written)?;
        }
        let incoming = Incoming { bytes: vec![0; INCOMING].into(), begin: 0, end: 0 };
        Ok(Self { connection: Mutex::new(connection), incoming: Mutex::new(incoming) })
    }

    pub(super) fn read(&self, mut tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let mut incoming = self.incoming.lock();
        loop {
            let mut connection = self.connection.lock();
            match connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Cut off without a word: for us that is an end like any other, for the frames say what is whole.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            if incoming.begin == incoming.end {
                drop(connection);
                (incoming.begin, incoming.end) = (0, tcp.read(&mut incoming.bytes)?);
                connection = self.connection.lock();
            }
            let (begin, end) = (incoming.begin, incoming.end);
            // Nothing read is the end, and is told as such.
            incoming.begin += connection.read_tls(&mut &incoming.bytes[begin..end])?;
            connection.process_new_packets().map_err(io::Error::other)?;
        }
    }

    pub(super) fn write_all(&self, tcp: &mut WriteBefore<'_>, bytes: &[u8]) -> io::Result<()> {
        let mut sealed = Vec::new();
        for piece in bytes.chunks(RECORD) {
            self.seal(&mut sealed, |connection| connection.writer().write_all(piece))?;
            tcp.write_all(&sealed)?;
            sealed.clear();
        }
        Ok(())
    }

    /// Never waits: a peer that does not read is not told.
    pub(super) fn say_goodbye(&self, mut tcp: &TcpStream) {
        let mut sealed = Vec::new();
        let goodbye = self.seal(&mut sealed, |connection| {
            connection.send_close_notify();
            Ok(())
        });
        if goodbye.is_ok() && tcp.set_nonblocking(true).is_ok() {
            let _ = tcp.write(&sealed);
        }
    }

    fn seal(&self, sealed: &mut Vec<u8>, write: impl FnOnce(&mut Connection) -> io::Result<()>) -> io::Result<()> {
        let mut connection = self.connection.lock();
        write(&mut connection)?;
        while connection.wants_write() {
            connection.write_tls(sealed)?;
        }
        Ok(())
    }
}

/// What a listener shows its peers.
#[derive(Clone)]
pub(super) struct ServerTls(Arc<ServerConfig>);

impl ServerTls {
    /// A chain of certificates, the listener's own first, and its key, both as PEM.
    pub(super) fn from_files(certificates: &Path, key: &Path) -> io::Result<Self> {
        let chain = pem::certificates(certificates).map_err(invalid_file)?;
        let private = pem::private_key(key).map_err(invalid_file)?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
            .map_err(|error| {
                let (certificates, key) = (certificates.display(), key.display());
                invalid_input(format!("cannot use the certificates of {certificates} with the key of {key}: {error}"))
            })?;
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn connection(&self) -> io::Result<ServerConnection> {
        ServerConnection::new(self.0.clone()).map_err(io::Error::other)
    }
}

/// Whom a client trusts.
#[derive(Clone)]
pub(super) struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// The certificates of authorities, as PEM.
    pub(super) fn trusting(authorities: &Path) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in pem::certificates(authorities).map_err(invalid_file)? {
            roots.add(certificate).map_err(|error| {
                invalid_input(format!("cannot trust a certificate of {}: {error}", authorities.display()))
            })?;
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// `host` is the name or address that the certificate must be for.
    pub(super) fn connection(&self, host: &str) -> io::Result<ClientConnection> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| invalid_input(format!("invalid host {host:?}: no certificate can be issued for it")))?;
        ClientConnection::new(self.0.clone(), name).map_err(io::Error::other)
    }
}

/// Named here, so that it does not matter what else in the program uses rustls, and with what.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn invalid_file(error: PemError) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, error)
}

fn invalid_input(message: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, message)
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls(…)")
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls(…)")
    }
}
