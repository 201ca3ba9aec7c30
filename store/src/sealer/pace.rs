//! How fast sealing reads, all its threads together.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Bytes read at once at most.
const CHUNK: u64 = 1 << 20;
/// Bytes read at once at least, however slow: the kernel reads ahead more than this.
const MIN_CHUNK: u64 = 16 << 10;
/// Chunks a second at least: who waits for the next must soon see that a writer came.
const CHUNKS_A_SECOND: u64 = 4;
/// How long is slept before it is looked whether to go on.
const SLICE: Duration = Duration::from_millis(20);

/// Bytes a second at most, for all who share it.
pub(crate) struct Pace {
    rate: Option<u64>,
    /// When the next byte may be read.
    due: Mutex<Instant>,
}

impl Pace {
    /// `None`: as fast as the disk is.
    pub fn new(rate: Option<u64>) -> Self {
        Self {
            rate: rate.map(|rate| rate.max(1)),
            due: Mutex::new(Instant::now()),
        }
    }

    /// How much is read at once.
    pub fn chunk(&self) -> usize {
        let wanted = self.rate.map_or(CHUNK, |rate| rate / CHUNKS_A_SECOND);
        wanted.clamp(MIN_CHUNK, CHUNK) as usize
    }

    /// Waits for its turn to read; `false` as soon as `go_on` says so.
    pub fn turn(&self, mut go_on: impl FnMut() -> bool) -> bool {
        loop {
            if !go_on() {
                return false;
            }
            let wait = self.due.lock().saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return true;
            }
            std::thread::sleep(wait.min(SLICE));
        }
    }

    /// Counts what was read.
    pub fn spent(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut due = self.due.lock();
        *due = (*due).max(Instant::now()) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_waited_for_and_a_stop_is_seen_meanwhile() {
        let pace = Pace::new(Some(1 << 20));
        assert_eq!(pace.chunk(), 256 << 10);
        assert!(pace.turn(|| true), "the first read is free");
        pace.spent(1 << 30);
        let mut asked = 0;
        let turn = pace.turn(|| {
            asked += 1;
            asked < 3
        });
        assert!(!turn && asked == 3, "it would be 1,024 seconds");
    }

    #[test]
    fn without_a_rate_nothing_is_waited_for() {
        let pace = Pace::new(None);
        pace.spent(usize::MAX >> 1);
        assert!(pace.turn(|| true));
        assert_eq!(pace.chunk(), 1 << 20);
    }
}
