//! A place in a dnpipe, as a query says it.

use sidestream_event::native::From;

use super::problem::Problem;

/// `start`, `end`, an offset, `last:N`, or `time:NANOSECONDS` since 1970.
pub(super) fn place(text: Option<&str>) -> Result<From, Problem> {
    let number = |text: &str| text.parse::<u64>().ok();
    let place = match text.unwrap_or("start") {
        "start" => Some(From::First(0)),
        "end" => Some(From::Last(0)),
        text => match text.split_once(':') {
            Some(("last", count)) => number(count).map(From::Last),
            Some(("time", nanos)) => nanos.parse().ok().map(From::Time),
            _ => number(text).map(From::Offset),
        },
    };
    let bad = || {
        Problem::bad(
            "`from` is no place; write `start`, `end`, an offset, `last:N`, or `time:N` in nanoseconds since 1970",
        )
    };
    place.ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_end_an_offset_a_count_or_a_time() {
        let read = |text| place(Some(text)).ok();
        assert_eq!(place(None).ok(), Some(From::First(0)));
        assert_eq!((read("start"), read("end")), (Some(From::First(0)), Some(From::Last(0))));
        assert_eq!((read("7"), read("last:7")), (Some(From::Offset(7)), Some(From::Last(7))));
        assert_eq!(read("time:-1"), Some(From::Time(-1)));
        for bad in ["", "-1", "last:", "last:x", "first:1", "7x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
