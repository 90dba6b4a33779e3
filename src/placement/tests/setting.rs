//! What may happen in a [`World`](super::world::World), and who is in it.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::PlacementConfig;
use crate::build::{Build, Labels, Properties};
use crate::worker::IdlePolicy;

/// What may happen in a world, and who is in it.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) workers: Vec<WorkerSetup>,
    pub(super) builds: Vec<BuildSetup>,
    pub(super) idle: IdlePolicy,
    pub(super) placement: PlacementConfig,
    /// What starts and builds are expected to take, unless it is learned; `None` when nothing is known.
    pub(super) expected: Option<(Duration, Duration)>,
    pub(super) learns: bool,
    /// Orders, answers and facts arrive some time later; else at once.
    pub(super) late_orders: bool,
    pub(super) late_answers: bool,
    pub(super) late_facts: bool,
    /// Orders and answers overtake each other.
    pub(super) overtaking: bool,
    /// Facts may be overtaken by newer ones and arrive after them.
    pub(super) stale_facts: bool,
    pub(super) cancels: bool,
    pub(super) retries: bool,
    pub(super) failures: bool,
    pub(super) hangs: bool,
    /// Agents lose their connection.
    pub(super) losses: bool,
    pub(super) pauses: bool,
    /// Workers are used beside the queue as well.
    pub(super) direct: bool,
    /// Instances are found to be bad.
    pub(super) retires: bool,
    /// Leases lie about until somebody takes them.
    pub(super) claims: bool,
    pub(super) shutdowns: bool,
    /// Workers whose drivers say the same have one driver.
    pub(super) shared_drivers: bool,
    /// Drivers that say kinds never answer.
    pub(super) silent: bool,
    /// A build that has ended is submitted again as a new one.
    pub(super) endless: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            workers: Vec::new(),
            builds: Vec::new(),
            idle: IdlePolicy::Never,
            placement: PlacementConfig::new().with_max_attempts(const { NonZeroU32::new(3).unwrap() }),
            expected: None,
            learns: false,
            late_orders: false,
            late_answers: false,
            late_facts: false,
            overtaking: false,
            stale_facts: false,
            cancels: false,
            retries: false,
            failures: false,
            hangs: false,
            losses: false,
            pauses: false,
            direct: false,
            retires: false,
            claims: false,
            shutdowns: false,
            shared_drivers: false,
            silent: false,
            endless: false,
        }
    }
}

/// What its driver says of kinds.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Driver {
    Any,
    Asked,
    /// It says the kind, and refuses builds of this one.
    Says {
        refuses: Option<char>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct WorkerSetup {
    pub(super) labels: Labels,
    pub(super) driver: Driver,
    pub(super) max_builds: usize,
}

/// Builds whose kinds begin with the same letter can use the same instances.
#[derive(Clone, Debug)]
pub(super) struct BuildSetup {
    pub(super) labels: Labels,
    pub(super) priority: i32,
    pub(super) kind: &'static str,
    pub(super) max_attempts: Option<NonZeroU32>,
}

impl BuildSetup {
    pub(super) fn build(&self) -> Build {
        let build = self.labels.iter().cloned().fold(Build::new("b"), Build::with_label);
        let build = build.with_priority(self.priority).with_properties(properties(self.kind));
        self.max_attempts.into_iter().fold(build, Build::with_max_attempts)
    }
}

pub(super) fn properties(kind: &str) -> Properties {
    [("kind", kind)].into_iter().collect()
}

pub(super) fn letter(properties: &Properties) -> Option<char> {
    properties.get("kind").and_then(|kind| kind.chars().next())
}
