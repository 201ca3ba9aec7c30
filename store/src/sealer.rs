//! The thread that settles files in the background: those whose record is doubted, and those that somebody
//! of this process changed. How a file is read is `sealer/settle.rs`; this file is who waits and when.

pub(crate) mod adopt;
mod busy;
mod everything;
mod lease;
mod pace;
pub(crate) mod settle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use busy::{BusyFiles, Waiting};
pub use everything::{Left, SealEvent, SealOptions, SealReport};
use pace::Pace;
use settle::{Busy, Outcome, Terms, settle};

use crate::{Result, Store, StoreError};

/// How long an empty queue is waited on before the thread looks whether it should end.
const IDLE: Duration = Duration::from_millis(200);
/// How long a busy file waits for its next turn, and how many turns it has.
const AGAIN: Duration = Duration::from_secs(2);
const TURNS: u32 = 60;
/// Busy files that wait at most.
const MAX_BUSY: usize = 4096;
/// A young file's time may be over a little later than it seemed.
const LATER: Duration = Duration::from_millis(20);
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
            .spawn(move || run(&store, untouched, &stopping))
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

fn run(store: &Arc<Store>, quiet: Duration, stop: &AtomicBool) {
    let pace = Pace::new(Some(RATE));
    let terms = Terms {
        untouched: nanos(quiet),
        pace: &pace,
        stop,
        read: &|_| {},
    };
    let mut busy = BusyFiles::default();
    while !stop.load(Ordering::Relaxed) {
        let (bucket, key, turns) = match busy.next(Instant::now()) {
            Some(again) => (again.bucket, again.key, again.turns),
            // Those that arrived in one go, and are all too young, wait in the queue, which holds more.
            None if busy.len() >= MAX_BUSY => {
                std::thread::sleep(IDLE);
                continue;
            }
            None => match store.seal_queue.pop(IDLE, quiet) {
                // Whoever wrote it again is looked for when its turn comes.
                Some((bucket, key)) if busy.has(&bucket, &key) => continue,
                Some((bucket, key)) => (bucket, key, 0),
                None => continue,
            },
        };
        let again = match settle(store, &bucket, &key, &terms) {
            // Who asks for it again brings it back.
            Ok(Outcome::Busy(Busy::Counted)) => None,
            // A time that lies ahead of us is not waited for in one go.
            Ok(Outcome::Busy(Busy::Young(left))) if left > Duration::ZERO => {
                Some(left.min(UNTOUCHED) + LATER)
            }
            Ok(Outcome::Busy(_)) => Some(AGAIN),
            Ok(_) => None,
            Err(e) => {
                tracing::debug!(bucket = bucket.as_str(), key, "not sealed: {e}");
                None
            }
        };
        if let Some(pause) = again.filter(|_| turns < TURNS && busy.len() < MAX_BUSY) {
            let turns = turns + 1;
            busy.wait(Instant::now() + pause, Waiting { bucket, key, turns });
        }
        let waiting = &store.sealing.waiting_busy;
        waiting.store(busy.len(), Ordering::Relaxed);
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
