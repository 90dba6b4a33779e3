//! Roles that are taken on, through the provider's STS: with credentials, or with a token of somebody whom it trusts.

use std::path::Path;

use ureq::http::Method;

use super::super::element::Element;
use super::super::error::AwsError;
use super::super::http::Asking;
use super::super::place::{Service, host_of};
use super::super::query::{Query, Repeat};
use super::super::request::{FORM, signed, understood};
use super::super::time::Timestamp;
use super::{AwsCredentials, Found, Sources, failed};
use crate::Secret;

/// A role, and how it is taken on.
pub(super) struct Role<'a> {
    pub(super) arn: &'a str,
    pub(super) session: Option<&'a str>,
    pub(super) external_id: Option<&'a str>,
    pub(super) seconds: Option<&'a str>,
}

impl Role<'_> {
    fn query(&self, action: &'static str) -> Query {
        let query = Query::new(action, Repeat::Harmless)
            .with("RoleArn", self.arn)
            .with("RoleSessionName", self.session.unwrap_or("latent-worker"));
        let query = self.external_id.into_iter().fold(query, |query, id| query.with("ExternalId", id));
        self.seconds.into_iter().fold(query, |query, seconds| query.with("DurationSeconds", seconds))
    }
}

/// A role of a workload that has a token in a file: EKS gives one to each pod.
pub(super) fn find(sources: &Sources<'_>) -> Result<Found, AwsError> {
    let variable = |name| sources.around.variable(name);
    let (file, arn) = match (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN")) {
        (Some(file), Some(arn)) => (file, arn),
        (Some(_), None) => return Err(failed("AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN is not")),
        _ => return Ok(Found::Nothing("AWS_WEB_IDENTITY_TOKEN_FILE is not set".into())),
    };
    let session = variable("AWS_ROLE_SESSION_NAME");
    let role = Role { arn: &arn, session: session.as_deref(), external_id: None, seconds: None };
    assume_with_token(sources, &role, &file).map(Found::Credentials)
}

pub(super) fn assume_with_token(
    sources: &Sources<'_>,
    role: &Role<'_>,
    file: &str,
) -> Result<AwsCredentials, AwsError> {
    let token = sources.around.file(Path::new(file));
    let token =
        token.map_err(|error| failed(format!("the token of a web identity, {file}, cannot be read: {error}")))?;
    let query = role.query("AssumeRoleWithWebIdentity").with("WebIdentityToken", token.trim());
    ask(sources, &query, role, None)
}

pub(super) fn assume(
    sources: &Sources<'_>,
    role: &Role<'_>,
    source: &AwsCredentials,
) -> Result<AwsCredentials, AwsError> {
    ask(sources, &role.query("AssumeRole"), role, Some(source))
}

fn ask(
    sources: &Sources<'_>,
    query: &Query,
    role: &Role<'_>,
    signer: Option<&AwsCredentials>,
) -> Result<AwsCredentials, AwsError> {
    let body = query.body(Service::Sts.version());
    let mut headers = vec![("host", host_of(sources.sts).to_owned()), ("content-type", FORM.to_owned())];
    if let Some(signer) = signer {
        headers = signed(signer, Service::Sts, sources.region, sources.now(), headers, body.as_bytes());
    }
    let uri = format!("{}/", sources.sts);
    let asking = Asking { method: Method::POST, uri: &uri, headers: &headers, body: body.as_bytes() };
    let mut left_tries = 3;
    let answer = loop {
        left_tries -= 1;
        let left = sources.patience.left(query.action())?;
        let result = understood(query.action(), sources.provider.ask(&asking, left, sources.patience.cancel()));
        match result {
            Err(error) if left_tries > 0 && super::super::tries::pause(&error, Repeat::Harmless, 1, 1.0).is_some() => {
                sources.patience.wait(RETRY, query.action())?;
            }
            result => break result?,
        }
    };
    let element =
        Element::parse(&answer.body).map_err(|why| failed(format!("the answer of STS makes no sense: {why}")))?;
    let of = |name: &str| {
        let path = format!("{}Result/Credentials/{name}", query.action());
        element.text(&path).map(str::to_owned).ok_or_else(|| failed(format!("the answer of STS has no {name} in it")))
    };
    let mut credentials = AwsCredentials::new(of("AccessKeyId")?, Secret::new(of("SecretAccessKey")?));
    credentials.session_token = Some(Secret::new(of("SessionToken")?));
    credentials.expires = Timestamp::from_iso8601(&of("Expiration")?);
    Ok(credentials.of(format!("role {}", role.arn)))
}

const RETRY: std::time::Duration = std::time::Duration::from_secs(1);
