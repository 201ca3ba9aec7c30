//! Works on one disk that are done together: what comes while a thread is at work there is taken along at its next
//! turn, so that a crowd shares the waking of a thread and the syncs of a disk, and one alone waits for nobody.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::pool::on_pool;

/// Threads that may be at work on a disk: while one waits for it, another makes ready.
const THREADS: usize = 2;
/// As many where the disk takes its time, which they can then wait for at once.
const MOST_THREADS: usize = 64;
/// How many works are taken at once.
const MOST_WORKS: usize = 64;
/// A disk that needs longer than this for one work takes its time: longer than one sync, which more threads would only
/// share among fewer works.
const SLOW: Duration = Duration::from_millis(25);

/// Works that wait, by the disk that they are for.
pub(crate) struct Together<W> {
    perform: fn(Vec<W>),
    by_device: Mutex<HashMap<u64, Arc<Queue<W>>>>,
}

struct Queue<W> {
    perform: fn(Vec<W>),
    stands: Mutex<Stands<W>>,
}

struct Stands<W> {
    waiting: Vec<W>,
    /// Threads that are at work, and that may be.
    threads: usize,
    allowed: usize,
}

impl<W: Send + 'static> Together<W> {
    /// Starts with none; `perform` does some of one disk. What it panics at is dropped.
    pub(crate) fn new(perform: fn(Vec<W>)) -> Self {
        Self {
            perform,
            by_device: Mutex::default(),
        }
    }

    /// Hands over a work for a disk. Does not wait.
    pub(crate) fn submit(&self, device: u64, work: W) {
        let queue = {
            let mut by_device = self.by_device.lock();
            let queue = by_device.entry(device).or_insert_with(|| {
                Arc::new(Queue {
                    perform: self.perform,
                    stands: Mutex::new(Stands {
                        waiting: Vec::new(),
                        threads: 0,
                        allowed: THREADS,
                    }),
                })
            });
            Arc::clone(queue)
        };
        let mut stands = queue.stands.lock();
        stands.waiting.push(work);
        if stands.threads < stands.allowed {
            stands.threads += 1;
            drop(stands);
            on_pool(move || queue.work());
        }
    }
}

impl<W> Queue<W> {
    /// Does what waits until nothing does.
    fn work(&self) {
        while let Some(works) = self.next() {
            let (begun, count) = (Instant::now(), works.len());
            let perform = AssertUnwindSafe(|| (self.perform)(works));
            if std::panic::catch_unwind(perform).is_err() {
                tracing::error!("works that were done together panicked");
            }
            self.stands.lock().took(begun.elapsed(), count);
        }
    }

    /// Gives what is to be done next; `None`: this thread has left.
    fn next(&self) -> Option<Vec<W>> {
        let mut stands = self.stands.lock();
        if stands.waiting.is_empty() || stands.threads > stands.allowed {
            stands.threads -= 1;
            return None;
        }
        let count = stands.waiting.len().min(MOST_WORKS);
        let rest = stands.waiting.split_off(count);
        Some(std::mem::replace(&mut stands.waiting, rest))
    }
}

impl<W> Stands<W> {
    /// Learns from so many works whether the disk takes its time.
    fn took(&mut self, time: Duration, count: usize) {
        let is_slow = time > SLOW * u32::try_from(count).unwrap_or(u32::MAX);
        self.allowed = match is_slow {
            true => (self.allowed * 2).min(MOST_THREADS),
            false => (self.allowed / 2).max(THREADS),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A work that says that it is there, waits until it may go on, and says how many there are.
    struct Gate {
        begun: Sender<usize>,
        go: Receiver<()>,
    }

    fn perform(works: Vec<Gate>) {
        for work in &works {
            work.begun.send(works.len()).expect("somebody waits");
        }
        for work in &works {
            work.go.recv().expect("somebody speaks");
        }
    }

    fn gate(begun: &Sender<usize>) -> (Gate, Sender<()>) {
        let (go, may_go) = channel();
        let gate = Gate {
            begun: begun.clone(),
            go: may_go,
        };
        (gate, go)
    }

    #[tokio::test]
    async fn who_comes_while_all_threads_are_at_work_is_taken_along_with_the_others() {
        let together = Together::new(perform);
        let (begun, begins) = channel();
        let mut goes = Vec::new();
        for _ in 0..THREADS {
            let (work, go) = gate(&begun);
            together.submit(1, work);
            assert_eq!(
                begins.recv().expect("it begins"),
                1,
                "one alone waits for nobody"
            );
            goes.push(go);
        }
        for _ in 0..3 {
            let (work, go) = gate(&begun);
            together.submit(1, work);
            goes.push(go);
        }
        let (work, go) = gate(&begun);
        together.submit(2, work);
        assert_eq!(
            begins.recv().expect("it begins"),
            1,
            "another disk has threads of its own"
        );
        goes.push(go);
        for go in &goes {
            go.send(()).expect("it waits, or will");
        }
        for _ in 0..3 {
            assert_eq!(begins.recv().expect("it begins"), 3);
        }
    }

    /// Says when it is dropped.
    struct Bomb(Sender<()>);

    impl Drop for Bomb {
        fn drop(&mut self) {
            let _ = self.0.send(()); // the test may have failed by now
        }
    }

    #[tokio::test]
    async fn a_panic_takes_no_thread_with_it() {
        let together = Together::new(|works: Vec<Bomb>| {
            assert!(works.is_empty(), "on purpose");
        });
        let (dropped, is_dropped) = channel();
        for _ in 0..3 * THREADS {
            together.submit(1, Bomb(dropped.clone()));
            let gone = is_dropped.recv_timeout(Duration::from_secs(20));
            gone.expect("a thread is left for it");
        }
    }

    #[test]
    fn a_disk_that_takes_its_time_gets_more_threads_and_loses_them_again() {
        let mut stands = Stands::<()> {
            waiting: Vec::new(),
            threads: 0,
            allowed: THREADS,
        };
        for _ in 0..10 {
            stands.took(SLOW * 3, 2);
        }
        assert_eq!(stands.allowed, MOST_THREADS);
        for _ in 0..100 {
            stands.took(SLOW, 1);
        }
        assert_eq!(stands.allowed, THREADS);
    }
}
