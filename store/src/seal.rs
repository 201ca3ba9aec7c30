//! What waits for the sealer, and how content is compared with its record.
//!
//! Whoever meets an unverified file queues it here; `sealer.rs` works the queue off.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::record::Record;
use crate::{BucketName, Result, StoreError};

/// Files that wait at most; more are met again when somebody asks for them.
const QUEUE_MAX: usize = 65_536;
/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// Files that wait to be verified, each once.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// To be looked at now.
    doubted: VecDeque<(BucketName, String)>,
    /// Written when, in this order: too young to be read yet.
    written: VecDeque<(Instant, (BucketName, String))>,
    /// Those of both.
    known: HashSet<(BucketName, String)>,
}

impl Queue {
    /// Queues a file, unless it waits already or the queue is full.
    pub(crate) fn push(&self, bucket: &BucketName, key: &str) {
        let mut waiting = self.waiting.lock();
        if let Some(item) = waiting.takes(bucket, key) {
            waiting.doubted.push_back(item);
            self.arrived.notify_one();
        }
    }

    /// Queues a file that somebody wrote just now, for when it was left alone for long enough. Nobody is woken.
    pub(crate) fn push_written(&self, bucket: &BucketName, key: &str) {
        let mut waiting = self.waiting.lock();
        if let Some(item) = waiting.takes(bucket, key) {
            waiting.written.push_back((Instant::now(), item));
        }
    }

    /// How many wait to be looked at now, and how many that were written.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        let waiting = self.waiting.lock();
        (waiting.doubted.len(), waiting.written.len())
    }

    /// Takes the file that waits longest, of those that were written none that is younger than `quiet`; waits
    /// for one at most so long.
    pub(crate) fn pop(&self, wait: Duration, quiet: Duration) -> Option<(BucketName, String)> {
        let mut waiting = self.waiting.lock();
        let item = waiting.next(quiet).or_else(|| {
            self.arrived.wait_for(&mut waiting, wait);
            waiting.next(quiet)
        })?;
        waiting.known.remove(&item);
        Some(item)
    }
}

impl Waiting {
    /// The file as it is queued, where it may be.
    fn takes(&mut self, bucket: &BucketName, key: &str) -> Option<(BucketName, String)> {
        let item = (bucket.clone(), key.to_owned());
        let has_room = self.known.len() < QUEUE_MAX;
        (has_room && self.known.insert(item.clone())).then_some(item)
    }

    fn next(&mut self, quiet: Duration) -> Option<(BucketName, String)> {
        self.doubted.pop_front().or_else(|| {
            let (written, _) = self.written.front()?;
            match written.elapsed() >= quiet {
                true => self.written.pop_front().map(|(_, item)| item),
                false => None,
            }
        })
    }
}

/// Is the content of an open file what its record says? By CRC64NVME, which every record has.
///
/// # Errors
/// What reading says.
pub(crate) fn content_matches(file: impl AsFd, record: &Record) -> Result<bool> {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    let length = read_all(file, |bytes| digest.update(bytes))?;
    Ok(length == record.stamp.size && digest.finalize() == record.crc64)
}

/// Reads an open file from its start to its end.
pub(crate) fn read_all(file: impl AsFd, mut each: impl FnMut(&[u8])) -> Result<u64> {
    let failed = |e| StoreError::from_io("reading an object", e);
    let file = File::from(file.as_fd().try_clone_to_owned().map_err(failed)?);
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(offset),
            Ok(length) => {
                each(&buffer[..length]);
                offset += length as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_just_now_waits_and_keeps_nobody_else_waiting() {
        let bucket = BucketName::parse("bucket").expect("a name");
        let (queue, hour) = (Queue::default(), Duration::from_secs(3600));
        queue.push_written(&bucket, "written");
        queue.push_written(&bucket, "written too");
        queue.push(&bucket, "doubted");
        queue.push(&bucket, "written");
        let next = |quiet| queue.pop(Duration::ZERO, quiet).map(|(_, key)| key);
        assert_eq!(next(hour).as_deref(), Some("doubted"));
        assert_eq!(next(hour), None, "they are too young");
        assert_eq!(next(Duration::ZERO).as_deref(), Some("written"));
        assert_eq!(next(Duration::ZERO).as_deref(), Some("written too"));
        assert_eq!(next(Duration::ZERO), None, "each of them once");
    }
}
