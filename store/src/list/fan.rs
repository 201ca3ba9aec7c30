//! Several threads for a page whose entries make the disk (or another machine) be waited for.
//!
//! Waiting is seen by the kernel's count of it, not by the clock: on a busy machine a thread that is
//! preempted is slow too, and more threads would make that worse.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Result;

/// Items after which the waits are counted, at first; twice as many each time that there were few, up to the most.
const STRIDE: usize = 16;
const MAX_STRIDE: usize = 64;
/// Waits within a stride from which on the rest is shared out.
const MANY_WAITS: i64 = 4;
/// Threads for one page: measured 20 times faster on cold inodes.
const THREADS: usize = 16;
/// Threads for all pages together.
const MAX_THREADS: usize = 64;

/// How many threads are at work for pages.
#[derive(Default)]
pub(crate) struct Fan {
    threads: AtomicUsize,
}

/// A thread's place among those that may be at work.
struct Seat<'a>(&'a Fan);

impl Fan {
    fn seat(&self) -> Option<Seat<'_>> {
        let taken = self.threads.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(self);
        (taken < MAX_THREADS).then_some(seat)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.threads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Does work to stretches of `items` and gives all results in their order: here, or, once that waits, in several
/// threads. `begin` gives each thread who does its stretches, one after the other, and adds what they give.
///
/// # Errors
/// The first that the work gives.
pub(crate) fn map<T: Sync, R: Send, W: FnMut(&[T], &mut Vec<R>) -> Result<()>>(
    fan: &Fan,
    items: &[T],
    begin: impl Fn() -> W + Sync,
) -> Result<Vec<R>> {
    let mut found = Vec::with_capacity(items.len());
    let mut work = begin();
    let (mut rest, mut length, mut before) = (items, STRIDE, waits());
    while !rest.is_empty() {
        let (stride, after) = rest.split_at(rest.len().min(length));
        work(stride, &mut found)?;
        rest = after;
        let now = waits();
        if now - before >= MANY_WAITS && rest.len() > STRIDE {
            found.extend(in_threads(fan, rest, &begin)?);
            break;
        }
        (before, length) = (now, MAX_STRIDE.min(length * 2));
    }
    Ok(found)
}

fn in_threads<T: Sync, R: Send, W: FnMut(&[T], &mut Vec<R>) -> Result<()>>(
    fan: &Fan,
    items: &[T],
    begin: &(impl Fn() -> W + Sync),
) -> Result<Vec<R>> {
    let all = |share| {
        let mut found = Vec::new();
        begin()(share, &mut found)?;
        Ok(found)
    };
    let work = &all;
    std::thread::scope(|scope| {
        let shares: Vec<_> = items
            .chunks(items.len().div_ceil(THREADS))
            .map(|share| {
                // Without a seat, or where the system has no thread left, the share is done here.
                let thread = fan.seat().and_then(|seat| {
                    let run = move || {
                        let _seat = seat;
                        work(share)
                    };
                    std::thread::Builder::new().spawn_scoped(scope, run).ok()
                });
                (share, thread)
            })
            .collect();
        let mut found = Vec::with_capacity(items.len());
        for (share, thread) in shares {
            found.extend(match thread {
                Some(thread) => match thread.join() {
                    Ok(result) => result?,
                    Err(panic) => std::panic::resume_unwind(panic),
                },
                None => work(share)?,
            });
        }
        Ok(found)
    })
}

/// How often this thread has waited for something so far.
fn waits() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes one `rusage` into the place that it is given.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    if result != 0 {
        return 0;
    }
    // SAFETY: the call succeeded, and all zeros would be a valid `rusage` too.
    unsafe { usage.assume_init() }.ru_nvcsw
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread::{ThreadId, current};
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;

    fn threads_of(count: usize, wait: impl Fn() + Sync) -> (Vec<usize>, usize) {
        let ids: Mutex<HashSet<ThreadId>> = Mutex::default();
        let items: Vec<usize> = (0..count).collect();
        let fan = Fan::default();
        let found = map(&fan, &items, || {
            |stretch: &[usize], found: &mut Vec<usize>| {
                ids.lock().insert(current().id());
                stretch.iter().for_each(|_| wait());
                found.extend(stretch.iter().map(|item| item * 2));
                Ok(())
            }
        });
        assert_eq!(
            fan.threads.load(Ordering::Relaxed),
            0,
            "every seat is given back"
        );
        let threads = ids.lock().len();
        (found.expect("nothing fails"), threads)
    }

    #[test]
    fn work_that_waits_is_shared_out_and_comes_back_in_order() {
        let doubled: Vec<usize> = (0..200).map(|item| item * 2).collect();
        // The wait stands for a disk's: it is what is measured, not a synchronisation.
        let (found, threads) = threads_of(200, || std::thread::sleep(Duration::from_micros(200)));
        assert_eq!(found, doubled);
        assert!(threads > 4, "{threads}");
        let (found, threads) = threads_of(200, || {
            std::hint::black_box((0..10_000).sum::<u64>());
        });
        assert_eq!(found, doubled);
        assert_eq!(threads, 1, "computing is not waiting");
    }

    #[test]
    fn the_first_failure_is_given() {
        let items: Vec<usize> = (0..100).collect();
        let result = map(&Fan::default(), &items, || {
            |stretch: &[usize], found: &mut Vec<usize>| {
                if stretch.first().is_some_and(|first| *first >= 32) {
                    return Err(crate::StoreError::WouldBlock);
                }
                found.extend(stretch);
                Ok(())
            }
        });
        assert!(result.is_err());
    }
}
