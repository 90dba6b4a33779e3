//! What the settings of the driver are to the engine.

use serde_json::json;

use latent_worker::{Build, ByteSize, EventKind, ImageRecipe, Setting};

use crate::support::engine::Engine;
use crate::support::images::{Context, Image};
use crate::support::{Scene, lease, on_every_engine, said, stop};

on_every_engine![
    limits_and_more_reach_the_engine,
    an_anonymous_volume_goes_with_its_container,
    a1_a_secret_in_a_file_is_not_seen_by_looking_at_the_container,
    an_image_is_built_from_a_directory_when_it_is_missing,
];

fn limits_and_more_reach_the_engine(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let cpus = Setting::<f64>::template("{cpus:-1}").unwrap();
    let driver = scene.driver(image.reference()).memory(ByteSize::new(256 << 20)).cpus(cpus);
    let driver = driver.host_config(json!({ "ReadonlyRootfs": false, "ShmSize": 1 << 20 })).build().unwrap();
    let worker = scene.worker("w", driver);
    let held = lease(&worker, &Build::new("a build").with_property("cpus", "0.5"));
    let host = &engine.inspect(&scene.containers()[0].id)["HostConfig"];
    assert_eq!(host["Memory"], 256 << 20);
    assert_eq!(host["NanoCpus"], 500_000_000);
    assert_eq!(host["ShmSize"], 1 << 20);
    assert_eq!(host["Init"], true);
    drop(held);
    scene.finish();
}

fn an_anonymous_volume_goes_with_its_container(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let worker = scene.worker("w", scene.driver(image.reference()).volume("/data").build().unwrap());
    let held = lease(&worker, &Build::new("a build"));
    assert_eq!(said(&held, "echo kept > /data/file; cat /data/file"), "kept\n");
    let mounts = engine.inspect(&scene.containers()[0].id)["Mounts"].clone();
    let volume = mounts[0]["Name"].as_str().unwrap();
    assert!(engine.has_volume(volume));
    drop(held);
    stop(&worker);
    assert!(!engine.has_volume(volume));
    scene.finish();
}

fn a1_a_secret_in_a_file_is_not_seen_by_looking_at_the_container(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    // A root that cannot be written to makes no difference.
    let driver = scene.driver(image.reference()).secret_in_file().volume("/work");
    let driver = driver.host_config(json!({ "ReadonlyRootfs": true })).build().unwrap();
    let worker = scene.worker("w", driver);
    let held = lease(&worker, &Build::new("a build"));
    let file = said(&held, "cat $LATENT_WORKER_SECRET_FILE; echo; echo \"[$LATENT_WORKER_SECRET]\"");
    // An agent may have removed the file, and keeps the variable from its commands.
    let seen = engine.inspect(&scene.containers()[0].id).to_string();
    assert!(seen.contains("LATENT_WORKER_SECRET_FILE") && !seen.contains("LATENT_WORKER_SECRET="), "{seen}");
    for word in file.split_whitespace().filter(|word| word.len() == 64) {
        assert!(!seen.contains(word), "{seen}");
    }
    let inspected = engine.inspect(&scene.containers()[0].id);
    let mounts = inspected["Mounts"].as_array().unwrap();
    let volumes: Vec<_> = mounts.iter().filter_map(|mount| mount["Name"].as_str()).collect();
    assert_eq!(volumes.len(), 2, "{inspected}");
    assert!(volumes.iter().all(|volume| engine.has_volume(volume)));
    drop(held);
    stop(&worker);
    assert!(!volumes.iter().any(|volume| engine.has_volume(volume)), "the file with the secret is left");
    scene.finish();
}

fn an_image_is_built_from_a_directory_when_it_is_missing(engine: &Engine) {
    let scene = Scene::on(engine);
    let built = Image::to_be_built(engine);
    let context = Context::agent("built");
    let recipe = ImageRecipe::directory(context.path());
    let worker = scene.worker("w", scene.driver(built.reference()).build_image_from(recipe).build().unwrap());
    assert_eq!(said(&lease(&worker, &Build::new("a build")), "cat /kind"), "built");
    let told: Vec<String> = scene
        .events
        .try_iter()
        .filter_map(|event| match event.kind {
            EventKind::Progress { text } => Some(text.to_string()),
            _ => None,
        })
        .collect();
    assert!(told.iter().any(|text| text.contains("COPY root")), "{told:?}");
    stop(&worker);
    // It is there now.
    drop(context);
    assert_eq!(said(&lease(&worker, &Build::new("another")), "cat /kind"), "built");
    scene.finish();
}
