//! What is recorded of an object: metadata, tags, checksums, and what later versions wrote.

use super::*;

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
