//! Files that cannot be sealed yet, each once, in the order in which their time comes.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use crate::BucketName;

/// A file that waits for its next turn.
pub(super) struct Waiting {
    pub bucket: BucketName,
    pub key: String,
    /// How many turns it has had.
    pub turns: u32,
}

/// All that wait.
#[derive(Default)]
pub(super) struct BusyFiles {
    /// By when they are due, and by the order in which they came.
    order: BTreeMap<(Instant, u64), Waiting>,
    known: HashSet<(BucketName, String)>,
    came: u64,
}

impl BusyFiles {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Does a file wait here?
    pub fn has(&self, bucket: &BucketName, key: &str) -> bool {
        // Nearly always nothing waits, and then nothing is copied.
        !self.known.is_empty() && self.known.contains(&(bucket.clone(), key.to_owned()))
    }

    /// Has a file wait until then.
    pub fn wait(&mut self, due: Instant, file: Waiting) {
        if self.known.insert((file.bucket.clone(), file.key.clone())) {
            self.came += 1;
            self.order.insert((due, self.came), file);
        }
    }

    /// Takes the one whose time has come.
    pub fn next(&mut self, now: Instant) -> Option<Waiting> {
        let first = self.order.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let file = first.remove();
        self.known.remove(&(file.bucket.clone(), file.key.clone()));
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_file_waits_once_and_they_come_in_the_order_of_their_time() {
        let bucket = BucketName::parse("bucket").expect("a name");
        let file = |key: &str| Waiting {
            bucket: bucket.clone(),
            key: key.to_owned(),
            turns: 0,
        };
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut busy = BusyFiles::default();
        for (seconds, key) in [(3, "c"), (1, "a"), (1, "b"), (9, "a")] {
            busy.wait(at(seconds), file(key));
        }
        assert_eq!(busy.len(), 3);
        assert!(busy.next(at(0)).is_none(), "nobody's time has come");
        let mut keys = Vec::new();
        while let Some(file) = busy.next(at(3)) {
            assert!(!busy.has(&file.bucket, &file.key));
            keys.push(file.key);
        }
        assert_eq!(keys, ["a", "b", "c"]);
        assert!(!busy.has(&bucket, "a"));
    }
}
