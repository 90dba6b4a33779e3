//! What the client does with answers of every kind, on a clock of its own: tries, pauses, the pace, other clocks and keys.

use std::convert::Infallible;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::http::NoAnswer;
use super::patience::Clock;
use super::testing::{Around, Asked, Jumping, Script, answer};
use super::*;
use crate::Secret;

/// 2026-01-01T00:00:00Z
const NOW: i64 = 1_767_225_600;
const SECOND: Duration = Duration::from_secs(1);
const GOOD: &str = "<R><requestId>r</requestId></R>";

type Said = Result<Answer, NoAnswer>;

/// A client that speaks with a script, in a region of this test alone: paces are shared by all who ask at one place.
struct Scene {
    client: AwsClient,
    script: Script,
    clock: Jumping,
}

impl Scene {
    fn new(region: &str, answers: impl IntoIterator<Item = Said>) -> Self {
        let credentials = Some(AwsCredentials::new("AKID", Secret::new("s")));
        let settings = AwsSettings { region: Some(region.into()), credentials, ..AwsSettings::default() };
        Self::with(settings, Around::default(), answers)
    }

    fn with(settings: AwsSettings, around: Around, answers: impl IntoIterator<Item = Said>) -> Self {
        let script = Script::new(answers);
        let around = around.variable("AWS_EC2_METADATA_DISABLED", "true");
        let metadata = Box::new(Script::default());
        let client = AwsClient::with(settings, Box::new(around), Box::new(script.clone()), metadata).unwrap();
        Self { client, script, clock: Jumping::at(NOW) }
    }

    fn ask(&self, repeat: Repeat, limit: Duration) -> Result<Element, AwsError> {
        self.client.ec2(&Query::new("DescribeX", repeat), &Patience::on(&self.clock, limit))
    }

    fn asked(&self) -> Vec<Asked> {
        self.script.asked()
    }
}

fn error(status: u16, code: &str) -> Said {
    answer(
        status,
        &format!("<Response><Errors><Error><Code>{code}</Code><Message>m</Message></Error></Errors></Response>"),
    )
}

fn dated(said: Said, date: &str) -> Said {
    said.map(|answer| Answer { date: Some(date.into()), ..answer })
}

#[test]
fn a_request_is_signed_and_goes_to_the_region() {
    let scene = Scene::new("eu-test-1", [answer(200, GOOD)]);
    assert_eq!(scene.ask(Repeat::Harmless, SECOND).unwrap().text("requestId"), Some("r"));
    let [asked] = &scene.asked()[..] else { panic!() };
    assert_eq!(asked.line, "POST https://ec2.eu-test-1.amazonaws.com/");
    assert_eq!(asked.body, "Action=DescribeX&Version=2016-11-15");
    assert_eq!(asked.header("host"), Some("ec2.eu-test-1.amazonaws.com"));
    assert_eq!(asked.header("x-amz-date"), Some("20260101T000000Z"));
    let authorization = asked.header("authorization").unwrap();
    assert!(authorization.contains("Credential=AKID/20260101/eu-test-1/ec2/aws4_request"), "{authorization}");
}

#[test]
fn trouble_that_passes_is_waited_for_and_each_try_is_signed_anew() {
    let lost = || Err(NoAnswer::Lost("cut".into()));
    let scene = Scene::new(
        "eu-test-2",
        [
            error(503, "RequestLimitExceeded"),
            error(500, "InternalError"),
            lost(),
            answer(502, "<html>"),
            answer(200, GOOD),
        ],
    );
    scene.ask(Repeat::Harmless, SECOND * 600).unwrap();
    assert!(scene.script.is_used_up());
    assert_eq!(scene.asked().len(), 5);
}

#[test]
fn d4_what_may_have_been_done_is_not_asked_again_unless_that_does_no_harm() {
    for said in
        [error(500, "InternalError"), Err(NoAnswer::Lost("cut".into())), Err(NoAnswer::TimedOut), answer(200, "<torn")]
    {
        let scene = Scene::new("eu-test-3", [said, answer(200, GOOD)]);
        let error = scene.ask(Repeat::Never, SECOND * 600).unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        assert_eq!(scene.asked().len(), 1);
    }
    for said in [error(503, "RequestLimitExceeded"), Err(NoAnswer::Unreachable("refused".into()))] {
        let scene = Scene::new("eu-test-3", [said, answer(200, GOOD)]);
        scene.ask(Repeat::Never, SECOND * 600).unwrap();
    }
}

#[test]
fn d4_an_unknown_outcome_stays_unknown_until_it_is_answered() {
    let lost = || Err(NoAnswer::Lost("cut".into()));
    // Nobody answers any more.
    let scene = Scene::new("eu-test-4", [lost()]);
    let end = scene.ask(Repeat::Harmless, SECOND * 600).unwrap_err();
    assert!(end.outcome_unknown(), "{end}");
    assert_eq!(scene.asked().len(), 10);
    // The same question is answered: so would the first have been.
    let scene = Scene::new("eu-test-4", [lost(), error(500, "InsufficientInstanceCapacity")]);
    let end = scene.ask(Repeat::Harmless, SECOND * 600).unwrap_err();
    assert!(end.class() == Class::Capacity && !end.outcome_unknown(), "{end}");
    // Cancelled in between.
    let scene = Scene::new("eu-test-4", [lost()]);
    let (cancel, cancelled) = bounded::<Infallible>(0);
    let query = Query::new("DescribeX", Repeat::Harmless);
    let patience = Patience::on(&scene.clock, SECOND * 600).cancelled_by(&cancelled);
    scene.client.ec2(&query, &patience).unwrap_err();
    drop(cancel);
    let scene = Scene::new("eu-test-4", [answer(200, GOOD)]);
    let end = scene.client.ec2(&query, &patience).unwrap_err();
    assert!(end.class() == Class::Cancelled && !end.outcome_unknown() && scene.asked().is_empty(), "{end}");
}

#[test]
fn when_patience_ends_the_last_error_is_told() {
    let scene = Scene::new("eu-test-5", (0..20).map(|_| error(503, "RequestLimitExceeded")));
    let end = scene.ask(Repeat::Harmless, SECOND * 5).unwrap_err();
    assert_eq!(end.code(), Some("RequestLimitExceeded"), "{end}");
    assert!(!scene.script.is_used_up());
}

#[test]
fn a_clock_that_is_wrong_is_noticed_once_and_allowed_for_from_then_on() {
    let late = "Thu, 01 Jan 2026 00:20:00 GMT";
    let scene = Scene::new(
        "eu-test-6",
        [dated(error(400, "RequestExpired"), late), answer(200, GOOD), dated(answer(200, GOOD), late)],
    );
    scene.ask(Repeat::Never, SECOND * 60).unwrap();
    scene.ask(Repeat::Never, SECOND * 60).unwrap();
    let dates: Vec<_> = scene.asked().iter().map(|asked| asked.header("x-amz-date").unwrap().to_owned()).collect();
    assert_eq!(dates, ["20260101T000000Z", "20260101T002000Z", "20260101T002000Z"]);
    // A clock that is right is not the cause.
    let right = "Thu, 01 Jan 2026 00:01:00 GMT";
    let scene = Scene::new("eu-test-6", [dated(error(401, "AuthFailure"), right), answer(200, GOOD)]);
    let end = scene.ask(Repeat::Never, SECOND * 60).unwrap_err();
    assert_eq!((end.class(), scene.asked().len()), (Class::Credentials, 1));
    // Nor is it twice.
    let scene = Scene::new("eu-test-6", (0..3).map(|_| dated(error(400, "RequestExpired"), late)));
    scene.ask(Repeat::Harmless, SECOND * 60).unwrap_err();
    assert_eq!(scene.asked().len(), 2);
}

#[test]
fn keys_that_are_not_taken_any_more_are_looked_for_again_once() {
    let settings = AwsSettings { region: Some("eu-test-7".into()), ..AwsSettings::default() };
    let around = Around::default().variable("AWS_ACCESS_KEY_ID", "A").variable("AWS_SECRET_ACCESS_KEY", "s");
    let expired = || error(400, "ExpiredToken");
    let scene = Scene::with(settings.clone(), around.clone(), [expired(), answer(200, GOOD)]);
    scene.ask(Repeat::Never, SECOND * 60).unwrap();
    let scene = Scene::with(settings, around, [expired(), expired(), answer(200, GOOD)]);
    assert_eq!(scene.ask(Repeat::Never, SECOND * 60).unwrap_err().class(), Class::Credentials);
    assert_eq!(scene.asked().len(), 2);
}

#[test]
fn all_clients_of_an_account_and_region_keep_one_pace() {
    let many = || (0..40).map(|_| answer(200, GOOD));
    let (one, two) = (Scene::new("eu-test-8", many()), Scene::new("eu-test-8", many()));
    let query = Query::new("RunInstances", Repeat::Harmless);
    let begun = one.clock.now();
    for _ in 0..20 {
        for client in [&one.client, &two.client] {
            client.ec2(&query, &Patience::on(&one.clock, SECOND * 600)).unwrap();
        }
    }
    // Five at once, and two a second from then on.
    let took = one.clock.now() - begun;
    assert!(took >= SECOND * 17 && took < SECOND * 19, "{took:?}");
    let elsewhere = Scene::new("eu-test-9", many());
    let begun = elsewhere.clock.now();
    elsewhere.client.ec2(&query, &Patience::on(&elsewhere.clock, SECOND)).unwrap();
    assert_eq!(elsewhere.clock.now(), begun);
}

#[test]
fn systems_manager_is_asked_in_json() {
    let scene = Scene::new(
        "eu-test-10",
        [answer(200, r#"{"Parameter":{"Value":"ami-1"}}"#), answer(400, r#"{"__type":"ParameterNotFound"}"#)],
    );
    let patience = Patience::on(&scene.clock, SECOND);
    let body = serde_json::json!({ "Name": "/a" });
    let said = scene.client.ssm("GetParameter", Repeat::Harmless, &body, &patience).unwrap();
    assert_eq!(said["Parameter"]["Value"], "ami-1");
    let asked = &scene.asked()[0];
    assert_eq!(asked.line, "POST https://ssm.eu-test-10.amazonaws.com/");
    assert_eq!(asked.header("x-amz-target"), Some("AmazonSSM.GetParameter"));
    let error = scene.client.ssm("GetParameter", Repeat::Harmless, &body, &patience).unwrap_err();
    assert!(error.already_gone(), "{error}");
}

#[test]
fn settings_that_make_no_sense_are_told() {
    let with = |settings| {
        AwsClient::with(settings, Box::new(Around::default()), Box::new(Script::default()), Box::new(Script::default()))
    };
    assert!(with(AwsSettings { region: Some("a b".into()), ..AwsSettings::default() }).is_err());
    assert!(with(AwsSettings { endpoint: Some("ec2.example.org".into()), ..AwsSettings::default() }).is_err());
    // No region anywhere: said when it is needed.
    let none = Scene::with(AwsSettings::default(), Around::default(), []);
    let error = none.ask(Repeat::Harmless, SECOND).unwrap_err();
    assert!(error.to_string().contains("AWS_REGION"), "{error}");
    assert!(roots(&Around::default().variable("AWS_CA_BUNDLE", "/none")).unwrap_err().contains("/none"));
    assert!(
        roots(&Around::default().variable("AWS_CA_BUNDLE", "/a").file("/a", ""))
            .unwrap_err()
            .contains("no certificate")
    );
}
