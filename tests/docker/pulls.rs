//! Images that come from a registry: when they are pulled, as whom, and that a pull can be cancelled.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use latent_worker::testing::{FaultyHttp, HttpFault, HttpRule};
use latent_worker::{
    Build, EventKind, FailureCause, ImageRecipe, PullPolicy, RegistryCredentials, Secret, Setting, SubstantiateError,
};

use crate::support::engine::Engine;
use crate::support::registry::Registry;
use crate::support::{PATIENCE, Scene, eventually, failed, lease, said, stop};

/// Removes the image that a test has pulled.
struct Pulled<'a>(&'a Engine, String);

impl Drop for Pulled<'_> {
    fn drop(&mut self) {
        self.0.try_remove_image(&self.1);
    }
}

#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST) and a static agent (TEST_AGENT)"]
fn an_image_that_is_missing_is_pulled_once_and_progress_is_told() {
    let engine = Engine::docker();
    let registry = Registry::start();
    let _pulled = Pulled(&engine, registry.image());
    let scene = Scene::on(&engine);
    let worker = scene.worker("w", scene.driver(registry.image()).pull(PullPolicy::IfMissing).build().unwrap());
    let lease_of = || lease(&worker, &Build::new("a build"));
    assert_eq!(said(&lease_of(), "cat /kind"), "pulled");
    let told: Vec<_> = scene.events.try_iter().filter_map(|event| progress(&event.kind)).collect();
    assert!(told.iter().any(|text| text.contains("Pull")), "{told:?}");
    let asked = registry.asked();
    assert!(asked > 0);

    stop(&worker);
    assert_eq!(said(&lease_of(), "cat /kind"), "pulled");
    assert_eq!(registry.asked(), asked, "it is there already");
    scene.finish();
}

#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST) and a static agent (TEST_AGENT)"]
fn an_image_is_looked_for_at_every_start_when_that_is_the_policy() {
    let engine = Engine::docker();
    let registry = Registry::start();
    let _pulled = Pulled(&engine, registry.image());
    let scene = Scene::on(&engine);
    let worker = scene.worker("w", scene.driver(registry.image()).pull(PullPolicy::Always).build().unwrap());
    for _ in 0..2 {
        let before = registry.asked();
        drop(lease(&worker, &Build::new("a build")));
        assert!(registry.asked() > before);
        stop(&worker);
    }
    scene.finish();
}

fn credentials(registry: &Registry, password: &str) -> RegistryCredentials {
    RegistryCredentials::new(registry.address(), "user", Secret::new(password)).unwrap()
}

/// A build names another registry than that of the credentials.
#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST) and a static agent (TEST_AGENT)"]
fn a1_another_registry_is_not_shown_the_credentials() {
    let engine = Engine::docker();
    let (mine, evil) = (Registry::for_user(), Registry::for_user());
    let scene = Scene::on(&engine);
    let image = Setting::template("{image}").unwrap();
    let driver = scene.driver(image).registry_credentials(credentials(&mine, "pass word")).build().unwrap();
    let (cause, reason) =
        failed(&scene.worker("w", driver), &Build::new("a build").with_property("image", evil.image()));
    assert_eq!(cause, FailureCause::Credentials, "{reason}");
    assert_eq!((evil.asked(), evil.authorized()), (0, 0));
    scene.finish();
}

/// What a recipe starts from.
#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST) and a static agent (TEST_AGENT)"]
fn a_recipe_starts_from_an_image_of_a_registry_with_credentials() {
    let engine = Engine::docker();
    let registry = Registry::for_user();
    let built = format!("latent-worker-built-{}", std::process::id());
    let (_pulled, _built) = (Pulled(&engine, registry.image()), Pulled(&engine, built.clone()));
    let scene = Scene::on(&engine);
    let recipe = ImageRecipe::dockerfile(format!("FROM {}", registry.image()));
    let driver = scene.driver(built).build_image_from(recipe);
    let driver = driver.registry_credentials(credentials(&registry, "pass word")).build().unwrap();
    assert_eq!(said(&lease(&scene.worker("w", driver), &Build::new("a build")), "cat /kind"), "pulled");
    scene.finish();
}

#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST) and a static agent (TEST_AGENT)"]
fn a_registry_that_wants_to_know_who_asks_is_told() {
    let engine = Engine::docker();
    let registry = Registry::for_user();
    let _pulled = Pulled(&engine, registry.image());
    let scene = Scene::on(&engine);
    let driver = || scene.driver(registry.image());
    let nobody = scene.worker("nobody", driver().build().unwrap());
    let wrong = credentials(&registry, "wrong word");
    let wrong = scene.worker("wrong", driver().registry_credentials(wrong).build().unwrap());
    for worker in [&nobody, &wrong] {
        let (cause, reason) = failed(worker, &Build::new("a build"));
        assert_eq!(cause, FailureCause::Credentials, "{reason}");
        assert!(!reason.contains("wrong word"), "{reason}");
    }
    let right = credentials(&registry, "pass word");
    let right = scene.worker("right", driver().registry_credentials(right).build().unwrap());
    assert_eq!(said(&lease(&right, &Build::new("a build")), "cat /kind"), "pulled");
    scene.finish();
}

/// Between the look at the image and the container that is to be made of it.
#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST) and a static agent (TEST_AGENT)"]
fn an_image_that_somebody_removes_at_the_last_moment_is_fetched_again() {
    let engine = Engine::docker();
    let registry = Registry::start();
    let _pulled = Pulled(&engine, registry.image());
    let scene = Scene::on(&engine);
    let proxy = FaultyHttp::to_unix(engine.host().strip_prefix("unix://").expect("a Unix socket")).unwrap();
    let driver = scene.driver(registry.image()).engine(format!("tcp://{}", proxy.address()).parse().unwrap());
    let worker = scene.worker("w", driver.build().unwrap());
    drop(lease(&worker, &Build::new("the image is there")));
    stop(&worker);

    let creating = |fault| HttpRule::new(fault).method("POST").path_contains("/containers/create");
    let held = proxy.inject(creating(HttpFault::DelayBefore(Duration::from_secs(3))).times(1));
    let mut request = worker.substantiate(&Build::new("a build"));
    assert!(eventually(|| held.met() == 1));
    assert!(engine.try_remove_image(&registry.image()));
    let lease = request.wait_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(said(&lease, "cat /kind"), "pulled");
    drop(lease);
    scene.finish();
}

/// The registry takes the connection, and goes when both starts are there.
#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST)"]
fn those_who_wait_for_an_image_fail_with_the_one_who_fetches_it() {
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/latent/worker:1", registry.local_addr().unwrap());
    let engine = Engine::docker();
    let scene = Scene::on(&engine);
    let driver = Arc::new(scene.driver(image).build().unwrap());
    let first = scene.worker("first", driver.clone()).substantiate(&Build::new("a build"));
    let connection = registry.accept().unwrap();
    let second = scene.worker("second", driver).substantiate(&Build::new("another"));
    let said =
        |words: &'static str| move |kind: &EventKind| progress(kind).filter(|text| text.contains(words)).map(drop);
    scene.await_event(said("another start fetches"));
    drop((connection, registry));
    for mut request in [first, second] {
        let error = request.wait_timeout(PATIENCE).unwrap().map(drop).unwrap_err();
        assert!(matches!(error, SubstantiateError::Failed { cause: FailureCause::Infrastructure, .. }), "{error:?}");
    }
    assert!(!scene.events.try_iter().any(|event| said("pulling image")(&event.kind).is_some()), "it is pulled again");
    scene.finish();
}

/// The registry takes the connection, and says nothing.
#[test]
#[ignore = "needs a Docker engine (TEST_DOCKER_HOST)"]
fn a_pull_is_cancelled_within_a_second() {
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/latent/worker:1", registry.local_addr().unwrap());
    let engine = Engine::docker();
    let scene = Scene::on(&engine);
    let worker = scene.worker("w", scene.driver(image).build().unwrap());
    let request = worker.substantiate(&Build::new("a build"));
    // So the pull is under way; the connection is kept open.
    let _waits = registry.accept().unwrap();
    let begun = Instant::now();
    request.cancel();
    scene.await_event(|kind| matches!(kind, EventKind::StartReturned { .. }).then_some(()));
    // A second on a machine with time for it.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    scene.finish();
}

fn progress(kind: &EventKind) -> Option<String> {
    match kind {
        EventKind::Progress { text } => Some(text.to_string()),
        _ => None,
    }
}
