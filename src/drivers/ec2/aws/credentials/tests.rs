//! Every source, and what is said when it has nothing or fails; and how long credentials are held.

use super::super::http::{Answer, NoAnswer};
use super::super::patience::Patience;
use super::super::testing::{Around, Asked, Jumping, Script, answer};
use super::*;

/// 2026-01-01T00:00:00Z
const NOW: i64 = 1_767_225_600;
const LIMIT: Duration = Duration::from_secs(60);

/// One look with these surroundings, and what the services answer.
struct Look {
    around: Around,
    metadata: Script,
    provider: Script,
    profile: Option<&'static str>,
}

impl Look {
    fn new(around: Around) -> Self {
        let around = around.variable("AWS_EC2_METADATA_DISABLED", "true");
        Self { around, metadata: Script::default(), provider: Script::default(), profile: None }
    }

    fn metadata(self, answers: impl IntoIterator<Item = Result<Answer, NoAnswer>>) -> Self {
        let around = self.around.variable("AWS_EC2_METADATA_DISABLED", "");
        Self { around, metadata: Script::new(answers), ..self }
    }

    fn provider(self, answers: impl IntoIterator<Item = Result<Answer, NoAnswer>>) -> Self {
        Self { provider: Script::new(answers), ..self }
    }

    fn with<T>(&self, then: impl FnOnce(&Sources<'_>) -> T) -> T {
        let clock = Jumping::at(NOW);
        then(&Sources {
            around: &self.around,
            metadata: &self.metadata,
            provider: &self.provider,
            sts: "https://sts.eu-1.example.org",
            region: "eu-1",
            profile: self.profile,
            patience: &Patience::on(&clock, LIMIT),
            skew: 0,
        })
    }

    fn found(&self) -> AwsCredentials {
        self.with(|sources| sources.find().unwrap_or_else(|error| panic!("{error}")))
    }

    fn error(&self) -> String {
        self.with(|sources| sources.find().unwrap_err()).to_string()
    }
}

fn files(config: &str, credentials: &str) -> Around {
    Around::default().variable("HOME", "/h").file("/h/.aws/config", config).file("/h/.aws/credentials", credentials)
}

fn assumed(action: &str, id: &str) -> Result<Answer, NoAnswer> {
    answer(
        200,
        &format!(
            "<{action}Response><{action}Result><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>S</SecretAccessKey>\
             <SessionToken>T</SessionToken><Expiration>2026-01-01T01:00:00Z</Expiration></Credentials></{action}Result>\
             </{action}Response>"
        ),
    )
}

const JSON: &str = r#"{"Code":"Success","AccessKeyId":"FROM-JSON","SecretAccessKey":"S","Token":"T",
    "Expiration":"2026-01-01T06:00:00Z"}"#;

#[test]
fn the_first_source_that_has_any_wins() {
    let profile = "[default]\naws_access_key_id=OF-PROFILE\naws_secret_access_key=S";
    let around = files("", profile).variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x");
    let look = Look::new(around.clone());
    assert_eq!(look.found().access_key_id, "OF-PROFILE");
    let around = around.variable("AWS_ACCESS_KEY_ID", "OF-ENV").variable("AWS_SECRET_ACCESS_KEY", "S");
    let found = Look::new(around.clone().variable("AWS_SESSION_TOKEN", "T")).found();
    assert_eq!((&*found.access_key_id, found.session_token.unwrap().expose()), ("OF-ENV", "T"));
    let mut named = Look::new(around);
    named.profile = Some("default");
    assert_eq!(named.found().access_key_id, "OF-PROFILE", "who names a profile means it");
}

#[test]
fn nothing_anywhere_says_what_was_looked_for() {
    let error = Look::new(Around::default()).error();
    for part in
        ["AWS_ACCESS_KEY_ID is not set", "no profile \"default\"", "RELATIVE_URI is not set", "METADATA_DISABLED"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    let error = Look::new(Around::default().variable("AWS_ACCESS_KEY_ID", "A")).error();
    assert!(error.contains("AWS_SECRET_ACCESS_KEY is not"), "{error}");
    let error = Look::new(Around::default().variable("AWS_PROFILE", "mine")).error();
    assert!(error.contains("no profile \"mine\""), "{error}");
}

#[test]
fn a_role_of_a_profile_is_taken_on_with_anothers_key() {
    let config = "[profile ci]\nrole_arn=arn:aws:iam::1:role/ci\nsource_profile=base\nexternal_id=ext\n";
    let around = files(config, "[base]\naws_access_key_id=BASE\naws_secret_access_key=S").variable("AWS_PROFILE", "ci");
    let look = Look::new(around).provider([answer(503, ""), assumed("AssumeRole", "TEMPORARY")]);
    let found = look.found();
    assert_eq!(found.access_key_id, "TEMPORARY");
    assert_eq!(found.expires, Some(Timestamp(NOW + 3600)));
    assert_eq!(found.identity, "role arn:aws:iam::1:role/ci", "whatever its key is");
    let [_, Asked { line, body, .. }] = &look.provider.asked()[..] else { panic!("it is asked again once") };
    assert_eq!(line, "POST https://sts.eu-1.example.org/");
    assert!(body.starts_with("Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws"), "{body}");
    assert!(body.contains("&ExternalId=ext"), "{body}");
    let asked = look.provider.asked();
    let authorization = asked[0].header("authorization").unwrap();
    assert!(authorization.contains("Credential=BASE/20260101/eu-1/sts/"), "{authorization}");
}

#[test]
fn roles_may_lead_to_roles_but_not_in_a_circle() {
    let config = "[profile a]\nrole_arn=A\nsource_profile=b\n[profile b]\nrole_arn=B\nsource_profile=b\n";
    let around = files(config, "[b]\naws_access_key_id=BASE\naws_secret_access_key=S").variable("AWS_PROFILE", "a");
    let look = Look::new(around).provider([assumed("AssumeRole", "ONE"), assumed("AssumeRole", "TWO")]);
    assert_eq!(look.found().access_key_id, "TWO");
    assert!(look.provider.asked()[1].header("authorization").unwrap().contains("Credential=ONE/"));

    let config = "[profile a]\nrole_arn=A\nsource_profile=b\n[profile b]\nrole_arn=B\nsource_profile=a\n";
    let error = Look::new(files(config, "").variable("AWS_PROFILE", "a")).error();
    assert!(error.contains("a -> b -> a"), "{error}");
}

#[test]
fn what_is_not_supported_or_incomplete_is_named() {
    for (settings, expected) in [
        ("credential_process=x", "programs that print credentials"),
        ("sso_session=x", "single sign-on"),
        ("role_arn=A\nmfa_serial=x\nsource_profile=p", "second factor"),
        ("role_arn=A", "one of source_profile"),
        ("role_arn=A\nsource_profile=nobody", "no such profile"),
        ("role_arn=A\ncredential_source=Magic", "Magic"),
        ("role_arn=A\ncredential_source=Environment", "AWS_ACCESS_KEY_ID is not set"),
    ] {
        let config = format!("[profile p]\n{settings}");
        let error = Look::new(files(&config, "").variable("AWS_PROFILE", "p")).error();
        assert!(error.contains(expected), "{settings}: {error}");
    }
}

#[test]
fn a_container_is_asked_at_its_endpoint_with_its_token() {
    let around = Around::default()
        .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials")
        .variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/token")
        .file("/token", "the token\n");
    let look = Look::new(around.clone()).metadata([answer(500, ""), answer(200, JSON)]);
    assert_eq!(look.found().access_key_id, "FROM-JSON");
    let asked = &look.metadata.asked()[1];
    assert_eq!(asked.line, "GET http://169.254.170.23/v1/credentials");
    assert_eq!(asked.header("authorization"), Some("the token"));

    let error = Look::new(around.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.0.0.1/")).error();
    assert!(error.contains("without TLS"), "{error}");
    let around = Around::default().variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x");
    let error = Look::new(around).metadata([answer(404, "")]).error();
    assert!(error.contains("http://169.254.170.2/v2/x") && error.contains("404"), "{error}");
}

#[test]
fn a_web_identity_is_asked_for_without_a_signature() {
    let around = Around::default()
        .variable("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
        .variable("AWS_ROLE_ARN", "arn:r")
        .variable("AWS_ROLE_SESSION_NAME", "me")
        .file("/token", "ey.J.x\n");
    let look = Look::new(around.clone()).provider([assumed("AssumeRoleWithWebIdentity", "POD")]);
    assert_eq!(look.found().access_key_id, "POD");
    let asked = &look.provider.asked()[0];
    assert_eq!(asked.header("authorization"), None);
    assert!(asked.body.ends_with("&RoleArn=arn%3Ar&RoleSessionName=me&WebIdentityToken=ey.J.x"), "{}", asked.body);

    let refused =
        "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>no</Message></Error></ErrorResponse>";
    let error = Look::new(around.clone()).provider([answer(400, refused)]).error();
    assert!(error.contains("InvalidIdentityToken") && !error.contains("ey.J.x"), "{error}");
    let error = Look::new(around.variable("AWS_WEB_IDENTITY_TOKEN_FILE", "/none")).error();
    assert!(error.contains("/none"), "{error}");
}

#[test]
fn a_machine_is_asked_for_a_token_first() {
    let around = || Around::default().variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9/");
    let look = Look::new(around()).metadata([answer(200, "TOKEN"), answer(200, "my-role\n"), answer(200, JSON)]);
    assert_eq!(look.found().access_key_id, "FROM-JSON");
    let asked = look.metadata.asked();
    let lines: Vec<_> = asked.iter().map(|asked| asked.line.as_str()).collect();
    let path = "http://127.0.0.1:9/latest/meta-data/iam/security-credentials/";
    assert_eq!(
        lines,
        ["PUT http://127.0.0.1:9/latest/api/token", &format!("GET {path}"), &format!("GET {path}my-role")]
    );
    assert!(asked[1..].iter().all(|asked| asked.header("x-aws-ec2-metadata-token") == Some("TOKEN")));

    let error = Look::new(around()).metadata([answer(200, "TOKEN"), answer(404, "")]).error();
    assert!(error.contains("the machine has no role"), "{error}");
    let error = Look::new(around()).metadata([Err(NoAnswer::TimedOut), Err(NoAnswer::TimedOut)]).error();
    assert!(error.contains("it does not answer"), "{error}");
    let failed = r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"the words"}"#;
    let error = Look::new(around()).metadata([answer(200, "T"), answer(200, "r"), answer(200, failed)]).error();
    assert!(error.contains("the words") && error.contains("role r"), "{error}");
    for bad in ["", "{", "{}", r#"{"AccessKeyId":"A","SecretAccessKey":"hush","Expiration":"soon"}"#] {
        let error = Look::new(around()).metadata([answer(200, "T"), answer(200, "r"), answer(200, bad)]).error();
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn they_are_replaced_before_they_expire_and_held_until_then() {
    let around = Around::default().variable("AWS_WEB_IDENTITY_TOKEN_FILE", "/t").variable("AWS_ROLE_ARN", "r");
    let around = around.file("/t", "x").variable("AWS_EC2_METADATA_DISABLED", "true");
    let give = |id| assumed("AssumeRoleWithWebIdentity", id);
    let provider = Script::new([give("ONE"), give("TWO"), answer(400, ""), answer(400, "")]);
    let (metadata, cache) = (Script::default(), Cache::default());
    let clock = Jumping::at(NOW);
    let get = |skew| {
        let patience = Patience::on(&clock, LIMIT);
        cache.get(&Sources {
            around: &around,
            metadata: &metadata,
            provider: &provider,
            sts: "https://sts",
            region: "eu-1",
            profile: None,
            patience: &patience,
            skew,
        })
    };
    assert_eq!(get(0).unwrap().access_key_id, "ONE");
    clock.advance(Duration::from_secs(3000));
    assert_eq!(get(0).unwrap().access_key_id, "ONE");
    // The provider's clock counts, not this machine's.
    assert_eq!(get(-1000).unwrap().access_key_id, "ONE");
    assert_eq!(provider.asked().len(), 1);
    clock.advance(Duration::from_secs(301));
    assert_eq!(get(0).unwrap().access_key_id, "TWO");
    // As long as the old ones are good, they do when there are no new ones.
    assert_eq!(get(0).unwrap().access_key_id, "TWO");
    clock.advance(Duration::from_secs(299));
    assert!(get(0).unwrap_err().to_string().contains("status 400"));
}

#[test]
fn what_was_rejected_is_not_held() {
    let cache = Cache::default();
    let [one, two] = ["ONE", "TWO"].map(|id| AwsCredentials::new(id, Secret::new("s")));
    *cache.held.lock() = Some(two.clone());
    cache.rejected(&one);
    assert!(cache.held.lock().is_some(), "somebody else has replaced them");
    cache.rejected(&two);
    assert!(cache.held.lock().is_none());
}

#[test]
fn a1_nothing_of_them_is_shown_but_the_end_of_the_id() {
    let credentials =
        AwsCredentials::new("AKIAEXAMPLE1234", Secret::new("hush")).with_session_token(Secret::new("hush"));
    let shown = format!("{credentials:?}");
    assert!(shown.contains("...1234") && !shown.contains("hush") && !shown.contains("EXAMPLE"), "{shown}");
    assert!(!format!("{:?}", AwsCredentials::new("é", Secret::new("hush"))).contains("hush"));
}
