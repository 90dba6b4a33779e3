//! What a logger sees of calls to an engine when it is given everything.

use std::time::Duration;

use super::super::{BuildContext, Engine, ImageBuild, Keyring, Patience, Pull, RegistryCredentials};
use super::Directory;
use super::fake::{Fake, Peer};
use crate::Secret;
use crate::secrecy::{assert_reveals_nothing, damaged, log_of, shown};

const PASSWORD: &str = "tr0ub4dor";
const OF_AGENT: &str = "vG4mTq81Zs";
const OF_LOG: &str = "nB7cKd03Hf-in-log";

fn answer(line: &str, peer: &mut Peer) {
    let container = format!(
        r#"{{"Id":"c","Name":"/c","State":{{"Status":"running","Running":true}},"Config":{{"Env":["S={OF_AGENT}"]}}}}"#
    );
    match line.split(['?', ' ']).nth(1).unwrap_or_default().rsplit('/').next().unwrap_or_default() {
        // In chunks, and with a length.
        "logs" => {
            let frame = [&[1, 0, 0, 0, 0, 0, 0, 18][..], OF_LOG.as_bytes(), b"\n"].concat();
            peer.begin_chunks(&[&frame[..3], &frame[3..], b""]);
        }
        "json" if line.contains("images") => peer.answer(200, r#"{"Id":"1"}"#),
        "json" => peer.answer(200, &container),
        "create" if line.contains("containers") => peer.answer(201, r#"{"Id":"c"}"#),
        "start" => peer.answer(500, &format!(r#"{{"message":"{OF_AGENT}"}}"#)),
        _ => peer.answer(200, ""),
    }
}

/// Of what is looked at only the state is needed; the environment comes with it.
#[test]
fn a1_no_answer_that_makes_no_sense_is_quoted() {
    let container = format!(
        r#"{{"Id":"c","State":{{"Status":"running","Running":true}},"Config":{{"Env":["S={OF_AGENT}"],"Labels":{{"{OF_LOG}":"{OF_AGENT}"}}}}}}"#
    );
    let directory = Directory::new();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        let mut random = fastrand::Rng::with_seed(11);
        while peer.asked_of("1.41").is_some() {
            let damaged = damaged(container.as_bytes(), &mut random);
            // Values of other types, too.
            let text = String::from_utf8_lossy(&damaged).replace("true", ["true", "\"vG4mTq81Zs\""][random.usize(..2)]);
            peer.answer(200, &text);
        }
    });
    let engine = Engine::new(fake.address());
    let mut refused = 0;
    for _ in 0..500 {
        if let Err(error) = engine.inspect("c", Patience::new(Duration::from_secs(600))) {
            refused += 1;
            [OF_AGENT, OF_LOG].iter().for_each(|secret| assert_reveals_nothing(&shown(&error), secret.as_bytes()));
        }
    }
    assert!(refused > 250, "{refused}");
}

#[test]
fn a1_a_secret_that_an_engine_repeats_is_not_passed_on() {
    let directory = Directory::new();
    let fake = Fake::unix(directory.path(), |_, mut peer| {
        while let Some(asked) = peer.asked_of("1.41") {
            peer.answer(400, &format!("cannot parse {}", String::from_utf8(asked.body).unwrap()));
        }
    });
    let body = serde_json::json!({ "Env": [format!("LATENT_WORKER_SECRET={OF_AGENT}")] });
    let created = Engine::new(fake.address()).create("c", None, &body, Patience::new(Duration::from_secs(600)));
    let error = created.unwrap_err().without(&Secret::new(OF_AGENT));
    assert!(error.to_string().contains("LATENT_WORKER_SECRET=[secret]"), "{error}");
    assert_reveals_nothing(&shown(&error), OF_AGENT.as_bytes());
}

#[test]
fn a1_no_secret_is_in_the_log_at_trace() {
    const NAME: &str = "drivers::docker::engine::tests::logged::a1_no_secret_is_in_the_log_at_trace";
    let log = log_of(NAME, &[], || {
        let directory = Directory::new();
        let fake = Fake::unix(directory.path(), |_, mut peer| {
            while let Some(asked) = peer.asked_of("1.41") {
                answer(&asked.line, &mut peer);
            }
        });
        let engine = Engine::new(fake.address());
        let patience = || Patience::new(Duration::from_secs(600));
        let mut credentials = Keyring::default();
        credentials.add(RegistryCredentials::new("h:1", "robot", Secret::new(PASSWORD)).unwrap()).unwrap();
        let pull = Pull { reference: "h:1/x", platform: None, credentials: &credentials };
        engine.pull(&pull, &mut |_| {}, patience()).unwrap();
        let dockerfile = format!("FROM h:1/x\nENV S={OF_AGENT}");
        let build = ImageBuild {
            context: BuildContext::Dockerfile(&dockerfile),
            reference: "x:1",
            platform: None,
            arguments: &[("A", OF_AGENT)],
            labels: &[],
            credentials: &credentials,
        };
        engine.build(&build, &mut |_| {}, patience()).unwrap();
        let body = serde_json::json!({ "Env": [format!("LATENT_WORKER_SECRET={OF_AGENT}")] });
        engine.create("c", None, &body, patience()).unwrap();
        engine.put_file("c", "/run/secret", OF_AGENT.as_bytes(), 0o444, patience()).unwrap();
        engine.inspect("c", patience()).unwrap();
        assert!(engine.log_tail("c", 9, patience()).unwrap().contains("nB7cK"));
        assert!(engine.start("c", patience()).unwrap_err().to_string().contains(OF_AGENT));
    });
    let Some(log) = log else { return };
    // The library does log.
    assert!(log.contains("TRACE ureq_proto") && log.contains("HTTP/1.1"), "{log}");
    let encoded = data_encoding::BASE64.encode(PASSWORD.as_bytes());
    let encoded = encoded.trim_end_matches('=');
    for secret in [PASSWORD, OF_AGENT, OF_LOG, encoded] {
        assert_reveals_nothing(&log, secret.as_bytes());
    }
}
