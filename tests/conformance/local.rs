//! The driver of instances on this machine. Its provider is a directory.

use std::os::unix::net::UnixListener;

use latent_worker::testing::conformance::Subject;
use latent_worker::{Build, LocalKind, LocalLatentWorker};

use crate::OF_FAULTS;
use crate::place::{Place, expect_all_but};

#[test]
fn d6_local() {
    let place = Place::new();
    let root = place.directory("root");
    // A template with a socket in it cannot be copied; that is found when the directory is there.
    let template = place.directory("template");
    let _socket = UnixListener::bind(template.join("socket")).unwrap();
    let make = {
        let root = root.clone();
        move || {
            LocalLatentWorker::new()
                .root(&root)
                .kind("other", LocalKind::new())
                .kind("broken", LocalKind::new().template(&template))
        }
    };
    let of = |kind: &str| Build::new(kind).with_property("kind", kind);
    let (listed, destroyed) = (root.clone(), root);
    let report = Subject::new("local", make, move || Place::names(&listed))
        .attaches_by_itself()
        .destroy(move |name| _ = std::fs::remove_dir_all(destroyed.join(name)))
        .failing(of("broken"))
        .impossible(of("none"))
        .incompatible(of("other"))
        .debug_driver(|driver| format!("{driver:?}"))
        .debug_instance(|instance| format!("{instance:?}"))
        .run();
    println!("{report}");
    let without_means = [
        // Its agent is part of it.
        "w10_agent_never_comes",
        "w10_dies_before_attach",
    ];
    // A file system has none of these.
    expect_all_but(&report, &[&without_means, OF_FAULTS].concat());
}
