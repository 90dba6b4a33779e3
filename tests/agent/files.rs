//! Files: large ones byte for byte, the small things that go with them, and an end in the middle.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, SystemTime};

use latent_worker::{Build, BuildResult, Command, FileError, LeaseEnd, Ticket};

use crate::support::{Farm, Kind, PATIENCE, lease, text};

const MIB: usize = 1 << 20;

for_both_agents! {
    large_files_pass_both_ways_byte_for_byte,
    directories_and_their_errors_are_those_of_the_instance,
    a_build_is_cancelled_in_the_middle_of_a_file,
}

fn large_files_pass_both_ways_byte_for_byte(kind: Kind) {
    let farm = Farm::new(kind);
    let lease = lease(&farm.worker("w"));
    let files = lease.files();
    let mut content = vec![0; 64 * MIB];
    fastrand::Rng::with_seed(64).fill(&mut content);

    assert_eq!(files.write("large", &mut content.as_slice()).unwrap(), content.len() as u64);
    let hash = |path: &str| {
        let finished = lease.run(&Command::shell(format!("cksum <{path}"))).unwrap();
        text(&finished.stdout).to_owned()
    };
    let ours = {
        let path = farm.place().join("content");
        std::fs::write(&path, &content).unwrap();
        hash(path.to_str().unwrap())
    };
    assert_eq!(hash("large"), ours);
    let mut back = Vec::new();
    assert_eq!(files.read("large", &mut back).unwrap(), content.len() as u64);
    assert!(back == content, "{} bytes came back, and not the same", back.len());

    // A shorter one takes its place, and none is one, too.
    for length in [1, 0, 64 << 10, (64 << 10) + 1] {
        files.write("large", &mut &content[..length]).unwrap();
        assert_eq!(files.status("large").unwrap().size, length as u64);
        let mut back = Vec::new();
        files.read("large", &mut back).unwrap();
        assert!(back == content[..length], "{length} bytes");
    }
    drop(lease);
    farm.finish();
}

fn kind_of<T: std::fmt::Debug>(result: Result<T, FileError>) -> ErrorKind {
    match result {
        Err(FileError::Instance { source, .. }) => source.kind(),
        other => panic!("{other:?}"),
    }
}

fn directories_and_their_errors_are_those_of_the_instance(kind: Kind) {
    let farm = Farm::new(kind);
    let lease = lease(&farm.worker("w"));
    let files = lease.files();
    files.make_directory("one/two").unwrap();
    files.make_directory("one/two").unwrap();
    files.write("one/file", &mut "four".as_bytes()).unwrap();
    files.write_with_mode("one/program", &mut "#!/bin/sh\necho run\n".as_bytes(), 0o755).unwrap();
    assert_eq!(files.list("one").unwrap(), ["file", "program", "two"]);
    assert_eq!(files.list("one/two").unwrap(), Vec::<String>::new());
    assert_eq!(text(&lease.run(&Command::exec(["one/program"])).unwrap().stdout), "run\n");

    let status = files.status("one/file").unwrap();
    assert!(status.is_file() && status.size == 4, "{status:?}");
    let age = SystemTime::now().duration_since(status.modified).unwrap_or_default();
    assert!(age < PATIENCE + Duration::from_secs(1), "{age:?}");
    assert!(files.status("one").unwrap().is_directory());

    assert_eq!(kind_of(files.status("none")), ErrorKind::NotFound);
    assert_eq!(kind_of(files.list("none")), ErrorKind::NotFound);
    assert_eq!(kind_of(files.list("one/file")), ErrorKind::NotADirectory);
    assert_eq!(kind_of(files.read("none", &mut Vec::new())), ErrorKind::NotFound);
    assert_eq!(kind_of(files.read("one", &mut Vec::new())), ErrorKind::IsADirectory);
    assert_eq!(kind_of(files.write("one", &mut "x".as_bytes())), ErrorKind::IsADirectory);
    files.make_directory("one/file").unwrap_err();

    files.remove_directory("one").unwrap();
    files.remove_directory("one").unwrap();
    assert_eq!(kind_of(files.status("one")), ErrorKind::NotFound);
    drop(lease);
    farm.finish();
}

/// This end of a file: it goes on for ever, and has the build cancelled on the way.
struct Cancelling<'t> {
    ticket: &'t Ticket,
    seen: usize,
}

impl Cancelling<'_> {
    fn pass(&mut self, bytes: usize) -> io::Result<usize> {
        let before = self.seen;
        self.seen += bytes;
        if before < 8 * MIB && self.seen >= 8 * MIB {
            self.ticket.cancel();
        }
        // Far more than can have been under way.
        if self.seen > 1 << 30 { Err(io::Error::other("it never ends")) } else { Ok(bytes) }
    }
}

impl Read for Cancelling<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.fill(b'x');
        self.pass(buffer.len())
    }
}

impl Write for Cancelling<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pass(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn a_build_is_cancelled_in_the_middle_of_a_file(kind: Kind) {
    let farm = Farm::new(kind);
    farm.worker("w");
    let build = || {
        let ticket = farm.master.submit(Build::new("a build"));
        let lease = ticket.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
        (ticket, lease)
    };
    let mut epochs = Vec::new();
    for to_instance in [true, false] {
        let (ticket, lease) = build();
        // It has no end that could be reached.
        assert!(lease.run(&Command::shell("truncate -s 1T endless")).unwrap().success());
        let mut endless = Cancelling { ticket: &ticket, seen: 0 };
        let result = if to_instance {
            lease.files().write("half", &mut endless)
        } else {
            lease.files().read("endless", &mut endless)
        };
        assert!(matches!(result, Err(FileError::LeaseEnded(LeaseEnd::Cancelled))), "{result:?}");
        epochs.push(lease.epoch());
        drop(lease);
    }
    let (_, lease) = build();
    // The next one has the same instance, on which nothing goes on and no half of a file is left.
    assert!(lease.run(&Command::shell("rm endless")).unwrap().success());
    lease.files().write("whole", &mut "whole".as_bytes()).unwrap();
    let mut back = Vec::new();
    lease.files().read("whole", &mut back).unwrap();
    assert_eq!(text(&back), "whole");
    let left = || lease.files().list(".").unwrap().into_iter().filter(|name| name.contains("half")).count();
    assert!(crate::support::eventually(|| left() == 0), "half a file is left");
    epochs.push(lease.epoch());
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    lease.finish(BuildResult::Succeeded);
    farm.finish();
}
