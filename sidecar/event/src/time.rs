//! When something happened.

use std::{fmt, time::Duration};

/// Nanoseconds since 1970-01-01T00:00:00Z, from the year 1677 to 2262; leap seconds are not counted, as in Unix time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From nanoseconds since the epoch.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From seconds since the epoch; out of range saturates, NaN is the epoch.
    pub fn from_seconds(seconds: f64) -> Self {
        Self((seconds * 1e9) as i64)
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Seconds since the epoch, to the precision of an `f64` (about 0.2 us today).
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// This time plus `span`; saturates.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero where it is not after.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The start of the span of `size` this falls in, counted from the epoch: where tumbling windows begin.
    pub fn floor(self, size: Duration) -> Self {
        let size = i64::try_from(size.as_nanos()).unwrap_or(i64::MAX).max(1);
        Self(self.0.saturating_sub(self.0.rem_euclid(size)))
    }
}

/// RFC 3339 in UTC with as many fraction digits as are needed: none, three, six or nine.
impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, nanos_of_day) = (self.0.div_euclid(DAY_NANOS), self.0.rem_euclid(DAY_NANOS));
        let (year, month, day) = civil_from_days(days);
        let (seconds, nanos) = (nanos_of_day / 1_000_000_000, nanos_of_day % 1_000_000_000);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match nanos {
            0 => {}
            n if n % 1_000_000 == 0 => write!(out, ".{:03}", n / 1_000_000)?,
            n if n % 1_000 == 0 => write!(out, ".{:06}", n / 1_000)?,
            n => write!(out, ".{n:09}")?,
        }
        out.write_str("Z")
    }
}

/// Year, month and day of a day counted from the epoch: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

const DAY_NANOS: i64 = 86_400_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339() {
        let written = |nanos| Timestamp::from_nanos(nanos).to_string();
        assert_eq!(written(0), "1970-01-01T00:00:00Z");
        assert_eq!(written(1_709_210_096_500_000_000), "2024-02-29T12:34:56.500Z");
        assert_eq!(written(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(written(1_000), "1970-01-01T00:00:00.000001Z");
    }

    #[test]
    fn a_window_starts_at_a_multiple_of_its_size_also_before_the_epoch() {
        let minute = Duration::from_secs(60);
        let floor = |seconds: f64| Timestamp::from_seconds(seconds).floor(minute).as_seconds();
        assert_eq!(floor(61.5), 60.0);
        assert_eq!(floor(60.0), 60.0);
        assert_eq!(floor(-0.5), -60.0);
    }
}
