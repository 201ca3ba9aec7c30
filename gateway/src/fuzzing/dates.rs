//! Dates: what we write is what we read and what the calendar of `time` says; what we read we write the
//! same way again.

use time::OffsetDateTime;
use twintree_store::Timestamp;

use super::draw::Draw;
use crate::auth::dates::SignedAt;
use crate::date::{http_date, iso8601, parse_http_date, parse_iso8601};

/// 9999-12-31T23:59:59Z, the last second that four digits of a year can name.
const LAST: i64 = 253_402_300_799;
/// 0000-01-01T00:00:00Z, the first.
const FIRST: i64 = -62_167_219_200;

/// A text, then a moment.
pub fn dates(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(seconds) = parse_http_date(&text) {
        // A leap second at the end of the last year is the only moment behind it.
        assert!((FIRST..=LAST + 1).contains(&seconds));
        if seconds <= LAST {
            assert_eq!(
                parse_http_date(&http_date(seconds)),
                Some(seconds),
                "{text:?}"
            );
        }
    }
    if let Some(moment) = parse_iso8601(&text) {
        let again = parse_iso8601(&iso8601(moment)).expect("our own");
        let millis = |moment: Timestamp| moment.0.div_euclid(1_000_000);
        assert_eq!(millis(again), millis(moment), "{text:?}");
    }
    if let Some(signed) = SignedAt::parse(&text) {
        assert_eq!(
            SignedAt::from_basic(signed.basic().as_str()),
            Some(signed),
            "{text:?}"
        );
    }
    moments(Draw::new(data).number() as i64);
}

fn moments(number: i64) {
    let seconds = FIRST + number.rem_euclid(LAST - FIRST + 1);
    let text = http_date(seconds);
    assert_eq!(parse_http_date(&text), Some(seconds));
    let moment = OffsetDateTime::from_unix_timestamp(seconds).expect("within the calendar");
    let (year, month, day) = moment.to_calendar_date();
    let (hour, minute, second) = moment.to_hms();
    let (weekday, month_name) = (moment.weekday().to_string(), month.to_string());
    let expected = format!(
        "{}, {day:02} {} {year:04} {hour:02}:{minute:02}:{second:02} GMT",
        &weekday[..3],
        &month_name[..3]
    );
    assert_eq!(text, expected);
    let clock = format!("{hour:02}:{minute:02}:{second:02}");
    let rfc850 = format!(
        "{weekday}, {day:02}-{}-{:02} {clock} GMT",
        &month_name[..3],
        year % 100
    );
    if (1970..2070).contains(&year) {
        assert_eq!(parse_http_date(&rfc850), Some(seconds));
    }
    let asctime = format!(
        "{} {} {day:2} {clock} {year:04}",
        &weekday[..3],
        &month_name[..3]
    );
    assert_eq!(parse_http_date(&asctime), Some(seconds));
    // Any nanosecond that a filesystem stamps: the text is this or, without its last digits, just before.
    let stamp = Timestamp(number);
    let text = iso8601(stamp);
    let at = OffsetDateTime::from_unix_timestamp_nanos(number.into()).expect("within the calendar");
    let (date, milli) = (at.date(), at.millisecond());
    assert_eq!(
        text,
        format!(
            "{date}T{:02}:{:02}:{:02}.{milli:03}Z",
            at.hour(),
            at.minute(),
            at.second()
        )
    );
}
