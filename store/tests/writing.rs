//! PUT, DELETE, copy and tags through the store's door, on trees of their own; what a direct writer
//! does beside it is done with std::fs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use twintree_store::{
    Access, Algorithm, Bucket, BucketName, BucketSettings, Checksum, ChecksumType, CopyRequest,
    Digester, Durability, ETag, ETagList, KeyPolicy, Meta, Object, ObjectChecksum, ObjectKey,
    Published, Put, Result, Store, StoreError, StoreOptions, WriteConditions,
};

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
    ETag::Md5(digester.finish().md5)
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

fn xattr(path: &PathBuf, name: &str) -> Option<Vec<u8>> {
    xattr::get(path, name).expect("xattrs can be read")
}

#[test]
fn what_is_put_is_there_with_its_md5_and_nothing_else() {
    let tree = Tree::new();
    let published = tree.put("a/b.txt", b"hello");
    assert_eq!(published.etag, md5(b"hello"));
    let object = tree.open("a/b.txt").expect("there");
    assert_eq!(
        (object.info.etag, object.info.modified),
        (published.etag, published.modified)
    );
    assert_eq!(object.info.checksum, Some(published.checksum));
    assert_eq!(object.info.meta.content_type, None, "no type was sent");
    assert_eq!(
        fs::read(tree.path("a/b.txt")).expect("a plain file"),
        b"hello"
    );
    assert_eq!(
        xattr(&tree.path("a/b.txt"), "user.twintree").map(|r| r.len()),
        Some(64)
    );
    assert_eq!(xattr(&tree.path("a/b.txt"), "user.twintree.meta"), None);
    assert_eq!(tree.staged(), 0);
}

#[test]
fn etag_survives_a_restart_and_a_copy_with_xattrs() {
    let tree = Tree::new();
    tree.put("a", b"one");
    let again = tree
        .restarted()
        .open(&key("a"), Access::Blocking)
        .expect("there");
    assert_eq!(again.info.etag, md5(b"one"));
    let status = std::process::Command::new("cp")
        .arg("-a")
        .args([tree.path("a"), tree.path("copy")])
        .status()
        .expect("cp runs");
    assert!(status.success());
    assert_eq!(tree.open("copy").expect("there").info.etag, md5(b"one"));
}

#[test]
fn every_way_of_changing_a_file_directly_changes_its_etag() {
    let tree = Tree::new();
    let path = tree.path("f");
    let changes: [(&str, &dyn Fn()); 4] = [
        ("append", &|| {
            let mut file = fs::OpenOptions::new()
                .append(true)
                .open(&path)
                .expect("opened");
            file.write_all(b"x").expect("written");
        }),
        ("same size in place", &|| {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .expect("opened");
            file.write_all(b"XXX").expect("written");
        }),
        ("same size, mtime put back", &|| {
            let before = fs::metadata(&path)
                .expect("there")
                .modified()
                .expect("a time");
            let mut file = fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .expect("opened");
            file.write_all(b"YYY").expect("written");
            file.set_modified(before).expect("put back");
        }),
        ("rename over", &|| {
            fs::write(tree.path("other"), b"new").expect("written");
            fs::rename(tree.path("other"), &path).expect("renamed");
        }),
    ];
    for (how, change) in changes {
        let old = tree.put("f", b"old").etag;
        change();
        let now = tree.open("f").expect("there");
        assert_ne!(now.info.etag, old, "{how}");
        assert!(matches!(now.info.etag, ETag::Derived(..)), "{how}");
        assert_eq!(now.info.checksum, None, "{how}: no checksum is claimed");
        let refused = tree.put_if("f", b"mine", if_match(old));
        assert!(
            matches!(refused, Err(StoreError::PreconditionFailed("If-Match"))),
            "{how}"
        );
        tree.put_if("f", b"mine", if_match(now.info.etag))
            .expect("the ETag that HEAD shows is accepted");
    }
}

#[test]
fn chmod_hides_the_etag_and_a_condition_that_names_it_verifies_the_content() {
    let tree = Tree::new();
    let etag = tree.put("f", b"body").etag;
    fs::set_permissions(tree.path("f"), fs::Permissions::from_mode(0o600)).expect("chmod");
    assert!(matches!(
        tree.open("f").expect("there").info.etag,
        ETag::Derived(..)
    ));
    tree.put_if("f", b"next", if_match(etag))
        .expect("the content is still what the ETag names");
}

#[test]
fn chmod_after_a_first_read_shows_to_a_process_that_did_not_write_the_object() {
    let tree = Tree::new();
    let etag = tree.put("f", b"body").etag;
    let other = tree.restarted();
    let seen = || {
        other
            .open(&key("f"), Access::Blocking)
            .expect("there")
            .info
            .etag
    };
    assert_eq!(seen(), etag);
    fs::set_permissions(tree.path("f"), fs::Permissions::from_mode(0o600)).expect("chmod");
    assert!(matches!(seen(), ETag::Derived(..)));
}

#[test]
fn conditions_under_racing_threads_have_one_winner() {
    let tree = Tree::new();
    for round in 0..20 {
        let name = format!("k{round}");
        let created = race(&tree, &name, if_absent);
        assert_eq!(created, 1, "If-None-Match: * in round {round}");
        let etag = tree.open(&name).expect("there").info.etag;
        let swapped = race(&tree, &name, || if_match(etag));
        assert_eq!(swapped, 1, "If-Match in round {round}");
    }
    assert_eq!(tree.staged(), 0);
}

/// How many of eight threads, in two processes' worth of stores, succeed.
fn race(tree: &Tree, name: &str, conditions: impl Fn() -> WriteConditions + Sync) -> usize {
    let other = tree.restarted();
    let start = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        let attempt = |n: usize| {
            let (start, conditions, other) = (&start, &conditions, &other);
            scope.spawn(move || {
                let bucket = if n.is_multiple_of(2) {
                    &tree.bucket
                } else {
                    other
                };
                start.wait();
                put(
                    bucket,
                    name,
                    format!("body {n} if {:?}", conditions()).as_bytes(),
                    Meta::default(),
                    conditions(),
                )
            })
        };
        let threads: Vec<_> = (0..8).map(attempt).collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        results
            .filter(|result| match result {
                Ok(_) => true,
                Err(StoreError::PreconditionFailed(_)) => false,
                Err(e) => panic!("{e}"),
            })
            .count()
    })
}

#[test]
fn if_match_on_nothing_is_no_such_key() {
    let tree = Tree::new();
    let refused = tree.put_if("f", b"x", if_match(md5(b"x")));
    assert!(matches!(refused, Err(StoreError::NoSuchKey(_))));
    assert!(tree.open("f").is_err());
}

#[test]
fn put_over_a_file_keeps_owner_mode_and_foreign_xattrs() {
    let tree = Tree::new();
    let path = tree.path("f");
    fs::write(&path, b"a person's").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
    xattr::set(&path, "user.DOSATTRIB", b"samba").expect("set");
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&path, Some(1234), Some(4321)).expect("chown");
    }
    tree.put("f", b"through S3");
    let meta = fs::metadata(&path).expect("there");
    assert_eq!(meta.mode() & 0o7777, 0o640);
    assert_eq!(xattr(&path, "user.DOSATTRIB"), Some(b"samba".to_vec()));
    if root {
        assert_eq!((meta.uid(), meta.gid()), (1234, 4321));
    }
    assert_eq!(tree.open("f").expect("there").info.etag, md5(b"through S3"));
}

#[test]
fn put_over_a_hard_linked_file_leaves_the_other_name_alone() {
    let tree = Tree::new();
    fs::write(tree.path("a"), b"shared").expect("written");
    fs::hard_link(tree.path("a"), tree.path("b")).expect("linked");
    tree.put("a", b"own");
    assert_eq!(fs::read(tree.path("b")).expect("there"), b"shared");
}

#[test]
fn put_and_delete_act_on_a_symbolic_link_itself() {
    let tree = Tree::new();
    fs::write(tree.path("target"), b"target").expect("written");
    symlink("target", tree.path("link")).expect("linked");
    assert_eq!(tree.read("link"), b"target");
    tree.put("link", b"a file now");
    assert_eq!(fs::read(tree.path("target")).expect("there"), b"target");
    assert!(
        fs::symlink_metadata(tree.path("link"))
            .expect("there")
            .is_file()
    );
    symlink("target", tree.path("second")).expect("linked");
    assert!(tree.delete("second"));
    assert_eq!(tree.read("target"), b"target");
}

#[test]
fn writes_through_a_linked_directory_are_refused() {
    let tree = Tree::new();
    fs::create_dir(tree.path("real")).expect("made");
    symlink("real", tree.path("linked")).expect("linked");
    let refused = tree.put_if("linked/f", b"x", WriteConditions::default());
    assert!(matches!(refused, Err(StoreError::ThroughSymlink(_))));
}

#[test]
fn delete_prunes_our_parents_and_never_a_persons() {
    let tree = Tree::new();
    fs::create_dir(tree.path("person")).expect("made");
    tree.put("person/ours/deep/f", b"x");
    assert!(tree.delete("person/ours/deep/f"));
    assert!(!tree.path("person/ours").exists());
    assert!(tree.path("person").is_dir());
    assert!(
        !tree.delete("person/ours/deep/f"),
        "there is nothing any more"
    );
}

#[test]
fn delete_spares_parents_that_hold_something() {
    let tree = Tree::new();
    tree.put("d/a", b"x");
    tree.put("d/b", b"y");
    tree.delete("d/a");
    assert_eq!(tree.read("d/b"), b"y");
    tree.put("e/", b"");
    tree.put("e/f", b"x");
    tree.delete("e/f");
    assert!(tree.open("e/").is_ok(), "the object e/ keeps its directory");
}

#[test]
fn puts_and_deletes_of_neighbours_race_without_an_error() {
    let tree = Tree::with(KeyPolicy::Any, Durability::Relaxed);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let tree = &tree;
            scope.spawn(move || {
                let name = format!("deep/er/k{n}");
                for _ in 0..200 {
                    tree.put(&name, b"x");
                    assert!(tree.delete(&name));
                }
            });
        }
    });
    assert!(!tree.path("deep").exists());
}

#[test]
fn directory_key_is_a_marked_directory_with_its_own_metadata() {
    let tree = Tree::new();
    let meta = Meta {
        user: vec![("a".into(), b"b".to_vec())],
        ..Meta::default()
    };
    put(&tree.bucket, "dir/", b"", meta.clone(), if_absent()).expect("made");
    assert!(tree.path("dir").is_dir());
    let object = tree.open("dir/").expect("there");
    assert_eq!(
        (object.info.etag, object.info.size, object.info.meta),
        (md5(b""), 0, meta)
    );
    let again = tree.put_if("dir/", b"", if_absent());
    assert!(matches!(
        again,
        Err(StoreError::PreconditionFailed("If-None-Match"))
    ));
    tree.put("dir/f", b"x");
    assert!(tree.delete("dir/"));
    assert!(tree.open("dir/").is_err());
    assert_eq!(tree.read("dir/f"), b"x");
    tree.delete("dir/f");
    assert!(
        !tree.path("dir").exists(),
        "we made it, it is no object, and it is empty"
    );
}

#[test]
fn keys_that_no_path_can_hold_live_in_the_annex() {
    let tree = Tree::new();
    let long = "x".repeat(300);
    tree.put("a", b"file");
    tree.put("p/q", b"file");
    let keys = ["a/b", "x//y", "./z", "../up", "d/", "p", "/lead", &long];
    for name in keys {
        tree.put(name, name.as_bytes());
    }
    for name in keys {
        let object = tree.open(name).expect("there");
        assert_eq!(
            (body_of(&object), object.info.etag),
            (name.as_bytes().to_vec(), md5(name.as_bytes()))
        );
        assert!(matches!(
            tree.put_if(name, b"", if_absent()),
            Err(StoreError::PreconditionFailed(_))
        ));
    }
    assert_eq!(tree.read("a"), b"file");
    assert_eq!(tree.read("p/q"), b"file");
    for name in keys {
        assert!(tree.delete(name), "{name}");
        assert!(tree.open(name).is_err(), "{name}");
    }
    assert_eq!(
        fs::read_dir(tree.path(".twintree/annex"))
            .expect("there")
            .count(),
        0,
        "pruned"
    );
}

#[test]
fn key_stays_in_the_annex_until_it_is_deleted_and_a_native_file_wins() {
    let tree = Tree::new();
    tree.put("a", b"file");
    tree.put("a/b", b"annexed");
    tree.delete("a");
    tree.put("a/b", b"annexed still");
    assert!(!tree.path("a").exists());
    fs::create_dir(tree.path("a")).expect("made");
    fs::write(tree.path("a/b"), b"native").expect("written");
    assert_eq!(tree.read("a/b"), b"native");
    assert!(tree.delete("a/b"));
    assert!(tree.open("a/b").is_err(), "both are gone");
}

#[test]
fn body_under_a_directory_key_takes_the_place_of_the_marked_directory() {
    let tree = Tree::new();
    tree.put("d/", b"");
    tree.put("d/", b"body");
    assert_eq!(tree.read("d/"), b"body");
    assert!(tree.delete("d/"));
    assert!(tree.open("d/").is_err());
}

#[test]
fn posix_only_refuses_what_no_path_can_hold_and_says_what_is_in_the_way() {
    let tree = Tree::with(KeyPolicy::PosixOnly, Durability::Strict);
    tree.put("a", b"file");
    for name in ["a/b", "x//y"] {
        let refused = tree.put_if(name, b"x", WriteConditions::default());
        assert!(
            matches!(refused, Err(StoreError::KeyBlocked { .. })),
            "{name}"
        );
    }
    let Err(StoreError::KeyBlocked { by, .. }) =
        tree.put_if("a/b", b"x", WriteConditions::default())
    else {
        panic!("refused above");
    };
    assert!(by.contains("\"a\""), "{by}");
}

#[test]
fn fifo_is_neither_replaced_nor_deleted() {
    let tree = Tree::new();
    let path = tree.path("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("made");
    assert!(matches!(
        tree.put_if("fifo", b"x", WriteConditions::default()),
        Err(StoreError::NotAnObject { .. })
    ));
    assert!(matches!(
        tree.bucket
            .delete(&key("fifo"), &WriteConditions::default()),
        Err(StoreError::NotAnObject { .. })
    ));
    assert!(path.exists());
}

#[test]
fn dropped_stage_leaves_nothing() {
    let tree = Tree::new();
    let stage = tree
        .bucket
        .stage(&key("a/b"), Some(1 << 20))
        .expect("staged");
    (&*stage.file).write_all(b"half").expect("written");
    drop(stage);
    assert!(!tree.path("a").exists());
    assert_eq!(tree.staged(), 0);
}

#[test]
fn meta_that_ext4_has_no_room_for_comes_back_whole() {
    let tree = Tree::new();
    let user = (0..20)
        .map(|n| (format!("key-{n}"), vec![b'v'; 90]))
        .collect();
    let tags = (0..10)
        .map(|n| (format!("{n}{}", "k".repeat(120)), "\u{e9}".repeat(250)))
        .collect();
    let meta = Meta {
        content_type: Some(b"text/x-odd".to_vec()),
        user,
        tags,
        ..Meta::default()
    };
    put(
        &tree.bucket,
        "f",
        b"x",
        meta.clone(),
        WriteConditions::default(),
    )
    .expect("put");
    assert_eq!(tree.open("f").expect("there").info.meta, meta);
    let again = tree
        .restarted()
        .open(&key("f"), Access::Blocking)
        .expect("there");
    assert_eq!((again.info.meta, again.info.etag), (meta, md5(b"x")));
    tree.bucket
        .set_tags(&key("f"), vec![("one".into(), "1".into())])
        .expect("tagged");
    assert_eq!(
        tree.open("f").expect("there").info.meta.tags,
        [("one".to_owned(), "1".to_owned())]
    );
}

#[test]
fn tagging_changes_neither_etag_nor_last_modified_nor_type() {
    let tree = Tree::new();
    let meta = Meta {
        content_type: Some(b"text/plain".to_vec()),
        ..Meta::default()
    };
    let put = put(&tree.bucket, "f", b"x", meta, WriteConditions::default()).expect("put");
    let tags = vec![
        ("b".to_owned(), "2".to_owned()),
        ("a".to_owned(), "1".to_owned()),
    ];
    for tags in [tags.clone(), Vec::new(), tags] {
        tree.bucket
            .set_tags(&key("f"), tags.clone())
            .expect("tagged");
        for bucket in [tree.bucket.clone(), tree.restarted()] {
            let info = bucket
                .open(&key("f"), Access::Blocking)
                .expect("there")
                .info;
            assert_eq!((info.etag, info.modified), (put.etag, put.modified));
            assert_eq!(info.meta.content_type.as_deref(), Some(&b"text/plain"[..]));
            assert_eq!(info.meta.tags, tags);
        }
    }
}

#[test]
fn unknown_meta_fields_survive_tagging() {
    let tree = Tree::new();
    tree.put("f", b"x");
    xattr::set(
        tree.path("f"),
        "user.twintree.meta",
        br#"{"v":1,"later":[1,{"b":0,"a":1}]}"#,
    )
    .expect("set");
    tree.bucket
        .set_tags(&key("f"), vec![("a".into(), "1".into())])
        .expect("tagged");
    let json = xattr(&tree.path("f"), "user.twintree.meta").expect("there");
    let json = String::from_utf8(json).expect("text");
    assert!(json.contains(r#""later":[1,{"b":0,"a":1}]"#), "{json}");
}

#[test]
fn record_of_a_later_version_is_never_destroyed_by_tagging() {
    let tree = Tree::new();
    tree.put("f", b"x");
    let mut record = xattr(&tree.path("f"), "user.twintree").expect("there");
    record[0] = 2;
    xattr::set(tree.path("f"), "user.twintree", &record).expect("set");
    assert!(matches!(
        tree.open("f").expect("there").info.etag,
        ETag::Derived(..)
    ));
    tree.bucket
        .set_tags(&key("f"), vec![("a".into(), "1".into())])
        .expect("tagged");
    assert_eq!(xattr(&tree.path("f"), "user.twintree"), Some(record));
}

#[test]
fn copy_has_the_bytes_and_what_was_said_of_them() {
    let tree = Tree::new();
    let meta = Meta {
        content_type: Some(b"text/plain".to_vec()),
        user: vec![("a".into(), b"1".to_vec())],
        tags: vec![("t".into(), "1".into())],
        ..Meta::default()
    };
    put(
        &tree.bucket,
        "src",
        b"bytes",
        meta.clone(),
        WriteConditions::default(),
    )
    .expect("put");
    let source = tree.open("src").expect("there");
    let copied = tree
        .bucket
        .copy(&source, &key("d/dst"), CopyRequest::default())
        .expect("copied");
    assert_eq!(copied.etag, md5(b"bytes"));
    let there = tree.open("d/dst").expect("there");
    assert_eq!(
        (body_of(&there), there.info.etag, there.info.meta),
        (b"bytes".to_vec(), md5(b"bytes"), meta)
    );
    let request = CopyRequest {
        replace_meta: Some(Meta::default()),
        replace_tags: Some(Vec::new()),
        checksum: Some(Algorithm::Sha256),
        ..CopyRequest::default()
    };
    let copied = tree
        .bucket
        .copy(&source, &key("third"), request)
        .expect("copied");
    let mut digester = Digester::new(&[Algorithm::Sha256]);
    digester.update(b"bytes");
    let sha = digester
        .finish()
        .checksum(Algorithm::Sha256)
        .expect("asked for");
    assert_eq!(
        copied.checksum,
        ObjectChecksum {
            checksum: sha,
            kind: ChecksumType::FullObject
        }
    );
    assert_eq!(
        tree.open("third").expect("there").info.meta,
        Meta::default()
    );
}

#[test]
fn copy_of_a_file_nobody_put_gets_the_md5_of_its_bytes() {
    let tree = Tree::new();
    fs::write(tree.path("direct.json"), b"{}").expect("written");
    let source = tree.open("direct.json").expect("there");
    let copied = tree
        .bucket
        .copy(&source, &key("copy"), CopyRequest::default())
        .expect("copied");
    assert_eq!(copied.etag, md5(b"{}"));
    assert_eq!(
        tree.open("copy").expect("there").info.meta.content_type,
        Some(b"application/json".to_vec())
    );
}

#[test]
fn copy_onto_itself_changes_the_record_only() {
    let tree = Tree::new();
    let put_ = tree.put("f", b"bytes");
    let inode = fs::metadata(tree.path("f")).expect("there").ino();
    let meta = Meta {
        user: vec![("new".into(), b"1".to_vec())],
        ..Meta::default()
    };
    let request = CopyRequest {
        replace_meta: Some(meta.clone()),
        ..CopyRequest::default()
    };
    tree.bucket
        .copy(&tree.open("f").expect("there"), &key("f"), request)
        .expect("copied");
    assert_eq!(fs::metadata(tree.path("f")).expect("there").ino(), inode);
    let info = tree
        .restarted()
        .open(&key("f"), Access::Blocking)
        .expect("there")
        .info;
    assert_eq!((info.etag, info.meta.user), (put_.etag, meta.user));
}

#[test]
fn copy_onto_itself_of_a_file_nobody_put_gives_it_an_md5() {
    let tree = Tree::new();
    fs::write(tree.path("f"), b"bytes").expect("written");
    let source = tree.open("f").expect("there");
    let copied = tree
        .bucket
        .copy(&source, &key("f"), CopyRequest::default())
        .expect("copied");
    assert_eq!(copied.etag, md5(b"bytes"));
    assert_eq!(tree.open("f").expect("there").info.etag, md5(b"bytes"));
}

#[test]
fn checksum_that_a_client_named_is_kept() {
    let tree = Tree::new();
    let mut digester = Digester::new(&[Algorithm::Crc32c]);
    digester.update(b"x");
    let digests = digester.finish();
    let checksum: Checksum = digests.extra[0].clone();
    let kept = ObjectChecksum {
        checksum,
        kind: ChecksumType::FullObject,
    };
    let stage = tree.bucket.stage(&key("f"), None).expect("staged");
    (&*stage.file).write_all(b"x").expect("written");
    let put = Put {
        digests,
        meta: Meta::default(),
        checksum: Some(kept.clone()),
        conditions: WriteConditions::default(),
    };
    assert_eq!(
        tree.bucket
            .publish(&key("f"), stage, put)
            .expect("published")
            .checksum,
        kept
    );
    assert_eq!(tree.open("f").expect("there").info.checksum, Some(kept));
}

#[test]
fn conditional_delete_tests_size_and_time_too() {
    let tree = Tree::new();
    let put = tree.put("f", b"12345");
    let refused = |conditions: WriteConditions| {
        let result = tree.bucket.delete(&key("f"), &conditions);
        assert!(
            matches!(result, Err(StoreError::PreconditionFailed(_))),
            "{result:?}"
        );
    };
    refused(if_match(md5(b"other")));
    refused(WriteConditions {
        if_match_size: Some(4),
        ..WriteConditions::default()
    });
    refused(WriteConditions {
        if_match_modified: Some(1),
        ..WriteConditions::default()
    });
    let all = WriteConditions {
        if_match_size: Some(5),
        if_match_modified: Some(put.modified.seconds()),
        ..if_match(put.etag)
    };
    assert!(tree.bucket.delete(&key("f"), &all).expect("it matches"));
}

#[test]
fn relaxed_objects_are_valid_in_this_boot_and_say_that_they_are_unsynced() {
    let tree = Tree::with(KeyPolicy::Any, Durability::Relaxed);
    tree.put("f", b"x");
    let record = xattr(&tree.path("f"), "user.twintree").expect("there");
    assert_eq!(record[1] & 1, 1);
    assert_eq!(
        tree.restarted()
            .open(&key("f"), Access::Blocking)
            .expect("there")
            .info
            .etag,
        md5(b"x")
    );
    let mut other_boot = record.clone();
    let last = other_boot.len() - 1;
    other_boot[last] ^= 1;
    xattr::set(tree.path("f"), "user.twintree", &other_boot).expect("set");
    let info = tree
        .restarted()
        .open(&key("f"), Access::Blocking)
        .expect("there")
        .info;
    assert!(
        matches!(info.etag, ETag::Derived(..)),
        "an unsynced record of another boot is not trusted"
    );
}

#[test]
fn read_only_store_refuses_every_write() {
    let tree = Tree::new();
    tree.put("f", b"x");
    let store = Store::open(StoreOptions {
        read_only: true,
        ..tree_options(&tree)
    })
    .expect("a store");
    let bucket = store
        .bucket(&BucketName::parse("bucket").expect("a name"))
        .expect("the bucket");
    let source = bucket.open(&key("f"), Access::Blocking).expect("there");
    let refused = [
        bucket.stage(&key("g"), None).map(drop),
        bucket
            .delete(&key("f"), &WriteConditions::default())
            .map(drop),
        bucket
            .copy(&source, &key("g"), CopyRequest::default())
            .map(drop),
        bucket.set_tags(&key("f"), Vec::new()),
    ];
    for result in refused {
        assert!(matches!(result, Err(StoreError::ReadOnly(_))), "{result:?}");
    }
}

fn tree_options(tree: &Tree) -> StoreOptions {
    StoreOptions {
        root: tree.dir.path().to_owned(),
        durability: Durability::Strict,
        keys: KeyPolicy::Any,
        read_only: false,
        hide: Vec::new(),
        verify_mtime_only: false,
    }
}
