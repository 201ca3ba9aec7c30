//! Listing in true key order: UTF-8 byte order over whole keys, the bucket's files and its annex merged.
//!
//! A page costs what it shows: the walk opens the directories that prefix and marker lead to, skips a group
//! by binary search, and looks at the metadata of the page's own entries only. `next` is exact, because the
//! entry after the page is looked at too.

pub(crate) mod cache;
mod entry;
mod fan;
pub mod inventory;
pub(crate) mod names;
pub(crate) mod read;
mod scope;
mod walk;

use std::cmp::Ordering;
use std::sync::Arc;

use cache::NameCache;
use entry::{Candidate, Place};
use read::{Reader, Side};
use scope::Scope;
use walk::{Found, Walk};

use crate::root::Tree;
use crate::{Bucket, ETag, Result, Timestamp};

/// Entries whose metadata is looked at in one go.
const BATCH: usize = 1001;
/// Directories that one go may hold open.
const MAX_DIRS: usize = 64;

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
        let mut page = ListPage::default();
        if query.max_keys == 0 {
            return Ok(page);
        }
        let mut keys = self.keys(query, &self.store.names)?;
        loop {
            // One more than the page has room for: whether anything follows must be known, not guessed.
            let room = query.max_keys - page.len();
            let batch = keys.batch(room.saturating_add(1).min(BATCH))?;
            let Some(batch) = batch else { return Ok(page) };
            for found in batch.describe(self)? {
                if page.len() == query.max_keys {
                    page.next = page.last().map(str::to_owned);
                    return Ok(page);
                }
                match found {
                    Described::Object(entry) => page.objects.push(entry),
                    Described::Group(group) => page.common_prefixes.push(group),
                }
            }
        }
    }

    /// The keys and common prefixes that the query is about, from its marker on.
    fn keys(&self, query: &ListQuery, cache: &Arc<NameCache>) -> Result<Keys> {
        let scope = Scope {
            prefix: query.prefix.clone(),
            delimiter: query.delimiter.clone(),
        };
        let bound = scope.after(&query.after);
        let reader = |tree, side| {
            Arc::new(Reader {
                tree,
                side,
                cache: Arc::clone(cache),
                bucket: self.name().clone(),
            })
        };
        let native = Walk::start(
            reader(self.tree.clone(), Side::Native),
            scope.clone(),
            &bound,
        )?;
        let annex = match self.tree.reserved("annex", false)? {
            Some(dir) => {
                let tree = Tree::new(Arc::new(dir), None, self.tree.scope().clone());
                Some(Walk::start(reader(tree, Side::Annex), scope, &bound)?)
            }
            None => None,
        };
        Ok(Keys { native, annex })
    }
}

impl ListPage {
    /// Keys and common prefixes together.
    fn len(&self) -> usize {
        self.objects.len() + self.common_prefixes.len()
    }

    /// The greatest key or common prefix.
    fn last(&self) -> Option<&str> {
        let key = self.objects.last().map(|entry| entry.key.as_str());
        key.max(self.common_prefixes.last().map(String::as_str))
    }
}

/// The two trees of a bucket, merged in key order.
struct Keys {
    native: Walk,
    annex: Option<Walk>,
}

/// A stretch of keys and common prefixes, in order.
struct Batch {
    found: Vec<Found>,
}

/// One of them that is really there.
enum Described {
    Object(ListEntry),
    Group(String),
}

impl Keys {
    /// The next one. Where both trees hold a key, the native one comes, with the annex's in reserve.
    fn next(&mut self) -> Result<Option<Found>> {
        let Some(annex) = &mut self.annex else {
            self.native.peek()?;
            return Ok(self.native.take().map(|found| self.passed(found)));
        };
        let order = match (self.native.peek()?, annex.peek()?) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(native), Some(annex)) => native.text().cmp(annex.text()),
        };
        let found = match order {
            Ordering::Less => self.native.take(),
            Ordering::Greater => annex.take(),
            Ordering::Equal => both(self.native.take(), annex.take()),
        };
        Ok(found.map(|found| self.passed(found)))
    }

    /// Moves both trees past a common prefix.
    fn passed(&mut self, found: Found) -> Found {
        if let Found::Group(group) = &found {
            self.native.skip(group);
            if let Some(annex) = &mut self.annex {
                annex.skip(group);
            }
        }
        found
    }

    /// The next ones, at most `count`; `None` at the end.
    fn batch(&mut self, count: usize) -> Result<Option<Batch>> {
        let mut found = Vec::with_capacity(count);
        let (mut dirs, mut last) = (0, None);
        while found.len() < count && dirs < MAX_DIRS {
            let Some(next) = self.next()? else { break };
            if let Found::Object(Candidate {
                place: Place::Entry(_, dir),
                ..
            }) = &next
                && last.replace(Arc::as_ptr(dir)) != Some(Arc::as_ptr(dir))
            {
                dirs += 1;
            }
            found.push(next);
        }
        Ok((!found.is_empty()).then_some(Batch { found }))
    }
}

fn both(native: Option<Found>, annex: Option<Found>) -> Option<Found> {
    match (native, annex) {
        (Some(Found::Object(native)), Some(Found::Object(annex))) => {
            Some(Found::Object(Candidate {
                also: Some(Box::new(annex)),
                ..native
            }))
        }
        (native, _) => native,
    }
}

impl Batch {
    /// Looks at every object; those that are none are left out.
    fn describe(self, bucket: &Bucket) -> Result<Vec<Described>> {
        let mut entries = entry::describe_all(bucket, &self.found)?.into_iter();
        let described = self.found.into_iter().filter_map(|found| match found {
            Found::Group(group) => Some(Described::Group(group)),
            Found::Object(candidate) => {
                let seen = entries.next().flatten()?;
                Some(Described::Object(seen.under(candidate.key)))
            }
        });
        Ok(described.collect())
    }
}
