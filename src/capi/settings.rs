//! Settings as a JSON object, for the kinds of workers that have too many for a structure of C.
//!
//! What is wrong is told by its name and never by its value, which may be a password.

#![cfg_attr(not(all(feature = "docker", feature = "ec2")), allow(dead_code, reason = "no kind needs all of it"))]

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::boundary::{Failure, Result};
use crate::{BoxError, Setting};

/// The members that have not been read yet. Each is read once; what is left at the [end](Members::end) is unknown.
pub(super) struct Members {
    /// Where they are, such as `registry.`.
    place: String,
    members: Map<String, Value>,
}

impl Members {
    pub(super) fn parse(json: &str) -> Result<Self> {
        match serde_json::from_str(json) {
            Ok(Value::Object(members)) => Ok(Self { place: String::new(), members }),
            Ok(_) => Err(Failure::argument("settings: this is no JSON object")),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                Err(Failure::argument(format!("settings: no JSON at line {line} column {column}")))
            }
        }
    }

    fn wrong(&self, name: &str, what: impl std::fmt::Display) -> Failure {
        Failure::argument(format!("settings: {}{name}: {what}", self.place))
    }

    fn take<T>(&mut self, name: &str, kind: &str, read: impl FnOnce(Value) -> Option<T>) -> Result<Option<T>> {
        match self.members.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.wrong(name, format!("must be {kind}"))),
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>> {
        self.take(name, "a text", text)
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        self.take(name, "true or false", |value| value.as_bool())
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<u32>> {
        self.take(name, "a whole number", |value| u32::try_from(value.as_u64()?).ok())
    }

    pub(super) fn milliseconds(&mut self, name: &str) -> Result<Option<Duration>> {
        self.take(name, "a number of milliseconds", |value| value.as_u64().map(Duration::from_millis))
    }

    pub(super) fn object(&mut self, name: &str) -> Result<Option<Members>> {
        let place = format!("{}{name}.", self.place);
        self.take(name, "an object", |value| match value {
            Value::Object(members) => Some(Self { place, members }),
            _ => None,
        })
    }

    /// A list of objects.
    pub(super) fn objects(&mut self, name: &str) -> Result<Vec<Members>> {
        let place = format!("{}{name}.", self.place);
        let object = |value| match value {
            Value::Object(members) => Some(Self { place: place.clone(), members }),
            _ => None,
        };
        let found = self.take(name, "a list of objects", |value| list(value)?.into_iter().map(object).collect())?;
        Ok(found.unwrap_or_default())
    }

    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>> {
        let found = self.take(name, "a list of texts", |value| list(value)?.into_iter().map(text).collect())?;
        Ok(found.unwrap_or_default())
    }

    /// A template that becomes a text for each build.
    pub(super) fn template(&mut self, name: &str) -> Result<Option<Setting<String>>> {
        self.text(name)?.map(|text| self.template_of(name, &text)).transpose()
    }

    /// A template that becomes a `T` for each build. A number stands for itself.
    pub(super) fn typed_template<T: FromStr<Err: Into<BoxError>>>(&mut self, name: &str) -> Result<Option<Setting<T>>> {
        let found = self.take(name, "a text", |value| match value {
            Value::Number(number) => Some(number.to_string()),
            value => text(value),
        })?;
        found.map(|text| self.typed_template_of(name, &text)).transpose()
    }

    /// A list of templates.
    pub(super) fn templates(&mut self, name: &str) -> Result<Vec<Setting<String>>> {
        self.texts(name)?.iter().map(|text| self.template_of(name, text)).collect()
    }

    /// A list of templates that become `T`s.
    pub(super) fn typed_templates<T: FromStr<Err: Into<BoxError>>>(&mut self, name: &str) -> Result<Vec<Setting<T>>> {
        self.texts(name)?.iter().map(|text| self.typed_template_of(name, text)).collect()
    }

    /// An object of templates.
    pub(super) fn named_templates(&mut self, name: &str) -> Result<Vec<(String, Setting<String>)>> {
        let Some(mut inner) = self.object(name)? else { return Ok(Vec::new()) };
        let names: Vec<String> = inner.members.keys().cloned().collect();
        let named = names.into_iter().map(|name| Ok(inner.template(&name)?.map(|template| (name, template))));
        named.filter_map(Result::transpose).collect()
    }

    /// A text may be anything, a password too, so that it is not told.
    fn template_of(&self, name: &str, text: &str) -> Result<Setting<String>> {
        let what = "is no template: a brace that is no part of {name} or {name:-default} must be doubled";
        Setting::template(text).map_err(|_| self.wrong(name, what))
    }

    fn typed_template_of<T: FromStr<Err: Into<BoxError>>>(&self, name: &str, text: &str) -> Result<Setting<T>> {
        Setting::template(text).map_err(|error| self.wrong(name, error))
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(word) = self.text(name)? else { return Ok(None) };
        let found = words.iter().find(|(known, _)| *known == word).map(|(_, value)| *value);
        let all: Vec<_> = words.iter().map(|(known, _)| *known).collect();
        found.map(Some).ok_or_else(|| self.wrong(name, format!("must be one of {}", all.join(", "))))
    }

    /// What must be there.
    pub(super) fn needed<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// Whatever JSON it is.
    pub(super) fn json(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name)
    }

    /// Nothing is left that nobody knows.
    pub(super) fn end(self) -> Result<()> {
        match self.members.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.wrong(name, "there is no such setting")),
        }
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn list(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}
