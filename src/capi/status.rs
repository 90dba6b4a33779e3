//! Statuses and reports as JSON, for machines; each has a member `text` for people.
//!
//! Times are in whole milliseconds. Members are never removed and never change their meaning; later versions may add
//! some, and new words for states.

use std::time::Duration;

use super::json::{Json, object};
use crate::{
    BuildState, BuildStatus, DriverCall, LeftoverStatus, LeftoverStep, Master, NextStep, QueuePage, QueuedBuild,
    ShutdownReport, WorkerState, WorkerStatus,
};

pub(super) fn master(master: &Master) -> String {
    object(|json| {
        json.objects("workers", master.status(), |json, status| worker_members(json, &status));
        json.objects("leftovers", master.leftovers(), |json, leftover| leftover_members(json, &leftover));
        json.plain("unknown_agents", master.unknown_agents());
        json.optional_text("journal_damage", master.journal_damage().as_deref());
    })
}

pub(super) fn worker(status: &WorkerStatus) -> String {
    object(|json| worker_members(json, status))
}

pub(super) fn report(report: &ShutdownReport) -> String {
    object(|json| {
        json.plain("complete", report.complete);
        json.objects("in_flight", &report.in_flight, worker_members);
        json.objects("reclaiming", &report.reclaiming, leftover_members);
        json.objects("left_behind", &report.left_behind, leftover_members);
        json.text("text", &report.to_string());
    })
}

pub(super) fn build(status: &BuildStatus) -> String {
    object(|json| {
        json.plain("id", status.id.get());
        match &status.state {
            BuildState::Waiting(waiting) => {
                json.text("state", "waiting");
                json.plain("ahead", waiting.ahead);
                json.objects("kinds", &waiting.kinds, |json, kind| json.text("name", kind));
                json.objects("obstacles", &waiting.obstacles, |json, obstacle| {
                    json.text("reason", obstacle.reason.name());
                    json.plain("workers", obstacle.workers);
                    json.text("example", &obstacle.example);
                });
                json.text("next", &waiting.next.to_string());
            }
            BuildState::Running { worker } => {
                json.text("state", "running");
                json.text("worker", worker);
            }
        }
        json.objects("history", &status.history, |json, attempt| {
            json.text("worker", &attempt.worker);
            json.plain("epoch", attempt.epoch.get());
            json.text("reason", &attempt.reason);
        });
        json.text("text", &status.to_string());
    })
}

pub(super) fn queue(page: &QueuePage) -> String {
    object(|json| {
        json.plain("total", page.total);
        json.objects("waiting", &page.waiting, queued_members);
        json.objects("paused", &page.paused, queued_members);
        json.optional_text("next", page.next.map(|next| next.to_string()).as_deref());
        json.text("text", &page.to_string());
    })
}

fn queued_members(json: &mut Json<'_>, build: &QueuedBuild) {
    json.plain("id", build.id.get());
    json.text("name", &build.name);
    json.plain("priority", build.priority);
    json.plain("failed_attempts", build.failed_attempts);
    if let Some(paused) = build.paused {
        json.plain("paused_ms", paused.as_millis());
    }
}

fn worker_members(json: &mut Json<'_>, status: &WorkerStatus) {
    json.text("name", &status.name);
    json.text(
        "state",
        match status.state {
            WorkerState::NotSubstantiated => "not_substantiated",
            WorkerState::Substantiating => "substantiating",
            WorkerState::SubstantiatingStarting => "substantiating_starting",
            WorkerState::Substantiated => "substantiated",
            WorkerState::Insubstantiating => "insubstantiating",
            WorkerState::InsubstantiatingSubstantiating => "insubstantiating_substantiating",
            WorkerState::ShutDown => "shut_down",
        },
    );
    json.plain("state_for_ms", status.state_for.as_millis());
    json.plain("epoch", status.epoch.get());
    match &status.call {
        Some((call, since)) => json.object("call", |json| {
            json.text(
                "name",
                match call {
                    DriverCall::Start => "start",
                    DriverCall::Check => "check",
                    DriverCall::Compatible => "compatible",
                    DriverCall::Stop => "stop",
                    DriverCall::Kind => "kind",
                    DriverCall::Reclaim => "reclaim",
                },
            );
            json.plain("since_ms", since.as_millis());
        }),
        None => json.plain("call", "null"),
    }
    json.plain("attached", status.attached);
    json.plain("leases", status.leases);
    json.plain("waiting", status.waiting);
    match &status.next {
        Some((step, time)) => json.object("next", |json| {
            json.text(
                "step",
                match step {
                    NextStep::GiveUp => "give_up",
                    NextStep::Check => "check",
                    NextStep::StopIdle => "stop_idle",
                    NextStep::EndQuarantine => "end_quarantine",
                },
            );
            json.plain("in_ms", time.as_millis());
        }),
        None => json.plain("next", "null"),
    }
    json.texts("details", status.details.iter().map(String::as_str));
    match &status.last_failure {
        Some((reason, ago)) => json.object("last_failure", |json| {
            json.text("reason", reason);
            json.plain("ago_ms", ago.as_millis());
        }),
        None => json.plain("last_failure", "null"),
    }
    optional_ms(json, "quarantine_ms", status.quarantine);
    json.plain("paused", status.paused);
    json.plain("held", status.held);
    json.plain("in_journal", status.in_journal);
    json.plain("refused_agents", status.refused_agents);
    json.text("text", &status.to_string());
}

fn leftover_members(json: &mut Json<'_>, leftover: &LeftoverStatus) {
    json.text("worker", &leftover.worker);
    json.plain("epoch", leftover.epoch.get());
    json.text("key", &leftover.key);
    json.text("owner", &leftover.owner);
    json.texts("ids", leftover.ids.iter().map(AsRef::as_ref));
    json.text("stage", &leftover.stage.to_string());
    json.plain("of_earlier_master", leftover.of_earlier_master);
    json.plain("since_ms", leftover.since.as_millis());
    json.plain("tries", leftover.tries);
    json.optional_text("reason", leftover.reason.as_deref());
    let (next, in_ms) = match leftover.next {
        LeftoverStep::NoWorker => ("no_worker", None),
        LeftoverStep::ReclaimIn(time) => ("reclaim", Some(time)),
        LeftoverStep::Reclaiming(_) => ("reclaiming", None),
        LeftoverStep::Unsupported => ("unsupported", None),
    };
    json.text("next", next);
    optional_ms(json, "next_in_ms", in_ms);
    json.text("text", &leftover.to_string());
}

fn optional_ms(json: &mut Json<'_>, name: &str, time: Option<Duration>) {
    match time {
        Some(time) => json.plain(name, time.as_millis()),
        None => json.plain(name, "null"),
    }
}
