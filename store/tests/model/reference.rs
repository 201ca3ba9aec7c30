//! The reference: what a bucket must hold after S3's operations and a direct writer's.
//!
//! It knows nothing of the store. A key lives in the tree or in the annex, and which of them decides what a
//! direct edit uncovers later (FORMATS, *Annex*); what is visible is one map over both.

use std::collections::BTreeMap;

use md5::{Digest, Md5};

/// What an object's entity tag must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Tag {
    /// The MD5 of its body: S3 wrote it, and nobody touched it.
    Sure,
    /// The MD5 or a derived one: its body is what S3 wrote, but its ctime was moved directly.
    Either,
    /// A derived one: a direct writer made or changed it.
    Derived,
}

/// An object of the model.
#[derive(Clone, Debug)]
pub struct Body {
    /// What GET must give.
    pub bytes: Vec<u8>,
    /// What its entity tag must be.
    pub tag: Tag,
    /// What the last comparison saw; `None`: it is new.
    pub seen: Option<String>,
    /// Changed since then, so that a derived tag must be another one.
    pub moved: bool,
    /// The derived tag that it showed before it was seen to be what S3 wrote, if nothing moved since: it
    /// still names this very file.
    pub derived: Option<String>,
    /// Its mtime was put back after a change of equal size.
    pub disguised: bool,
}

impl Body {
    pub fn put(bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        Self {
            bytes,
            tag: Tag::Sure,
            seen: None,
            moved: false,
            derived: None,
            disguised: false,
        }
    }

    pub fn direct(bytes: &[u8]) -> Self {
        Self {
            tag: Tag::Derived,
            ..Self::put(bytes)
        }
    }

    pub fn md5(&self) -> String {
        Md5::digest(&self.bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// A direct writer changed the bytes.
    pub fn rewritten(&mut self) {
        self.tag = Tag::Derived;
        self.moved = true;
        self.derived = None;
        self.disguised = false;
    }

    /// A direct writer changed something else of the file.
    pub fn touched(&mut self) {
        if self.tag == Tag::Sure {
            self.tag = Tag::Either;
        }
        self.moved = true;
        self.derived = None;
    }

    /// Does this tag, which a client sends, name the object?
    pub fn is_tagged(&self, tag: &str) -> bool {
        let md5 = self.tag != Tag::Derived && tag == self.md5();
        md5 || self.derived.as_deref() == Some(tag)
            || (self.tag != Tag::Sure && self.seen.as_deref() == Some(tag))
    }
}

#[derive(Clone, Debug, Default)]
pub struct Dir {
    /// Made by the store, so it goes with its last child.
    pub ours: bool,
    /// It is the object `dir/`.
    pub object: Option<Body>,
}

/// The tree and the annex, as they must be.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Has the filesystem no xattrs? Then no directory is marked: none is pruned, and none is an object.
    pub unmarked: bool,
    pub files: BTreeMap<String, Body>,
    pub dirs: BTreeMap<String, Dir>,
    pub annex: BTreeMap<String, Body>,
}

/// The directories above a path (of `a/b/`: `a` and `a/b`), outermost first.
pub fn parents(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Can a path hold the key, as far as its text says?
pub fn is_native(key: &str) -> bool {
    let path = key.strip_suffix('/').unwrap_or(key);
    path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

impl Model {
    /// Every object, where a native one hides the annex's.
    pub fn objects(&self) -> BTreeMap<String, &Body> {
        let mut all: BTreeMap<String, &Body> =
            self.annex.iter().map(|(k, b)| (k.clone(), b)).collect();
        let marked =
            |(path, dir): (&String, &'_ Dir)| dir.object.as_ref().map(|_| format!("{path}/"));
        for entry in &self.dirs {
            if let (Some(key), Some(body)) = (marked(entry), entry.1.object.as_ref()) {
                all.insert(key, body);
            }
        }
        all.extend(self.files.iter().map(|(k, b)| (k.clone(), b)));
        all
    }

    pub fn get(&self, key: &str) -> Option<&Body> {
        let native = match key.strip_suffix('/') {
            Some(path) => self.dirs.get(path).and_then(|dir| dir.object.as_ref()),
            None => self.files.get(key),
        };
        native.or_else(|| self.annex.get(key))
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Body> {
        let native = match key.strip_suffix('/') {
            Some(path) => self.dirs.get_mut(path).and_then(|dir| dir.object.as_mut()),
            None => self.files.get_mut(key),
        };
        native.or_else(|| self.annex.get_mut(key))
    }

    pub fn blocked_by_file(&self, path: &str) -> bool {
        parents(path).any(|parent| self.files.contains_key(parent))
    }

    pub fn make_dirs(&mut self, path: &str, ours: bool) {
        for parent in parents(path) {
            self.dirs.entry(parent.to_owned()).or_insert(Dir {
                ours: ours && !self.unmarked,
                object: None,
            });
        }
    }

    pub fn put(&mut self, key: &str, bytes: &[u8]) {
        let body = Body::put(bytes);
        if !is_native(key) {
            self.annex.insert(key.to_owned(), body);
            return;
        }
        match key.strip_suffix('/') {
            Some(path) => self.put_dir(path, key, body),
            None => {
                let blocked = self.blocked_by_file(key) || self.dirs.contains_key(key);
                let lives_in_annex = self.annex.contains_key(key) && !self.files.contains_key(key);
                if blocked || lives_in_annex {
                    self.annex.insert(key.to_owned(), body);
                } else {
                    self.make_dirs(key, true);
                    self.files.insert(key.to_owned(), body);
                }
            }
        }
    }

    fn put_dir(&mut self, path: &str, key: &str, body: Body) {
        let is_object = self.dirs.get(path).is_some_and(|dir| dir.object.is_some());
        if !body.bytes.is_empty() {
            if let Some(dir) = self.dirs.get_mut(path) {
                dir.object = None;
            }
            self.annex.insert(key.to_owned(), body);
            return;
        }
        let blocked = self.blocked_by_file(key) || self.unmarked;
        if blocked || (!is_object && self.annex.contains_key(key)) {
            self.annex.insert(key.to_owned(), body);
            return;
        }
        self.make_dirs(key, true);
        self.dirs.get_mut(path).expect("just made").object = Some(body);
    }

    pub fn delete(&mut self, key: &str) -> bool {
        let annexed = self.annex.remove(key).is_some();
        let native = match key.strip_suffix('/') {
            Some(path) => self
                .dirs
                .get_mut(path)
                .is_some_and(|dir| dir.object.take().is_some()),
            None => self.files.remove(key).is_some(),
        };
        // A deletion of what is not there ends one that was cut before it pruned.
        if native || !annexed {
            self.prune(key);
        }
        annexed || native
    }

    fn prune(&mut self, key: &str) {
        if !is_native(key) {
            return;
        }
        for path in parents(key).rev() {
            let keep = match self.dirs.get(path) {
                Some(dir) => !dir.ours || dir.object.is_some() || !self.is_empty_dir(path),
                None => self.files.contains_key(path),
            };
            if keep {
                return;
            }
            self.dirs.remove(path);
        }
    }

    fn is_empty_dir(&self, path: &str) -> bool {
        let below = format!("{path}/");
        !self
            .files
            .keys()
            .chain(self.dirs.keys())
            .any(|other| other.starts_with(&below))
    }

    /// May a person make a file (or a directory) here, with the parents that lack?
    pub fn free_for_file(&self, path: &str) -> bool {
        !self.blocked_by_file(path) && !self.dirs.contains_key(path)
    }

    pub fn move_tree(&mut self, from: &str, to: &str) {
        fn moved<T>(map: &mut BTreeMap<String, T>, from: &str, to: &str) {
            let below = format!("{from}/");
            let names: Vec<String> = map
                .keys()
                .filter(|path| *path == from || path.starts_with(&below))
                .cloned()
                .collect();
            for name in names {
                let value = map.remove(&name).expect("just found");
                map.insert(format!("{to}{}", &name[from.len()..]), value);
            }
        }
        moved(&mut self.files, from, to);
        moved(&mut self.dirs, from, to);
    }
}

/// One page by S3's rule over all keys, naively: keys with the prefix, each rolled up to its common prefix,
/// each text once, those after the marker; and what follows the page.
pub fn list(
    keys: &[String],
    prefix: &str,
    delimiter: &str,
    after: &str,
    max_keys: usize,
) -> (Vec<String>, Option<String>) {
    let rolled_up = |key: &String| match key[prefix.len()..].find(delimiter) {
        Some(at) if !delimiter.is_empty() => key[..prefix.len() + at + delimiter.len()].to_owned(),
        _ => key.clone(),
    };
    let matching = keys.iter().filter(|key| key.starts_with(prefix));
    let mut texts: Vec<String> = matching.map(rolled_up).collect();
    texts.sort();
    texts.dedup();
    texts.retain(|text| text.as_str() > after);
    let following = texts.get(max_keys).cloned();
    texts.truncate(max_keys);
    (texts, following)
}
