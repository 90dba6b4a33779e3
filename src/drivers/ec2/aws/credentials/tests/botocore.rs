//! The shared files, compared with what botocore makes of them.

use super::super::super::place::Region;
use super::super::super::surroundings::Surroundings;
use super::super::super::tests::botocore::botocore;
use super::*;
use crate::secrecy::damaged;

/// Reads a case a line, and prints what botocore found.
const BOTOCORE: &str = r#"
import json, os, sys, tempfile
home = tempfile.mkdtemp()
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ.update(HOME=home, AWS_EC2_METADATA_DISABLED="true")
os.mkdir(home + "/.aws")
import botocore.session
for line in sys.stdin:
    case = json.loads(line)
    for name in ("config", "credentials"):
        path = home + "/.aws/" + name
        if case[name] is None:
            if os.path.exists(path): os.remove(path)
        else:
            with open(path, "wb") as file: file.write(case[name].encode())
    os.environ.pop("AWS_PROFILE", None)
    if case["profile"]: os.environ["AWS_PROFILE"] = case["profile"]
    try:
        session = botocore.session.Session()
        region = session.get_config_variable("region")
        found = session.get_credentials()
        if found is None: found = "nothing"
        elif found.method.startswith("assume-role"): found = "role"
        elif found.method == "custom-process": found = "process"
        else:
            key = found.get_frozen_credentials()
            found = [key.access_key, key.secret_key, key.token or None]
    except Exception as error:
        found, region = "error", None
    print(json.dumps([found, region]))
"#;

/// What is found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Key {
        id: String,
        secret: String,
        token: Option<String>,
        region: Option<String>,
    },
    /// A role that is taken on.
    Role,
    /// A program that prints credentials.
    Process,
    /// The next source is asked.
    Nothing {
        region: Option<String>,
    },
    Error(String),
}

#[derive(Clone, Debug)]
struct Case {
    config: Option<String>,
    credentials: Option<String>,
    profile: Option<&'static str>,
}

impl Case {
    fn ours(&self) -> Outcome {
        let mut around = nowhere().variable("AWS_EC2_METADATA_DISABLED", "true");
        for (name, text) in [("config", &self.config), ("credentials", &self.credentials)] {
            around = text.iter().fold(around, |around, text| around.file(&format!("/home/ci/.aws/{name}"), text));
        }
        around = self.profile.into_iter().fold(around, |around, profile| around.variable("AWS_PROFILE", profile));
        let region = Region::known(None, None, &around as &dyn Surroundings);
        let bench = Bench::new(around).provider([of_sts("AssumeRole", "ROLE", IN_AN_HOUR)]);
        let region = match region {
            Ok(region) => region.map(|region| region.0),
            Err(why) => return Outcome::Error(why),
        };
        match bench.find() {
            Ok(found) if found.access_key_id == "ROLE" => Outcome::Role,
            Ok(found) => Outcome::Key {
                id: found.access_key_id,
                secret: found.secret_access_key.expose().into(),
                token: found.session_token.map(|token| token.expose().into()),
                region,
            },
            Err(error) if error.to_string().contains("there are none") => Outcome::Nothing { region },
            Err(error) => Outcome::Error(error.to_string()),
        }
    }
}

fn theirs(cases: &[Case]) -> Vec<Outcome> {
    let asked: String = cases
        .iter()
        .map(|case| {
            let Case { config, credentials, profile } = case;
            let json = serde_json::json!({ "config": config, "credentials": credentials, "profile": profile });
            format!("{json}\n")
        })
        .collect();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let outcome = |line: &str| {
        let [found, region] = serde_json::from_str::<[serde_json::Value; 2]>(line).unwrap();
        let region = text(&region).filter(|region| !region.is_empty());
        match found.as_str() {
            Some("nothing") => Outcome::Nothing { region },
            Some("role") => Outcome::Role,
            Some("process") => Outcome::Process,
            Some(_) => Outcome::Error(String::new()),
            None => Outcome::Key {
                id: text(&found[0]).unwrap_or_else(|| found[0].to_string()),
                secret: text(&found[1]).unwrap_or_else(|| found[1].to_string()),
                token: text(&found[2]),
                region,
            },
        }
    };
    let outcomes: Vec<_> = botocore(BOTOCORE, asked).lines().map(outcome).collect();
    assert_eq!(outcomes.len(), cases.len(), "botocore ended early");
    outcomes
}

const KEY: &str = "aws_access_key_id = ID\naws_secret_access_key = SECRET";

/// Files that mean the same to both; and those that are an error here and not there, because botocore skips or takes
/// literally what somebody meant otherwise.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Expected {
    Same,
    Stricter,
}
use Expected::{Same, Stricter};

/// A file for `credentials`, without a profile that is named.
fn credentials_files() -> Vec<(Expected, String)> {
    let with = |before: &str, after: &str| format!("{before}{KEY}{after}");
    let mut files = vec![
        (Same, String::new()),
        (Same, "\n\n# nothing\n".into()),
        (Same, with("[default]\n", "\n")),
        (Same, with("[default]\n", "")),
        (Same, with("[default]\n", "\naws_session_token = TOKEN")),
        (Same, with("[default]\n", "\naws_security_token = OLD\naws_session_token = NEW")),
        (Same, with("[default]\n", "\naws_session_token =")),
        (Same, with("[default]\r\n", "\r\n").replace("D\na", "D\r\na")),
        (Same, with("[default]\n", "\n").replace('\n', "\r")),
        (Same, with("  [default]\n  ", "").replace("\naws", "\n  aws")),
        (Same, with("\t[default]\n\t", "").replace("\naws", "\n\taws")),
        (Same, with("[default]\n  ", "").replace("\naws", "\n  aws")),
        (Same, with("[default]\n  ", "")),
        (Same, with("[default]\n", "").replace("\naws_secret", "\n  aws_secret")),
        (Same, with("[default]\n", "").replace(" = ", "=")),
        (Same, with("[default]\n", "").replace(" = ", "\t=\t")),
        (Same, with("[default]\n", "").replace(" = ", "   =   ") + "   "),
        (Same, with("[default]\n", "").replace(" = ", ": ")),
        (Same, with("[default]\n", "").replace(" = ", ":")),
        (Same, with("[default]\n", "").replace("aws_", "AWS_")),
        (Same, with("[default]\n", "").replace("aws_access_key_id", "Aws_Access_Key_Id")),
        (Same, with("# a comment\n[default]\n; another\n", "\n  # and one\n")),
        (Same, with("[default]\n#aws_access_key_id = NO\n", "")),
        (Same, with("[default] # a comment\n", "")),
        (Same, with("[default]\n", "+/=#;x")),
        (Same, with("[default]\n", "=a=b")),
        (Same, with("[default]\n", "\nother =\n  a = 1\n  b = 2\n")),
        (Same, with("[default]\nother =\n\n  a = 1\n", "")),
        (Same, with("[default]\n", "\n\n\n[other]\naws_access_key_id = NO\naws_secret_access_key = NO")),
        (Same, with("[other]\n", "")),
        (Same, with("[default]\nregion = eu-1\n", "")),
        (Same, "[default]\nregion = eu-1\n".into()),
        (Same, "[default]\n".into()),
        (Same, "[default]\naws_access_key_id = ID\n".into()),
        (Same, with("[größe]\n", "\n[default]\naws_access_key_id = X\naws_secret_access_key = Y")),
        (Same, with("[default]\n# größe\n", "\nother = größe")),
        (Same, with("[two words]\n", "\n[default]\naws_access_key_id = X\naws_secret_access_key = Y")),
        (Same, with("[sso-session x]\nregion = no\n[services y]\nec2 =\n  endpoint_url = http://h\n[default]\n", "")),
        // Errors for both.
        (Same, with("\u{feff}[default]\n", "")),
        (Same, KEY.into()),
        (Same, with("[default\n", "")),
        (Same, with("default]\n", "")),
        (Same, with("[default]\nnonsense\n", "")),
        (Same, with("[default]\n= x\n", "")),
        (Same, with("[default]\n", "\n[default]\nregion = x")),
        (Same, with("[default]\n", "\naws_access_key_id = OTHER")),
        (Same, with("[default]\n", "\nAWS_ACCESS_KEY_ID = OTHER")),
        (Same, with("[default]\n", "\n[other]\nnonsense")),
        (Same, with("[default]\nother =\n  nonsense\n", "")),
        (Same, with("[]\n", "")),
        (Same, "[default]\naws_access_key_id = ID\n  aws_secret_access_key = SECRET".into()),
        (Same, "[default]\naws_access_key_id =\n  aws_secret_access_key = SECRET".into()),
        // Errors here.
        (Stricter, with("[default]\n", " # a comment")),
        (Stricter, with("[default]\n", "\n  and more")),
        (Stricter, with("[default]\n", "").replace("SECRET", "\"SECRET\"")),
        (Stricter, with("[default]\n", "").replace("ID\n", "'ID'\n")),
        (Stricter, with("[default]\n", "").replace("aws_access_key_id", "\"aws_access_key_id\"")),
        (Stricter, with("[default]\n", "").replace("aws_access_key_id", "aws access key id")),
        (Stricter, with("[default]\n", "").replace("aws_access_key_id", "\u{200b}aws_access_key_id")),
        (Stricter, with("[default]\n", "").replace("= ID", "=")),
        (Stricter, with("[default]\n", "").replace("= SECRET", "=")),
        (Stricter, with("[default]\n", "").replace("SECRET", "GEHEIMNIß")),
        (Stricter, with("[default]\n", "").replace("SECRET", "SEC\0RET")),
        (Stricter, with("[default]\n", "").replace("SECRET", "SEC RET")),
        (Stricter, "[default]\naws_secret_access_key = SECRET".into()),
        (Stricter, with("[DEFAULT]\n", "")),
        (Stricter, with("[Default]\n", "")),
        (Stricter, with("[ default ]\n", "")),
        (Stricter, with("[\"default\"]\n", "")),
        (Stricter, with("[profile default]\n", "")),
        (Stricter, with("[default] ", "")),
    ];
    files.extend([(Same, with("\n\n\n   \n\t\n[default]\n\n\n", "\n\n\n"))]);
    files
}

fn cases() -> Vec<(Expected, Case)> {
    let mut cases: Vec<(Expected, Case)> = credentials_files()
        .into_iter()
        .map(|(expected, text)| (expected, Case { config: None, credentials: Some(text), profile: None }))
        .collect();
    let mut add = |expected, config: &str, credentials: &str, profile| {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        cases.push((expected, Case { config: given(config), credentials: given(credentials), profile }));
    };
    let key = |section: &str| format!("[{section}]\n{KEY}\n");
    for name in ["ci", "größe", "a-b_c.d@e", "two words"] {
        let name: &'static str = name;
        add(Same, "", &key(name), Some(name));
        add(Same, &format!("[profile \"{name}\"]\n{KEY}"), "", Some(name));
    }
    add(Same, &key("default"), "", None);
    add(Same, &key("profile default"), "", None);
    add(Same, &key("profile ci"), "", Some("ci"));
    add(Same, &key("profile   ci  "), "", Some("ci"));
    add(Same, &key("profile\tci"), "", Some("ci"));
    add(Same, &key("profile 'ci'"), "", Some("ci"));
    add(Same, &key("ci"), "", Some("ci"));
    add(Same, &key("ci"), "", None);
    add(Same, "", &key("ci"), Some("none"));
    add(Same, "", "", Some("none"));
    add(Same, "", "", None);
    add(Same, "[profile ci]\nregion = eu-1", "", Some("ci"));
    add(Same, "[profile ci]\nregion = eu-1", &key("ci"), Some("ci"));
    add(Same, "[default]\nregion = eu-1", &key("default"), None);
    add(Same, &key("default").replace("ID", "OTHER"), &key("default"), None);
    add(Same, "[default]\naws_access_key_id = OTHER", &key("default"), None);
    add(Same, &key("default"), "[default]\naws_access_key_id = OTHER", None);
    add(Same, "[default]\naws_session_token = NOT-THIS", &key("default"), None);
    add(Same, "[plugins]\nsome thing = x\n[preview]\nx = y\n[default]\nregion = eu-1", &key("default"), None);
    let role = "[profile ci]\nrole_arn = arn:aws:iam::123456789012:role/ci\nsource_profile = default\n";
    add(Same, role, &key("default"), Some("ci"));
    add(Same, &format!("{role}{}", key("default")), "", Some("ci"));
    add(Same, role, "", Some("ci"));
    add(Same, "[profile ci]\nrole_arn = arn:aws:iam::123456789012:role/ci\n", &key("default"), Some("ci"));
    add(Same, "[default]\nsso_session = missing\nsso_account_id = 1\nsso_role_name = x", "", None);
    add(Same, "nonsense", &key("default"), None);
    add(Same, &key("default"), "nonsense", None);
    add(Same, "\u{feff}[default]\nregion = x", &key("default"), None);
    // Errors here.
    add(
        Stricter,
        r#"[default]
credential_process = /bin/echo '{"Version": 1, "AccessKeyId": "X", "SecretAccessKey": "Y"}'"#,
        "",
        None,
    );
    add(Stricter, &key("profile default"), &key("profile ci"), None);
    add(Stricter, &format!("{}{}", key("default"), key("profile default")), "", None);
    add(Stricter, &key("profile a b"), "", None);
    add(Stricter, &key("profiles"), "", None);
    add(Stricter, &key("profile 'ci"), "", None);
    add(Stricter, "[default]\naws_secret_access_key = X", &key("ci"), None);
    cases
}

#[test]
#[ignore = "needs botocore (TEST_MOTO_PYTHON)"]
fn more_than_a_hundred_files_mean_what_they_mean_to_botocore() {
    let cases = cases();
    assert!(cases.len() > 100, "{}", cases.len());
    let all: Vec<Case> = cases.iter().map(|(_, case)| case.clone()).collect();
    let mut wrong = Vec::new();
    for ((expected, case), theirs) in cases.iter().zip(theirs(&all)) {
        let ours = case.ours();
        let good = match (&ours, &theirs, expected) {
            (Outcome::Error(_), Outcome::Error(_), Same) => true,
            (Outcome::Error(_), Outcome::Error(_), Stricter) => false,
            (Outcome::Error(_), _, Stricter) => true,
            (ours, theirs, Same) => ours == theirs,
            (_, _, Stricter) => false,
        };
        if !good {
            wrong.push(format!("{expected:?} {case:#?}\nours: {ours:?}\nbotocore: {theirs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n\n"));
}

/// Whatever the damage: no other key than botocore's, and no next source where botocore has a key or an error.
#[test]
#[ignore = "needs botocore (TEST_MOTO_PYTHON)"]
fn damaged_files_are_read_as_botocore_reads_them_or_refused() {
    let text = format!("# keys\n[default]\n{KEY}\naws_session_token = TOKEN\n\n[ci]\n{KEY}\nregion = eu-1\n");
    let mut random = fastrand::Rng::with_seed(1212);
    let mut damage = |text: &str| String::from_utf8_lossy(&damaged(text.as_bytes(), &mut random)).into_owned();
    let cases: Vec<Case> = (0..1_000)
        .map(|number| {
            let profile = (number % 3 == 0).then_some("ci");
            match number % 2 {
                0 => Case { config: None, credentials: Some(damage(&text)), profile },
                _ => Case { config: Some(damage(&text.replace("[ci]", "[profile ci]"))), credentials: None, profile },
            }
        })
        .collect();
    let mut refused = 0;
    for (case, theirs) in cases.iter().zip(theirs(&cases)) {
        match case.ours() {
            Outcome::Error(_) => refused += 1,
            ours => assert_eq!(ours, theirs, "{case:#?}"),
        }
    }
    assert!((100..900).contains(&refused), "{refused}");
}
