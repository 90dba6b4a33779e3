//! Makes text from other programs and users safe to show in events, errors, logs and on terminals.

use std::borrow::Cow;

/// The longest text, in characters; longer texts are cut.
const LIMIT: usize = 8192;

/// Returns `text` without characters that a terminal or a log viewer would interpret instead of show.
///
/// Tabs and line ends become spaces, so that the result is one line. Other control characters (escape sequences begin
/// with one), characters that change the direction of text, and characters without width become `U+FFFD`. A text of
/// more than 8192 characters is cut and ends with `…`.
///
/// The library does this to every text of a driver, an agent, a program or a provider before it appears in an event, a
/// status, an error or the log. The output of a build's commands is not changed: pass it through this function before
/// you show it, or show it as bytes.
///
/// ```
/// use latent_worker::printable;
///
/// assert_eq!(printable("no such image"), "no such image");
/// assert_eq!(printable("\u{1b}]0;title\u{7} two\nlines"), "\u{fffd}]0;title\u{fffd} two lines");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_long = text.len() > LIMIT && text.chars().nth(LIMIT).is_some();
    if !is_long && text.chars().all(|character| shown(character) == character) {
        return Cow::Borrowed(text);
    }
    let mut clean: String = text.chars().take(LIMIT).map(shown).collect();
    if is_long {
        clean.push('…');
    }
    Cow::Owned(clean)
}

fn shown(character: char) -> char {
    match character {
        '\t' | '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => ' ',
        _ if character.is_control() => char::REPLACEMENT_CHARACTER,
        // Direction, joiners and spaces without width, annotations, byte order marks and tags.
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => char::REPLACEMENT_CHARACTER,
        _ => character,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_shown_stays_as_it_is() {
        for text in ["", "a b", "Grüße, 世界 🎉", "e\u{301}", "\u{fffd}"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
    }

    #[test]
    fn no_character_that_is_obeyed_remains() {
        let forbidden = |character: char| {
            character.is_control() || "\u{2028}\u{2029}\u{202e}\u{2066}\u{200b}\u{feff}".contains(character)
        };
        for character in (0..=0x10_ffff).filter_map(char::from_u32) {
            let text = format!("a{character}b");
            let clean = printable(&text);
            assert!(!clean.contains(forbidden), "{text:?}");
            assert_eq!(clean.chars().count(), 3);
            assert_eq!(printable(&clean), clean, "cleaned twice is cleaned once");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let limit = "ü".repeat(LIMIT);
        assert_eq!(printable(&limit), limit);
        assert_eq!(printable(&(limit.clone() + "!")), limit + "…");
    }
}
