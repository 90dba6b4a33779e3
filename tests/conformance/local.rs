//! The driver of instances on this machine. Its provider is a directory.

use std::os::unix::net::UnixListener;

use latent_worker::testing::conformance::Subject;
use latent_worker::{Build, LocalKind, LocalLatentWorker};

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
    expect_all_but(
        &report,
        &[
            // Its agent is part of it.
            "w10_agent_never_comes",
            "w10_dies_before_attach",
            // A file system has none of these.
            "d6_error_after_create",
            "d6_error_after_remove",
            "d6_throttled_start",
            "d6_throttled_stop",
            "d6_unavailable_start",
            "d6_unavailable_stop",
            "d6_lagging_list",
            "d6_lagging_reclaim",
            "d6_vanishes",
            "d5_cancelled_slow_start",
        ],
    );
}
