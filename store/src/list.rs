//! Listing in true key order: UTF-8 byte order over whole keys.

use crate::{Bucket, ETag, Result, Timestamp};

/// One page's question.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only keys that begin with it.
    pub prefix: String,
    /// Groups keys into common prefixes; any text; empty: none.
    pub delimiter: String,
    /// Exclusive: only keys (and common prefixes) after it; a common prefix here skips its whole group.
    pub after: String,
    /// At most so many keys and common prefixes together.
    pub max_keys: usize,
}

/// A key of a page.
#[derive(Clone, Debug)]
pub struct ListEntry {
    /// The key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// mtime.
    pub modified: Timestamp,
    /// As HEAD would answer it.
    pub etag: ETag,
    /// The algorithm and type of its checksum, when the record is valid.
    pub checksum: Option<(crate::Algorithm, crate::ChecksumType)>,
}

/// One page.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// Keys, in order.
    pub objects: Vec<ListEntry>,
    /// Common prefixes, in order.
    pub common_prefixes: Vec<String>,
    /// The `after` of the next page: the last key or common prefix of this one; `None`: this was the last.
    pub next: Option<String>,
}

impl Bucket {
    /// Lists one page. Blocking.
    ///
    /// # Errors
    /// What the disk says of the bucket itself; one bad entry never breaks a listing.
    pub fn list(&self, query: &ListQuery) -> Result<ListPage> {
        let _ = query; // contract
        unimplemented!()
    }
}
