//! The seven multipart operations over a real tree.

use std::fs;

use super::testing::{Answer, Tree};
use crate::error::Code;

/// The MD5 of `hello`, quoted as in headers.
const HELLO: &str = "\"5d41402abc4b2a76b9719d911017c592\"";
/// The MD5 of the sixteen bytes of `hello`'s.
const HELLO_MULTIPART: &str = "62109206880d38a4010a98e11243924a";
/// CRC32 of `hello`.
const HELLO_CRC32: &str = "NhCmhg==";
const CRC32: &str = "x-amz-checksum-crc32";
const ALGORITHM: &str = "x-amz-checksum-algorithm";
const TYPE: &str = "x-amz-checksum-type";
/// Asks for one CRC32 over the whole object.
const OF_THE_WHOLE: [(&str, &str); 2] = [(ALGORITHM, "CRC32"), (TYPE, "FULL_OBJECT")];

/// Begins an upload; the target of its further requests.
async fn begin(tree: &Tree, target: &str, headers: &[(&str, &str)]) -> String {
    let answer = tree
        .ask("POST", &format!("{target}?uploads"), headers, "")
        .await
        .expect(target);
    format!("{target}?uploadId={}", answer.element("UploadId"))
}

async fn part(
    tree: &Tree,
    upload: &str,
    number: u16,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let target = format!("{upload}&partNumber={number}");
    tree.ask("PUT", &target, headers, body)
        .await
        .expect("the part is taken")
}

fn list(parts: &[(u16, &str)]) -> String {
    let part = |(number, etag): &(u16, &str)| {
        format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
    };
    let parts: String = parts.iter().map(part).collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
}

#[tokio::test]
async fn an_upload_without_algorithm_takes_parts_with_one_and_a_list_without() {
    let tree = Tree::with_directories(&["b"]);
    let said = [
        ("content-type", "text/x"),
        ("x-amz-meta-a", "1"),
        ("x-amz-tagging", "t=1"),
    ];
    let upload = begin(&tree, "/b/d/k", &said).await;
    let sent = part(&tree, &upload, 1, &[(CRC32, HELLO_CRC32)], "hello").await;
    assert_eq!(sent.header("etag"), HELLO);
    assert_eq!(
        sent.header(CRC32),
        HELLO_CRC32,
        "the part's checksum is said again"
    );
    let done = tree
        .ask("POST", &upload, &[("host", "h:9000")], &list(&[(1, HELLO)]))
        .await
        .expect("completed");
    assert_eq!(done.element("Location"), "http://h:9000/b/d/k");
    assert_eq!((done.element("Bucket"), done.element("Key")), ("b", "d/k"));
    assert_eq!(
        done.element("ETag"),
        format!("&quot;{HELLO_MULTIPART}-1&quot;")
    );
    assert_eq!(done.element("ChecksumType"), "FULL_OBJECT");
    assert!(!done.element("ChecksumCRC64NVME").is_empty());
    assert_eq!(
        fs::read(tree.path("b/d/k")).expect("a plain file"),
        b"hello"
    );
    let head = tree.get("HEAD", "/b/d/k").await;
    assert_eq!(
        (
            head.header("content-type").as_str(),
            head.header("x-amz-meta-a").as_str()
        ),
        ("text/x", "1")
    );
    assert_eq!(head.header("x-amz-tagging-count"), "1");
    let again = tree
        .ask("POST", &upload, &[], &list(&[(1, HELLO)]))
        .await
        .expect("the same answer");
    assert_eq!(again.element("ETag"), done.element("ETag"));
}

#[tokio::test]
async fn an_algorithm_is_echoed_and_binds_the_parts() {
    let tree = Tree::with_directories(&["b"]);
    let created = tree
        .ask("POST", "/b/k?uploads", &[(ALGORITHM, "crc32")], "")
        .await
        .expect("created");
    assert_eq!(
        (
            created.header(ALGORITHM).as_str(),
            created.header(TYPE).as_str()
        ),
        ("CRC32", "COMPOSITE")
    );
    let upload = format!("/b/k?uploadId={}", created.element("UploadId"));
    let target = format!("{upload}&partNumber=1");
    for headers in [
        &[][..],
        &[("x-amz-checksum-sha1", "qvTGHdzF6KLavt4PO0gs2a6pQ00=")],
    ] {
        assert_eq!(
            tree.refused("PUT", &target, headers, "hello").await,
            Code::InvalidRequest
        );
    }
    let bad = [(CRC32, "AAAAAA==")];
    assert_eq!(
        tree.refused("PUT", &target, &bad, "hello").await,
        Code::BadDigest
    );
    part(&tree, &upload, 1, &[(CRC32, HELLO_CRC32)], "hello").await;
    let without = list(&[(1, HELLO)]);
    assert_eq!(
        tree.refused("POST", &upload, &[], &without).await,
        Code::InvalidRequest
    );
    let with = without.replace(
        "</Part>",
        &format!("<ChecksumCRC32>{HELLO_CRC32}</ChecksumCRC32></Part>"),
    );
    assert_eq!(
        tree.refused("POST", &upload, &[(TYPE, "FULL_OBJECT")], &with)
            .await,
        Code::InvalidRequest
    );
    let done = tree
        .ask("POST", &upload, &[(TYPE, "COMPOSITE")], &with)
        .await
        .expect("completed");
    assert!(
        done.element("ChecksumCRC32").ends_with("==-1"),
        "{}",
        done.body
    );
    let refused = tree
        .refused(
            "POST",
            "/b/k?uploads",
            &[(ALGORITHM, "SHA1"), (TYPE, "FULL_OBJECT")],
            "",
        )
        .await;
    assert_eq!(refused, Code::InvalidRequest);
}

#[tokio::test]
async fn a_full_object_checksum_needs_none_of_the_parts_and_is_verified() {
    let tree = Tree::with_directories(&["b"]);
    let upload = begin(&tree, "/b/k", &OF_THE_WHOLE).await;
    let sent = part(&tree, &upload, 1, &[], "hello").await;
    assert_eq!(
        sent.header(CRC32),
        HELLO_CRC32,
        "computed, as the client sent none"
    );
    let parts = list(&[(1, HELLO)]);
    assert_eq!(
        tree.refused("POST", &upload, &[(CRC32, "AAAAAA==")], &parts)
            .await,
        Code::BadDigest
    );
    let size = [("x-amz-mp-object-size", "6")];
    assert_eq!(
        tree.refused("POST", &upload, &size, &parts).await,
        Code::InvalidRequest
    );
    let right = [(CRC32, HELLO_CRC32), ("x-amz-mp-object-size", "5")];
    let done = tree
        .ask("POST", &upload, &right, &parts)
        .await
        .expect("completed");
    assert_eq!(done.element("ChecksumCRC32"), HELLO_CRC32);
}

#[tokio::test]
async fn a_list_that_is_wrong_says_how_and_keeps_the_upload() {
    let tree = Tree::with_directories(&["b"]);
    let upload = begin(&tree, "/b/k", &[]).await;
    for number in [1, 2] {
        part(&tree, &upload, number, &[], "hello").await;
    }
    for (parts, code) in [
        (list(&[]), Code::MalformedXML),
        ("<CompleteMultipartUpload>".to_owned(), Code::MalformedXML),
        (list(&[(2, HELLO), (1, HELLO)]), Code::InvalidPartOrder),
        (list(&[(1, HELLO), (1, HELLO)]), Code::InvalidPartOrder),
        (list(&[(3, HELLO)]), Code::InvalidPart),
        (
            list(&[(1, "\"00000000000000000000000000000000\"")]),
            Code::InvalidPart,
        ),
        (list(&[(0, HELLO)]), Code::InvalidArgument),
        (list(&[(1, HELLO), (2, HELLO)]), Code::EntityTooSmall),
    ] {
        assert_eq!(
            tree.refused("POST", &upload, &[], &parts).await,
            code,
            "{parts}"
        );
    }
    let small = tree
        .ask("POST", &upload, &[], &list(&[(1, HELLO), (2, HELLO)]))
        .await
        .expect_err("too small");
    let extras: Vec<_> = small
        .extras()
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    assert!(
        extras.contains(&("ProposedSize", "5")) && extras.contains(&("MinSizeAllowed", "5242880"))
    );
    assert!(
        extras.contains(&("PartNumber", "1"))
            && extras.contains(&("ETag", HELLO.trim_matches('"')))
    );
    let create = [("if-none-match", "*")];
    fs::write(tree.path("b/k"), "there").expect("written");
    let parts = list(&[(2, HELLO)]);
    assert_eq!(
        tree.refused("POST", &upload, &create, &parts).await,
        Code::PreconditionFailed
    );
    assert_eq!(fs::read(tree.path("b/k")).expect("read"), b"there");
    let unquoted = list(&[(2, HELLO.trim_matches('"'))]);
    tree.ask("POST", &upload, &[], &unquoted)
        .await
        .expect("quotes are optional");
    assert_eq!(fs::read(tree.path("b/k")).expect("read"), b"hello");
}

#[tokio::test]
async fn invented_ids_numbers_and_keys_are_refused() {
    let tree = Tree::with_directories(&["b", "c"]);
    let upload = begin(&tree, "/b/k", &[]).await;
    for number in ["0", "10001", "-1", "x", ""] {
        let target = format!("{upload}&partNumber={number}");
        assert_eq!(
            tree.refused("PUT", &target, &[], "x").await,
            Code::InvalidArgument,
            "{number}"
        );
    }
    let id = upload.split_once('=').expect("an id").1;
    for target in [
        format!("/b/other?uploadId={id}"),
        format!("/c/k?uploadId={id}"),
        "/b/k?uploadId=..".to_owned(),
    ] {
        assert_eq!(
            tree.refused("GET", &target, &[], "").await,
            Code::NoSuchUpload
        );
        assert_eq!(
            tree.refused("DELETE", &target, &[], "").await,
            Code::NoSuchUpload
        );
        let parts = list(&[(1, HELLO)]);
        assert_eq!(
            tree.refused("POST", &target, &[], &parts).await,
            Code::NoSuchUpload
        );
        let part = format!("{target}&partNumber=1");
        assert_eq!(
            tree.refused("PUT", &part, &[], "x").await,
            Code::NoSuchUpload
        );
    }
    let early = [(
        "x-amz-if-match-initiated-time",
        "Thu, 01 Jan 2015 00:00:00 GMT",
    )];
    assert_eq!(
        tree.refused("DELETE", &upload, &early, "").await,
        Code::PreconditionFailed
    );
    assert_eq!(tree.get("DELETE", &upload).await.status, 204);
    assert_eq!(
        tree.refused("DELETE", &upload, &[], "").await,
        Code::NoSuchUpload
    );
}

#[tokio::test]
async fn ranges_of_an_object_become_parts() {
    let tree = Tree::with_directories(&["b"]);
    fs::write(tree.path("b/a+b"), "say hello twice").expect("written");
    let upload = begin(&tree, "/b/k", &[]).await;
    let target = format!("{upload}&partNumber=1");
    let source = ("x-amz-copy-source", "/b/a+b");
    for range in [
        "bytes=4-",
        "bytes=-5",
        "bytes=8-4",
        "bytes=4-8,9-9",
        "4-8",
        "bytes=4-15",
    ] {
        let headers = [source, ("x-amz-copy-source-range", range)];
        assert_eq!(
            tree.refused("PUT", &target, &headers, "").await,
            Code::InvalidArgument,
            "{range}"
        );
    }
    let condition = [source, ("x-amz-copy-source-if-match", "\"other\"")];
    assert_eq!(
        tree.refused("PUT", &target, &condition, "").await,
        Code::PreconditionFailed
    );
    let missing = [("x-amz-copy-source", "b/none")];
    assert_eq!(
        tree.refused("PUT", &target, &missing, "").await,
        Code::NoSuchKey
    );
    let headers = [source, ("x-amz-copy-source-range", "bytes=4-8")];
    let copied = tree
        .ask("PUT", &target, &headers, "")
        .await
        .expect("copied");
    assert_eq!(copied.element("ETag"), HELLO.replace('"', "&quot;"));
    assert!(copied.element("LastModified").ends_with('Z'));
    tree.ask("POST", &upload, &[], &list(&[(1, HELLO)]))
        .await
        .expect("completed");
    assert_eq!(fs::read(tree.path("b/k")).expect("read"), b"hello");
}

#[tokio::test]
async fn parts_come_in_pages() {
    let tree = Tree::with_directories(&["b"]);
    let upload = begin(&tree, "/b/a%20b", &[(ALGORITHM, "CRC32")]).await;
    for number in [3, 1, 2] {
        part(&tree, &upload, number, &[(CRC32, HELLO_CRC32)], "hello").await;
    }
    let page = tree.get("GET", &format!("{upload}&max-parts=2")).await;
    assert_eq!(
        (
            page.element("IsTruncated"),
            page.element("NextPartNumberMarker")
        ),
        ("true", "2")
    );
    assert_eq!(
        (page.element("Key"), page.element("ChecksumAlgorithm")),
        ("a b", "CRC32")
    );
    assert_eq!(page.body.matches("<Part>").count(), 2);
    assert_eq!(
        (page.element("Size"), page.element("ChecksumCRC32")),
        ("5", HELLO_CRC32)
    );
    let rest = tree
        .get("GET", &format!("{upload}&max-parts=2&part-number-marker=2"))
        .await;
    assert_eq!(
        (rest.element("IsTruncated"), rest.element("PartNumber")),
        ("false", "3")
    );
    let beyond = tree
        .get("GET", &format!("{upload}&part-number-marker=70000"))
        .await;
    assert_eq!(beyond.body.matches("<Part>").count(), 0);
    for query in ["max-parts=x", "max-parts=-1", "part-number-marker=x"] {
        let target = format!("{upload}&{query}");
        assert_eq!(
            tree.refused("GET", &target, &[], "").await,
            Code::InvalidArgument
        );
    }
}

#[tokio::test]
async fn uploads_come_in_pages_and_groups() {
    let tree = Tree::with_directories(&["b"]);
    let empty = tree.get("GET", "/b?uploads").await;
    assert_eq!(
        (empty.element("IsTruncated"), empty.element("MaxUploads")),
        ("false", "1000")
    );
    for key in ["d/1", "d/2", "e+e", "f"] {
        begin(
            &tree,
            &format!("/b/{key}"),
            &[("x-amz-storage-class", "STANDARD_IA")],
        )
        .await;
    }
    let grouped = tree
        .get(
            "GET",
            "/b?uploads&delimiter=/&encoding-type=url&max-uploads=2",
        )
        .await;
    assert_eq!(
        (grouped.element("Prefix"), grouped.element("Delimiter")),
        ("", "/")
    );
    assert!(
        grouped
            .body
            .contains("<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>")
    );
    assert_eq!(
        (grouped.element("Key"), grouped.element("IsTruncated")),
        ("e%2Be", "true")
    );
    assert_eq!(grouped.element("StorageClass"), "STANDARD_IA");
    let (key, id) = (
        grouped.element("NextKeyMarker"),
        grouped.element("NextUploadIdMarker"),
    );
    let next = format!("/b?uploads&delimiter=/&key-marker={key}&upload-id-marker={id}");
    let rest = tree.get("GET", &next).await;
    assert_eq!(
        (rest.element("Key"), rest.element("IsTruncated")),
        ("f", "false")
    );
    assert_eq!(
        tree.refused("GET", "/b?uploads&max-uploads=x", &[], "")
            .await,
        Code::InvalidArgument
    );
    assert_eq!(
        tree.refused("GET", "/b?uploads&encoding-type=x", &[], "")
            .await,
        Code::InvalidArgument
    );
    let junk = "/b?uploads&key-marker=f&upload-id-marker=x";
    assert_eq!(
        tree.refused("GET", junk, &[], "").await,
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_part_is_read_back_with_its_own_checksum_and_the_objects_type() {
    let tree = Tree::with_directories(&["b"]);
    let upload = begin(&tree, "/b/k", &OF_THE_WHOLE).await;
    let first = "a".repeat(5 << 20);
    let sent = part(&tree, &upload, 1, &[], &first).await;
    part(&tree, &upload, 2, &[], "hello").await;
    let parts = list(&[(1, &sent.header("etag")), (2, HELLO)]);
    let done = tree.ask("POST", &upload, &[], &parts).await;
    let whole = done.expect("completed").element("ChecksumCRC32").to_owned();
    let mode = [("x-amz-checksum-mode", "ENABLED")];
    let answer = tree
        .ask("GET", "/b/k?partNumber=2", &mode, "")
        .await
        .expect("the part");
    assert_eq!((answer.status, answer.body.as_str()), (206, "hello"));
    assert_eq!(
        (answer.header(CRC32).as_str(), answer.header(TYPE).as_str()),
        (HELLO_CRC32, "FULL_OBJECT")
    );
    assert_eq!(answer.header("x-amz-mp-parts-count"), "2");
    let head = tree
        .ask("HEAD", "/b/k", &mode, "")
        .await
        .expect("the object");
    assert_eq!(head.header(CRC32), whole);
}

#[tokio::test]
async fn what_is_not_built_is_refused_before_there_is_an_upload() {
    let tree = Tree::with_directories(&["b"]);
    for (header, code) in [
        (
            ("x-amz-server-side-encryption", "AES256"),
            Code::NotImplemented,
        ),
        (
            ("x-amz-object-lock-mode", "GOVERNANCE"),
            Code::InvalidRequest,
        ),
        (("x-amz-checksum-type", "COMPOSITE"), Code::InvalidRequest),
        ((ALGORITHM, "XXHASH3"), Code::NotImplemented),
        (("x-amz-tagging", "a=1&a=2"), Code::InvalidTag),
    ] {
        assert_eq!(
            tree.refused("POST", "/b/k?uploads", &[header], "").await,
            code,
            "{header:?}"
        );
    }
    assert!(!tree.path("b/.twintree/uploads").exists());
}
