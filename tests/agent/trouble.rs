//! Agents that are killed, hang, are not who they say they are, or come when nobody wants them any more.

use std::time::{Duration, Instant};

use latent_worker::{AgentListener, AttachError, Build, BuildError, BuildResult, Command, EventKind, LeaseEnd, Output};
use rustix::process::Signal;

use crate::support::{Farm, Kind, PATIENCE, Settings, eventually, lease, next};

for_both_agents! {
    w13_a_killed_agent_loses_its_build_to_another_one,
    a4_a_stopped_agent_is_noticed_by_the_heartbeat,
    a2_a_wrong_password_is_refused_and_counted,
    a3_a_second_agent_of_the_same_name_is_refused_while_the_first_works,
    a2_w7_an_agent_of_an_ended_attempt_is_told_to_shut_down_and_changes_nothing,
    a_build_is_cancelled_while_an_agent_runs_it,
}

fn w13_a_killed_agent_loses_its_build_to_another_one(kind: Kind) {
    let farm = Farm::new(kind);
    // An instance on which a build has finished: before that, its loss would count as a failed start.
    lease(&farm.worker("one")).finish(BuildResult::Succeeded);
    farm.worker("two");
    let ticket = farm.master.submit(Build::new("survivor"));
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    let mut running = lease.start(&Command::shell("echo begun; exec sleep 60")).unwrap();
    assert_eq!(next(&mut running), Output::Stdout(b"begun\n".to_vec()));
    farm.kill(lease.worker(), Signal::KILL);
    let error = running.recv_timeout(PATIENCE).unwrap_err();
    assert!(error.to_string().contains("the connection to the agent was lost"), "{error}");
    drop(running);
    assert!(matches!(lease.end(), Some(LeaseEnd::Lost(_))));
    let first = lease.worker().clone();
    lease.retry("lost");
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_ne!(lease.worker(), &first);
    assert!(lease.run(&Command::shell("true")).unwrap().success());
    assert_eq!(farm.master.worker(&first).unwrap().status().quarantine, None);
    lease.finish(BuildResult::Succeeded);
    farm.finish();
}

fn a4_a_stopped_agent_is_noticed_by_the_heartbeat(kind: Kind) {
    let listener = AgentListener::builder().heartbeat(Duration::from_millis(500), Duration::from_secs(5));
    let farm = Farm::with(kind, Settings { listener, ..Settings::default() });
    let lease = lease(&farm.worker("w"));
    // It answers pings: it stays for longer than the heartbeat allows without a word.
    assert!(lease.run(&Command::shell("sleep 7")).unwrap().success());
    farm.kill("w", Signal::STOP);
    let stopped = Instant::now();
    let end = lease.wait_end(PATIENCE);
    assert!(matches!(&end, Some(LeaseEnd::Lost(reason)) if reason.contains("not answered")), "{end:?}");
    // The default would be 30 s.
    assert!(stopped.elapsed() < Duration::from_secs(25), "{:?}", stopped.elapsed());
    drop(lease);
    farm.finish();
}

fn a2_a_wrong_password_is_refused_and_counted(kind: Kind) {
    let start = r#"LATENT_WORKER_SECRET=wrong exec "$@""#;
    let farm = Farm::with(kind, Settings { start, ..Settings::default() });
    let worker = farm.worker("w");
    let request = worker.substantiate(&Build::new("a build"));
    for _ in 0..2 {
        farm.await_kind(&EventKind::AttachRefused { error: AttachError::WrongSecret });
    }
    let status = worker.status();
    assert!(!status.attached && status.refused_agents >= 2, "{status}");
    request.cancel();
    farm.finish();
}

fn a3_a_second_agent_of_the_same_name_is_refused_while_the_first_works(kind: Kind) {
    let start = r#"set -e
        first=$("$@")
        second=$(LATENT_WORKER_KEY="$LATENT_WORKER_KEY-second"; "$@")
        echo "$first $second""#;
    let farm = Farm::with(kind, Settings { start, ..Settings::default() });
    let lease = lease(&farm.worker("twice"));
    farm.await_kind(&EventKind::AttachRefused { error: AttachError::AlreadyAttached });
    assert!(lease.run(&Command::shell("true")).unwrap().success());
    assert_eq!(lease.end(), None);
    drop(lease);
    farm.finish();
}

fn a2_w7_an_agent_of_an_ended_attempt_is_told_to_shut_down_and_changes_nothing(kind: Kind) {
    // The agent of the second attempt is late.
    let start = r#"[ "$LATENT_WORKER_EPOCH" = 2 ] || exec "$@"
        (until [ -e "$3/go" ]; do sleep 0.1; done; exec "$@") </dev/null >/dev/null 2>&1 &"#;
    // And the driver has lost all of them.
    let farm = Farm::with(kind, Settings { start, leave_running: true, ..Settings::default() });
    let worker = farm.worker("forgotten");

    // The close of an attached agent ends it.
    drop(lease(&worker));
    let first = farm.group("forgotten");
    assert!(worker.insubstantiate(false).wait_timeout(PATIENCE));
    assert!(farm.ends(first), "it was told to shut down as it was closed");

    // One that comes only when there is a newer one.
    let mut request = worker.substantiate(&Build::new("a build"));
    farm.await_event(|event| {
        event.epoch.is_some_and(|epoch| epoch.get() == 2) && event.kind.name() == "start_returned"
    });
    request.cancel();
    assert!(request.wait_timeout(PATIENCE).unwrap().is_err());
    let lease = lease(&worker);
    let third = farm.group("forgotten");
    std::fs::write(farm.place().join("go"), "").unwrap();
    farm.await_kind(&EventKind::AttachRefused { error: AttachError::Stale });
    assert!(eventually(|| farm.group("forgotten") != third));
    assert!(farm.ends(farm.group("forgotten")), "it was told to shut down as it came back");
    assert!(lease.run(&Command::shell("true")).unwrap().success());
    let status = worker.status();
    assert!(status.attached && status.epoch.get() == 3 && status.refused_agents == 1, "{status}");
    drop(lease);
    farm.finish();
}

fn a_build_is_cancelled_while_an_agent_runs_it(kind: Kind) {
    let farm = Farm::new(kind);
    farm.worker("w");
    let ticket = farm.master.submit(Build::new("cancelled"));
    let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    let mut running = lease.start(&Command::shell("echo begun; exec sleep 60")).unwrap();
    assert_eq!(next(&mut running), Output::Stdout(b"begun\n".to_vec()));
    ticket.cancel();
    assert!(running.recv_timeout(PATIENCE).is_err());
    drop(running);
    assert_eq!(lease.end(), Some(LeaseEnd::Cancelled));
    drop(lease);
    assert!(matches!(ticket.wait_timeout(PATIENCE).expect("an answer in time"), Err(BuildError::Cancelled)));
    farm.finish();
}
