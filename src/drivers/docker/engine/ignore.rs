//! `.dockerignore`: which files of a context are left out. Pure.
//!
//! As the docker command reads it (moby/patternmatcher): a pattern also covers what is below what it matches, `**` goes
//! over directories, `!` takes back, and the last pattern that says something about a path decides.

#[derive(Debug, Default)]
pub(super) struct Ignored {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    takes_back: bool,
    tokens: Vec<Token>,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`: one character, no slash.
    One,
    /// `*`: any number of characters, no slash.
    Many,
    /// `**`: anything.
    Anything,
    /// `**/`: nothing, or anything that ends with a slash.
    Directories,
    /// `[a-z]`, `[^a-z]`.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignored {
    /// The error names the line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut patterns = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (takes_back, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let pattern = cleaned(pattern);
            if pattern.is_empty() {
                if takes_back {
                    return Err(format!("{line:?} takes nothing back"));
                }
                continue;
            }
            let tokens = tokens(&pattern).ok_or_else(|| format!("the pattern {line:?} is not complete"))?;
            patterns.push(Pattern { takes_back, tokens });
        }
        Ok(Self { patterns })
    }

    /// Whether the path (relative, with `/`) is left out.
    pub(super) fn covers(&self, path: &str) -> bool {
        let mut covered = false;
        for pattern in &self.patterns {
            // Only what would change something is looked at.
            if covered == pattern.takes_back && pattern.covers(path) {
                covered = !pattern.takes_back;
            }
        }
        covered
    }

    /// Whether something below a directory that is left out may be taken back.
    pub(super) fn takes_back(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.takes_back)
    }
}

impl Pattern {
    /// The path or something above it.
    fn covers(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        ends.into_iter().any(|end| matches(&self.tokens, &path[..end]))
    }
}

/// Without `.`, `..`, and slashes that say nothing: a path from the root of the context.
fn cleaned(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// None: something is missing at the end.
fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        tokens.push(match character {
            '*' => {
                let mut stars = 1;
                while characters.next_if_eq(&'*').is_some() {
                    stars += 1;
                }
                match stars {
                    1 => Token::Many,
                    _ if characters.next_if_eq(&'/').is_some() => Token::Directories,
                    _ => Token::Anything,
                }
            }
            '?' => Token::One,
            '\\' => Token::Literal(characters.next()?),
            '[' => {
                let negated = characters.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let mut one = || match characters.next()? {
                        '\\' => characters.next().map(|escaped| (escaped, true)),
                        plain => Some((plain, false)),
                    };
                    let (low, escaped) = one()?;
                    if low == ']' && !escaped && !ranges.is_empty() {
                        break;
                    }
                    let high = match characters.next_if_eq(&'-') {
                        Some(_) => match characters.next()? {
                            '\\' => characters.next()?,
                            ']' => return None,
                            high => high,
                        },
                        None => low,
                    };
                    ranges.push((low, high));
                }
                Token::Class { negated, ranges }
            }
            _ => Token::Literal(character),
        });
    }
    Some(tokens)
}

/// Whether the whole path is what the tokens say. All ways are followed at once, so it takes no longer than the product
/// of both lengths.
fn matches(tokens: &[Token], path: &str) -> bool {
    // Which tokens may come next.
    let mut next = vec![false; tokens.len() + 1];
    let mut after = next.clone();
    // Where only the beginning of a part of the path will do, because `**/` stands before it.
    next[0] = true;
    skip(tokens, &mut next, true);
    for character in path.chars() {
        after.fill(false);
        for (at, token) in tokens.iter().enumerate().filter(|(at, _)| next[*at]) {
            match token {
                Token::Literal(wanted) => after[at + 1] |= *wanted == character,
                Token::One => after[at + 1] |= character != '/',
                Token::Many => after[at] |= character != '/',
                Token::Anything | Token::Directories => after[at] = true,
                Token::Class { negated, ranges } => {
                    let within = ranges.iter().any(|(low, high)| (*low..=*high).contains(&character));
                    after[at + 1] |= within != *negated && character != '/';
                }
            }
        }
        std::mem::swap(&mut next, &mut after);
        skip(tokens, &mut next, character == '/');
    }
    next[tokens.len()]
}

/// Tokens that may match nothing may be passed over; `**/` only where a part of the path begins.
fn skip(tokens: &[Token], next: &mut [bool], at_beginning: bool) {
    for (at, token) in tokens.iter().enumerate() {
        if next[at] {
            next[at + 1] |= match token {
                Token::Many | Token::Anything => true,
                Token::Directories => at_beginning,
                _ => false,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, left_out: &[&str], kept: &[&str]) {
        let ignored = Ignored::parse(text).unwrap();
        for path in left_out {
            assert!(ignored.covers(path), "{text:?} should leave out {path}");
        }
        for path in kept {
            assert!(!ignored.covers(path), "{text:?} should keep {path}");
        }
    }

    #[test]
    fn a_pattern_is_a_path_from_the_root_and_covers_what_is_below() {
        check("target", &["target", "target/debug/x"], &["a/target", "target2", "my-target"]);
        check("/a/./b/../c/", &["a/c", "a/c/d"], &["a/b", "c"]);
        check("# target\n\n  \n.\n", &[], &["target", "# target"]);
    }

    #[test]
    fn stars_and_question_marks_stay_in_one_directory() {
        check("*.o", &["x.o", ".o"], &["a/x.o", "x.oo"]);
        check("*/x?", &["a/x1", "a/x1/b"], &["x1", "a/b/x1", "a/x"]);
        check("a*b*c", &["abc", "aXbYc", "abbc"], &["ab", "a/bc", "abcd"]);
    }

    #[test]
    fn two_stars_go_over_directories() {
        check("**/*.o", &["x.o", "a/x.o", "a/b/x.o"], &["x.c"]);
        check("**/node_modules", &["node_modules", "a/node_modules/x"], &["a/my_node_modules", "node_modules2"]);
        check("a/**/z", &["a/z", "a/b/z", "a/b/c/z"], &["z", "b/z", "a/bz"]);
        check("a/**", &["a/b", "a/b/c"], &["b"]);
        check("**", &["a", "a/b"], &[]);
    }

    #[test]
    fn classes_and_escapes() {
        check("x[0-9a]", &["x0", "xa"], &["xb", "x", "x00"]);
        check("x[^0-9]", &["xa"], &["x0", "x/"]);
        check(r"x\*", &["x*"], &["xy"]);
        check(r"[\]]", &["]"], &["["]);
        for text in ["[a", "[", r"a\", "[a-]", "!"] {
            assert!(Ignored::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        check("*\n!src\nsrc/secret", &["a", "src/secret"], &["src", "src/x"]);
        check("docs\n!docs/README.md", &["docs", "docs/x"], &["docs/README.md"]);
        check("!a\na", &["a"], &[]);
    }

    /// Patterns are matched without going back: this would take for ever otherwise.
    #[test]
    fn many_stars_are_no_trouble() {
        let pattern = "a*".repeat(50) + "b";
        check(&pattern, &[], &[&"a".repeat(10_000)]);
    }
}
