//! A master whose workers are containers, images to make them of, and the engine as somebody else sees it.

pub(crate) mod daemon;
pub(crate) mod engine;
pub(crate) mod images;
pub(crate) mod registry;

#[path = "../../support/instances.rs"]
mod instances;

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::Receiver;
use latent_worker::{
    AgentListener, Build, DockerLatentWorker, DockerLatentWorkerBuilder, Event, EventKind, LatentWorker, Lease, Master,
    Setting, ShutdownMode, Worker,
};

use engine::{Engine, Listed};

pub(crate) use instances::{PATIENCE, eventually, failed, failure, said, stop};

/// A master with a listener, and containers that are known by a label of this test alone.
pub(crate) struct Scene {
    pub(crate) master: Master,
    pub(crate) events: Receiver<Event>,
    pub(crate) engine: Engine,
    listener: AgentListener,
    label: String,
}

/// The label that every container of these tests has.
pub(crate) const LABEL: &str = "test";

/// A value of it for one test alone.
pub(crate) fn label() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("lw-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Scene {
    pub(crate) fn on(engine: &Engine) -> Self {
        // Containers of a bridge network come from elsewhere; the port must be known before there is a master.
        let socket = TcpListener::bind("0.0.0.0:0").unwrap();
        let master = Master::builder().agent_address(socket.local_addr().unwrap().to_string()).build();
        let events = master.events(10_000);
        let listener = AgentListener::builder().listen_on(&master, vec![socket]).unwrap();
        Self { master, events, engine: engine.clone(), listener, label: label() }
    }

    /// The settings of a driver whose containers belong to this scene.
    pub(crate) fn driver(&self, image: impl Into<Setting<String>>) -> DockerLatentWorkerBuilder {
        let engine = self.engine.host().parse().expect("it is as DOCKER_HOST has it");
        DockerLatentWorker::builder(image).engine(engine).label(LABEL, self.label.as_str())
    }

    /// What there is of this test's containers, in whatever state.
    pub(crate) fn containers(&self) -> Vec<Listed> {
        self.engine.labelled(&format!("{LABEL}={}", self.label))
    }

    /// A worker that keeps its instance, and notices soon that it will not come up.
    pub(crate) fn worker(&self, name: &str, driver: impl LatentWorker) -> Worker {
        instances::add_worker(&self.master, name, driver)
    }

    pub(crate) fn await_event<T>(&self, pick: impl Fn(&EventKind) -> Option<T>) -> T {
        instances::await_event(&self.events, pick)
    }

    /// Ends everything; nothing may be left.
    pub(crate) fn finish(self) {
        let report = self.master.shutdown(ShutdownMode::Fast, PATIENCE);
        assert!(report.complete, "{report}");
        assert!(self.listener.shutdown(PATIENCE), "threads are left");
        assert_eq!(self.containers(), []);
    }
}

/// Also when the test has failed.
impl Drop for Scene {
    fn drop(&mut self) {
        if self.engine.answers() {
            self.master.shutdown(ShutdownMode::Fast, PATIENCE);
            self.containers().iter().for_each(|left| _ = self.engine.try_remove(&left.id));
        }
    }
}

pub(crate) fn lease(worker: &Worker, build: &Build) -> Lease {
    let mut request = worker.substantiate(build);
    request.wait_timeout(PATIENCE).expect("an answer in time").unwrap_or_else(|error| panic!("{error}"))
}

/// Makes tests of functions that take an engine: each with Docker's, and with Podman's compatible one.
macro_rules! on_every_engine {
    ($($case:ident),* $(,)?) => {
        $crate::support::on_every_engine![
            "needs a Docker engine (TEST_DOCKER_HOST) and a static agent (TEST_AGENT)",
            "needs Podman (TEST_PODMAN_HOST) and a static agent (TEST_AGENT)",
            $($case),*
        ];
    };
    ($docker:literal, $podman:literal, $($case:ident),* $(,)?) => {
        mod docker {
            $(
                #[test]
                #[ignore = $docker]
                fn $case() {
                    super::$case(&crate::support::engine::Engine::docker());
                }
            )*
        }
        mod podman {
            $(
                #[test]
                #[ignore = $podman]
                fn $case() {
                    super::$case(&crate::support::engine::Engine::podman());
                }
            )*
        }
    };
}
pub(crate) use on_every_engine;
