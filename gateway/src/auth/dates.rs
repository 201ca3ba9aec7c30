//! The moments that requests are signed with: ISO 8601 basic format, and HTTP dates in their three forms.

use time::{Date, Month, Time};

use crate::date::{Basic, parse_http_date};

/// A moment of a signature, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignedAt {
    /// Seconds since the epoch.
    pub(crate) seconds: i64,
}

impl SignedAt {
    /// Reads `20130524T000000Z`.
    pub(crate) fn from_basic(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
            return None;
        }
        let date = date(
            number(text.get(..4)?)?,
            number(text.get(4..6)?)?,
            number(text.get(6..8)?)?,
        )?;
        let clock = [text.get(9..11)?, text.get(11..13)?, text.get(13..15)?];
        Self::join(date, clock)
    }

    /// Reads an HTTP date, also with the zero offset that mail libraries write.
    pub(crate) fn from_http(text: &str) -> Option<Self> {
        let numeric = text
            .strip_suffix(" +0000")
            .or_else(|| text.strip_suffix(" -0000"));
        let seconds = match numeric {
            Some(rest) => parse_http_date(&format!("{rest} GMT")),
            None => parse_http_date(text),
        };
        // Year 9999 and before: what the basic form can write.
        seconds
            .filter(|seconds| (-62_135_596_800..=253_402_300_799).contains(seconds))
            .map(|seconds| Self { seconds })
    }

    /// Reads either form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::from_basic(text).or_else(|| Self::from_http(text))
    }

    /// Writes the basic form, as it is signed.
    pub(crate) fn basic(self) -> Basic {
        Basic::of(self.seconds)
    }

    fn join(date: Date, clock: [&str; 3]) -> Option<Self> {
        let [hour, minute, second] = clock;
        let part = |text: &str| number(text).and_then(|n| u8::try_from(n).ok());
        let time = Time::from_hms(part(hour)?, part(minute)?, part(second)?).ok()?;
        Some(Self {
            seconds: date.with_time(time).assume_utc().unix_timestamp(),
        })
    }
}

fn date(year: u32, month: u32, day: u32) -> Option<Date> {
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()
}

/// Digits only, at most four: `parse` alone would take a sign.
fn number(text: &str) -> Option<u32> {
    if text.is_empty() || text.len() > 4 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_one_moment_agree() {
        let moment = SignedAt {
            seconds: 784_111_777,
        };
        for text in [
            "19941106T084937Z",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 06 Nov 1994 08:49:37 -0000",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(SignedAt::parse(text), Some(moment), "{text}");
        }
        assert_eq!(moment.basic().as_str(), "19941106T084937Z");
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "Bad Date",
            "20130524",
            "20131324T000000Z",
            "20130524T250000Z",
            "2013052+T000000Z",
            "20130524T0000é",
        ] {
            assert_eq!(SignedAt::parse(text), None, "{text}");
        }
        assert_eq!(
            SignedAt::parse("Tue, 07 Jul 1950 21:53:04 GMT").map(|d| d.seconds < 0),
            Some(true)
        );
        assert!(SignedAt::parse("Tue, 07 Jul 9999 21:53:04 GMT").is_some());
    }
}
