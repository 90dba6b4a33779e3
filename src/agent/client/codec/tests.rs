//! What a stock master says, and that what we say is read by our own master as it was meant.

use super::super::super::codec as master;
use super::*;
use crate::agent::msgpack::Writer;

fn shell_args(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::request("start_command", 4, 3);
    writer.field("command_id").text("7").field("command_name").text("shell").field("args");
    write(&mut writer);
    writer.0
}

fn command(bytes: &[u8]) -> Result<Run, String> {
    let variable = |name: &str| (name == "PATH").then(|| "/bin".to_owned());
    match decode(bytes, Some(&variable)).unwrap() {
        Message::Request { number: 4, request: Request::Start { command: "7", job } } => match job? {
            Job::Run(run) => Ok(run),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_of_a_stock_master_is_read() {
    let bytes = shell_args(|writer| {
        writer.map(9);
        writer.field("command").list(2).text("make").text("test");
        writer.field("workdir").text("/srv/build");
        writer.field("env").map(4);
        writer.field("A").text("x${PATH}y${NONE}z${");
        writer.field("B").nil();
        writer.field("C").list(2).text("/a").text("${PATH}");
        writer.field("D").text("$PATH ${not a name}");
        writer.field("timeout").unsigned(1200);
        writer.field("maxTime").nil();
        writer.field("want_stdout").boolean(true);
        writer.field("want_stderr").boolean(false);
        writer.field("usePTY").boolean(true);
        writer.field("initial_stdin").text("in");
    });
    let run = command(&bytes).unwrap();
    let expected = Command::exec(["make", "test"])
        .directory("/srv/build")
        .env("A", "x/binyz${")
        .env_remove("B")
        .env("C", "/a:/bin")
        .env("D", "$PATH ${not a name}")
        .silence_limit(Duration::from_secs(1200))
        .stdin("in");
    assert_eq!(run, Run { command: expected, stdout: true, stderr: false });
}

#[test]
fn a_command_that_lacks_something_says_what() {
    let no_directory = shell_args(|writer| _ = writer.map(1).field("command").text("x"));
    assert_eq!(command(&no_directory).unwrap_err(), "shell needs workdir");
    let relative = shell_args(|writer| _ = writer.map(2).field("command").text("x").field("workdir").text("b"));
    assert_eq!(command(&relative).unwrap_err(), "the path \"b\" is not absolute");
    let number = shell_args(|writer| _ = writer.map(2).field("command").list(1).nil().field("workdir").text("/"));
    assert_eq!(command(&number).unwrap_err(), "command is a list of texts");
    let variable = shell_args(|writer| {
        writer.map(3).field("command").text("x").field("workdir").text("/");
        writer.field("env").map(1).field("A").unsigned(1);
    });
    assert_eq!(command(&variable).unwrap_err(), "the variable \"A\" is no text");
}

#[test]
fn limits_that_are_none_are_none() {
    for seconds in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
        let bytes = shell_args(|writer| {
            writer.map(3).field("command").text("x").field("workdir").text("/").field("maxTime").float(seconds);
        });
        assert_eq!(command(&bytes).unwrap().command.time_limit, None);
    }
}

/// What our master makes of an update.
fn read(pieces: &[Piece<'_>]) -> Vec<String> {
    let bytes = encode_update(3, "7", 1.5, pieces);
    let Ok(master::Message::Request { number: 3, request: master::Request::Update { command: "7", updates } }) =
        master::decode(&bytes)
    else {
        panic!("{bytes:?}");
    };
    updates
        .map(|update| match update {
            master::Update::Names(names) => format!("{:?}", names.names()),
            master::Update::Status(status) => format!("{:?}", status.status()),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn our_master_reads_what_we_write() {
    let status = FileStatus::new(0o100_644, 5, std::time::UNIX_EPOCH + Duration::from_secs(9));
    let seen = read(&[
        Piece::Raw("stdout", b"\xff"),
        Piece::Lines("stderr", "a\n", &[1]),
        Piece::ExitCode(-1),
        Piece::FailureReason("timeout"),
        Piece::Elapsed(Duration::from_millis(1500)),
        Piece::Names(&["a".to_owned(), "b".to_owned()]),
        Piece::Status(&status),
    ]);
    let expected = [
        "Stdout([255])",
        "Stderr([97, 10])",
        "ExitCode(-1)",
        "FailureReason([116, 105, 109, 101, 111, 117, 116])",
        "Elapsed(1.5)",
        "Some([\"a\", \"b\"])",
        "Some((33188, 5, 9))",
    ];
    assert_eq!(seen, expected);
    let transfer = |bytes: &[u8]| match master::decode(bytes) {
        Ok(master::Message::Request { number: 1, request: master::Request::Transfer { command: "7", step } }) => {
            format!("{step:?}")
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(transfer(&encode_take(1, "7", b"ab")), "Take([97, 98])");
    assert_eq!(transfer(&encode_give(1, "7", 99)), "Give(99)");
    assert_eq!(transfer(&encode_closed("update_upload_file_close", 1, "7")), "Closed");
    assert_eq!(transfer(&encode_closed("update_read_file_close", 1, "7")), "Closed");
    for error in [None, Some("broken")] {
        let bytes = encode_complete(2, "7", error);
        let expected = master::Request::Complete { command: "7", error: error.map(str::to_owned) };
        assert_eq!(master::decode(&bytes), Ok(master::Message::Request { number: 2, request: expected }));
    }
}

#[test]
fn a5_hostile_bytes_from_a_master_never_panic() {
    let good = shell_args(|writer| {
        writer.map(3).field("command").list(1).text("x").field("workdir").text("/").field("env").map(1);
        writer.field("A").text("${B}");
    });
    let mut random = fastrand::Rng::with_seed(20_261_125);
    for _ in 0..100_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(1..=bytes.len()));
        let _ = decode(&bytes, Some(&|_| None));
    }
}
