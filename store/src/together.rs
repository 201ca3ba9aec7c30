//! Several small objects stored at once, on one thread: what each of them would pay for alone is paid once.
//!
//! Nobody in the batch waits for somebody outside of it: an object that would have to (its key is locked, its folder is
//! to be made) is given back, to be published on a thread of its own.

use std::os::unix::fs::FileExt;

use crate::publish::{Content, Finished};
use crate::{Bucket, ObjectKey, Published, Put, Result, Stage, StoreError};

/// One small object to be stored: its body is complete and verified.
pub struct Small<B> {
    /// Where it goes.
    pub bucket: Bucket,
    /// Its key.
    pub key: ObjectKey,
    /// All of its bytes.
    pub body: B,
    /// What becomes visible with them.
    pub put: Put,
}

/// What became of one of them.
pub enum Stored {
    /// It is as durable as its bucket is set to, or it failed and the old object stays.
    Now(Result<Published>),
    /// It would have to wait for others: [`Deferred::publish`] does.
    Deferred(Box<Deferred>),
}

/// An object whose bytes are staged and which is still to be published.
pub struct Deferred {
    bucket: Bucket,
    key: ObjectKey,
    stage: Stage,
    finished: Finished,
}

impl Deferred {
    /// Publishes it, as [`Bucket::publish`] does. Blocking, for as long as somebody else holds its key.
    ///
    /// # Errors
    /// As [`Bucket::publish`].
    pub fn publish(self) -> Result<Published> {
        self.bucket
            .publish_content(&self.key, self.stage, &self.finished)
    }
}

/// Stores several small objects, each all or nothing; `done` is told of each, by its index, as soon as it is as durable
/// as its bucket is set to, has failed, or is deferred. Blocking, but for nobody's lock.
pub fn store_together<B: AsRef<[u8]>>(smalls: Vec<Small<B>>, mut done: impl FnMut(usize, Stored)) {
    for (index, small) in smalls.into_iter().enumerate() {
        done(index, Stored::Now(store(small)));
    }
}

fn store<B: AsRef<[u8]>>(small: Small<B>) -> Result<Published> {
    let Small {
        bucket,
        key,
        body,
        put,
    } = small;
    let body = body.as_ref();
    let stage = bucket.stage(&key, Some(body.len() as u64))?;
    stage
        .file
        .write_all_at(body, 0)
        .map_err(|e| StoreError::from_io(key.as_str(), e))?;
    let content = Content::of_body(bucket.etag_kind(), &put.digests, put.checksum);
    let whole = Deferred {
        finished: Finished {
            content,
            meta: put.meta,
            old_json: None,
            conditions: put.conditions,
        },
        bucket,
        key,
        stage,
    };
    whole.publish()
}

#[cfg(test)]
mod tests;
