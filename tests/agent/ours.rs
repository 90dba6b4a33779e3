//! What our own agent does and the stock worker does not.

use std::time::{Duration, Instant};

use latent_worker::{Command, Exit, Output};

use crate::support::{Farm, Kind, PATIENCE, expect_numbered_lines, lease, next, numbered_lines, text};

const MIB: usize = 1 << 20;

#[test]
fn output_is_byte_exact() {
    let farm = Farm::new(Kind::Ours);
    let lease = lease(&farm.worker("w"));
    let finished = lease.run(&Command::shell("printf 'no newline'; printf '\\377\\000\\r\\351' >&2")).unwrap();
    assert_eq!((text(&finished.stdout), finished.stderr.as_slice()), ("no newline", &b"\xff\x00\r\xe9"[..]));

    let mut bytes = vec![0; 8 * MIB];
    fastrand::Rng::with_seed(8).fill(&mut bytes);
    let both = Command::shell("tee /dev/fd/2").stdin(bytes.clone()).keep_output(1 << 30);
    let finished = lease.run(&both).unwrap();
    assert!(finished.stdout == bytes && finished.stderr == bytes, "not the same came back");
    drop(lease);
    farm.finish();
}

/// The most memory that a process has had, in bytes.
#[cfg(target_os = "linux")]
fn peak_memory(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[test]
fn a_command_whose_output_nobody_reads_holds_up_no_other_one_and_no_memory() {
    let farm = Farm::new(Kind::Ours);
    let lease = lease(&farm.worker("w"));
    let mut unread = lease.start(&Command::shell(numbered_lines(100 * MIB))).unwrap();
    for _ in 0..2 {
        let mut running = lease.start(&Command::shell(numbered_lines(50 * MIB))).unwrap();
        assert_eq!(expect_numbered_lines(&mut running, 50 * MIB).exit, Exit::Code(0));
    }
    // The agent is the child of the process group's leader.
    #[cfg(target_os = "linux")]
    {
        let leader = farm.group("w").as_raw_nonzero();
        let agent = std::fs::read_to_string(format!("/proc/{leader}/task/{leader}/children")).unwrap();
        let peak = peak_memory(agent.trim().parse().unwrap());
        assert!(peak < 64 * MIB, "the agent had {peak} bytes");
    }
    // It waits where it was.
    assert_eq!(expect_numbered_lines(&mut unread, 100 * MIB).exit, Exit::Code(0));
    drop(unread);
    drop(lease);
    farm.finish();
}

#[test]
fn an_unread_command_is_interrupted() {
    let farm = Farm::new(Kind::Ours);
    let lease = lease(&farm.worker("w"));
    let mut running = lease.start(&Command::shell("cat /dev/zero")).unwrap();
    assert!(matches!(next(&mut running), Output::Stdout(_)));
    // It has long filled what there is to fill.
    assert!(lease.run(&Command::shell(numbered_lines(MIB)).keep_output(0)).unwrap().success());
    running.interrupt();
    let deadline = Instant::now() + PATIENCE;
    let end = loop {
        match next(&mut running) {
            Output::Stdout(_) => assert!(Instant::now() < deadline, "it goes on"),
            other => break other,
        }
    };
    assert!(matches!(&end, Output::End(end) if end.exit == Exit::Interrupted), "{end:?}");
    drop(running);
    drop(lease);
    farm.finish();
}

#[test]
fn forty_agents_work_at_once() {
    let farm = Farm::new(Kind::Ours);
    let workers: Vec<_> = (0..40).map(|number| farm.worker(&format!("w{number}"))).collect();
    let requests: Vec<_> =
        workers.iter().map(|worker| worker.substantiate(&latent_worker::Build::new("a build"))).collect();
    let leases: Vec<_> = requests
        .into_iter()
        .map(|mut request| request.wait_timeout(2 * PATIENCE).expect("it attaches in time").unwrap())
        .collect();
    let mut running: Vec<_> = leases
        .iter()
        .map(|lease| lease.start(&Command::shell(numbered_lines(MIB)).time_limit(Duration::from_secs(600))).unwrap())
        .collect();
    for running in &mut running {
        assert_eq!(expect_numbered_lines(running, MIB).exit, Exit::Code(0));
    }
    drop(running);
    drop(leases);
    farm.finish();
}
