//! A command does not find the secret of its agent, whichever way the secret was passed to the agent.
#![cfg(target_os = "linux")]

use std::fs;

use latent_worker::{Command, IdlePolicy};

use crate::program::{Agent, World};
use crate::support::{PATIENCE, text};

/// Prints all that a command can read of its ancestors up to the process `$1`, and where standard output of the last one
/// before that goes.
const LOOK: &str = r#"
p=$$
while [ "$p" -gt 1 ] && [ "$p" != "$1" ]; do
    cat "/proc/$p/environ" "/proc/$p/cmdline"
    for fd in "/proc/$p/fd/"*; do
        ls -l "$fd"
        if [ -f "$fd" ]; then head -c 65536 "$fd"; fi
    done
    echo "ancestor $p $(readlink "/proc/$p/fd/1") $(readlink "/proc/$p/fd/2")"
    p=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$p/status")
done
if [ -n "$2" ]; then cat "$2" && echo "it is st""ill there"; fi
true
"#;

/// Returns what a command sees if its agent got the secret by this variable, or from the file if there is one.
fn what_a_command_sees(variable: &str, in_file: bool) {
    let world = World::new(IdlePolicy::AfterBuild);
    let (mut request, start) = world.starting();
    let secret = start.secret().expose().to_owned();
    let file = world.place.path().join("secret");
    let value = if in_file {
        fs::write(&file, format!("{secret}\n")).unwrap();
        file.to_str().unwrap().to_owned()
    } else {
        secret.clone()
    };
    let _agent = Agent::start_with(world.address(), (variable, &value), world.place.path(), &["--follow-stdin"]);
    start.succeed();
    let lease = request.wait_timeout(PATIENCE).expect("it attaches in time").unwrap();
    let look = Command::exec([
        "sh",
        "-c",
        LOOK,
        "look",
        &std::process::id().to_string(),
        if in_file { file.to_str().unwrap() } else { "" },
    ]);
    let seen = lease.run(&look.keep_output(16 << 20)).unwrap();
    let (seen, complaints) = (String::from_utf8_lossy(&seen.stdout).into_owned(), text(&seen.stderr).to_owned());
    assert!(seen.contains("LATENT_WORKER_MASTER"), "it can read the environment of its agent: {complaints}");
    assert!(!seen.contains(&secret), "{variable}");
    assert!(!seen.contains("still there"), "{variable}");
    let agent = seen.lines().rfind(|line| line.contains("ancestor ")).expect("it has an ancestor");
    let outputs: Vec<_> = agent.split(' ').rev().take(2).collect();
    if !in_file {
        assert_eq!(outputs[0], outputs[1], "the pipe with the secret is closed");
    }
}

#[test]
fn a1_a_command_does_not_find_a_secret_of_the_environment() {
    what_a_command_sees("LATENT_WORKER_SECRET", false);
    what_a_command_sees("WORKERPASS", false);
}

#[test]
fn a1_a_command_does_not_find_a_secret_of_a_file() {
    what_a_command_sees("LATENT_WORKER_SECRET_FILE", true);
}
