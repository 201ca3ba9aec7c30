//! The way from an async thread to one that may wait, and how much is under way there.
//!
//! Counted for the whole process, as the pool is the runtime's, of which there is one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::task::{JoinHandle, spawn_blocking};

static POOL: Pool = Pool::new();

/// Where the works stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolTallies {
    /// Works that wait for a thread.
    pub waiting: u64,
    /// Works that have one.
    pub running: u64,
    /// Works that were ever handed over.
    pub total: u64,
}

/// Does something that may wait on a thread that may.
pub(crate) fn on_pool<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    POOL.hand(work)
}

/// How much is under way.
pub fn tallies() -> PoolTallies {
    POOL.tallies()
}

struct Pool {
    handed: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A work's place; also one that is never done, since the runtime ends, is counted as ended.
struct Turn {
    pool: &'static Pool,
    begun: bool,
}

impl Pool {
    const fn new() -> Self {
        Self {
            handed: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    fn hand<T: Send + 'static>(
        &'static self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.handed.fetch_add(1, Relaxed);
        let mut turn = Turn {
            pool: self,
            begun: false,
        };
        spawn_blocking(move || {
            turn.begin();
            work()
        })
    }

    fn tallies(&self) -> PoolTallies {
        // In this order: what goes on meanwhile makes no number negative.
        let (ended, begun) = (self.ended.load(Relaxed), self.begun.load(Relaxed));
        let total = self.handed.load(Relaxed);
        PoolTallies {
            waiting: total.saturating_sub(begun),
            running: begun.saturating_sub(ended),
            total,
        }
    }
}

impl Turn {
    fn begin(&mut self) {
        self.begun = true;
        self.pool.begun.fetch_add(1, Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.begun {
            self.begin();
        }
        self.pool.ended.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn works_are_counted_while_they_wait_and_while_they_run() {
        static OWN: Pool = Pool::new();
        let stands = |waiting, running, total| {
            let expected = PoolTallies {
                waiting,
                running,
                total,
            };
            assert_eq!(OWN.tallies(), expected);
        };
        let one_thread = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .expect("a runtime");
        let (begun, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        let last = one_thread.block_on(async {
            let first = OWN.hand(move || {
                begun.send(()).expect("somebody waits");
                may_go.recv().expect("somebody speaks");
            });
            let second = OWN.hand(|| panic!("on purpose"));
            has_begun.recv().expect("the first begins");
            stands(1, 1, 2);
            go.send(()).expect("the first waits");
            first.await.expect("it ends");
            second.await.expect_err("it panics");
            stands(0, 0, 2);
            let (begun, has_begun) = mpsc::channel();
            let (go, may_go) = mpsc::channel();
            OWN.hand(move || {
                begun.send(()).expect("somebody waits");
                may_go.recv().expect("somebody speaks");
            });
            OWN.hand(|| unreachable!("the runtime ends before"));
            has_begun.recv().expect("the third begins");
            go
        });
        one_thread.shutdown_background();
        last.send(()).expect("the third waits");
        while OWN.tallies().running > 0 || OWN.tallies().waiting > 0 {
            std::thread::yield_now();
        }
        stands(0, 0, 4);
    }
}
