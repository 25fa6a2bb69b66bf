//! The dates of conversation files.

use jiff::{Timestamp, civil};

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// Reads a date as LoCoMo writes it (`1:56 pm on 8 May, 2023`) or as LongMemEval does (`2023/05/20 (Sat) 02:21`), UTC;
/// `None` for what is neither.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split([' ', ',', '/', ':', '(', ')', '-']).filter(|word| !word.is_empty()).collect();
    match words[..] {
        [hour, minute, half @ ("am" | "pm"), "on", day, month, year] => {
            let hour: i8 = hour.parse().ok()?;
            let hour = hour % 12 + if half == "pm" { 12 } else { 0 };
            at(year.parse().ok()?, month_number(month)?, day.parse().ok()?, hour, minute.parse().ok()?)
        }
        [year, month, day, .., hour, minute] => {
            at(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?, hour.parse().ok()?, minute.parse().ok()?)
        }
        [year, month, day] => at(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?, 0, 0),
        _ => None,
    }
}

fn month_number(name: &str) -> Option<i8> {
    let place = MONTHS.iter().position(|month| name.starts_with(month))?;
    i8::try_from(place + 1).ok()
}

fn at(year: i16, month: i8, day: i8, hour: i8, minute: i8) -> Option<Timestamp> {
    let time = civil::DateTime::new(year, month, day, hour, minute, 0, 0).ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_dates_are_read() {
        let read = |text: &str| parse(text).map(|time| time.to_string());
        assert_eq!(read("1:56 pm on 8 May, 2023").as_deref(), Some("2023-05-08T13:56:00Z"));
        assert_eq!(read("12:09 am on 13 September, 2023").as_deref(), Some("2023-09-13T00:09:00Z"));
        assert_eq!(read("12:48 pm on 1 October, 2022").as_deref(), Some("2022-10-01T12:48:00Z"));
        assert_eq!(read("9:05 am on 2 August, 2022").as_deref(), Some("2022-08-02T09:05:00Z"));
        assert_eq!(read("2023/05/20 (Sat) 02:21").as_deref(), Some("2023-05-20T02:21:00Z"));
        assert_eq!(read("2023/05/20").as_deref(), Some("2023-05-20T00:00:00Z"));
        assert_eq!(read("some day"), None);
        assert_eq!(read("25:99 pm on 31 February, 2023"), None);
    }
}
