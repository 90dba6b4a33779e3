//! The provider as the tests see it: a client of its API that has nothing in common with that of the driver. It makes images
//! and keys, looks for what is left, and does to machines what a person at the console would.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use super::moto::{Moto, rest};

/// One account in one region.
#[derive(Clone, Debug)]
pub(crate) struct Cloud {
    pub(crate) address: SocketAddr,
    pub(crate) account: u64,
    pub(crate) region: &'static str,
}

/// By which moto knows the account; signatures say nothing there.
pub(crate) const ACCOUNT: &str = "x-moto-account-id";

/// A machine, whatever its state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) xml: String,
}

impl Cloud {
    /// An account that nobody else uses.
    pub(crate) fn new() -> Self {
        let moto = Moto::shared();
        Self { address: moto.address, account: moto.account(), region: "eu-west-1" }
    }

    /// Sends a request that is signed by nobody, and reads the body of its answer.
    pub(crate) fn try_ask(&self, service: &str, headers: &str, body: &str) -> (u16, String) {
        let Self { region, account, .. } = self;
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(
            stream,
            "POST / HTTP/1.0\r\nHost: {service}.{region}.amazonaws.com\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential=test/20260101/{region}/{service}/aws4_request, SignedHeaders=host, Signature=0\r\n{ACCOUNT}: {account}\r\n\
             {headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let answer = rest(&mut stream);
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    pub(crate) fn try_ec2(&self, action: &str, parameters: &[(&str, &str)]) -> (u16, String) {
        let mut body = format!("Action={action}&Version=2016-11-15");
        parameters.iter().for_each(|(name, value)| body.push_str(&format!("&{name}={}", encoded(value))));
        self.try_ask("ec2", "Content-Type: application/x-www-form-urlencoded\r\n", &body)
    }

    pub(crate) fn ec2(&self, action: &str, parameters: &[(&str, &str)]) -> String {
        let (status, body) = self.try_ec2(action, parameters);
        assert!(status < 300, "{action}: {status} {body}");
        body
    }

    /// Of Systems Manager.
    pub(crate) fn try_ssm(&self, action: &str, body: &serde_json::Value) -> (u16, String) {
        let headers = format!("X-Amz-Target: AmazonSSM.{action}\r\nContent-Type: application/x-amz-json-1.1\r\n");
        self.try_ask("ssm", &headers, &body.to_string())
    }

    pub(crate) fn parameters(&self) -> Vec<String> {
        let (status, body) = self.try_ssm("DescribeParameters", &serde_json::json!({}));
        assert_eq!(status, 200, "{body}");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        body["Parameters"].as_array().unwrap().iter().map(|one| one["Name"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn image(&self, name: &str) -> String {
        let image = self.ec2("RegisterImage", &[("Name", name), ("Architecture", "x86_64")]);
        between(&image, "imageId").expect("the image has an id").to_owned()
    }

    /// All machines that there are or were.
    pub(crate) fn all_machines(&self) -> Vec<Machine> {
        let mut machines = Vec::new();
        let mut token = String::new();
        loop {
            let page = [("MaxResults", "1000"), ("NextToken", token.as_str())];
            let listed = self.ec2("DescribeInstances", &page[..if token.is_empty() { 1 } else { 2 }]);
            machines.extend(machines_in(&listed));
            match between(&listed, "nextToken") {
                Some(next) if !next.is_empty() => token = next.to_owned(),
                _ => return machines,
            }
        }
    }

    /// Those that cost something.
    pub(crate) fn machines(&self) -> Vec<Machine> {
        let mut machines = self.all_machines();
        machines.retain(|machine| machine.state != "terminated");
        machines
    }

    pub(crate) fn machine(&self, id: &str) -> Machine {
        self.all_machines().into_iter().find(|machine| machine.id == id).expect("it is known")
    }

    pub(crate) fn terminate(&self, id: &str) {
        self.try_ec2("TerminateInstances", &[("InstanceId.1", id)]);
    }

    /// In base 64.
    pub(crate) fn user_data(&self, id: &str) -> String {
        let attribute = [("InstanceId", id), ("Attribute", "userData")];
        let answer = self.ec2("DescribeInstanceAttribute", &attribute);
        let data = answer.split_once("<userData>").and_then(|(_, rest)| between(rest, "value"));
        data.unwrap_or_default().to_owned()
    }
}

/// The machines of an answer; one reservation has one machine here.
pub(crate) fn machines_in(listed: &str) -> Vec<Machine> {
    listed
        .split("<reservationId>")
        .skip(1)
        .filter_map(|xml| {
            let id = between(xml, "instanceId")?.to_owned();
            let state = between(xml.split_once("<instanceState>")?.1, "name")?.to_owned();
            let tags = xml.split_once("<tagSet>").map_or("", |(_, tags)| tags.split("</tagSet>").next().unwrap_or(""));
            let tags = tags.split("<item>").skip(1);
            let tags =
                tags.filter_map(|tag| Some((between(tag, "key")?.to_owned(), between(tag, "value")?.to_owned())));
            Some(Machine { id, state, tags: tags.collect(), xml: xml.to_owned() })
        })
        .collect()
}

/// What stands in the first element of this name.
pub(crate) fn between<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The parameters of a body.
pub(crate) fn decoded(body: &str) -> BTreeMap<String, String> {
    let text = |encoded: &str| {
        let mut bytes = Vec::new();
        let mut rest = encoded.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let digits: String = rest.by_ref().take(2).map(char::from).collect();
                    u8::from_str_radix(&digits, 16).unwrap_or(b'?')
                }
                byte => byte,
            });
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    body.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (text(name), text(value))).collect()
}
