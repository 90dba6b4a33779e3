//! Tests the meaning of settings, and that errors do not repeat them. `credentials/tests/botocore.rs` compares with
//! botocore.

use super::*;
use crate::secrecy::{assert_reveals_nothing, damaged, shown};

fn read(config: &str, credentials: &str) -> Result<Profiles, String> {
    let source = |path: &str, text: &str| SharedFile { path: path.into(), text: text.into() };
    Profiles::of_files(&source("/c", config), &source("/s", credentials))
}

fn key(profiles: &Profiles, profile: &str) -> Result<Option<(String, String, Option<String>)>, String> {
    let owned = |key: Key<'_>| (key.id.into(), key.secret.into(), key.session_token.map(str::to_owned));
    profiles.key(profile).map(|key| key.map(owned))
}

#[test]
fn both_files_say_something_and_credentials_win() {
    let config = "[default]\nregion = eu-west-1\n# a comment\n\n[profile  ci ]\nrole_arn=arn:aws:iam::1:role/ci  # why\n\
                  source_profile = default\naws_access_key_id = OLD\naws_secret_access_key=old\ns3 =\n  max_concurrent_requests = 20\n\
                  [sso-session x]\nregion=no";
    let credentials = "[default]\naws_access_key_id = AKID\naws_secret_access_key = a=b#c\n[ci]\n\
                       aws_access_key_id=NEW\naws_secret_access_key=new\nAWS_SECURITY_TOKEN=token\nregion = eu-1";
    let profiles = read(config, credentials).unwrap();
    assert_eq!(profiles.get("default", "region"), Some("eu-west-1"));
    assert_eq!(profiles.get("ci", "region"), Some("eu-1"));
    assert_eq!(profiles.get("ci", "role_arn"), Some("arn:aws:iam::1:role/ci"));
    assert_eq!(profiles.get("ci", "max_concurrent_requests"), None);
    assert_eq!(profiles.get("ci", "s3"), None);
    assert!(profiles.has("ci") && !profiles.has("sso-session x") && !profiles.has("x"));
    assert_eq!(profiles.get("nobody", "region"), None);
    assert_eq!(key(&profiles, "default"), Ok(Some(("AKID".into(), "a=b#c".into(), None))));
    assert_eq!(key(&profiles, "ci"), Ok(Some(("NEW".into(), "new".into(), Some("token".into())))));
    assert_eq!(key(&profiles, "nobody"), Ok(None));
}

#[test]
fn a_mistake_is_told_with_its_file_and_line() {
    for (config, credentials, place) in [
        ("\n[profile a b]", "", "/c, line 2: "),
        ("[profilea]", "", "/c, line 1: "),
        ("[ profile a]", "", "/c, line 1: "),
        ("", "[ a]", "/s, line 1: "),
        ("[profile a]\n[profile 'a']", "", "/c, line 2: "),
        ("[default]\n[profile default]", "", "/c, line 2: "),
        ("[default]\nx", "", "/c, line 2: "),
        ("", "[profile ci]", "/s, line 1: "),
        ("", "[\"default\"]", "/s, line 1: "),
        ("", "[Default]", "/s, line 1: "),
        ("", "[DEFAULT]\nregion=x", "/s, line 1: "),
        ("", "[a]\n\"aws_access_key_id\" = x", "/s, line 2: "),
        ("", "[a]\naws_access\u{ad}_key_id = x", "/s, line 2: "),
        ("", "[a]\naws_access_key_id =\n  aws_secret_access_key = x", "/s, line 2: "),
    ] {
        let error = read(config, credentials).unwrap_err();
        assert!(error.starts_with(place), "{error}");
    }
}

#[test]
fn a_key_that_no_provider_has_issued_is_told_with_its_line() {
    for (credentials, problem) in [
        (
            "[a]\naws_access_key_id = x",
            "/s, line 1: the profile has half of an access key: aws_secret_access_key is missing",
        ),
        (
            "[a]\naws_secret_access_key = x",
            "line 1: the profile has half of an access key: aws_access_key_id is missing",
        ),
        ("[a]\naws_access_key_id =\naws_secret_access_key = x", "line 2: aws_access_key_id is empty"),
        ("[a]\naws_access_key_id = 'x'\naws_secret_access_key = x", "line 2: aws_access_key_id contains quotes"),
        (
            "[a]\naws_access_key_id = x\naws_secret_access_key = x # y",
            "line 3: aws_secret_access_key contains white space",
        ),
        (
            "[a]\naws_access_key_id = x\naws_secret_access_key = ü",
            "line 3: aws_secret_access_key contains a character that",
        ),
    ] {
        let error = key(&read("", credentials).unwrap(), "a").unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
    // Half of it in each file.
    let halves = read("[profile a]\naws_access_key_id=x", "[a]\naws_secret_access_key=y").unwrap();
    assert!(key(&halves, "a").unwrap_err().starts_with("/s, line 1: "));
}

#[test]
fn a_missing_profile_is_told_with_what_may_be_meant() {
    let profiles = read("[ci]\nregion=x", "").unwrap();
    let error = profiles.missing("ci");
    assert_eq!(error, "profile \"ci\" not found in /c or /s; /c has a section of that name: write [profile ci] there");
    assert_eq!(profiles.missing("other"), "profile \"other\" not found in /c or /s");
}

#[test]
fn a1_no_damage_has_a_secret_quoted() {
    const SECRETS: [&str; 3] =
        ["wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "AQoDYXdzEPT//////////wEXAMPLE==", "sneaky-external"];
    let [secret, token, external] = SECRETS;
    let text = format!(
        "[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = {secret}\naws_session_token = {token}\n\
         [profile ci]\nrole_arn = arn:aws:iam::1:role/ci\nexternal_id = {external}\nsource_profile = default\n"
    );
    let mut random = fastrand::Rng::with_seed(12);
    let mut refused = 0;
    for _ in 0..500 {
        let bytes = damaged(text.as_bytes(), &mut random);
        let text = String::from_utf8_lossy(&bytes);
        for (config, credentials) in [(&*text, ""), ("", &*text)] {
            let profiles = read(config, credentials);
            let mut texts = vec![format!("{profiles:?}")];
            match &profiles {
                Err(error) => texts.push(error.clone()),
                Ok(profiles) => {
                    texts.extend(profiles.key("default").err().into_iter().chain(profiles.key("ci").err()));
                    texts.push(profiles.missing("other"));
                }
            }
            refused += usize::from(texts.len() > 1);
            let texts = texts.iter().map(shown).collect::<String>();
            SECRETS.iter().for_each(|secret| assert_reveals_nothing(&texts, secret.as_bytes()));
        }
    }
    assert!(refused > 250, "{refused}");
}
