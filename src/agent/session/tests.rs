//! The recorded session of the stock worker, replayed, and workers that keep to no order.

use super::codec::tests::{lines, list, message, text};
use super::*;

fn info(basedir: &str, system: &str) -> Vec<u8> {
    let mut map = vec![0x84];
    for (key, value) in [("system", system), ("basedir", basedir), ("version", "4.3.0"), ("admin", "nobody")] {
        map.extend(text(key));
        map.extend(text(value));
    }
    map
}

fn response(number: u8, result: Vec<u8>) -> Vec<u8> {
    message(&[("op", text("response")), ("seq_number", vec![number]), ("result", result)])
}

fn failure(number: u8, error: &str) -> Vec<u8> {
    message(&[
        ("op", text("response")),
        ("seq_number", vec![number]),
        ("result", text(error)),
        ("is_exception", vec![0xc3]),
    ])
}

fn update(number: u8, command: &str, pieces: &[Vec<u8>]) -> Vec<u8> {
    message(&[
        ("op", text("update")),
        ("args", list(pieces)),
        ("command_id", text(command)),
        ("seq_number", vec![number]),
    ])
}

fn complete(number: u8, command: &str) -> Vec<u8> {
    message(&[
        ("op", text("complete")),
        ("args", vec![0xc0]),
        ("command_id", text(command)),
        ("seq_number", vec![number]),
    ])
}

fn code(code: u8) -> Vec<u8> {
    list(&[text("rc"), vec![code]])
}

const NIL: u8 = 0xc0;
const MINUS_ONE: u8 = 0xff;

fn ready() -> Session {
    let (mut session, greeting) = Session::new();
    assert_eq!(greeting, codec::encode_plain("get_worker_info", 0));
    let now = Instant::now();
    let turn = session.receive(now, &response(0, info("/srv/wk", "posix"))).map(|turn| (turn.ready, turn.send));
    let (ready, settings) = turn.unwrap();
    assert!(!ready && session.info().is_none());
    let settings = settings.expect("the settings follow");
    assert!(settings.windows(16).any(|window| window == b"\xafmax_line_length"), "{settings:?}");
    assert!(session.receive(now, &response(1, vec![NIL])).unwrap().ready);
    assert_eq!(session.info().unwrap().basedir, "/srv/wk");
    session
}

fn nil_to(number: u64) -> Option<Vec<u8>> {
    Some(codec::encode_response(number, None))
}

fn exit_of(turn: &Turn<'_>) -> Exit {
    match &turn.ended {
        Some((_, Ending::Ended(end))) => end.exit,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_recorded_session_is_replayed() {
    let mut session = ready();
    let now = Instant::now();
    let (id, start) = session.start(now, &Command::exec(["sh", "-c", "exit 3"])).unwrap();
    assert_eq!(id, 0);
    assert!(start.windows(8).any(|window| window == b"\xa7/srv/wk"), "commands run in its directory");
    assert_eq!(session.receive(now, &response(2, vec![NIL])).unwrap().send, None);
    let output = update(0, "0", &[lines("header", "sh\n"), lines("stdout", "hello out\n"), lines("stderr", "err\n")]);
    let turn = session.receive(now, &output).unwrap();
    let (command, updates) = turn.output.unwrap();
    assert_eq!((command, updates.count()), (0, 3));
    assert_eq!(turn.send, nil_to(0));
    let seconds = {
        let mut bytes = Vec::new();
        rmp::encode::write_f64(&mut bytes, 0.25).unwrap();
        bytes
    };
    session.receive(now, &update(1, "0", &[code(3), list(&[text("elapsed"), seconds])])).unwrap();
    let complete = complete(2, "0");
    let turn = session.receive(now, &complete).unwrap();
    assert_eq!(turn.send, nil_to(2));
    let end = CommandEnd { exit: Exit::Code(3), elapsed: Duration::from_millis(250) };
    assert_eq!(turn.ended, Some((0, Ending::Ended(end))));
}

#[test]
fn a_quick_command_ends_before_its_start_is_answered() {
    let mut session = ready();
    let now = Instant::now();
    session.start(now, &Command::shell("true")).unwrap();
    assert!(session.receive(now, &update(0, "0", &[lines("stdout", "x\n"), code(0)])).unwrap().output.is_some());
    assert_eq!(exit_of(&session.receive(now, &complete(1, "0")).unwrap()), Exit::Code(0));
    let late = response(2, vec![NIL]);
    let turn = session.receive(now, &late).unwrap();
    assert!(turn.ended.is_none() && turn.send.is_none());
}

#[test]
fn an_end_is_told_by_what_came_before_it() {
    let killed = lines("header", "\ncommand interrupted, attempting to kill\nprocess killed by signal 9\n");
    let misleading = lines("header", "process killed by signal 3\n");
    let reason = |reason: &str| list(&[text("failure_reason"), text(reason)]);
    let cases: Vec<(Vec<Vec<u8>>, bool, Exit)> = vec![
        (vec![code(0)], false, Exit::Code(0)),
        (vec![misleading.clone(), code(7)], false, Exit::Code(7)),
        (vec![misleading, killed.clone(), code(MINUS_ONE)], false, Exit::Signal(9)),
        (vec![code(MINUS_ONE)], false, Exit::Code(-1)),
        (vec![killed.clone(), code(MINUS_ONE)], true, Exit::Interrupted),
        (vec![], true, Exit::Interrupted),
        (vec![code(0)], true, Exit::Code(0)),
        (vec![reason("timeout"), killed.clone(), code(MINUS_ONE)], false, Exit::TimeLimit),
        (vec![reason("timeout_without_output"), killed, code(MINUS_ONE)], false, Exit::SilenceLimit),
    ];
    for (pieces, interrupt, expected) in cases {
        let mut session = ready();
        let now = Instant::now();
        session.start(now, &Command::shell("x")).unwrap();
        if interrupt {
            assert!(session.interrupt(0).is_some());
            assert!(session.interrupt(0).is_none(), "once is enough");
        }
        session.receive(now, &update(0, "0", &pieces)).unwrap();
        let complete = complete(1, "0");
        let turn = session.receive(now + Duration::from_secs(2), &complete).unwrap();
        assert_eq!(exit_of(&turn), expected, "{pieces:?}");
        let Some((_, Ending::Ended(end))) = turn.ended else { unreachable!() };
        assert_eq!(end.elapsed, Duration::from_secs(2), "measured here when the worker does not say");
    }
}

#[test]
fn a_refused_start_is_the_end_of_its_command() {
    let mut session = ready();
    let now = Instant::now();
    session.start(now, &Command::shell("x")).unwrap();
    let refused = failure(2, "unrecognized WorkerCommand");
    let turn = session.receive(now, &refused).unwrap();
    assert_eq!(turn.ended, Some((0, Ending::Broken("unrecognized WorkerCommand".to_owned()))));
    let no_code = {
        session.start(now, &Command::shell("x")).unwrap();
        complete(0, "1")
    };
    let turn = session.receive(now, &no_code).unwrap();
    assert!(matches!(turn.ended, Some((1, Ending::Broken(_)))));
    assert!(session.lost().is_empty());
}

#[test]
fn every_request_is_answered_and_strays_are_not() {
    let mut session = ready();
    let now = Instant::now();
    let requests = [
        update(0, "0", &[]),
        update(1, "no number", &[]),
        complete(2, "99"),
        message(&[("op", text("dance")), ("seq_number", vec![3])]),
        message(&[("op", text("update_read_file")), ("command_id", text("0")), ("seq_number", vec![4])]),
    ];
    for (number, request) in requests.iter().enumerate() {
        let answer = session.receive(now, request).unwrap().send.expect("every request is answered");
        let codec::Message::Response { number: to, result: Err(_) } = codec::decode(&answer).unwrap() else {
            panic!("an error was expected");
        };
        assert_eq!(to, number as u64);
    }
    for stray in [response(77, vec![NIL]), response(0, vec![NIL]), message(&[("op", text("x"))])] {
        let turn = session.receive(now, &stray).unwrap();
        assert!(turn.send.is_none() && turn.ended.is_none() && !turn.ready);
    }
}

#[test]
fn a_worker_that_does_not_introduce_itself_is_refused() {
    let now = Instant::now();
    for (answer, expected) in [
        (response(0, vec![NIL]), Violation::NoInfo),
        (response(0, info("relative", "posix")), Violation::RelativeBasedir("relative".to_owned())),
        (response(0, info("/srv", "nt")), Violation::RelativeBasedir("/srv".to_owned())),
        (failure(0, "no"), Violation::Refused("get_worker_info", "no".to_owned())),
        (vec![0x90], Violation::Malformed(Malformed("not a map"))),
    ] {
        let (mut session, _) = Session::new();
        assert_eq!(session.receive(now, &answer).unwrap_err(), expected);
    }
    let (mut session, _) = Session::new();
    assert_eq!(session.start(now, &Command::shell("x")).unwrap_err(), StartRefused::NotReady);
}

#[test]
fn directories_are_joined_in_the_workers_flavour() {
    let of = |basedir: &str, system: &str| WorkerInfo {
        basedir: basedir.to_owned(),
        system: system.to_owned(),
        ..WorkerInfo::default()
    };
    let (posix, windows) = (|basedir| of(basedir, "posix"), of(r"C:\wk", "nt"));
    assert_eq!(join(&posix("/srv/"), ""), "/srv/");
    assert_eq!(join(&posix("/srv/"), "a/b"), "/srv/a/b");
    assert_eq!(join(&posix("/"), "a"), "/a");
    assert_eq!(join(&posix("/srv"), "/abs"), "/abs");
    assert_eq!(join(&windows, "a"), r"C:\wk\a");
    assert_eq!(join(&windows, r"D:\x"), r"D:\x");
}

#[test]
fn when_the_connection_is_lost_every_command_is() {
    let mut session = ready();
    let now = Instant::now();
    for _ in 0..3 {
        session.start(now, &Command::shell("x")).unwrap();
    }
    session.receive(now, &update(0, "1", &[code(0)])).unwrap();
    session.receive(now, &complete(1, "1")).unwrap();
    let mut lost = session.lost();
    lost.sort_unstable();
    assert_eq!(lost, [0, 2]);
    assert!(session.asked.is_empty() && session.lost().is_empty());
    assert!(session.interrupt(0).is_none());
}

/// A request of a worker while a file is copied.
fn step(number: u8, command: &str, op: &str, field: (&str, Vec<u8>)) -> Vec<u8> {
    message(&[("op", text(op)), ("command_id", text(command)), ("seq_number", vec![number]), field])
}

fn take(number: u8, command: &str, bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::new();
    rmp::encode::write_bin(&mut value, bytes).unwrap();
    step(number, command, "update_upload_file_write", ("args", value))
}

fn give(number: u8, command: &str, length: u8) -> Vec<u8> {
    step(number, command, "update_read_file", ("length", vec![length]))
}

fn is_refused(turn: &Turn<'_>) -> bool {
    let answer = turn.send.as_ref().map(|answer| codec::decode(answer).unwrap());
    turn.transfer.is_none() && matches!(answer, Some(Message::Response { result: Err(_), .. }))
}

#[test]
fn the_steps_of_a_transfer_are_answered_by_whoever_copies() {
    let mut session = ready();
    let now = Instant::now();
    let (id, start) = session.start_files(FileCommand::Read, "a/b").unwrap();
    assert_eq!(id, 0);
    assert!(start.windows(12).any(|window| window == b"\xab/srv/wk/a/b"), "a path counts from its directory");
    session.start_files(FileCommand::Write { mode: None }, "/abs").unwrap();
    session.start(now, &Command::shell("x")).unwrap();

    let bytes = take(0, "0", b"abc");
    let turn = session.receive(now, &bytes).unwrap();
    assert_eq!((turn.transfer, turn.send), (Some((0, 0, Step::Take(b"abc"))), None));
    let bytes = give(1, "1", 9);
    let turn = session.receive(now, &bytes).unwrap();
    assert_eq!((turn.transfer, turn.send), (Some((1, 1, Step::Give(9))), None));
    let closed = step(2, "0", "update_upload_file_close", ("x", vec![NIL]));
    assert_eq!(session.receive(now, &closed).unwrap().send, nil_to(2));

    // In the wrong direction, larger than was asked for, and for what is no transfer.
    (0..2).for_each(|command| session.transfer_answered(command));
    let wrong = [
        give(3, "0", 9),
        take(3, "1", b"x"),
        take(3, "0", &vec![0; BLOCK + 1]),
        take(3, "2", b"x"),
        take(3, "7", b"x"),
    ];
    for wrong in wrong {
        assert!(is_refused(&session.receive(now, &wrong).unwrap()));
    }
}

#[test]
fn the_end_of_what_is_done_with_files_says_what_was_found() {
    let names = list(&[text("files"), list(&[text("info")])]);
    let stat = list(&[text("stat"), list(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(|item| vec![item]))]);
    let findings = Findings { names: Some(vec!["info".to_owned()]), status: Some((1, 7, 9)) };
    let failed = |code, words: &str| Ending::Files(Err(FileFailure { code, words: words.to_owned() }));
    let cases = [
        (vec![names, stat, code(0)], Ending::Files(Ok(findings))),
        (vec![lines("header", "stat: No such file: x\n"), code(2)], failed(2, "stat: No such file: x")),
        (vec![lines("header", "sending x\n"), code(1), lines("stderr", "Cannot open\n")], failed(1, "Cannot open")),
        (vec![], Ending::Broken("the worker does not say how it ended".to_owned())),
    ];
    for (pieces, expected) in cases {
        let mut session = ready();
        let now = Instant::now();
        session.start_files(FileCommand::Status, "x").unwrap();
        let update = update(0, "0", &pieces);
        assert!(session.receive(now, &update).unwrap().output.is_none(), "it is no output of a program");
        let complete = complete(1, "0");
        assert_eq!(session.receive(now, &complete).unwrap().ended, Some((0, expected)));
    }
}

#[test]
fn only_a_worker_that_knows_raw_output_is_asked_for_it() {
    for (ours, expected) in [(false, false), (true, true)] {
        let (mut session, _) = Session::new();
        let mut map = vec![0x83];
        for (key, value) in
            [("system", text("posix")), ("basedir", text("/srv")), ("raw_output", vec![0xc2 | u8::from(ours)])]
        {
            map.extend(text(key));
            map.extend(value);
        }
        let settings = session.receive(Instant::now(), &response(0, map)).unwrap().send.unwrap();
        let asked = settings.windows(10).any(|window| window == b"raw_output");
        assert_eq!(asked, expected);
        Raw::whole(&settings).unwrap();
    }
}

fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut writer = super::super::msgpack::Writer(Vec::new());
    writer.binary(bytes);
    writer.0
}

/// A session with one transfer under way.
fn transferring(what: FileCommand) -> (Session, CommandId) {
    let mut session = ready();
    let (id, _) = session.start_files(what, "file").unwrap();
    (session, id)
}

fn block(number: u8, bytes: &[u8]) -> Vec<u8> {
    message(&[
        ("op", text("update_upload_file_write")),
        ("args", binary(bytes)),
        ("command_id", text("0")),
        ("seq_number", vec![number]),
    ])
}

fn wanted(number: u8, length: u8) -> Vec<u8> {
    message(&[
        ("op", text("update_read_file")),
        ("length", vec![length]),
        ("command_id", text("0")),
        ("seq_number", vec![number]),
    ])
}

#[test]
fn a5_a_second_step_of_a_transfer_before_the_first_is_answered_is_a_violation() {
    let now = Instant::now();
    let (mut session, id) = transferring(FileCommand::Write { mode: None });
    assert!(session.receive(now, &wanted(0, 9)).unwrap().transfer.is_some());
    assert_eq!(session.receive(now, &wanted(1, 9)).unwrap_err(), Violation::Impatient);
    session.transfer_answered(id);
    assert!(session.receive(now, &wanted(2, 9)).unwrap().transfer.is_some());

    let (mut session, _) = transferring(FileCommand::Read);
    assert!(session.receive(now, &block(0, b"x")).unwrap().transfer.is_some());
    assert_eq!(session.receive(now, &block(1, b"x")).unwrap_err(), Violation::Impatient);
}

/// The worker says that all went well, though a step was refused.
#[test]
fn a_transfer_with_a_step_that_was_refused_fails_whatever_its_end_says() {
    let now = Instant::now();
    let without_args =
        message(&[("op", text("update_upload_file_write")), ("command_id", text("0")), ("seq_number", vec![0])]);
    let cases = [
        (FileCommand::Write { mode: None }, wanted(0, 0)),
        (FileCommand::Write { mode: None }, block(0, b"x")),
        (FileCommand::Read, block(0, b"")),
        (FileCommand::Read, block(0, &vec![0; BLOCK + 1])),
        (FileCommand::Read, wanted(0, 9)),
        (FileCommand::Read, without_args),
    ];
    for (what, step) in cases {
        let (mut session, id) = transferring(what);
        assert!(session.receive(now, &step).unwrap().transfer.is_none(), "{what:?}");
        session.receive(now, &update(1, "0", &[code(0)])).unwrap();
        let ended = session.receive(now, &complete(2, "0")).unwrap().ended;
        assert!(matches!(&ended, Some((of, Ending::Broken(_))) if *of == id), "{what:?}: {ended:?}");
    }
}

#[test]
fn a5_what_a_worker_never_answers_takes_no_room() {
    let mut session = ready();
    let now = Instant::now();
    for number in 0..10_000 {
        let (id, _) = session.start(now, &Command::shell("x")).unwrap();
        session.interrupt(id).unwrap();
        session.receive(now, &complete(0, &id.to_string())).unwrap();
        assert!(session.asked.is_empty(), "{} requests wait after {number} commands", session.asked.len());
    }
}

#[test]
fn a5_commands_that_a_worker_never_ends_are_bounded() {
    let mut session = ready();
    let now = Instant::now();
    for _ in 0..MAX_COMMANDS {
        session.start(now, &Command::shell("x")).unwrap();
    }
    assert_eq!(session.start(now, &Command::shell("x")).unwrap_err(), StartRefused::TooMany);
    assert_eq!(session.start_files(FileCommand::List, "x").unwrap_err(), StartRefused::TooMany);
    assert_eq!(session.asked.len(), MAX_COMMANDS);
    session.receive(now, &complete(0, "0")).unwrap();
    session.start(now, &Command::shell("x")).unwrap();
}

#[test]
fn a5_the_words_of_a_failure_are_bounded() {
    let mut session = ready();
    let now = Instant::now();
    session.start_files(FileCommand::List, "x").unwrap();
    session.receive(now, &update(0, "0", &[lines("stderr", &"x".repeat(100_000)), code(1)])).unwrap();
    let ended = session.receive(now, &complete(1, "0")).unwrap().ended;
    match ended {
        Some((_, Ending::Files(Err(failure)))) => assert_eq!(failure.words.len(), MAX_WORDS),
        other => panic!("{other:?}"),
    }
}
