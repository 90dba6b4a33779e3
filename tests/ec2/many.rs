//! Many workers at once: how many calls they make.

use std::time::{Duration, Instant};

use latent_worker::{Build, BuildResult};

use crate::support::{PATIENCE, Scene, eventually};

const MANY: usize = 50;

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn fifty_workers_start_together_with_one_look_a_poll_for_all_of_them() {
    let scene = Scene::new();
    let pending = Duration::from_secs(5);
    scene.front.pending(pending);
    let driver = scene.driver().poll_interval(Duration::from_millis(500)).call_limit(PATIENCE).build().unwrap();
    let workers: Vec<_> = (0..MANY).map(|number| scene.worker(&format!("w{number}"), driver.clone())).collect();
    let begun = Instant::now();
    let requests: Vec<_> = workers.iter().map(|worker| worker.substantiate(&Build::new("b"))).collect();
    let leases: Vec<_> = requests
        .into_iter()
        .map(|mut request| request.wait_timeout(PATIENCE).expect("in time").unwrap_or_else(|error| panic!("{error}")))
        .collect();
    let up = begun.elapsed();
    assert!(eventually(|| workers.iter().all(|worker| worker.status().call.is_none())));
    let took = begun.elapsed();
    assert_eq!(scene.cloud.machines().len(), MANY);
    let (launches, looks) = (scene.front.count("RunInstances"), scene.front.count("DescribeInstances"));
    let images = scene.front.count("DescribeImages");
    let others = scene.front.asked().len() - launches - looks - images;
    println!(
        "{MANY} starts: attached after {up:.1?}, all returned after {took:.1?}; {launches} launches, {looks} looks, {images} for the image, {others} others"
    );
    assert_eq!((launches, images, others), (MANY, 1, 0), "one call of its own for each start");
    // Five launches at once, and two in each second then: the provider refuses those that come faster.
    assert!(took >= Duration::from_secs(22), "{took:?}");
    let rounds = took.as_millis() as usize / 500 + 2;
    assert!(looks <= rounds, "{looks} looks in {took:?}");

    for lease in leases {
        lease.finish(BuildResult::Succeeded);
    }
    let stops: Vec<_> = workers.iter().map(|worker| worker.insubstantiate(false)).collect();
    assert!(stops.into_iter().all(|stop| stop.wait_timeout(PATIENCE)));
    let looks_of_stops = scene.front.count("DescribeInstances") - looks;
    println!("{MANY} stops: {looks_of_stops} looks");
    assert_eq!(scene.front.count("TerminateInstances"), MANY);
    scene.finish();
}
