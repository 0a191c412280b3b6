//! A place in a dnpipe, as people write it.

use std::str::FromStr;

use chrono::DateTime;
use sidestream_client::From;
use sidestream_plan::Duration;

/// Where to begin to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    /// A place that is known.
    At(From),
    /// So long ago.
    Ago(Duration),
}

impl Place {
    /// As the protocol says it. `now` is the time in nanoseconds since 1970.
    pub(crate) fn from(self, now: i64) -> From {
        match self {
            Place::At(from) => from,
            Place::Ago(span) => {
                From::Time(now.saturating_sub(i64::try_from(span.get().as_nanos()).unwrap_or(i64::MAX)))
            }
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let at = |from| Ok(Place::At(from));
        match text {
            "start" => return at(From::First(0)),
            "end" => return at(From::Last(0)),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return at(From::Offset(offset));
        }
        if let Ok(span) = text.parse() {
            return Ok(Place::Ago(span));
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            // Beyond what nanoseconds can say, it is before or after everything.
            let beyond = if time.timestamp() < 0 { i64::MIN } else { i64::MAX };
            return at(From::Time(time.timestamp_nanos_opt().unwrap_or(beyond)));
        }
        Err("this is no place; write `start`, `end`, an offset such as `42`, a time such as `2026-11-21T20:00:00Z`, or \
             how long ago, such as `5m`"
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_end_an_offset_a_time_or_so_long_ago() {
        let read = |text: &str| text.parse::<Place>().unwrap().from(600_000_000_000);
        assert_eq!(read("start"), From::First(0));
        assert_eq!(read("end"), From::Last(0));
        assert_eq!(read("42"), From::Offset(42));
        assert_eq!(read("5m"), From::Time(300_000_000_000));
        assert_eq!(read("1970-01-01T00:00:01.5Z"), From::Time(1_500_000_000));
        assert_eq!(read("1970-01-01T01:00:01+01:00"), From::Time(1_000_000_000));
        assert_eq!(read("2999-01-01T00:00:00Z"), From::Time(i64::MAX));
        for bad in ["", "begin", "-1", "5 m", "yesterday", "1970-01-01"] {
            assert!(bad.parse::<Place>().unwrap_err().contains("write `start`"), "{bad}");
        }
    }
}
