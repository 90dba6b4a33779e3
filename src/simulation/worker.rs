//! One worker of a simulation: its lifecycle, and what the lifecycle's effects refer to. As `runtime::cell`, without
//! locks and threads.

use std::sync::Arc;
use std::time::Instant;

use super::pool::Serves;
use crate::build::{BuildId, Properties};
use crate::lifecycle::{Answer, ConnectionId, Effects, Fit, LeaseId, Lifecycle, Request, RequestId, Want};
use crate::placement::Facts;

/// Who is told the answer to a request.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    /// The queue has ordered an instance.
    Start,
    /// The queue asks whether the instance fits builds with these properties.
    Fit(Properties),
}

pub(super) struct Worker {
    pub(super) name: Arc<str>,
    pub(super) pool: usize,
    pub(super) life: Lifecycle,
    next_request: u64,
    pub(super) requests: Vec<(RequestId, Asker)>,
    /// What the instance of this attempt was started for.
    pub(super) made_for: Properties,
    pub(super) connection: Option<ConnectionId>,
    pub(super) leases: Vec<(LeaseId, BuildId)>,
    /// It is on the list of those that the queue has to look at.
    pub(super) dirty: bool,
    /// When it is looked after. It may be too early, never too late.
    pub(super) scheduled: Option<Instant>,
    /// When its start was called, until its stop has returned.
    pub(super) up_since: Option<Instant>,
    /// Since when at least one build runs.
    pub(super) busy_since: Option<Instant>,
}

impl Worker {
    pub(super) fn new(name: Arc<str>, pool: usize, life: Lifecycle) -> Self {
        Self {
            name,
            pool,
            life,
            next_request: 0,
            requests: Vec::new(),
            made_for: Properties::default(),
            connection: None,
            leases: Vec::new(),
            dirty: false,
            scheduled: None,
            up_since: None,
            busy_since: None,
        }
    }

    pub(super) fn facts(&self, now: Instant) -> Facts {
        Facts {
            version: self.life.version(),
            epoch: self.life.epoch(),
            standing: self.life.standing(now),
            call: self.life.call(),
            failure: self.life.quarantine_cause(),
            made_for: Some(self.made_for.clone()),
        }
    }

    /// Makes a request; the answer, if it comes at once.
    pub(super) fn request(
        &mut self,
        now: Instant,
        fit: Fit,
        want: Want,
        asker: Asker,
        effects: &mut Effects,
    ) -> Option<Answer> {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let answer = self.life.request(now, Request { id, want, fit }, effects);
        if answer.is_none() {
            self.requests.push((id, asker));
        }
        answer
    }

    /// Who asked for the attempt under way.
    pub(super) fn initiator(&self) -> Option<&Asker> {
        let first = self.life.initiator()?;
        self.requests.iter().find(|(id, _)| *id == first).map(|(_, asker)| asker)
    }

    /// The order of the queue to start, if it is still open.
    pub(super) fn start_request(&self) -> Option<RequestId> {
        self.requests.iter().find(|(_, asker)| matches!(asker, Asker::Start)).map(|(id, _)| *id)
    }

    /// What the driver says of the instance and a build with these properties.
    pub(super) fn fits(&self, serves: &Serves, properties: &Properties) -> bool {
        match serves {
            Serves::Asked(compatible) => compatible(&self.made_for, properties),
            Serves::Everything | Serves::Kinds(_) => true,
        }
    }
}
