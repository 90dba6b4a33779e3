//! What the client does with engines that answer late, wrongly, in pieces, or not at all.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::super::{BuildContext, Ended, Engine, EngineAddress, EngineError, ImageBuild, Keyring, Patience, Pull};
use super::Directory;
use super::fake::{Fake, Peer, full};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(600);
/// What is to happen within a second may take this long on a busy machine.
const SOON: Duration = Duration::from_secs(15);

const IMAGE: &str = r#"{"Id":"1.2","Os":"linux","Architecture":"amd64","Variant":null}"#;
const CONTAINER: &str = r#"{"Id":"c","Name":"/c","State":{"Status":"running","Running":true}}"#;

fn patience() -> Patience<'static> {
    Patience::new(LONG)
}

/// An engine on a Unix socket that does this with each request but greetings.
fn answering(answer: impl Fn(&str, &mut Peer) + Send + Sync + 'static) -> (Directory, Fake, Engine) {
    let directory = Directory::new();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        while let Some(asked) = peer.asked_of("1.41") {
            answer(&asked.line, &mut peer);
        }
    });
    let engine = Engine::new(fake.address());
    (directory, fake, engine)
}

/// The connection ends after that.
fn answering_once(answer: impl Fn(&mut Peer) + Send + Sync + 'static) -> (Directory, Fake, Engine) {
    let directory = Directory::new();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        if peer.asked_of("1.41").is_some() {
            answer(&mut peer);
        }
    });
    let engine = Engine::new(fake.address());
    (directory, fake, engine)
}

fn pull<'a>(reference: &'a str) -> Pull<'a> {
    static NONE: LazyLock<Keyring> = LazyLock::new(Keyring::default);
    Pull { reference, platform: None, credentials: &NONE }
}

// Connections.

#[test]
fn one_connection_serves_many_calls() {
    let serve = |_, mut peer: Peer| {
        while let Some(asked) = peer.asked_of("1.41") {
            assert_eq!(asked.line, "GET /v1.41/images/x/json");
            peer.answer(200, IMAGE);
        }
    };
    let directory = Directory::new();
    for fake in [Fake::unix(directory.path(), serve), Fake::tcp(serve)] {
        let engine = Engine::new(fake.address());
        for _ in 0..20 {
            assert_eq!(engine.image("x", None, patience()).unwrap().unwrap().id, "1.2");
            // What is in chunks, and what failed, too.
            assert_eq!(engine.clone().image("x", None, patience()).unwrap().unwrap().os, "linux");
        }
        assert_eq!(fake.connections(), 1);
    }
}

#[test]
fn answers_in_chunks_and_errors_leave_the_connection_usable() {
    let (_directory, fake, engine) = answering(|line, peer| match line {
        "GET /v1.41/images/x/json" => {
            let (first, second) = IMAGE.as_bytes().split_at(20);
            peer.begin_chunks(&[first, second, b""]);
        }
        _ => peer.answer(404, r#"{"message":"no such image"}"#),
    });
    for _ in 0..5 {
        assert!(engine.image("x", None, patience()).unwrap().is_some());
        assert!(engine.image("y", None, patience()).unwrap().is_none());
    }
    assert_eq!(fake.connections(), 1);
}

#[test]
fn a_host_is_found_by_its_name() {
    let fake = Fake::tcp(|_, mut peer| {
        let asked = peer.asked().unwrap();
        assert!(asked.header("host").unwrap().starts_with("localhost:"));
        peer.pong("1.41");
        peer.asked();
        peer.answer(200, IMAGE);
    });
    let address = fake.address().to_string().replace("127.0.0.1", "localhost");
    let engine = Engine::new(address.parse().unwrap());
    engine.image("x", None, patience()).unwrap();
}

/// The first connection is closed by the engine when it is idle.
#[test]
fn an_idle_connection_that_was_closed_is_replaced() {
    let (close, closing) = bounded::<()>(0);
    let (closed, is_closed) = bounded::<()>(0);
    let directory = Directory::new();
    let fake = Fake::unix(directory.path(), move |number, mut peer| {
        peer.asked_of("1.41");
        peer.answer(200, r#"{"Id":"c"}"#);
        if number == 0 {
            closing.recv().unwrap();
            drop(peer);
            closed.send(()).unwrap();
        }
    });
    let engine = Engine::new(fake.address());
    let body = serde_json::json!({});
    engine.create("a", None, &body, patience()).unwrap();
    close.send(()).unwrap();
    is_closed.recv().unwrap();
    // Not even what must not be done twice fails for that.
    engine.create("b", None, &body, patience()).unwrap();
    assert_eq!(fake.connections(), 2);
}

/// The engine goes just when an idle connection is used again: it has read the request, and nobody knows more.
#[test]
fn what_was_cut_is_asked_again_only_if_that_does_no_harm() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let directory = Directory::new();
    let fake = Fake::unix(directory.path(), move |number, mut peer| {
        peer.asked_of("1.41");
        peer.answer(200, IMAGE);
        // The second request of the first and the second connection is read and left without an answer.
        while let Some(request) = peer.asked() {
            if !request.line.ends_with("/images/x/json") {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            if number < 2 {
                return;
            }
            peer.answer(200, IMAGE);
        }
    });
    let engine = Engine::new(fake.address());
    engine.image("x", None, patience()).unwrap();
    engine.image("x", None, patience()).unwrap();
    assert_eq!(fake.connections(), 2);
    let error = engine.create("x", None, &serde_json::json!({}), patience()).unwrap_err();
    assert!(matches!(error, EngineError::Cut { .. }), "{error}");
    assert!(error.to_string().contains("create container x"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// What is done as well twice as once is asked again.
#[test]
fn a_stop_and_a_removal_are_asked_again_after_a_connection_that_was_closed_while_idle() {
    for call in [
        |engine: &Engine| engine.remove("c", patience()).map(drop),
        |engine: &Engine| engine.stop("c", Duration::ZERO, patience()).map(drop),
        |engine: &Engine| engine.start("c", patience()),
    ] {
        let directory = Directory::new();
        let fake = Fake::unix(directory.path(), move |number, mut peer| {
            peer.asked_of("1.41");
            peer.answer(204, "");
            if number == 0 {
                // Read, and left without an answer.
                peer.asked();
            }
        });
        let engine = Engine::new(fake.address());
        engine.start("c", patience()).unwrap();
        call(&engine).unwrap();
        assert_eq!(fake.connections(), 2);
    }
}

/// A proxy's, say.
#[test]
fn d3_a_404_that_is_not_about_the_container_does_not_say_that_it_is_gone() {
    for (body, gone) in [
        (r#"{"message":"No such container: c"}"#, true),
        (
            r#"{"cause":"no such container","message":"no container with name or ID \"c\" found: no such container"}"#,
            true,
        ),
        ("404 page not found", false),
        ("", false),
    ] {
        let (_directory, _fake, engine) = answering(move |_, peer| peer.answer(404, body));
        let removed = engine.remove("c", patience());
        let stopped = engine.stop("c", Duration::ZERO, patience());
        let seen = engine.inspect("c", patience());
        if gone {
            assert_eq!((removed.unwrap(), stopped.unwrap()), (Ended::Gone, Ended::Gone));
            assert!(seen.unwrap().is_none());
        } else {
            for error in [removed.unwrap_err(), stopped.unwrap_err(), seen.unwrap_err()] {
                assert_eq!(error.status(), Some(404), "{error}");
            }
        }
    }
}

/// A store of images may have one name for several platforms.
#[test]
fn an_image_is_looked_at_for_its_platform_where_the_engine_can() {
    for (version, platform, expected) in [
        ("1.48", Some("linux/arm64"), ""),
        ("1.49", None, ""),
        ("1.49", Some("linux"), ""),
        ("1.49", Some("Linux/arm64"), "?platform=%7B%22architecture%22%3A%22arm64%22%2C%22os%22%3A%22linux%22%7D"),
        (
            "1.50",
            Some("linux/arm/v7"),
            "?platform=%7B%22architecture%22%3A%22arm%22%2C%22os%22%3A%22linux%22%2C%22variant%22%3A%22v7%22%7D",
        ),
    ] {
        let directory = Directory::new();
        let fake = Fake::unix(directory.path(), move |_, mut peer| {
            let asked = peer.asked_of(version).unwrap();
            assert_eq!(asked.line, format!("GET /v{version}/images/x/json{expected}"));
            peer.answer(200, IMAGE);
        });
        Engine::new(fake.address()).image("x", platform, patience()).unwrap();
    }
}

// Cancels and limits.

/// Makes the call, cancels it when the engine says that it has come so far, and sees it end. Whether anything was sent.
#[track_caller]
fn check_cancel(
    address: EngineAddress,
    reached: Receiver<()>,
    call: impl FnOnce(&Engine, Patience<'_>) -> EngineError + Send + 'static,
) -> bool {
    let (cancel, signal): (Sender<Infallible>, _) = bounded(0);
    let (done, is_done) = bounded(1);
    thread::spawn(move || {
        let engine = Engine::new(address);
        done.send(call(&engine, patience().cancelled_by(&signal))).unwrap();
    });
    reached.recv_timeout(LONG).expect("the call did not come so far");
    assert!(is_done.recv_timeout(Duration::from_millis(300)).is_err(), "nothing was there to be waited for");
    drop(cancel);
    match is_done.recv_timeout(SOON).expect("the cancel was not noticed") {
        EngineError::Cancelled { sent, .. } => sent,
        error => panic!("{error}"),
    }
}

/// The channel on which a fake engine says that it has come so far.
fn reaching() -> (Sender<()>, Receiver<()>) {
    unbounded()
}

#[test]
fn a_call_that_is_not_answered_can_be_cancelled() {
    let directory = Directory::new();
    for over_tcp in [false, true] {
        let (reach, reached) = reaching();
        let serve = move |_, mut peer: Peer| {
            peer.asked();
            reach.send(()).unwrap();
            peer.wait_for_the_end();
        };
        let fake = if over_tcp { Fake::tcp(serve) } else { Fake::unix(directory.path(), serve) };
        let sent =
            check_cancel(fake.address(), reached, |engine, patience| engine.image("x", None, patience).unwrap_err());
        assert!(sent);
    }
}

#[test]
fn silent_streams_can_be_cancelled() {
    for call in [
        |engine: &Engine, patience: Patience<'_>| engine.pull(&pull("x"), &mut |_| {}, patience).unwrap_err(),
        |engine: &Engine, patience: Patience<'_>| {
            engine.create("c", None, &serde_json::json!({}), patience).unwrap_err()
        },
    ] {
        let directory = Directory::new();
        let (reach, reached) = reaching();
        let fake = Fake::unix(directory.path(), move |_, mut peer| {
            peer.asked_of("1.41");
            // The beginning of an answer.
            peer.begin_chunks(&[b"{"]);
            reach.send(()).unwrap();
            peer.wait_for_the_end();
        });
        assert!(check_cancel(fake.address(), reached, call));
    }
}

/// A cancel is not only looked for when nothing comes: whoever is told is slower than the engine, so that something is
/// always there.
#[test]
fn a_stream_that_never_pauses_can_be_cancelled() {
    let directory = Directory::new();
    let (reach, reached) = reaching();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        peer.asked_of("1.41");
        peer.begin_chunks(&[]);
        reach.send(()).unwrap();
        let line = format!("{{\"status\":\"{}\"}}\n", "x".repeat(1000));
        let chunk = [format!("{:x}\r\n", line.len()).as_bytes(), line.as_bytes(), b"\r\n"].concat();
        while peer.try_send(&chunk).is_ok() {}
    });
    let sent = check_cancel(fake.address(), reached, |engine, patience| {
        let mut slow = |_: &str| thread::sleep(Duration::from_millis(5));
        engine.pull(&pull("x"), &mut slow, patience).unwrap_err()
    });
    assert!(sent);
}

/// The engine stops reading in the middle of a context that is larger than any buffer.
#[test]
fn a_context_that_is_not_read_can_be_cancelled() {
    let directory = Directory::new();
    let context = Directory::new();
    fs::write(context.path().join("Dockerfile"), "FROM scratch").unwrap();
    fs::File::create(context.path().join("large")).unwrap().set_len(1 << 30).unwrap();
    let (reach, reached) = reaching();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        peer.asked();
        peer.pong("1.41");
        peer.asked_without_body();
        reach.send(()).unwrap();
        // Held open until the test has ended.
        std::mem::forget(peer);
    });
    let sent = check_cancel(fake.address(), reached, move |engine, patience| {
        let context = BuildContext::Directory(context.path(), None);
        build(engine, context, &mut |_| {}, patience).unwrap_err()
    });
    assert!(sent);
}

fn build(
    engine: &Engine,
    context: BuildContext<'_>,
    log: &mut dyn FnMut(&str),
    patience: Patience<'_>,
) -> Result<(), EngineError> {
    let build = ImageBuild {
        context,
        reference: "x:1",
        platform: None,
        arguments: &[("A", "1&2")],
        labels: &[("l", "ü")],
        credentials: &Keyring::default(),
    };
    engine.build(&build, log, patience)
}

#[test]
fn an_engine_that_takes_no_connections_can_be_cancelled_and_is_unreachable_in_time() {
    let directory = Directory::new();
    let (address, _held) = full(directory.path());
    let (reach, reached) = reaching();
    reach.send(()).unwrap();
    let call = |engine: &Engine, patience: Patience<'_>| engine.image("x", None, patience).unwrap_err();
    assert!(!check_cancel(address.clone(), reached, call), "nobody has heard anything");

    let error = Engine::new(address).image("x", None, Patience::new(Duration::from_millis(300))).unwrap_err();
    assert!(matches!(error, EngineError::Unreachable(_)), "{error}");
    assert!(error.to_string().contains("no connection within 300ms"), "{error}");
}

#[test]
fn a_call_that_was_cancelled_before_is_not_made() {
    let (_directory, fake, engine) = answering(|_, peer| peer.answer(200, IMAGE));
    let (cancel, signal): (Sender<Infallible>, _) = bounded(0);
    drop(cancel);
    let error = engine.image("x", None, patience().cancelled_by(&signal)).unwrap_err();
    assert!(matches!(error, EngineError::Cancelled { sent: false, .. }), "{error}");
    // Also not over a connection that is there.
    engine.image("x", None, patience()).unwrap();
    let error = engine.create("x", None, &serde_json::json!({}), patience().cancelled_by(&signal)).unwrap_err();
    assert!(matches!(error, EngineError::Cancelled { sent: false, .. }), "{error}");
    assert!(fake.connections() <= 2);
}

#[test]
fn a_limit_ends_what_is_not_answered_and_what_dribbles() {
    let (_directory, _fake, engine) = answering(|_, peer| peer.wait_for_the_end());
    let begin = Instant::now();
    let limit = Duration::from_millis(500);
    let error = engine.image("x", None, Patience::new(limit)).unwrap_err();
    assert!(matches!(error, EngineError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains("500ms"), "{error}");
    assert!(begin.elapsed() >= limit);

    // Each byte comes soon, and the end never.
    let (_directory, _fake, engine) = answering_once(|peer| {
        peer.begin_chunks(&[]);
        while peer.try_send(b"1\r\n \r\n").is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    });
    let error = engine.create("c", None, &serde_json::json!({}), Patience::new(limit)).unwrap_err();
    assert!(matches!(error, EngineError::TimedOut { .. }), "{error}");
}

// Answers.

#[test]
fn answers_that_end_in_the_middle_are_cuts() {
    let cuts: [&[u8]; 6] = [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"StatusCode\":0",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"StatusCo",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"StatusCode\":0}\r\n",
    ];
    for cut in cuts {
        let (_directory, _fake, engine) = answering_once(move |peer| peer.send(cut));
        let error = engine.create("c", None, &serde_json::json!({}), patience()).unwrap_err();
        assert!(matches!(error, EngineError::Cut { .. }), "{}: {error:?}", String::from_utf8_lossy(cut));
    }
}

/// A pull whose connection is cut has not succeeded, however well it looked.
#[test]
fn a_stream_that_is_cut_is_no_success() {
    let (_directory, _fake, engine) =
        answering_once(|peer| peer.begin_chunks(&[b"{\"status\":\"Status: Downloaded newer image\"}\r\n"]));
    let mut lines = Vec::new();
    let error = engine.pull(&pull("x"), &mut |line| lines.push(line.to_owned()), patience()).unwrap_err();
    assert!(matches!(error, EngineError::Cut { .. }), "{error:?}");
    assert_eq!(lines, ["Status: Downloaded newer image"]);
}

#[test]
fn what_no_engine_answers_is_malformed() {
    let answers: [&[u8]; 4] = [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ];
    for answer in answers {
        let (_directory, _fake, engine) = answering_once(move |peer| {
            peer.send(answer);
            peer.wait_for_the_end();
        });
        let error = engine.image("x", None, Patience::new(SOON)).unwrap_err();
        assert!(matches!(error, EngineError::Malformed { .. }), "{}: {error:?}", String::from_utf8_lossy(answer));
    }
    // Somebody else's server, which knows no such path or everything.
    let directory = Directory::new();
    let fake = Fake::unix(directory.path(), |_, mut peer| {
        peer.asked();
        peer.answer(200, "<html>");
    });
    let error = Engine::new(fake.address()).image("x", None, patience()).unwrap_err();
    assert!(error.to_string().contains("is this a Docker engine?"), "{error}");
}

#[test]
fn a_message_without_an_end_is_malformed() {
    let (_directory, _fake, engine) = answering_once(|peer| {
        peer.begin_chunks(&[]);
        while peer.try_send(&[b"1000\r\n", &[b'x'; 0x1000][..], b"\r\n"].concat()).is_ok() {}
    });
    let error = engine.pull(&pull("x"), &mut |_| {}, patience()).unwrap_err();
    assert!(error.to_string().contains("has no end"), "{error}");
}

#[test]
fn an_image_is_looked_at_once_more_when_the_engine_is_in_trouble() {
    for (troubles, ends_well) in [(1, true), (2, false)] {
        let looks = std::sync::atomic::AtomicUsize::new(0);
        let (_directory, _fake, engine) = answering(move |asked, peer| {
            if !asked.ends_with("/images/x/json") {
                return peer.answer(200, "{}");
            }
            if looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < troubles {
                return peer.answer(500, r#"{"message":"image not known"}"#);
            }
            peer.answer(404, "{}");
        });
        assert_eq!(engine.image("x", None, patience()).is_ok(), ends_well, "{troubles} times in trouble");
    }
}

#[test]
fn errors_have_the_engines_own_words_and_an_end() {
    for (body, expected) in [
        (r#"{"message":"no space left on device"}"#, "no space left on device"),
        (r#"{"cause":"x","message":"it is no use","response":500}"#, "it is no use"),
        ("plain words\n", "plain words"),
        ("", "it does not say why"),
    ] {
        let (_directory, _fake, engine) = answering(move |_, peer| peer.answer(500, body));
        let error = engine.start("c", patience()).unwrap_err();
        assert_eq!(error.to_string(), format!("start container c: {expected} (the engine answered 500)"));
        assert_eq!(error.status(), Some(500));
    }
    let (_directory, _fake, engine) = answering_once(|peer| {
        peer.send("HTTP/1.1 500 X\r\n\r\n");
        while peer.try_send(&[b'x'; 0x1000]).is_ok() {}
    });
    let error = engine.start("c", patience()).unwrap_err();
    assert!(error.to_string().len() < 3000 && error.status() == Some(500), "{error}");
    // Cut off in the middle of its words it is still an error of the engine.
    let (_directory, _fake, engine) =
        answering_once(|peer| peer.send("HTTP/1.1 409 X\r\nContent-Length: 100\r\n\r\n{\"mess"));
    assert!(engine.create("x", None, &serde_json::json!({}), patience()).unwrap_err().is_conflict());
}

#[test]
fn a_redirect_is_not_followed() {
    let (_directory, fake, engine) = answering(|_, peer| {
        peer.send("HTTP/1.1 301 X\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n");
    });
    assert_eq!(engine.image("x", None, patience()).unwrap_err().status(), Some(301));
    assert_eq!(fake.connections(), 1);
}

// Versions.

/// The engine is replaced by an older one while this library knows it.
#[test]
fn another_version_is_agreed_on_when_the_engine_has_changed() {
    let directory = Directory::new();
    let greetings = Arc::new(AtomicUsize::new(0));
    let counted = greetings.clone();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        while let Some(asked) = peer.asked() {
            match asked.line.as_str() {
                "GET /_ping" => {
                    let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
                    peer.pong(if first { "1.44" } else { "1.43" });
                }
                "POST /v1.44/containers/c/start" => peer.answer(
                    400,
                    r#"{"message":"client version 1.44 is too new. Maximum supported API version is 1.43"}"#,
                ),
                "POST /v1.43/containers/c/start" => peer.answer(204, ""),
                line => panic!("{line}"),
            }
        }
    });
    let engine = Engine::new(fake.address());
    engine.start("c", patience()).unwrap();
    engine.start("c", patience()).unwrap();
    assert_eq!(greetings.load(Ordering::SeqCst), 2);
}

/// As what speaks TLS does when it is spoken to in the clear.
#[test]
fn what_refuses_a_greeting_is_no_engine_and_nobodys_fault_but_the_addresss() {
    for (status, body) in [(400, "Client sent an HTTP request to an HTTPS server."), (404, ""), (503, "later")] {
        let directory = Directory::new();
        let fake = Fake::unix(directory.path(), move |_, mut peer| {
            peer.asked();
            peer.answer(status, body);
        });
        let error = Engine::new(fake.address()).image("x", None, patience()).unwrap_err();
        assert!(matches!(error, EngineError::Unreachable(_)), "{error:?}");
        assert!(error.to_string().contains(body) && error.to_string().contains("TLS"), "{error}");
    }
    let directory = Directory::new();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        peer.asked();
        peer.answer(429, "");
    });
    assert!(Engine::new(fake.address()).image("x", None, patience()).unwrap_err().throttled().is_some());
}

#[test]
fn an_engine_without_a_common_version_is_named() {
    let directory = Directory::new();
    let fake = Fake::unix(directory.path(), |_, mut peer| {
        peer.asked();
        peer.pong("1.40");
        peer.wait_for_the_end();
    });
    let error = Engine::new(fake.address()).image("x", None, patience()).unwrap_err();
    assert!(matches!(error, EngineError::Version(_)), "{error:?}");
    assert!(error.to_string().contains("1.40") && error.to_string().contains("1.41"), "{error}");

    // One of a time to come, which speaks nothing that is known here.
    let (_directory, _fake, engine) = answering(|_, peer| {
        peer.answer(400, r#"{"message":"client version 1.41 is too old. Minimum supported API version is 1.60"}"#);
    });
    let error = engine.image("x", None, patience()).unwrap_err();
    assert!(matches!(error, EngineError::Version(_)), "{error:?}");
    assert!(error.to_string().contains("1.60"), "{error}");
}

// Unreachable.

#[test]
fn an_engine_that_is_not_there_is_named_with_advice() {
    let unreachable = |address: EngineAddress| {
        let error = Engine::new(address).image("x", None, patience()).unwrap_err();
        assert!(matches!(error, EngineError::Unreachable(_)), "{error:?}");
        error.to_string()
    };
    let directory = Directory::new();
    let path = directory.path().join("x.sock");
    let shown = format!("unix://{}", path.display());
    let error = unreachable(EngineAddress::unix(&path));
    assert!(error.contains(&shown) && error.contains("no such file; is the engine running"), "{error}");

    // Left behind by an engine that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = unreachable(EngineAddress::unix(&path));
    assert!(error.contains("nobody listens there"), "{error}");

    let (address, accept) = super::fake::listening();
    drop(accept);
    let error = unreachable(format!("tcp://{address}").parse().unwrap());
    assert!(error.contains("nobody listens there"), "{error}");

    let error = unreachable(EngineAddress::unix("/".repeat(200)));
    assert!(error.contains("too long"), "{error}");
    let error = unreachable("tcp://no-such-host.invalid:1".parse().unwrap());
    assert!(error.contains("tcp://no-such-host.invalid:1"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_socket_is_an_address_too() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    let name = format!("latent-worker-test-{}", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    thread::spawn(move || {
        let mut peer = Peer::new(listener.accept().unwrap().0);
        peer.asked_of("1.41");
        peer.answer(200, IMAGE);
    });
    let engine = Engine::new(format!("unix://@{name}").parse().unwrap());
    engine.image("x", None, patience()).unwrap();
}

// Calls.

#[test]
fn a_build_sends_its_context_and_says_its_log() {
    let directory = Directory::new();
    let (heard, hears) = unbounded();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        let asked = peer.asked_of("1.41").unwrap();
        heard.send(asked).unwrap();
        peer.begin_chunks(&[
            b"{\"stream\":\"Step 1/1 : FROM scratch\\n\"}\r\n{\"aux\":{\"ID\":\"sha256:0\"}}\r\n",
            b"",
        ]);
    });
    let engine = Engine::new(fake.address());
    let mut log = Vec::new();
    build(&engine, BuildContext::Dockerfile("FROM scratch"), &mut |line| log.push(line.to_owned()), patience())
        .unwrap();
    assert_eq!(log, ["Step 1/1 : FROM scratch"]);

    let asked = hears.recv().unwrap();
    assert_eq!(
        asked.line,
        "POST /v1.41/build?t=x%3A1&dockerfile=Dockerfile&buildargs=%7B%22A%22%3A%221%262%22%7D\
         &labels=%7B%22l%22%3A%22%C3%BC%22%7D&rm=1&forcerm=1"
    );
    assert_eq!(asked.header("content-type"), Some("application/x-tar"));
    assert_eq!(&asked.body[..10], b"Dockerfile");
    assert_eq!(asked.body.len() % 512, 0);
}

/// What the engine makes of half a context is of no interest.
#[test]
fn a_context_that_cannot_be_read_to_its_end_is_the_reason() {
    let directory = Directory::new();
    let context = Directory::new();
    fs::write(context.path().join("Dockerfile"), "FROM scratch").unwrap();
    fs::File::create(context.path().join("large")).unwrap().set_len(64 << 20).unwrap();
    let large = context.path().join("large");
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        peer.asked();
        peer.pong("1.41");
        peer.asked_without_body();
        // It is being read, and longer than any buffer.
        peer.skip(1 << 20);
        fs::write(&large, "short").unwrap();
        peer.wait_for_the_end();
    });
    let engine = Engine::new(fake.address());
    let error = build(&engine, BuildContext::Directory(context.path(), None), &mut |_| {}, patience()).unwrap_err();
    assert!(matches!(error, EngineError::Context(_)), "{error:?}");
    assert!(error.to_string().contains("large became shorter"), "{error}");
}

/// It knows that it will not build before it has the context, and does not read that.
#[test]
fn an_engine_that_refuses_a_context_is_heard() {
    let context = Directory::new();
    fs::write(context.path().join("Dockerfile"), "FROM scratch").unwrap();
    fs::File::create(context.path().join("large")).unwrap().set_len(64 << 20).unwrap();
    let serve = |_, mut peer: Peer| {
        peer.asked();
        peer.pong("1.41");
        peer.asked_without_body();
        peer.answer(400, r#"{"message":"invalid reference format"}"#);
    };
    let directory = Directory::new();
    for fake in [Fake::unix(directory.path(), serve), Fake::tcp(serve)] {
        let engine = Engine::new(fake.address());
        let error = build(&engine, BuildContext::Directory(context.path(), None), &mut |_| {}, patience()).unwrap_err();
        assert!(error.to_string().contains("invalid reference format"), "{error:?}");
        assert!(error.is_bad_parameter());
    }
}

#[test]
fn the_end_of_a_log_is_read_with_and_without_frames() {
    for tty in [false, true] {
        let (_directory, _fake, engine) = answering(move |line, peer| {
            if line.ends_with("/json") {
                peer.answer(200, &CONTAINER.replace("\"Name\"", &format!("\"Config\":{{\"Tty\":{tty}}},\"Name\"")));
                return;
            }
            assert_eq!(line, "GET /v1.41/containers/c/logs?stdout=1&stderr=1&tail=100");
            let frames: &[&[u8]] = &[b"\x01\0\0\0\0\0", b"\0\x04out\n\x02\0\0\0\0\0\0\x04e", b"rr\n", b""];
            peer.begin_chunks(if tty { &[b"out\nerr\n", b""] } else { frames });
        });
        assert_eq!(engine.log_tail("c", 100, patience()).unwrap(), "out\nerr\n");
    }
    let (_directory, _fake, engine) = answering(|_, peer| peer.answer(404, r#"{"message":"No such container: c"}"#));
    assert_eq!(engine.log_tail("c", 100, patience()).unwrap(), "");
}

#[test]
fn what_ends_a_container_finds_it_as_it_is() {
    let (_directory, _fake, engine) = answering(|_, peer| peer.answer(404, r#"{"message":"no such container"}"#));
    assert_eq!(engine.stop("c", Duration::ZERO, patience()).unwrap(), Ended::Gone);
    assert_eq!(engine.remove("c", patience()).unwrap(), Ended::Gone);
    assert!(engine.inspect("c", patience()).unwrap().is_none());
    assert!(engine.start("c", patience()).unwrap_err().is_not_found());

    let (_directory, _fake, engine) = answering(|line, peer| {
        assert_eq!(line, "POST /v1.41/containers/c/stop?t=2");
        peer.send("HTTP/1.1 304 Not Modified\r\n\r\n");
    });
    // Whole seconds: not less than what was asked for.
    assert_eq!(engine.stop("c", Duration::from_millis(1001), patience()).unwrap(), Ended::NotRunning);
}

#[test]
fn a_removal_by_somebody_else_is_waited_for() {
    let waited = Arc::new(AtomicUsize::new(0));
    let counted = waited.clone();
    let (_directory, _fake, engine) = answering(move |line, peer| match line {
        "DELETE /v1.41/containers/c?force=1&v=1" => {
            peer.answer(409, r#"{"message":"removal of container c is already in progress"}"#);
        }
        "POST /v1.41/containers/c/wait?condition=removed" => {
            counted.fetch_add(1, Ordering::SeqCst);
            peer.begin_chunks(&[b"{\"StatusCode\":0}", b""]);
        }
        line => panic!("{line}"),
    });
    assert_eq!(engine.remove("c", patience()).unwrap(), Ended::Gone);
    assert_eq!(waited.load(Ordering::SeqCst), 1);
}

#[test]
fn lists_have_what_has_exactly_these_labels() {
    let (_directory, _fake, engine) = answering(|line, peer| {
        assert!(line.starts_with("GET /v1.41/containers/json?all=1&filters=%7B%22label%22%3A%5B%22a%3D1%22%5D%7D"));
        peer.answer(
            200,
            r#"[{"Id":"1","Names":["/n"],"Labels":{"a":"1","b":"2"},"State":"exited"},
                {"Id":"2","Names":null,"Labels":{"a":"12"},"State":"running"},
                {"Id":"3","Names":null,"Labels":null,"State":"running"}]"#,
        );
    });
    let list = engine.list(&[("a", "1")], patience()).unwrap();
    assert_eq!(list.iter().map(|listed| listed.id.as_str()).collect::<Vec<_>>(), ["1"]);

    let (_directory, _fake, engine) = answering(|_, peer| peer.answer(200, "null"));
    assert!(engine.list(&[], patience()).unwrap().is_empty());
}

#[test]
fn a_file_is_put_where_it_belongs() {
    let directory = Directory::new();
    let (heard, hears) = unbounded();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        while let Some(asked) = peer.asked_of("1.41") {
            heard.send(asked).unwrap();
            peer.answer(200, "");
        }
    });
    let engine = Engine::new(fake.address());
    engine.put_file("c", "/run/secret dir/s", b"contents", 0o400, patience()).unwrap();
    let asked = hears.recv().unwrap();
    assert_eq!(asked.line, "PUT /v1.41/containers/c/archive?path=%2Frun%2Fsecret%20dir");
    let mut archive = tar::Archive::new(&asked.body[..]);
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!((entry.path().unwrap().as_ref(), entry.header().mode().unwrap()), (Path::new("s"), 0o400));
    engine.put_file("c", "/s", b"", 0o400, patience()).unwrap();
    assert!(hears.recv().unwrap().line.ends_with("path=%2F"));
    for path in ["s", "run/s", "/run/", "/run/..", ""] {
        assert!(engine.put_file("c", path, b"", 0o400, patience()).unwrap_err().is_bad_parameter(), "{path}");
    }
}
