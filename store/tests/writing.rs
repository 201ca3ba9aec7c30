//! PUT, DELETE, copy and tags through the store's door, on trees of their own; what a direct writer
//! does beside it is done with std::fs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use twintree_store::{
    Access, Algorithm, Bucket, BucketName, BucketSettings, Checksum, ChecksumType, CopyRequest,
    Digester, Durability, ETag, ETagList, KeyPolicy, Meta, Object, ObjectChecksum, ObjectKey,
    Published, Put, Result, Store, StoreError, StoreOptions, WriteConditions,
};

#[path = "writing/annex.rs"]
mod annex;
#[path = "writing/conditions.rs"]
mod conditions;
#[path = "writing/copies.rs"]
mod copies;
#[path = "writing/directories.rs"]
mod directories;
#[path = "writing/etags.rs"]
mod etags;
#[path = "writing/files.rs"]
mod files;
#[path = "writing/opaque.rs"]
mod opaque;
#[path = "writing/records.rs"]
mod records;

struct Tree {
    dir: tempfile::TempDir,
    bucket: Bucket,
}

impl Tree {
    fn new() -> Self {
        Self::with(KeyPolicy::Any, Durability::Strict)
    }

    fn with(keys: KeyPolicy, durability: Durability) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(&dir, keys, durability);
        let name = BucketName::parse("bucket").expect("a name");
        store
            .create_bucket(&name, BucketSettings::default())
            .expect("a bucket");
        let bucket = store.bucket(&name).expect("the bucket");
        Self { dir, bucket }
    }

    /// Another process: nothing is remembered.
    fn restarted(&self) -> Bucket {
        let store = open(&self.dir, KeyPolicy::Any, Durability::Strict);
        store
            .bucket(&BucketName::parse("bucket").expect("a name"))
            .expect("the bucket")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("bucket").join(name)
    }

    fn put(&self, key_: &str, body: &[u8]) -> Published {
        self.put_if(key_, body, WriteConditions::default())
            .expect("the PUT succeeds")
    }

    fn put_if(&self, key_: &str, body: &[u8], conditions: WriteConditions) -> Result<Published> {
        put(&self.bucket, key_, body, Meta::default(), conditions)
    }

    fn open(&self, key_: &str) -> Result<Object> {
        self.bucket.open(&key(key_), Access::Blocking)
    }

    fn read(&self, key_: &str) -> Vec<u8> {
        body_of(&self.open(key_).expect("the object is there"))
    }

    fn delete(&self, key_: &str) -> bool {
        self.bucket
            .delete(&key(key_), &WriteConditions::default())
            .expect("the DELETE succeeds")
    }

    /// Files below `.twintree/stage`.
    fn staged(&self) -> usize {
        fs::read_dir(self.path(".twintree/stage")).map_or(0, Iterator::count)
    }
}

fn open(dir: &tempfile::TempDir, keys: KeyPolicy, durability: Durability) -> Arc<Store> {
    Store::open(StoreOptions {
        root: dir.path().to_owned(),
        durability,
        keys,
        read_only: false,
        hide: Vec::new(),
        verify_mtime_only: false,
        etags: Default::default(),
        buckets: Default::default(),
        more_roots: Vec::new(),
    })
    .expect("a store")
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("a key")
}

fn put(
    bucket: &Bucket,
    key_: &str,
    body: &[u8],
    meta: Meta,
    conditions: WriteConditions,
) -> Result<Published> {
    let stage = bucket.stage(&key(key_), Some(body.len() as u64))?;
    (&*stage.file).write_all(body).expect("staged");
    let mut digester = Digester::new(&[]);
    digester.update(body);
    let digests = digester.finish();
    bucket.publish(
        &key(key_),
        stage,
        Put {
            digests,
            meta,
            checksum: None,
            conditions,
        },
    )
}

fn body_of(object: &Object) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut body = vec![0; object.info.size as usize];
    if let Some(file) = &object.file {
        file.read_exact_at(&mut body, 0).expect("read");
    }
    body
}

fn md5(body: &[u8]) -> ETag {
    let mut digester = Digester::new(&[]);
    digester.update(body);
    ETag::Md5(digester.finish().md5.expect("not left out"))
}

fn if_match(tag: ETag) -> WriteConditions {
    WriteConditions {
        if_match: Some(ETagList::Tags(vec![tag.to_string()])),
        ..WriteConditions::default()
    }
}

fn if_absent() -> WriteConditions {
    WriteConditions {
        if_none_match: Some(ETagList::Any),
        ..WriteConditions::default()
    }
}

/// Has the filesystem under the tests xattrs? Without them records lie beside, and no directory is marked.
fn has_xattrs(tree: &Tree) -> bool {
    xattr::set(tree.dir.path(), "user.test", b"x").is_ok()
}

/// Waits until the filesystem's clock has left the tick in which a file changed last. There is nothing to
/// wait for where each change has a stamp of its own (Linux: multigrain timestamps).
fn next_tick(path: &Path) {
    let probe = path.with_file_name(".probe");
    let stamp = |path: &Path| {
        let stat = fs::metadata(path).expect("there");
        (stat.ctime(), stat.ctime_nsec())
    };
    let turn = |mode| {
        fs::write(&probe, b"x").expect("written");
        let before = stamp(&probe);
        fs::set_permissions(&probe, fs::Permissions::from_mode(mode)).expect("chmod");
        (before, stamp(&probe))
    };
    let (before, after) = turn(0o600);
    if before == after {
        while turn(0o600).1 <= stamp(path) {}
    }
    fs::remove_file(&probe).expect("removed");
}

fn xattr(path: &PathBuf, name: &str) -> Option<Vec<u8>> {
    xattr::get(path, name).expect("xattrs can be read")
}
