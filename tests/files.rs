//! The files of a leased instance: byte for byte, with errors that say whose they are, and never longer than the lease.
#![cfg(unix)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded as channel, select};
use latent_worker::testing::{PATIENCE, Script};
use latent_worker::{
    Agent, Attachment, Build, Command, FileError, FileStatus, Files, IdlePolicy, Interrupt, Lease, LeaseEnd,
    LocalAgent, LocalLatentWorker, Master, Output, Worker, WorkerConfig,
};

use support::{World, answer, bounded};

/// As much as an agent copies at once, at most.
const BLOCK: usize = 64 << 10;

/// A directory of its own for each test, gone with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lw-files-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A lease of a local instance of a real master.
fn local_lease(place: &Place) -> (Master, Lease, PathBuf) {
    let master = Master::new();
    let config = WorkerConfig::new("local").with_idle(IdlePolicy::Never);
    let worker = master.add_worker(config, LocalLatentWorker::new().root(&place.0)).unwrap();
    let lease = worker.substantiate(&Build::new("test")).wait().unwrap();
    let directory = lease.agent::<LocalAgent>().unwrap().directory().to_owned();
    (master, lease, directory)
}

/// A lease without a build of the queue, of an instance with this agent.
fn lease_with(worker: &Worker, script: &Script, agent: impl Agent) -> (Lease, Attachment) {
    let mut request = worker.substantiate(&Build::new("test"));
    let start = script.expect_start();
    let connection = start.attacher().attach(agent).unwrap();
    start.succeed();
    (answer(&mut request).unwrap(), connection)
}

fn random_bytes(random: &mut fastrand::Rng, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    random.fill(&mut bytes);
    bytes
}

/// Gives and takes as little as it likes, and is interrupted by signals now and then.
struct Fitful<T>(T, fastrand::Rng);

impl<T> Fitful<T> {
    fn some_of(&mut self, count: usize) -> io::Result<usize> {
        match self.1.u8(..) {
            0..20 => Err(ErrorKind::Interrupted.into()),
            _ if count == 0 => Ok(0),
            _ => Ok(self.1.usize(1..=count)),
        }
    }
}

impl<T: Read> Read for Fitful<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.some_of(buffer.len())?;
        self.0.read(&mut buffer[..count])
    }
}

impl<T: Write> Write for Fitful<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.some_of(bytes.len())?;
        self.0.write(&bytes[..count])
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn files_come_back_byte_for_byte() {
    let place = Place::new();
    let (_master, lease, directory) = local_lease(&place);
    let files = lease.files();
    let mut random = fastrand::Rng::with_seed(0x0f11e5);
    let mut sizes = vec![0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5_000_000];
    sizes.extend((0..20).map(|_| random.usize(..4 * BLOCK)));
    for size in sizes {
        let bytes = random_bytes(&mut random, size);
        // A relative and an absolute path of one and the same file.
        let paths = [PathBuf::from("file"), directory.join("file")];
        let [to, from] = if random.bool() { paths } else { [paths[1].clone(), paths[0].clone()] };
        let written = files.write(to, &mut Fitful(bytes.as_slice(), random.fork())).unwrap();
        assert!(fs::read(directory.join("file")).unwrap() == bytes, "{size} bytes");
        let mut back = Fitful(Vec::new(), random.fork());
        let read = files.read(from, &mut back).unwrap();
        assert!(back.0 == bytes, "{size} bytes");
        assert_eq!((written, read, files.status("file").unwrap().size), (size as u64, size as u64, size as u64));
    }
    assert_eq!(files.list(".").unwrap(), ["file"]);
}

#[test]
fn commands_and_files_see_the_same() {
    let place = Place::new();
    let (_master, lease, directory) = local_lease(&place);
    let files = lease.files();
    let program = "#!/bin/sh\necho made by $(basename $0) >result\n";
    files.make_directory("bin/deep").unwrap();
    files.make_directory("bin/deep").unwrap();
    files.write_with_mode("bin/tool", &mut program.as_bytes(), 0o100_755).unwrap();
    assert!(lease.run(&Command::exec(["./bin/tool"])).unwrap().success());
    let mut result = Vec::new();
    files.read("result", &mut result).unwrap();
    assert_eq!(result, b"made by tool\n");
    assert_eq!(files.list(".").unwrap(), ["bin", "result"]);
    assert_eq!(files.list(&directory).unwrap(), ["bin", "result"]);
    assert_eq!(files.list("bin").unwrap(), ["deep", "tool"]);

    let status = files.status("bin/tool").unwrap();
    assert_eq!((status.mode, status.size), (0o100_755, program.len() as u64));
    assert!(status.is_file() && files.status("bin").unwrap().is_directory());
    let modified = fs::metadata(directory.join("bin/tool")).unwrap().modified().unwrap();
    assert_eq!(status.modified, modified);

    files.remove_directory("bin").unwrap();
    files.remove_directory("bin").unwrap();
    assert_eq!(files.list(".").unwrap(), ["result"]);
    let missing = files.read("bin/tool", &mut Vec::new()).unwrap_err();
    assert!(matches!(&missing, FileError::Instance { source, .. } if source.kind() == ErrorKind::NotFound));
    assert!(missing.to_string().starts_with("bin/tool on the instance: No such file"), "{missing}");
}

/// Random operations, beside a model of what must be there.
#[test]
fn any_sequence_of_operations_does_what_it_says() {
    let place = Place::new();
    let (_master, lease, _) = local_lease(&place);
    let files = lease.files();
    let mut random = fastrand::Rng::with_seed(20_260_731);
    let mut directories = BTreeSet::from([String::new()]);
    let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut found = 0;
    let is_file_on_the_way = |contents: &BTreeMap<String, Vec<u8>>, path: &str| {
        contents.keys().any(|file| path == file || path.starts_with(&format!("{file}/")))
    };
    for step in 0..3000 {
        let depth = random.usize(1..4);
        let names: Vec<_> = (0..depth).map(|_| ["a", "b", "c"][random.usize(..3)]).collect();
        let (path, parent) = (names.join("/"), names[..depth - 1].join("/"));
        let told = format!("step {step}: {path}");
        match random.u8(..20) {
            // There is no way to remove a file but with its directory, and so the outermost are all directories.
            0..8 if depth > 1 => {
                let size = random.usize(..2000);
                let bytes = random_bytes(&mut random, size);
                let possible = directories.contains(&parent) && !directories.contains(&path);
                let result = files.write(&path, &mut bytes.as_slice());
                assert_eq!(result.is_ok(), possible, "{told}: {result:?}");
                if possible {
                    contents.insert(path, bytes);
                }
            }
            8..13 => {
                let mut bytes = Vec::new();
                let result = files.read(&path, &mut bytes);
                found += usize::from(result.is_ok());
                assert_eq!(result.ok().map(|_| &bytes), contents.get(&path), "{told}");
            }
            13..16 => {
                let possible = !is_file_on_the_way(&contents, &path);
                let result = files.make_directory(&path);
                assert_eq!(result.is_ok(), possible, "{told}: {result:?}");
                if possible {
                    directories.extend((1..=depth).map(|depth| names[..depth].join("/")));
                }
            }
            16 => {
                let result = files.remove_directory(&path);
                assert_eq!(result.is_ok(), !is_file_on_the_way(&contents, &path), "{told}: {result:?}");
                let stays = |other: &str| other != path && !other.starts_with(&format!("{path}/"));
                if result.is_ok() {
                    directories.retain(|other| stays(other));
                    contents.retain(|other, _| stays(other));
                }
            }
            _ => {
                let status = files.status(&path).ok();
                assert_eq!(status.is_some_and(|status| status.is_directory()), directories.contains(&path), "{told}");
                let size = status.filter(FileStatus::is_file).map(|status| status.size);
                assert_eq!(size, contents.get(&path).map(|bytes| bytes.len() as u64), "{told}");
            }
        }
        if step % 50 == 0 {
            for directory in &directories {
                let there = directories.iter().chain(contents.keys()).filter_map(|path| {
                    let path = Path::new(path);
                    (path.parent() == Some(Path::new(directory)))
                        .then(|| path.file_name().unwrap().to_str().unwrap().to_owned())
                });
                let expected: BTreeSet<_> = there.collect();
                let listed = files.list(Path::new(".").join(directory)).unwrap();
                assert_eq!(listed, expected.into_iter().collect::<Vec<_>>(), "step {step}: {directory}");
            }
        }
    }
    assert!(found > 50, "a run that found {found} files did little");
}

#[test]
fn paths_that_say_nothing_are_refused_and_nothing_is_asked() {
    let place = Place::new();
    let (_master, lease, directory) = local_lease(&place);
    let files = lease.files();
    files.write("kept", &mut "kept".as_bytes()).unwrap();
    let refused = |result: Result<(), FileError>| match result {
        Err(error @ FileError::BadPath { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let told = refused(files.read("", &mut Vec::new()).map(drop));
    assert_eq!(told, "\"\" is no path for this agent: it is empty; the instance's directory is \".\"");
    refused(files.write("", &mut "x".as_bytes()).map(drop));
    refused(files.list("").map(drop));
    refused(files.make_directory(""));
    refused(files.status("").map(drop));
    for path in ["", ".", "./", "..", "a/..", "/"] {
        refused(files.remove_directory(path));
    }
    // The system takes no such names.
    let error = files.read("a\0b", &mut Vec::new()).unwrap_err();
    assert!(
        matches!(&error, FileError::Instance { source, .. } if source.kind() == ErrorKind::InvalidInput),
        "{error:?}"
    );
    assert_eq!(fs::read(directory.join("kept")).unwrap(), b"kept");
}

// ---- the caller's own readers and writers

/// What the caller's end does after some blocks.
struct After<F>(usize, F);

impl<F: FnMut() -> io::Result<usize>> After<F> {
    fn next(&mut self, count: usize) -> io::Result<usize> {
        if self.0 == 0 {
            return (self.1)();
        }
        self.0 -= 1;
        Ok(count)
    }
}

impl<F: FnMut() -> io::Result<usize>> Read for After<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next(buffer.len())
    }
}

impl<F: FnMut() -> io::Result<usize>> Write for After<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.next(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        (self.1)().map(drop)
    }
}

/// An instance with a file of some blocks, and what must still be so after whatever has failed.
fn with_old_file(test: impl Fn(&Lease)) {
    let place = Place::new();
    let (_master, lease, directory) = local_lease(&place);
    let old = vec![7; 10 * BLOCK];
    fs::write(directory.join("file"), &old).unwrap();
    test(&lease);
    assert!(fs::read(directory.join("file")).unwrap() == old);
    assert_eq!(lease.files().list(".").unwrap(), ["file"], "a part of a file is left behind");
    assert!(lease.end().is_none());
}

#[test]
fn an_error_of_the_callers_end_comes_back_as_it_was() {
    with_old_file(|lease| {
        for blocks in [0, 1, 5] {
            let fail = || Err(io::Error::new(ErrorKind::StorageFull, "no more"));
            for result in [
                lease.files().write("file", &mut After(blocks, fail)),
                lease.files().read("file", &mut After(blocks, fail)),
            ] {
                let Err(error @ FileError::Caller(_)) = &result else { panic!("{result:?}") };
                assert_eq!(error.to_string(), "this end of the transfer failed: no more");
                let FileError::Caller(source) = error else { unreachable!() };
                assert_eq!(source.kind(), ErrorKind::StorageFull);
            }
        }
        // All of the file was written, and could not be flushed.
        let flushed = lease.files().read("file", &mut After(10, || Err(ErrorKind::BrokenPipe.into())));
        assert!(matches!(flushed, Err(FileError::Caller(_))), "{flushed:?}");
        let full = lease.files().read("file", &mut After(3, || Ok(0)));
        assert!(matches!(full, Err(FileError::Caller(source)) if source.kind() == ErrorKind::WriteZero));
    });
}

#[test]
fn a_panic_of_the_callers_end_goes_on_in_the_caller() {
    with_old_file(|lease| {
        for blocks in [0, 5] {
            let panic = || -> io::Result<usize> { std::panic::panic_any(blocks) };
            let write = || lease.files().write("file", &mut After(blocks, panic));
            let read = || lease.files().read("file", &mut After(blocks, panic));
            for payload in [catch_unwind(AssertUnwindSafe(write)), catch_unwind(AssertUnwindSafe(read))] {
                assert_eq!(payload.unwrap_err().downcast_ref(), Some(&blocks));
            }
        }
    });
}

#[test]
fn counts_that_cannot_be_are_errors_of_the_callers_end() {
    with_old_file(|lease| {
        let too_many = || Ok(BLOCK + 1);
        let written = lease.files().write("file", &mut After(2, too_many));
        let read = lease.files().read("file", &mut After(2, too_many));
        for result in [written, read] {
            let Err(FileError::Caller(source)) = &result else { panic!("{result:?}") };
            assert!(source.to_string().contains("it claims to have"), "{source}");
        }
    });
}

// ---- the end of a lease

#[derive(Clone, Copy, Debug)]
enum Direction {
    Read,
    Write,
}

/// A transfer in the middle of which `end` is called, which must end the lease. The block that is on its way is the last
/// one that the caller is asked for.
fn ends_in_the_middle(lease: &Lease, direction: Direction, end: impl Fn(), expected: &LeaseEnd) {
    let path = lease.agent::<LocalAgent>().unwrap().directory().join("file");
    let old = vec![7; 10 * BLOCK];
    fs::write(&path, &old).unwrap();
    let mut calls = 0;
    let mut caller = After(2, || {
        calls += 1;
        assert_eq!(calls, 1, "it goes on after the end of the lease");
        end();
        assert_eq!(lease.wait_end(PATIENCE).as_ref(), Some(expected));
        Ok(BLOCK)
    });
    let result = match direction {
        Direction::Read => lease.files().read("file", &mut caller),
        Direction::Write => lease.files().write("file", &mut caller),
    };
    assert!(matches!(&result, Err(FileError::LeaseEnded(end)) if end == expected), "{direction:?}: {result:?}");
    assert_eq!(calls, 1);
    assert!(fs::read(&path).unwrap() == old);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a part of a file is left behind");
}

#[test]
fn b4_cancelling_the_build_ends_its_transfers() {
    for direction in [Direction::Read, Direction::Write] {
        let place = Place::new();
        let master = Master::new();
        master.add_worker(WorkerConfig::new("local"), LocalLatentWorker::new().root(&place.0)).unwrap();
        let ticket = master.submit(Build::new("long"));
        let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
        ends_in_the_middle(&lease, direction, || ticket.cancel(), &LeaseEnd::Cancelled);
    }
}

#[test]
fn w13_a_lost_connection_ends_transfers() {
    for direction in [Direction::Read, Direction::Write] {
        let (place, world) = (Place::new(), World::new());
        let (worker, script) = world.worker("w");
        let (lease, connection) = lease_with(&worker, &script, LocalAgent::in_directory(&place.0));
        let connection = std::cell::Cell::new(Some(connection));
        let lose = || connection.take().unwrap().lost("unplugged");
        ends_in_the_middle(&lease, direction, lose, &LeaseEnd::Lost("unplugged".into()));
        drop(lease);
        world.finish(&[&script]);
    }
}

#[test]
fn s1_a_fast_stop_ends_transfers_and_the_directory_is_gone() {
    let place = Place::new();
    let master = Master::new();
    let config = WorkerConfig::new("local").with_idle(IdlePolicy::Never);
    let worker = master.add_worker(config, LocalLatentWorker::new().root(&place.0)).unwrap();
    let lease = worker.substantiate(&Build::new("test")).wait().unwrap();
    let mut stopping = None;
    let mut from = After(2, || {
        stopping = Some(worker.insubstantiate(true));
        assert_eq!(lease.wait_end(PATIENCE), Some(LeaseEnd::Stopped));
        assert!(stopping.as_ref().unwrap().wait_timeout(PATIENCE), "a stop waits for no transfer");
        Ok(BLOCK)
    });
    let result = lease.files().write("file", &mut from);
    assert!(matches!(result, Err(FileError::LeaseEnded(LeaseEnd::Stopped))), "{result:?}");
    let refused = lease.files().make_directory("sub").unwrap_err();
    assert!(matches!(refused, FileError::LeaseEnded(LeaseEnd::Stopped)), "{refused:?}");
    assert!(place.names().is_empty(), "{:?}", place.names());
}

// ---- agents that are not ours

/// Files each of whose operations does what the test wants.
struct Hooked<F>(F);

impl<F: Fn(&Interrupt) -> Result<(), FileError> + Send + Sync + 'static> Agent for Hooked<F> {
    fn files(&self) -> Option<&dyn Files> {
        Some(self)
    }
}

impl<F: Fn(&Interrupt) -> Result<(), FileError>> Files for Hooked<F> {
    fn read(&self, _: &Path, _: &mut dyn Write, interrupt: &Interrupt) -> Result<u64, FileError> {
        (self.0)(interrupt).map(|()| 0)
    }
    /// Answers with the mode.
    fn write(&self, _: &Path, _: &mut dyn Read, mode: Option<u32>, interrupt: &Interrupt) -> Result<u64, FileError> {
        (self.0)(interrupt).map(|()| mode.map_or(u64::MAX, u64::from))
    }
    fn list(&self, _: &Path, interrupt: &Interrupt) -> Result<Vec<String>, FileError> {
        (self.0)(interrupt).map(|()| Vec::new())
    }
    fn make_directory(&self, _: &Path, interrupt: &Interrupt) -> Result<(), FileError> {
        (self.0)(interrupt)
    }
    fn remove_directory(&self, _: &Path, interrupt: &Interrupt) -> Result<(), FileError> {
        (self.0)(interrupt)
    }
    fn status(&self, _: &Path, interrupt: &Interrupt) -> Result<FileStatus, FileError> {
        (self.0)(interrupt).map(|()| FileStatus::new(0, 0, SystemTime::UNIX_EPOCH))
    }
}

type Operation = fn(&Lease) -> Result<(), FileError>;

const OPERATIONS: [(&str, Operation); 6] = [
    ("Files::read", |lease| lease.files().read("x", &mut Vec::new()).map(drop)),
    ("Files::write", |lease| lease.files().write("x", &mut "x".as_bytes()).map(drop)),
    ("Files::list", |lease| lease.files().list("x").map(drop)),
    ("Files::make_directory", |lease| lease.files().make_directory("x")),
    ("Files::remove_directory", |lease| lease.files().remove_directory("x")),
    ("Files::status", |lease| lease.files().status("x").map(drop)),
];

#[test]
fn an_agent_without_files_says_so() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let lease = world.lease(&worker, &script);
    for (name, operation) in OPERATIONS {
        let result = operation(&lease);
        assert!(matches!(result, Err(FileError::Unsupported)), "{name}: {result:?}");
    }
    drop(lease);
    world.finish(&[&script]);
}

#[test]
fn an_agent_is_told_permissions_alone_or_nothing() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let (lease, connection) = lease_with(&worker, &script, Hooked(|_: &Interrupt| Ok(())));
    let with_mode = |mode| lease.files().write_with_mode("x", &mut io::empty(), mode).unwrap();
    assert_eq!(with_mode(0o100_644), 0o644);
    assert_eq!(with_mode(u32::MAX), 0o7777);
    assert_eq!(lease.files().write("x", &mut io::empty()).unwrap(), u64::MAX);
    drop((lease, connection));
    world.finish(&[&script]);
}

#[test]
fn w14_an_agent_that_panics_fails_the_operation_alone() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let (lease, connection) = lease_with(&worker, &script, Hooked(|_: &Interrupt| panic!("boom")));
    for (name, operation) in OPERATIONS {
        let error = operation(&lease).unwrap_err();
        assert_eq!(error.to_string(), format!("the agent failed: {name} panicked: boom"));
        assert!(lease.end().is_none());
    }
    drop((lease, connection));
    world.finish(&[&script]);
}

#[test]
fn w14_an_agent_whose_files_panic_when_asked_for() {
    struct NoFiles;
    impl Agent for NoFiles {
        fn files(&self) -> Option<&dyn Files> {
            panic!("none of that")
        }
    }
    let world = World::new();
    let (worker, script) = world.worker("w");
    let (lease, connection) = lease_with(&worker, &script, NoFiles);
    for (name, operation) in OPERATIONS {
        assert_eq!(
            operation(&lease).unwrap_err().to_string(),
            format!("the agent failed: {name} panicked: none of that")
        );
    }
    drop((lease, connection));
    world.finish(&[&script]);
}

/// Waits until the interrupt is set, and tells when it begins to.
fn waits_for_interrupt(arrive: Sender<()>) -> impl Fn(&Interrupt) -> Result<(), FileError> {
    move |interrupt| {
        arrive.send(()).unwrap();
        let [one, other] = interrupt.signals();
        select! {
            recv(one) -> _ => {}
            recv(other) -> _ => {}
        }
        interrupt.check()
    }
}

/// Each operation is in the agent, with no lock of ours held, while its build is cancelled, or its connection lost.
#[test]
fn w14_b4_w13_what_hangs_in_an_agent_is_told_when_its_lease_ends() {
    for (number, (name, operation)) in OPERATIONS.into_iter().enumerate() {
        let world = World::new();
        let (worker, script) = world.worker("w");
        let (arrive, arrived) = channel(1);
        let ticket = world.master.submit(Build::new("b"));
        let start = script.expect_start();
        let connection = start.attacher().attach(Hooked(waits_for_interrupt(arrive))).unwrap();
        start.succeed();
        let lease = Arc::new(ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap());
        let asked = lease.clone();
        let (tell, told) = channel(1);
        let thread = std::thread::spawn(move || tell.send(operation(&asked)).unwrap());
        arrived.recv_timeout(PATIENCE).expect("the agent is asked");
        let (master, worker, probe) = (world.master.clone(), worker.clone(), lease.clone());
        bounded(name, move || {
            drop((master.status(), worker.status(), format!("{probe:?}"), probe.wait_end(Duration::ZERO)));
        });
        assert!(told.is_empty());
        let expected = if number % 2 == 0 {
            ticket.cancel();
            LeaseEnd::Cancelled
        } else {
            connection.lost("unplugged");
            LeaseEnd::Lost("unplugged".into())
        };
        let result = told.recv_timeout(PATIENCE).expect("the agent was told");
        assert!(matches!(&result, Err(FileError::LeaseEnded(end)) if *end == expected), "{name}: {result:?}");
        // And there is nothing more to ask for.
        assert!(matches!(operation(&lease), Err(FileError::LeaseEnded(end)) if end == expected), "{name}");
        assert!(arrived.is_empty());
        thread.join().unwrap();
        drop(lease);
        world.finish(&[&script]);
    }
}

/// What was done is done, whatever happened to the lease meanwhile.
#[test]
fn a_success_stands_when_the_lease_ends_meanwhile() {
    let world = World::new();
    let (worker, script) = world.worker("w");
    let (lose, lost): (Sender<Infallible>, Receiver<Infallible>) = channel(0);
    let (arrive, arrived) = channel(1);
    let agent = Hooked(move |interrupt: &Interrupt| {
        arrive.send(()).unwrap();
        let _ = lost.recv();
        assert!(interrupt.is_set());
        Ok(())
    });
    let (lease, connection) = lease_with(&worker, &script, agent);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| lease.files().make_directory("x"));
        arrived.recv_timeout(PATIENCE).unwrap();
        connection.lost("unplugged");
        drop(lose);
        asked.join().unwrap().unwrap();
    });
    assert!(lease.end().is_some());
    drop(lease);
    world.finish(&[&script]);
}

// ---- an agent apart from its driver

#[test]
fn an_agent_apart_from_its_driver_runs_commands_and_leaves_its_directory() {
    let place = Place::new();
    let agent = LocalAgent::in_directory(&place.0);
    fs::create_dir(place.0.join("stays")).unwrap();
    let running = agent.start_command(&Command::shell("pwd; sleep 1000 & sleep 1000")).unwrap();
    let output = running.output().recv_timeout(PATIENCE).unwrap();
    let Output::Stdout(line) = &output else { panic!("{output:?}") };
    assert_eq!(fs::canonicalize(str::from_utf8(line).unwrap().trim()).unwrap(), fs::canonicalize(&place.0).unwrap());
    assert!(agent.close_and_wait(PATIENCE));
    assert!(agent.start_command(&Command::shell("true")).is_err());
    assert!(place.0.join("stays").is_dir());
}
