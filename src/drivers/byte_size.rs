//! An amount of memory or disk, as people write it.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

const UNITS: &[(char, u32)] = &[('k', 10), ('m', 20), ('g', 30), ('t', 40)];

/// An amount of memory in bytes. As text it is a whole number and a unit: `512M`, `2g`, `1073741824`; `k`, `m`, `g` and
/// `t` are powers of 1024, and a `b` or `ib` after them changes nothing.
///
/// ```
/// use latent_worker::ByteSize;
///
/// let size: ByteSize = "2G".parse()?;
/// assert_eq!(size, ByteSize::new(2 << 30));
/// assert_eq!(size.to_string(), "2G");
/// # Ok::<(), latent_worker::ByteSizeError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSize(u64);

impl ByteSize {
    /// So many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

/// With the largest unit that leaves a whole number.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, shift): &&(char, u32)| self.0 != 0 && self.0.trailing_zeros() >= *shift;
        match UNITS.iter().rev().find(whole) {
            Some((unit, shift)) => write!(f, "{}{}", self.0 >> shift, unit.to_ascii_uppercase()),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let wrong = || ByteSizeError { text: text.into() };
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit = unit.trim().to_ascii_lowercase();
        let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
            "" => 0,
            unit => UNITS.iter().find(|(letter, _)| unit.strip_prefix(*letter) == Some("")).ok_or_else(wrong)?.1,
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

/// A text that is no [`ByteSize`].
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{text:?} is no amount of memory; write a whole number with k, m, g or t, such as 512M")]
pub struct ByteSizeError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("5b", 5), ("1k", 1024), ("64M", 64 << 20), ("2 GiB", 2 << 30), ("1tb", 1 << 40)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "M", "-1", "1.5g", "1x", "1kk", "99999999999999999999", "99999999t", "1bib"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("no amount of memory"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_written_so_that_they_are_read_again() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..10_000 {
            let size = ByteSize(random.u64(..) >> random.u32(..64) << random.u32(..40) >> 1);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
