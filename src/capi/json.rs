//! Writes JSON: as much of it as statuses need, so that the core needs no crate for it.

use std::fmt::{Display, Write};

/// A JSON object or array that is being written. Its end is written when it is dropped.
pub(super) struct Json<'a> {
    text: &'a mut String,
    is_first: bool,
    end: char,
}

/// One object as a text.
pub(super) fn object(fill: impl FnOnce(&mut Json<'_>)) -> String {
    let mut text = String::new();
    fill(&mut Json::open(&mut text, '{', '}'));
    text
}

impl Json<'_> {
    fn open(text: &mut String, begin: char, end: char) -> Json<'_> {
        text.push(begin);
        Json { text, is_first: true, end }
    }

    fn next(&mut self) {
        if !std::mem::take(&mut self.is_first) {
            self.text.push(',');
        }
    }

    fn name(&mut self, name: &str) {
        self.next();
        quote(self.text, name);
        self.text.push(':');
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        quote(self.text, value);
    }

    pub(super) fn optional_text(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.plain(name, "null"),
        }
    }

    /// A number, `true`, `false` or `null`.
    pub(super) fn plain(&mut self, name: &str, value: impl Display) {
        self.name(name);
        let _ = write!(self.text, "{value}");
    }

    pub(super) fn object(&mut self, name: &str, fill: impl FnOnce(&mut Json<'_>)) {
        self.name(name);
        fill(&mut Json::open(self.text, '{', '}'));
    }

    pub(super) fn texts<'t>(&mut self, name: &str, values: impl IntoIterator<Item = &'t str>) {
        self.name(name);
        let mut array = Json::open(self.text, '[', ']');
        for value in values {
            array.next();
            quote(array.text, value);
        }
    }

    pub(super) fn objects<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        fill: impl Fn(&mut Json<'_>, T),
    ) {
        self.name(name);
        let mut array = Json::open(self.text, '[', ']');
        for item in items {
            array.next();
            fill(&mut Json::open(array.text, '{', '}'), item);
        }
    }
}

impl Drop for Json<'_> {
    fn drop(&mut self) {
        self.text.push(self.end);
    }
}

/// RFC 8259, section 7: quotation marks, backslashes and control characters are escaped.
fn quote(text: &mut String, value: &str) {
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            control if u32::from(control) < 0x20 => {
                let _ = write!(text, "\\u{:04x}", u32::from(control));
            }
            other => text.push(other),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::object;

    #[test]
    fn what_is_written_is_read_back() {
        let odd = "quote \" backslash \\ newline \n tab \t return \r bell \u{7} nul \0 é 💡";
        let text = object(|json| {
            json.text(odd, odd);
            json.optional_text("none", None);
            json.plain("number", 1);
            json.object("inner", |inner| inner.plain("yes", true));
            json.texts("texts", ["a", "b"]);
            json.objects("objects", [1, 2], |item, number| item.plain("n", number));
            json.texts("empty", []);
        });
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            odd: odd, "none": null, "number": 1, "inner": {"yes": true}, "texts": ["a", "b"],
            "objects": [{"n": 1}, {"n": 2}], "empty": [],
        });
        assert_eq!(read, expected);
    }
}
