//! Dates on the wire: ISO 8601 in documents, HTTP dates in headers. Calendar arithmetic only, no clock.

const NANOS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A moment split into the fields of the proleptic Gregorian calendar, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: u32,
    day: u32,
    second_of_day: u32,
}

/// Appends a moment, in nanoseconds since the epoch, as `2024-02-29T12:34:56.789Z`.
pub fn iso8601_into(out: &mut Vec<u8>, nanoseconds: i64) {
    let seconds = nanoseconds.div_euclid(NANOS);
    let civil = civil(seconds);
    push_year(out, civil.year);
    out.push(b'-');
    push_two(out, civil.month);
    out.push(b'-');
    push_two(out, civil.day);
    out.push(b'T');
    push_clock(out, civil.second_of_day);
    let millis = (nanoseconds.rem_euclid(NANOS) / 1_000_000) as u32;
    out.push(b'.');
    out.push(b'0' + (millis / 100) as u8);
    push_two(out, millis % 100);
    out.push(b'Z');
}

/// Gives a moment, in nanoseconds since the epoch, as ISO 8601 with milliseconds.
pub fn iso8601(nanoseconds: i64) -> String {
    let mut out = Vec::with_capacity(24);
    iso8601_into(&mut out, nanoseconds);
    String::from_utf8(out).expect("digits and punctuation are ASCII")
}

/// Gives a moment, in whole seconds since the epoch, as an IMF-fixdate (RFC 9110, section 5.6.7).
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

/// Splits days since the epoch by counting 400-year eras that begin on 1 March, where leap days fall at the end.
fn civil(seconds: i64) -> Civil {
    let days = seconds.div_euclid(DAY) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    Civil {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: month as u32,
        day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32,
        second_of_day: seconds.rem_euclid(DAY) as u32,
    }
}

/// Nanoseconds in 64 bits reach from 1677 to 2262, but seconds reach further: years are kept to four digits.
fn push_year(out: &mut Vec<u8>, year: i64) {
    let year = year.clamp(0, 9999) as u32;
    push_two(out, year / 100);
    push_two(out, year % 100);
}

fn push_two(out: &mut Vec<u8>, value: u32) {
    out.push(b'0' + (value / 10 % 10) as u8);
    out.push(b'0' + (value % 10) as u8);
}

fn push_clock(out: &mut Vec<u8>, second_of_day: u32) {
    push_two(out, second_of_day / 3600);
    out.push(b':');
    push_two(out, second_of_day / 60 % 60);
    out.push(b':');
    push_two(out, second_of_day % 60);
}
