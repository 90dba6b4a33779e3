//! The syntax of the shared files `config` and `credentials`: sections, and settings in them.
//!
//! Pure. It accepts what botocore accepts, and what botocore cannot parse is an error here too. Some lines that
//! botocore skips or takes literally are errors as well, because the author meant something else. Errors contain the
//! number of the line, and never its text.

/// A section, `[name]`, with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// The text between the brackets, unchanged.
    pub(super) name: String,
    /// The number of the line, counted from 1.
    pub(super) line: usize,
    pub(super) settings: Vec<Entry>,
}

/// `name = value`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// In lower case.
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Without white space at its ends. May be empty.
    Text(String),
    /// Nested settings, on indented lines.
    Nested,
}

/// The value may be a secret.
impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("line", &self.line).finish_non_exhaustive()
    }
}

/// A line that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) what: &'static str,
}

/// Parses all sections, in the order of the file.
pub(super) fn parse(text: &str) -> Result<Vec<Section>, Mistake> {
    if text.starts_with('\u{feff}') {
        return Err(Mistake { line: 1, what: "the file begins with a byte order mark: save it as UTF-8 without one" });
    }
    let mut sections: Vec<Section> = Vec::new();
    // The indentation of the last line that was not a continuation.
    let mut indentation = 0;
    for (text, line) in lines(text).zip(1..) {
        let mistake = |what| Err(Mistake { line, what });
        let content = text.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        if content.contains(|character: char| character.is_control() && character != '\t') {
            return mistake("the line contains a control character");
        }
        let indented = text.chars().take_while(|character| character.is_whitespace()).count();
        let section = sections.last_mut();
        if let Some(setting) = section.and_then(|section| section.settings.last_mut())
            && indented > indentation
        {
            let is_nested = setting.value == Value::Nested || setting.value == Value::Text(String::new());
            if !is_nested {
                return mistake("the line is indented more than the setting before it, and would continue its value");
            }
            if !content.contains('=') {
                return mistake("expected an indented setting, name = value");
            }
            setting.value = Value::Nested;
            continue;
        }
        indentation = indented;
        if let Some(rest) = content.strip_prefix('[') {
            let Some((name, after)) = rest.rsplit_once(']') else { return mistake("the bracket is not closed") };
            if !(after.is_empty() || after.trim_start().starts_with(['#', ';'])) || name.contains([']', '[']) {
                return mistake("expected nothing after [name] but a comment");
            }
            if name.is_empty() {
                return mistake("expected a name between the brackets");
            }
            if sections.iter().any(|section| section.name == name) {
                return mistake("the section occurs twice in the file");
            }
            sections.push(Section { name: name.into(), line, settings: Vec::new() });
            continue;
        }
        let Some(section) = sections.last_mut() else {
            return mistake("expected a section, [name], before the first setting");
        };
        let Some((name, value)) = content.split_once(['=', ':']) else {
            return mistake("expected a section, [name], or a setting, name = value");
        };
        let name = name.trim().to_lowercase();
        if name.is_empty() {
            return mistake("expected a name before the equals sign");
        }
        if section.settings.iter().any(|setting| setting.name == name) {
            return mistake("the setting occurs twice in its section");
        }
        section.settings.push(Entry { name, line, value: Value::Text(value.trim().into()) });
    }
    Ok(sections)
}

/// Lines end with LF, CR or both.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of a section, and the names and values of its settings; nested ones have no value.
    type Read = (String, Vec<(String, Option<String>)>);

    fn read(text: &str) -> Vec<Read> {
        let text_of = |value| match value {
            Value::Text(text) => Some(text),
            Value::Nested => None,
        };
        let settings = |section: Section| {
            section.settings.into_iter().map(|setting| (setting.name, text_of(setting.value))).collect()
        };
        parse(text).unwrap().into_iter().map(|section| (section.name.clone(), settings(section))).collect()
    }

    #[test]
    fn indentation_of_a_whole_file_means_nothing() {
        let expected = read("[a]\nx = 1\ny = 2\n[b]\nz = 3");
        for text in [
            "  [a]\n  x = 1\n  y = 2\n  [b]\n  z = 3\n",
            "[a]\r\n\tx=1\r\n\ty:2\r\n[b]\r\n\tz =3",
            "[a]\r  x\t=\t1\r  Y : 2\r\r[b] # a comment\rz= 3  \r",
            "   [a]\n  x = 1\n y = 2\n; a comment\n  # another\n\n[b]\nz = 3",
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn nested_settings_are_no_settings_of_the_section() {
        let read = read("[a]\ns3 =\n  x = 1\n\n  # y\n  y = 2\nregion = r\nempty =\n");
        let text = |text: &str| Some(text.to_owned());
        let expected = [("s3", None), ("region", text("r")), ("empty", text(""))];
        assert_eq!(read[0].1, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn what_cannot_be_understood_is_told_with_its_line() {
        for (text, line) in [
            ("\u{feff}[a]\nx=1", 1),
            ("x=1\n[a]", 1),
            ("\n[a\nx=1", 2),
            ("[a]\nx=1\n[a]", 3),
            ("[a]\nx=1\nX:2", 3),
            ("[a]\nx", 2),
            ("[a]\n=x", 2),
            ("[a]\nx=1\n y=2", 3),
            ("[a]\nx=\n y", 3),
            ("[]\nx=1", 1),
            ("[a] x=1", 1),
            ("[a][b]", 1),
            ("[a]\r\nx\u{b}=1", 2),
            ("[a]\nx=1\0", 2),
        ] {
            assert_eq!(parse(text).map_err(|mistake| mistake.line), Err(line), "{text:?}");
        }
    }
}
