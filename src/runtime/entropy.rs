//! Randomness from the operating system, for secrets, keys and the pauses between tries. Nothing else here is random.

use std::io;

/// `N` random bytes as hexadecimal digits.
pub(crate) fn hex<const N: usize>() -> io::Result<String> {
    let mut bytes = [0_u8; N];
    fill(&mut bytes)?;
    Ok(bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect())
}

/// A seed of a sequence of numbers that look random; always the same when the system has no random numbers.
pub(super) fn seed() -> u64 {
    let mut bytes = [0_u8; 8];
    fill(&mut bytes).map_or(0, |()| u64::from_le_bytes(bytes))
}

/// A random number in 0..1; one half when there is none to be had.
pub(super) fn fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    match fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}

/// A file of the system is all it takes, so that the core needs no crate for it.
#[cfg(unix)]
fn fill(bytes: &mut [u8]) -> io::Result<()> {
    use std::fs::File;
    use std::io::Read;
    use std::sync::OnceLock;

    static SOURCE: OnceLock<File> = OnceLock::new();
    let mut source = match SOURCE.get() {
        Some(source) => source,
        None => {
            let opened = File::open("/dev/urandom")?;
            SOURCE.get_or_init(|| opened)
        }
    };
    source.read_exact(bytes)
}

#[cfg(not(unix))]
fn fill(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a1_secrets_have_256_bits_and_differ() {
        let (a, b) = (super::hex::<32>().unwrap(), super::hex::<32>().unwrap());
        assert_eq!(a.len(), 64);
        assert!(a.bytes().all(|digit| digit.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }
}
