//! What a logger sees of calls to the provider, and of the search for credentials, when it is given everything.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::{AwsClient, AwsSettings, Patience, Query, Repeat};
use super::fake::{Request, said, server};
use crate::secrecy::{assert_reveals_nothing, log_of};

const SECRET_KEY: &str = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY";
const SESSION_TOKEN: &str = "QoJb3JpZ2luX2VjEPT";
const METADATA_TOKEN: &str = "AQAEAJkX8Vw5";
const WEB_TOKEN: &str = "eyJhbGciOiJub25lIn0";
const CONTAINER_TOKEN: &str = "eyJraWQiOiJwb2Q";
const CONTAINER_PATH: &str = "f47ac10b-58cc-4372";
const USER_DATA: &str = "IyEvYmluL3NoCnNlY3JldA";
const PARAMETER: &str = "vG4mTq81Zs";
const PROXY_PASSWORD: &str = "xK9wQz7Lp2Rt";
const SERVER: &str = "TEST_SERVER";

/// Everything that is asked for, from one address.
fn answer(request: &Request) -> (String, bool) {
    let key = format!(
        r#"{{"Code":"Success","AccessKeyId":"AKID","SecretAccessKey":"{SECRET_KEY}","Token":"{SESSION_TOKEN}"}}"#
    );
    let path = request.line.split(' ').nth(1).unwrap_or_default();
    let body = match path {
        // Everything behind the proxy is the same server.
        _ if request.line.starts_with("CONNECT") => String::new(),
        "/latest/api/token" => METADATA_TOKEN.into(),
        "/latest/meta-data/iam/security-credentials/" => "ci-role".into(),
        path if path.ends_with("ci-role") || path.contains(CONTAINER_PATH) => key,
        _ if request.header("x-amz-target").is_some() => format!(r#"{{"Parameter":{{"Value":"{PARAMETER}"}}}}"#),
        _ if request.body.contains("AssumeRole") => format!(
            "<X><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKID</AccessKeyId><SecretAccessKey>{SECRET_KEY}\
             </SecretAccessKey><SessionToken>{SESSION_TOKEN}</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration>\
             </Credentials></AssumeRoleWithWebIdentityResult></X>"
        ),
        _ => format!("<X><userData>{USER_DATA}</userData></X>"),
    };
    (said(200, "", &body), true)
}

fn work() {
    let endpoint = Some(std::env::var(SERVER).unwrap());
    let settings = AwsSettings { region: Some("eu-1".into()), endpoint, ..AwsSettings::default() };
    let client = AwsClient::new(settings).unwrap();
    let patience = Patience::limit(Duration::from_secs(600));
    let query = Query::new("RunInstances", Repeat::Harmless).with("UserData", USER_DATA);
    assert_eq!(client.ec2(&query, &patience).unwrap().text("userData"), Some(USER_DATA));
    let body = serde_json::json!({ "Name": "n", "Value": PARAMETER });
    let answer = client.ssm("PutParameter", Repeat::Harmless, &body, &patience).unwrap();
    assert_eq!(answer["Parameter"]["Value"], PARAMETER);
    log::debug!("{client:?}");
}

fn reveals_nothing(test: &str, variables: &[(&str, &str)], server: SocketAddr) {
    let server = format!("http://{server}");
    // Nothing of the machine that the test runs on, and no proxy but that of the test.
    let mut all = vec![(SERVER, server.as_str()), ("HOME", "/nonexistent"), ("NO_PROXY", "")];
    all.extend(["AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HTTP_PROXY"].map(|name| (name, "")));
    all.extend(variables);
    let name = format!("drivers::ec2::aws::tests::logged::{test}");
    let Some(log) = log_of(&name, &all, work) else { return };
    assert!(log.contains("TRACE ureq_proto") && log.contains("HTTP/1.1"), "{log}");
    for secret in [
        SECRET_KEY,
        SESSION_TOKEN,
        METADATA_TOKEN,
        WEB_TOKEN,
        CONTAINER_TOKEN,
        CONTAINER_PATH,
        USER_DATA,
        PARAMETER,
        PROXY_PASSWORD,
    ] {
        assert_reveals_nothing(&log, secret.as_bytes());
    }
}

#[test]
fn a1_no_secret_of_a_machine_is_in_the_log_at_trace() {
    let server = server(answer);
    let metadata = format!("http://{server}");
    let proxy = format!("http://robot:{PROXY_PASSWORD}@{server}");
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.as_str()), ("HTTP_PROXY", &proxy)];
    reveals_nothing("a1_no_secret_of_a_machine_is_in_the_log_at_trace", &variables, server);
}

#[test]
fn a1_no_secret_of_a_container_is_in_the_log_at_trace() {
    let server = server(answer);
    let uri = format!("http://{server}/v2/{CONTAINER_PATH}");
    let variables =
        [("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN)];
    reveals_nothing("a1_no_secret_of_a_container_is_in_the_log_at_trace", &variables, server);
}

#[test]
fn a1_no_secret_of_a_web_identity_is_in_the_log_at_trace() {
    let file = std::env::temp_dir().join(format!("latent-worker-web-token-{}", std::process::id()));
    std::fs::write(&file, WEB_TOKEN).unwrap();
    let path = file.to_str().unwrap().to_owned();
    let variables = [("AWS_WEB_IDENTITY_TOKEN_FILE", path.as_str()), ("AWS_ROLE_ARN", "arn:ci")];
    reveals_nothing("a1_no_secret_of_a_web_identity_is_in_the_log_at_trace", &variables, server(answer));
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a1_no_secret_of_the_environment_is_in_the_log_at_trace() {
    let variables =
        [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY), ("AWS_SESSION_TOKEN", SESSION_TOKEN)];
    reveals_nothing("a1_no_secret_of_the_environment_is_in_the_log_at_trace", &variables, server(answer));
}
