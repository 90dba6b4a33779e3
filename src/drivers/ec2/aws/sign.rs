//! Signature version 4: which headers a request needs so that the provider knows who asks.
//!
//! Pure. As in "Create a signed AWS API request" of the IAM User Guide, for what is asked here: a POST to `/` without a query.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::time::Timestamp;
use crate::Secret;

/// Who signs, and for what.
pub(super) struct Signer<'a> {
    pub(super) access_key_id: &'a str,
    pub(super) secret_access_key: &'a Secret,
    pub(super) session_token: Option<&'a Secret>,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) now: Timestamp,
}

/// A header: its name, in lower case, and its value.
pub(super) type Header = (&'static str, String);

impl Signer<'_> {
    /// The headers that the request needs besides these, which are signed with it and must contain `host`.
    pub(super) fn sign(&self, headers: &[Header], body: &[u8]) -> Vec<Header> {
        let time = self.now.basic();
        let date = &time[..8];
        let mut added: Vec<Header> = vec![("x-amz-date", time.clone())];
        added.extend(self.session_token.map(|token| ("x-amz-security-token", token.expose().to_owned())));

        let mut signed: Vec<(&str, String)> =
            headers.iter().chain(&added).map(|(name, value)| (*name, without_extra_space(value))).collect();
        signed.sort();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", digest(body));

        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", digest(canonical.as_bytes()));
        let first = format!("AWS4{}", self.secret_access_key.expose()).into_bytes();
        let parts = [date, self.region, self.service, "aws4_request"];
        let key = parts.into_iter().fold(first, |key, part| mac(&key, part.as_bytes()));
        let signature = HEXLOWER.encode(&mac(&key, to_sign.as_bytes()));
        let id = self.access_key_id;
        let authorization =
            format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        added.push(("authorization", authorization));
        added
    }
}

fn digest(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// None at the ends, and one space for several.
fn without_extra_space(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::botocore::botocore;
    use super::*;

    fn signature(token: Option<&str>, headers: &[Header], body: &str) -> String {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let token = token.map(Secret::new);
        let signer = Signer {
            access_key_id: "AKIDEXAMPLE",
            secret_access_key: &secret,
            session_token: token.as_ref(),
            region: "us-east-1",
            service: "service",
            now: Timestamp(1_440_938_160),
        };
        let added = signer.sign(headers, body.as_bytes());
        added.into_iter().find(|(name, _)| *name == "authorization").unwrap().1
    }

    /// The cases of the published test suite of signature version 4 that are posts to `/` without a query.
    #[test]
    fn the_published_vectors_come_out() {
        let host = || ("host", "example.amazonaws.com".to_owned());
        let credential = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, ";
        // post-vanilla
        assert_eq!(
            signature(None, &[host()], ""),
            format!(
                "{credential}SignedHeaders=host;x-amz-date, \
                 Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
            )
        );
        // post-x-www-form-urlencoded
        let form = ("content-type", "application/x-www-form-urlencoded".to_owned());
        assert_eq!(
            signature(None, &[form, host()], "Param1=value1"),
            format!(
                "{credential}SignedHeaders=content-type;host;x-amz-date, \
                 Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
            )
        );
        // post-header-value-case
        assert_eq!(
            signature(None, &[host(), ("my-header1", "VALUE1".to_owned())], ""),
            format!(
                "{credential}SignedHeaders=host;my-header1;x-amz-date, \
                 Signature=cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"
            )
        );
        // post-sts-header-before
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        assert_eq!(
            signature(Some(token), &[host()], ""),
            format!(
                "{credential}SignedHeaders=host;x-amz-date;x-amz-security-token, \
                 Signature=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"
            )
        );
    }

    #[test]
    fn space_within_a_value_is_signed_as_one() {
        let host = || ("host", "h".to_owned());
        let one = signature(None, &[host(), ("my-header1", "a b c".to_owned())], "");
        assert_eq!(signature(None, &[host(), ("my-header1", "  a   b  c ".to_owned())], ""), one);
    }

    /// Signs what it reads, a request a line, as the provider's own library does.
    const BOTOCORE: &str = r#"
import datetime, json, sys
import botocore.auth, botocore.awsrequest, botocore.credentials
for line in sys.stdin:
    r = json.loads(line)
    now = datetime.datetime.fromtimestamp(r["now"], datetime.timezone.utc)
    class Fixed(datetime.datetime):
        @classmethod
        def utcnow(cls): return now.replace(tzinfo=None)
        @classmethod
        def now(cls, tz=None): return now if tz else now.replace(tzinfo=None)
    botocore.auth.datetime = type("m", (), {"datetime": Fixed, "timezone": datetime.timezone, "timedelta": datetime.timedelta})
    for name in ("get_current_datetime",):
        if hasattr(botocore.auth, name):
            setattr(botocore.auth, name, lambda remove_tzinfo=True: now.replace(tzinfo=None) if remove_tzinfo else now)
    credentials = botocore.credentials.Credentials(r["id"], r["secret"], r["token"])
    request = botocore.awsrequest.AWSRequest("POST", "https://" + r["host"] + "/", headers=dict(r["headers"]), data=r["body"].encode())
    botocore.auth.SigV4Auth(credentials, r["service"], r["region"]).add_auth(request)
    print(request.headers["Authorization"])
"#;

    #[test]
    #[ignore = "needs botocore (TEST_MOTO_PYTHON)"]
    fn two_thousand_random_requests_are_signed_as_botocore_does() {
        let mut random = fastrand::Rng::with_seed(6);
        let mut word = |most: usize, letters: &str| -> String {
            let letters: Vec<char> = letters.chars().collect();
            let length = random.usize(1..=most);
            (0..length).map(|_| letters[random.usize(..letters.len())]).collect()
        };
        let plain = "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789";
        let (mut asked, mut expected) = (String::new(), Vec::new());
        for number in 0..2_000 {
            let (id, secret) = (word(20, plain), word(40, "abcXYZ0189+/="));
            let token = (number % 3 == 0).then(|| word(400, "abcXYZ0189+/="));
            let host = format!("{}.example.com", word(10, "abcxyz019-").trim_matches('-').to_owned() + "a");
            let (service, region) = (word(10, "abcxyz"), word(12, "abcxyz019-"));
            let body = word(3_000, "abc=&%+ *~é\u{1F600}\n");
            let value = word(40, "aB0:;,=/ \"'");
            let now = 1_400_000_000 + i64::from(number) * 40_009;
            let headers = [
                ("content-type", "application/x-www-form-urlencoded; charset=utf-8".to_owned()),
                ("x-amz-target", format!("a{value}b")),
            ];
            let request = serde_json::json!({
                "id": id, "secret": secret, "token": token, "host": host, "service": service, "region": region, "now": now,
                "body": body, "headers": headers,
            });
            asked += &format!("{request}\n");
            let (secret, token) = (Secret::new(secret), token.map(Secret::new));
            let signer = Signer {
                access_key_id: &id,
                secret_access_key: &secret,
                session_token: token.as_ref(),
                region: &region,
                service: &service,
                now: Timestamp(now),
            };
            let headers = [headers.to_vec(), vec![("host", host)]].concat();
            expected.push(signer.sign(&headers, body.as_bytes()).pop().unwrap().1);
        }
        let signed = botocore(BOTOCORE, asked);
        let signed: Vec<_> = signed.lines().collect();
        assert_eq!(signed.len(), expected.len(), "botocore ended early");
        for (ours, theirs) in expected.iter().zip(signed) {
            assert_eq!(ours, theirs);
        }
    }
}
