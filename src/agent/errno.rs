//! What the codes of failed file commands mean, on both sides of the wire: those of `errno.h`, as far as all systems have
//! the same.

use std::io::ErrorKind;

const CODES: &[(i64, ErrorKind)] = &[
    (2, ErrorKind::NotFound),
    (13, ErrorKind::PermissionDenied),
    (17, ErrorKind::AlreadyExists),
    (20, ErrorKind::NotADirectory),
    (21, ErrorKind::IsADirectory),
    (22, ErrorKind::InvalidInput),
    (28, ErrorKind::StorageFull),
    (30, ErrorKind::ReadOnlyFilesystem),
];

/// Also what a worker says that does not know more.
const OTHER: i64 = 1;

pub(super) fn kind_of(code: i64) -> ErrorKind {
    CODES.iter().find(|(known, _)| *known == code).map_or(ErrorKind::Other, |(_, kind)| *kind)
}

pub(super) fn code_of(kind: ErrorKind) -> i64 {
    CODES.iter().find(|(_, known)| *known == kind).map_or(OTHER, |(code, _)| *code)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_this_system_too() {
        for (code, kind) in CODES {
            assert_eq!(std::io::Error::from_raw_os_error(i32::try_from(*code).unwrap()).kind(), *kind);
            assert_eq!((kind_of(*code), code_of(*kind)), (*kind, *code));
        }
        assert_eq!((kind_of(-7), code_of(ErrorKind::TimedOut)), (ErrorKind::Other, OTHER));
    }
}
