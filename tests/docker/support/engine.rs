//! The engine as the tests see it: a client of its API that has nothing in common with that of the driver. It makes images,
//! looks for what is left, and does to containers what a person at a terminal would.
//!
//! Spoken is HTTP 1.0: the end of the connection is the end of the answer.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

/// The API as both engines speak it.
const VERSION: &str = "v1.40";

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Engine {
    /// As `DOCKER_HOST` has it.
    host: String,
}

/// What a list of containers says of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: String,
}

impl Engine {
    pub(crate) fn at(host: impl Into<String>) -> Self {
        Self { host: host.into() }
    }

    pub(crate) fn docker() -> Self {
        Self::named_by("TEST_DOCKER_HOST")
    }

    pub(crate) fn podman() -> Self {
        Self::named_by("TEST_PODMAN_HOST")
    }

    fn named_by(variable: &str) -> Self {
        Self::at(std::env::var(variable).unwrap_or_else(|_| panic!("{variable} says where it is, as DOCKER_HOST does")))
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Sends one request, and reads the status and the body of its answer.
    pub(crate) fn call(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let mut answer = Vec::new();
        let head = format!(
            "{method} /{VERSION}{path} HTTP/1.0\r\nHost: engine\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut exchange = |mut stream: Box<dyn Stream>| {
            stream.write_all(head.as_bytes())?;
            stream.write_all(body)?;
            stream.read_to_end(&mut answer)
        };
        if let Some(path) = self.host.strip_prefix("unix://") {
            exchange(Box::new(UnixStream::connect(path)?))?;
        } else if let Some(address) = self.host.strip_prefix("tcp://") {
            exchange(Box::new(TcpStream::connect(address)?))?;
        } else {
            panic!("{} is neither unix:// nor tcp://", self.host);
        }
        // `HTTP/1.0 200 OK`, headers, an empty line, the body.
        let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
        match (status, end) {
            (Some(status), Some(end)) => Ok((status, answer.split_off(end + 4))),
            _ => Err(io::Error::other("the answer is torn")),
        }
    }

    /// A request without a body, or with one of JSON, whose answer must be a good one.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let (status, answer) = self.call(method, path, "application/json", &bytes).unwrap();
        assert!(status < 400, "{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).unwrap_or_default()
    }

    pub(crate) fn answers(&self) -> bool {
        self.call("GET", "/_ping", "text/plain", b"").is_ok_and(|(status, _)| status == 200)
    }

    /// All containers with this label, in whatever state.
    pub(crate) fn labelled(&self, label: &str) -> Vec<Listed> {
        self.listed(&json!({ "label": [label] }))
    }

    /// All containers of this image, in whatever state.
    pub(crate) fn made_of(&self, image: &str) -> Vec<Listed> {
        self.listed(&json!({ "ancestor": [image] }))
    }

    fn listed(&self, filters: &Value) -> Vec<Listed> {
        let filters = percent_encoded(&filters.to_string());
        let listed = self.ask("GET", &format!("/containers/json?all=1&filters={filters}"), None);
        let text = |value: &Value| value.as_str().unwrap().trim_start_matches('/').to_owned();
        let containers = listed.as_array().unwrap().iter();
        let containers = containers.map(|container| Listed {
            id: text(&container["Id"]),
            name: text(&container["Names"][0]),
            state: text(&container["State"]),
        });
        containers.collect()
    }

    /// Unless it is gone.
    pub(crate) fn try_inspect(&self, container: &str) -> Option<Value> {
        let (status, body) = self.call("GET", &format!("/containers/{container}/json"), "text/plain", b"").unwrap();
        (status == 200).then(|| serde_json::from_slice(&body).unwrap())
    }

    pub(crate) fn inspect(&self, container: &str) -> Value {
        self.ask("GET", &format!("/containers/{container}/json"), None)
    }

    pub(crate) fn runs(&self, container: &str) -> bool {
        let (_, body) = self.call("GET", &format!("/containers/{container}/json"), "application/json", b"").unwrap();
        serde_json::from_slice::<Value>(&body).is_ok_and(|container| container["State"]["Running"] == true)
    }

    /// Creates a container and starts it.
    pub(crate) fn run(&self, name: &str, body: &Value) -> String {
        let created = self.ask("POST", &format!("/containers/create?name={name}"), Some(body));
        let id = created["Id"].as_str().unwrap().to_owned();
        self.ask("POST", &format!("/containers/{id}/start"), None);
        id
    }

    pub(crate) fn remove(&self, container: &str) {
        self.ask("DELETE", &format!("/containers/{container}?force=1&v=1"), None);
    }

    /// Whether it was there to be removed.
    pub(crate) fn try_remove(&self, container: &str) -> bool {
        let path = format!("/containers/{container}?force=1&v=1");
        self.call("DELETE", &path, "application/json", b"").is_ok_and(|(status, _)| status < 300)
    }

    pub(crate) fn kill(&self, container: &str) {
        self.ask("POST", &format!("/containers/{container}/kill"), None);
    }

    pub(crate) fn has_volume(&self, name: &str) -> bool {
        self.call("GET", &format!("/volumes/{name}"), "application/json", b"").unwrap().0 == 200
    }

    /// The id of an image, if it is there.
    pub(crate) fn image(&self, reference: &str) -> Option<String> {
        let (status, body) = self.call("GET", &format!("/images/{reference}/json"), "application/json", b"").unwrap();
        let image: Value = serde_json::from_slice(&body).unwrap_or_default();
        (status == 200).then(|| image["Id"].as_str().unwrap().to_owned())
    }

    /// Builds an image from a context, which is a tar archive. It has nothing in common with images of other tests, which
    /// are removed at the same time.
    pub(crate) fn build(&self, reference: &str, context: &[u8]) {
        let path = format!("/build?t={}&rm=1&forcerm=1&nocache=1", percent_encoded(reference));
        let (status, answer) = self.call("POST", &path, "application/x-tar", context).unwrap();
        let said = String::from_utf8_lossy(&answer);
        assert!(status == 200 && !said.contains("\"error\""), "{status} {said}");
    }

    pub(crate) fn rename_image(&self, reference: &str, repository: &str, tag: &str) {
        self.ask("POST", &format!("/images/{reference}/tag?repo={repository}&tag={tag}"), None);
        self.ask("DELETE", &format!("/images/{reference}"), None);
    }

    /// Whether it was there to be removed.
    pub(crate) fn try_remove_image(&self, reference: &str) -> bool {
        let path = format!("/images/{reference}?force=1");
        self.call("DELETE", &path, "application/json", b"").is_ok_and(|(status, _)| status < 300)
    }
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
