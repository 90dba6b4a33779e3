//! The driver's stops, while the engine gives a container its grace.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::unbounded;
use parking_lot::Mutex;

use super::Directory;
use super::fake::{Fake, Peer};
use crate::{DockerLatentWorker, EventKind, Master, WorkerConfig};

const IMAGE: &str = r#"{"Id":"1.2","Os":"linux","Architecture":"amd64","Variant":null}"#;
/// What is to happen within a second may take this long on a busy machine.
const SOON: Duration = Duration::from_secs(15);
/// A grace that no test waits for.
const NO_END: Duration = Duration::from_secs(10_000);

#[test]
fn s0_a_hurried_stop_waits_no_longer_for_the_grace_and_removes_the_container() {
    let directory = Directory::new();
    let (stopping, stops) = unbounded();
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let all = lines.clone();
    let fake = Fake::unix(directory.path(), move |_, mut peer: Peer| {
        while let Some(asked) = peer.asked_of("1.41") {
            all.lock().push(asked.line.clone());
            match &asked.line {
                line if line.contains("/images/") => peer.answer(200, IMAGE),
                line if line.contains("/create?") => peer.answer(201, r#"{"Id":"c"}"#),
                line if line.contains("/stop?") => {
                    let _ = stopping.send(());
                    return peer.wait_for_the_end();
                }
                _ => peer.answer(204, ""),
            }
        }
    });
    let driver = DockerLatentWorker::builder("image").engine(fake.address()).stop_grace(NO_END).build().unwrap();
    let master = Master::new();
    let events = master.events(1_000);
    let worker = master.add_worker(WorkerConfig::new("w"), driver).unwrap();
    let _request = worker.warm_up();
    let started = events.iter().find_map(|event| match event.kind {
        EventKind::StartReturned { result } => Some(result),
        _ => None,
    });
    assert!(matches!(started, Some(Ok(_))), "{started:?}");

    worker.insubstantiate(false);
    stops.recv_timeout(SOON).expect("the engine is asked to stop it");
    assert!(worker.insubstantiate(true).wait_timeout(SOON), "{}", worker.status());
    let last = lines.lock().last().cloned().unwrap_or_default();
    assert!(last.starts_with("DELETE /v1.41/containers/c?"), "{last}");
}
