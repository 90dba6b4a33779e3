//! An engine that is spoken to over TLS, and wants to know who speaks. The certificates are those of `tests/tls`.

use std::fs;
use std::path::{Path, PathBuf};

use latent_worker::{Build, EngineAddress, FailureCause, SubstantiateError};

use crate::support::daemon::{Daemon, in_own_network};
use crate::support::images::Image;
use crate::support::{Scene, failure, lease, said};

/// Nobody else is in the network of this test.
const ADDRESS: &str = "tcp://127.0.0.1:2376";

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(format!("{name}.pem"))
}

/// A directory as `DOCKER_CERT_PATH` names one.
struct Certificates(PathBuf);

impl Certificates {
    fn new(authority: &str, shown: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lw-certificates-{}-{authority}-{shown}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        for (from, to) in [(authority, "ca"), (shown, "cert"), (&format!("{shown}.key"), "key")] {
            fs::copy(pem(from), path.join(format!("{to}.pem"))).unwrap();
        }
        Self(path)
    }

    fn address(&self) -> EngineAddress {
        ADDRESS.parse::<EngineAddress>().unwrap().with_tls(&self.0).unwrap()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
#[ignore = "needs dockerd and root, and a static agent (TEST_AGENT)"]
fn an_engine_behind_tls_knows_who_speaks_and_proves_who_it_is() {
    if !in_own_network() {
        return;
    }
    let files = [("tlscacert", pem("authority")), ("tlscert", pem("master")), ("tlskey", pem("master.key"))];
    let files = files.map(|(option, path)| format!("--{option}={}", path.display()));
    let options = ["--tlsverify".to_owned(), format!("--host={ADDRESS}")].into_iter().chain(files);
    let daemon = Daemon::start_with(options.map(Into::into));
    let engine = daemon.engine();
    let image = Image::agent(&engine, "a");
    let scene = Scene::on(&engine);
    let worker = |name: &str, certificates: &Certificates| {
        let driver = scene.driver(image.reference()).engine(certificates.address()).network("host");
        scene.worker(name, driver.build().unwrap())
    };

    let certificates = Certificates::new("authority", "client");
    let lease = lease(&worker("known", &certificates), &Build::new("a build"));
    assert_eq!(said(&lease, "cat /kind"), "a");
    drop(lease);

    for (name, authority, shown) in [("not trusted", "stranger", "client"), ("not a client", "authority", "elsewhere")]
    {
        let certificates = Certificates::new(authority, shown);
        let error = failure(&worker(name, &certificates), &Build::new("a build"));
        let SubstantiateError::Failed { cause: FailureCause::Infrastructure, reason } = &error else {
            panic!("{name}: {error:?}")
        };
        assert!(reason.contains(ADDRESS) && reason.to_lowercase().contains("certificate"), "{name}: {reason}");
    }
    scene.finish();
}
