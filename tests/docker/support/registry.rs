//! A registry with one image, on loopback, where engines take one without TLS.
//!
//! The API is that of the OCI distribution specification, as far as a pull needs it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use super::images::{Context, archive};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

pub(crate) struct Registry {
    address: String,
    served: Arc<Served>,
}

struct Served {
    /// What a client must say to be let in, as the header `Authorization` has it.
    authorization: Option<&'static str>,
    manifest: Vec<u8>,
    /// By digest.
    blobs: Vec<(String, Vec<u8>)>,
    /// How often somebody has asked what the tag stands for, and was told.
    asked: AtomicUsize,
    /// How many requests had the header `Authorization`.
    authorized: AtomicUsize,
}

impl Registry {
    /// Has an image with our agent, for everybody.
    pub(crate) fn start() -> Self {
        Self::with(None)
    }

    /// The same for `user` with the password `pass word` alone.
    pub(crate) fn for_user() -> Self {
        Self::with(Some("Basic dXNlcjpwYXNzIHdvcmQ="))
    }

    fn with(authorization: Option<&'static str>) -> Self {
        let layer = archive(&Context::agent("pulled").path().join("root"));
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            // The address makes it an image like no other.
            "config": { "Cmd": ["/bin/agent", "/work"], "Env": ["PATH=/bin"], "WorkingDir": "/work",
                "Labels": { "test": address } },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        let config = config.to_string().into_bytes();
        let described =
            |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "size": bytes.len(), "digest": digest(bytes) });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described("application/vnd.docker.container.image.v1+json", &config),
            "layers": [described("application/vnd.docker.image.rootfs.diff.tar", &layer)],
        });
        let blobs = [config, layer].map(|bytes| (digest(&bytes), bytes)).into();
        let manifest = manifest.to_string().into_bytes();
        let served = Arc::new(Served {
            authorization,
            manifest,
            blobs,
            asked: AtomicUsize::new(0),
            authorized: AtomicUsize::new(0),
        });
        let serving = served.clone();
        thread::spawn(move || {
            // Until the test program ends.
            for stream in listener.incoming().flatten() {
                let served = serving.clone();
                thread::spawn(move || served.answer(&stream));
            }
        });
        Self { address, served }
    }

    /// The image, as a client names it.
    pub(crate) fn image(&self) -> String {
        format!("{}/latent/worker:1", self.address)
    }

    /// The host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How many requests had the header `Authorization`.
    pub(crate) fn authorized(&self) -> usize {
        self.served.authorized.load(Ordering::Relaxed)
    }

    /// How often the image was looked for here.
    pub(crate) fn asked(&self) -> usize {
        self.served.asked.load(Ordering::Relaxed)
    }
}

impl Served {
    /// Answers one request; a client that begins with TLS learns that this is none.
    fn answer(&self, stream: &TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let request = lines.next()?;
        let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let said = headers.iter().filter_map(|line| line.split_once(": "));
        if said.clone().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            self.authorized.fetch_add(1, Ordering::Relaxed);
        }
        let allowed = self.authorization.is_none_or(|wanted| {
            said.clone().any(|(name, value)| name.eq_ignore_ascii_case("authorization") && value == wanted)
        });
        let path = request.split(' ').nth(1)?;
        let (status, kind, body) = match path.rsplit('/').next()? {
            _ if !allowed => ("401 Unauthorized", "application/json", &b"{}"[..]),
            _ if path == "/v2/" => ("200 OK", "application/json", &b"{}"[..]),
            _ if path.contains("/manifests/") => ("200 OK", MANIFEST, &self.manifest[..]),
            digest => match self.blobs.iter().find(|(known, _)| known == digest) {
                Some((_, blob)) => ("200 OK", "application/octet-stream", &blob[..]),
                None => ("404 Not Found", "application/json", &b"{}"[..]),
            },
        };
        if allowed && path.ends_with("/manifests/1") {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        let mut head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        head += "Docker-Distribution-Api-Version: registry/2.0\r\nConnection: close\r\n";
        if !allowed {
            head += "WWW-Authenticate: Basic realm=\"test\"\r\n";
        }
        if kind == MANIFEST {
            head += &format!("Docker-Content-Digest: {}\r\n", digest(body));
        }
        let mut stream = stream;
        stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        if request.starts_with("GET ") { stream.write_all(body).ok() } else { Some(()) }
    }
}

/// `sha256:` and the digits.
fn digest(bytes: &[u8]) -> String {
    let mut program = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    program.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = program.wait_with_output().unwrap();
    format!("sha256:{}", std::str::from_utf8(&output.stdout).unwrap().split(' ').next().unwrap())
}
