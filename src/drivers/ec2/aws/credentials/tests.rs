//! Where credentials come from, and how long they are used, in a time of the test's own.

mod botocore;
mod checked;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::super::http::{Asking, NoAnswer};
use super::super::patience::{Patience, Time};
use super::super::tests::support::{Around, Asked, Clock, Reply, Script, answer};
use super::*;

/// Sun, 30 Aug 2015 12:36:00 GMT
const NOON: i64 = 1_440_938_160;
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// Who asks, and what answers.
struct Bench {
    around: Around,
    provider: Script,
    metadata: Script,
    clock: Clock,
    sts: Endpoint,
    skew: Skew,
}

impl Bench {
    fn new(around: Around) -> Self {
        let clock = Clock::at(NOON);
        let (provider, metadata) = (Script::new(&clock, []), Script::new(&clock, []));
        let sts = Endpoint::parse("https://sts.example").unwrap();
        Self { around, provider, metadata, clock, sts, skew: Skew::default() }
    }

    fn provider(self, answers: impl IntoIterator<Item = Reply>) -> Self {
        answers.into_iter().for_each(|answer| self.provider.push(answer));
        self
    }

    fn metadata(self, answers: impl IntoIterator<Item = Reply>) -> Self {
        answers.into_iter().for_each(|answer| self.metadata.push(answer));
        self
    }

    fn with<T>(&self, use_it: impl FnOnce(&Sources<'_>) -> T) -> T {
        self.with_profile(None, use_it)
    }

    fn with_profile<T>(&self, profile: Option<&str>, use_it: impl FnOnce(&Sources<'_>) -> T) -> T {
        let patience = Patience::on(&self.clock, HOUR);
        let metadata = Metadata { around: &self.around, wire: &self.metadata, patience: &patience };
        let (provider, sts, skew) = (&self.provider, &self.sts, &self.skew);
        use_it(&Sources { metadata, provider, sts, region: "eu-1", profile, skew })
    }

    fn find(&self) -> Result<AwsCredentials, AwsError> {
        self.with(|sources| sources.find())
    }

    fn error(&self) -> String {
        let error = self.find().unwrap_err();
        assert_eq!(error.class(), Class::Credentials);
        error.to_string()
    }

    fn asked_of_provider(&self) -> Vec<Asked> {
        self.provider.asked()
    }
}

/// Nothing but a home.
fn nowhere() -> Around {
    Around::default().variable("HOME", "/home/ci")
}

fn with_key(around: Around) -> Around {
    around.variable("AWS_ACCESS_KEY_ID", "AKIDENVIRONMENT").variable("AWS_SECRET_ACCESS_KEY", "hush-environment")
}

fn with_files(config: &str, credentials: &str) -> Around {
    nowhere().file("/home/ci/.aws/config", config).file("/home/ci/.aws/credentials", credentials)
}

fn of_sts(action: &str, id: &str, expires: &str) -> Reply {
    answer(
        200,
        &format!(
            "<{action}Response><{action}Result><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>hush</SecretAccessKey>\
             <SessionToken>hush-token</SessionToken><Expiration>{expires}</Expiration></Credentials></{action}Result>\
             </{action}Response>"
        ),
    )
}

fn of_service(id: &str, expires: &str) -> Reply {
    let text = format!(
        r#"{{"Code":"Success","AccessKeyId":"{id}","SecretAccessKey":"hush","Token":"hush-token","Expiration":"{expires}"}}"#
    );
    answer(200, &text)
}

fn of_machine(id: &str, expires: &str) -> [Reply; 3] {
    [answer(200, "hush-token-of-imds"), answer(200, "ci-role\n"), of_service(id, expires)]
}

const IN_AN_HOUR: &str = "2015-08-30T13:36:00Z";

#[test]
fn each_source_comes_before_the_next() {
    let id = |bench: &Bench| bench.find().unwrap().access_key_id;
    let around = nowhere();
    let bench = Bench::new(around.clone()).metadata(of_machine("MACHINE", IN_AN_HOUR));
    assert_eq!(id(&bench), "MACHINE");

    let around = around
        .variable("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
        .variable("AWS_ROLE_ARN", "arn:aws:iam::1:role/ci")
        .file("/token", "hush-of-web\n");
    let bench = Bench::new(around.clone()).provider([of_sts("AssumeRoleWithWebIdentity", "WEB", IN_AN_HOUR)]);
    assert_eq!(id(&bench), "WEB");

    let around = around.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x");
    let bench = Bench::new(around.clone()).metadata([of_service("CONTAINER", IN_AN_HOUR)]);
    assert_eq!(id(&bench), "CONTAINER");

    let file = "[default]\naws_access_key_id=PROFILE\naws_secret_access_key=hush";
    let around = around.file("/home/ci/.aws/credentials", file);
    assert_eq!(id(&Bench::new(around.clone())), "PROFILE");

    let bench = Bench::new(with_key(around));
    assert_eq!(id(&bench), "AKIDENVIRONMENT");
    // One that the settings name is meant.
    let named = bench.with_profile(Some("default"), |sources| sources.find()).unwrap();
    assert_eq!(named.access_key_id, "PROFILE");
}

#[test]
fn who_has_none_is_told_where_they_were_looked_for() {
    let error = Bench::new(nowhere()).error();
    for (source, why) in [
        ("environment", "AWS_ACCESS_KEY_ID is not set"),
        ("profile", "profile \"default\" not found"),
        ("container", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is not set"),
        ("web identity", "AWS_WEB_IDENTITY_TOKEN_FILE is not set"),
        ("machine", "no metadata service at http://169.254.169.254"),
    ] {
        let (_, rest) = error.split_once(&format!("{source}: ")).unwrap_or_else(|| panic!("{source}: {error}"));
        assert!(rest.contains(why), "{source}: {error}");
    }
    let error = Bench::new(nowhere().variable("AWS_EC2_METADATA_DISABLED", "TRUE")).error();
    assert!(error.contains("AWS_EC2_METADATA_DISABLED is set"), "{error}");
}

/// Somebody has set it up: others would be somebody else.
#[test]
fn a_source_that_is_set_up_and_fails_ends_the_search() {
    let home = || with_files("", "[default]\naws_access_key_id=WRONG\naws_secret_access_key=hush");
    let fails = |around: Around, answers: Vec<Reply>, what: &str| {
        let bench = Bench::new(around).metadata(answers);
        let error = bench.error();
        assert!(error.contains(what) && !error.contains("hush"), "{error}");
    };
    fails(home().variable("AWS_ACCESS_KEY_ID", "x"), vec![], "AWS_SECRET_ACCESS_KEY is not");
    fails(home().variable("AWS_SECRET_ACCESS_KEY", "hush"), vec![], "AWS_ACCESS_KEY_ID is not");
    fails(home().variable("AWS_PROFILE", "other"), vec![], "profile \"other\" not found");
    let container = || nowhere().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost/x");
    fails(container(), vec![answer(403, "hush")], "status 403");
    fails(container(), vec![answer(200, "hush")], "not JSON");
    fails(container(), vec![answer(200, r#"{"AccessKeyId":"x"}"#)], "no access key");
    fails(container(), vec![answer(200, r#"{"Code":"Failed","Message":"because"}"#)], "it says Failed: because");
    fails(container(), vec![of_service("x", "soon")], "invalid expiry time");
    fails(
        container().variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/none"),
        vec![],
        "cannot use the token in /none",
    );
    fails(nowhere().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.0.0.1/x"), vec![], "without TLS");
    fails(nowhere().variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@evil/x"), vec![], "must begin with a slash");
    fails(nowhere().variable("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), vec![], "AWS_ROLE_ARN is not");
    fails(
        nowhere(),
        vec![answer(200, "token"), answer(200, "ci-role"), answer(404, "")],
        "the role ci-role of this machine has no credentials",
    );
}

#[test]
fn the_environment_may_have_a_token_with_the_key() {
    let found = Bench::new(with_key(nowhere()).variable("AWS_SESSION_TOKEN", "hush-token")).find().unwrap();
    assert_eq!(found.session_token.as_ref().unwrap().expose(), "hush-token");
    assert_eq!(found.secret_access_key.expose(), "hush-environment");
}

#[test]
fn files_are_where_the_environment_says() {
    let around = nowhere()
        .variable("AWS_CONFIG_FILE", "/etc/c")
        .variable("AWS_SHARED_CREDENTIALS_FILE", "/etc/s")
        .variable("AWS_PROFILE", "ci")
        .file("/etc/c", "[profile ci]\naws_access_key_id=OTHER\naws_secret_access_key=hush")
        .file("/etc/s", "[ci]\naws_access_key_id=ID\naws_secret_access_key=hush\naws_session_token=hush-token");
    let found = Bench::new(around).find().unwrap();
    assert_eq!(found.access_key_id, "ID");
    assert_eq!(found.session_token.unwrap().expose(), "hush-token");
}

const CHAIN: &str = "[profile base]\naws_access_key_id=BASE\naws_secret_access_key=hush\n\
                     [profile middle]\nrole_arn=arn:middle\nsource_profile=base\n\
                     [default]\nrole_arn=arn:last\nsource_profile=middle\nrole_session_name=me\nexternal_id=e\nduration_seconds=900";

#[test]
fn roles_are_taken_on_one_after_the_other() {
    let bench = Bench::new(with_files(CHAIN, ""))
        .provider([of_sts("AssumeRole", "MIDDLE", IN_AN_HOUR), of_sts("AssumeRole", "LAST", IN_AN_HOUR)]);
    let found = bench.find().unwrap();
    assert_eq!((&*found.access_key_id, &*found.identity), ("LAST", "role arn:last"));
    assert_eq!(found.expires, Timestamp::from_iso8601(IN_AN_HOUR));
    let asked = bench.asked_of_provider();
    let signers: Vec<_> = asked.iter().map(Asked::signer).collect();
    assert_eq!(signers, [Some("BASE"), Some("MIDDLE")]);
    assert_eq!(asked[1].header("x-amz-security-token"), Some("hush-token"));
    assert_eq!(asked[1].line, "POST https://sts.example/");
    assert_eq!(
        asked[1].body,
        "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Alast&RoleSessionName=me&ExternalId=e&DurationSeconds=900"
    );
}

#[test]
fn profiles_that_lead_in_a_circle_are_told() {
    let circle = "[default]\nrole_arn=a\nsource_profile=b\n[profile b]\nrole_arn=b\nsource_profile=default";
    let error = Bench::new(with_files(circle, "")).error();
    assert!(error.contains("default -> b -> default"), "{error}");
    let itself = "[default]\nrole_arn=a\nsource_profile=default";
    let error = Bench::new(with_files(itself, "")).error();
    assert!(error.contains("default -> default"), "{error}");
    // With a key of its own it does not.
    let key = "[default]\naws_access_key_id=OWN\naws_secret_access_key=hush";
    let bench = Bench::new(with_files(itself, key)).provider([of_sts("AssumeRole", "ROLE", IN_AN_HOUR)]);
    assert_eq!(bench.find().unwrap().access_key_id, "ROLE");
    assert_eq!(bench.asked_of_provider()[0].signer(), Some("OWN"));
}

#[test]
fn a_profile_that_cannot_be_used_says_why() {
    let fails = |config: &str, what: &str| {
        let error = Bench::new(with_files(config, "")).error();
        assert!(error.contains(what), "{error}");
    };
    fails("[default]\nrole_arn=a", "needs one of source_profile");
    fails("[default]\nrole_arn=a\nsource_profile=none", "source_profile names was not found");
    fails("[default]\nrole_arn=a\nsource_profile=b\n[profile b]\nregion=x", "has no access key");
    fails("[default]\nrole_arn=a\nsource_profile=b\nmfa_serial=m\n[profile b]\nregion=x", "second factor");
    fails("[default]\nrole_arn=a\ncredential_source=Thin Air", "invalid credential_source");
    fails("[default]\nrole_arn=a\ncredential_source=Environment", "AWS_ACCESS_KEY_ID is not set");
    fails("[default]\nsso_session=x", "single sign-on");
    fails("[default]\ncredential_process=/bin/x", "programs that print");
}

#[test]
fn a_role_is_taken_on_with_what_the_profile_says() {
    let role = |source: &str| format!("[profile ci]\nrole_arn=arn:ci\n{source}");
    let around = |source: &str| with_files(&role(source), "").variable("AWS_PROFILE", "ci");
    let sts = || of_sts("AssumeRole", "ROLE", IN_AN_HOUR);
    let signer = |bench: Bench| {
        assert_eq!(bench.with_profile(Some("ci"), |sources| sources.find()).unwrap().access_key_id, "ROLE");
        bench.asked_of_provider()[0].signer().unwrap().to_owned()
    };
    let bench = Bench::new(with_key(around("credential_source=Environment"))).provider([sts()]);
    assert_eq!(signer(bench), "AKIDENVIRONMENT");
    let ecs = around("credential_source=EcsContainer").variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x");
    let bench = Bench::new(ecs).provider([sts()]).metadata([of_service("CONTAINER", IN_AN_HOUR)]);
    assert_eq!(signer(bench), "CONTAINER");
    let bench = Bench::new(around("credential_source=Ec2InstanceMetadata")).provider([sts()]);
    assert_eq!(signer(bench.metadata(of_machine("MACHINE", IN_AN_HOUR))), "MACHINE");
    let web = around("web_identity_token_file=/t").file("/t", "hush");
    let bench = Bench::new(web).provider([of_sts("AssumeRoleWithWebIdentity", "WEB", IN_AN_HOUR)]);
    assert_eq!(bench.find().unwrap().access_key_id, "WEB");
}

#[test]
fn a_web_identity_is_not_signed_for() {
    let around = nowhere()
        .variable("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")
        .variable("AWS_ROLE_ARN", "arn:ci")
        .variable("AWS_ROLE_SESSION_NAME", "me")
        .file("/t", "hush-of-web\n");
    let bench = Bench::new(around).provider([of_sts("AssumeRoleWithWebIdentity", "WEB", IN_AN_HOUR)]);
    bench.find().unwrap();
    let asked = &bench.asked_of_provider()[0];
    assert_eq!(asked.header("authorization"), None);
    let expected = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aci&RoleSessionName=me&\
                    WebIdentityToken=hush-of-web";
    assert_eq!(asked.body, expected);
}

#[test]
fn a1_a_token_that_is_refused_is_not_in_the_error() {
    let around = |file| {
        let around = nowhere().variable("AWS_WEB_IDENTITY_TOKEN_FILE", file).variable("AWS_ROLE_ARN", "arn:ci");
        around.file("/t", "hush-of-web")
    };
    let refused =
        "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>no</Message></Error></ErrorResponse>";
    let error = Bench::new(around("/t")).provider([answer(400, refused)]).error();
    assert!(error.contains("InvalidIdentityToken") && !error.contains("hush"), "{error}");
    let error = Bench::new(around("/none")).error();
    assert!(error.contains("/none"), "{error}");
}

#[test]
fn sts_has_its_trouble_waited_out_and_tells_the_time() {
    let expired = |date: &str| {
        let text = "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code></Error></ErrorResponse>";
        answer(403, text).map(|answer| super::super::http::Answer { date: Some(date.into()), ..answer })
    };
    let answers = [
        answer(503, ""),
        Err(NoAnswer::Lost("cut".into())),
        expired("Sun, 30 Aug 2015 12:06:00 GMT"),
        of_sts("AssumeRole", "ROLE", IN_AN_HOUR),
    ];
    let config = "[default]\nrole_arn=arn:ci\nsource_profile=default";
    let key = "[default]\naws_access_key_id=OWN\naws_secret_access_key=hush";
    let bench = Bench::new(with_files(config, key)).provider(answers);
    bench.find().unwrap();
    let asked = bench.asked_of_provider();
    assert_eq!(asked.iter().map(|asked| asked.at.as_millis()).collect::<Vec<_>>(), [0, 400, 1_200, 1_200]);
    assert_eq!(asked[3].header("x-amz-date"), Some("20150830T120600Z"));
    // What it does not allow is not asked for again.
    let denied = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>";
    let bench = Bench::new(with_files(config, key)).provider([answer(403, denied)]);
    assert_eq!(bench.find().unwrap_err().class(), Class::Denied);
    assert_eq!(bench.asked_of_provider().len(), 1);
}

#[test]
fn a_container_proves_itself_with_its_token() {
    let around = nowhere()
        .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials")
        .variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/t")
        .file("/t", "hush-of-pod\n");
    let bench = Bench::new(around).metadata([answer(500, ""), of_service("CONTAINER", IN_AN_HOUR)]);
    let found = bench.find().unwrap();
    assert_eq!(found.session_token.unwrap().expose(), "hush-token");
    let asked = &bench.metadata.asked()[1];
    assert_eq!(asked.line, "GET http://169.254.170.23/v1/credentials");
    assert_eq!(asked.header("authorization"), Some("hush-of-pod"));

    let around = nowhere().variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x");
    let bench = Bench::new(around).metadata([of_service("CONTAINER", IN_AN_HOUR)]);
    bench.find().unwrap();
    assert_eq!(bench.metadata.asked()[0].line, "GET http://169.254.170.2/v2/x");
}

#[test]
fn a_machine_is_asked_with_a_token_only() {
    let bench = Bench::new(nowhere()).metadata(of_machine("MACHINE", IN_AN_HOUR));
    let found = bench.find().unwrap();
    assert_eq!((&*found.access_key_id, &*found.identity), ("MACHINE", "machine's role ci-role"));
    let asked = bench.metadata.asked();
    assert_eq!(asked[0].line, "PUT http://169.254.169.254/latest/api/token");
    assert_eq!(asked[0].header("x-aws-ec2-metadata-token-ttl-seconds"), Some("21600"));
    assert_eq!(asked[2].line, "GET http://169.254.169.254/latest/meta-data/iam/security-credentials/ci-role");
    assert!(asked[1..].iter().all(|asked| asked.header("x-aws-ec2-metadata-token") == Some("hush-token-of-imds")));
    let bench = Bench::new(nowhere()).metadata([answer(200, "TOKEN"), answer(404, "")]);
    assert!(bench.error().contains("the machine has no role"));
    let failed = r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"the words"}"#;
    let bench = Bench::new(nowhere()).metadata([answer(200, "TOKEN"), answer(200, "r"), answer(200, failed)]);
    assert!(
        bench
            .error()
            .contains("the role r of this machine has no credentials: it says AssumeRoleUnauthorizedAccess: the words")
    );
    // There is no going back to the first version.
    let bench = Bench::new(nowhere()).metadata([answer(403, ""), answer(200, "ci-role")]);
    bench.find().unwrap_err();
    assert_eq!(bench.metadata.asked().len(), 1);
    // In the other family.
    let around = nowhere().variable("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv6");
    let bench = Bench::new(around).metadata(of_machine("MACHINE", IN_AN_HOUR));
    bench.find().unwrap();
    assert!(bench.metadata.asked()[0].line.starts_with("PUT http://[fd00:ec2::254]/"));
}

#[test]
fn they_are_kept_and_replaced_before_they_expire() {
    let bench = Bench::new(nowhere())
        .metadata(of_machine("FIRST", IN_AN_HOUR))
        .metadata(of_machine("SECOND", "2015-08-30T15:36:00Z"));
    let cache = Cache::default();
    let id = || bench.with(|sources| cache.get(sources)).unwrap().access_key_id;
    assert_eq!(id(), "FIRST");
    bench.clock.advance(MINUTE * 54);
    assert_eq!(id(), "FIRST");
    bench.clock.advance(MINUTE);
    assert_eq!(id(), "SECOND");
    assert_eq!(bench.metadata.asked().len(), 6);
    // The provider's clock counts, which says that there is an hour more.
    let bench = Bench::new(nowhere()).metadata(of_machine("FIRST", IN_AN_HOUR));
    let cache = Cache::default();
    let id = || bench.with(|sources| cache.get(sources)).unwrap().access_key_id;
    assert_eq!(id(), "FIRST");
    assert!(bench.skew.learn(Timestamp(NOON), Timestamp(NOON - 3600), Timestamp(NOON)));
    bench.clock.advance(MINUTE * 60);
    assert_eq!(id(), "FIRST");
    assert_eq!(bench.metadata.asked().len(), 3);
    // Those of a time that has no end.
    let bench = Bench::new(with_key(nowhere()));
    let cache = Cache::default();
    let before = bench.with(|sources| cache.get(sources)).unwrap();
    bench.clock.advance(HOUR * 1_000_000);
    assert_eq!(bench.with(|sources| cache.get(sources)).unwrap().access_key_id, before.access_key_id);
}

#[test]
fn those_that_cannot_be_replaced_are_used_as_long_as_they_are_good() {
    let bench = Bench::new(nowhere()).metadata(of_machine("FIRST", IN_AN_HOUR));
    let cache = Cache::default();
    let id = || bench.with(|sources| cache.get(sources)).map(|found| found.access_key_id);
    id().unwrap();
    let tried = |bench: &Bench| bench.metadata.asked().len() - 3;
    bench.clock.advance(MINUTE * 56);
    assert_eq!(id().unwrap(), "FIRST");
    assert_eq!(tried(&bench), 1);
    // It is not tried again by everyone.
    assert_eq!(id().unwrap(), "FIRST");
    assert_eq!(tried(&bench), 1);
    bench.clock.advance(MINUTE);
    assert_eq!(id().unwrap(), "FIRST");
    assert_eq!(tried(&bench), 2);
    bench.clock.advance(MINUTE * 3);
    assert!(id().unwrap_err().to_string().contains("no metadata service"));
    of_machine("SECOND", "2015-08-30T15:36:00Z").into_iter().for_each(|answer| bench.metadata.push(answer));
    assert_eq!(id().unwrap(), "SECOND");
}

#[test]
fn those_that_are_not_taken_are_forgotten_unless_there_are_others_already() {
    let bench =
        Bench::new(nowhere()).metadata(of_machine("FIRST", IN_AN_HOUR)).metadata(of_machine("SECOND", IN_AN_HOUR));
    let cache = Cache::default();
    let get = || bench.with(|sources| cache.get(sources)).unwrap();
    let first = get();
    cache.reject(&first);
    let second = get();
    assert_eq!(second.access_key_id, "SECOND");
    cache.reject(&first);
    assert_eq!(get().access_key_id, "SECOND");
}

/// Says when it is asked, and answers when it is told.
#[derive(Debug)]
struct Gate {
    asked: Sender<()>,
    go_on: Receiver<Infallible>,
    then: Script,
}

impl Wire for Gate {
    fn ask(&self, asking: &Asking<'_>, limit: Duration, cancel: Option<&Receiver<Infallible>>) -> Reply {
        self.asked.send(()).unwrap();
        // Disconnected: all may.
        let _ = self.go_on.recv();
        self.then.ask(asking, limit, cancel)
    }
}

/// Time that does not pass, and says when the one whose it is begins to wait, which not everybody may.
struct Waits {
    begins: Option<Sender<()>>,
    has_begun: AtomicBool,
}

impl Time for Waits {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> Timestamp {
        Timestamp(NOON)
    }

    fn sleep(&self, _: Duration) -> bool {
        if !self.has_begun.swap(true, Ordering::Relaxed) {
            self.begins.as_ref().expect("there is no need to wait").send(()).unwrap();
        }
        std::thread::yield_now();
        true
    }

    fn cancel(&self) -> Option<&Receiver<Infallible>> {
        None
    }
}

/// In real time: no thread takes so long.
const SOON: Duration = Duration::from_secs(20);

/// The id, or why there is none.
type Got = Result<String, String>;

/// What one gets who brings new ones and four others who come meanwhile, and how often the service was asked. With some
/// that are `held`, the others must not wait for the one.
fn together(held: Option<AwsCredentials>, answers: impl IntoIterator<Item = Reply>) -> (Vec<Got>, usize) {
    const OTHERS: usize = 4;
    let others_wait = held.is_none();
    let cache = Cache::holding(held);
    let around = nowhere();
    let (asked, is_asked) = unbounded();
    let (let_go_on, go_on) = unbounded();
    let then = Script::new(&Clock::at(NOON), answers);
    let gate = Gate { asked, go_on, then: then.clone() };
    let (waits, is_waiting) = unbounded();
    let get = || {
        let time = Waits { begins: others_wait.then(|| waits.clone()), has_begun: AtomicBool::new(false) };
        let patience = Patience::on(&time, HOUR);
        let metadata = Metadata { around: &around, wire: &gate, patience: &patience };
        let (sts, skew) = (Endpoint::parse("https://sts.example").unwrap(), Skew::default());
        let sources = Sources { metadata, provider: &gate, sts: &sts, region: "eu-1", profile: None, skew: &skew };
        cache.get(&sources).map(|found| found.access_key_id).map_err(|error| error.to_string())
    };
    let results = std::thread::scope(|scope| {
        let first = scope.spawn(get);
        is_asked.recv_timeout(SOON).unwrap();
        let others: Vec<_> = (0..OTHERS).map(|_| scope.spawn(get)).collect();
        let ended = |thread: ScopedJoinHandle<'_, Got>| thread.join().unwrap();
        let (mut before, mut after) = (Vec::new(), others);
        if others_wait {
            (0..OTHERS).for_each(|_| is_waiting.recv_timeout(SOON).unwrap());
        } else {
            before = after.drain(..).map(ended).collect();
        }
        drop(let_go_on);
        std::iter::once(ended(first)).chain(before).chain(after.into_iter().map(ended)).collect()
    });
    (results, then.asked().len())
}

fn expiring(id: &str, expires: &str) -> AwsCredentials {
    AwsCredentials { expires: Timestamp::from_iso8601(expires), ..AwsCredentials::new(id, Secret::new("hush")) }
}

#[test]
fn one_brings_new_ones_and_the_others_use_what_is_still_good() {
    let old = expiring("OLD", "2015-08-30T12:40:00Z");
    let (results, asked) = together(Some(old), of_machine("NEW", IN_AN_HOUR));
    assert_eq!(results, ["NEW", "OLD", "OLD", "OLD", "OLD"].map(|id| Ok(id.to_owned())));
    assert_eq!(asked, 3);
}

#[test]
fn one_brings_the_first_ones_for_all() {
    let (results, asked) = together(None, of_machine("NEW", IN_AN_HOUR));
    assert_eq!(results, vec![Ok("NEW".to_owned()); 5]);
    assert_eq!(asked, 3);
}

#[test]
fn one_finds_none_for_all() {
    let (results, asked) = together(None, [answer(404, "")]);
    assert!(results.iter().all(|result| result.as_ref().is_err_and(|why| why.contains("status 404"))), "{results:?}");
    assert_eq!((results.len(), asked), (5, 1));
}

#[test]
fn a1_what_is_shown_of_them_is_the_end_of_the_id() {
    let credentials =
        AwsCredentials::new("AKIDEXAMPLE1234", Secret::new("hush")).with_session_token(Secret::new("hush"));
    assert_eq!(format!("{credentials:?}"), "AwsCredentials { access_key_id: ...1234, .. }");
}
