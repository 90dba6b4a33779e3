//! Buildbot's own worker in a container, with nothing but the environment that the driver makes.
//!
//! There is no registry: the image is a shell, and the worker is that of this machine, mounted.

use std::collections::BTreeSet;
use std::path::Path;

use latent_worker::Build;

use crate::support::engine::Engine;
use crate::support::images::Image;
use crate::support::{Scene, lease, on_every_engine, said};

on_every_engine![
    "needs a Docker engine (TEST_DOCKER_HOST), a static agent (TEST_AGENT) and buildbot-worker (TEST_BUILDBOT_WORKER)",
    "needs Podman (TEST_PODMAN_HOST), a static agent (TEST_AGENT) and buildbot-worker (TEST_BUILDBOT_WORKER)",
    a_stock_worker_attaches,
    a_stock_worker_reads_the_file,
];

fn a_stock_worker_attaches(engine: &Engine) {
    attaches(engine, false, "$WORKERPASS");
}

/// An image of one's own can.
fn a_stock_worker_reads_the_file(engine: &Engine) {
    attaches(engine, true, "$(/bin/cat $LATENT_WORKER_SECRET_FILE)");
}

fn attaches(engine: &Engine, in_file: bool, password: &str) {
    let program = std::env::var("TEST_BUILDBOT_WORKER").expect("TEST_BUILDBOT_WORKER names buildbot-worker");
    // The virtual environment, and the Python that this was made of.
    let prefix = |program: &Path| program.parent().and_then(Path::parent).unwrap().display().to_string();
    let python = Path::new(&program).with_file_name("python").canonicalize().unwrap();
    let mut directories: BTreeSet<String> = ["/usr", "/lib", "/lib64"].map(Into::into).into();
    directories.extend([prefix(Path::new(&program)), prefix(&python)]);
    let create = format!(
        "{program} create-worker --protocol $BUILDMASTER_PROTOCOL /work/w $BUILDMASTER:$BUILDMASTER_PORT $WORKERNAME {password}"
    );
    let image = Image::shell(engine, &format!("{create} && exec {program} start --nodaemon /work/w"));
    let scene = Scene::on(engine);
    let mut driver = scene.driver(image.reference()).env("PATH", "/bin:/usr/bin");
    for directory in directories {
        driver = driver.volume(format!("{directory}:{directory}:ro"));
    }
    if in_file {
        driver = driver.secret_in_file();
    }
    let worker = scene.worker("stock", driver.build().unwrap());
    let held = lease(&worker, &Build::new("a build"));
    assert_eq!(said(&held, "echo $LATENT_WORKER_NAME"), "stock\n");
    drop(held);
    scene.finish();
}
