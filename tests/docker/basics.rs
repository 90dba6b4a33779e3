//! What a container is for: an agent attaches, commands run and files move, and in the end nothing is left.

use std::time::{Duration, Instant};

use latent_worker::{Build, EventKind, Setting, StopCause};

use crate::support::engine::Engine;
use crate::support::images::Image;
use crate::support::{PATIENCE, Scene, lease, on_every_engine, said, stop};

on_every_engine![
    commands_run_and_files_move_in_a_container,
    the_image_may_depend_on_the_build,
    the_master_is_reached_from_a_bridge_and_from_the_network_of_the_host,
    thirty_start_and_stop_in_parallel,
    what_does_not_want_to_stop_has_its_grace_and_none_when_it_is_to_be_fast,
];

fn commands_run_and_files_move_in_a_container(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let driver = scene.driver(image.reference()).env("COLOUR", "green").hostname("inside").build().unwrap();
    let worker = scene.worker("w", driver);
    let lease = lease(&worker, &Build::new("a build"));

    assert_eq!(said(&lease, "cat /kind; echo; echo $COLOUR; cat /proc/sys/kernel/hostname"), "a\ngreen\ninside\n");
    lease.files().write("notes", &mut &b"some bytes"[..]).unwrap();
    assert_eq!(said(&lease, "cat /work/notes; echo more > answer"), "some bytes");
    let mut answer = Vec::new();
    lease.files().read("answer", &mut answer).unwrap();
    assert_eq!(answer, b"more\n");

    assert_eq!(scene.containers().len(), 1);
    drop(lease);
    stop(&worker);
    assert_eq!(scene.containers(), []);
    scene.finish();
}

/// W11: an instance is used for the builds that it fits, and replaced for others.
fn the_image_may_depend_on_the_build(engine: &Engine) {
    let images = ["a", "b"].map(|kind| Image::agent(engine, kind));
    let tag = |image: &Image| image.reference().strip_prefix("lw-test/").unwrap().to_owned();
    let scene = Scene::on(engine);
    let template = Setting::<String>::template(&format!("lw-test/{{image:-{}}}", tag(&images[0]))).unwrap();
    let worker = scene.worker("w", scene.driver(template).build().unwrap());
    let of_b = Build::new("for b").with_property("image", tag(&images[1]));

    let first = lease(&worker, &Build::new("for whatever there is"));
    assert_eq!(said(&first, "cat /kind"), "a");
    let epoch = first.epoch();
    drop(first);
    let same = lease(&worker, &Build::new("another").with_property("image", tag(&images[0])));
    assert_eq!(same.epoch(), epoch, "the same container fits");
    drop(same);

    let ticket = scene.master.submit(of_b.clone());
    let other = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_eq!(said(&other, "cat /kind"), "b");
    assert_ne!(other.epoch(), epoch);
    let cause = scene.await_event(|kind| match kind {
        EventKind::StopCalled { cause, .. } => Some(*cause),
        _ => None,
    });
    assert_eq!(cause, StopCause::Incompatible);
    other.finish(latent_worker::BuildResult::Succeeded);
    let again = lease(&worker, &of_b);
    assert_eq!(said(&again, "cat /kind"), "b");
    drop(again);
    scene.finish();
}

fn the_master_is_reached_from_a_bridge_and_from_the_network_of_the_host(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let bridge = scene.worker("bridge", scene.driver(image.reference()).build().unwrap());
    let host = scene.worker("host", scene.driver(image.reference()).network("host").build().unwrap());
    let network = |worker| said(&lease(worker, &Build::new("look")), "readlink /proc/self/ns/net").trim().to_owned();
    let here = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(network(&host), here.to_str().unwrap());
    assert_ne!(network(&bridge), here.to_str().unwrap());
    scene.finish();
}

fn thirty_start_and_stop_in_parallel(engine: &Engine) {
    const MANY: usize = 30;
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let driver = scene.driver(image.reference()).build().unwrap();
    let workers: Vec<_> = (0..MANY).map(|number| scene.worker(&format!("w{number}"), driver.clone())).collect();
    let requests: Vec<_> = workers.iter().map(|worker| worker.substantiate(&Build::new("a build"))).collect();
    let lease = |mut request: latent_worker::Substantiation<_>| request.wait_timeout(PATIENCE).unwrap().unwrap();
    let leases: Vec<_> = requests.into_iter().map(lease).collect();
    assert_eq!(scene.containers().len(), MANY);
    for lease in &leases {
        assert_eq!(said(lease, "echo $LATENT_WORKER_NAME"), format!("{}\n", lease.worker()));
    }
    drop(leases);
    let stops: Vec<_> = workers.iter().map(|worker| worker.insubstantiate(true)).collect();
    stops.iter().for_each(|stop| assert!(stop.wait_timeout(PATIENCE)));
    assert_eq!(scene.containers(), []);
    scene.finish();
}

fn what_does_not_want_to_stop_has_its_grace_and_none_when_it_is_to_be_fast(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let stubborn = "trap '' TERM; /bin/agent /work; exec sleep 1000000";
    let driver = || scene.driver(image.reference()).command(["/bin/sh", "-c", stubborn]);
    for (name, grace, fast) in [("polite", Duration::from_secs(1), false), ("fast", 10 * PATIENCE, true)] {
        let worker = scene.worker(name, driver().stop_grace(grace).build().unwrap());
        drop(lease(&worker, &Build::new("a build")));
        let begun = Instant::now();
        assert!(worker.insubstantiate(fast).wait_timeout(PATIENCE), "{name}: it has no end");
        assert!(fast || begun.elapsed() >= grace, "{name}: it was killed before its time");
        assert_eq!(scene.containers(), []);
    }
    let worker = scene.worker("hurried", driver().stop_grace(10 * PATIENCE).build().unwrap());
    drop(lease(&worker, &Build::new("a build")));
    worker.insubstantiate(false);
    scene.await_event(|kind| matches!(kind, EventKind::StopCalled { .. }).then_some(()));
    assert!(worker.insubstantiate(true).wait_timeout(PATIENCE), "it has the whole grace");
    assert_eq!(scene.containers(), []);
    scene.finish();
}
