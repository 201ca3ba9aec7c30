//! The thread that settles files in the background: those whose record is doubted, and those that somebody
//! of this process changed. How a file is read is `sealer/settle.rs`; this file is who waits and when.

mod everything;
mod lease;
mod pace;
mod settle;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use everything::{Left, SealEvent, SealOptions, SealReport};
use pace::Pace;
use settle::{Busy, Outcome, Terms, settle};

use crate::{BucketName, Result, Store, StoreError};

/// How long an empty queue is waited on before the thread looks whether it should end.
const IDLE: Duration = Duration::from_millis(200);
/// How long a busy file waits for its next turn, and how many turns it has.
const AGAIN: Duration = Duration::from_secs(2);
const TURNS: u32 = 60;
/// Busy files that wait at most.
const MAX_BUSY: usize = 4096;
/// How long a file must have been left alone before it is settled: its ETag must not change in the middle
/// of a client's work, and who changed it may not be done.
const UNTOUCHED: Duration = Duration::from_secs(10);
/// Bytes a second at most, so that nobody's disk is kept from its work.
const RATE: u64 = 200 << 20;

/// The running sealer; dropping it ends it after the file at hand.
pub struct Sealer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A file that waits for its next turn.
struct Waiting {
    bucket: BucketName,
    key: String,
    due: Instant,
    turns: u32,
}

impl Store {
    /// Starts the sealer's thread.
    ///
    /// # Errors
    /// `Io` where no thread can be had.
    pub fn start_sealer(self: &Arc<Self>) -> Result<Sealer> {
        self.start_sealer_after(UNTOUCHED)
    }

    /// Starts the sealer's thread with another quiet time than ten seconds: for tests.
    ///
    /// # Errors
    /// `Io` where no thread can be had.
    pub fn start_sealer_after(self: &Arc<Self>, untouched: Duration) -> Result<Sealer> {
        let stop = Arc::new(AtomicBool::new(false));
        let (store, stopping) = (Arc::clone(self), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("sealer".to_owned())
            .spawn(move || run(&store, nanos(untouched), &stopping))
            .map_err(|e| StoreError::from_io("the sealer's thread", e))?;
        Ok(Sealer {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sealer's thread panicked");
        }
    }
}

fn run(store: &Arc<Store>, untouched: i64, stop: &AtomicBool) {
    let pace = Pace::new(Some(RATE));
    let terms = Terms {
        untouched,
        pace: &pace,
        stop,
        read: &|_| {},
    };
    let mut busy: VecDeque<Waiting> = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        let due = busy.front().is_some_and(|b| b.due <= Instant::now());
        let (bucket, key, turns) = match if due { busy.pop_front() } else { None } {
            Some(again) => (again.bucket, again.key, again.turns),
            // Those that arrived in one go, and are all too young, wait in the queue, which holds more.
            None if busy.len() >= MAX_BUSY => {
                std::thread::sleep(IDLE);
                continue;
            }
            None => match store.seal_queue.pop(IDLE) {
                Some((bucket, key)) => (bucket, key, 0),
                None => continue,
            },
        };
        match settle(store, &bucket, &key, &terms) {
            Ok(Outcome::Busy(Busy::Counted)) => {}
            Ok(Outcome::Busy(_)) if turns < TURNS && busy.len() < MAX_BUSY => {
                busy.push_back(Waiting {
                    bucket,
                    key,
                    due: Instant::now() + AGAIN,
                    turns: turns + 1,
                });
            }
            // Who asks for it again brings it back.
            Ok(_) => {}
            Err(e) => tracing::debug!(bucket = bucket.as_str(), key, "not sealed: {e}"),
        }
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
