//! One thread that hashes what many bodies hand over: as many at once as there are lanes. It waits for nobody: it
//! takes what is there, and who comes meanwhile joins at the next turn.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::Md5;
use super::lanes::{BLOCK, Kernel, MOST, State};

/// The most blocks of a turn: who comes meanwhile waits for 64 KiB of each lane.
const TURN: usize = 1024;

/// Bytes for an MD5 to take.
pub struct HashJob {
    /// What takes them.
    pub md5: Md5,
    /// The bytes, one behind the other.
    pub bytes: Vec<Bytes>,
    /// Gets it back. Called on the thread of the hashes: it must not wait.
    pub done: Box<dyn FnOnce(Md5) + Send>,
}

/// The thread of the hashes.
pub struct HashService {
    queue: Arc<Queue>,
}

struct Queue {
    jobs: Mutex<VecDeque<HashJob>>,
    came: Condvar,
}

/// A job in its lane.
struct Lane {
    job: HashJob,
    /// Which of its slices is under way, and from where on.
    piece: usize,
    offset: usize,
}

/// The registers to use; `None`: no lanes at all.
pub(super) fn wanted_kernel() -> Option<Kernel> {
    let wanted = std::env::var("TWINTREE_HASH_KERNEL").ok();
    let wanted = wanted.as_deref();
    (wanted != Some("none")).then(|| Kernel::chosen(wanted))
}

impl HashService {
    /// The one of this process, begun with its first call; `None` where no thread could be made.
    ///
    /// `TWINTREE_HASH_KERNEL` (`portable`, `avx2`, `avx512`, `neon`) chooses other registers than the best there are;
    /// `none`: no thread.
    pub fn get() -> Option<&'static Self> {
        static ONE: OnceLock<Option<HashService>> = OnceLock::new();
        ONE.get_or_init(|| Self::start(wanted_kernel()?).ok())
            .as_ref()
    }

    pub(super) fn start(kernel: Kernel) -> std::io::Result<Self> {
        let queue = Arc::new(Queue {
            jobs: Mutex::default(),
            came: Condvar::new(),
        });
        let work = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("hashes".to_owned())
            .spawn(move || work.run(kernel))?;
        tracing::debug!("MD5 of bodies: {kernel:?}");
        Ok(Self { queue })
    }

    /// Hands a job over.
    pub fn submit(&self, job: HashJob) {
        self.queue.jobs.lock().push_back(job);
        self.queue.came.notify_one();
    }
}

impl Queue {
    fn run(&self, kernel: Kernel) {
        let mut lanes = Vec::with_capacity(MOST);
        loop {
            self.refill(&mut lanes);
            turn(kernel, &mut lanes);
        }
    }

    /// Fills the lanes from the queue; waits where both are empty.
    fn refill(&self, lanes: &mut Vec<Lane>) {
        let mut jobs = self.jobs.lock();
        while lanes.is_empty() && jobs.is_empty() {
            self.came.wait(&mut jobs);
        }
        let free = (MOST - lanes.len()).min(jobs.len());
        lanes.extend(jobs.drain(..free).map(|job| Lane {
            job,
            piece: 0,
            offset: 0,
        }));
    }
}

/// Gives back what is done, and takes as many blocks of all others as each has in one piece.
fn turn(kernel: Kernel, lanes: &mut Vec<Lane>) {
    let mut at = 0;
    while at < lanes.len() {
        if lanes[at].is_at_blocks() {
            at += 1;
        } else {
            let HashJob { md5, done, bytes } = lanes.swap_remove(at).job;
            drop(bytes);
            done(md5);
        }
    }
    let Some(blocks) = lanes.iter().map(|lane| lane.rest().len() / BLOCK).min() else {
        return;
    };
    let length = blocks.min(TURN) * BLOCK;
    let mut states = [State::default(); MOST];
    let mut messages: [&[u8]; MOST] = [&[]; MOST];
    for (lane, (state, message)) in lanes.iter().zip(states.iter_mut().zip(&mut messages)) {
        *state = lane.job.md5.state;
        *message = &lane.rest()[..length];
    }
    let count = lanes.len();
    kernel.compress(&mut states[..count], &messages[..count]);
    for (lane, state) in lanes.iter_mut().zip(states) {
        lane.job.md5.state = state;
        lane.job.md5.length += length as u64;
        lane.offset += length;
    }
}

impl Lane {
    /// What is left of the slice under way.
    fn rest(&self) -> &[u8] {
        self.job
            .bytes
            .get(self.piece)
            .map_or(&[], |piece| &piece[self.offset..])
    }

    /// Goes on to where a whole block lies in one piece, past the ragged ends of slices; false: all is taken.
    fn is_at_blocks(&mut self) -> bool {
        loop {
            if self.job.md5.held() == 0 && self.rest().len() >= BLOCK {
                return true;
            }
            let Some(piece) = self.job.bytes.get(self.piece) else {
                return false;
            };
            let rest = &piece[self.offset..];
            if rest.is_empty() {
                (self.piece, self.offset) = (self.piece + 1, 0);
                continue;
            }
            let before = rest.len();
            let left = self.job.md5.fill(rest).len();
            self.offset += before - left;
        }
    }
}
