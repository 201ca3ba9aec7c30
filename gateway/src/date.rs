//! Dates on the wire: ISO 8601 in documents, HTTP dates in headers. Calendar arithmetic only, no clock.

use twintree_store::Timestamp;
use twintree_store::time::civil;

const DAY: i64 = 86_400;
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Shows moments as `2024-02-29T12:34:56.789Z`, one after the other: those of one day share its date.
#[derive(Debug)]
pub struct Iso8601 {
    day: i64,
    text: [u8; 24],
}

impl Default for Iso8601 {
    fn default() -> Self {
        Self {
            day: 0,
            text: *b"1970-01-01T00:00:00.000Z",
        }
    }
}

impl Iso8601 {
    /// Gives the text of the next one.
    pub fn of(&mut self, moment: Timestamp) -> &[u8; 24] {
        let seconds = moment.seconds();
        let day = seconds.div_euclid(DAY);
        if day != self.day {
            let civil = civil(seconds);
            let year = shown_year(civil.year);
            self.day = day;
            self.put([
                (0, year / 100),
                (2, year % 100),
                (5, civil.month),
                (8, civil.day),
            ]);
        }
        let second = seconds.rem_euclid(DAY) as u32;
        self.put([
            (11, second / 3600),
            (14, second / 60 % 60),
            (17, second % 60),
        ]);
        let millis = moment.subsec_nanos() / 1_000_000;
        self.text[20] = b'0' + (millis / 100) as u8;
        self.put([(21, millis % 100)]);
        &self.text
    }

    fn put<const N: usize>(&mut self, numbers: [(usize, u32); N]) {
        for (at, number) in numbers {
            self.text[at..at + 2].copy_from_slice(&two(number));
        }
    }
}

/// Gives a moment as ISO 8601 with milliseconds.
pub fn iso8601(moment: Timestamp) -> String {
    let text = Iso8601::default().of(moment).to_vec();
    String::from_utf8(text).expect("digits and punctuation are ASCII")
}

/// Whole seconds since the epoch in ISO 8601's basic format, `20240229T123456Z`, of which signatures are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Basic([u8; 16]);

impl Basic {
    pub(crate) fn of(seconds: i64) -> Self {
        let civil = civil(seconds);
        let (year, clock) = (shown_year(civil.year), civil.second_of_day);
        let mut out = *b"00000000T000000Z";
        for (at, value) in [
            (0, year / 100),
            (2, year % 100),
            (4, civil.month),
            (6, civil.day),
            (9, clock / 3600),
            (11, clock / 60 % 60),
            (13, clock % 60),
        ] {
            out[at..at + 2].copy_from_slice(&two(value));
        }
        Self(out)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits are ASCII")
    }
}

/// Gives whole seconds since the epoch as an IMF-fixdate (RFC 9110, section 5.6.7).
pub fn http_date(seconds: i64) -> String {
    let civil = civil(seconds);
    let weekday = (seconds.div_euclid(DAY) + 4).rem_euclid(7) as usize;
    let mut out = Vec::with_capacity(29);
    out.extend_from_slice(WEEKDAYS[weekday].as_bytes());
    out.extend_from_slice(b", ");
    push_two(&mut out, civil.day);
    out.push(b' ');
    out.extend_from_slice(MONTHS[civil.month as usize - 1].as_bytes());
    out.push(b' ');
    push_year(&mut out, civil.year);
    out.push(b' ');
    push_clock(&mut out, civil.second_of_day);
    out.extend_from_slice(b" GMT");
    String::from_utf8(out).expect("names and digits are ASCII")
}

/// Parses the three forms of an HTTP date (IMF-fixdate, RFC 850, asctime) to seconds since the epoch.
///
/// The weekday is not checked: it says nothing that the date does not. A two-digit year below 70 is in this century.
pub fn parse_http_date(text: &str) -> Option<i64> {
    let text = text.trim();
    let (weekday, rest) = text.split_once([',', ' '])?;
    if weekday.len() < 3 || !weekday.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let fields: Vec<&str> = rest.split(' ').filter(|field| !field.is_empty()).collect();
    let (day, month, year, clock) = match fields[..] {
        [day, month, year, clock, zone] if is_utc(zone) => (day, month, number(year, 4)?, clock),
        [date, clock, zone] if is_utc(zone) => {
            let (day, rest) = date.split_once('-')?;
            let (month, year) = rest.split_once('-')?;
            let year = number(year, 2)?;
            (
                day,
                month,
                if year < 70 { 2000 + year } else { 1900 + year },
                clock,
            )
        }
        [month, day, clock, year] => (day, month, number(year, 4)?, clock),
        _ => return None,
    };
    let month = MONTHS
        .iter()
        .position(|name| name.eq_ignore_ascii_case(month))? as u32
        + 1;
    let day = if day.len() == 1 {
        number(day, 1)?
    } else {
        number(day, 2)?
    };
    seconds(i64::from(year), month, day, clock_seconds(clock)?)
}

/// Parses ISO 8601 in UTC (`2024-02-29T12:34:56Z`, with any fraction), as request documents and headers hold it.
pub fn parse_iso8601(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.trim().split_once('T')?;
    let rest = rest
        .strip_suffix('Z')
        .or_else(|| rest.strip_suffix("+00:00"))?;
    let (clock, fraction) = rest.split_once('.').unwrap_or((rest, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (
        number(date.next()?, 4)?,
        number(date.next()?, 2)?,
        number(date.next()?, 2)?,
    );
    let nanos = format!("{fraction:0<9}")[..9].parse::<i64>().ok()?;
    let seconds = seconds(i64::from(year), month, day, clock_seconds(clock)?)?;
    Some(Timestamp::from_parts(seconds, nanos))
}

fn is_utc(zone: &str) -> bool {
    matches!(zone, "GMT" | "UTC" | "+0000" | "-0000")
}

fn number(text: &str, digits: usize) -> Option<u32> {
    if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn clock_seconds(clock: &str) -> Option<u32> {
    let mut fields = clock.splitn(3, ':');
    let (hour, minute, second) = (
        number(fields.next()?, 2)?,
        number(fields.next()?, 2)?,
        number(fields.next()?, 2)?,
    );
    // 60 is a leap second, which the epoch's count folds into the next minute.
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Counts seconds since the epoch; `None` where the month has no such day.
fn seconds(year: i64, month: u32, day: u32, second_of_day: u32) -> Option<i64> {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let longest = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day == 0 || day > longest {
        return None;
    }
    // Years begin on 1 March here, so that the leap day is the last of its year.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let shifted_month = i64::from((month + 9) % 12);
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some((era * 146_097 + day_of_era - 719_468) * DAY + i64::from(second_of_day))
}

/// Four digits, whatever a file's clock says: a filesystem can hold years that no date format does.
fn shown_year(year: i64) -> u32 {
    year.clamp(0, 9999) as u32
}

fn push_year(out: &mut Vec<u8>, year: i64) {
    let year = shown_year(year);
    push_two(out, year / 100);
    push_two(out, year % 100);
}

fn push_two(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&two(value));
}

fn two(value: u32) -> [u8; 2] {
    [b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]
}

fn push_clock(out: &mut Vec<u8>, second_of_day: u32) {
    push_two(out, second_of_day / 3600);
    out.push(b':');
    push_two(out, second_of_day / 60 % 60);
    out.push(b':');
    push_two(out, second_of_day % 60);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_dates_one_after_the_other_are_each_their_own() {
        let mut dates = Iso8601::default();
        let shown =
            |seconds| String::from_utf8(dates.of(Timestamp::from_parts(seconds, 0)).to_vec());
        let days = [951_782_400, 951_782_399, 951_868_800, 5, 951_868_799].map(shown);
        let texts = days.map(|text| text.expect("ASCII"));
        assert_eq!(
            texts,
            [
                "2000-02-29T00:00:00.000Z",
                "2000-02-28T23:59:59.000Z",
                "2000-03-01T00:00:00.000Z",
                "1970-01-01T00:00:05.000Z",
                "2000-02-29T23:59:59.000Z",
            ]
        );
    }

    #[test]
    fn iso_dates_across_eras() {
        for (nanoseconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"),
            (1_709_210_096_789_000_000, "2024-02-29T12:34:56.789Z"),
            (4_107_542_400_007_000_000, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(iso8601(Timestamp(nanoseconds)), text);
            let back = parse_iso8601(text).expect(text);
            assert_eq!(back.0, nanoseconds.div_euclid(1_000_000) * 1_000_000);
        }
    }

    #[test]
    fn the_three_forms_of_rfc_9110() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            " Sun, 06 Nov 1994 08:49:37 UTC ",
            "Sun, 06 nov 1994 08:49:37 +0000",
        ] {
            assert_eq!(parse_http_date(text), Some(784_111_777), "{text}");
        }
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(-1), "Wed, 31 Dec 1969 23:59:59 GMT");
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "Invalid Date",
            "0",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37 PST",
            "Sun, 06 Foo 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
        for text in [
            "2024-02-30T00:00:00Z",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
        ] {
            assert_eq!(parse_iso8601(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_goes_there_and_back() {
        for day in -150_000..150_000i64 {
            let text = http_date(day * DAY + 61);
            assert_eq!(parse_http_date(&text), Some(day * DAY + 61), "{text}");
        }
    }
}
