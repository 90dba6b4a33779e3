//! Containers that do not come up, or go away: what is said, whose fault it is, and that nothing is left.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;

use latent_worker::testing::{FaultyHttp, HttpFault, HttpRule};
use latent_worker::{
    Build, ByteSize, DockerLatentWorker, DockerLatentWorkerBuilder, EventKind, FailureCause, Master, PullPolicy,
    Reclaimed, ShutdownMode, SubstantiateError, WorkerConfig,
};

use crate::support::engine::Engine;
use crate::support::images::Image;
use crate::support::{PATIENCE, Scene, eventually, failed, failure, lease, on_every_engine, said, stop};

on_every_engine![
    an_exit_before_the_attach_is_told_with_its_log,
    out_of_memory_is_said,
    an_image_that_is_not_there_is_the_fault_of_the_build,
    an_image_for_another_platform_is_the_fault_of_the_build,
    a_program_that_is_not_in_the_image_is_told,
    settings_that_the_engine_refuses_are_the_fault_of_the_build,
    d3_a_container_that_somebody_has_removed_is_lost_and_stopped,
    a_container_that_the_engine_cannot_stop_is_removed_by_force,
    d2_a_create_that_was_not_answered_is_looked_for_until_it_comes,
    d3_that_something_before_the_engine_knows_no_such_path_is_no_proof_that_a_container_is_gone,
    an_image_that_is_removed_under_us_takes_no_running_container_with_it,
];

fn an_exit_before_the_attach_is_told_with_its_log(engine: &Engine) {
    let image = Image::shell(engine, "echo looking around; echo no agent here >&2; exit 3");
    let scene = Scene::on(engine);
    let worker = scene.worker("w", scene.driver(image.reference()).build().unwrap());
    let (_, reason) = failed(&worker, &Build::new("a build"));
    for word in ["looking around", "no agent here", "code 3"] {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    assert!(eventually(|| scene.containers().is_empty()));
    scene.finish();
}

fn out_of_memory_is_said(engine: &Engine) {
    let image = Image::shell(engine, "echo hungry; exec tail /dev/zero");
    let scene = Scene::on(engine);
    let limit = ByteSize::new(32 << 20);
    let worker = scene.worker("w", scene.driver(image.reference()).memory(limit).build().unwrap());
    let error = failure(&worker, &Build::new("a build")).to_string();
    assert!(error.contains("memory") && error.contains("137") && error.contains("hungry"), "{error}");
    scene.finish();
}

fn an_image_that_is_not_there_is_the_fault_of_the_build(engine: &Engine) {
    let scene = Scene::on(engine);
    let never = |image: &str| scene.driver(image).pull(PullPolicy::Never).build().unwrap();
    let worker = scene.worker("absent", never("lw-test/no-such-image:1"));
    let error = failure(&worker, &Build::new("a build"));
    let SubstantiateError::Cannot { reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains("lw-test/no-such-image:1"), "{reason}");
    assert_eq!(worker.status().quarantine, None);

    let worker = scene.worker("bad", never("lw-test/NOT-A-NAME"));
    let error = failure(&worker, &Build::new("a build"));
    assert!(matches!(error, SubstantiateError::Cannot { .. }), "{error:?}");
    scene.finish();
}

fn an_image_for_another_platform_is_the_fault_of_the_build(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let driver = scene.driver(image.reference()).pull(PullPolicy::Never).platform("linux/s390x").build().unwrap();
    let worker = scene.worker("w", driver);
    let error = failure(&worker, &Build::new("a build"));
    let SubstantiateError::Cannot { reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains("s390x"), "{reason}");
    scene.finish();
}

/// D2: the engine's init starts, and finds nothing to run; without it the container was created, and does not start.
fn a_program_that_is_not_in_the_image_is_told(engine: &Engine) {
    let image = Image::empty(engine);
    let scene = Scene::on(engine);
    for init in [true, false] {
        let driver = scene.driver(image.reference()).init(init).build().unwrap();
        let worker = scene.worker(if init { "with init" } else { "without" }, driver);
        let error = failure(&worker, &Build::new("a build")).to_string();
        assert!(error.to_lowercase().contains("no such file"), "{error}");
        assert!(eventually(|| scene.containers().is_empty()));
    }
    scene.finish();
}

/// Engines say so in many ways, and often as if it were trouble of their own.
fn settings_that_the_engine_refuses_are_the_fault_of_the_build(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let driver = || scene.driver(image.reference()).master_address("10.0.0.1:1");
    let device = json!({ "PathOnHost": "/dev/no-such", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm" });
    for (name, driver) in [
        ("network", driver().network("lw-test-no-such-network")),
        ("volume", driver().volume("/tmp:not-absolute")),
        ("memory", driver().memory(ByteSize::new(1000))),
        ("type", driver().host_config(json!({ "Devices": 7 }))),
        ("device", driver().host_config(json!({ "Devices": [device] }))),
        ("program", driver().command(["/no/such/program"]).init(false)),
    ] {
        let worker = scene.worker(name, driver.build().unwrap());
        let error = failure(&worker, &Build::new("a build"));
        assert!(matches!(error, SubstantiateError::Cannot { .. }), "{name}: {error:?}");
        assert_eq!(worker.status().quarantine, None, "{name}");
    }
    assert!(eventually(|| scene.containers().is_empty()));
    scene.finish();
}

fn d3_a_container_that_somebody_has_removed_is_lost_and_stopped(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let worker = scene.worker("w", scene.driver(image.reference()).build().unwrap());
    for how in [Engine::remove, Engine::kill] {
        let lease = lease(&worker, &Build::new("a build"));
        how(engine, &scene.containers()[0].id);
        lease.wait_end(PATIENCE).expect("the agent is lost");
        drop(lease);
        let stopped = scene.await_event(|kind| match kind {
            EventKind::StopReturned { result } => Some(result.clone()),
            _ => None,
        });
        assert_eq!(stopped, Ok(()));
        assert_eq!(scene.containers(), []);
        // A loss so soon counts as a failed start.
        worker.unpause();
    }
    scene.finish();
}

/// A proxy answers for an engine that goes on. What is created late is somebody else's work here, by name and labels.
fn d2_a_create_that_was_not_answered_is_looked_for_until_it_comes(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let (proxy, driver) = behind_a_proxy(&scene, &image);
    let worker = scene.worker("w", driver.build().unwrap());
    let lost = HttpRule::new(HttpFault::Status(502)).method("POST").path_contains("/containers/create").times(1);
    let lost = proxy.inject(lost);
    let error = failure(&worker, &Build::new("a build"));
    assert!(matches!(error, SubstantiateError::Failed { .. }), "{error:?}");
    assert_eq!(lost.met(), 1);
    let pending = scene.await_event(|kind| match kind {
        EventKind::StopReturned { result } => Some(result.clone()),
        _ => None,
    });
    assert!(pending.as_ref().is_err_and(|reason| reason.contains("may still come")), "{pending:?}");
    let first = scene.await_event(|kind| match kind {
        EventKind::ReclaimReturned { result, .. } => Some(result.clone()),
        _ => None,
    });
    assert_eq!(first, Ok(Reclaimed::Pending));
    // It keeps nobody waiting.
    drop(lease(&worker, &Build::new("another build")));

    let [leftover] = &scene.master.leftovers()[..] else { panic!("{:?}", scene.master.leftovers()) };
    let name = format!("latent-worker-{}-{}", &leftover.owner[..12], leftover.key);
    let labels = json!({ "latent-worker.owner": &*leftover.owner, "latent-worker.key": &*leftover.key });
    engine
        .run(&name, &json!({ "Image": image.reference(), "Labels": labels, "HostConfig": { "NetworkMode": "none" } }));
    assert!(eventually(|| scene.master.leftovers().is_empty()));
    assert!(engine.try_inspect(&name).is_none());
    scene.finish();
}

fn d3_that_something_before_the_engine_knows_no_such_path_is_no_proof_that_a_container_is_gone(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let (proxy, driver) = behind_a_proxy(&scene, &image);
    let worker = scene.worker("w", driver.build().unwrap());
    drop(lease(&worker, &Build::new("a build")));
    let unknown = |method, part| proxy.inject(HttpRule::new(HttpFault::Status(404)).method(method).path_contains(part));
    let refused = (unknown("POST", "/stop"), unknown("DELETE", "/containers"));
    stop(&worker);
    assert_eq!((refused.0.met(), refused.1.met()), (1, 1));
    assert_eq!((scene.master.leftovers().len(), scene.containers().len()), (1, 1));
    drop(refused);
    assert!(eventually(|| scene.master.leftovers().is_empty()));
    scene.finish();
}

/// A driver that speaks to the engine through a proxy.
fn behind_a_proxy(scene: &Scene, image: &Image) -> (FaultyHttp, DockerLatentWorkerBuilder) {
    let proxy = FaultyHttp::to_unix(scene.engine.host().strip_prefix("unix://").expect("a Unix socket")).unwrap();
    let driver = scene.driver(image.reference()).engine(format!("tcp://{}", proxy.address()).parse().unwrap());
    (proxy, driver)
}

/// What is left at one engine cannot be looked for at another.
#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST) and a static agent (TEST_AGENT)"]
fn j4_what_an_engine_has_is_not_looked_for_at_another() {
    let engine = Engine::docker();
    let image = Image::agent(&engine, "a");
    let scene = Scene::on(&engine);
    let (proxy, driver) = behind_a_proxy(&scene, &image);
    let first = format!("tcp://{}", proxy.address());
    let directory = std::env::temp_dir().join(format!("lw-two-engines-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let life = || Master::builder().journal(directory.join("journal")).unwrap().agent_address("10.0.0.1:1").build();
    let master = life();
    let worker = master.add_worker(WorkerConfig::new("w"), driver.build().unwrap()).unwrap();
    let lost = proxy.inject(HttpRule::new(HttpFault::Status(502)).path_contains("/containers/create"));
    failure(&worker, &Build::new("a build"));
    assert!(eventually(|| !master.leftovers().is_empty()));
    assert!(master.shutdown(ShutdownMode::Fast, PATIENCE).complete);
    drop((lost, worker, master));

    let master = life();
    master.add_worker(WorkerConfig::new("w"), scene.driver(image.reference()).build().unwrap()).unwrap();
    assert!(eventually(|| master.leftovers()[0].reason.as_ref().is_some_and(|reason| reason.contains("look there"))));
    let leftover = &master.leftovers()[0];
    assert!(leftover.reason.as_ref().unwrap().contains(&first), "{leftover}");
    assert!(master.forget_leftover(&leftover.key));
    drop(master);
    std::fs::remove_dir_all(&directory).unwrap();
    scene.finish();
}

fn a_container_that_the_engine_cannot_stop_is_removed_by_force(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let (proxy, driver) = behind_a_proxy(&scene, &image);
    let worker = scene.worker("w", driver.build().unwrap());
    drop(lease(&worker, &Build::new("a build")));
    let refused = proxy.inject(HttpRule::new(HttpFault::Status(500)).method("POST").path_contains("/stop"));
    stop(&worker);
    assert_eq!(refused.met(), 1);
    assert_eq!(scene.containers(), []);
    assert!(scene.master.leftovers().is_empty());
    scene.finish();
}

fn an_image_that_is_removed_under_us_takes_no_running_container_with_it(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let worker = scene.worker("w", scene.driver(image.reference()).pull(PullPolicy::Never).build().unwrap());
    let running = lease(&worker, &Build::new("a build"));
    // A running container keeps the image, but nobody finds it any more.
    engine.rename_image(image.reference(), "lw-test/elsewhere", image.tag());
    assert_eq!(engine.image(image.reference()), None);
    assert_eq!(said(&running, "cat /kind"), "a");
    drop(running);
    stop(&worker);
    let error = failure(&worker, &Build::new("another"));
    assert!(matches!(error, SubstantiateError::Cannot { .. }), "{error:?}");
    scene.finish();
}

#[test]
fn an_engine_that_is_not_there_is_a_failure_of_infrastructure_and_named() {
    let engine = Engine::at("unix:///no/such/engine.sock");
    let scene = Scene::on(&engine);
    let worker = scene.worker("w", scene.driver("any").build().unwrap());
    let error = failure(&worker, &Build::new("a build"));
    let SubstantiateError::Failed { cause: FailureCause::Infrastructure, reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains("/no/such/engine.sock"), "{reason}");
}

/// Not only during a pull.
#[test]
fn a_start_is_cancelled_while_the_engine_says_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = Engine::at(format!("tcp://{}", silent.local_addr().unwrap()));
    let scene = Scene::on(&Engine::at("unix:///no/such/engine.sock"));
    let driver = DockerLatentWorker::builder("any").engine(engine.host().parse().unwrap()).build().unwrap();
    let worker = scene.worker("w", driver);
    let request = worker.substantiate(&Build::new("a build"));
    let connection = silent.accept().unwrap();
    let begun = Instant::now();
    request.cancel();
    // A second, on a machine with time for it.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop((connection, silent));
}
