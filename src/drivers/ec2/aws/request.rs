//! A request made of its parts, and what its answer means.
//!
//! Pure.

use super::credentials::AwsCredentials;
use super::element::Element;
use super::error::{AwsError, Class};
use super::http::{Answer, NoAnswer};
use super::place::Service;
use super::sign::{Header, Signer};
use super::time::Timestamp;

pub(super) const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// The headers, and those that prove who asks.
pub(super) fn signed(
    credentials: &AwsCredentials,
    service: Service,
    region: &str,
    now: Timestamp,
    mut headers: Vec<Header>,
    body: &[u8],
) -> Vec<Header> {
    let signer = Signer {
        access_key_id: &credentials.access_key_id,
        secret_access_key: &credentials.secret_access_key,
        session_token: credentials.session_token.as_ref(),
        region,
        service: service.name(),
        now,
    };
    let added = signer.sign(&headers, body);
    headers.extend(added);
    headers
}

/// When it was answered, by the provider's clock.
pub(super) fn date_of(answer: &Result<Answer, NoAnswer>) -> Option<Timestamp> {
    Timestamp::from_http_date(answer.as_ref().ok()?.date.as_deref()?)
}

/// A good answer, or what went wrong.
pub(super) fn understood(doing: &str, answer: Result<Answer, NoAnswer>) -> Result<Answer, AwsError> {
    let answer = answer.map_err(|none| match none {
        NoAnswer::Unreachable(why) => AwsError::new(Class::Unreachable, doing, format!("no connection: {why}")),
        NoAnswer::Lost(why) => AwsError::new(Class::Lost, doing, format!("the connection was lost: {why}")),
        NoAnswer::TimedOut => AwsError::new(Class::TimedOut, doing, "there was no answer in time").or_unknown(true),
        NoAnswer::Cancelled { sent } => AwsError::cancelled(doing).or_unknown(sent),
    })?;
    if answer.status == 200 {
        return Ok(answer);
    }
    let said = said(&answer.body);
    let code = said.code.as_deref();
    Err(AwsError::answered(doing, answer.status, code, &said.message, answer.retry_after, said.request.as_deref()))
}

#[derive(Default, Debug, PartialEq, Eq)]
struct Said {
    code: Option<String>,
    message: String,
    request: Option<String>,
}

/// EC2, STS and Systems Manager each have a form of their own; what stands before them may have any.
fn said(body: &str) -> Said {
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(body) {
        let field = |name: &str| json.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        let code = field("__type").map(|code| code.rsplit('#').next().unwrap_or_default().to_owned());
        let message = field("message").or_else(|| field("Message")).unwrap_or_default();
        return Said { code, message, request: None };
    }
    let Ok(answer) = Element::parse(body) else { return Said::default() };
    let Some(error) = answer.at("Errors/Error").or_else(|| answer.at("Error")) else { return Said::default() };
    let text = |element: &Element, name: &str| element.text(name).map(|text| text.trim().to_owned());
    Said {
        code: text(error, "Code").filter(|code| !code.is_empty()),
        message: text(error, "Message").unwrap_or_default(),
        request: text(&answer, "RequestID").or_else(|| text(&answer, "RequestId")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_its_form_of_an_error() {
        let expected = |request: Option<&str>| Said {
            code: Some("Bad.Thing".into()),
            message: "words".into(),
            request: request.map(str::to_owned),
        };
        let ec2 = "<Response><Errors><Error><Code>Bad.Thing</Code><Message>words</Message></Error></Errors>\
                   <RequestID>r</RequestID></Response>";
        assert_eq!(said(ec2), expected(Some("r")));
        let sts = "<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>Bad.Thing</Code><Message>words</Message>\
                   </Error><RequestId>r</RequestId></ErrorResponse>";
        assert_eq!(said(sts), expected(Some("r")));
        assert_eq!(said(r#"{"__type":"com.amazon#Bad.Thing","Message":"words"}"#), expected(None));
        assert_eq!(said("<html><body>502</body></html>"), Said::default());
        assert_eq!(said(""), Said::default());
    }
}
