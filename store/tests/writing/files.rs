//! What stands at a key's place already, and what a write makes of it.

use super::*;

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
        etags: Default::default(),
        buckets: Default::default(),
        more_roots: Vec::new(),
    }
}
