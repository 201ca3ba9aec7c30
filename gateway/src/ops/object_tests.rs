//! Tags, access lists, attributes, copies and deletes of objects over a real tree.

use std::fs;

use super::testing::Tree;
use crate::error::Code;

/// The MD5 of `hello`, quoted as in headers.
const HELLO: &str = "\"5d41402abc4b2a76b9719d911017c592\"";

async fn put(tree: &Tree, target: &str, headers: &[(&str, &str)], body: &str) {
    let answer = tree.ask("PUT", target, headers, body).await.expect(target);
    assert_eq!(answer.status, 200, "{target}");
}

#[tokio::test]
async fn delete_removes_and_is_content_with_nothing() {
    let tree = Tree::with_directories(&["b"]);
    put(&tree, "/b/dir/k", &[], "hello").await;
    assert_eq!(tree.get("DELETE", "/b/dir/k").await.status, 204);
    assert!(
        !tree.path("b/dir").exists(),
        "a directory of our own making is pruned"
    );
    assert_eq!(tree.get("DELETE", "/b/dir/k").await.status, 204);
    assert_eq!(
        tree.refused("DELETE", "/none/k", &[], "").await,
        Code::NoSuchBucket
    );
    assert_eq!(
        tree.refused("DELETE", "/b/k?versionId=x", &[], "").await,
        Code::NoSuchVersion
    );
    let null = tree.get("DELETE", "/b/k?versionId=null").await;
    assert_eq!(
        (null.status, null.header("x-amz-version-id").as_str()),
        (204, "null")
    );
}

#[tokio::test]
async fn delete_keeps_what_its_condition_does_not_name() {
    let tree = Tree::with_directories(&["b"]);
    put(&tree, "/b/k", &[], "hello").await;
    for condition in [
        ("if-match", "\"bad\""),
        ("x-amz-if-match-size", "4"),
        (
            "x-amz-if-match-last-modified-time",
            "Thu, 01 Jan 2015 00:00:00 GMT",
        ),
    ] {
        let code = tree.refused("DELETE", "/b/k", &[condition], "").await;
        assert_eq!(code, Code::PreconditionFailed, "{condition:?}");
        assert!(tree.path("b/k").exists());
    }
    let bad = tree
        .refused("DELETE", "/b/k", &[("x-amz-if-match-size", "x")], "")
        .await;
    assert_eq!(bad, Code::InvalidArgument);
    let right = [("if-match", HELLO), ("x-amz-if-match-size", "5")];
    assert_eq!(
        tree.ask("DELETE", "/b/k", &right, "")
            .await
            .expect("it matches")
            .status,
        204
    );
    assert!(!tree.path("b/k").exists());
    assert_eq!(
        tree.ask("DELETE", "/b/k", &right, "")
            .await
            .expect("gone is deleted")
            .status,
        204
    );
}

#[tokio::test]
async fn delete_objects_answers_for_each_key() {
    let tree = Tree::with_directories(&["b"]);
    for key in ["one", "two", "dir/a", "dir/"] {
        put(
            &tree,
            &format!("/b/{key}"),
            &[],
            if key.ends_with('/') { "" } else { "hello" },
        )
        .await;
    }
    let document = "<Delete><Object><Key>one</Key></Object><Object><Key>absent</Key></Object>\
         <Object><Key>two</Key><ETag>bad</ETag></Object><Object><Key>dir/</Key></Object>\
         <Object><Key>dir/a</Key><VersionId>null</VersionId></Object>\
         <Object><Key>.twintree/x</Key></Object><Object><Key></Key></Object>\
         <Object><Key>one</Key><VersionId>other</VersionId></Object></Delete>";
    let answer = tree
        .ask("POST", "/b?delete", &[], document)
        .await
        .expect("a result for each");
    assert_eq!(answer.status, 200);
    let deleted: Vec<String> = answer.elements("Deleted");
    assert_eq!(
        deleted,
        [
            "<Key>one</Key>",
            "<Key>absent</Key>",
            "<Key>dir/</Key>",
            "<Key>dir/a</Key><VersionId>null</VersionId>"
        ]
    );
    assert_eq!(
        answer.elements("Code"),
        [
            "PreconditionFailed",
            "AccessDenied",
            "InvalidURI",
            "NoSuchVersion"
        ]
    );
    assert!(!tree.path("b/one").exists() && !tree.path("b/dir").exists());
    assert!(tree.path("b/two").exists());

    let quiet = "<Delete><Quiet>true</Quiet><Object><Key>two</Key></Object></Delete>";
    let answer = tree
        .ask("POST", "/b?delete", &[], quiet)
        .await
        .expect("quiet");
    assert!(answer.elements("Deleted").is_empty() && !tree.path("b/two").exists());
    assert_eq!(
        tree.refused("POST", "/b?delete", &[], "<Delete/>").await,
        Code::MalformedXML
    );
}

#[tokio::test]
async fn delete_objects_takes_a_thousand_keys() {
    let tree = Tree::with_directories(&["b"]);
    let mut document = "<Delete>".to_owned();
    for n in 0..1000 {
        fs::write(tree.path(&format!("b/{n}")), "x").expect("our own directory");
        document.push_str(&format!("<Object><Key>{n}</Key></Object>"));
    }
    document.push_str("</Delete>");
    let answer = tree
        .ask("POST", "/b?delete", &[], &document)
        .await
        .expect("the limit");
    assert_eq!(answer.elements("Deleted").len(), 1000);
    let left = fs::read_dir(tree.path("b")).expect("the bucket").flatten();
    assert_eq!(
        left.filter(|entry| entry.file_name() != ".twintree")
            .count(),
        0
    );
}

#[tokio::test]
async fn object_tags_change_neither_content_nor_etag_nor_date() {
    let tree = Tree::with_directories(&["b"]);
    put(
        &tree,
        "/b/k",
        &[("x-amz-tagging", "a=1"), ("x-amz-meta-m", "v")],
        "hello",
    )
    .await;
    let before = tree.get("HEAD", "/b/k").await;
    assert_eq!(tree.get("GET", "/b/k?tagging").await.elements("Key"), ["a"]);
    let document = "<Tagging><TagSet><Tag><Key>x</Key><Value>1</Value></Tag><Tag><Key>y</Key><Value/></Tag></TagSet></Tagging>";
    assert_eq!(
        tree.ask("PUT", "/b/k?tagging", &[], document)
            .await
            .expect("valid")
            .status,
        200
    );
    assert_eq!(
        tree.get("GET", "/b/k?tagging").await.elements("Key"),
        ["x", "y"]
    );
    let after = tree.get("HEAD", "/b/k").await;
    for name in ["etag", "last-modified", "x-amz-meta-m", "content-length"] {
        assert_eq!(before.header(name), after.header(name), "{name}");
    }
    assert_eq!(after.header("x-amz-tagging-count"), "2");
    assert_eq!(tree.get("DELETE", "/b/k?tagging").await.status, 204);
    assert!(
        tree.get("GET", "/b/k?tagging")
            .await
            .body
            .contains("<TagSet></TagSet>")
    );
    assert_eq!(tree.get("HEAD", "/b/k").await.header("etag"), HELLO);
    for method in ["GET", "DELETE"] {
        assert_eq!(
            tree.refused(method, "/b/none?tagging", &[], "").await,
            Code::NoSuchKey
        );
    }
    assert_eq!(
        tree.refused("PUT", "/b/none?tagging", &[], document).await,
        Code::NoSuchKey
    );
    let eleven: String = (0..11)
        .map(|n| format!("<Tag><Key>{n}</Key><Value/></Tag>"))
        .collect();
    let eleven = format!("<Tagging><TagSet>{eleven}</TagSet></Tagging>");
    assert_eq!(
        tree.refused("PUT", "/b/k?tagging", &[], &eleven).await,
        Code::InvalidTag
    );
}

#[tokio::test]
async fn object_access_lists_are_the_owners() {
    let tree = Tree::with_directories(&["b"]);
    put(&tree, "/b/k", &[], "hello").await;
    let list = tree.get("GET", "/b/k?acl").await;
    assert_eq!(list.element("Permission"), "FULL_CONTROL");
    assert_eq!(list.element("ID"), "tester");
    assert_eq!(
        tree.ask("PUT", "/b/k?acl", &[], &list.body)
            .await
            .expect("what GET gave")
            .status,
        200
    );
    let public = [("x-amz-acl", "public-read")];
    assert_eq!(
        tree.refused("PUT", "/b/k?acl", &public, "").await,
        Code::AccessControlListNotSupported
    );
    assert_eq!(
        tree.refused("GET", "/b/none?acl", &[], "").await,
        Code::NoSuchKey
    );
    assert_eq!(
        tree.refused("GET", "/b/k?retention", &[], "").await,
        Code::InvalidRequest
    );
    assert_eq!(
        tree.refused("PUT", "/b/k?legal-hold", &[], "").await,
        Code::InvalidRequest
    );
}

#[tokio::test]
async fn attributes_are_those_asked_for() {
    let tree = Tree::with_directories(&["b"]);
    put(
        &tree,
        "/b/k",
        &[("x-amz-checksum-crc32", "NhCmhg==")],
        "hello",
    )
    .await;
    let all = [(
        "x-amz-object-attributes",
        "ETag,Checksum,ObjectParts,StorageClass,ObjectSize",
    )];
    let answer = tree
        .ask("GET", "/b/k?attributes", &all, "")
        .await
        .expect("all");
    assert_eq!(answer.element("ETag"), "5d41402abc4b2a76b9719d911017c592");
    assert_eq!(answer.element("ChecksumCRC32"), "NhCmhg==");
    assert_eq!(answer.element("ChecksumType"), "FULL_OBJECT");
    assert_eq!(answer.element("StorageClass"), "STANDARD");
    assert_eq!(answer.element("ObjectSize"), "5");
    assert!(!answer.body.contains("ObjectParts"));
    assert!(!answer.header("last-modified").is_empty());
    let size = tree
        .ask(
            "GET",
            "/b/k?attributes",
            &[("x-amz-object-attributes", "ObjectSize")],
            "",
        )
        .await;
    assert_eq!(size.expect("one").element("ETag"), "");
    assert_eq!(
        tree.refused("GET", "/b/k?attributes", &[], "").await,
        Code::InvalidArgument
    );
    assert_eq!(
        tree.refused("GET", "/b/none?attributes", &all, "").await,
        Code::NoSuchKey
    );
}

#[tokio::test]
async fn copies_carry_the_description_or_replace_it() {
    let tree = Tree::with_directories(&["b", "c"]);
    let said = [
        ("content-type", "text/x"),
        ("x-amz-meta-m", "v"),
        ("x-amz-tagging", "t=1"),
        ("cache-control", "no"),
    ];
    put(&tree, "/b/a+b%20%25", &said, "hello").await;
    let source = ("x-amz-copy-source", "/b/a+b%20%25");
    let copied = tree
        .ask("PUT", "/c/copy", &[source, ("x-amz-meta-m", "ignored")], "")
        .await
        .expect("a copy");
    assert_eq!(copied.element("ETag"), HELLO.replace('"', "&quot;"));
    assert!(!copied.element("LastModified").is_empty());
    let copy = tree.get("GET", "/c/copy").await;
    assert_eq!(
        (copy.body.as_str(), copy.header("etag").as_str()),
        ("hello", HELLO)
    );
    assert_eq!(
        (copy.header("content-type"), copy.header("x-amz-meta-m")),
        ("text/x".into(), "v".into())
    );
    assert_eq!(
        (
            copy.header("cache-control"),
            copy.header("x-amz-tagging-count")
        ),
        ("no".into(), "1".into())
    );

    let replaced = [
        source,
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-meta-n", "new"),
    ];
    tree.ask("PUT", "/c/copy", &replaced, "")
        .await
        .expect("over the first");
    let copy = tree.get("HEAD", "/c/copy").await;
    assert_eq!(
        (copy.header("x-amz-meta-m"), copy.header("x-amz-meta-n")),
        (String::new(), "new".into())
    );
    assert_eq!(copy.header("content-type"), "binary/octet-stream");
    assert_eq!(
        copy.header("x-amz-tagging-count"),
        "1",
        "the tagging directive stands for itself"
    );

    let tags = [
        source,
        ("x-amz-tagging-directive", "REPLACE"),
        ("x-amz-tagging", "p=1&q=2"),
    ];
    tree.ask("PUT", "/c/copy", &tags, "")
        .await
        .expect("other tags");
    assert_eq!(
        tree.get("GET", "/c/copy?tagging").await.elements("Key"),
        ["p", "q"]
    );
    assert_eq!(
        tree.get("HEAD", "/c/copy").await.header("content-type"),
        "text/x"
    );
}

#[tokio::test]
async fn a_copy_onto_itself_changes_the_description_only() {
    let tree = Tree::with_directories(&["b"]);
    put(&tree, "/b/k", &[("x-amz-meta-m", "v")], "hello").await;
    let source = ("x-amz-copy-source", "b/k");
    assert_eq!(
        tree.refused("PUT", "/b/k", &[source], "").await,
        Code::InvalidRequest
    );
    let replace = [
        source,
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-meta-n", "w"),
    ];
    tree.ask("PUT", "/b/k", &replace, "")
        .await
        .expect("new metadata");
    let object = tree.get("GET", "/b/k").await;
    assert_eq!(
        (object.body.as_str(), object.header("etag").as_str()),
        ("hello", HELLO)
    );
    assert_eq!(
        (object.header("x-amz-meta-m"), object.header("x-amz-meta-n")),
        (String::new(), "w".into())
    );
    let checksum = [source, ("x-amz-checksum-algorithm", "SHA256")];
    let answer = tree
        .ask("PUT", "/b/k", &checksum, "")
        .await
        .expect("a new checksum");
    assert_eq!(
        answer.element("ChecksumSHA256"),
        "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="
    );
}

#[tokio::test]
async fn copies_hold_their_conditions_on_both_sides() {
    let tree = Tree::with_directories(&["b"]);
    put(&tree, "/b/k", &[], "hello").await;
    put(&tree, "/b/old", &[], "old").await;
    let source = ("x-amz-copy-source", "b/k");
    for condition in [
        ("x-amz-copy-source-if-match", "\"bad\""),
        ("x-amz-copy-source-if-none-match", HELLO),
        (
            "x-amz-copy-source-if-unmodified-since",
            "Thu, 01 Jan 2015 00:00:00 GMT",
        ),
        ("if-none-match", "*"),
        ("if-match", "\"bad\""),
    ] {
        let code = tree
            .refused("PUT", "/b/old", &[source, condition], "")
            .await;
        assert_eq!(code, Code::PreconditionFailed, "{condition:?}");
        assert_eq!(tree.get("GET", "/b/old").await.body, "old");
    }
    assert_eq!(
        tree.refused("PUT", "/b/new", &[source, ("if-match", "*")], "")
            .await,
        Code::NoSuchKey
    );
    for (headers, target) in [
        (
            &[source, ("x-amz-copy-source-if-match", HELLO)][..],
            "/b/one",
        ),
        (
            &[source, ("x-amz-copy-source-if-none-match", "bad")],
            "/b/two",
        ),
        (&[source, ("if-none-match", "*")], "/b/three"),
    ] {
        tree.ask("PUT", target, headers, "").await.expect(target);
        assert_eq!(tree.get("GET", target).await.body, "hello");
    }
}

#[tokio::test]
async fn copies_of_what_is_not_there_or_not_asked_right_change_nothing() {
    let tree = Tree::with_directories(&["b"]);
    put(&tree, "/b/k", &[], "hello").await;
    for (source, code) in [
        ("none/k", Code::NoSuchBucket),
        ("b/none", Code::NoSuchKey),
        ("b/k?versionId=x", Code::NoSuchVersion),
        ("b", Code::InvalidArgument),
        ("b/%zz", Code::InvalidArgument),
    ] {
        assert_eq!(
            tree.refused("PUT", "/b/new", &[("x-amz-copy-source", source)], "")
                .await,
            code,
            "{source}"
        );
    }
    let source = ("x-amz-copy-source", "b/k");
    for (name, value, code) in [
        ("x-amz-metadata-directive", "MERGE", Code::InvalidArgument),
        ("x-amz-tagging-directive", "?", Code::InvalidArgument),
        ("x-amz-checksum-algorithm", "nonsense", Code::InvalidRequest),
        (
            "x-amz-server-side-encryption",
            "AES256",
            Code::NotImplemented,
        ),
        (
            "x-amz-source-expected-bucket-owner",
            "somebody",
            Code::AccessDenied,
        ),
        (
            "x-amz-acl",
            "public-read",
            Code::AccessControlListNotSupported,
        ),
    ] {
        assert_eq!(
            tree.refused("PUT", "/b/new", &[source, (name, value)], "")
                .await,
            code,
            "{name}"
        );
    }
    assert!(!tree.path("b/new").exists());
}
