//! What a logger sees of calls to an engine when it is given everything.

use std::time::Duration;

use super::super::{BuildContext, Engine, ImageBuild, Keyring, Patience, Pull, RegistryCredentials};
use super::Directory;
use super::fake::{Fake, Peer};
use crate::Secret;
use crate::secrecy::{assert_reveals_nothing, log_of};

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
