//! A setting of a driver: given once, or made anew from the properties of each build.
//!
//! Rendering only computes. What a driver does with the value, and when, is the driver's affair.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::{BoxError, Properties};

/// A setting of a driver: a constant, or computed from the properties of the build that an instance is started for.
///
/// Where a driver takes `impl Into<Setting<T>>`, a plain value is a constant. A string is taken as it is, braces
/// included; what is to be filled in is a [`template`](Self::template) and says so.
///
/// ```
/// use latent_worker::{Properties, Setting};
///
/// let constant: Setting<String> = "rust:1.89".into();
/// let template = Setting::<String>::template("rust:{toolchain:-stable}")?;
/// let computed = Setting::computed(|properties: &Properties| {
///     let jobs: u32 = properties.get("jobs").unwrap_or("1").parse()?;
///     Ok(f64::from(jobs.min(8)))
/// });
///
/// let properties: Properties = [("toolchain", "1.91"), ("jobs", "4")].into_iter().collect();
/// assert_eq!(constant.render(&properties)?, "rust:1.89");
/// assert_eq!(template.render(&properties)?, "rust:1.91");
/// assert_eq!(template.render(&Properties::new())?, "rust:stable");
/// assert_eq!(computed.render(&properties)?, 4.0);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone)]
pub struct Setting<T>(Source<T>);

#[derive(Clone)]
enum Source<T> {
    Constant(T),
    Template { template: Template, parse: fn(&str) -> Result<T, BoxError> },
    Computed(Compute<T>),
}

type Compute<T> = Arc<dyn Fn(&Properties) -> Result<T, BoxError> + Send + Sync>;

impl<T> Setting<T> {
    /// The same value for every build.
    pub fn constant(value: T) -> Self {
        Self(Source::Constant(value))
    }

    /// A text with places that are filled from the build's properties, and then made into a value.
    ///
    /// | in the template | in the text |
    /// |---|---|
    /// | `{name}` | the value of the property `name`; a build without it is an error |
    /// | `{name:-default}` | the same, and `default` for a build without it (a value that is empty is one) |
    /// | `{{`, `}}` | `{`, `}` |
    ///
    /// The name of a property is taken literally, and neither name nor default can have braces in them.
    ///
    /// # Errors
    /// When a brace is open or closes nothing, when a name is empty, and when a template without any place for a
    /// property is no `T`.
    pub fn template(text: &str) -> Result<Self, TemplateError>
    where
        T: FromStr<Err: Into<BoxError>>,
    {
        let template: Template = text.parse()?;
        let parse = |text: &str| text.parse::<T>().map_err(Into::into);
        match template.text() {
            None => Ok(Self(Source::Template { template, parse })),
            Some(constant) => match parse(&constant) {
                Ok(value) => Ok(Self::constant(value)),
                Err(error) => Err(TemplateError { reason: error.to_string() }),
            },
        }
    }

    /// Whatever a function makes of the properties. It is called before each start, and each time that somebody wants
    /// to know whether a running instance fits a build, on the thread that wants to know; so the same properties should
    /// give the same value, and nothing should be waited for.
    pub fn computed<F>(compute: F) -> Self
    where
        F: Fn(&Properties) -> Result<T, BoxError> + Send + Sync + 'static,
    {
        Self(Source::Computed(Arc::new(compute)))
    }

    /// The value, if it is the same for every build.
    pub fn as_constant(&self) -> Option<&T> {
        match &self.0 {
            Source::Constant(value) => Some(value),
            _ => None,
        }
    }

    /// The value for a build with these properties.
    ///
    /// # Errors
    /// When the build does not have a property that is needed, when what comes out is no `T`, and when the function
    /// fails.
    pub fn render(&self, properties: &Properties) -> Result<T, RenderError>
    where
        T: Clone,
    {
        match &self.0 {
            Source::Constant(value) => Ok(value.clone()),
            Source::Template { template, parse } => {
                let text = template.render(properties)?;
                parse(&text).map_err(|source| RenderError::Unfit { text, source })
            }
            Source::Computed(compute) => compute(properties).map_err(RenderError::Failed),
        }
    }
}

/// A constant.
impl<T> From<T> for Setting<T> {
    fn from(value: T) -> Self {
        Self::constant(value)
    }
}

/// A constant, taken as it is.
impl From<&str> for Setting<String> {
    fn from(text: &str) -> Self {
        Self::constant(text.into())
    }
}

/// A constant.
impl From<&str> for Setting<PathBuf> {
    fn from(path: &str) -> Self {
        Self::constant(path.into())
    }
}

/// A constant.
impl From<&Path> for Setting<PathBuf> {
    fn from(path: &Path) -> Self {
        Self::constant(path.into())
    }
}

/// A list whose items may be computed each.
impl<S: Into<Setting<String>>, const N: usize> From<[S; N]> for Setting<Vec<String>> {
    fn from(items: [S; N]) -> Self {
        items.into_iter().map(Into::into).collect::<Vec<Setting<String>>>().into()
    }
}

/// A list whose items may be computed each.
impl<T: Clone + Send + Sync + 'static> From<Vec<Setting<T>>> for Setting<Vec<T>> {
    fn from(items: Vec<Setting<T>>) -> Self {
        match items.iter().map(Setting::as_constant).collect::<Option<Vec<_>>>() {
            Some(constants) => Self::constant(constants.into_iter().cloned().collect()),
            None => Self::computed(move |properties| {
                items.iter().map(|item| item.render(properties).map_err(Into::into)).collect()
            }),
        }
    }
}

/// Shows a constant, the text of a template, or that it is computed.
impl<T: fmt::Debug> fmt::Debug for Setting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Constant(value) => value.fmt(f),
            Source::Template { template, .. } => write!(f, "template {:?}", template.source),
            Source::Computed(_) => f.write_str("computed"),
        }
    }
}

/// Why a text is not a valid template. The text is not part of it: it may contain a secret.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("invalid template: {reason}")]
pub struct TemplateError {
    reason: String,
}

/// Why a setting has no value for a build.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RenderError {
    /// The template asks for a property that the build does not have. Set it on the build, or state a default in the
    /// template: `{name:-default}`.
    #[error("the build has no property {name:?}, and the template has no default for it")]
    NoProperty {
        /// The property.
        name: String,
    },
    /// The template is filled in, but what has come out is not what is needed.
    #[error("{text:?}: {source}")]
    Unfit {
        /// What has come out.
        text: String,
        /// What is wrong with it.
        source: BoxError,
    },
    /// The function has failed.
    #[error("{0}")]
    Failed(BoxError),
}

#[derive(Clone)]
struct Template {
    source: Arc<str>,
    pieces: Vec<Piece>,
}

#[derive(Clone)]
enum Piece {
    Text(String),
    Property { name: String, default: Option<String> },
}

impl Template {
    /// The text, if no property is needed for it.
    fn text(&self) -> Option<String> {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => Some(text.clone()),
            Piece::Property { .. } => None,
        };
        self.pieces.iter().map(text).collect()
    }

    fn render(&self, properties: &Properties) -> Result<String, RenderError> {
        let mut text = String::new();
        for piece in &self.pieces {
            text.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Property { name, default } => {
                    let value = properties.get(name).or(default.as_deref());
                    value.ok_or_else(|| RenderError::NoProperty { name: name.clone() })?
                }
            });
        }
        Ok(text)
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<Self, TemplateError> {
        let wrong = |reason: &str| TemplateError { reason: reason.into() };
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                text.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(wrong("a } closes nothing; }} stands for a brace"));
            }
            let (inside, after) =
                rest.split_once('}').ok_or_else(|| wrong("a { is not closed; {{ stands for a brace"))?;
            if inside.contains('{') {
                return Err(wrong("there is a { within braces"));
            }
            let (name, default) =
                inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default)));
            if name.is_empty() {
                return Err(wrong("a property without a name"));
            }
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Property { name: name.into(), default: default.map(Into::into) });
            rest = after;
        }
        text.push_str(rest);
        pieces.push(Piece::Text(text));
        Ok(Self { source: source.into(), pieces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(list: &[(&str, &str)]) -> Properties {
        list.iter().copied().collect()
    }

    fn rendered(template: &str, list: &[(&str, &str)]) -> Result<String, String> {
        let setting = Setting::<String>::template(template).map_err(|error| error.to_string())?;
        setting.render(&properties(list)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_template_is_filled_from_the_properties() {
        let list = [("a", "1"), ("b c", "{a}"), ("empty", ""), ("x:y", "z")];
        for (template, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("{a}", "1"),
            ("rust:{a}-{b c}!", "rust:1-{a}!"),
            ("{a}{a}", "11"),
            ("{{a}}", "{a}"),
            ("{{{a}}}", "{1}"),
            ("}}{{", "}{"),
            ("{none:-latest}", "latest"),
            ("{none:-}", ""),
            ("{none:-a:-b}", "a:-b"),
            ("{a:-latest}", "1"),
            ("{empty:-latest}", ""),
            ("{x:y}", "z"),
            ("ü{a}ü", "ü1ü"),
        ] {
            assert_eq!(rendered(template, &list).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn a_missing_property_is_named() {
        let error = rendered("rust:{toolchain}", &[("tool", "x")]).unwrap_err();
        assert_eq!(error, "the build has no property \"toolchain\", and the template has no default for it");
    }

    #[test]
    fn a1_an_error_does_not_contain_the_text_around_a_property() {
        use crate::secrecy::{assert_reveals_nothing, shown};
        for template in ["hunter2-{name}", "hunter2-{name", "hunter2-}", "{}hunter2", "{a{}hunter2"] {
            let errors = match Setting::<String>::template(template) {
                Ok(setting) => shown(&setting.render(&Properties::new()).unwrap_err()),
                Err(error) => shown(&error),
            };
            assert_reveals_nothing(&errors, b"hunter2");
        }
    }

    #[test]
    fn a_bad_template_is_an_error_at_once() {
        for (template, word) in [
            ("{a", "not closed"),
            ("a}", "closes nothing"),
            ("{}", "without a name"),
            ("{:-x}", "without a name"),
            ("{a{b}}", "within braces"),
            ("{a:-{b}}", "within braces"),
            ("{{{", "not closed"),
            ("{a}}", "closes nothing"),
        ] {
            let error = rendered(template, &[]).unwrap_err();
            assert!(error.contains(word) && error.starts_with("invalid template: "), "{template}: {error}");
        }
    }

    #[test]
    fn a_template_can_be_of_any_type_that_is_parsed() {
        let setting = Setting::<u16>::template("{port}").unwrap();
        assert_eq!(setting.render(&properties(&[("port", "80")])).unwrap(), 80);
        let error = setting.render(&properties(&[("port", "many")])).unwrap_err().to_string();
        assert_eq!(error, "\"many\": invalid digit found in string");
        // Without a property it can be told when it is made.
        assert_eq!(Setting::<u16>::template("80").unwrap().as_constant(), Some(&80));
        let error = Setting::<u16>::template("many").unwrap_err().to_string();
        assert_eq!(error, "invalid template: invalid digit found in string");
    }

    #[test]
    fn constants_are_taken_as_they_are() {
        let setting: Setting<String> = "{a}".into();
        assert_eq!(setting.render(&Properties::new()).unwrap(), "{a}");
        assert_eq!(setting.as_constant().map(String::as_str), Some("{a}"));
        let list: Setting<Vec<String>> = ["a", "b"].into();
        assert_eq!(list.as_constant(), Some(&vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn a_list_is_computed_when_an_item_is() {
        let list: Setting<Vec<String>> = ["run".into(), Setting::<String>::template("{what}").unwrap()].into();
        assert_eq!(list.as_constant(), None);
        assert_eq!(list.render(&properties(&[("what", "it")])).unwrap(), ["run", "it"]);
        let error = list.render(&Properties::new()).unwrap_err().to_string();
        assert!(error.contains("no property \"what\""), "{error}");
    }

    #[test]
    fn debug_shows_what_was_given() {
        assert_eq!(format!("{:?}", Setting::<u16>::template("{a}").unwrap()), "template \"{a}\"");
        assert_eq!(format!("{:?}", Setting::constant(1)), "1");
        assert_eq!(format!("{:?}", Setting::computed(|_| Ok(1))), "computed");
    }

    /// Property: what was put together from pieces comes out as the pieces, whatever is in them.
    #[test]
    fn any_text_can_be_said_in_a_template() {
        const LETTERS: &[char] = &['a', '{', '}', ':', '-', 'ü', ' ', '\n'];
        let mut random = fastrand::Rng::with_seed(20_261_125);
        let text = |random: &mut fastrand::Rng, without: &[char]| -> String {
            let length = random.usize(..6);
            let letters: Vec<char> = LETTERS.iter().copied().filter(|letter| !without.contains(letter)).collect();
            (0..length).map(|_| letters[random.usize(..letters.len())]).collect()
        };
        for _ in 0..20_000 {
            let (mut template, mut expected) = (String::new(), String::new());
            let mut properties = Properties::new();
            for number in 0..random.usize(..5) {
                let literal = text(&mut random, &[]);
                template.push_str(&literal.replace('{', "{{").replace('}', "}}"));
                expected.push_str(&literal);
                let (name, value) = (format!("p{number}"), text(&mut random, &[]));
                let default = text(&mut random, &['{', '}']);
                match random.u8(..3) {
                    0 => {
                        template.push_str(&format!("{{{name}}}"));
                        expected.push_str(&value);
                        properties.set(name, value);
                    }
                    1 => {
                        template.push_str(&format!("{{{name}:-{default}}}"));
                        expected.push_str(&value);
                        properties.set(name, value);
                    }
                    _ => {
                        template.push_str(&format!("{{{name}:-{default}}}"));
                        expected.push_str(&default);
                    }
                }
            }
            let setting = Setting::<String>::template(&template).unwrap();
            assert_eq!(setting.render(&properties).unwrap(), expected, "{template:?}");
        }
    }

    /// Property: no text makes it panic, and what is accepted is rendered when all properties are there.
    #[test]
    fn any_text_is_a_template_or_an_error() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..50_000 {
            let text: String =
                (0..random.usize(..9)).map(|_| ['{', '}', 'a', ':', '-', 'ü'][random.usize(..6)]).collect();
            let Ok(template) = text.parse::<Template>() else { continue };
            let mut properties = Properties::new();
            for piece in &template.pieces {
                if let Piece::Property { name, .. } = piece {
                    properties.set(name.clone(), "value");
                }
            }
            template.render(&properties).unwrap();
        }
    }
}
