//! Peers that try to make the master keep what they do not read or do not finish.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use latent_worker::testing::PATIENCE;
use latent_worker::{Command, FileError, Lease, LeaseEnd};

use crate::fake::Fake;
use crate::{World, work_undelayed};

const MIB: usize = 1 << 20;

/// The header of a whole message of a client, with a mask that changes nothing.
fn header(length: u64) -> Vec<u8> {
    let mut bytes = vec![0x82, 0xff];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// The reason for which the agent of a lease was lost.
fn lost(lease: &Lease) -> String {
    match lease.wait_end(PATIENCE) {
        Some(LeaseEnd::Lost(reason)) => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Answers the question for the size of a file, and returns the id of the transfer that follows.
fn begin_transfer(fake: &mut Fake, size: u64) -> String {
    let status = await_start(fake);
    fake.status(&status, size);
    await_start(fake)
}

/// The id of the next command. The end of a transfer before this one may be asked for first.
fn await_start(fake: &mut Fake) -> String {
    loop {
        let request = fake.request().expect("it is asked for");
        fake.answer(&request);
        if request.op == "start_command" {
            return request.command;
        }
    }
}

#[test]
fn a5_blocks_are_not_given_faster_than_they_are_read() {
    let mut world = World::new();
    let leases = world.good_agents();
    let (_, lease, mut fake) = world.attached("greedy");
    let greedy = thread::spawn(move || {
        let command = begin_transfer(&mut fake, 0);
        for _ in 0..1000 {
            if !fake.want(&command, MIB as u64) {
                break;
            }
        }
        fake
    });
    let written = lease.files().write("file", &mut std::io::repeat(7));
    assert!(matches!(written, Err(FileError::LeaseEnded(LeaseEnd::Lost(_)))), "{written:?}");
    assert!(world.detached("greedy").contains("before the answer to the last one"));
    work_undelayed(&leases);
    drop((greedy.join().unwrap(), lease));
    world.finish(leases);
}

/// What a worker does in the middle of a transfer; it is passed the id of the command.
type Misbehaviour = Box<dyn FnOnce(&mut Fake, &str) + Send>;

/// Returns the result of a transfer in which the worker does this and then reports success.
fn transfer(write: bool, size: u64, misbehave: impl FnOnce(&mut Fake, &str) + Send + 'static) -> Result<u64, String> {
    let mut world = World::new();
    let (_, lease, mut fake) = world.attached("short");
    let worker = thread::spawn(move || {
        let command = begin_transfer(&mut fake, size);
        misbehave(&mut fake, &command);
        fake.finish_command(&command, "");
        fake
    });
    let result = if write {
        lease.files().write("file", &mut vec![7; MIB].as_slice())
    } else {
        lease.files().read("file", &mut Vec::new())
    };
    drop((worker.join().unwrap(), lease));
    world.finish(Vec::new());
    result.map_err(|error| error.to_string())
}

#[test]
fn a_short_transfer_is_an_error_whatever_the_worker_says() {
    let nothing = |_: &mut Fake, _: &str| {};
    let writes: [(&str, Misbehaviour); 3] = [
        ("whole file", Box::new(nothing)),
        ("asks for no bytes", Box::new(|fake, command| _ = fake.want(command, 0))),
        ("whole file", Box::new(|fake, command| _ = fake.want(command, 100))),
    ];
    for (reason, misbehave) in writes {
        let error = transfer(true, 0, misbehave).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    let reads: [(&str, u64, Misbehaviour); 4] = [
        ("0 bytes of a file of 10", 10, Box::new(nothing)),
        ("4 bytes of a file of 10", 10, Box::new(|fake, command| _ = fake.block(command, b"four"))),
        ("larger than requested", 0, Box::new(|fake, command| _ = fake.block(command, &vec![7; MIB]))),
        ("empty", 0, Box::new(|fake, command| _ = fake.block(command, b""))),
    ];
    for (reason, size, misbehave) in reads {
        let error = transfer(false, size, misbehave).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(transfer(false, 0, |fake, command| _ = fake.block(command, b"four")), Ok(4), "it grew");
}

#[test]
fn a_file_has_at_most_the_length_that_its_reader_allows() {
    let mut world = World::new();
    let (_, lease, mut fake) = world.attached("long");
    let worker = thread::spawn(move || {
        for _ in 0..2 {
            let command = begin_transfer(&mut fake, 8);
            let first = fake.block(&command, b"four");
            fake.await_answer(first);
            fake.block(&command, b"more");
            fake.finish_command(&command, "");
        }
        fake
    });
    let mut taken = Vec::new();
    match lease.files().read_at_most("file", &mut taken, 7) {
        Err(FileError::Caller(error)) => assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge),
        other => panic!("{other:?}"),
    }
    assert_eq!(taken, b"four");
    taken.clear();
    assert_eq!(lease.files().read_at_most("file", &mut taken, 8).unwrap(), 8);
    assert_eq!(taken, b"fourmore");
    drop((worker.join().unwrap(), lease));
    world.finish(Vec::new());
}

#[test]
fn a_file_does_not_go_on_for_ever() {
    let endless = |fake: &mut Fake, command: &str| {
        let block = vec![7; 256 << 10];
        for _ in 0..64 * 4 + 1 {
            let number = fake.block(command, &block);
            fake.await_answer(number);
        }
    };
    let error = transfer(false, 10, endless).unwrap_err();
    assert!(error.contains("of a file of 10"), "{error}");
}

/// The agent reads a little now and then, which is too slow.
#[test]
fn a6_a_peer_that_reads_byte_by_byte_is_lost() {
    let mut world = World::with(|listener| listener.write_timeout(Duration::from_millis(500)));
    let leases = world.good_agents();
    let (_, lease, fake) = world.attached("slow");
    let running = lease.start(&Command::shell("x").stdin(vec![7; 64 * MIB])).unwrap();
    let mut socket: TcpStream = fake.socket.get_ref().try_clone().unwrap();
    let (over, goes_on) = crossbeam_channel::bounded::<()>(0);
    let reader = thread::spawn(move || {
        let pause = crossbeam_channel::tick(Duration::from_millis(20));
        while goes_on.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {
            pause.recv().unwrap();
            let _ = std::io::Read::read(&mut socket, &mut [0; 4096]);
        }
    });
    assert!(lost(&lease).contains("not read"));
    drop((over, running));
    reader.join().unwrap();
    work_undelayed(&leases);
    drop((lease, fake));
    world.finish(leases);
}

#[test]
fn a5_an_unfinished_message_has_a_length_and_a_time() {
    let mut world = World::with(|listener| listener.write_timeout(Duration::from_millis(500)));
    let leases = world.good_agents();
    let (_, long, mut fake) = world.attached("long");
    fake.socket.get_mut().write_all(&header(8 * MIB as u64 + 1)).unwrap();
    assert!(lost(&long).contains("too long"));
    // In small parts, none of which is too long.
    let (_, parts, mut fake) = world.attached("parts");
    let part = [&[0x00, 0xff][..], &(64_u64 << 10).to_be_bytes(), &[0; 4 + (64 << 10)]].concat();
    let _ = fake.socket.get_mut().write_all(&[0x02, 0x80, 0, 0, 0, 0]);
    for _ in 0..10 * 16 {
        if fake.socket.get_mut().write_all(&part).is_err() {
            break;
        }
    }
    assert!(lost(&parts).contains("too long"));
    let (_, slow, mut fake) = world.attached("slow");
    let mut begun = header(2 * MIB as u64);
    begun.resize(MIB, 0);
    fake.socket.get_mut().write_all(&begun).unwrap();
    assert!(lost(&slow).contains("timed out in the middle of a message"), "it holds what it has begun for ever");
    work_undelayed(&leases);
    drop((long, parts, slow));
    world.finish(leases);
}

/// Pings between the parts of a message do not hide how long it is.
#[test]
fn a5_pings_do_not_hide_the_parts_of_a_message() {
    let mut world = World::with(|listener| listener.message_budget(0).write_timeout(Duration::from_millis(500)));
    let (_, lease, mut fake) = world.attached("parts");
    let part = [&[0x00, 0xff][..], &(64_u64 << 10).to_be_bytes(), &[0; 4 + (64 << 10)]].concat();
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    let _ = fake.socket.get_mut().write_all(&[0x02, 0x80, 0, 0, 0, 0]);
    for _ in 0..20 {
        let _ = fake.socket.get_mut().write_all(&part).and_then(|()| fake.socket.get_mut().write_all(&ping));
    }
    assert!(lost(&lease).contains("timed out in the middle of a message"), "over 512 KiB it has a time limit");
    drop(lease);
    world.finish(Vec::new());
}

/// A world with a budget for one large message, which this agent has begun.
fn exhausted() -> (World, Lease, Fake) {
    let mut world =
        World::with(|listener| listener.max_message_size(64 * MIB).message_budget(64 * MIB).write_timeout(PATIENCE));
    let (_, lease, mut fake) = world.attached("holder");
    let mut begun = header(40 * MIB as u64);
    begun.resize(32 * MIB, 0xc1);
    // More than all buffers between agent and master hold: once it is sent, the master has read enough to hold the
    // budget.
    fake.socket.get_mut().write_all(&begun).unwrap();
    (world, lease, fake)
}

/// An agent with a command that sends a large message, and the thread that sends it.
fn begin_large(world: &mut World) -> (Lease, thread::JoinHandle<Fake>) {
    let (_, lease, mut fake) = world.attached("waiting");
    let worker = thread::spawn(move || {
        let start = fake.request().unwrap();
        fake.answer(&start);
        // It fits into what is between the two.
        fake.finish_command(&start.command, &"x".repeat(MIB));
        fake
    });
    (lease, worker)
}

#[test]
fn a6_an_exhausted_budget_delays_large_messages_and_loses_nobody() {
    let (mut world, holder, holding) = exhausted();
    let leases = world.good_agents();
    let (lease, worker) = begin_large(&mut world);
    let running = lease.start(&Command::shell("x")).unwrap();
    assert_eq!(running.recv_timeout(Duration::from_millis(500)).unwrap(), None, "the budget is exhausted");
    work_undelayed(&leases);
    assert!(lease.end().is_none() && holder.end().is_none());
    drop(holding);
    let mut seen = 0;
    while let latent_worker::Output::Stdout(bytes) = running.recv_timeout(PATIENCE).unwrap().unwrap() {
        seen += bytes.len();
    }
    assert_eq!(seen, MIB);
    drop(running);
    drop((worker.join().unwrap(), lease, holder));
    world.finish(leases);
}

#[test]
fn a6_an_agent_that_waits_for_the_budget_is_stopped() {
    let (mut world, holder, holding) = exhausted();
    let (lease, worker) = begin_large(&mut world);
    let running = lease.start(&Command::shell("x")).unwrap();
    assert_eq!(running.recv_timeout(Duration::from_millis(500)).unwrap(), None, "the budget is exhausted");
    drop(running);
    let waiting = lease.worker().to_owned();
    drop(lease);
    let stopped = world.master.worker(&waiting).expect("it is there").insubstantiate(true);
    assert!(stopped.wait_timeout(PATIENCE));
    assert!(worker.join().unwrap().is_closed(), "it waits for the budget for ever");
    drop((holder, holding));
    world.finish(Vec::new());
}

/// The agent sends requests and reads no answers.
#[test]
fn a5_answers_that_are_not_read_stop_the_reading() {
    let mut world = World::with(|listener| listener.write_timeout(Duration::from_millis(500)));
    let leases = world.good_agents();
    let (_, lease, mut fake) = world.attached("deaf");
    let question = [7; 1000];
    let asking = thread::spawn(move || {
        let mut sent = 0;
        // The answers take a tenth of what is sent: all buffers between the two, and what waits, are less than this.
        while sent < 1 << 30 && fake.try_ask("dance", &question) {
            sent += question.len();
        }
        (sent, fake)
    });
    assert!(lost(&lease).contains("not read"));
    let (sent, fake) = asking.join().unwrap();
    assert!(sent < 1 << 30, "everything is read from a peer that reads nothing");
    work_undelayed(&leases);
    drop((fake, lease));
    world.finish(leases);
}

#[test]
fn a5_a_request_to_log_in_is_bounded() {
    let world = World::new();
    let mut socket = crate::connect(world.address());
    let request = format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(20 << 10));
    let _ = socket.write_all(request.as_bytes());
    assert!(matches!(crate::status(&mut socket), Some(400) | None));
    assert!(crate::is_closed(&mut socket));
    world.finish(Vec::new());
}
