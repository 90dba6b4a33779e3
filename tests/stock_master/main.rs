//! Our agent attaches to an unmodified Buildbot master, which takes it for a worker: it runs a build there, and the
//! master's own records say how that went.
//!
//! The test needs the program, which `.ci/run` installs and names in `TEST_BUILDBOT`, and the example `agent`, which
//! `cargo test` builds. What a stock master cannot do itself is not tried: its downloads arrive empty at its own worker
//! too. It listens for agents on all addresses of the machine.
#![cfg(unix)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The longest wait for what takes a moment; that Python starts is one.
const PATIENCE: Duration = Duration::from_secs(120);
const SECRET: &str = "a-secret-of-this-test";
/// As Buildbot numbers results.
const SUCCESS: u64 = 0;
const FAILURE: u64 = 2;

/// A process, killed with this.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory, removed with this.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The master's interface for programs.
struct Rest {
    port: u16,
}

impl Rest {
    /// `None` when nobody answers.
    fn exchange(&self, request: &str) -> Option<Vec<u8>> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        socket.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).ok()?;
        let head = answer.windows(4).position(|end| end == b"\r\n\r\n")?;
        let body = answer.split_off(head + 4);
        assert!(answer.windows(7).any(|part| part == b" 200 OK"), "{}", String::from_utf8_lossy(&answer));
        Some(body)
    }

    fn raw(&self, path: &str) -> Option<Vec<u8>> {
        self.exchange(&format!("GET /api/v2/{path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"))
    }

    fn get(&self, path: &str) -> Value {
        serde_json::from_slice(&self.raw(path).expect("the master answers")).unwrap()
    }

    fn control(&self, path: &str, method: &str) {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"reason": "a test"}}).to_string();
        let answer = self.exchange(&format!(
            "POST /api/v2/{path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer: Value = serde_json::from_slice(&answer.expect("the master answers")).unwrap();
        assert!(answer.get("error").is_none_or(Value::is_null), "{answer}");
    }

    /// What a step has said, each line after a letter: `o` for output, `e` for errors, `h` for the worker's own words.
    fn log(&self, step: &Value) -> String {
        let logs = self.get(&format!("steps/{}/logs", step["stepid"]));
        let Some(log) = logs["logs"].get(0) else { return String::new() };
        let content = self.get(&format!("logs/{}/contents", log["logid"]));
        content["logchunks"].as_array().unwrap().iter().map(|chunk| chunk["content"].as_str().unwrap()).collect()
    }
}

/// Nobody tells.
fn await_that(what: &str, master: &Path, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        let log = || fs::read_to_string(master.join("twistd.log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "{what}: it does not come to that\n{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Free ports that are not the same.
fn free_ports() -> [u16; 2] {
    let sockets = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

fn start_master(directory: &Path, agents: u16, web: u16) -> Killed {
    let buildbot = std::env::var_os("TEST_BUILDBOT").expect("the path of buildbot");
    let created = Command::new(&buildbot).args(["create-master", "--no-logrotate"]).arg(directory).output().unwrap();
    assert!(created.status.success(), "{created:?}");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stock_master/master.cfg");
    fs::copy(config, directory.join("master.cfg")).unwrap();
    let output = File::create(directory.join("output")).unwrap();
    let master = Command::new(&buildbot)
        .args(["start", "--nodaemon"])
        .arg(directory)
        .env("TEST_AGENT_PORT", agents.to_string())
        .env("TEST_WEB_PORT", web.to_string())
        .env("TEST_SECRET", SECRET)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn();
    Killed(master.unwrap())
}

fn start_agent(directory: &Path, port: u16) -> Killed {
    let tests = std::env::current_exe().unwrap();
    let agent = tests.ancestors().nth(2).unwrap().join("examples/agent");
    assert!(agent.exists(), "{} is missing: cargo build --example agent --features agent", agent.display());
    fs::create_dir(directory).unwrap();
    let agent = Command::new(agent)
        .arg(directory)
        .env_remove("LATENT_WORKER_MASTER")
        .env("BUILDMASTER", "127.0.0.1")
        .env("BUILDMASTER_PORT", port.to_string())
        .env("WORKERNAME", "stock")
        .env("WORKERPASS", SECRET)
        .stdin(Stdio::null())
        .spawn();
    Killed(agent.unwrap())
}

#[test]
#[ignore = "needs buildbot"]
fn our_agent_runs_a_build_of_a_stock_master_and_ends_when_that_says_so() {
    let place = Place(std::env::temp_dir().join(format!("lw-stock-master-{}", std::process::id())));
    fs::create_dir(&place.0).unwrap();
    let [agents, web] = free_ports();
    let directory = place.0.join("master");
    let _master = start_master(&directory, agents, web);
    let rest = Rest { port: web };
    await_that("the master is up", &directory, || rest.raw("workers").is_some());
    let mut agent = start_agent(&place.0.join("agent"), agents);
    let worker = || rest.get("workers/stock")["workers"][0].clone();
    await_that("the agent is attached", &directory, || {
        worker()["connected_to"].as_array().is_some_and(|masters| !masters.is_empty())
    });
    let info = &worker()["workerinfo"];
    assert!(info["version"].as_str().unwrap().contains(env!("CARGO_PKG_VERSION")), "{info}");

    rest.control("forceschedulers/force", "force");
    let build = || rest.get("builds")["builds"].get(0).cloned();
    await_that("the build has ended", &directory, || build().is_some_and(|build| build["complete"] == true));
    let build = build().unwrap();
    let steps = rest.get(&format!("builds/{}/steps", build["buildid"]))["steps"].clone();
    let steps = steps.as_array().unwrap();
    let step = |name: &str| {
        steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no step {name:?} in {steps:#?}"))
    };
    let log = |name: &str| rest.log(step(name));
    let good = [
        "streams",
        "arguments",
        "carriage returns",
        "environment",
        "long line",
        "input",
        "make",
        "fill",
        "exists",
        "upload",
        "remove",
        "removed",
    ];
    for name in good {
        assert_eq!(step(name)["results"], SUCCESS, "{name}: {}\n{}", step(name), log(name));
    }
    for name in ["missing program", "killed", "silent", "upload of nothing", "fails"] {
        assert_eq!(step(name)["results"], FAILURE, "{name}: {}\n{}", step(name), log(name));
    }
    assert_eq!(build["results"], FAILURE);

    let has = |name: &str, line: &str| {
        let log = log(name);
        assert!(log.lines().any(|found| found == line), "{name} has no line {line:?}:\n{log}");
    };
    has("streams", "oout");
    has("streams", "eerr");
    has("arguments", "oa b|$HOME|ü|");
    // As the master's own worker would have it.
    for line in ["oone", "otwo", "othree"] {
        has("carriage returns", line);
    }
    has("environment", "oA=x y");
    has("environment", "oand the path");
    assert!(!log("environment").contains(SECRET));
    assert_eq!(
        log("long line").lines().filter(|line| line.starts_with("ox")).map(|line| line.len() - 1).sum::<usize>(),
        1_000_000
    );
    has("input", "osome input");
    let uploaded: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(fs::read_to_string(directory.join("uploaded")).unwrap() == uploaded, "the file is another one");
    assert!(log("missing program").contains("No such file"), "{}", log("missing program"));
    has("killed", "hprocess killed by signal 9");
    has("silent", "obegun");
    has("fails", "obefore");
    assert_eq!(step("fails")["state_string"], "'echo before; ...' (failure)");

    rest.control("workers/stock", "stop");
    let deadline = Instant::now() + PATIENCE;
    while agent.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the agent does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(agent.0.wait().unwrap().code(), Some(0));
}
