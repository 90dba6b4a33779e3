//! Credentials of registries: for which images they are sent.

use std::time::Duration;

use crossbeam_channel::unbounded;

use super::super::{BuildContext, Engine, EngineError, ImageBuild, Keyring, Patience, Pull, RegistryCredentials};
use super::Directory;
use super::fake::Fake;
use crate::Secret;

fn patience() -> Patience<'static> {
    Patience::new(Duration::from_secs(600))
}

fn keyring(registries: &[&str]) -> Keyring {
    let mut keyring = Keyring::default();
    for registry in registries {
        keyring.add(RegistryCredentials::new(registry, "robot", Secret::new("hunter2")).unwrap()).unwrap();
    }
    keyring
}

#[test]
fn a_pull_sends_the_credentials_and_shows_them_nowhere_else() {
    let directory = Directory::new();
    let (heard, hears) = unbounded();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        let asked = peer.asked_of("1.41").unwrap();
        heard.send((asked.line.clone(), asked.header("x-registry-auth").map(str::to_owned))).unwrap();
        peer.begin_chunks(&[
            b"{\"status\":\"Pulling from a/b\",\"id\":\"1\"}\r\n{\"status\"",
            b":\"Pulling fs layer\",\"id\":\"0\"}\r\n",
            b"{\"errorDetail\":{\"message\":\"denied\"},\"error\":\"denied\"}\r\n",
            b"",
        ]);
    });
    let credentials = keyring(&["h:5000"]);
    let pull = Pull { reference: "h:5000/a/b:1", platform: Some("linux/arm64/v8"), credentials: &credentials };
    let mut lines = Vec::new();
    let error = Engine::new(fake.address()).pull(&pull, &mut |line| lines.push(line.to_owned()), patience());
    let error = error.unwrap_err();
    assert!(matches!(&error, EngineError::Reported { message, .. } if message == "denied"), "{error:?}");
    assert_eq!(lines, ["Pulling from a/b", "0 of 1 layers"]);

    let (line, auth) = hears.recv().unwrap();
    assert_eq!(line, "POST /v1.41/images/create?fromImage=h%3A5000%2Fa%2Fb&tag=1&platform=linux%2Farm64%2Fv8");
    let auth = auth.unwrap();
    assert_eq!(
        data_encoding::BASE64URL.decode(auth.as_bytes()).unwrap(),
        br#"{"password":"hunter2","serveraddress":"h:5000","username":"robot"}"#
    );
    for shown in [format!("{error:?} {error}"), format!("{pull:?}")] {
        assert!(!shown.contains("hunter2") && !shown.contains(&auth), "{shown}");
    }
}

#[test]
fn a1_credentials_are_sent_for_images_of_their_registry_only() {
    let (heard, hears) = unbounded();
    let directory = Directory::new();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        while let Some(asked) = peer.asked_of("1.41") {
            let auth = asked.header("x-registry-auth").or_else(|| asked.header("x-registry-config")).is_some();
            heard.send((asked.line, auth)).unwrap();
            peer.answer(200, "");
        }
    });
    let engine = Engine::new(fake.address());
    let credentials = keyring(&["ghcr.io", "docker.io"]);
    for (reference, from_image, sent) in [
        ("ghcr.io/a", "ghcr.io%2Fa", true),
        ("evil.example/a", "evil.example%2Fa", false),
        ("evil.example/ghcr.io/a", "evil.example%2Fghcr.io%2Fa", false),
        ("ghcr.io:5000/a", "ghcr.io%3A5000%2Fa", false),
        // The engine cannot read these as an image of another registry.
        ("rust", "docker.io%2Flibrary%2Frust", true),
        ("a/b", "docker.io%2Fa%2Fb", true),
    ] {
        engine.pull(&Pull { reference, platform: None, credentials: &credentials }, &mut |_| {}, patience()).unwrap();
        let (line, auth) = hears.recv().unwrap();
        assert_eq!((line, auth), (format!("POST /v1.41/images/create?fromImage={from_image}&tag=latest"), sent));
    }
    let error = engine.pull(
        &Pull { reference: "ghcr.io@evil.example/a", platform: None, credentials: &credentials },
        &mut |_| {},
        patience(),
    );
    assert!(error.unwrap_err().is_bad_parameter() && hears.is_empty());
}

#[test]
fn a_build_sends_the_credentials_for_what_it_starts_from() {
    let directory = Directory::new();
    let (heard, hears) = unbounded();
    let fake = Fake::unix(directory.path(), move |_, mut peer| {
        heard.send(peer.asked_of("1.41").unwrap()).unwrap();
        peer.answer(200, "");
    });
    let credentials = keyring(&["ghcr.io"]);
    let context = BuildContext::Dockerfile("FROM ghcr.io/a");
    let build = ImageBuild {
        context,
        reference: "x:1",
        platform: None,
        arguments: &[],
        labels: &[],
        credentials: &credentials,
    };
    Engine::new(fake.address()).build(&build, &mut |_| {}, patience()).unwrap();
    let asked = hears.recv().unwrap();
    let config = data_encoding::BASE64URL.decode(asked.header("x-registry-config").unwrap().as_bytes()).unwrap();
    assert_eq!(config, br#"{"ghcr.io":{"password":"hunter2","serveraddress":"ghcr.io","username":"robot"}}"#);
}
