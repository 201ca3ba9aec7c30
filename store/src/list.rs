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
use std::ops::ControlFlow;
use std::sync::Arc;

use cache::NameCache;
pub(crate) use entry::Tagged;
use entry::{Asked, Candidate, Place, Seen};
use read::{Reader, Side};
use scope::Scope;
use walk::{Found, Run, Walk};

use crate::root::{Dir, Tree};
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
#[derive(Clone, Copy, Debug)]
pub struct ListEntry<'a> {
    /// The key.
    pub key: &'a str,
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
    /// All keys after each other: a page has a thousand, and none of them is worth a block of memory.
    keys: String,
    rows: Vec<Row>,
    /// Common prefixes, in order.
    pub common_prefixes: Vec<String>,
    /// The `after` of the next page: the last key or common prefix of this one; `None`: this was the last.
    pub next: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    /// Where its key ends among the keys.
    end: usize,
    seen: Seen,
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
            page.rows.reserve(batch.len().min(room));
            if batch.show(self, &mut page, query.max_keys)?.is_break() {
                page.next = page.last().map(str::to_owned);
                return Ok(page);
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
    /// Keys, in order.
    pub fn objects(&self) -> impl ExactSizeIterator<Item = ListEntry<'_>> {
        (0..self.rows.len()).map(|at| self.object(at))
    }

    /// The last of the keys.
    pub fn last_key(&self) -> Option<&str> {
        let last = self.rows.len().checked_sub(1)?;
        Some(self.object(last).key)
    }

    /// Puts a key behind the others.
    pub fn push(&mut self, entry: &ListEntry) {
        let seen = Seen {
            size: entry.size,
            modified: entry.modified,
            tagged: Tagged::new(entry.etag, entry.checksum),
        };
        self.add(entry.key, "", seen);
    }

    /// Puts the key behind the others whose text is these two.
    fn add(&mut self, dir: &str, name: &str, seen: Seen) {
        self.keys.push_str(dir);
        self.keys.push_str(name);
        let end = self.keys.len();
        self.rows.push(Row { end, seen });
    }

    fn object(&self, at: usize) -> ListEntry<'_> {
        let start = at.checked_sub(1).map_or(0, |before| self.rows[before].end);
        let Row { end, seen } = &self.rows[at];
        ListEntry {
            key: &self.keys[start..*end],
            size: seen.size,
            modified: seen.modified,
            etag: seen.tagged.etag(),
            checksum: seen.tagged.checksum,
        }
    }

    /// Keys and common prefixes together.
    fn len(&self) -> usize {
        self.rows.len() + self.common_prefixes.len()
    }

    /// The greatest key or common prefix.
    fn last(&self) -> Option<&str> {
        self.last_key()
            .max(self.common_prefixes.last().map(String::as_str))
    }
}

/// The two trees of a bucket, merged in key order.
struct Keys {
    native: Walk,
    annex: Option<Walk>,
}

/// A stretch of keys and common prefixes, in order.
struct Batch {
    stretches: Vec<Stretch>,
}

/// Files of one directory, or what was found alone.
enum Stretch {
    Run(Run),
    One(Found),
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

    /// Files of one directory of the bucket's own tree that come next, where nothing of the annex comes between.
    fn run(&mut self, count: usize) -> Result<Option<Run>> {
        let limit = match &mut self.annex {
            Some(annex) => annex.peek()?.map(Found::text),
            None => None,
        };
        self.native.run(count, limit)
    }

    /// The next ones, at most `count`; `None` at the end.
    fn batch(&mut self, count: usize) -> Result<Option<Batch>> {
        let mut stretches = Vec::new();
        let (mut length, mut dirs, mut last) = (0, 0, None);
        while length < count && dirs < MAX_DIRS {
            let next = match self.run(count - length)? {
                Some(run) => Stretch::Run(run),
                None => match self.next()? {
                    Some(found) => Stretch::One(found),
                    None => break,
                },
            };
            if let Some(dir) = next.dir()
                && last.replace(Arc::as_ptr(dir)) != Some(Arc::as_ptr(dir))
            {
                dirs += 1;
            }
            length += next.len();
            stretches.push(next);
        }
        Ok((!stretches.is_empty()).then_some(Batch { stretches }))
    }
}

impl Stretch {
    fn len(&self) -> usize {
        match self {
            Self::Run(run) => run.places.len(),
            Self::One(_) => 1,
        }
    }

    /// The directory that it holds open.
    fn dir(&self) -> Option<&Arc<Dir>> {
        match self {
            Self::Run(run) => Some(&run.dir),
            Self::One(Found::Object(candidate)) => match &candidate.place {
                Place::Entry(_, dir) => Some(dir),
                Place::Path(_) | Place::Marked(_) => None,
            },
            Self::One(Found::Group(_)) => None,
        }
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
    /// How many keys and common prefixes there are.
    fn len(&self) -> usize {
        self.stretches.iter().map(Stretch::len).sum()
    }

    /// All that may be objects, in order.
    fn asked(&self) -> Vec<Asked<'_>> {
        let mut asked = Vec::with_capacity(self.len());
        for stretch in &self.stretches {
            match stretch {
                Stretch::Run(run) => {
                    asked.extend(run.places.clone().map(|place| Asked::Name(run, place)));
                }
                Stretch::One(Found::Object(candidate)) => asked.push(Asked::Candidate(candidate)),
                Stretch::One(Found::Group(_)) => {}
            }
        }
        asked
    }

    /// Looks at every object, and puts them on the page with the common prefixes; those that are none are left out.
    /// `Break`: there is one more than the page has room for.
    fn show(self, bucket: &Bucket, page: &mut ListPage, room: usize) -> Result<ControlFlow<()>> {
        let mut entries = entry::describe_all(bucket, &self.asked())?.into_iter();
        for stretch in self.stretches {
            let (dir, places) = match &stretch {
                Stretch::Run(run) => (run.text.as_str(), run.places.clone()),
                Stretch::One(Found::Object(candidate)) => (candidate.key.as_str(), 0..1),
                Stretch::One(Found::Group(_)) => ("", 0..0),
            };
            for place in places {
                let Some(seen) = entries.next().flatten() else {
                    continue;
                };
                if page.len() == room {
                    return Ok(ControlFlow::Break(()));
                }
                let name = match &stretch {
                    Stretch::Run(run) => run.name(place),
                    Stretch::One(_) => "",
                };
                page.add(dir, name, seen);
            }
            if let Stretch::One(Found::Group(group)) = stretch {
                if page.len() == room {
                    return Ok(ControlFlow::Break(()));
                }
                page.common_prefixes.push(group);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
