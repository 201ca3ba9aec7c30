//! A walk over one tree in key order that can skip: it opens only directories that its answer needs.
//!
//! Depth is a stack of frames, not of calls; keys have at most 1024 bytes, so it has at most 512 frames, of
//! which the innermost few keep their directory open.

use std::ops::Range;
use std::sync::Arc;

use rustix::fs::{self, FileType, OFlags};

use super::entry::{Candidate, Place};
use super::names::{Kind, Names};
use super::read::{Listed, Reader, Side};
use super::scope::{Bound, Scope};
use crate::name::MAX_KEY;
use crate::root::{Dir, kind};
use crate::{Access, ObjectKey, Result, path};

/// Frames that keep their directory open.
const MAX_OPEN: usize = 16;

/// What a walk stands at.
pub(crate) enum Found {
    /// An entry that may be an object; its metadata decides.
    Object(Candidate),
    /// A common prefix with at least one object.
    Group(String),
}

impl Found {
    /// Its key or common prefix.
    pub fn text(&self) -> &str {
        match self {
            Self::Object(candidate) => &candidate.key,
            Self::Group(group) => group,
        }
    }
}

/// Files of one open directory that follow each other, by their names alone: what most pages are made of.
pub(crate) struct Run {
    /// The tree that it lies in.
    pub reader: Arc<Reader>,
    /// The directory.
    pub dir: Arc<Dir>,
    /// What its keys begin with.
    pub text: String,
    names: Arc<Names>,
    /// Which of the names.
    pub places: Range<usize>,
}

impl Run {
    /// The name at one of [`Run::places`].
    pub fn name(&self, place: usize) -> &str {
        self.names.get(place).text
    }

    /// The key of the name at one of [`Run::places`].
    pub fn key(&self, place: usize) -> String {
        joined(&self.text, self.name(place))
    }
}

/// One directory of the path that the walk stands at.
struct Frame {
    /// What its keys begin with: empty, or ending in `/`.
    text: String,
    names: Arc<Names>,
    dir: Option<Arc<Dir>>,
    /// The next name.
    at: usize,
    /// The end of those that are wanted.
    end: usize,
    /// Is the directory itself, as the object `text`, still to be looked at?
    own: bool,
}

/// A walk under way.
pub(crate) struct Walk {
    reader: Arc<Reader>,
    scope: Scope,
    frames: Vec<Frame>,
    current: Option<Found>,
}

impl Walk {
    /// Stands before the first key of the scope that the bound does not cover.
    pub fn start(reader: Arc<Reader>, scope: Scope, bound: &Bound) -> Result<Self> {
        let mut walk = Self {
            reader,
            scope,
            frames: Vec::new(),
            current: None,
        };
        let top = walk.scope.directory().to_owned();
        if let Some(listed) = walk.reader.list(&top)? {
            let tail = walk.scope.prefix[top.len()..].to_owned();
            let at = listed.names.seek(0, |text| text < tail.as_str());
            let end = listed
                .names
                .seek(at, |text| text.starts_with(tail.as_str()));
            let own = tail.is_empty() && !top.is_empty() && !bound.covers(&top);
            walk.push(Frame {
                text: top,
                names: listed.names,
                dir: Some(listed.dir),
                at,
                end,
                own,
            });
            walk.descend(bound)?;
        }
        Ok(walk)
    }

    /// What comes next, found anew after [`Walk::take`] or [`Walk::skip`].
    pub fn peek(&mut self) -> Result<Option<&Found>> {
        if self.current.is_none() {
            self.current = self.advance()?;
        }
        Ok(self.current.as_ref())
    }

    /// Takes what [`Walk::peek`] showed.
    pub fn take(&mut self) -> Option<Found> {
        self.current.take()
    }

    /// Takes files that come next in one directory, at most `count` and all with keys below `limit`, none of them in
    /// a common prefix. `None`: [`Walk::peek`] is to find what comes next.
    pub fn run(&mut self, count: usize, limit: Option<&str>) -> Result<Option<Run>> {
        let Some(frame) = self.frames.last() else {
            return Ok(None);
        };
        let is_plain = self.reader.side == Side::Native && self.scope.shows_files_of(&frame.text);
        if self.current.is_some() || frame.own || !is_plain {
            return Ok(None);
        }
        // Every key of this frame begins with its text: below the limit are all, none, or those of some names.
        let limit = match limit.map(|limit| (limit, limit.strip_prefix(frame.text.as_str()))) {
            Some((limit, None)) if limit < frame.text.as_str() => return Ok(None),
            Some((_, rest)) => rest,
            None => None,
        };
        let longest = MAX_KEY.saturating_sub(frame.text.len());
        let is_next = |place: &usize| {
            let name = frame.names.get(*place);
            name.kind == Kind::File
                && name.text.len() <= longest
                && limit.is_none_or(|limit| name.text < limit)
        };
        let length = (frame.at..frame.end)
            .take(count)
            .take_while(is_next)
            .count();
        let dir = if length > 0 { self.dir()? } else { None };
        let (Some(dir), Some(frame)) = (dir, self.frames.last_mut()) else {
            return Ok(None);
        };
        let places = frame.at..frame.at + length;
        frame.at = places.end;
        Ok(Some(Run {
            reader: Arc::clone(&self.reader),
            dir,
            text: frame.text.clone(),
            names: Arc::clone(&frame.names),
            places,
        }))
    }

    /// Goes on after every key that begins with `group`, reading none of them.
    pub fn skip(&mut self, group: &str) {
        if self
            .current
            .as_ref()
            .is_some_and(|found| found.text().starts_with(group))
        {
            self.current = None;
        }
        while self
            .frames
            .last()
            .is_some_and(|frame| frame.text.starts_with(group))
        {
            self.frames.pop();
        }
        if let Some(frame) = self.frames.last_mut()
            && let Some(rest) = group.strip_prefix(frame.text.as_str())
        {
            let at = frame
                .names
                .seek(frame.at, |text| text <= rest || text.starts_with(rest));
            frame.at = at.min(frame.end);
        }
    }

    /// Goes down from the first frame to where the bound leads.
    fn descend(&mut self, bound: &Bound) -> Result<()> {
        while let Some(frame) = self.frames.last_mut() {
            let Some(rest) = bound.text().strip_prefix(frame.text.as_str()) else {
                // Every key of this frame begins with its text, so the bound covers all of them or none.
                if bound.covers(&frame.text) {
                    frame.at = frame.end;
                }
                return Ok(());
            };
            let past = match bound {
                Bound::Key(_) => frame.names.seek(frame.at, |text| text <= rest),
                Bound::Group(_) => frame
                    .names
                    .seek(frame.at, |text| text <= rest || text.starts_with(rest)),
            };
            let first = frame.at;
            frame.at = past.min(frame.end);
            // The directory that the bound lies in sorts right before the names that come after it.
            let Some(before) = frame.at.checked_sub(1).filter(|before| *before >= first) else {
                return Ok(());
            };
            let name = frame.names.get(before);
            let inside = name.kind == Kind::Dir && rest.starts_with(name.text);
            let skipped = matches!(bound, Bound::Group(_)) && name.text.starts_with(rest);
            if !inside || skipped {
                return Ok(());
            }
            let text = joined(&frame.text, name.text);
            match self.reader.list(&text)? {
                Some(listed) => self.enter(text, listed, false),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn enter(&mut self, text: String, listed: Listed, own: bool) {
        let end = listed.names.len();
        self.push(Frame {
            text,
            names: listed.names,
            dir: Some(listed.dir),
            at: 0,
            end,
            own,
        });
    }

    fn push(&mut self, frame: Frame) {
        if let Some(old) = self.frames.len().checked_sub(MAX_OPEN) {
            self.frames[old].dir = None;
        }
        self.frames.push(frame);
    }

    fn advance(&mut self) -> Result<Option<Found>> {
        while let Some(frame) = self.frames.last_mut() {
            if std::mem::take(&mut frame.own) {
                if let Some(found) = self.own()? {
                    return Ok(Some(found));
                }
                continue;
            }
            if frame.at >= frame.end {
                self.frames.pop();
                continue;
            }
            let name = frame.names.get(frame.at);
            let key = joined(&frame.text, name.text);
            frame.at += 1;
            // No request could name a longer key.
            if key.len() > MAX_KEY {
                continue;
            }
            let kind = name.kind;
            let group = self.scope.group(&key).map(str::to_owned);
            let found = match (group, kind) {
                (Some(group), _) => self
                    .holds_object(&key, kind)?
                    .then_some(Found::Group(group)),
                (None, Kind::File | Kind::Link) => self.candidate(key, kind)?.map(Found::Object),
                (None, Kind::Dir) => {
                    if let Some(listed) = self.reader.list(&key)? {
                        self.enter(key, listed, true);
                    }
                    None
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The innermost directory itself, when it is an object.
    fn own(&mut self) -> Result<Option<Found>> {
        let Some(dir) = self.dir()? else {
            return Ok(None);
        };
        let Some(frame) = self.frames.last() else {
            return Ok(None);
        };
        let object = |modified| {
            Found::Object(Candidate {
                key: frame.text.clone(),
                place: Place::Marked(modified),
                also: None,
            })
        };
        Ok(self.reader.mark(&dir).map(object))
    }

    /// The innermost directory, opened again if it was closed.
    fn dir(&mut self) -> Result<Option<Arc<Dir>>> {
        let Some(frame) = self.frames.last_mut() else {
            return Ok(None);
        };
        if frame.dir.is_none() {
            frame.dir = self.reader.open(&frame.text)?;
        }
        Ok(frame.dir.clone())
    }

    fn candidate(&mut self, key: String, kind: Kind) -> Result<Option<Candidate>> {
        let single = match self.reader.side {
            Side::Native => kind == Kind::File,
            Side::Annex => is_single_piece(&key),
        };
        let place = if single {
            let Some(dir) = self.dir()? else {
                return Ok(None);
            };
            Place::Entry(Arc::clone(&self.reader), dir)
        } else {
            Place::Path(Arc::clone(&self.reader))
        };
        Ok(Some(Candidate {
            key,
            place,
            also: None,
        }))
    }

    /// Is there at least one object at `key`, or below it where it is a directory?
    fn holds_object(&self, key: &str, kind: Kind) -> Result<bool> {
        match kind {
            Kind::File => Ok(true),
            Kind::Link => leads_to_file(&self.reader, key),
            Kind::Dir => below(&self.reader, key),
        }
    }
}

/// Does a link lead to a file inside the bucket?
fn leads_to_file(reader: &Reader, key: &str) -> Result<bool> {
    let Some(path) = reader.locate(key) else {
        return Ok(false);
    };
    let target = reader.bearable_open(
        key,
        reader.tree.open(&path, OFlags::RDONLY, Access::Blocking),
    )?;
    Ok(target
        .is_some_and(|file| fs::fstat(file).is_ok_and(|stat| kind(&stat) == FileType::RegularFile)))
}

/// A directory without a file among its names, whose links and directories are still to be looked into.
struct Level {
    text: String,
    names: Arc<Names>,
    at: usize,
}

/// What a first look at a directory found.
enum Look {
    Object,
    Deeper(Level),
    Nothing,
}

/// Is there an object in the directory whose keys begin with `text`, or anywhere below it?
///
/// One look at each directory's first names answers for most; only directories without a file are read whole.
fn below(reader: &Reader, text: &str) -> Result<bool> {
    let mut levels = Vec::new();
    let mut next = Some(text.to_owned());
    loop {
        if let Some(text) = next.take() {
            match look(reader, text)? {
                Look::Object => return Ok(true),
                Look::Deeper(level) => levels.push(level),
                Look::Nothing => {}
            }
        }
        let Some(level) = levels.last_mut() else {
            return Ok(false);
        };
        if level.at >= level.names.len() {
            levels.pop();
            continue;
        }
        let name = level.names.get(level.at);
        level.at += 1;
        let key = joined(&level.text, name.text);
        match name.kind {
            _ if key.len() > MAX_KEY => {}
            Kind::File => return Ok(true),
            Kind::Link if leads_to_file(reader, &key)? => return Ok(true),
            Kind::Link => {}
            Kind::Dir => next = Some(key),
        }
    }
}

fn look(reader: &Reader, text: String) -> Result<Look> {
    let Some(dir) = reader.open(&text)? else {
        return Ok(Look::Nothing);
    };
    if reader.mark(&dir).is_some() || reader.begins_with_file(&dir, &text)? {
        return Ok(Look::Object);
    }
    let listed = reader.list(&text)?;
    Ok(listed.map_or(Look::Nothing, |listed| {
        Look::Deeper(Level {
            text,
            names: listed.names,
            at: 0,
        })
    }))
}

/// A directory's text and a name in it, without the machinery of format.
fn joined(dir: &str, name: &str) -> String {
    let mut key = String::with_capacity(dir.len() + name.len());
    key.push_str(dir);
    key.push_str(name);
    key
}

/// Is the key's last component one name in the annex, not one that goes on in other directories?
fn is_single_piece(key: &str) -> bool {
    let Ok(key) = ObjectKey::parse(key) else {
        return false;
    };
    path::annex(&key)
        .parent()
        .is_none_or(|parent| !parent.name().ends_with(b"=c"))
}
