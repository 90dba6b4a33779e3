//! Values that cannot be meant are refused where they are read, without being shown, and no other source is used.

use super::*;
use crate::secrecy::{assert_reveals_nothing, damaged, shown};

/// It would be a broken request otherwise, which is tried again and again, and reported as trouble of the network.
#[test]
fn a1_a_variable_that_cannot_be_meant_is_told_by_its_name_alone() {
    let good = |name: &str| {
        let around = match name {
            "AWS_ROLE_ARN" | "AWS_WEB_IDENTITY_TOKEN_FILE" | "AWS_ROLE_SESSION_NAME" => nowhere()
                .variable("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")
                .variable("AWS_ROLE_ARN", "arn:ci")
                .file("/t", "t"),
            name if name.starts_with("AWS_CONTAINER") => {
                nowhere().variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost/x")
            }
            name if name.starts_with("AWS_EC2") => nowhere(),
            name if name.contains("PROFILE") || name.ends_with("_FILE") => nowhere(),
            _ => with_key(nowhere()).variable("AWS_SESSION_TOKEN", "token"),
        };
        around.variable(name, "good")
    };
    let mut names = vec!["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN"];
    names.extend(["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]);
    names.extend(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"]);
    names.extend(["AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"]);
    names.extend(["AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_SESSION_NAME"]);
    names.extend(["AWS_EC2_METADATA_DISABLED", "AWS_EC2_METADATA_SERVICE_ENDPOINT"]);
    names.push("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE");
    for name in names {
        for damage in
            ["hush-hush\n", "hush-hush\r\n", " hush-hush", "hush-hush ", "hush\0hush", "\u{feff}hush-hush", "\n"]
        {
            let bench = Bench::new(good(name).variable(name, damage));
            let error = bench.error();
            assert!(error.contains(&format!("the environment variable {name} ")), "{name}: {error}");
            assert_reveals_nothing(&error, b"hush-hush");
            assert!(bench.asked_of_provider().is_empty() && bench.metadata.asked().is_empty(), "{name}");
            assert_eq!(bench.clock.passed(), Duration::ZERO);
        }
    }
    // Empty is as good as not set.
    let found = Bench::new(with_key(nowhere()).variable("AWS_PROFILE", "").variable("AWS_SESSION_TOKEN", "")).find();
    assert!(found.unwrap().session_token.is_none());
    let error = Bench::new(nowhere().variable("AWS_PROFILE", "one").variable("AWS_DEFAULT_PROFILE", "two")).error();
    assert!(error.contains("different profiles"), "{error}");
}

/// Whatever a service answers, and whatever is in a file.
#[test]
fn a1_credentials_that_cannot_be_sent_are_refused_without_being_shown() {
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    let mut random = fastrand::Rng::with_seed(13);
    let mut refused = 0;
    for _ in 0..300 {
        let mut damage = |text: &str| String::from_utf8_lossy(&damaged(text.as_bytes(), &mut random)).into_owned();
        let json = serde_json::json!({
            "Code": "Success", "AccessKeyId": "ID", "SecretAccessKey": SECRET, "Token": SECRET, "Expiration": IN_AN_HOUR,
        });
        let values = serde_json::json!({
            "AccessKeyId": "ID", "SecretAccessKey": damage(SECRET), "Token": damage(SECRET),
        });
        let service = || nowhere().variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x");
        let web = |token: &str| {
            let around = nowhere().variable("AWS_WEB_IDENTITY_TOKEN_FILE", "/t").variable("AWS_ROLE_ARN", "arn:ci");
            around.file("/t", token)
        };
        let sts = format!(
            "<X><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ID</AccessKeyId><SecretAccessKey>{SECRET}\
             </SecretAccessKey><SessionToken>{SECRET}</SessionToken><Expiration>{IN_AN_HOUR}</Expiration></Credentials>\
             </AssumeRoleWithWebIdentityResult></X>"
        );
        for bench in [
            Bench::new(service()).metadata([answer(200, &damage(&json.to_string()))]),
            Bench::new(service()).metadata([answer(200, &values.to_string())]),
            Bench::new(service().variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/t").file("/t", &damage(SECRET))),
            Bench::new(nowhere()).metadata([
                answer(200, &damage(SECRET)),
                answer(200, "r"),
                answer(200, &damage(SECRET)),
            ]),
            Bench::new(web(&damage(SECRET))).provider([answer(200, &damage(&sts))]),
            Bench::new(web("token")).provider([answer(400, &damage("<ErrorResponse/>"))]),
        ] {
            match bench.find() {
                Ok(found) => assert_reveals_nothing(&format!("{found:?}"), SECRET.as_bytes()),
                Err(error) => {
                    refused += 1;
                    assert_reveals_nothing(&shown(&error), SECRET.as_bytes());
                }
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn settings_that_cannot_be_sent_are_refused_when_the_driver_is_built() {
    let key = |id: &str, secret: &str| AwsCredentials::new(id, Secret::new(secret));
    let driver = || crate::Ec2LatentWorker::builder().launch_template("lt-1");
    for (credentials, what) in [
        (key("hush-id\n", "hush"), "the access key id contains a control character"),
        (key("", "hush"), "the access key id is empty"),
        (key("id", "hush-secret "), "the secret access key begins or ends with white space"),
        (key("id", "hush").with_session_token(Secret::new("hush-token\r\n")), "the session token contains a control"),
    ] {
        let error = driver().credentials(credentials).build().map(drop).unwrap_err().to_string();
        assert!(error.contains(what) && !error.contains("hush"), "{error}");
    }
    for (builder, what) in [
        (driver().region("eu-1\n"), "the setting `region`"),
        (driver().endpoint("http://h\n"), "the setting `endpoint`"),
        (driver().aws_profile(" p"), "the setting `aws_profile`"),
    ] {
        let error = builder.build().map(drop).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a1_a_token_in_place_of_its_file_is_not_shown() {
    let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJwb2QifQ";
    let web = nowhere().variable("AWS_WEB_IDENTITY_TOKEN_FILE", token).variable("AWS_ROLE_ARN", "arn:ci");
    let container = nowhere()
        .variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x")
        .variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token);
    for around in [web, container] {
        assert_reveals_nothing(&Bench::new(around).error(), token.as_bytes());
    }
}

#[test]
fn a_broken_file_is_not_skipped() {
    for text in ["aws_access_key_id = hush-hush", "[default\naws_access_key_id = hush-hush", "\u{feff}[default]"] {
        for around in [with_files(text, ""), with_files("", text)] {
            let bench = Bench::new(around).metadata(of_machine("MACHINE", IN_AN_HOUR));
            let error = bench.error();
            assert!(error.contains("/home/ci/.aws/c") && error.contains(", line 1: "), "{error}");
            assert!(bench.metadata.asked().is_empty());
            assert_reveals_nothing(&error, b"hush-hush");
        }
    }
}

#[test]
fn a_path_may_begin_with_the_home_directory() {
    let key = "[default]\naws_access_key_id=HOME\naws_secret_access_key=hush";
    let around = nowhere().file("/home/ci/keys", key);
    let found = Bench::new(around.clone().variable("AWS_SHARED_CREDENTIALS_FILE", "~/keys")).find().unwrap();
    assert_eq!(found.access_key_id, "HOME");
    for path in ["~other/keys", "$HOME/keys"] {
        let error = Bench::new(around.clone().variable("AWS_SHARED_CREDENTIALS_FILE", path)).error();
        assert!(error.contains("AWS_SHARED_CREDENTIALS_FILE"), "{error}");
    }
}
