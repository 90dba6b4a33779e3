//! J4: containers of others, however much they look like ours, and ours after a crash of the master.

use serde_json::{Map, Value, json};

use latent_worker::Build;

use crate::support::engine::{Engine, Listed};
use crate::support::images::Image;
use crate::support::{Scene, lease, on_every_engine, stop};

on_every_engine![j4_a_container_whose_name_begins_like_ours_survives];

fn j4_a_container_whose_name_begins_like_ours_survives(engine: &Engine) {
    let image = Image::agent(engine, "a");
    let scene = Scene::on(engine);
    let worker = scene.worker("w", scene.driver(image.reference()).build().unwrap());
    let first = lease(&worker, &Build::new("a build"));
    let neighbour = Neighbour::of(engine, &scene.containers()[0], image.reference()).expect("it runs");
    drop(first);
    stop(&worker);
    // And the start of the next one.
    drop(lease(&worker, &Build::new("another")));
    assert!(neighbour.runs());
    scene.finish();
    assert!(neighbour.runs());
}

/// Somebody else's container. Its name is one of ours and a letter more, and so are the values of its labels.
pub(crate) struct Neighbour {
    engine: Engine,
    id: String,
}

impl Neighbour {
    /// None when ours is gone by now: the engine may have been about to remove it.
    pub(crate) fn of(engine: &Engine, ours: &Listed, image: &str) -> Option<Self> {
        let ours_now = engine.try_inspect(&ours.id)?;
        let labels: Map<String, Value> = ours_now["Config"]["Labels"].as_object().unwrap().clone();
        let longer = |(name, value): (String, Value)| (name, Value::from(format!("{}0", value.as_str().unwrap())));
        let labels: Map<String, Value> = labels.into_iter().map(longer).collect();
        let body = json!({ "Image": image, "Cmd": ["sleep", "1000000"], "Labels": labels });
        let id = engine.run(&format!("{}0", ours.name), &body);
        Some(Self { engine: engine.clone(), id })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn runs(&self) -> bool {
        self.engine.runs(&self.id)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.engine.try_remove(&self.id);
    }
}
