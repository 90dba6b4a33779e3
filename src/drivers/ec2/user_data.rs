//! What a machine is told when it boots: a text of the user's, in which the driver fills in where the master is and who the
//! agent is.
//!
//! Pure; a writer is needed for the compression, in memory.

use std::io::Write as _;

use data_encoding::BASE64;
use flate2::{Compression, GzBuilder};

/// "User data is limited to 16 KB, in raw form, before it is base64-encoded" (Amazon EC2 User Guide).
const LONGEST: usize = 16 * 1024;

const BEGIN: &str = "@LATENT_WORKER_";

/// What can be filled in. The names are those of the variables that other drivers set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Blank {
    Master,
    MasterHost,
    MasterPort,
    Name,
    Secret,
    SecretParameter,
    Key,
    Epoch,
    Owner,
    Region,
}

impl Blank {
    const ALL: [(&'static str, Self); 10] = [
        ("MASTER", Self::Master),
        ("MASTER_HOST", Self::MasterHost),
        ("MASTER_PORT", Self::MasterPort),
        ("NAME", Self::Name),
        ("SECRET", Self::Secret),
        ("SECRET_PARAMETER", Self::SecretParameter),
        ("KEY", Self::Key),
        ("EPOCH", Self::Epoch),
        ("OWNER", Self::Owner),
        ("REGION", Self::Region),
    ];
}

/// The pieces of a text: what is taken as it is, and what is to be filled in.
fn pieces(text: &str) -> impl Iterator<Item = Result<Piece<'_>, String>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.find(BEGIN).unwrap_or(rest.len());
        if at > 0 {
            let (before, after) = rest.split_at(at);
            rest = after;
            return Some(Ok(Piece::Text(before)));
        }
        let name_on = &rest[BEGIN.len()..];
        let end = name_on.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(name_on.len());
        let (name, after) = name_on.split_at(end);
        let Some(after) = after.strip_prefix('@') else {
            let wrong = format!("{BEGIN}{name} has no @ at its end");
            rest = "";
            return Some(Err(wrong));
        };
        rest = after;
        let known = Blank::ALL.iter().find(|(known, _)| *known == name).map(|(_, blank)| Piece::Blank(*blank));
        Some(known.ok_or_else(|| {
            let names: Vec<_> = Blank::ALL.iter().map(|(name, _)| *name).collect();
            format!("{BEGIN}{name}@ is unknown; after {BEGIN} can be {}", names.join(", "))
        }))
    })
}

enum Piece<'a> {
    Text(&'a str),
    Blank(Blank),
}

/// What is to be filled in into a text.
pub(super) fn blanks(text: &str) -> Result<Vec<Blank>, String> {
    let blanks = pieces(text).filter_map(|piece| match piece {
        Ok(Piece::Text(_)) => None,
        Ok(Piece::Blank(blank)) => Some(Ok(blank)),
        Err(error) => Some(Err(error)),
    });
    blanks.collect()
}

/// The text with everything filled in.
pub(super) fn fill(text: &str, value: impl Fn(Blank) -> Result<String, String>) -> Result<String, String> {
    let mut filled = String::new();
    for piece in pieces(text) {
        match piece? {
            Piece::Text(text) => filled.push_str(text),
            Piece::Blank(blank) => filled.push_str(&value(blank)?),
        }
    }
    Ok(filled)
}

/// As a launch has it: in base 64; compressed, if it would be too long otherwise.
pub(super) fn encode(text: &str) -> Result<String, String> {
    if text.len() <= LONGEST {
        return Ok(BASE64.encode(text.as_bytes()));
    }
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    let compressed = gzip.write_all(text.as_bytes()).and_then(|()| gzip.finish());
    let compressed = compressed.map_err(|error| format!("it cannot be compressed: {error}"))?;
    if compressed.len() > LONGEST {
        return Err(format!(
            "it has {} bytes, and {} when compressed; a machine can be told {LONGEST} at most: put the rest where it can fetch \
             it",
            text.len(),
            compressed.len()
        ));
    }
    Ok(BASE64.encode(&compressed))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        fill(text, |blank| Ok(format!("<{blank:?}>")))
    }

    #[test]
    fn what_is_known_is_filled_in_and_the_rest_stays() {
        for (text, expected) in [
            ("", ""),
            ("#!/bin/sh\necho ${A} {b} @c@\n", "#!/bin/sh\necho ${A} {b} @c@\n"),
            ("a @LATENT_WORKER_MASTER@ b", "a <Master> b"),
            ("@LATENT_WORKER_NAME@@LATENT_WORKER_SECRET@", "<Name><Secret>"),
            ("x@LATENT_WORKER_SECRET_PARAMETER@y", "x<SecretParameter>y"),
            ("@LATENT_WORKER_MASTER_HOST@:@LATENT_WORKER_MASTER_PORT@", "<MasterHost>:<MasterPort>"),
            ("ü@LATENT_WORKER_KEY@ü", "ü<Key>ü"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_not_known_is_told_and_not_sent() {
        for wrong in ["@LATENT_WORKER_PASSWORD@", "@LATENT_WORKER_@", "a@LATENT_WORKER_NAME", "@LATENT_WORKER_NAME x"] {
            assert!(filled(wrong).unwrap_err().contains("LATENT_WORKER_"), "{wrong}");
            assert!(blanks(wrong).is_err());
        }
        assert_eq!(blanks("a@LATENT_WORKER_KEY@b"), Ok(vec![Blank::Key]));
    }

    #[test]
    fn what_is_filled_in_is_not_looked_at_again() {
        assert_eq!(
            fill("@LATENT_WORKER_NAME@", |_| Ok("@LATENT_WORKER_SECRET@".into())).unwrap(),
            "@LATENT_WORKER_SECRET@"
        );
    }

    fn decoded(text: &str) -> String {
        let bytes = BASE64.decode(encode(text).unwrap().as_bytes()).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut plain = String::new();
            flate2::read::GzDecoder::new(&*bytes).read_to_string(&mut plain).unwrap();
            return plain;
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn it_is_compressed_only_when_it_must_be() {
        let short = "x".repeat(LONGEST);
        assert_eq!(BASE64.decode(encode(&short).unwrap().as_bytes()).unwrap(), short.as_bytes());
        let long = "echo hello\n".repeat(5000);
        assert!(encode(&long).unwrap().len() < LONGEST);
        assert_eq!((decoded(&short), decoded(&long), decoded("")), (short, long, String::new()));
        let mut random = fastrand::Rng::with_seed(1);
        let noise: String = (0..LONGEST * 2).map(|_| random.alphanumeric()).collect();
        assert!(encode(&noise).unwrap_err().contains("when compressed"));
    }
}
