//! Images: looked at, pulled, built.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;

use super::http::{Answer, Body, Request, invalid_json, percent_encoded};
use super::progress::{Message, Progress};
use super::registry::with_registry;
use super::{BuildContext, Engine, EngineError, Keyring, Patience, null_is_default};

/// The longest message of a stream that is accepted.
const MESSAGE_LIMIT: usize = 1 << 20;

/// What is known of an image on the engine's machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Image {
    /// `sha256:...`; Podman leaves the algorithm out.
    pub(crate) id: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) os: String,
    /// In Go's words: `amd64`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) architecture: String,
    /// Of the architecture, such as `v8`; mostly empty.
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) variant: String,
}

/// What is pulled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pull<'a> {
    /// Without a tag or a digest, `latest`.
    pub(crate) reference: &'a str,
    /// `os[/architecture[/variant]]`.
    pub(crate) platform: Option<&'a str>,
    /// Only the credentials for the registry of the image are sent.
    pub(crate) credentials: &'a Keyring,
}

/// What is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageBuild<'a> {
    pub(crate) context: BuildContext<'a>,
    /// What the image is called then.
    pub(crate) reference: &'a str,
    pub(crate) platform: Option<&'a str>,
    /// `ARG`s. Everybody who can see the image can see them.
    pub(crate) arguments: &'a [(&'a str, &'a str)],
    pub(crate) labels: &'a [(&'a str, &'a str)],
    /// The credentials for the registries of the images that the recipe starts from.
    pub(crate) credentials: &'a Keyring,
}

impl Engine {
    /// The image on the engine's machine, or none. A reference that makes no sense [says so](EngineError::is_bad_parameter).
    /// Where one name may stand for images of several platforms, the one for this platform, `os[/architecture[/variant]]`.
    pub(crate) fn image(
        &self,
        reference: &str,
        platform: Option<&str>,
        patience: Patience<'_>,
    ) -> Result<Option<Image>, EngineError> {
        let doing = format!("inspect image {reference}");
        check_reference(reference, &doing)?;
        let path = format!("/images/{}/json", percent_encoded(reference, "/:@"));
        let platform = match platform {
            Some(platform) if self.knows_platforms_of_images(patience)? => oci_platform(platform),
            _ => None,
        };
        let ask = || {
            let request = Request::get(path.clone(), doing.clone());
            self.call(request.query_if("platform", platform.as_deref()), patience)
        };
        // Podman cannot look at one image while it removes another one, and answers when it is asked again.
        let answer = ask().or_else(|error| if error.status() == Some(500) { ask() } else { Err(error) });
        match answer {
            Ok(answer) => answer.json().map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pulls an image, also one that is there (a newer one may be in the registry). `progress` gets a line a second, and
    /// a few more at the beginning and the end.
    pub(crate) fn pull(
        &self,
        pull: &Pull<'_>,
        progress: &mut dyn FnMut(&str),
        patience: Patience<'_>,
    ) -> Result<(), EngineError> {
        let doing = format!("pull image {}", pull.reference);
        check_reference(pull.reference, &doing)?;
        let (name, tag) = name_and_tag(pull.reference);
        let auth = pull.credentials.pull_header(name);
        // Podman may resolve a name without a registry to any registry that it is configured to search.
        let name = if auth.is_some() { with_registry(name) } else { name.into() };
        let request = Request::post("/images/create", doing)
            .query("fromImage", &name)
            .query("tag", tag)
            .query_if("platform", pull.platform);
        let secret_header = auth.map(|value| ("x-registry-auth", value));
        stream(self.call(Request { secret_header, ..request }, patience)?, progress)
    }

    /// Builds an image. `log` gets every line of the log, without its end.
    pub(crate) fn build(
        &self,
        build: &ImageBuild<'_>,
        log: &mut dyn FnMut(&str),
        patience: Patience<'_>,
    ) -> Result<(), EngineError> {
        let doing = format!("build image {}", build.reference);
        check_reference(build.reference, &doing)?;
        let mut context = build.context.open()?;
        let json = |pairs: &[(&str, &str)]| serde_json::json!(pairs.iter().copied().collect::<BTreeMap<_, _>>());
        let request = Request::post("/build", doing)
            .query("t", build.reference)
            .query("dockerfile", build.context.dockerfile())
            .query("buildargs", &json(build.arguments).to_string())
            .query("labels", &json(build.labels).to_string())
            // Containers of steps are removed, also after a failure.
            .query("rm", "1")
            .query("forcerm", "1")
            .query_if("platform", build.platform);
        // The context can be sent only once, so the version must be right.
        self.agree(patience)?;
        let secret_header = build.credentials.build_header().map(|value| ("x-registry-config", value));
        let result = self.call(Request { body: Body::Tar(&mut context), secret_header, ..request }, patience);
        // What is wrong with the files ends the request in some way or other.
        match context.trouble() {
            Some(trouble) => Err(trouble),
            None => stream(result?, log),
        }
    }
}

/// Messages until the end. That a pull or a build has failed is told by one of them.
fn stream(mut answer: Answer, say: &mut dyn FnMut(&str)) -> Result<(), EngineError> {
    let mut progress = Progress::default();
    let mut lines = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    let mut failed = None;
    loop {
        let count = answer.read(&mut buffer)?;
        lines.extend_from_slice(&buffer[..count]);
        if count == 0 {
            // What is last may have no end of line.
            lines.push(b'\n');
        }
        let mut begin = 0;
        while let Some(length) = lines[begin..].iter().position(|byte| *byte == b'\n') {
            let line = lines[begin..begin + length].trim_ascii();
            begin += length + 1;
            if line.is_empty() {
                continue;
            }
            let message: Message =
                serde_json::from_slice(line).map_err(|error| answer.malformed(invalid_json(&error)))?;
            if message.is_error() {
                failed = message.into_error();
            } else {
                progress.message(&message, Instant::now(), say);
            }
        }
        lines.drain(..begin);
        if lines.len() > MESSAGE_LIMIT {
            return Err(answer.malformed("a message of it has no end"));
        }
        if count == 0 {
            progress.finish(say);
            return failed.map_or(Ok(()), |message| Err(answer.reported(message)));
        }
    }
}

/// Rejects a name that would change the path of the request, or in which an engine could find another registry. The
/// engine checks the rest of the name.
fn check_reference(reference: &str, doing: &str) -> Result<(), EngineError> {
    let is_path = !reference.split('/').any(|part| matches!(part, "" | "." | ".."));
    let plain = reference.chars().all(|character| character.is_ascii_graphic());
    let (_, tag) = name_and_tag(reference);
    if is_path && plain && !reference.contains(['?', '#', '%', '\\']) && !tag.contains(['/', '@']) {
        return Ok(());
    }
    let message = format!("invalid image name {reference:?}: use [registry/]name[:tag] or [registry/]name@digest");
    Err(EngineError::BadParameter { doing: doing.into(), message })
}

/// In JSON, as the engine's API has it (1.49, "Inspect an image"); none without an architecture, which it insists on.
fn oci_platform(platform: &str) -> Option<String> {
    let mut parts = platform.split('/').map(str::to_lowercase);
    let (os, architecture) = (parts.next()?, parts.next()?);
    let mut json = serde_json::json!({ "os": os, "architecture": architecture });
    if let Some(variant) = parts.next() {
        json["variant"] = variant.into();
    }
    Some(json.to_string())
}

/// A digest wins over a tag, and without either it is `latest`: an engine would pull all tags.
fn name_and_tag(reference: &str) -> (&str, &str) {
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    // A colon before the last slash is that of a port.
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last..].find(':') {
        Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
        None => (rest, None),
    };
    (name, digest.or(tag).unwrap_or("latest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_a_name_and_a_tag_or_a_digest() {
        for (reference, name, tag) in [
            ("rust", "rust", "latest"),
            ("rust:1.90", "rust", "1.90"),
            ("localhost:5000/rust", "localhost:5000/rust", "latest"),
            ("localhost:5000/a/rust:1", "localhost:5000/a/rust", "1"),
            ("rust@sha256:01", "rust", "sha256:01"),
            ("h:5/rust:1@sha256:01", "h:5/rust", "sha256:01"),
        ] {
            assert_eq!(name_and_tag(reference), (name, tag), "{reference}");
        }
    }

    #[test]
    fn what_would_be_another_path_is_no_reference() {
        for good in ["rust", "localhost:5000/a/rust:1@sha256:01", "UPPER", "a..b"] {
            check_reference(good, "x").unwrap();
        }
        for bad in [
            "docker.io@evil.example/x",
            "a@b@c",
            "",
            "/a",
            "a/",
            "a//b",
            "../containers",
            "a/./b",
            "a?b",
            "a b",
            "a\n",
            "a%2e",
            "é",
        ] {
            assert!(check_reference(bad, "x").unwrap_err().is_bad_parameter(), "{bad}");
        }
    }
}
