//! What the account must allow: moto checks signatures and policies here.

use std::io::Write as _;
use std::net::TcpStream;

use latent_worker::{Ami, AwsCredentials, Build, Ec2LatentWorker, FailureCause, Offer, Secret, Worker};

use crate::support::cloud::{Cloud, between};
use crate::support::moto::{Moto, rest};
use crate::support::{Scene, TYPE, failed, quick, started, stop};

/// The account that moto has by default: keys of others are not known to what checks them.
const ACCOUNT: u64 = 123_456_789_012;

/// From now on so many requests are not checked.
fn unchecked(moto: &Moto, requests: u32) {
    let mut stream = TcpStream::connect(moto.address).unwrap();
    let body = requests.to_string();
    let head = "POST /moto-api/reset-auth HTTP/1.0\r\nContent-Type: text/plain\r\nContent-Length:";
    write!(stream, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
    let answer = rest(&mut stream);
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

fn iam(cloud: &Cloud, action: &str, parameters: &[(&str, &str)]) -> String {
    let mut body = format!("Action={action}&Version=2010-05-08");
    parameters.iter().for_each(|(name, value)| {
        body.push_str(&format!("&{name}={}", crate::support::cloud::encoded(value)));
    });
    let (status, answer) = cloud.try_ask("iam", "Content-Type: application/x-www-form-urlencoded\r\n", &body);
    assert_eq!(status, 200, "{answer}");
    answer
}

/// A user with a policy that allows these actions, and the key of that user.
fn user(cloud: &Cloud, name: &str, actions: &[String]) -> AwsCredentials {
    iam(cloud, "CreateUser", &[("UserName", name)]);
    let key = iam(cloud, "CreateAccessKey", &[("UserName", name)]);
    let statement = serde_json::json!({ "Effect": "Allow", "Action": actions, "Resource": "*" });
    let policy = serde_json::json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string();
    let parameters = [("UserName", name), ("PolicyName", "p"), ("PolicyDocument", &policy)];
    iam(cloud, "PutUserPolicy", &parameters);
    let text = |name| between(&key, name).unwrap().to_owned();
    AwsCredentials::new(text("AccessKeyId"), Secret::new(text("SecretAccessKey")))
}

/// The actions of the policy in the documentation. moto understands neither its resources nor its conditions.
fn documented() -> Vec<String> {
    let guide = include_str!("../../src/drivers/ec2/guide.md");
    let policy = guide.split_once("```json").and_then(|(_, rest)| rest.split_once("```")).expect("it has a policy").0;
    let policy: serde_json::Value = serde_json::from_str(policy).unwrap();
    let actions = policy["Statement"].as_array().unwrap().iter().map(|statement| &statement["Action"]);
    let texts = actions.flat_map(|action| match action {
        serde_json::Value::Array(list) => list.clone(),
        one => vec![one.clone()],
    });
    texts.map(|action| action.as_str().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn the_documented_policy_is_enough_and_what_is_not_allowed_is_told() {
    let moto = Moto::start();
    let cloud = Cloud { address: moto.address, account: ACCOUNT, region: "eu-west-1" };
    let scene = Scene::at(cloud.clone(), false);
    let documented = documented();
    let enough = user(&cloud, "enough", &documented);
    let without = |action: &str| documented.iter().filter(|its| *its != action).cloned().collect::<Vec<_>>();
    let no_launch = user(&cloud, "no-launch", &without("ec2:RunInstances"));
    let no_end = user(&cloud, "no-end", &without("ec2:TerminateInstances"));
    let driver = |credentials: AwsCredentials| -> Ec2LatentWorker {
        let builder = quick(Ec2LatentWorker::builder()).region(cloud.region).endpoint(scene.front.url());
        let builder = builder.image(Ami::id(&*scene.image)).offer(Offer::new(TYPE));
        builder.credentials(credentials).build().unwrap()
    };
    let cause = |worker: &Worker| failed(worker, &Build::new("b"));
    unchecked(&moto, 0);

    let worker = scene.worker("enough", driver(enough));
    let request = worker.substantiate(&Build::new("b"));
    started(&worker);
    drop(request);
    stop(&worker);
    assert_eq!(scene.master.leftovers(), []);

    let (its, reason) = cause(&scene.worker("no-launch", driver(no_launch)));
    assert_eq!(its, FailureCause::Credentials);
    assert!(reason.contains("RunInstances") && reason.contains("the policy must allow"), "{reason}");

    let wrong = AwsCredentials::new("AKIAWRONG", Secret::new("wrong"));
    let (its, reason) = cause(&scene.worker("wrong", driver(wrong)));
    assert_eq!(its, FailureCause::Credentials, "{reason}");

    // What could not be ended is on a list, and is ended when it is allowed.
    let worker = scene.worker("no-end", driver(no_end));
    let request = worker.substantiate(&Build::new("b"));
    started(&worker);
    drop(request);
    stop(&worker);
    let leftovers = scene.master.leftovers();
    let [left] = &leftovers[..] else { panic!("{leftovers:?}") };
    let reason = left.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("TerminateInstances") && reason.contains("the policy must allow"), "{left}");
    unchecked(&moto, 1_000_000);
    scene.finish_in_the_end();
}
