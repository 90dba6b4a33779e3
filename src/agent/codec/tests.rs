//! Messages as they were recorded from the stock worker 4.3, and bytes that nobody should send.

use super::*;

/// Text as the wire has it, for lengths below 32.
fn short(text: &str) -> Vec<u8> {
    let mut bytes = vec![0xa0 | u8::try_from(text.len()).unwrap()];
    bytes.extend(text.as_bytes());
    bytes
}

/// A map of these fields, each value being bytes of the wire.
pub(crate) fn message(fields: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0x80 | u8::try_from(fields.len()).unwrap()];
    for (name, value) in fields {
        bytes.extend(short(name));
        bytes.extend(value);
    }
    bytes
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmp::encode::write_str(&mut bytes, text).unwrap();
    bytes
}

pub(crate) fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmp::encode::write_array_len(&mut bytes, items.len() as u32).unwrap();
    bytes.extend(items.concat());
    bytes
}

/// `[key, [text, positions, times]]`
pub(crate) fn lines(key: &str, content: &str) -> Vec<u8> {
    let mut time = Vec::new();
    rmp::encode::write_f64(&mut time, 1_795_451_629.68).unwrap();
    list(&[text(key), list(&[text(content), list(&[vec![9]]), list(&[time])])])
}

#[test]
fn a_recorded_update_is_read() {
    let elapsed = {
        let mut bytes = Vec::new();
        rmp::encode::write_f64(&mut bytes, 0.312_276).unwrap();
        bytes
    };
    let bytes = message(&[
        ("op", text("update")),
        (
            "args",
            list(&[
                lines("header", "sh -c 'exit 3'\n"),
                lines("stdout", "hello out\n"),
                lines("stderr", "to-err\n"),
                list(&[text("rc"), vec![3]]),
                list(&[text("rc"), vec![0xff]]),
                list(&[text("failure_reason"), text("timeout")]),
                list(&[text("elapsed"), elapsed]),
                list(&[text("files"), list(&[text("info")])]),
                list(&[text("stdout"), vec![7]]),
                vec![0xc0],
            ]),
        ),
        ("command_id", text("2")),
        ("seq_number", vec![4]),
    ]);
    let Ok(Message::Request { number: 4, request: Request::Update { command: "2", updates } }) = decode(&bytes) else {
        panic!("{:?}", decode(&bytes));
    };
    let seen: Vec<_> = updates.collect();
    let expected = [
        Update::Header(b"sh -c 'exit 3'\n"),
        Update::Stdout(b"hello out\n"),
        Update::Stderr(b"to-err\n"),
        Update::ExitCode(3),
        Update::ExitCode(-1),
        Update::FailureReason(b"timeout"),
        Update::Elapsed(0.312_276),
        Update::Names(Raw::whole(b"\x91\xa4info").unwrap()),
        Update::Other,
        Update::Other,
    ];
    assert_eq!(seen, expected);
}

#[test]
fn completes_and_responses_are_read() {
    let complete = |args: Vec<u8>| {
        message(&[("op", text("complete")), ("args", args), ("command_id", text("2")), ("seq_number", vec![5])])
    };
    let nil = complete(vec![0xc0]);
    let request = Request::Complete { command: "2", error: None };
    assert_eq!(decode(&nil), Ok(Message::Request { number: 5, request }));
    let failed = complete(text("it failed"));
    let request = Request::Complete { command: "2", error: Some("it failed".to_owned()) };
    assert_eq!(decode(&failed), Ok(Message::Request { number: 5, request }));

    // The frame of 33 bytes that ends a start_command in the recording.
    let recorded = b"\x83\xa2op\xa8response\xaaseq_number\x07\xa6result\xc0";
    assert_eq!(recorded.len(), 33);
    assert_eq!(decode(recorded), Ok(Message::Response { number: 7, result: Ok(NIL) }));
    let error = message(&[
        ("op", text("response")),
        ("seq_number", vec![7]),
        ("result", text("unrecognized")),
        ("is_exception", vec![0xc2]),
    ]);
    assert_eq!(decode(&error), Ok(Message::Response { number: 7, result: Err("unrecognized".to_owned()) }));
}

#[test]
fn what_cannot_be_answered_and_what_is_unknown_differ() {
    assert_eq!(decode(&message(&[("op", text("update"))])), Ok(Message::Unanswerable));
    assert_eq!(decode(&message(&[("seq_number", vec![1])])), Ok(Message::Unanswerable));
    let unknown = message(&[("op", text("dance")), ("seq_number", vec![1])]);
    assert!(matches!(decode(&unknown), Ok(Message::Request { number: 1, request: Request::Refused(_) })));
    let bare = message(&[("op", text("update")), ("seq_number", vec![1])]);
    assert!(matches!(decode(&bare), Ok(Message::Request { number: 1, request: Request::Refused(_) })));
}

#[test]
fn what_we_send_is_what_a_stock_master_sends() {
    // Recorded: {'op': 'shutdown', 'seq_number': 12}, 25 bytes.
    assert_eq!(encode_plain("shutdown", 12), b"\x82\xa2op\xa8shutdown\xaaseq_number\x0c");
    // Recorded: a response of 33 bytes.
    let nil = encode_response(4, None);
    assert_eq!(nil.len(), 33);
    assert_eq!(decode(&nil), Ok(Message::Response { number: 4, result: Ok(NIL) }));
    let error = encode_response(4, Some("no"));
    assert_eq!(decode(&error), Ok(Message::Response { number: 4, result: Err("no".to_owned()) }));
    let environment = [("A".to_owned(), Some("1".to_owned())), ("B".to_owned(), None)].into();
    let shell = Shell {
        program: ShellProgram::Arguments(&["sleep".to_owned(), "1".to_owned()]),
        workdir: "/srv",
        environment: &environment,
        stdin: b"in",
        time_limit: Some(1.5),
        silence_limit: None,
    };
    let start = encode_start(3, "7", &shell);
    Raw::whole(&start).expect("the lengths that are said are those that follow");
    let files = [
        FileCommand::Status,
        FileCommand::List,
        FileCommand::MakeDirectory,
        FileCommand::RemoveDirectory,
        FileCommand::RemoveFile,
        FileCommand::Read,
        FileCommand::Write { mode: None },
        FileCommand::Write { mode: Some(0o755) },
    ];
    for what in files {
        Raw::whole(&encode_file_command(3, "7", what, "/srv/file")).expect("as above");
    }
}

#[test]
fn the_steps_of_a_transfer_are_read() {
    let step = |op: &str, more: (&str, Vec<u8>)| {
        message(&[("op", text(op)), more, ("command_id", text("3")), ("seq_number", vec![6])])
    };
    let read = |bytes: &[u8]| match decode(bytes) {
        Ok(Message::Request { number: 6, request }) => match request {
            Request::Transfer { command: "3", step: Step::Take(bytes) } => format!("take {bytes:?}"),
            Request::Transfer { command: "3", step: Step::Give(length) } => format!("give {length}"),
            Request::Transfer { command: "3", step: Step::Closed } => "closed".to_owned(),
            other => format!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    // Recorded.
    assert_eq!(read(&step("update_read_file", ("length", vec![0xcd, 0x40, 0x00]))), "give 16384");
    assert_eq!(read(&step("update_upload_file_write", ("args", b"\xc4\x03abc".to_vec()))), "take [97, 98, 99]");
    for closed in ["update_read_file_close", "update_upload_file_close", "update_upload_file_utime"] {
        assert_eq!(read(&step(closed, ("access_time", vec![1]))), "closed");
    }
    assert!(read(&step("update_read_file", ("length", text("all")))).starts_with("Unusable"));
    assert!(read(&step("update_upload_file_write", ("args", vec![7]))).starts_with("Unusable"));
    assert!(read(&step("update_upload_directory_write", ("args", text("tar")))).starts_with("Refused"));
}

#[test]
fn names_and_status_are_read_and_bounded() {
    let names = list(&[text("info"), vec![7], text("ü")]);
    assert_eq!(Raw::whole(&names).unwrap().names().unwrap(), ["info", "ü"]);
    let many = list(&vec![vec![0xa0]; MAX_NAMES as usize + 1]);
    assert_eq!(Raw::whole(&many).unwrap().names(), None);
    let stat: Vec<Vec<u8>> = [0xcd, 1, 2, 3, 4, 5, 6, 7, 8, 9].iter().map(|item| vec![*item]).collect();
    let stat = [vec![vec![0xcd, 0x81, 0xa4]], stat[1..].to_vec()].concat();
    assert_eq!(Raw::whole(&list(&stat)).unwrap().status(), Some((0o100_644, 6, 8)));
    assert_eq!(Raw::whole(&list(&stat[1..])).unwrap().status(), None);
}

#[test]
fn a5_bad_bytes_are_refused() {
    let nested = |depth: usize| {
        let mut bytes = b"\x83\xa2op\xa1x\xaaseq_number\x01\xa4args".to_vec();
        bytes.extend(std::iter::repeat_n(0x91, depth));
        bytes.push(0xc0);
        bytes
    };
    assert!(decode(&nested(20)).is_ok());
    assert_eq!(decode(&nested(1_000_000)), Err(Malformed("nested too deeply")));
    // Lists and texts of four thousand million items that are not there.
    for announced in
        [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
    {
        assert_eq!(decode(announced), Err(Malformed("it ends too early")));
    }
    assert_eq!(decode(b""), Err(Malformed("it ends too early")));
    assert_eq!(decode(b"\xc1"), Err(Malformed("a byte that begins no value")));
    assert_eq!(decode(b"\x90"), Err(Malformed("not a map")));
    assert_eq!(decode(b"\x80\x80"), Err(Malformed("bytes after its end")));
}

#[test]
fn a5_hostile_bytes_never_panic() {
    let good = message(&[
        ("op", text("update")),
        ("args", list(&[lines("stdout", "x\n"), list(&[text("rc"), vec![3]])])),
        ("command_id", text("0")),
        ("seq_number", vec![0]),
    ]);
    let mut random = fastrand::Rng::with_seed(20_261_123);
    for _ in 0..200_000 {
        let bytes = if random.bool() {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(1..=bytes.len()));
            bytes
        } else {
            (0..random.usize(..60)).map(|_| random.u8(..)).collect()
        };
        match decode(&bytes) {
            Ok(Message::Request { request: Request::Update { updates, .. }, .. }) => {
                assert!(updates.count() <= bytes.len(), "every piece is a byte at least");
            }
            Ok(Message::Response { result: Ok(raw), .. }) => drop((raw.worker_info(), raw.names(), raw.status())),
            _ => {}
        }
    }
}

/// A hundred times the pieces take about a hundred times the work, and no memory.
#[test]
fn a5_a_large_update_is_read_in_one_pass() {
    let pieces: Vec<_> = (0..300_000).map(|_| lines("stdout", "x\n")).collect();
    let bytes =
        message(&[("op", text("update")), ("args", list(&pieces)), ("command_id", text("0")), ("seq_number", vec![0])]);
    let Ok(Message::Request { request: Request::Update { updates, .. }, .. }) = decode(&bytes) else {
        panic!("it is an update");
    };
    assert_eq!(updates.count(), pieces.len());
}

#[test]
fn a5_what_a_worker_says_of_itself_is_bounded() {
    let info = |basedir: &str| {
        let map = [&[0x82][..], &text("system"), &text("posix"), &text("basedir"), &text(basedir)].concat();
        Raw::whole(&map).unwrap().worker_info().is_some()
    };
    assert!(info(&"x".repeat(MAX_INFO)));
    assert!(!info(&"x".repeat(MAX_INFO + 1)));
}
