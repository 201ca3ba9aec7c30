//! A moment in nanoseconds since the Unix epoch, as filesystems stamp it: may lie before 1970.

const DAY: i64 = 86_400;

/// Nanoseconds since 1970-01-01T00:00:00Z; negative before it. Saturates at the years 1677 and 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

/// A second split into the fields of the proleptic Gregorian calendar, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// May lie outside of what any date format holds.
    pub year: i64,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 86,399.
    pub second_of_day: u32,
}

impl Timestamp {
    /// Joins whole seconds and the nanoseconds within the second, as `stat` gives them.
    pub fn from_parts(seconds: i64, nanoseconds: i64) -> Self {
        // The first second that fits begins before the first nanosecond that does.
        let whole = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Self(whole.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }

    /// Reads CLOCK_REALTIME in full nanoseconds, finer than any coarse kernel clock.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Self::from_parts(now.tv_sec, now.tv_nsec)
    }

    /// Whole seconds, rounded down also before 1970.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Nanoseconds within the second, 0 to 999,999,999.
    pub fn subsec_nanos(self) -> u32 {
        self.0.rem_euclid(1_000_000_000) as u32
    }

    /// The beginning of the second before.
    pub(crate) fn a_second_before(self) -> Self {
        Self::from_parts(self.seconds().saturating_sub(1), 0)
    }

    /// As `2024-02-29T12:34:56.123456789Z` (RFC 3339): every nanosecond, UTC.
    pub fn rfc3339(self) -> String {
        let day = civil(self.seconds());
        let second = day.second_of_day;
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
            day.year,
            day.month,
            day.day,
            second / 3600,
            second / 60 % 60,
            second % 60,
            self.subsec_nanos()
        )
    }
}

/// Splits seconds since the epoch by counting 400-year eras of years that begin on 1 March.
pub fn civil(seconds: i64) -> Civil {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_up_to_both_ends() {
        for nanoseconds in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX] {
            let moment = Timestamp(nanoseconds);
            let again = Timestamp::from_parts(moment.seconds(), moment.subsec_nanos().into());
            assert_eq!(again, moment);
        }
        assert_eq!(Timestamp::from_parts(i64::MIN, 0).0, i64::MIN);
        assert_eq!(Timestamp::from_parts(i64::MAX, 999_999_999).0, i64::MAX);
    }

    #[test]
    fn rfc3339_shows_every_nanosecond_also_before_1970() {
        let shown = |nanoseconds| Timestamp(nanoseconds).rfc3339();
        assert_eq!(
            shown(1_709_210_096_123_456_789),
            "2024-02-29T12:34:56.123456789Z"
        );
        assert_eq!(shown(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(shown(0), "1970-01-01T00:00:00.000000000Z");
    }
}
