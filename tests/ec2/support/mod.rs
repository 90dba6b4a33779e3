//! A master whose workers are machines, the provider that has them, and what boots on them.

pub(crate) mod cloud;
pub(crate) mod front;
pub(crate) mod moto;
pub(crate) mod room;

#[path = "../../support/instances.rs"]
mod instances;

use std::net::TcpListener;
use std::time::Duration;

use crossbeam_channel::Receiver;
use latent_worker::{
    AgentListener, Ami, AwsCredentials, Build, DriverCall, Ec2LatentWorker, Ec2LatentWorkerBuilder, Event, EventKind,
    LatentWorker, Lease, Master, Offer, Secret, ShutdownMode, Worker,
};

use cloud::{Cloud, Machine};
use front::Front;
use room::{Room, USER_DATA};

pub(crate) use instances::{PATIENCE, eventually, failed, failure, said, stop};

pub(crate) const TYPE: &str = "t3.micro";

/// A master with a listener, and an account of its own.
pub(crate) struct Scene {
    pub(crate) master: Master,
    pub(crate) events: Receiver<Event>,
    pub(crate) cloud: Cloud,
    pub(crate) front: Front,
    /// An image that is there.
    pub(crate) image: String,
    listener: AgentListener,
    /// Where it listens.
    pub(crate) address: String,
    pub(crate) room: Room,
}

/// The same key for all: moto has one account.
pub(crate) fn credentials() -> AwsCredentials {
    AwsCredentials::new("AKIATEST", Secret::new("of the tests"))
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::at(Cloud::new(), true)
    }

    /// In this account, with agents on the machines or without.
    pub(crate) fn at(cloud: Cloud, boots: bool) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let master = Master::builder().agent_address(&*address).build();
        let events = master.events(100_000);
        let listener = AgentListener::builder().listen_on(&master, vec![socket]).unwrap();
        let (front, image) = (Front::before(&cloud), cloud.image("runner-1"));
        let room = if boots { Room::of(&cloud) } else { Room::empty() };
        Self { master, events, cloud, front, image, listener, address, room }
    }

    /// A driver of this region, which is seen through the front.
    pub(crate) fn driver(&self) -> Ec2LatentWorkerBuilder {
        self.bare_driver().image(Ami::id(&*self.image)).offer(Offer::new(TYPE))
    }

    /// Without an image and an offer.
    pub(crate) fn bare_driver(&self) -> Ec2LatentWorkerBuilder {
        quick(Ec2LatentWorker::builder())
            .region(self.cloud.region)
            .endpoint(self.front.url())
            .credentials(credentials())
            .master_address(&*self.address)
            .user_data(USER_DATA)
    }

    /// A worker that keeps its instance, and notices soon that it will not come up.
    pub(crate) fn worker(&self, name: &str, driver: impl LatentWorker) -> Worker {
        instances::add_worker(&self.master, name, driver)
    }

    /// The only machine that costs something.
    pub(crate) fn machine(&self) -> Machine {
        let machines = self.cloud.machines();
        let [machine] = &machines[..] else { panic!("{machines:?}") };
        machine.clone()
    }

    pub(crate) fn await_event<T>(&self, pick: impl Fn(&EventKind) -> Option<T>) -> T {
        instances::await_event(&self.events, pick)
    }

    /// The same as [`finish`](Self::finish), after all that was left behind was reclaimed.
    pub(crate) fn finish_in_the_end(self) {
        assert!(eventually(|| self.master.leftovers().is_empty()), "{:?}", self.master.leftovers());
        self.finish();
    }

    /// Ends everything; nothing may be left.
    pub(crate) fn finish(self) {
        let report = self.master.shutdown(ShutdownMode::Fast, PATIENCE);
        assert!(report.complete, "{report}");
        assert_eq!(self.master.leftovers(), []);
        assert!(self.listener.shutdown(PATIENCE), "threads are left");
        assert_eq!(self.cloud.machines(), []);
    }
}

/// With short waits.
pub(crate) fn quick(driver: Ec2LatentWorkerBuilder) -> Ec2LatentWorkerBuilder {
    driver
        .poll_interval(Duration::from_millis(100))
        .call_limit(Duration::from_secs(8))
        .listing_lag(Duration::from_secs(2))
}

/// When the start has returned, too: an agent is there before the start has looked at its machine again.
pub(crate) fn lease(worker: &Worker, build: &Build) -> Lease {
    let mut request = worker.substantiate(build);
    let lease = request.wait_timeout(PATIENCE).expect("an answer in time").unwrap_or_else(|error| panic!("{error}"));
    assert!(eventually(|| worker.status().call.is_none_or(|(call, _)| call != DriverCall::Start)), "the start hangs");
    let status = worker.status();
    assert!(!status.details.is_empty(), "the start has failed: {status}");
    lease
}

/// Waits until a start has returned well, whose agent has not come.
pub(crate) fn started(worker: &Worker) {
    let up = || !worker.status().details.is_empty() && worker.status().call.is_none();
    assert!(eventually(up), "{}", worker.status());
}
