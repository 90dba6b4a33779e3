//! The endpoint that ECS and EKS give to a container ("Container credential provider" of the SDKs' reference guide).

use std::net::IpAddr;
use std::path::Path;

use super::super::error::AwsError;
use super::super::place::host_of;
use super::{Found, Sources, failed, of_json};

const OF_ECS: &str = "http://169.254.170.2";
/// Whom a token may be told without TLS: ECS, EKS.
const ALLOWED: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

pub(super) fn find(sources: &Sources<'_>) -> Result<Found, AwsError> {
    let variable = |name| sources.around.variable(name);
    let relative = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let uri = match (relative, variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
        (Some(relative), _) => format!("{OF_ECS}{relative}"),
        (None, Some(full)) if is_allowed(&full) => full,
        (None, Some(full)) => {
            return Err(failed(format!(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI is {full:?}: without TLS only this machine and the container's own \
                 services may be asked"
            )));
        }
        (None, None) => return Ok(Found::Nothing("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is not set".into())),
    };
    let token = match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => Some(sources.around.file(Path::new(&file)).map_err(|error| {
            failed(format!("the token for the container's credentials, {file}, cannot be read: {error}"))
        })?),
        None => variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    };
    let headers: Vec<_> = token.map(|token| ("authorization", token.trim().to_owned())).into_iter().collect();
    let found = sources.get(&uri, &headers).and_then(|answer| of_json(&answer.body));
    match found {
        Ok(credentials) => Ok(Found::Credentials(credentials.of(format!("container {uri}")))),
        Err(why) => {
            sources.patience.left(super::DOING)?;
            Err(failed(format!("the container's endpoint {uri} has none: {why}")))
        }
    }
}

fn is_allowed(uri: &str) -> bool {
    if uri.starts_with("https://") {
        return true;
    }
    let host = host_of(uri);
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    uri.starts_with("http://")
        && !host.contains('@')
        && (bare == "localhost"
            || ALLOWED.contains(&bare)
            || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
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
