//! Tests an agent that is the first process of a container: it inherits orphans of commands, and reaps them. The test
//! uses a child subreaper instead of a container.
#![cfg(all(target_os = "linux", feature = "local"))]

use std::fs;
use std::time::{Duration, Instant};

use latent_worker::{Agent, Command, Exit, LocalAgent, Output};

const ALONE: &str = "LW_TEST_ALONE";
const LONG: Duration = Duration::from_secs(60);

/// The children of this process that have ended and were not reaped.
fn zombies() -> usize {
    let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let children: String = fs::read_dir("/proc/self/task").unwrap().flatten().map(children).collect();
    let is_zombie =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    children.split_whitespace().filter(is_zombie).count()
}

#[test]
fn an_agent_reaps_what_it_inherits_and_steals_the_end_of_no_command() {
    if std::env::var_os(ALONE).is_none() {
        let name = std::thread::current().name().unwrap().to_owned();
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let again = again.args(["--exact", &name]).env(ALONE, "1").output().unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
        return;
    }
    rustix::process::set_child_subreaper(Some(rustix::process::Pid::INIT)).unwrap();
    let agent = LocalAgent::in_directory(std::env::temp_dir());
    agent.reap_orphans().unwrap();
    let begin = Instant::now();
    // Long enough for the reaper to look while commands begin and end.
    let mut commands = 0;
    while commands < 50 || begin.elapsed() < Duration::from_millis(2500) {
        commands += 1;
        let process = agent.start_command(&Command::shell("(setsid true &); exit 3")).unwrap();
        let end = loop {
            match process.output().recv_timeout(LONG).unwrap() {
                Output::End(end) => break end,
                Output::Failed(reason) => panic!("{reason}"),
                _ => {}
            }
        };
        assert_eq!(end.exit, Exit::Code(3));
    }
    while zombies() > 0 {
        assert!(begin.elapsed() < LONG, "{} zombies", zombies());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(agent.close_and_wait(LONG));
}
