//! Points in time as the provider writes them: seconds since 1970 in UTC, without leap seconds.
//!
//! Pure: no clock is read here. The calendar is that of "chrono-Compatible Low-Level Date Algorithms" (Howard Hinnant).

/// Seconds since the beginning of 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Timestamp(pub(super) i64);

const DAY: i64 = 86_400;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Timestamp {
    /// `20150830T123600Z`, as signatures have it.
    pub(super) fn basic(self) -> String {
        let (year, month, day) = civil(self.0.div_euclid(DAY));
        let second = self.0.rem_euclid(DAY);
        format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60)
    }

    /// `2015-08-30T12:36:00Z`.
    pub(super) fn iso8601(self) -> String {
        let (year, month, day) = civil(self.0.div_euclid(DAY));
        let second = self.0.rem_euclid(DAY);
        format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
    }

    /// `2015-08-30T12:36:00Z`, with a fraction or without.
    pub(super) fn from_iso8601(text: &str) -> Option<Self> {
        let (date, time) =
            text.trim().strip_suffix('Z').or_else(|| text.trim().strip_suffix("+00:00"))?.split_once('T')?;
        let time = time.split_once('.').map_or(time, |(whole, _)| whole);
        Self::of(&numbers(date, '-')?, &numbers(time, ':')?)
    }

    /// `Sun, 30 Aug 2015 12:36:00 GMT`, as the `Date` of an answer has it (RFC 9110, 5.6.7).
    pub(super) fn from_http_date(text: &str) -> Option<Self> {
        let rest = text.split_once(", ")?.1.strip_suffix(" GMT")?;
        let [day, month, year, time] = rest.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let month = MONTHS.iter().position(|its| *its == month)?;
        let date = [year.parse().ok()?, i64::try_from(month).ok()? + 1, day.parse().ok()?];
        Self::of(&date, &numbers(time, ':')?)
    }

    fn of(date: &[i64; 3], time: &[i64; 3]) -> Option<Self> {
        let ([year, month, day], [hour, minute, second]) = (*date, *time);
        let within = (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && (1970..=9999).contains(&year)
            && (0..24).contains(&hour)
            && (0..60).contains(&minute)
            && (0..=60).contains(&second);
        within.then(|| Self(days(year, month, day) * DAY + hour * 3600 + minute * 60 + second))
    }
}

fn numbers(text: &str, between: char) -> Option<[i64; 3]> {
    let numbers: Option<Vec<i64>> = text.split(between).map(|number| number.parse().ok()).collect();
    numbers?.try_into().ok()
}

/// Days since the beginning of 1970.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_and_read() {
        let time = Timestamp(1_440_938_160);
        assert_eq!(time.basic(), "20150830T123600Z");
        assert_eq!(Timestamp::from_iso8601("2015-08-30T12:36:00Z"), Some(time));
        assert_eq!(Timestamp::from_iso8601("2015-08-30T12:36:00.123Z"), Some(time));
        assert_eq!(Timestamp::from_iso8601("2015-08-30T12:36:00+00:00"), Some(time));
        assert_eq!(Timestamp::from_http_date("Sun, 30 Aug 2015 12:36:00 GMT"), Some(time));
        for bad in ["", "2015-08-30", "2015-13-30T12:36:00Z", "2015-08-30T25:36:00Z", "2015-08-30T12:36Z", "x"] {
            assert_eq!(Timestamp::from_iso8601(bad), None, "{bad}");
        }
        for bad in ["", "Sun, 30 Aug 2015 12:36:00", "Sun, 30 Xyz 2015 12:36:00 GMT", "Sunday, 30-Aug-15 12:36:00 GMT"]
        {
            assert_eq!(Timestamp::from_http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_calendar_is_right_from_1970_to_2400() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for number in 0..157_000 {
            assert_eq!(civil(number), (year, month, day));
            assert_eq!(days(year, month, day), number);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + i64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
