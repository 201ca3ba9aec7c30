//! What a directory is as S3, told before anything is served: which files are no objects, which keys are odd, and what
//! clients or a cloud would make of the rest. Nothing is written.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::everything::{At, Visitor, open_top, walk};
use crate::name::RESERVED;
use crate::open::kind_name;
use crate::path::{HideList, key_text};
use crate::root::kind;
use crate::{Access, BucketName, ObjectKey, Result, Store, StoreError, StoreOptions};

/// S3's largest object for most services and clients, in bytes (AWS: 5 TiB from 2010 to 2025).
pub const MAX_OBJECT: u64 = 5 << 40;

/// What can be said of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Remark {
    /// A directory at the top whose name no bucket may have.
    NotABucket,
    /// A file at the top, where only directories count.
    OutsideOfBuckets,
    /// The key would be longer than S3 allows.
    KeyTooLong,
    /// A name that is kept back: the filesystem's, or our own.
    KeptBack,
    /// A symbolic link that no object is behind.
    LinkToNoObject,
    /// A FIFO, socket or device.
    Special,
    /// It cannot be read.
    Unread,
    /// The bucket's name is one that new buckets may not have.
    OldBucketName,
    /// The name is not UTF-8: the key has escapes.
    NotUtf8,
    /// The name has control characters.
    Control,
    /// Names in one folder that differ in letter case only.
    AlikeButCase,
    /// Larger than S3's largest object.
    TooLarge,
    /// It has holes.
    Sparse,
    /// It has other names.
    HardLinked,
    /// A folder with nothing in it.
    EmptyFolder,
}

impl Remark {
    /// All of them, those that keep a file from being an object first.
    pub const ALL: [Self; 15] = [
        Self::NotABucket,
        Self::OutsideOfBuckets,
        Self::KeyTooLong,
        Self::KeptBack,
        Self::LinkToNoObject,
        Self::Special,
        Self::Unread,
        Self::OldBucketName,
        Self::NotUtf8,
        Self::Control,
        Self::AlikeButCase,
        Self::TooLarge,
        Self::Sparse,
        Self::HardLinked,
        Self::EmptyFolder,
    ];

    /// Does it keep the entry from being an object (or a bucket)?
    pub fn is_no_object(self) -> bool {
        self <= Self::Unread
    }

    /// Its word in a report.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotABucket => "not-a-bucket",
            Self::OutsideOfBuckets => "outside-of-buckets",
            Self::KeyTooLong => "key-too-long",
            Self::KeptBack => "kept-back",
            Self::LinkToNoObject => "link-to-no-object",
            Self::Special => "special",
            Self::Unread => "unread",
            Self::OldBucketName => "old-bucket-name",
            Self::NotUtf8 => "not-utf8",
            Self::Control => "control-character",
            Self::AlikeButCase => "alike-but-case",
            Self::TooLarge => "too-large",
            Self::Sparse => "sparse",
            Self::HardLinked => "hard-linked",
            Self::EmptyFolder => "empty-folder",
        }
    }

    /// What it means for who serves or moves the tree.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::NotABucket => "folders at the top whose name no bucket may have: not served",
            Self::OutsideOfBuckets => "files at the top: not served, only what lies in a folder is",
            Self::KeyTooLong => "keys over 1,024 bytes: no S3 client can name them",
            Self::KeptBack => "names that filesystems or twintree keep for themselves: not served",
            Self::LinkToNoObject => {
                "links that lead nowhere, to a folder, or out of their bucket: not listed"
            }
            Self::Special => "FIFOs, sockets and devices: no objects",
            Self::Unread => "what this user cannot read",
            Self::OldBucketName => {
                "buckets whose name S3 gives to no new bucket: served here, refused elsewhere"
            }
            Self::NotUtf8 => {
                "names that are not UTF-8: their keys show U+10FE00 and up for the odd bytes"
            }
            Self::Control => {
                "names with control characters: some clients stumble over them in listings"
            }
            Self::AlikeButCase => {
                "names that differ in letter case only: one file to Windows and macOS"
            }
            Self::TooLarge => "files over 5 TiB: served, but too large for most S3 services",
            Self::Sparse => "files with holes: a copy by S3 fills them with zeros",
            Self::HardLinked => {
                "files with other names: a PUT to one key leaves the others as they were"
            }
            Self::EmptyFolder => "empty folders: S3 does not show them",
        }
    }
}

/// One thing that was found.
#[derive(Debug)]
pub struct Found<'a> {
    /// What it is.
    pub remark: Remark,
    /// The path on disk.
    pub path: &'a [u8],
    /// More about it, in words; may be empty.
    pub detail: String,
}

/// What is told while it is looked at.
#[derive(Debug)]
pub enum Telling<'a> {
    /// So many entries more were looked at.
    Progress(u64),
    /// Something was found.
    Found(Found<'a>),
}

/// How much there is.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Directories that are buckets.
    pub buckets: u64,
    /// Files that are objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How often each thing was found.
    pub remarks: HashMap<Remark, u64>,
}

/// Looks at the tree that would be served from `dir`. Blocking.
///
/// # Errors
/// `dir` cannot be opened. What fails below it is told.
pub fn examine(dir: &Path, told: &mut dyn FnMut(Telling<'_>)) -> Result<Summary> {
    let shown = dir.display().to_string();
    let top = open_top(dir)?;
    let mut look = Look {
        // It resolves links as the daemon does.
        store: Store::open(StoreOptions {
            read_only: true,
            ..StoreOptions::of(dir)
        })?,
        hide: HideList::new(&[]),
        top: shown.len(),
        told,
        summary: Summary::default(),
    };
    walk(&top, shown.into_bytes(), &mut look);
    Ok(look.summary)
}

struct Look<'a> {
    store: Arc<Store>,
    hide: HideList,
    /// How long the path of the top is.
    top: usize,
    told: &'a mut dyn FnMut(Telling<'_>),
    summary: Summary,
}

impl Visitor for Look<'_> {
    fn directory(&mut self, path: &[u8], names: &[(Vec<u8>, bool)]) {
        (self.told)(Telling::Progress(names.len() as u64));
        if names.is_empty() && self.key_of(path).is_some() {
            self.say(Remark::EmptyFolder, path, String::new());
        }
        let mut alike: HashMap<String, Vec<&str>> = HashMap::new();
        for name in names
            .iter()
            .filter_map(|(name, _)| str::from_utf8(name).ok())
        {
            alike.entry(name.to_lowercase()).or_default().push(name);
        }
        for mut names in alike.into_values().filter(|names| names.len() > 1) {
            names.sort_unstable();
            self.say(Remark::AlikeButCase, path, names.join(", "));
        }
    }

    fn entry(&mut self, at: &At<'_>) -> bool {
        if self.hide.hides(at.name) {
            let is_ours = at.is_at_a_top && at.name == RESERVED.as_bytes();
            if !is_ours {
                self.say(Remark::KeptBack, at.path, String::new());
            }
            return false;
        }
        match at.depth {
            0 => self.at_the_top(at),
            _ => self.in_a_bucket(at),
        }
    }

    fn left(&mut self, path: &[u8], why: &str) {
        self.say(Remark::Unread, path, why.to_owned());
    }
}

impl Look<'_> {
    /// The key of a path, after its bucket; `None`: it is a bucket, or the top.
    fn key_of<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let inside = path.get(self.top + 1..)?;
        let slash = inside.iter().position(|byte| *byte == b'/')?;
        Some(&inside[slash + 1..])
    }

    fn at_the_top(&mut self, at: &At<'_>) -> bool {
        if !at.is_directory {
            self.say(Remark::OutsideOfBuckets, at.path, String::new());
            return false;
        }
        let name = key_text(at.name);
        if let Err(why) = BucketName::parse(&name) {
            self.say(Remark::NotABucket, at.path, why.to_owned());
            return false;
        }
        self.summary.buckets += 1;
        if let Err(why) = BucketName::parse_new(&name) {
            self.say(Remark::OldBucketName, at.path, why.to_owned());
        }
        true
    }

    fn in_a_bucket(&mut self, at: &At<'_>) -> bool {
        let key = key_text(self.key_of(at.path).unwrap_or_default()).into_owned();
        if str::from_utf8(at.name).is_err() {
            self.say(Remark::NotUtf8, at.path, format!("key {key:?}"));
        }
        if at.name.iter().any(u8::is_ascii_control) {
            self.say(Remark::Control, at.path, String::new());
        }
        if at.is_directory {
            return true;
        }
        match fs::statat(at.dir, at.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.file(at, &key, &stat),
            Err(Errno::NOENT) => {}
            Err(e) => self.left(at.path, &e.to_string()),
        }
        false
    }

    fn file(&mut self, at: &At<'_>, key: &str, stat: &Stat) {
        let parsed = match ObjectKey::parse(key) {
            Ok(parsed) => parsed,
            Err(why) => return self.say(Remark::KeyTooLong, at.path, why.to_string()),
        };
        match kind(stat) {
            FileType::RegularFile => self.object(at, stat),
            FileType::Symlink => self.link(at, &parsed),
            other => self.say(Remark::Special, at.path, kind_name(other).to_owned()),
        }
    }

    fn object(&mut self, at: &At<'_>, stat: &Stat) {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let held = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        self.count(size);
        if size > MAX_OBJECT {
            self.say(Remark::TooLarge, at.path, format!("{size} bytes"));
        }
        // A hole has a page at least; small files may lie in their inode and hold nothing.
        if size >= held + 4096 {
            let detail = format!("{held} of {size} bytes on disk");
            self.say(Remark::Sparse, at.path, detail);
        }
        if stat.st_nlink > 1 {
            let detail = format!("{} names, inode {}", stat.st_nlink, stat.st_ino);
            self.say(Remark::HardLinked, at.path, detail);
        }
        if let Err(e) = fs::accessat(at.dir, at.name, fs::Access::READ_OK, AtFlags::EACCESS) {
            self.left(at.path, &e.to_string());
        }
    }

    fn link(&mut self, at: &At<'_>, key: &ObjectKey) {
        let behind = self.bucket_of(at.path).and_then(|name| {
            let bucket = self.store.bucket(&name)?;
            bucket.open(key, Access::Blocking)
        });
        match behind {
            Ok(object) => self.count(object.info.size),
            Err(e) => self.say(Remark::LinkToNoObject, at.path, e.to_string()),
        }
    }

    fn bucket_of(&self, path: &[u8]) -> Result<BucketName> {
        let inside = &path[self.top + 1..];
        let name = key_text(
            inside
                .split(|byte| *byte == b'/')
                .next()
                .unwrap_or_default(),
        );
        BucketName::parse(&name).map_err(|_| StoreError::NoSuchBucket(name.into_owned()))
    }

    fn count(&mut self, size: u64) {
        self.summary.objects += 1;
        self.summary.bytes += size;
    }

    fn say(&mut self, remark: Remark, path: &[u8], detail: String) {
        *self.summary.remarks.entry(remark).or_default() += 1;
        (self.told)(Telling::Found(Found {
            remark,
            path,
            detail,
        }));
    }
}
