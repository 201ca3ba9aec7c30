//! What the allocator keeps of memory that was freed.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};

/// Freed memory at the end of a heap from which on it goes back to the system, and the size from which on an
/// allocation is a mapping of its own, in bytes. glibc grows both with the largest block that was ever freed (to 64
/// and 32 MiB): a single listing of a large directory would hold tens of MiB for good. Above our largest buffers
/// (1 MiB), so that steady work neither maps nor faults anew.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 4 << 20;

/// How long a rest is from which on all that is free goes back.
pub const REST: Duration = Duration::from_secs(20);

/// What part of a processor's time is still rest: less than one in so many.
const STIRRING: u32 = 100;

/// Makes the allocator give back what is no longer used. Other libraries than glibc do so by themselves.
pub fn give_back_what_is_freed() {
    #[cfg(target_env = "gnu")]
    for option in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD] {
        // SAFETY: sets a number of the allocator's, before there is a second thread. One that it does not take changes nothing.
        unsafe { libc::mallopt(option, KEPT) };
    }
}

/// Gives back what lies free between what is used, once after each time of work: when the process has hardly had a
/// processor for as long as `rest`. It takes a millisecond or two, and whoever works next faults those pages in anew.
pub async fn give_back_at_each_rest(rest: Duration) {
    let mut turns = interval(rest);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turns.tick().await; // the first is at once
    let is_work = |from: Duration, to: Duration| to.saturating_sub(from) >= rest / STIRRING;
    let (mut before, mut given_back) = (worked(), Duration::ZERO);
    loop {
        turns.tick().await;
        let now = worked();
        if !is_work(before, now) && is_work(given_back, now) {
            // Nothing is lost with the error: the runtime ends.
            let _ = tokio::task::spawn_blocking(give_back_what_lies_free).await;
            given_back = now;
        }
        before = now;
    }
}

/// How long all threads together have had a processor.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.try_into().unwrap_or_default()
}

fn give_back_what_lies_free() {
    // SAFETY: it takes the allocator's own locks, and nothing that is used is touched.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}
