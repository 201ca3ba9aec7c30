//! What waits for the sealer, and how content is compared with its record.
//!
//! Whoever meets an unverified file queues it here; `sealer.rs` works the queue off.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

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
    order: VecDeque<(BucketName, String)>,
    known: HashSet<(BucketName, String)>,
}

impl Queue {
    /// Queues a file, unless it waits already or the queue is full.
    pub(crate) fn push(&self, bucket: &BucketName, key: &str) {
        let mut waiting = self.waiting.lock();
        if waiting.order.len() >= QUEUE_MAX {
            return;
        }
        let item = (bucket.clone(), key.to_owned());
        if waiting.known.insert(item.clone()) {
            waiting.order.push_back(item);
            self.arrived.notify_one();
        }
    }
}

impl Queue {
    /// Takes the file that waits longest; waits for one at most so long.
    pub(crate) fn pop(&self, wait: std::time::Duration) -> Option<(BucketName, String)> {
        let mut waiting = self.waiting.lock();
        if waiting.order.is_empty() {
            self.arrived.wait_for(&mut waiting, wait);
        }
        let item = waiting.order.pop_front()?;
        waiting.known.remove(&item);
        Some(item)
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
