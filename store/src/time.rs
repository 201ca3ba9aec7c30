//! A moment in nanoseconds since the Unix epoch, as filesystems stamp it: may lie before 1970.

/// Nanoseconds since 1970-01-01T00:00:00Z; negative before it. Saturates at the years 1677 and 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Joins whole seconds and the nanoseconds within the second, as `stat` gives them.
    pub fn from_parts(seconds: i64, nanoseconds: i64) -> Self {
        Self(
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(nanoseconds),
        )
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
}
