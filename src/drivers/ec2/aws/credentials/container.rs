//! The endpoint that ECS and EKS give to a container ("Container credential provider" of the SDKs' reference guide).

use std::net::IpAddr;
use std::path::Path;

use ureq::http::Uri;

use super::super::error::AwsError;
use super::metadata::NoMetadata;
use super::{Found, Sources, failed, of_json};

const OF_ECS: &str = "http://169.254.170.2";
/// Whom a token may be told without TLS: ECS, EKS.
const ALLOWED: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

pub(super) fn find(sources: &Sources<'_>) -> Result<Found, AwsError> {
    let relative = sources.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let uri = match (relative, sources.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
        (Some(relative), _) if relative.starts_with('/') => format!("{OF_ECS}{relative}"),
        (Some(relative), _) => {
            let what = format!("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is {relative:?}: a path begins with a slash");
            return Err(failed(what));
        }
        (None, Some(full)) if is_allowed(&full) => full,
        (None, Some(full)) => {
            return Err(failed(format!(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI is {full:?}: without TLS only this machine and the container's own \
                 services may be asked"
            )));
        }
        (None, None) => return Ok(Found::Nothing("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is not set".into())),
    };
    let token = match sources.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => Some(sources.metadata.around.file(Path::new(&file)).map_err(|error| {
            failed(format!("the token for the container's credentials, {file}, cannot be read: {error}"))
        })?),
        None => sources.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    };
    let headers: Vec<_> = token.map(|token| ("authorization", token.trim().to_owned())).into_iter().collect();
    let why = match sources.metadata.get(&uri, &headers) {
        Ok(answer) => match of_json(&answer) {
            Ok(credentials) => return Ok(Found::Credentials(credentials.of(format!("container {uri}")))),
            Err(why) => why,
        },
        Err(NoMetadata::Nothing(why)) => why,
        Err(NoMetadata::Ended(error)) => return Err(error),
    };
    Err(failed(format!("the container's endpoint {uri} has none: {why}")))
}

fn is_allowed(uri: &str) -> bool {
    let Ok(uri) = uri.parse::<Uri>() else { return false };
    let Some(host) = uri.host() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => {
            host == "localhost"
                || ALLOWED.contains(&host)
                || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn a_token_is_told_to_nobody_else() {
        for good in [
            "https://anywhere/x",
            "http://localhost/x",
            "http://127.0.0.1:80/x",
            "http://[::1]:80/x",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in
            ["http://10.0.0.1/x", "http://localhost.example.org/", "http://localhost@evil/", "ftp://localhost/", ""]
        {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
