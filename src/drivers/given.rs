//! Checks the values that a user passes to a driver in a setting, a variable of the environment or a file.
//!
//! Pure. Most values are used in a header, an address or a path far from where they were read. Invalid values are
//! rejected here, where their origin is known. Errors do not repeat the value, which may be a secret.

#![cfg_attr(not(all(feature = "docker", feature = "ec2")), allow(dead_code, reason = "neither driver needs all of it"))]

/// Checks a value that may be any text, such as a path.
pub(super) fn check_text(value: &str) -> Result<(), &'static str> {
    if value.is_empty() {
        Err("is empty")
    } else if value.contains(char::is_control) {
        Err("contains a control character, such as a line break")
    } else if value.starts_with('\u{feff}') {
        Err("begins with a byte order mark")
    } else if value.trim() != value {
        Err("begins or ends with white space")
    } else {
        Ok(())
    }
}

/// Checks a value that is sent in a header or is a part of an address.
pub(super) fn check_word(value: &str) -> Result<(), &'static str> {
    check_text(value)?;
    if value.is_ascii() { Ok(()) } else { Err("contains a character that is not ASCII") }
}

/// Returns an address for an error, without its user and password.
pub(super) fn without_password(address: &str) -> String {
    match address.rsplit_once('@') {
        None => address.into(),
        Some((_, rest)) => format!("…@{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_value_is_told_without_it() {
        for (value, problem) in [
            ("", "is empty"),
            ("AKID\n", "control character"),
            ("\rAKID", "control character"),
            ("AK\0ID", "control character"),
            ("AKID\t", "control character"),
            ("\u{feff}AKID", "byte order mark"),
            (" AKID", "white space"),
            ("AKID ", "white space"),
            ("AKID\u{a0}", "white space"),
        ] {
            let why = check_text(value).unwrap_err();
            assert!(why.contains(problem) && !why.contains("AKID"), "{value:?}: {why}");
        }
        assert!(check_text("/home/größe x").is_ok() && check_word("/home/größe").is_err() && check_word("a b").is_ok());
    }

    #[test]
    fn a_password_is_not_part_of_a_shown_address() {
        assert_eq!(without_password("tcp://robot:hush@h:1/x"), "…@h:1/x");
        assert_eq!(without_password("tcp://robot:hu@sh@h:1"), "…@h:1");
        assert_eq!(without_password("tcp://h:1"), "tcp://h:1");
    }
}
