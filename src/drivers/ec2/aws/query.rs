//! A question to one of the query APIs: an action and its parameters, as they are sent.
//!
//! Pure. What is encoded how is in "Making API requests" of the Amazon EC2 developer guide.

use std::fmt;

/// Whether a request may be sent again when nobody knows whether it was carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::drivers::ec2) enum Repeat {
    /// Twice is as good as once: it only asks, it has a client token, or what it ends can be ended again.
    Harmless,
    /// It would be done twice.
    Never,
}

/// An action and its parameters, in order.
#[derive(Clone)]
pub(in crate::drivers::ec2) struct Query {
    action: &'static str,
    repeat: Repeat,
    parameters: Vec<(String, String)>,
    filters: usize,
}

impl Query {
    pub(in crate::drivers::ec2) fn new(action: &'static str, repeat: Repeat) -> Self {
        Self { action, repeat, parameters: Vec::new(), filters: 0 }
    }

    pub(in crate::drivers::ec2) fn action(&self) -> &'static str {
        self.action
    }

    pub(in crate::drivers::ec2) fn repeat(&self) -> Repeat {
        self.repeat
    }

    #[must_use]
    pub(in crate::drivers::ec2) fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// `NAME.1`, `NAME.2`, ...
    #[must_use]
    pub(in crate::drivers::ec2) fn with_list<V: Into<String>>(
        mut self,
        name: &str,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        for (index, value) in values.into_iter().enumerate() {
            self.parameters.push((format!("{name}.{}", index + 1), value.into()));
        }
        self
    }

    /// Another filter: what it is for, and the values of which one must be met.
    #[must_use]
    pub(in crate::drivers::ec2) fn with_filter<V: Into<String>>(
        mut self,
        name: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        self.filters += 1;
        let filter = format!("Filter.{}", self.filters);
        self.with(format!("{filter}.Name"), name).with_list(&format!("{filter}.Value"), values)
    }

    /// Parameters as they are.
    #[must_use]
    pub(in crate::drivers::ec2) fn with_all(mut self, parameters: impl IntoIterator<Item = (String, String)>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    /// The body of the request, `application/x-www-form-urlencoded`.
    pub(super) fn body(&self, version: &str) -> String {
        let fixed = [("Action", self.action), ("Version", version)];
        let all = fixed.into_iter().chain(self.parameters.iter().map(|(name, value)| (&**name, &**value)));
        // A form has a plus for a space; a signature of the body does not mind.
        let text = |text: &str| encoded(text).replace("%20", "+");
        let pairs: Vec<_> = all.map(|(name, value)| format!("{}={}", text(name), text(value))).collect();
        pairs.join("&")
    }
}

/// Without values, among which there can be secrets: user data has some.
impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.parameters.iter().map(|(name, _)| name).collect();
        f.debug_struct("Query").field("action", &self.action).field("parameters", &names).finish_non_exhaustive()
    }
}

/// Everything but letters, digits and `-_.~` as `%XX` (RFC 3986, 2.3); but a space as a plus, as forms have it and as
/// botocore sends it.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            b' ' => encoded.push('+'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_filters_are_numbered() {
        let query = Query::new("DescribeInstances", Repeat::Harmless)
            .with_list("InstanceId", ["i-1", "i-2"])
            .with_filter("tag:a b", ["x"])
            .with_filter("instance-state-name", ["pending", "running"]);
        assert_eq!(
            query.body("2016-11-15"),
            "Action=DescribeInstances&Version=2016-11-15&InstanceId.1=i-1&InstanceId.2=i-2&Filter.1.Name=tag%3Aa+b\
             &Filter.1.Value.1=x&Filter.2.Name=instance-state-name&Filter.2.Value.1=pending&Filter.2.Value.2=running"
        );
    }

    #[test]
    fn what_is_not_plain_is_encoded_byte_by_byte() {
        assert_eq!(encoded("aZ0-_.~"), "aZ0-_.~");
        assert_eq!(encoded("a b+c/=é*"), "a+b%2Bc%2F%3D%C3%A9%2A");
    }

    #[test]
    fn values_are_not_in_debug() {
        let text = format!("{:?}", Query::new("RunInstances", Repeat::Harmless).with("UserData", "hush"));
        assert!(text.contains("UserData") && !text.contains("hush"), "{text}");
    }
}
