//! The C ABI from C: programs that are compiled as C99 and as C++, and run plainly, under valgrind and with the address
//! sanitizer of the C compiler; and what the shared library and its header look like from outside.
//!
//! `TEST_CBINDGEN` is the path of cbindgen, for the test of the header.

#![cfg(unix)]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use shared_library::{FEATURES, library_folder};

#[path = "../support/shared_library.rs"]
mod shared_library;

const PROGRAMS: &[&str] = &[
    "tests/capi/life.c",
    "tests/capi/abuse.c",
    "tests/capi/callbacks.c",
    "tests/capi/reentry.c",
    "tests/capi/fork.c",
    "tests/capi/journal.c",
    "tests/capi/waits.c",
    AGENTS,
];
const AGENTS: &str = "tests/capi/agents.c";
const EXAMPLES: &[&str] = &["examples/c/driver.c"];

/// The languages that the header and all programs are.
#[derive(Clone, Copy)]
enum Language {
    C,
    Cpp,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn temporary() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs a command that must succeed, and returns what it wrote.
fn run(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Compiles a program with all warnings as errors; once, since tests that run at the same time use the same one.
fn compile(source: &str, language: Language, options: &[&str]) -> PathBuf {
    let (compiler, standard, tail) = match language {
        Language::C => ("cc", "-std=c99", "c"),
        Language::Cpp => ("c++", "-std=c++11", "cpp"),
    };
    let name = Path::new(source).file_stem().unwrap().to_str().unwrap();
    let program = temporary().join(format!("{name}-{tail}{}", options.concat()));
    static MADE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut made = MADE.lock().unwrap();
    if made.contains(&program) {
        return program;
    }
    let mut command = Command::new(compiler);
    command.args([standard, "-g", "-Wall", "-Wextra", "-Werror", "-pedantic-errors", "-Iinclude", "-Itests/capi"]);
    if matches!(language, Language::Cpp) {
        command.args(["-x", "c++"]);
    }
    command.args(options).arg(source).arg("-L").arg(library_folder());
    command.args(["-llatent_worker", "-pthread", "-o"]).arg(&program);
    run(&mut command);
    made.insert(program.clone());
    program
}

/// Runs a program, within at most ten minutes, with the library where it finds it.
fn execute(before: &[&str], program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.arg("600").args(before).arg(program).args(arguments).env("LD_LIBRARY_PATH", library_folder());
    run(&mut command)
}

fn all() -> impl Iterator<Item = &'static str> {
    PROGRAMS.iter().chain(EXAMPLES).copied()
}

/// What a program is told: one of them where the agent is.
fn arguments(source: &str) -> Vec<&'static str> {
    if source == AGENTS { vec![agent()] } else { vec![] }
}

/// An agent that is a program of its own. Built once.
fn agent() -> &'static str {
    static AGENT: OnceLock<String> = OnceLock::new();
    AGENT.get_or_init(|| {
        run(Command::new(env!("CARGO"))
            .args(["build", "--example", "agent", "--no-default-features", "--features", FEATURES])
            .arg("--target-dir")
            .arg(library_folder().parent().unwrap()));
        library_folder().join("examples/agent").to_str().unwrap().to_owned()
    })
}

#[test]
#[ignore = "needs a C and a C++ compiler"]
fn the_programs_run() {
    for source in all() {
        for language in [Language::C, Language::Cpp] {
            let mut arguments = arguments(source);
            if source.ends_with("fork.c") {
                arguments.push("exit");
            }
            execute(&[], &compile(source, language, &[]), &arguments);
        }
    }
}

#[test]
#[ignore = "needs a C compiler and valgrind"]
fn valgrind_finds_no_error_and_no_leak() {
    let valgrind = [
        "valgrind",
        "--quiet",
        "--error-exitcode=99",
        "--leak-check=full",
        // A thread that is just ending holds some bytes that are lost only possibly.
        "--errors-for-leak-kinds=definite,indirect",
        "--child-silent-after-fork=yes",
        // One thread runs at a time: with the usual turns, two that are always busy let a third wait for minutes.
        "--fair-sched=yes",
    ];
    for source in all() {
        execute(&valgrind, &compile(source, Language::C, &[]), &arguments(source));
    }
}

#[test]
#[ignore = "needs a C compiler with an address sanitizer"]
fn the_address_sanitizer_finds_no_error_and_no_leak() {
    for source in all() {
        execute(&[], &compile(source, Language::C, &["-fsanitize=address"]), &arguments(source));
    }
}

#[test]
#[ignore = "needs a C compiler"]
fn the_static_library_links() {
    run(Command::new(env!("CARGO"))
        .args(["rustc", "--lib", "--no-default-features", "--features", FEATURES, "--crate-type", "staticlib"])
        .arg("--target-dir")
        .arg(library_folder().parent().unwrap()));
    let (program, library) = (temporary().join("driver-static"), library_folder().join("liblatent_worker.a"));
    let mut command = Command::new("cc");
    command.args(["-std=c99", "-Iinclude", EXAMPLES[0]]).arg(&library).args(["-pthread", "-ldl", "-lm", "-o"]);
    run(command.arg(&program));
    execute(&[], &program, &[]);
}

#[test]
#[ignore = "needs a C compiler"]
fn the_example_keeps_a_journal() {
    let journal = temporary().join("driver.journal");
    let _ = fs::remove_file(&journal);
    let program = compile(EXAMPLES[0], Language::C, &[]);
    let told = execute(&[], &program, &[journal.to_str().unwrap()]);
    // The observer may be behind with its lines.
    assert!(told.lines().any(|line| line == "shut down"), "{told}");
    assert!(fs::metadata(&journal).unwrap().len() > 0);
}

/// What the library offers is what is on the list, and needs no more than what every system has.
#[test]
#[ignore = "needs nm and ldd"]
fn the_shared_library_offers_what_is_on_the_list_and_needs_only_libc() {
    let library = library_folder().join("liblatent_worker.so");
    let offered = run(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(&library));
    let offered: BTreeSet<_> = offered.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let listed = fs::read_to_string(root().join("tests/capi/symbols.txt")).unwrap();
    let listed: BTreeSet<_> = listed.lines().collect();
    assert_eq!(offered, listed, "a function that is gone, or has a new name, breaks who uses it");

    let needed = run(Command::new("ldd").arg(&library));
    let needed = needed.lines().map(|line| line.split_whitespace().next().unwrap());
    let is_known =
        |name: &&str| ["linux-vdso", "libgcc_s", "libc.so", "/lib"].iter().any(|known| name.starts_with(known));
    let surprising: Vec<_> = needed.filter(|name| !is_known(name)).collect();
    assert!(surprising.is_empty(), "{surprising:?}");
}

#[test]
#[ignore = "needs cbindgen, as TEST_CBINDGEN"]
fn the_header_is_what_is_generated() {
    let cbindgen = env::var_os("TEST_CBINDGEN").expect("TEST_CBINDGEN is the path of cbindgen");
    let generated = temporary().join("latent_worker.h");
    let mut command = Command::new(cbindgen);
    command.args(["--quiet", "--config", "cbindgen.toml", "--crate", "latent-worker", "--output"]);
    run(command.arg(&generated));
    let (generated, there) =
        (fs::read_to_string(generated), fs::read_to_string(root().join("include/latent_worker.h")));
    assert!(generated.unwrap() == there.unwrap(), "generate include/latent_worker.h again: see cbindgen.toml");
}

/// The list of functions of the shared library is that of the header, and so needs no compiler to be looked at.
#[test]
fn the_header_declares_what_is_on_the_list() {
    let header = fs::read_to_string(root().join("include/latent_worker.h")).unwrap();
    let declared: BTreeSet<_> = header
        .lines()
        .filter(|line| line.starts_with("lw_code lw_") || line.starts_with("const char *lw_"))
        .map(|line| line.split('(').next().unwrap().rsplit([' ', '*']).next().unwrap())
        .collect();
    let listed = fs::read_to_string(root().join("tests/capi/symbols.txt")).unwrap();
    assert_eq!(declared, listed.lines().collect());
}

/// A new function is called back too.
#[test]
fn callbacks_call_what_is_on_the_list() {
    let program = fs::read_to_string(root().join("tests/capi/reentry.c")).unwrap();
    let called = program.lines().filter_map(|line| line.trim().strip_prefix("ENTRY(")?.strip_suffix("),"));
    let called: Vec<_> = called.collect();
    let listed = fs::read_to_string(root().join("tests/capi/symbols.txt")).unwrap();
    assert_eq!(called.iter().copied().collect::<BTreeSet<_>>(), listed.lines().collect());
    assert_eq!(called.len(), listed.lines().count(), "one is there twice");
}
