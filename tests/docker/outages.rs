//! The engine itself goes down, and comes up again.

use latent_worker::{Build, BuildResult, EventKind, LeaseEnd};

use crate::support::daemon::{Daemon, in_own_network};
use crate::support::images::Image;
use crate::support::{PATIENCE, Scene, eventually, said};

#[test]
#[ignore = "needs dockerd and root, and a static agent (TEST_AGENT)"]
fn j3_an_engine_that_goes_down_in_the_middle_costs_an_attempt_and_leaves_nothing() {
    if !in_own_network() {
        return;
    }
    let mut daemon = Daemon::start();
    let engine = daemon.engine();
    let image = Image::agent(&engine, "a");
    let scene = Scene::on(&engine);
    scene.worker("w", scene.driver(image.reference()).network("host").build().unwrap());
    let ticket = scene.master.submit(Build::new("a build"));
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_eq!(said(&lease, "cat /kind"), "a");

    daemon.stop();
    let end = lease.wait_end(PATIENCE).expect("the agent is gone");
    assert!(matches!(end, LeaseEnd::Lost(_)), "{end:?}");
    lease.retry("the engine is gone");
    // The stop cannot reach the engine either, and neither can the next start.
    let reason = scene.await_event(|kind| match kind {
        EventKind::LeftBehind { reason } => Some(reason.clone()),
        _ => None,
    });
    assert!(reason.contains("docker.sock"), "where it is looked for is told: {reason}");
    assert_eq!(scene.master.leftovers().len(), 1);

    daemon.resume();
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_eq!(said(&lease, "cat /kind"), "a");
    lease.finish(BuildResult::Succeeded);
    assert!(eventually(|| scene.master.leftovers().is_empty()), "{:?}", scene.master.leftovers());
    assert!(scene.containers().len() <= 1, "the first container is still there: {:?}", scene.containers());
    scene.finish();
}
