//! An engine over TLS: it must prove its name, and is shown who calls.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::super::{Engine, EngineAddress, EngineError, Patience};
use super::Directory;
use super::fake::{Peer, listening};

const LONG: Duration = Duration::from_secs(600);
const IMAGE: &str = r#"{"Id":"1.2","Os":"linux","Architecture":"amd64","Variant":null}"#;

fn pem(name: &str) -> String {
    format!("{}/tests/tls/{name}.pem", env!("CARGO_MANIFEST_DIR"))
}

/// A directory as the docker command has it.
pub(super) fn certificates(authority: &str, certificate: &str) -> Directory {
    let directory = Directory::new();
    let key = format!("{certificate}.key");
    for (from, to) in [(authority, "ca.pem"), (certificate, "cert.pem"), (&key, "key.pem")] {
        fs::copy(pem(from), directory.path().join(to)).unwrap();
    }
    directory
}

/// An engine with this certificate that wants one of the authority.
fn engine_with(certificate: &str) -> EngineAddress {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pem("authority")).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let chain = vec![CertificateDer::from_pem_file(pem(certificate)).unwrap()];
    let key = PrivateKeyDer::from_pem_file(pem(&format!("{certificate}.key"))).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let (address, accept) = listening();
    thread::spawn(move || {
        loop {
            let tcp = accept();
            let config = config.clone();
            thread::spawn(move || {
                let mut peer = Peer::new(StreamOwned::new(ServerConnection::new(config).unwrap(), tcp));
                while peer.asked_of("1.41").is_some() {
                    peer.answer(200, IMAGE);
                }
            });
        }
    });
    format!("tcp://{address}").parse().unwrap()
}

fn version(address: EngineAddress, directory: &Path) -> Result<String, EngineError> {
    let engine = Engine::new(address.with_tls(directory).unwrap());
    // Over the same connection.
    engine.image("x", None, Patience::new(LONG))?;
    engine.image("x", None, Patience::new(LONG)).map(|image| image.unwrap().id)
}

#[test]
fn both_sides_prove_who_they_are() {
    let directory = certificates("authority", "client");
    assert_eq!(version(engine_with("master"), directory.path()).unwrap(), "1.2");
}

#[test]
fn an_engine_that_is_another_is_not_spoken_to() {
    let unreachable = |engine: &str, authority: &str| {
        let directory = certificates(authority, "client");
        let error = version(engine_with(engine), directory.path()).unwrap_err();
        assert!(matches!(error, EngineError::Unreachable(_)), "{error:?}");
        error.to_string()
    };
    let error = unreachable("elsewhere", "authority");
    assert!(error.contains("certificate"), "{error}");
    let error = unreachable("master", "stranger");
    assert!(error.contains("certificate"), "{error}");
}

/// It is not a client's certificate.
#[test]
fn an_engine_that_does_not_trust_us_is_unreachable() {
    let directory = certificates("authority", "elsewhere");
    let error = version(engine_with("master"), directory.path()).unwrap_err();
    assert!(matches!(error, EngineError::Unreachable(_)), "{error:?}");
}

#[test]
fn an_engine_without_tls_is_unreachable() {
    let fake = super::fake::Fake::tcp(|_, mut peer| {
        peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        peer.wait_for_the_end();
    });
    let directory = certificates("authority", "client");
    let error = version(fake.address(), directory.path()).unwrap_err();
    assert!(matches!(error, EngineError::Unreachable(_)), "{error:?}");
}

#[test]
fn files_that_will_not_do_are_named() {
    let address: EngineAddress = "tcp://127.0.0.1:1".parse().unwrap();
    let directory = certificates("authority", "client");
    let path = directory.path();
    let error = |address: &EngineAddress| address.clone().with_tls(path).unwrap_err().to_string();
    assert!(error(&EngineAddress::unix("/x")).contains("TLS is for TCP"));

    let key = fs::read(path.join("key.pem")).unwrap();
    fs::copy(pem("master.key"), path.join("key.pem")).unwrap();
    assert!(error(&address).contains("key.pem"), "{}", error(&address));
    fs::write(path.join("key.pem"), "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n").unwrap();
    assert!(error(&address).contains("key.pem") && !error(&address).contains("c2Vj"), "{}", error(&address));
    fs::write(path.join("key.pem"), key).unwrap();
    fs::write(path.join("ca.pem"), "").unwrap();
    assert!(error(&address).contains("ca.pem"), "{}", error(&address));
    fs::remove_file(path.join("ca.pem")).unwrap();
    assert!(error(&address).contains("ca.pem"), "{}", error(&address));
}
