//! Parses numbers of a command line. Each has a range; errors name the option, the value and the range.

#![allow(dead_code, reason = "every example uses its own part of this")]

use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest time that a command line accepts: a year.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Reads a whole number.
pub(crate) fn whole(option: &str, value: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    // `parse` accepts a plus sign, unlike other tools.
    let number = if value.starts_with('+') { None } else { value.parse().ok() };
    number.filter(|number| range.contains(number)).ok_or_else(|| {
        format!("invalid {option} {value:?}: use a whole number from {} to {}", range.start(), range.end())
    })
}

/// Reads a time in seconds, which may have a fraction.
pub(crate) fn seconds(option: &str, value: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let time = value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.filter(|time| range.contains(time)).ok_or_else(|| {
        let (least, most) = (range.start().as_secs_f64(), range.end().as_secs_f64());
        format!("invalid {option} {value:?}: use seconds from {least} to {most}")
    })
}

/// Splits HOST:PORT. The host may be an IPv6 address in brackets.
pub(crate) fn host_and_port<'a>(
    option: &str,
    value: &'a str,
    ports: RangeInclusive<u32>,
) -> Result<(&'a str, u16), String> {
    let parts = value.rsplit_once(':').filter(|(host, _)| !host.is_empty() && is_one_host(host));
    let (host, port) =
        parts.ok_or_else(|| format!("invalid {option} {value:?}: use HOST:PORT, or [ADDRESS]:PORT for IPv6"))?;
    let port = whole(&format!("port of {option}"), port, ports)?;
    Ok((host, u16::try_from(port).map_err(|error| format!("invalid {option} {value:?}: {error}"))?))
}

/// Without brackets, the last part of an IPv6 address cannot be distinguished from a port.
fn is_one_host(host: &str) -> bool {
    !host.contains(':') || (host.starts_with('[') && host.ends_with(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_has_digits_alone_and_is_in_its_range() {
        assert_eq!(whole("--n", "1", 1..=9), Ok(1));
        assert_eq!(whole("--n", "9", 1..=9), Ok(9));
        for value in ["", "0", "10", "-1", "+1", " 1", "1.0", "1e0", "0x1", "4294967296", "99999999999999999999"] {
            let error = whole("--n", value, 1..=9).expect_err(value);
            assert!(error.contains("--n") && error.contains(value) && error.contains('9'), "{error}");
        }
    }

    #[test]
    fn a_time_is_finite_and_in_its_range() {
        let range = Duration::from_millis(1)..=LONGEST;
        assert_eq!(seconds("--t", "1.5", range.clone()), Ok(Duration::from_millis(1500)));
        assert_eq!(seconds("--t", "31536000", range.clone()), Ok(LONGEST));
        for value in ["", "0", "-1", "1e-300", "31536001", "1e300", "1e308", "inf", "NaN", "soon", "1 s"] {
            let error = seconds("--t", value, range.clone()).expect_err(value);
            assert_eq!(error, format!("invalid --t {value:?}: use seconds from 0.001 to 31536000"));
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        assert_eq!(host_and_port("--at", "host:0", 0..=65535), Ok(("host", 0)));
        assert_eq!(host_and_port("--at", "[::1]:65535", 0..=65535), Ok(("[::1]", 65535)));
        for value in ["", "9989", ":9989", "::1", "::1:80", "host:", "host:65536", "host:+80", "host:-1", "host:80 "] {
            let error = host_and_port("--at", value, 0..=65535).expect_err(value);
            assert!(error.contains("--at"), "{error}");
        }
        assert!(host_and_port("--at", "host:0", 1..=65535).is_err());
    }
}
