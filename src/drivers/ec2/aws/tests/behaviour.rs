//! Tries, clocks, credentials and paces together, in a time of the test's own.

use std::convert::Infallible;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use ureq::http::Method;

use super::super::http::{Asking, NoAnswer, Wire};
use super::super::*;
use super::support::{Around, Clock, Reply, Script, answer, refusal};
use crate::Secret;

const GOOD: &str = "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>";
/// Sun, 30 Aug 2015 12:36:00 GMT
const NOON: i64 = 1_440_938_160;
const HOUR: Duration = Duration::from_secs(3600);

/// A client, in a region of its own so that it keeps a pace of its own.
struct Bench {
    client: AwsClient,
    script: Script,
    clock: Clock,
}

impl Bench {
    fn new(region: &str, answers: impl IntoIterator<Item = Reply>) -> Self {
        Self::with(explicit(region), Around::default(), answers)
    }

    fn with(settings: AwsSettings, around: Around, answers: impl IntoIterator<Item = Reply>) -> Self {
        let clock = Clock::at(NOON);
        let script = Script::new(&clock, answers);
        let metadata = Script::new(&clock, []);
        let client = AwsClient::with(settings, Box::new(around), Box::new(script.clone()), Box::new(metadata)).unwrap();
        Self { client, script, clock }
    }

    fn ask(&self, action: &'static str, repeat: Repeat, limit: Duration) -> Result<Element, AwsError> {
        self.client.ec2(&Query::new(action, repeat), &Patience::on(&self.clock, limit))
    }

    fn describe(&self) -> Result<Element, AwsError> {
        self.ask("DescribeInstances", Repeat::Harmless, HOUR)
    }

    fn times(&self) -> Vec<Duration> {
        self.script.asked().iter().map(|asked| asked.at).collect()
    }
}

fn explicit(region: &str) -> AwsSettings {
    let credentials = AwsCredentials::new("AKIDEXPLICIT", Secret::new("hush"));
    AwsSettings { region: Some(region.into()), credentials: Some(credentials), ..AwsSettings::default() }
}

fn dated(reply: Reply, date: &str) -> Reply {
    reply.map(|answer| Answer { date: Some(date.into()), ..answer })
}

fn lost() -> Reply {
    Err(NoAnswer::Lost("cut".into()))
}

#[test]
fn a_question_is_a_signed_form_for_the_regions_endpoint() {
    let bench = Bench::new("eu-question-1", [answer(200, GOOD)]);
    assert_eq!(bench.describe().unwrap().text("reservationSet"), Some(""));
    let asked = &bench.script.asked()[0];
    assert_eq!(asked.line, "POST https://ec2.eu-question-1.amazonaws.com/");
    assert_eq!(asked.body, "Action=DescribeInstances&Version=2016-11-15");
    assert_eq!(asked.header("host"), Some("ec2.eu-question-1.amazonaws.com"));
    assert_eq!(asked.header("x-amz-date"), Some("20150830T123600Z"));
    let authorization = asked.header("authorization").unwrap();
    assert!(
        authorization.starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIDEXPLICIT/20150830/eu-question-1/ec2/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, Signature="
        ),
        "{authorization}"
    );
}

#[test]
fn systems_manager_is_asked_in_json() {
    let bench = Bench::new("eu-ssm-1", [answer(200, r#"{"Parameter":{"Value":"ami-1"}}"#)]);
    let patience = Patience::on(&bench.clock, HOUR);
    let body = serde_json::json!({"Name": "/a"});
    let found = bench.client.ssm("GetParameter", Repeat::Harmless, &body, &patience).unwrap();
    assert_eq!(found["Parameter"]["Value"], "ami-1");
    let asked = &bench.script.asked()[0];
    assert_eq!(asked.line, "POST https://ssm.eu-ssm-1.amazonaws.com/");
    assert_eq!(asked.header("x-amz-target"), Some("AmazonSSM.GetParameter"));
    assert_eq!(asked.body, r#"{"Name":"/a"}"#);

    let missing = r#"{"__type":"ParameterNotFound"}"#;
    let bench = Bench::new("eu-ssm-1", [answer(400, missing), answer(200, "hush")]);
    let patience = Patience::on(&bench.clock, HOUR);
    let ask = || bench.client.ssm("GetParameter", Repeat::Harmless, &body, &patience).unwrap_err();
    assert_eq!(ask().class(), Class::NotFound);
    let error = ask();
    assert!(error.outcome_unknown() && !error.to_string().contains("hush"), "{error}");
}

#[test]
fn throttles_and_trouble_are_waited_out_with_growing_pauses() {
    let answers = [
        refusal(503, "RequestLimitExceeded"),
        refusal(500, "InternalError"),
        answer(502, "<html/>"),
        lost(),
        Err(NoAnswer::Unreachable("refused".into())),
        Err(NoAnswer::TimedOut),
        answer(200, GOOD),
    ];
    let bench = Bench::new("eu-trouble-1", answers);
    bench.describe().unwrap();
    // With the longest pauses that chance allows.
    let expected = [0, 400, 1_200, 2_800, 6_000, 12_400, 25_200].map(Duration::from_millis);
    assert_eq!(bench.times(), expected);
}

#[test]
fn a_hint_when_to_come_again_is_followed_and_handed_on() {
    let hint = |seconds| {
        refusal(503, "RequestLimitExceeded")
            .map(|answer| Answer { retry_after: Some(Duration::from_secs(seconds)), ..answer })
    };
    let bench = Bench::new("eu-hint-1", [hint(7), answer(200, GOOD), hint(300)]);
    bench.describe().unwrap();
    assert_eq!(bench.times()[1], Duration::from_secs(7));
    let error = bench.ask("DescribeInstances", Repeat::Harmless, Duration::from_secs(5)).unwrap_err();
    assert_eq!(error.class(), Class::Throttled { retry_after: Some(Duration::from_secs(300)) });
    assert!(!error.outcome_unknown());
}

#[test]
fn d4_what_may_have_been_done_is_not_asked_for_twice() {
    for trouble in [lost(), Err(NoAnswer::TimedOut), refusal(500, "InternalError"), answer(504, "")] {
        let bench = Bench::new("eu-once-1", [trouble]);
        let error = bench.ask("AllocateAddress", Repeat::Never, HOUR).unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        assert_eq!(bench.times().len(), 1);
    }
    // But what was not done is.
    let answers = [
        refusal(503, "RequestLimitExceeded"),
        Err(NoAnswer::Unreachable("refused".into())),
        answer(200, "<AllocateAddressResponse/>"),
    ];
    let bench = Bench::new("eu-once-2", answers);
    bench.ask("AllocateAddress", Repeat::Never, HOUR).unwrap();
    assert_eq!(bench.times().len(), 3);
}

#[test]
fn d4_an_error_says_whether_something_may_have_been_done() {
    // The second answer is also that to the first, with the same client token.
    let bench = Bench::new("eu-known-1", [lost(), refusal(500, "InsufficientInstanceCapacity")]);
    let error = bench.ask("RunInstances", Repeat::Harmless, HOUR).unwrap_err();
    assert_eq!((error.class(), error.outcome_unknown()), (Class::Capacity, false));
    // Nobody has looked at the second.
    let unreachable = || Err(NoAnswer::Unreachable("refused".into()));
    let bench = Bench::new("eu-known-2", std::iter::once(lost()).chain(std::iter::repeat_n(unreachable(), 20)));
    let error = bench.ask("RunInstances", Repeat::Harmless, HOUR).unwrap_err();
    assert_eq!((error.class(), error.outcome_unknown()), (Class::Unreachable, true));
    assert_eq!(bench.times().len(), 10, "there is an end to it");
    // Nor has anybody here.
    let bench = Bench::new("eu-known-3", [lost()]);
    let error = bench.ask("RunInstances", Repeat::Harmless, Duration::from_millis(100)).unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    let bench = Bench::new("eu-known-4", [answer(200, "<a>")]);
    let error = bench.ask("RunInstances", Repeat::Harmless, HOUR).unwrap_err();
    assert_eq!((error.class(), error.outcome_unknown()), (Class::Lost, true));
}

#[test]
fn patience_has_an_end() {
    let bench = Bench::new("eu-end-1", std::iter::repeat_n(refusal(503, "Unavailable"), 20));
    let error = bench.ask("DescribeInstances", Repeat::Harmless, Duration::from_secs(10)).unwrap_err();
    assert_eq!(error.class(), Class::Server, "why it had to wait is told");
    // The next pause would have been too long.
    let expected = [0, 400, 1_200, 2_800, 6_000].map(Duration::from_millis);
    assert_eq!(bench.times(), expected);
    assert_eq!(bench.clock.passed(), expected[4]);
}

/// Gives up while it is asked.
#[derive(Debug)]
struct GivesUp(Mutex<Option<Sender<Infallible>>>);

impl Wire for GivesUp {
    fn ask(&self, _: &Asking<'_>, _: Duration, _: Option<&crossbeam_channel::Receiver<Infallible>>) -> Reply {
        self.0.lock().take();
        refusal(503, "RequestLimitExceeded")
    }
}

#[test]
fn d5_a_cancel_ends_it_before_the_next_try() {
    let (cancel, cancelled) = bounded(0);
    let clock = Clock::at(NOON).cancelled_by(cancelled);
    let (wire, nobody) = (GivesUp(Mutex::new(Some(cancel))), Script::new(&clock, []));
    let client =
        AwsClient::with(explicit("eu-cancel-1"), Box::new(Around::default()), Box::new(wire), Box::new(nobody));
    let query = Query::new("DescribeInstances", Repeat::Harmless);
    let error = client.unwrap().ec2(&query, &Patience::on(&clock, HOUR)).unwrap_err();
    assert_eq!((error.class(), error.outcome_unknown()), (Class::Cancelled, false));
}

#[test]
fn a_clock_that_is_off_is_corrected_once_and_for_all() {
    let early = "Sun, 30 Aug 2015 12:26:00 GMT";
    for code in ["RequestExpired", "SignatureDoesNotMatch", "AuthFailure", "RequestTimeTooSkewed"] {
        let answers = [dated(refusal(403, code), early), answer(200, GOOD), answer(200, GOOD)];
        let bench = Bench::new("eu-skew-1", answers);
        bench.describe().unwrap();
        bench.describe().unwrap();
        let dates: Vec<_> =
            bench.script.asked().iter().map(|asked| asked.header("x-amz-date").unwrap().to_owned()).collect();
        assert_eq!(dates, ["20150830T123600Z", "20150830T122600Z", "20150830T122600Z"], "{code}");
        assert_eq!(bench.clock.passed(), Duration::ZERO, "there is nothing to wait for");
    }
    // A clock that is right is not why, and once it was corrected it is right.
    let right = "Sun, 30 Aug 2015 12:36:05 GMT";
    let bench = Bench::new("eu-skew-2", [dated(refusal(403, "SignatureDoesNotMatch"), right)]);
    assert_eq!(bench.describe().unwrap_err().class(), Class::Credentials);
    assert_eq!(bench.times().len(), 1);
    let early = || dated(refusal(403, "RequestExpired"), early);
    let bench = Bench::new("eu-skew-3", [early(), early()]);
    assert_eq!(bench.describe().unwrap_err().class(), Class::Credentials);
    assert_eq!(bench.times().len(), 2);
}

/// As in the environment.
fn found(region: &str, answers: impl IntoIterator<Item = Reply>) -> Bench {
    let around = Around::default()
        .variable("AWS_ACCESS_KEY_ID", "AKIDFOUND")
        .variable("AWS_SECRET_ACCESS_KEY", "hush")
        .variable("AWS_REGION", region);
    Bench::with(AwsSettings::default(), around, answers)
}

#[test]
fn credentials_that_are_not_taken_are_looked_for_again_once() {
    let clock = Clock::at(NOON);
    let of_machine = |id: &str| {
        let key = format!(r#"{{"AccessKeyId":"{id}","SecretAccessKey":"hush","Expiration":"2099-01-01T00:00:00Z"}}"#);
        [answer(200, "TOKEN"), answer(200, "role"), answer(200, &key)]
    };
    let metadata = Script::new(&clock, [of_machine("OLD"), of_machine("NEW")].into_iter().flatten());
    let script = Script::new(&clock, [refusal(400, "ExpiredToken"), answer(200, GOOD), answer(200, GOOD)]);
    let settings = AwsSettings { region: Some("eu-again-1".into()), ..AwsSettings::default() };
    let wires = (Box::new(script.clone()), Box::new(metadata));
    let client = AwsClient::with(settings, Box::new(Around::default()), wires.0, wires.1).unwrap();
    let bench = Bench { client, script, clock };
    (0..2).for_each(|_| drop(bench.describe().unwrap()));
    let asked = bench.script.asked();
    let signers: Vec<_> = asked.iter().map(|asked| asked.signer().unwrap()).collect();
    assert_eq!(signers, ["OLD", "NEW", "NEW"]);

    let bench = found("eu-again-2", [refusal(401, "AuthFailure"), refusal(401, "AuthFailure")]);
    let error = bench.describe().unwrap_err();
    assert_eq!((error.class(), bench.times().len()), (Class::Credentials, 2));
    // Of given ones there are no others; nor does it help when they are not allowed to.
    let bench = Bench::new("eu-again-3", [refusal(401, "AuthFailure")]);
    assert_eq!(bench.describe().unwrap_err().class(), Class::Credentials);
    let bench = found("eu-again-4", [refusal(403, "UnauthorizedOperation")]);
    assert_eq!(bench.describe().unwrap_err().class(), Class::Denied);
    assert_eq!(bench.times().len(), 1);
}

#[test]
fn one_account_has_one_pace_in_a_region_whoever_asks() {
    let bench = Bench::new("eu-pace-1", std::iter::repeat_n(answer(200, "<RunInstancesResponse/>"), 20));
    let third = AwsClient::with(
        explicit("eu-pace-1"),
        Box::new(Around::default()),
        Box::new(bench.script.clone()),
        Box::new(bench.script.clone()),
    );
    let third = Bench { client: third.unwrap(), script: bench.script.clone(), clock: bench.clock.clone() };
    for bench in [&bench, &bench, &third, &third, &bench, &third, &bench] {
        bench.ask("RunInstances", Repeat::Harmless, HOUR).unwrap();
    }
    assert_eq!(bench.times(), [0, 0, 0, 0, 0, 500, 1_000].map(Duration::from_millis));
    // Other actions, other regions and other accounts are not in its way.
    bench.ask("DescribeInstances", Repeat::Harmless, HOUR).unwrap();
    assert_eq!(bench.times()[7], Duration::from_secs(1));
    let elsewhere = Bench::new("eu-pace-2", [answer(200, "<RunInstancesResponse/>")]);
    elsewhere.ask("RunInstances", Repeat::Harmless, HOUR).unwrap();
    assert_eq!(elsewhere.times(), [Duration::ZERO]);
    let somebody = found("eu-pace-1", [answer(200, "<RunInstancesResponse/>")]);
    somebody.ask("RunInstances", Repeat::Harmless, HOUR).unwrap();
    assert_eq!(somebody.times(), [Duration::ZERO]);
}

#[test]
fn a_turn_that_comes_too_late_is_not_waited_for() {
    let bench = Bench::new("eu-late-1", std::iter::repeat_n(answer(200, "<RunInstancesResponse/>"), 20));
    let pace = bench.client.shared.paces.of(
        Service::Ec2,
        ["https://ec2.eu-late-1.amazonaws.com/", "eu-late-1", "key AKIDEXPLICIT"],
        Patience::on(&bench.clock, HOUR).now(),
    );
    for _ in 0..5 {
        pace.wait(Kind::Launch, "x", &Patience::on(&bench.clock, HOUR)).unwrap();
    }
    let error = bench.ask("RunInstances", Repeat::Harmless, Duration::from_millis(400)).unwrap_err();
    assert_eq!(error.class(), Class::Throttled { retry_after: Some(Duration::from_millis(500)) });
    assert_eq!(bench.clock.passed(), Duration::ZERO);
    assert_eq!(bench.times().len(), 0);
    // Its turn is the next one's.
    bench.ask("RunInstances", Repeat::Harmless, HOUR).unwrap();
    assert_eq!(bench.times(), [Duration::from_millis(500)]);
}

#[test]
fn hundreds_of_launches_at_once_each_have_their_turn() {
    let bench = Bench::new("eu-many-1", [answer(200, "<RunInstancesResponse/>")]);
    let identity = ["https://ec2.eu-many-1.amazonaws.com/", "eu-many-1", "key AKIDEXPLICIT"];
    let pace = bench.client.shared.paces.of(Service::Ec2, identity, Patience::on(&bench.clock, HOUR).now());
    let (call, start) = (Duration::from_secs(60), Duration::from_secs(600));
    for number in 0..299_u32 {
        let clock = bench.clock.of_another();
        let patience = Patience::on(&clock, call).with_turns_within(start);
        pace.wait(Kind::Launch, "x", &patience).unwrap();
        assert_eq!(clock.passed(), Duration::from_millis(500) * number.saturating_sub(4));
        assert_eq!(patience.left("x").unwrap(), call, "its call has as long as any other");
    }
    // Who has no time for that is told; its turn is the next one's.
    let clock = bench.clock.of_another();
    let error = pace.wait(Kind::Launch, "x", &Patience::on(&clock, call)).unwrap_err();
    assert_eq!(error.class(), Class::Throttled { retry_after: Some(Duration::from_millis(147_500)) });
    let patience = Patience::on(&bench.clock, call).with_turns_within(start);
    bench.client.ec2(&Query::new("RunInstances", Repeat::Harmless), &patience).unwrap();
    assert_eq!(bench.times(), [Duration::from_millis(147_500)]);
    // What was waited for is gone; what is left of the call's own time is there as well.
    let patience = Patience::on(&bench.clock, call).with_turns_within(call);
    assert!(patience.wait_for_turn(call * 3, "x").is_err());
    patience.wait_for_turn(call * 3 / 2, "x").unwrap();
    assert_eq!(patience.left("x").unwrap(), call / 2);
    assert!(patience.wait_for_turn(call, "x").is_err());
}

#[test]
fn a_throttle_holds_all_of_them_back() {
    let answers = std::iter::once(refusal(503, "RequestLimitExceeded"));
    let bench = Bench::new("eu-drain-1", answers.chain(std::iter::repeat_n(answer(200, GOOD), 7)));
    (0..7).for_each(|_| drop(bench.describe().unwrap()));
    // Four tokens came back in the first pause; then one in a tenth of a second.
    let times: Vec<_> = bench.times().iter().map(|time| time.as_secs_f64()).collect();
    let expected = [0.0, 0.4, 0.4, 0.4, 0.4, 0.5, 0.6, 0.7];
    assert!(times.iter().zip(expected).all(|(time, expected)| (time - expected).abs() < 0.001), "{times:?}");
}

#[test]
fn a1_a_session_token_is_not_sent_to_another_machine_without_tls() {
    for (endpoint, is_sent) in
        [("http://10.0.0.1:5000", false), ("https://10.0.0.1", true), ("http://127.0.0.1:1", true)]
    {
        let mut settings = explicit("eu-token-1");
        settings.endpoint = Some(endpoint.into());
        settings.credentials = settings.credentials.map(|key| key.with_session_token(Secret::new("hush")));
        let bench = Bench::with(settings, Around::default(), [answer(200, GOOD)]);
        let described = bench.describe();
        assert_eq!(bench.script.asked().len(), usize::from(is_sent), "{endpoint}");
        let error = described.map(drop).err().map(|error| error.to_string());
        assert!(error.is_none_or(|error| error.contains("without TLS") && !is_sent), "{endpoint}");
    }
}

#[test]
fn who_says_no_region_is_told_so() {
    let around = Around::default().variable("AWS_EC2_METADATA_DISABLED", "true");
    let bench = Bench::with(AwsSettings::default(), around, []);
    let error = bench.describe().unwrap_err();
    assert!(error.to_string().contains("AWS_REGION"), "{error}");
    let settings = |region: Option<&str>, endpoint: Option<&str>| AwsSettings {
        region: region.map(str::to_owned),
        endpoint: endpoint.map(str::to_owned),
        ..AwsSettings::default()
    };
    assert!(AwsClient::new(settings(Some("eu/../1"), None)).unwrap_err().contains("the setting `region`"));
    assert!(AwsClient::new(settings(None, Some("ec2.example"))).unwrap_err().contains("https://"));
}

#[test]
fn the_machine_says_which_region_it_is_in_and_is_asked_once() {
    let clock = Clock::at(NOON);
    let script = Script::new(&clock, [answer(200, GOOD), answer(200, GOOD)]);
    let metadata = Script::new(&clock, [answer(200, "TOKEN"), answer(200, "eu-here-1\n")]);
    let settings = AwsSettings { region: None, ..explicit("x") };
    let around = Box::new(Around::default());
    let client = AwsClient::with(settings, around, Box::new(script.clone()), Box::new(metadata.clone())).unwrap();
    for _ in 0..2 {
        client.ec2(&Query::new("DescribeInstances", Repeat::Harmless), &Patience::on(&clock, HOUR)).unwrap();
    }
    assert_eq!(script.asked()[1].line, "POST https://ec2.eu-here-1.amazonaws.com/");
    let asked = metadata.asked();
    assert_eq!(asked[0].line, format!("{} http://169.254.169.254/latest/api/token", Method::PUT));
    assert_eq!(asked[1].line, "GET http://169.254.169.254/latest/meta-data/placement/region");
    assert_eq!(asked[1].header("x-aws-ec2-metadata-token"), Some("TOKEN"));
    assert_eq!(asked.len(), 2);
}

#[test]
fn a1_nothing_secret_is_shown() {
    let bench = Bench::new("eu-shown-1", []);
    let shown = format!("{:?} {:?}", bench.client, explicit("x"));
    assert!(shown.contains("...ICIT") && !shown.contains("hush") && !shown.contains("AKIDEXP"), "{shown}");
}
