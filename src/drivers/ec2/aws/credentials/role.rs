//! Roles that are taken on, through the provider's STS: with credentials, or with a token of somebody whom it trusts.

use ureq::http::Method;

use super::super::element::Element;
use super::super::error::{AwsError, Class};
use super::super::http::{Answer, Asking};
use super::super::place::Service;
use super::super::query::{Query, Repeat};
use super::super::request::{FORM, date_of, signed, understood};
use super::super::time::Timestamp;
use super::super::tries;
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
    let (file, arn) = match (sources.variable("AWS_WEB_IDENTITY_TOKEN_FILE")?, sources.word("AWS_ROLE_ARN")?) {
        (Some(file), Some(arn)) => (file, arn),
        (Some(_), None) => return Err(failed("AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN is not")),
        _ => return Ok(Found::Nothing("AWS_WEB_IDENTITY_TOKEN_FILE is not set".into())),
    };
    let session = sources.word("AWS_ROLE_SESSION_NAME")?;
    let role = Role { arn: &arn, session: session.as_deref(), external_id: None, seconds: None };
    assume_with_token(sources, &role, &file).map(Found::Credentials)
}

pub(super) fn assume_with_token(
    sources: &Sources<'_>,
    role: &Role<'_>,
    file: &str,
) -> Result<AwsCredentials, AwsError> {
    sources.sts.takes_tokens().map_err(failed)?;
    let token = sources.token_file(file)?;
    let query = role.query("AssumeRoleWithWebIdentity").with("WebIdentityToken", token);
    ask(sources, &query, role, None)
}

pub(super) fn assume(
    sources: &Sources<'_>,
    role: &Role<'_>,
    source: &AwsCredentials,
) -> Result<AwsCredentials, AwsError> {
    if source.session_token.is_some() {
        sources.sts.takes_tokens().map_err(failed)?;
    }
    ask(sources, &role.query("AssumeRole"), role, Some(source))
}

/// Until it is answered, or asking again is of no use.
fn ask(
    sources: &Sources<'_>,
    query: &Query,
    role: &Role<'_>,
    signer: Option<&AwsCredentials>,
) -> Result<AwsCredentials, AwsError> {
    let patience = sources.metadata.patience;
    let mut failures = 0;
    let mut mended = false;
    loop {
        patience.left(query.action())?;
        let error = match once(sources, query, signer) {
            Ok(answer) => return of_answer(&answer.body, query.action(), role),
            // With the right time.
            Err((_, true)) if !mended => {
                mended = true;
                continue;
            }
            Err((error, _)) => error,
        };
        failures += 1;
        let pause = tries::pause(&error, query.repeat(), failures, patience.chance());
        match pause.map(|pause| patience.wait(pause, query.action())) {
            Some(Ok(())) => {}
            Some(Err(end)) if end.class() == Class::Cancelled => return Err(end),
            // Why it had to wait says more than that there is no time to.
            _ => return Err(error),
        }
    }
}

/// Once. With an error, whether the clock was wrong, and is not any more.
fn once(sources: &Sources<'_>, query: &Query, signer: Option<&AwsCredentials>) -> Result<Answer, (AwsError, bool)> {
    let patience = sources.metadata.patience;
    let body = query.body(Service::Sts.version());
    let mut headers = vec![("host", sources.sts.host.clone()), ("content-type", FORM.to_owned())];
    let now = sources.time();
    if let Some(signer) = signer {
        headers = signed(signer, Service::Sts, sources.region, now, headers, body.as_bytes());
    }
    let asking = Asking { method: Method::POST, uri: &sources.sts.uri, headers: &headers, body: body.as_bytes() };
    let left = patience.left(query.action()).map_err(|error| (error, false))?;
    let answer = sources.provider.ask(&asking, left, patience.cancel());
    let date = date_of(&answer);
    understood(query.action(), answer).map_err(|error| {
        let is_mended = error.class() == Class::Credentials
            && date.is_some_and(|date| sources.skew.learn(now, date, patience.wall()));
        (error, is_mended)
    })
}

fn of_answer(body: &str, action: &str, role: &Role<'_>) -> Result<AwsCredentials, AwsError> {
    let element =
        Element::parse(body).map_err(|why| failed(format!("STS returned an answer that cannot be parsed: {why}")))?;
    let of = |name: &str| {
        let path = format!("{action}Result/Credentials/{name}");
        element.text(&path).map(str::to_owned).ok_or_else(|| failed(format!("STS returned an answer without {name}")))
    };
    let expires = of("Expiration")?;
    let expires = Timestamp::from_iso8601(&expires).ok_or_else(|| failed("STS returned an invalid expiry time"))?;
    let credentials = AwsCredentials {
        session_token: Some(Secret::new(of("SessionToken")?)),
        expires: Some(expires),
        ..AwsCredentials::new(of("AccessKeyId")?, Secret::new(of("SecretAccessKey")?)).of(format!("role {}", role.arn))
    };
    credentials.check().map_err(|why| failed(format!("STS returned invalid credentials: {why}")))?;
    Ok(credentials)
}
