//! The name of a kind: what a driver makes of a build's properties, in few words and without secrets.
//!
//! Pure, but for the key of the digest.

use std::collections::hash_map::RandomState;
use std::fmt::{Debug, Write};
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;
#[cfg(feature = "ec2")]
use std::{fmt::Display, str::FromStr};

use crate::Kind;

/// A longer name is cut, and ends with a digest of all of it.
const LONGEST: usize = 200;

/// Collects what makes a difference. Two names are the same exactly when the same was shown and hidden, in the same order.
#[derive(Default)]
pub(super) struct KindName {
    shown: String,
    hidden: String,
}

impl KindName {
    /// A value that people may see. Its `Debug` must tell it from all others; with the quotes of a text, say.
    pub(super) fn show(&mut self, name: &str, value: &dyn Debug) {
        let separator = if self.shown.is_empty() { "" } else { " " };
        write!(self.shown, "{separator}{name}={value:?}").expect("a String can be written to");
    }

    /// A value that people may see as they write it.
    #[cfg(feature = "ec2")]
    pub(super) fn show_parsed<T: Debug + Display + FromStr + PartialEq>(&mut self, name: &str, value: &T) {
        let text = value.to_string();
        self.show(name, &text);
        // The text tells it from all others when it can be read back.
        if text.parse().ok().as_ref() != Some(value) {
            self.hide(name, value);
        }
    }

    /// A value that nobody may see, such as a secret, or that nobody could read. Its `Debug` must tell it from all others.
    #[cfg_attr(
        not(any(feature = "docker", feature = "ec2")),
        allow(dead_code, reason = "the others have nothing to hide")
    )]
    pub(super) fn hide(&mut self, name: &str, value: &dyn Debug) {
        write!(self.hidden, "{name}={value:?} ").expect("a String can be written to");
    }

    pub(super) fn kind(mut self) -> Kind {
        if self.shown.len() > LONGEST {
            write!(self.hidden, "{}", self.shown).expect("a String can be written to");
            let boundary = (0..=LONGEST).rev().find(|at| self.shown.is_char_boundary(*at));
            self.shown.truncate(boundary.unwrap_or(0));
            self.shown.push('…');
        }
        if !self.hidden.is_empty() {
            let digest = digest(&self.hidden);
            self.show("digest", &format_args!("{digest}"));
        }
        Kind::new(self.shown)
    }
}

/// 128 bits that tell nothing of the text, however few texts it may be one of: the key is random and belongs to this
/// process.
fn digest(text: &str) -> String {
    static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
    let half = |key: &RandomState| {
        let mut hasher = key.build_hasher();
        hasher.write(text.as_bytes());
        hasher.finish()
    };
    let [first, second] = KEYS.get_or_init(Default::default).each_ref().map(half);
    format!("{first:016x}{second:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(build: impl FnOnce(&mut KindName)) -> String {
        let mut name = KindName::default();
        build(&mut name);
        name.kind().name().unwrap().to_string()
    }

    #[test]
    fn a_name_shows_what_may_be_seen_and_nothing_else() {
        let shown = name(|name| {
            name.show("image", &"rust:1.89");
            name.show("memory", &format_args!("2G"));
        });
        assert_eq!(shown, "image=\"rust:1.89\" memory=2G");
        let hides = |secret: &str| {
            name(|name| {
                name.show("image", &"rust");
                name.hide("variables", &secret);
            })
        };
        let hidden = hides("hunter2");
        assert!(hidden.starts_with("image=\"rust\" digest=") && hidden.len() == 20 + 32, "{hidden}");
        assert_eq!(hidden, hides("hunter2"));
        assert_ne!(hidden, hides("hunter3"));
        assert_eq!(name(|_| {}), "");
    }

    #[test]
    fn a_long_name_is_cut_and_still_tells_the_difference() {
        let long = |end: &str| name(|name| name.show("command", &format!("{}{end}", "ü".repeat(150))));
        let shown = long("a");
        assert!(shown.len() < LONGEST + 60 && shown.contains("… digest="), "{shown}");
        assert_eq!(shown, long("a"));
        assert_ne!(shown, long("b"));
    }
}
