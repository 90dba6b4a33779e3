//! The client against moto, which knows the provider's API and checks signatures and policies when it is asked to; and the
//! fault proxy in front of it.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use ureq::tls::RootCerts;

use super::super::*;
use super::fake::{Request, said, server};
use super::moto_server::MotoServer;
use super::support::Around;
use crate::Secret;
use crate::testing::{FaultyHttp, HttpFault, HttpRule};

/// Longer than any of these calls takes.
const LONG: Duration = Duration::from_secs(60);
const IAM_VERSION: &str = "2010-05-08";

struct Moto {
    server: MotoServer,
}

impl Moto {
    /// That of the tests that leave nothing behind which is in another's way.
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Moto> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn start() -> Self {
        Self { server: MotoServer::start() }
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// A call to IAM, whose answer it returns.
    fn iam(&self, action: &'static str, parameters: &[(&str, &str)]) -> Element {
        let query =
            parameters.iter().fold(Query::new(action, Repeat::Never), |query, (name, value)| query.with(*name, *value));
        // Which service is meant is part of the signature, which nobody checks yet.
        let authorization =
            "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x";
        let headers = [("content-type", FORM.to_owned()), ("authorization", authorization.to_owned())];
        let (uri, body) = (self.url() + "/", query.body(IAM_VERSION));
        let asking = Asking { method: Method::POST, uri: &uri, headers: &headers, body: body.as_bytes() };
        let answer = wire().ask(&asking, LONG, None).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        Element::parse(&answer.body).unwrap()
    }

    /// From now on signatures and policies are checked.
    fn check(&self) {
        let uri = self.url() + "/moto-api/reset-auth";
        let headers = [("content-type", "text/plain".to_owned())];
        let asking = Asking { method: Method::POST, uri: &uri, headers: &headers, body: b"0" };
        assert_eq!(wire().ask(&asking, LONG, None).unwrap().status, 200);
    }
}

fn wire() -> Http {
    Http::to_provider(RootCerts::WebPki)
}

/// Without the environment of the one who runs the test.
fn client_with(endpoint: &str, region: &str, credentials: Option<AwsCredentials>, around: Around) -> AwsClient {
    let settings = AwsSettings {
        region: Some(region.into()),
        endpoint: Some(endpoint.into()),
        credentials,
        ..AwsSettings::default()
    };
    let (provider, metadata) = (wire(), Http::to_metadata(RootCerts::WebPki));
    AwsClient::with(settings, Box::new(around), Box::new(provider), Box::new(metadata)).unwrap()
}

fn client(endpoint: &str, region: &str) -> AwsClient {
    let credentials = AwsCredentials::new("AKIDANYBODY", Secret::new("hush"));
    client_with(endpoint, region, Some(credentials), Around::default())
}

fn ask(client: &AwsClient, query: &Query) -> Result<Element, AwsError> {
    client.ec2(query, &Patience::limit(LONG))
}

fn describe() -> Query {
    Query::new("DescribeInstances", Repeat::Harmless)
}

/// An image, because moto has none.
fn run(client: &AwsClient, repeat: Repeat) -> Query {
    let register = Query::new("RegisterImage", Repeat::Never).with("Name", "x").with("Architecture", "x86_64");
    let image = ask(client, &register).unwrap().text("imageId").unwrap().to_owned();
    Query::new("RunInstances", repeat).with("ImageId", image).with("MinCount", "1").with("MaxCount", "1")
}

fn machines(client: &AwsClient) -> usize {
    let answer = ask(client, &describe()).unwrap();
    answer.items("reservationSet").map(|reservation| reservation.items("instancesSet").count()).sum()
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn who_asks_is_proved_and_what_is_allowed_is_known() {
    let moto = Moto::start();
    moto.iam("CreateUser", &[("UserName", "ci")]);
    let key = moto.iam("CreateAccessKey", &[("UserName", "ci")]);
    let of = |name| key.text(&format!("CreateAccessKeyResult/AccessKey/{name}")).unwrap().to_owned();
    let (id, secret) = (of("AccessKeyId"), of("SecretAccessKey"));
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Resource":"*",
        "Action":["ec2:Describe*","ssm:GetParameter","ssm:PutParameter","sts:GetCallerIdentity","sts:AssumeRole"]}]}"#;
    let document = [("UserName", "ci"), ("PolicyName", "p"), ("PolicyDocument", policy)];
    moto.iam("PutUserPolicy", &document);
    let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}"#;
    let role = moto.iam("CreateRole", &[("RoleName", "machines"), ("AssumeRolePolicyDocument", trust)]);
    let role = role.text("CreateRoleResult/Role/Arn").unwrap().to_owned();
    let all = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Resource":"*","Action":"ec2:*"}]}"#;
    moto.iam("PutRolePolicy", &[("RoleName", "machines"), ("PolicyName", "p"), ("PolicyDocument", all)]);
    moto.check();

    let with = |id: &str, secret: &str| {
        let credentials = AwsCredentials::new(id, Secret::new(secret));
        client_with(&moto.url(), "eu-central-1", Some(credentials), Around::default())
    };
    let good = with(&id, &secret);
    // With characters that must be encoded, on the way and in the signature.
    ask(&good, &describe().with_filter("tag:a b/+~*é", ["x y", "=&%"])).unwrap();
    let caller = Query::new("GetCallerIdentity", Repeat::Harmless);
    let caller = good.query(Service::Sts, &caller, &Patience::limit(LONG)).unwrap();
    assert!(caller.text("GetCallerIdentityResult/Arn").unwrap().ends_with("user/ci"), "{caller:?}");
    let parameter = serde_json::json!({"Name": "/ci/a", "Value": "v \u{e9}", "Type": "String"});
    good.ssm("PutParameter", Repeat::Harmless, &parameter, &Patience::limit(LONG)).unwrap();
    let name = serde_json::json!({"Name": "/ci/a"});
    let found = good.ssm("GetParameter", Repeat::Harmless, &name, &Patience::limit(LONG)).unwrap();
    assert_eq!(found["Parameter"]["Value"], "v \u{e9}");

    let error = |client: &AwsClient, query: &Query| ask(client, query).unwrap_err();
    let wrong = error(&with(&id, "wrong"), &describe());
    assert_eq!(wrong.class(), Class::Credentials, "{wrong}");
    assert!(!wrong.to_string().contains("wrong"), "{wrong}");
    let unknown = error(&with("AKIDNOBODY0000000000", &secret), &describe());
    assert_eq!(unknown.class(), Class::Credentials, "{unknown}");
    let denied = error(&good, &Query::new("CreateKeyPair", Repeat::Never).with("KeyName", "k"));
    assert_eq!((denied.class(), denied.outcome_unknown()), (Class::Denied, false), "{denied}");
    assert!(denied.to_string().contains("policy") && !denied.to_string().contains(&secret), "{denied}");

    // What the user may not, the role may, which is taken on through the profile.
    let config = format!(
        "[default]\naws_access_key_id={id}\naws_secret_access_key={secret}\n\
                          [profile ci]\nrole_arn={role}\nsource_profile=default"
    );
    let around = Around::default().variable("HOME", "/h").variable("AWS_PROFILE", "ci").file("/h/.aws/config", &config);
    let taken_on = client_with(&moto.url(), "eu-central-1", None, around);
    ask(&taken_on, &Query::new("CreateKeyPair", Repeat::Never).with("KeyName", "k")).unwrap();

    // And who has nothing does not ask.
    let around = Around::default().variable("AWS_EC2_METADATA_DISABLED", "true");
    let nobody = error(&client_with(&moto.url(), "eu-central-1", None, around), &describe());
    assert_eq!(nobody.class(), Class::Credentials, "{nobody}");
    assert!(nobody.to_string().contains("AWS_ACCESS_KEY_ID is not set"), "{nobody}");
}

/// Such a service as moto is not: it demands its token.
#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a_machines_role_is_found_through_its_metadata_service() {
    let metadata = server(|request: &Request| {
        let body = match (&*request.line, request.header("x-aws-ec2-metadata-token")) {
            ("PUT /latest/api/token HTTP/1.1", _) if request.header("x-aws-ec2-metadata-token-ttl-seconds").is_some() => {
                "the-token".to_owned()
            }
            ("GET /latest/meta-data/placement/region HTTP/1.1", Some("the-token")) => "eu-west-3".to_owned(),
            ("GET /latest/meta-data/iam/security-credentials/ HTTP/1.1", Some("the-token")) => "ci".to_owned(),
            ("GET /latest/meta-data/iam/security-credentials/ci HTTP/1.1", Some("the-token")) => {
                r#"{"Code":"Success","AccessKeyId":"AKIDMACHINE","SecretAccessKey":"hush","Token":"t","Expiration":"2099-01-01T00:00:00Z"}"#.to_owned()
            }
            _ => return (said(401, "", ""), true),
        };
        (said(200, "", &body), true)
    });
    let around = Around::default().variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", &format!("http://{metadata}"));
    let settings = AwsSettings { endpoint: Some(Moto::shared().url()), ..AwsSettings::default() };
    let (provider, metadata) = (wire(), Http::to_metadata(RootCerts::WebPki));
    let client = AwsClient::with(settings, Box::new(around), Box::new(provider), Box::new(metadata)).unwrap();
    let patience = Patience::limit(LONG);
    assert_eq!(client.region(&patience).unwrap(), "eu-west-3");
    let zones = ask(&client, &Query::new("DescribeAvailabilityZones", Repeat::Harmless)).unwrap();
    let zones: Vec<_> = zones.items("availabilityZoneInfo").filter_map(|zone| zone.text("zoneName")).collect();
    assert!(!zones.is_empty() && zones.iter().all(|zone| zone.starts_with("eu-west-3")), "{zones:?}");
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn what_is_not_there_and_what_makes_no_sense_are_told_apart() {
    let client = client(&Moto::shared().url(), "eu-west-1");
    let error = |query: &Query| ask(&client, query).unwrap_err();
    let gone =
        error(&Query::new("TerminateInstances", Repeat::Harmless).with_list("InstanceId", ["i-0123456789abcdef0"]));
    assert!(gone.already_gone() && gone.code() == Some("InvalidInstanceID.NotFound"), "{gone}");
    let nonsense = error(
        &Query::new("RunInstances", Repeat::Harmless).with("ImageId", "x").with("MinCount", "1").with("MaxCount", "1"),
    );
    assert_eq!((nonsense.class(), nonsense.already_gone()), (Class::BadParameter, false), "{nonsense}");
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn bursts_of_throttles_and_trouble_are_waited_out() {
    let proxy = FaultyHttp::to(Moto::shared().server.address).unwrap();
    let client = client(&proxy.url(), "eu-west-2");
    for fault in [
        HttpFault::TooManyRequests { retry_after: Duration::from_secs(1) },
        HttpFault::Status(503),
        HttpFault::StatusAfter(500),
        HttpFault::CutBefore,
        HttpFault::CutAfter,
        HttpFault::CutMidAnswer,
        HttpFault::TruncatedBody(20),
    ] {
        let fault = proxy.inject(HttpRule::new(fault).times(2));
        let before = Instant::now();
        ask(&client, &describe()).unwrap();
        assert_eq!(fault.met(), 2, "{fault:?}");
        // Two hints of a second each.
        let hinted = format!("{fault:?}").contains("TooManyRequests");
        assert!(!hinted || before.elapsed() >= Duration::from_secs(2), "{:?}", before.elapsed());
    }
    // One that has no end has one for the caller.
    let fault = proxy.inject(HttpRule::new(HttpFault::TooManyRequests { retry_after: Duration::from_secs(100) }));
    let error = client.ec2(&describe(), &Patience::limit(Duration::from_secs(2))).unwrap_err();
    assert_eq!(error.class(), Class::Throttled { retry_after: Some(Duration::from_secs(100)) }, "{error}");
    drop(fault);
    let _fault = proxy.inject(HttpRule::new(HttpFault::Hang));
    let begun = Instant::now();
    let error = client.ec2(&describe(), &Patience::limit(Duration::from_secs(1))).unwrap_err();
    assert_eq!((error.class(), error.outcome_unknown()), (Class::TimedOut, true), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn d4_a_machine_that_may_have_been_made_is_asked_for_again_only_with_a_token() {
    let proxy = FaultyHttp::to(Moto::shared().server.address).unwrap();
    let client = client(&proxy.url(), "ca-central-1");
    let never = run(&client, Repeat::Never);
    let again = run(&client, Repeat::Harmless).with("ClientToken", "one");

    let fault = proxy.inject(HttpRule::new(HttpFault::CutAfter).times(1));
    let error = ask(&client, &never).unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert_eq!((fault.met(), machines(&client)), (1, 1), "it was made, and not again");

    let before = proxy.request_count();
    let fault = proxy.inject(HttpRule::new(HttpFault::CutAfter).times(1));
    ask(&client, &again).unwrap();
    assert_eq!((fault.met(), proxy.request_count() - before), (1, 2), "the second has the token of the first");
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn d5_a_cancel_ends_a_call_that_hangs() {
    let proxy = FaultyHttp::to(Moto::shared().server.address).unwrap();
    let client = client(&proxy.url(), "eu-north-1");
    let _fault = proxy.inject(HttpRule::new(HttpFault::Hang));
    let (cancel, cancelled) = bounded(0);
    let real = RealTime(cancelled);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.ec2(&describe(), &Patience::on(&real, LONG)).unwrap_err());
        while proxy.request_count() == 0 {
            std::thread::yield_now();
        }
        let begun = Instant::now();
        drop(cancel);
        let error = call.join().unwrap();
        assert_eq!((error.class(), error.outcome_unknown()), (Class::Cancelled, true), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    });
}

/// Time as it is, for one who may give up.
struct RealTime(crossbeam_channel::Receiver<std::convert::Infallible>);

impl super::super::patience::Time for RealTime {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> Timestamp {
        Patience::limit(LONG).wall()
    }

    fn sleep(&self, duration: Duration) -> bool {
        self.0.recv_timeout(duration).is_err_and(|error| error.is_timeout())
    }

    fn cancel(&self) -> Option<&crossbeam_channel::Receiver<std::convert::Infallible>> {
        Some(&self.0)
    }
}

/// moto does not look at the time: here is one who does, and whose clock is ten minutes ahead.
#[test]
fn a_provider_whose_clock_is_another_is_believed() {
    let ours = Patience::limit(LONG).wall();
    let theirs = Timestamp(ours.0 + 600);
    let address = server(move |request| {
        let signed = request.header("x-amz-date").unwrap().to_owned();
        // To the minute or so: real time passes in this test.
        let good = (0..60).any(|second| Timestamp(theirs.0 + second).basic() == signed);
        let date = format!("Date: {}\r\n", http_date(theirs));
        let refused = "<Response><Errors><Error><Code>RequestExpired</Code></Error></Errors></Response>";
        if good { (said(200, &date, "<it><is>good</is></it>"), true) } else { (said(400, &date, refused), true) }
    });
    let client = client(&format!("http://{address}"), "eu-skewed-1");
    assert_eq!(ask(&client, &describe()).unwrap().text("is"), Some("good"));
    let ago = client.time_ago(Duration::from_secs(600), &Patience::limit(LONG));
    let shown = (0..60).any(|second| Timestamp(ours.0 + second).iso8601() == ago);
    assert!(shown, "{ago}");
}

/// As servers write it.
fn http_date(time: Timestamp) -> String {
    let text = time.iso8601();
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month: usize = text[5..7].parse().unwrap();
    format!("Mon, {} {} {} {} GMT", &text[8..10], months[month - 1], &text[..4], &text[11..19])
}
