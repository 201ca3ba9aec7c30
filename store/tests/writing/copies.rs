//! Copies, also of an object onto itself.

use super::*;

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
