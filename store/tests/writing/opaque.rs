//! Objects whose ETag is no MD5 but CRC64NVME and random bits.

use twintree_store::{ETagKind, ETagKinds};

use super::*;

/// A tree whose bucket makes such ETags, and another bucket in it, which makes MD5s.
fn tree() -> (Tree, Bucket) {
    let Tree { dir, .. } = Tree::new();
    let store = Store::open(StoreOptions {
        root: dir.path().to_owned(),
        durability: Durability::Relaxed,
        keys: KeyPolicy::Any,
        read_only: false,
        hide: Vec::new(),
        verify_mtime_only: false,
        etags: ETagKinds {
            usual: ETagKind::Crc64,
            of_bucket: [(named("plain"), ETagKind::Md5)].into(),
        },
        buckets: Default::default(),
        more_roots: Vec::new(),
    })
    .expect("a store");
    store
        .create_bucket(&named("plain"), BucketSettings::default())
        .expect("a bucket");
    let plain = store.bucket(&named("plain")).expect("the bucket");
    let bucket = store.bucket(&named("bucket")).expect("the bucket");
    (Tree { dir, bucket }, plain)
}

fn named(name: &str) -> BucketName {
    BucketName::parse(name).expect("a name")
}

/// Is it the CRC64NVME of these bytes, and something else?
fn is_of(etag: ETag, body: &[u8]) -> bool {
    let mut digester = Digester::without_md5(&[]);
    digester.update(body);
    let digests = digester.finish();
    assert_eq!(digests.md5, None);
    matches!(etag, ETag::Opaque(bytes) if bytes.starts_with(&digests.crc64.to_be_bytes()))
}

fn etag_of(bucket: &Bucket, key_: &str) -> ETag {
    let object = bucket.open(&key(key_), Access::Blocking).expect("there");
    object.info.etag
}

#[test]
fn each_put_has_an_etag_of_its_own_which_stays() {
    let (tree, _) = tree();
    let (first, again) = (tree.put("f", b"hello"), tree.put("f", b"hello"));
    assert!(is_of(first.etag, b"hello") && is_of(again.etag, b"hello"));
    assert_ne!(first.etag, again.etag, "of the same bytes");
    let object = tree.open("f").expect("there");
    assert_eq!(
        (object.info.etag, object.info.checksum),
        (again.etag, Some(again.checksum))
    );
    // Whatever the setting is by then.
    assert_eq!(etag_of(&tree.restarted(), "f"), again.etag);
    if has_xattrs(&tree) {
        let record = xattr(&tree.path("f"), "user.twintree").expect("there");
        assert_eq!((record.len() >= 64, record[1] & 0b110), (true, 0b100));
    }
    let refused = tree.put_if("f", b"x", if_match(first.etag));
    assert!(matches!(
        refused,
        Err(StoreError::PreconditionFailed("If-Match"))
    ));
    tree.put_if("f", b"x", if_match(again.etag))
        .expect("it is the object's");
}

#[test]
fn what_is_said_of_one_bucket_is_for_that_one() {
    let (tree, plain) = tree();
    let published = put(
        &plain,
        "f",
        b"x",
        Meta::default(),
        WriteConditions::default(),
    );
    assert_eq!(published.expect("put").etag, md5(b"x"));
    assert!(is_of(tree.put("f", b"x").etag, b"x"));
}

#[test]
fn after_a_chmod_a_condition_that_names_it_is_verified_by_the_crc() {
    let (tree, _) = tree();
    let etag = tree.put("f", b"body").etag;
    next_tick(&tree.path("f"));
    fs::set_permissions(tree.path("f"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let derived = etag_of(&tree.bucket, "f");
    assert!(matches!(derived, ETag::Derived(..)));
    tree.put_if("f", b"next", if_match(etag))
        .expect("the content is still what the ETag names");
}

#[test]
fn a_copy_has_an_etag_of_its_buckets_kind() {
    let (tree, plain) = tree();
    let copy = |source: &Object, into: &Bucket| {
        let copied = into.copy(source, &key("copy"), CopyRequest::default());
        let etag = copied.expect("copied").etag;
        assert_eq!(etag_of(into, "copy"), etag, "as answered");
        etag
    };
    let put_ = tree.put("f", b"bytes");
    fs::write(tree.path("direct"), b"bytes").expect("written");
    put(
        &plain,
        "f",
        b"bytes",
        Meta::default(),
        WriteConditions::default(),
    )
    .expect("put");
    for source in [
        tree.open("f"),
        tree.open("direct"),
        plain.open(&key("f"), Access::Blocking),
    ] {
        let source = source.expect("there");
        assert_eq!(copy(&source, &plain), md5(b"bytes"));
        let opaque = copy(&source, &tree.bucket);
        assert!(is_of(opaque, b"bytes") && opaque != put_.etag);
    }
    assert_eq!(
        etag_of(&tree.bucket, "f"),
        put_.etag,
        "the source keeps its"
    );
}

#[test]
fn a_copy_onto_itself_keeps_the_etag_where_the_bucket_makes_such() {
    let (tree, _) = tree();
    let put_ = tree.put("f", b"bytes");
    let onto_itself = |bucket: &Bucket| {
        let source = bucket.open(&key("f"), Access::Blocking).expect("there");
        let request = CopyRequest {
            replace_meta: Some(Meta::default()),
            ..CopyRequest::default()
        };
        bucket.copy(&source, &key("f"), request).expect("copied")
    };
    assert_eq!(onto_itself(&tree.bucket).etag, put_.etag);
    assert_eq!(etag_of(&tree.bucket, "f"), put_.etag);
    // The way to an MD5 for whoever changed the setting back.
    let plain = tree.restarted();
    assert_eq!(onto_itself(&plain).etag, md5(b"bytes"));
    assert_eq!(etag_of(&tree.bucket, "f"), md5(b"bytes"));
    assert_eq!(onto_itself(&tree.bucket).etag, md5(b"bytes"), "it is there");
}

#[test]
fn a_directory_that_is_an_object_is_answered_as_it_is_shown() {
    let (tree, _) = tree();
    let put_ = tree.put("dir/", b"");
    assert_eq!(tree.open("dir/").expect("there").info.etag, put_.etag);
    let copied = tree
        .bucket
        .copy(
            &tree.open("dir/").expect("there"),
            &key("other/"),
            CopyRequest::default(),
        )
        .expect("copied");
    assert_eq!(tree.open("other/").expect("there").info.etag, copied.etag);
    if has_xattrs(&tree) {
        assert_eq!((put_.etag, copied.etag), (md5(b""), md5(b"")));
    }
}
