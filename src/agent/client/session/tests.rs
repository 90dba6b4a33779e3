//! What a master may say to an agent, in its own words and in ours.

use std::borrow::Cow;

use super::super::super::codec as master;
use super::*;
use crate::agent::codec::{FileCommand, Shell, ShellProgram};
use crate::agent::msgpack::Writer;

const INFO: Info<'static> = Info { basedir: Cow::Borrowed("/srv"), processors: 2, environment: Cow::Borrowed(&[]) };

fn receive<'m>(session: &mut Session, bytes: &'m [u8]) -> Turn<'m> {
    session.receive(bytes, &INFO, &|name| (name == "HOME").then(|| "/root".to_owned())).unwrap()
}

/// Whether the turn answers request `number` well.
fn answers(turn: &Turn<'_>, number: u64) -> bool {
    let answer = turn.send.as_ref().map(|answer| master::decode(answer).unwrap());
    matches!(answer, Some(master::Message::Response { number: to, result: Ok(_) }) if to == number)
}

fn start(number: u64, environment: &std::collections::BTreeMap<String, Option<String>>) -> Vec<u8> {
    start_as(number, "7", environment)
}

fn start_as(number: u64, id: &str, environment: &std::collections::BTreeMap<String, Option<String>>) -> Vec<u8> {
    let shell = Shell {
        program: ShellProgram::Line("true"),
        workdir: "/srv",
        environment,
        stdin: b"",
        time_limit: None,
        silence_limit: None,
    };
    master::encode_start(number, id, &shell)
}

fn raw_settings(number: u64) -> Vec<u8> {
    let settings = master::Settings {
        buffer_size: 1,
        buffer_timeout: 1.0,
        newline_re: "",
        max_line_length: 1 << 30,
        raw_output: true,
    };
    master::encode_settings(number, &settings)
}

#[test]
fn every_request_is_answered_and_what_the_master_reads_is_what_we_are() {
    let mut session = Session::new();
    for (number, op) in ["print", "keepalive", "get_worker_info", "shutdown"].iter().enumerate() {
        let request = master::encode_plain(op, number as u64);
        let turn = receive(&mut session, &request);
        assert!(answers(&turn, number as u64), "{op}");
        assert_eq!(matches!(turn.todo, Some(Todo::Shutdown)), *op == "shutdown");
    }
    let request = master::encode_plain("get_worker_info", 3);
    let answer = receive(&mut session, &request).send.unwrap();
    let Ok(master::Message::Response { number: 3, result: Ok(info) }) = master::decode(&answer) else {
        panic!("{answer:?}");
    };
    let info = info.worker_info().unwrap();
    assert_eq!((info.basedir.as_str(), info.system.as_str(), info.raw_output), ("/srv", "posix", true));
    assert!(info.version.starts_with("latent-worker "));

    let unknown = master::encode_plain("dance", 9);
    assert!(!answers(&receive(&mut session, &unknown), 9));
    let bare = master::encode_plain("start_command", 10);
    let turn = receive(&mut session, &bare);
    assert!(turn.todo.is_none() && !answers(&turn, 10) && turn.send.is_some());
    assert!(session.receive(b"\x90", &INFO, &|_| None).is_err());
}

#[test]
fn a_command_is_begun_with_the_settings_that_were_said_last() {
    let mut session = Session::new();
    let environment = [("A".to_owned(), Some("${HOME}/x".to_owned()))].into();
    let variable = |turn: Turn<'_>| match turn.todo {
        Some(Todo::Start("7", Job::Run(run), settings)) => {
            (run.command.environment["A"].clone().unwrap(), settings.raw_output)
        }
        other => panic!("{other:?}"),
    };
    let request = start(0, &environment);
    assert_eq!(variable(receive(&mut session, &request)), ("/root/x".to_owned(), false));
    let settings = raw_settings(1);
    assert!(answers(&receive(&mut session, &settings), 1));
    session.ended("7");
    let request = start(2, &environment);
    assert_eq!(variable(receive(&mut session, &request)), ("${HOME}/x".to_owned(), true));
}

#[test]
fn commands_are_bounded_and_make_room_when_they_end() {
    let mut session = Session::new();
    let environment = Default::default();
    for number in 0..MAX_COMMANDS as u64 {
        let request = start_as(number, &number.to_string(), &environment);
        assert!(answers(&receive(&mut session, &request), number));
    }
    let request = start_as(1000, "more", &environment);
    let turn = receive(&mut session, &request);
    assert!(turn.todo.is_none() && !answers(&turn, 1000));
    session.ended("3");
    assert!(answers(&receive(&mut session, &request), 1000));
    session.ended("4");
    let turn = receive(&mut session, &request);
    assert!(turn.todo.is_none() && !answers(&turn, 1000), "it runs already");
}

#[test]
fn answers_go_to_the_command_that_asked_and_nobody_else() {
    let mut session = Session::new();
    assert_eq!((session.ask("a"), session.ask("b")), (0, 1));
    let answer = encode_response(1, None);
    assert!(matches!(receive(&mut session, &answer).todo, Some(Todo::Answer(command, Ok(_))) if command == "b"));
    assert!(receive(&mut session, &answer).todo.is_none(), "once");
    let error = encode_response(0, Some("no"));
    assert!(matches!(receive(&mut session, &error).todo, Some(Todo::Answer(command, Err(_))) if command == "a"));
}

/// A master that uses a name again, and is late with its answers.
#[test]
fn answers_to_a_command_that_has_ended_are_not_for_the_next_one_of_its_name() {
    let mut session = Session::new();
    let environment = std::collections::BTreeMap::new();
    receive(&mut session, &start(0, &environment));
    assert_eq!((session.ask("7"), session.ended("7")), (0, 1), "the end has a number of its own");
    assert!(matches!(receive(&mut session, &start(1, &environment)).todo, Some(Todo::Start("7", ..))));
    assert_eq!(session.ask("7"), 2);
    for stale in [0, 1] {
        assert!(receive(&mut session, &encode_response(stale, None)).todo.is_none(), "{stale}");
    }
    let answer = encode_response(2, None);
    assert!(matches!(receive(&mut session, &answer).todo, Some(Todo::Answer(command, Ok(_))) if command == "7"));
}

#[test]
fn what_is_done_with_files_is_understood_as_our_master_says_it() {
    let mut session = Session::new();
    let mut job = |what| {
        let request = master::encode_file_command(0, "7", what, "/srv/f");
        session.ended("7");
        match receive(&mut session, &request).todo {
            Some(Todo::Start("7", job, _)) => job,
            other => panic!("{other:?}"),
        }
    };
    use codec::FileJob;
    let path = || "/srv/f".to_owned();
    assert_eq!(job(FileCommand::Status), Job::Files(FileJob::Status(path())));
    assert_eq!(job(FileCommand::List), Job::Files(FileJob::List(path())));
    assert_eq!(job(FileCommand::MakeDirectory), Job::Files(FileJob::MakeDirectories(vec![path()])));
    assert_eq!(job(FileCommand::RemoveDirectory), Job::Files(FileJob::RemoveDirectories(vec![path()])));
    let block = master::BLOCK;
    assert_eq!(job(FileCommand::Read), Job::Files(FileJob::Send { path: path(), block, limit: None }));
    let mode = Some(0o755);
    let receive = FileJob::Receive { path: path(), block, limit: None, mode };
    assert_eq!(job(FileCommand::Write { mode }), Job::Files(receive));
}

#[test]
fn a_path_that_is_not_absolute_begins_nothing() {
    let mut session = Session::new();
    let request = master::encode_file_command(0, "7", FileCommand::Status, "relative");
    let turn = receive(&mut session, &request);
    assert!(turn.todo.is_none() && !answers(&turn, 0));
    let mut unknown = Writer::request("start_command", 5, 3);
    unknown.field("command_id").text("1").field("command_name").text("glob").field("args").map(0);
    let turn = receive(&mut session, &unknown.0);
    assert!(turn.todo.is_none() && !answers(&turn, 5));
}

#[test]
fn a5_what_the_commands_of_a_master_hold_is_bounded() {
    let mut session = Session::new();
    let environment = Default::default();
    let request = start_as(0, "0", &environment);
    assert!(answers(&receive(&mut session, &request), 0));
    assert_eq!(session.held, request.len());
    session.held = MAX_COMMAND;
    let request = start_as(1, "1", &environment);
    let turn = receive(&mut session, &request);
    assert!(turn.todo.is_none() && !answers(&turn, 1));
    session.ended("0");
    assert!(answers(&receive(&mut session, &request), 1));
}
