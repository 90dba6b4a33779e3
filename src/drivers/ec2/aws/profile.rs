//! The profiles of the shared files `config` and `credentials`, and what their settings mean.
//!
//! Pure: the caller passes the text. Follows "Shared config and credentials files" of the AWS SDKs and Tools Reference
//! Guide, and botocore. A line that is meant as a profile or a key, but that botocore skips, is an error here: the
//! search would continue, and could find the credentials of another account. Errors name the file and the line, and
//! repeat no value.

use std::collections::BTreeMap;

use super::ini::{Entry, Mistake, Section, Value, parse};
use crate::drivers::given::check_word;

const ACCESS_KEY_ID: &str = "aws_access_key_id";
const SECRET_ACCESS_KEY: &str = "aws_secret_access_key";
/// botocore uses the first one that is set.
const SESSION_TOKENS: [&str; 2] = ["aws_security_token", "aws_session_token"];
/// Settings that must have a value and must not be nested, in addition to those that begin with `aws_`.
const PLAIN: [&str; 13] = [
    "credential_process",
    "credential_source",
    "duration_seconds",
    "external_id",
    "login_session",
    "mfa_serial",
    "region",
    "role_arn",
    "role_session_name",
    "source_profile",
    "sso_session",
    "sso_start_url",
    "web_identity_token_file",
];

/// The text of one of the files.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedFile {
    /// For errors.
    pub(super) path: String,
    pub(super) text: String,
}

/// The profiles of both files.
#[derive(Clone, Debug)]
pub(super) struct Profiles {
    config: File,
    credentials: File,
}

#[derive(Clone, Debug)]
struct File {
    path: String,
    profiles: BTreeMap<String, Section>,
    /// Sections of `config` that are not profiles.
    others: Vec<String>,
}

/// An access key of a profile.
pub(super) struct Key<'a> {
    pub(super) id: &'a str,
    pub(super) secret: &'a str,
    pub(super) session_token: Option<&'a str>,
}

impl Profiles {
    /// Reads `config`, where profiles other than the default are called `[profile NAME]`, and `credentials`.
    pub(super) fn of_files(config: &SharedFile, credentials: &SharedFile) -> Result<Self, String> {
        Ok(Self { config: File::read(config, in_config)?, credentials: File::read(credentials, in_credentials)? })
    }

    pub(super) fn has(&self, profile: &str) -> bool {
        self.files().any(|file| file.profiles.contains_key(profile))
    }

    /// Returns the error for a missing profile, with a possible reason.
    pub(super) fn missing(&self, profile: &str) -> String {
        let (config, credentials) = (&self.config.path, &self.credentials.path);
        let advice = match self.config.others.iter().any(|other| other == profile) {
            true => format!("; {config} has a section of that name: write [profile {profile}] there"),
            false => String::new(),
        };
        format!("profile {profile:?} not found in {config} or {credentials}{advice}")
    }

    /// Returns a setting that is not empty. `credentials` takes precedence over `config`. An inline comment is not part
    /// of it.
    pub(super) fn get(&self, profile: &str, name: &str) -> Option<&str> {
        self.files().find_map(|file| file.setting(profile, name)).and_then(|setting| match &setting.value {
            Value::Text(text) => Some(without_comment(text)).filter(|text| !text.is_empty()),
            Value::Nested => None,
        })
    }

    /// Returns the access key of a profile, all parts from the first file that contains the key id.
    ///
    /// # Errors
    ///
    /// Returns an error if a part of the key is missing or invalid.
    pub(super) fn key(&self, profile: &str) -> Result<Option<Key<'_>>, String> {
        for file in self.files() {
            let part = |name| {
                let setting = file.setting(profile, name)?;
                let checked = checked(setting).map_err(|why| file.mistake(setting.line, &format!("{name} {why}")));
                Some(checked)
            };
            let (id, secret) = (part(ACCESS_KEY_ID).transpose()?, part(SECRET_ACCESS_KEY).transpose()?);
            let (id, secret) = match (id, secret) {
                (Some(id), Some(secret)) => (id, secret),
                (None, None) => continue,
                (id, _) => {
                    let missing = if id.is_some() { SECRET_ACCESS_KEY } else { ACCESS_KEY_ID };
                    let line = file.profiles.get(profile).map_or(0, |section| section.line);
                    return Err(
                        file.mistake(line, &format!("the profile has half of an access key: {missing} is missing"))
                    );
                }
            };
            let is_set = |name: &&&str| {
                file.setting(profile, name).is_some_and(|setting| setting.value != Value::Text(String::new()))
            };
            let session_token = SESSION_TOKENS.iter().find(is_set).and_then(|name| part(name)).transpose()?;
            return Ok(Some(Key { id, secret, session_token }));
        }
        Ok(None)
    }

    fn files(&self) -> impl Iterator<Item = &File> {
        [&self.credentials, &self.config].into_iter()
    }
}

impl File {
    /// `name_of` returns the profile of a section; `None` if the section is not a profile.
    fn read(
        source: &SharedFile,
        name_of: fn(&Section) -> Result<Option<String>, &'static str>,
    ) -> Result<Self, String> {
        let mut file = Self { path: source.path.clone(), profiles: BTreeMap::new(), others: Vec::new() };
        let sections = parse(&source.text).map_err(|Mistake { line, what }| file.mistake(line, what))?;
        for section in sections {
            let line = section.line;
            let Some(name) = name_of(&section).map_err(|what| file.mistake(line, what))? else {
                file.others.push(section.name);
                continue;
            };
            for setting in &section.settings {
                check_setting(setting).map_err(|what| file.mistake(setting.line, what))?;
            }
            if file.profiles.insert(name, section).is_some() {
                return Err(file.mistake(line, "the profile occurs twice in the file"));
            }
        }
        Ok(file)
    }

    fn setting(&self, profile: &str, name: &str) -> Option<&Entry> {
        self.profiles.get(profile)?.settings.iter().find(|setting| setting.name == name)
    }

    fn mistake(&self, line: usize, what: &str) -> String {
        format!("{}, line {line}: {what}", self.path)
    }
}

fn in_config(section: &Section) -> Result<Option<String>, &'static str> {
    let name = section.name.as_str();
    let Some(rest) = name.strip_prefix("profile") else {
        check_name(name)?;
        return Ok((name == "default").then(|| name.into()));
    };
    const MALFORMED: &str = "expected [profile NAME], with quotes around a name that has white space in it";
    let word = rest.trim();
    let quoted = ['"', '\''].into_iter().find_map(|quote| word.strip_prefix(quote)?.strip_suffix(quote));
    let is_plain = |text: &str| !text.contains(['"', '\'', '\\']);
    match quoted {
        _ if !rest.starts_with(char::is_whitespace) => Err(MALFORMED),
        Some(inner) if is_plain(inner) && !inner.is_empty() => Ok(Some(inner.into())),
        None if is_plain(word) && !word.is_empty() && !word.contains(char::is_whitespace) => Ok(Some(word.into())),
        _ => Err(MALFORMED),
    }
}

fn in_credentials(section: &Section) -> Result<Option<String>, &'static str> {
    let name = section.name.as_str();
    check_name(name)?;
    if name.starts_with("profile ") || name.starts_with("profile\t") {
        return Err("expected [NAME]: use [profile NAME] in the file config only");
    }
    if name.contains(['"', '\'', '\\']) {
        return Err("expected [NAME]: quotes and backslashes are part of a name in this file");
    }
    Ok(Some(name.into()))
}

/// botocore does not find a profile with another spelling, and adds the settings of `DEFAULT` to all profiles.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.trim() != name {
        return Err("expected no white space at the ends of the name between the brackets");
    }
    if name != "default" && name.eq_ignore_ascii_case("default") {
        return Err("expected [default], in lower case");
    }
    Ok(())
}

fn check_setting(setting: &Entry) -> Result<(), &'static str> {
    let name = &setting.name;
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "_-.".contains(character);
    if !name.chars().all(is_plain) {
        return Err("expected a setting whose name has letters, digits, hyphens and underscores only");
    }
    if setting.value == Value::Nested && (name.starts_with("aws_") || PLAIN.contains(&name.as_str())) {
        return Err("the value of this setting is missing: the indented lines after it are settings of their own");
    }
    Ok(())
}

/// Checks a part of an access key. An inline comment is not removed: not every tool supports inline comments, and a key
/// may contain a `#`.
fn checked(setting: &Entry) -> Result<&str, &'static str> {
    let Value::Text(text) = &setting.value else { return Err("is missing") };
    check_word(text)?;
    if text.contains(char::is_whitespace) {
        return Err("contains white space: a comment must be on a line of its own");
    }
    if text.contains(['"', '\'']) {
        return Err("contains quotes: write the value without quotes");
    }
    Ok(text)
}

/// Returns the text before a `#` or `;` that follows white space.
fn without_comment(value: &str) -> &str {
    let is_comment = |at: &usize| value[..*at].ends_with(char::is_whitespace);
    let end = value.match_indices(['#', ';']).map(|(at, _)| at).find(is_comment);
    value[..end.unwrap_or(value.len())].trim_end()
}

#[cfg(test)]
mod tests;
