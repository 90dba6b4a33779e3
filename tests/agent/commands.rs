//! Commands: what they are given, what they say and how they end.

use std::path::Path;
use std::time::{Duration, Instant};

use latent_worker::{BuildResult, Command, CommandError, ConnectedAgent, Exit, Output};

use crate::support::{Farm, Kind, PATIENCE, expect_numbered_lines, lease, next, numbered_lines, text};

const MIB: usize = 1 << 20;

for_both_agents! {
    commands_get_their_environment_and_directory_and_say_how_they_ended,
    signals_limits_and_interrupts_end_commands,
    much_input_and_long_lines_pass,
    a_hundred_mebibytes_of_output_come_line_by_line,
}

fn commands_get_their_environment_and_directory_and_say_how_they_ended(kind: Kind) {
    let farm = Farm::new(kind);
    let lease = lease(&farm.worker("w"));
    let agent = lease.agent::<ConnectedAgent>().unwrap();
    assert_eq!(agent.system(), "posix");
    let version = if kind == Kind::Stock { "4." } else { env!("CARGO_PKG_VERSION") };
    assert!(agent.version().contains(version), "{}", agent.version());
    let basedir = Path::new(agent.basedir()).canonicalize().unwrap();

    let finished = lease.run(&Command::shell("pwd -P; echo oops >&2; exit 3")).unwrap();
    assert_eq!(Path::new(text(&finished.stdout).trim()), basedir);
    assert_eq!(text(&finished.stderr), "oops\n");
    assert_eq!(finished.end.exit, Exit::Code(3));
    assert_eq!(lease.run(&Command::shell("exit 255")).unwrap().end.exit, Exit::Code(255));

    let finished = lease.run(&Command::exec(["printf", "%s\\n", "a b", "ü"])).unwrap();
    assert_eq!((text(&finished.stdout), finished.success()), ("a b\nü\n", true));

    lease.files().make_directory("sub/dir").unwrap();
    let finished = lease.run(&Command::exec(["pwd", "-P"]).directory("sub/dir")).unwrap();
    assert_eq!(Path::new(text(&finished.stdout).trim()), basedir.join("sub/dir"));
    let finished = lease.run(&Command::exec(["pwd"]).directory("/")).unwrap();
    assert_eq!(text(&finished.stdout), "/\n");

    let show = Command::shell("echo $A ${HOME-none} ${PATH:+path}").env("A", "1").env_remove("HOME");
    assert_eq!(text(&lease.run(&show).unwrap().stdout), "1 none path\n");

    // Nothing is read as the end of a line that is none.
    let finished = lease.run(&Command::shell("printf 'a\\r\\nb\\rc\\033[2Jd\\b\\n'")).unwrap();
    assert_eq!(text(&finished.stdout), "a\r\nb\rc\x1b[2Jd\x08\n");

    lease.finish(BuildResult::Succeeded);
    farm.finish();
}

fn signals_limits_and_interrupts_end_commands(kind: Kind) {
    let farm = Farm::new(kind);
    let lease = lease(&farm.worker("w"));
    let exit = |command: &Command| lease.run(command).unwrap().end.exit;

    assert_eq!(exit(&Command::shell("kill -TERM $$")), Exit::Signal(15));
    assert_eq!(exit(&Command::shell("kill -SEGV $$ # \nprocess killed by signal 3")), Exit::Signal(11));
    let limit = Duration::from_millis(300);
    assert_eq!(exit(&Command::exec(["sleep", "600"]).time_limit(limit)), Exit::TimeLimit);
    assert_eq!(exit(&Command::shell("while :; do echo x; sleep 0.05; done").time_limit(limit)), Exit::TimeLimit);
    assert_eq!(exit(&Command::shell("echo x; exec sleep 600").silence_limit(limit)), Exit::SilenceLimit);
    let missing = lease.run(&Command::exec(["./no-such-program"])).unwrap_err();
    assert!(missing.to_string().contains("No such file"), "{missing}");

    let mut running = lease.start(&Command::shell("echo here; exec sleep 600")).unwrap();
    assert_eq!(next(&mut running), Output::Stdout(b"here\n".to_vec()));
    let interrupted = Instant::now();
    running.interrupt();
    running.interrupt();
    match next(&mut running) {
        Output::End(end) => assert_eq!(end.exit, Exit::Interrupted),
        other => panic!("{other:?}"),
    }
    assert!(interrupted.elapsed() < PATIENCE);
    drop(running);
    assert!(lease.run(&Command::shell("true")).unwrap().success());
    drop(lease);
    farm.finish();
}

fn much_input_and_long_lines_pass(kind: Kind) {
    let farm = Farm::new(kind);
    let lease = lease(&farm.worker("w"));

    let stdin: Vec<u8> = b"0123456789abcdef\n".iter().copied().cycle().take(17 * 180_000).collect();
    let finished = lease.run(&Command::exec(["cat"]).stdin(stdin.clone()).keep_output(1 << 30)).unwrap();
    assert!(finished.success() && finished.stdout == stdin, "{} bytes came back", finished.stdout.len());
    // A program that does not want it all.
    assert!(lease.run(&Command::shell("head -c 1 >/dev/null").stdin(stdin)).unwrap().success());
    assert_eq!(lease.run(&Command::exec(["cat"])).unwrap().stdout, b"");

    let one = "head -c 1048576 /dev/zero | tr '\\0' x; echo";
    let both = format!("{one}; echo after; {{ {one}; }} >&2");
    let finished = lease.run(&Command::shell(both).keep_output(1 << 30)).unwrap();
    let line = [vec![b'x'; MIB], b"\n".to_vec()].concat();
    assert!(finished.stderr == line, "{} bytes of one line", finished.stderr.len());
    assert!(finished.stdout == [&line, &b"after\n"[..]].concat(), "{} bytes", finished.stdout.len());
    drop(lease);
    farm.finish();
}

fn a_hundred_mebibytes_of_output_come_line_by_line(kind: Kind) {
    let farm = Farm::new(kind);
    let lease = lease(&farm.worker("w"));
    let mut running = lease.start(&Command::shell(numbered_lines(100 * MIB))).unwrap();
    let end = expect_numbered_lines(&mut running, 100 * MIB);
    assert_eq!(end.exit, Exit::Code(0));
    assert!(matches!(running.recv(), Err(CommandError::NoEnd)), "nothing comes after the end");
    drop(running);
    drop(lease);
    farm.finish();
}
