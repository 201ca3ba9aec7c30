//! GetObject and HeadObject over a real tree: files nobody PUT, and records written byte by byte as
//! FORMATS has them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request};
use twintree_store::{BucketName, Durability, KeyPolicy, ObjectKey, Store, StoreOptions};

use super::{get_object::get_object, head_object::head_object};
use crate::auth::{Credentials, Principal};
use crate::call::{Call, Gateway, Reply, Settings};
use crate::error::{Code, S3Error};
use crate::reply::ReplyBody;
use crate::route::Query;

const SMALL: &[u8] = b"0123456789";

/// A tree with one bucket `b`.
struct Tree {
    dir: tempfile::TempDir,
    gateway: Arc<Gateway>,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("b")).expect("our own directory");
        let store = Store::open(StoreOptions {
            root: dir.path().to_owned(),
            durability: Durability::Relaxed,
            keys: KeyPolicy::Any,
            read_only: true,
            hide: Vec::new(),
            verify_mtime_only: false,
        });
        let credentials = Arc::new(Credentials::new([]));
        let store = store.expect("the root is a directory");
        let gateway = Arc::new(Gateway {
            store,
            credentials,
            settings: Settings::default(),
        });
        Self { dir, gateway }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("b").join(key)
    }

    fn write(&self, key: &str, bytes: &[u8]) {
        fs::write(self.path(key), bytes).expect("our own directory");
    }

    fn set_xattr(&self, key: &str, name: &str, value: &[u8]) {
        let file = File::open(self.path(key)).expect("the file was written");
        rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty())
            .expect("user xattrs are possible here");
    }

    /// The 64 bytes of FORMATS for the file as it is.
    fn record(&self, key: &str, etag: [u8; 16], crc64: u64) {
        let stat = fs::metadata(self.path(key)).expect("the file was written");
        let mut record = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        record.extend_from_slice(&etag);
        record.extend_from_slice(&crc64.to_le_bytes());
        record.extend_from_slice(&stat.size().to_le_bytes()[..6]);
        record.extend_from_slice(&(stat.mtime() * 1_000_000_000 + stat.mtime_nsec()).to_le_bytes());
        record.extend_from_slice(&(stat.ctime() * 1_000_000_000 + stat.ctime_nsec()).to_le_bytes());
        record.extend_from_slice(&[0; 8]);
        assert_eq!(record.len(), 64);
        self.set_xattr(key, "user.twintree", &record);
    }

    fn call(
        &self,
        key: &str,
        query: &str,
        headers: &[(&str, &str)],
    ) -> (Call, BucketName, ObjectKey) {
        let mut request = Request::get(format!("/b/k?{query}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request
            .body(())
            .expect("test requests are valid")
            .into_parts();
        let call = Call {
            gateway: Arc::clone(&self.gateway),
            parts,
            query: Query::parse(query).expect("test queries are valid"),
            principal: Principal {
                access_key_id: "tester".to_owned(),
            },
            request_id: "0000000000000000".to_owned(),
        };
        let bucket = BucketName::parse("b").expect("a name");
        (call, bucket, ObjectKey::parse(key).expect("a key"))
    }

    /// GET and HEAD, which must agree in everything but the bytes.
    async fn both(
        &self,
        key: &str,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, S3Error> {
        let (call, bucket, key) = self.call(key, query, headers);
        let head = head_object(&call, &bucket, &key).await;
        let get = get_object(&call, &bucket, &key).await;
        match (get, head) {
            (Ok(get), Ok(head)) => {
                assert_eq!(
                    (get.status(), get.headers()),
                    (head.status(), head.headers())
                );
                assert!(head.body().is_empty());
                Ok(Answer::of(get))
            }
            (Err(get), Err(head)) => {
                assert_eq!(get, head);
                Err(get)
            }
            (get, head) => panic!("GET said {get:?}, HEAD said {head:?}"),
        }
    }

    async fn answer(&self, key: &str, query: &str, headers: &[(&str, &str)]) -> Answer {
        self.both(key, query, headers).await.expect("an answer")
    }

    async fn refusal(&self, key: &str, query: &str, headers: &[(&str, &str)]) -> S3Error {
        self.both(key, query, headers)
            .await
            .map(|answer| answer.status)
            .expect_err("a refusal")
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn of(reply: Reply) -> Self {
        use std::os::unix::fs::FileExt;
        let (head, body) = reply.into_parts();
        let body = match body {
            ReplyBody::Empty => Bytes::new(),
            ReplyBody::Bytes(bytes) => bytes,
            ReplyBody::Stream(_) => panic!("an answer of unknown length"),
            ReplyBody::File(file) => {
                let mut bytes = vec![0; usize::try_from(file.len).expect("a small test file")];
                file.file
                    .read_exact_at(&mut bytes, file.offset)
                    .expect("the file has the bytes");
                bytes.into()
            }
        };
        let answer = Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        };
        if answer.status != 304 {
            assert_eq!(
                answer.header("content-length"),
                answer.body.len().to_string()
            );
        }
        answer
    }

    fn header(&self, name: &str) -> String {
        self.headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    }
}

#[tokio::test]
async fn a_file_nobody_put_is_answered_whole_with_a_stable_etag_that_is_no_md5() {
    let tree = Tree::new();
    tree.write("a.txt", SMALL);
    let large: Vec<u8> = (0..300_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    tree.write("large", &large);
    tree.write("empty", b"");
    let got = tree.answer("a.txt", "", &[]).await;
    assert_eq!((got.status, &got.body[..]), (200, SMALL));
    assert_eq!(got.header("content-type"), "text/plain");
    assert_eq!(got.header("accept-ranges"), "bytes");
    assert!(got.header("last-modified").ends_with(" GMT"));
    let etag = got.header("etag");
    assert!(
        etag.len() == 36 && etag.starts_with('"') && etag.ends_with("-1\""),
        "{etag}"
    );
    assert_eq!(tree.answer("a.txt", "", &[]).await.header("etag"), etag);
    assert_eq!(tree.answer("large", "", &[]).await.body, large);
    let empty = tree.answer("empty", "", &[("range", "bytes=x")]).await;
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    assert_eq!(tree.refusal("none", "", &[]).await.code(), Code::NoSuchKey);
}

#[tokio::test]
async fn ranges_of_small_and_large_files() {
    let tree = Tree::new();
    tree.write("small", SMALL);
    let large: Vec<u8> = (0..300_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    tree.write("large", &large);
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=3-", 3, 10),
        ("bytes=-4", 6, 10),
        ("bytes=8-99", 8, 10),
    ] {
        let got = tree.answer("small", "", &[("range", range)]).await;
        assert_eq!(
            (got.status, &got.body[..]),
            (206, &SMALL[start..end]),
            "{range}"
        );
        assert_eq!(
            got.header("content-range"),
            format!("bytes {start}-{}/10", end - 1)
        );
    }
    let got = tree
        .answer("large", "", &[("range", "bytes=70001-299998")])
        .await;
    assert_eq!(got.body, &large[70_001..299_999]);
    for ignored in ["bytes=0-0,1-2", "bytes=5-2", "foo=0-1", "bytes=--1"] {
        assert_eq!(
            tree.answer("small", "", &[("range", ignored)]).await.status,
            200,
            "{ignored}"
        );
    }
    for beyond in ["bytes=10-", "bytes=-0"] {
        let refused = tree.refusal("small", "", &[("range", beyond)]).await;
        assert_eq!(refused.code(), Code::InvalidRange, "{beyond}");
        assert_eq!(refused.headers()[0].1, "bytes */10");
    }
}

#[tokio::test]
async fn conditions_come_before_ranges() {
    let tree = Tree::new();
    tree.write("k", SMALL);
    let etag = tree.answer("k", "", &[]).await.header("etag");
    let unchanged = tree
        .answer("k", "", &[("if-none-match", &etag), ("range", "bytes=99-")])
        .await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(unchanged.header("etag"), etag);
    assert!(!unchanged.header("last-modified").is_empty());
    assert!(unchanged.header("content-length").is_empty());
    let refused = tree
        .refusal("k", "", &[("if-match", "\"0\""), ("range", "bytes=99-")])
        .await;
    assert_eq!(refused.code(), Code::PreconditionFailed);
    assert_eq!(refused.extras(), [("Condition", "If-Match".to_owned())]);
    assert_eq!(
        tree.answer("k", "", &[("if-match", &etag)]).await.status,
        200
    );
    let refused = tree.refusal("none", "", &[("if-match", "*")]).await;
    assert_eq!(
        refused.code(),
        Code::NoSuchKey,
        "existence is checked first"
    );
    tree.write("k", b"0123456780");
    assert_eq!(
        tree.refusal("k", "", &[("if-match", &etag)]).await.code(),
        Code::PreconditionFailed
    );
}

#[tokio::test]
async fn what_was_said_about_an_object_comes_back_and_can_be_replaced() {
    let tree = Tree::new();
    tree.write("k.bin", SMALL);
    let meta = "{\"v\":1,\"type\":\"text/x-test\",\"headers\":{\"cache-control\":\"no-store\",\
                \"x-amz-storage-class\":\"STANDARD\",\"expires\":\"whenever\"},\
                \"meta\":{\"plain\":\"v\",\"umlaut\":\"\u{fc}\",\"bad\":\"a\\nb\",\"bad name\":\"x\"},\"tags\":{\"a\":\"1\",\"b\":\"2\"}}";
    tree.set_xattr("k.bin", "user.twintree.meta", meta.as_bytes());
    let got = tree.answer("k.bin", "", &[]).await;
    assert_eq!(got.header("content-type"), "text/x-test");
    assert_eq!(got.header("cache-control"), "no-store");
    assert_eq!(got.header("expires"), "whenever");
    assert_eq!(
        got.header("x-amz-storage-class"),
        "",
        "STANDARD is not said"
    );
    assert_eq!(got.header("x-amz-meta-plain"), "v");
    assert_eq!(
        got.headers["x-amz-meta-umlaut"].as_bytes(),
        "\u{fc}".as_bytes()
    );
    assert_eq!(got.header("x-amz-missing-meta"), "2");
    assert_eq!(got.header("x-amz-tagging-count"), "2");
    let query = "response-content-type=a%2Fb&response-cache-control=c&response-content-disposition=d\
                 &response-content-encoding=e&response-content-language=l&response-expires=x";
    let got = tree.answer("k.bin", query, &[]).await;
    let said = [
        "content-type",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "expires",
    ];
    assert_eq!(
        said.map(|name| got.header(name)),
        ["a/b", "c", "d", "e", "l", "x"]
    );
    let refused = tree
        .refusal("k.bin", "response-content-type=a%0Ab", &[])
        .await;
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn checksums_are_sent_when_asked_for_and_never_with_a_range_or_a_stale_record() {
    let tree = Tree::new();
    tree.write("k", SMALL);
    tree.record("k", [0xab; 16], 0x0102_0304_0506_0708);
    let enabled = ("x-amz-checksum-mode", "enabled");
    let got = tree.answer("k", "", &[]).await;
    assert_eq!(got.header("etag"), format!("\"{}\"", "ab".repeat(16)));
    assert_eq!(got.header("x-amz-checksum-crc64nvme"), "");
    let got = tree.answer("k", "", &[enabled]).await;
    assert_eq!(got.header("x-amz-checksum-crc64nvme"), "AQIDBAUGBwg=");
    assert_eq!(got.header("x-amz-checksum-type"), "FULL_OBJECT");
    assert_eq!(
        tree.answer("k", "X-Amz-Checksum-Mode=ENABLED", &[])
            .await
            .header("x-amz-checksum-type"),
        "FULL_OBJECT"
    );
    let got = tree
        .answer("k", "", &[enabled, ("range", "bytes=0-99")])
        .await;
    assert_eq!(
        (got.status, got.header("x-amz-checksum-crc64nvme")),
        (206, String::new())
    );
    let got = tree.answer("k", "partNumber=1", &[enabled]).await;
    assert_eq!(
        (got.status, got.header("x-amz-checksum-crc64nvme")),
        (206, "AQIDBAUGBwg=".to_owned())
    );
    tree.write("k", b"0123456780");
    let got = tree.answer("k", "", &[enabled]).await;
    assert_eq!(got.header("x-amz-checksum-crc64nvme"), "");
    assert!(got.header("etag").ends_with("-1\""));
}

#[tokio::test]
async fn a_condition_that_names_the_recorded_etag_has_an_unverified_file_read() {
    let tree = Tree::new();
    tree.write("good", SMALL);
    tree.write("bad", SMALL);
    // CRC64NVME of the digits 0 to 9, and a wrong one.
    let crc = crc64_nvme(SMALL);
    for (key, crc) in [("good", crc), ("bad", crc ^ 1)] {
        tree.record(key, [0xcd; 16], crc);
        // Restamped so long ago that the window does not cover today's ctime: only reading can tell.
        let aged = [
            &read_xattr(&tree, key)[..48],
            &1_000_000_000i64.to_le_bytes(),
            &[0; 8],
        ]
        .concat();
        tree.set_xattr(key, "user.twintree", &aged);
        assert!(
            tree.answer(key, "", &[])
                .await
                .header("etag")
                .ends_with("-1\""),
            "unverified is derived"
        );
    }
    let recorded = format!("\"{}\"", "cd".repeat(16));
    let got = tree.answer("good", "", &[("if-match", &recorded)]).await;
    assert_eq!((got.status, got.header("etag")), (200, recorded.clone()));
    assert_eq!(
        tree.answer("good", "", &[("if-none-match", &recorded)])
            .await
            .status,
        304
    );
    let refused = tree.refusal("bad", "", &[("if-match", &recorded)]).await;
    assert_eq!(refused.code(), Code::PreconditionFailed);
}

fn read_xattr(tree: &Tree, key: &str) -> Vec<u8> {
    let file = File::open(tree.path(key)).expect("the file was written");
    let mut bytes = [0; 64];
    assert_eq!(
        rustix::fs::fgetxattr(&file, "user.twintree", &mut bytes).expect("it was set"),
        64
    );
    bytes.to_vec()
}

/// Bit by bit, from the polynomial: independent of what the store computes with.
fn crc64_nvme(bytes: &[u8]) -> u64 {
    let mut crc = !0u64;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x9A6C_9329_AC4B_C9B5
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[tokio::test]
async fn a_file_that_was_not_uploaded_in_parts_is_its_own_first_part() {
    let tree = Tree::new();
    tree.write("k", SMALL);
    let got = tree.answer("k", "partNumber=1", &[]).await;
    assert_eq!(
        (got.status, &got.body[..], got.header("content-range")),
        (206, SMALL, "bytes 0-9/10".to_owned())
    );
    assert_eq!(got.header("x-amz-mp-parts-count"), "");
    for (query, headers, code) in [
        ("partNumber=2", &[][..], Code::InvalidPartNumber),
        ("partNumber=0", &[], Code::InvalidArgument),
        ("partNumber=10001", &[], Code::InvalidArgument),
        ("partNumber=x", &[], Code::InvalidArgument),
        (
            "partNumber=1",
            &[("range", "bytes=0-1")],
            Code::InvalidRequest,
        ),
    ] {
        assert_eq!(
            tree.refusal("k", query, headers).await.code(),
            code,
            "{query}"
        );
    }
}

#[tokio::test]
async fn the_null_version_is_the_only_one() {
    let tree = Tree::new();
    tree.write("k", SMALL);
    assert_eq!(tree.answer("k", "versionId=null", &[]).await.status, 200);
    assert_eq!(
        tree.refusal("k", "versionId=3HL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY", &[])
            .await
            .code(),
        Code::NoSuchVersion
    );
    assert_eq!(
        tree.refusal("k", "versionId=", &[]).await.code(),
        Code::InvalidArgument
    );
    assert_eq!(
        tree.refusal("k", "versionId=a%20b", &[]).await.code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_large_body_is_lent_with_a_check_that_sees_changes() {
    let tree = Tree::new();
    tree.write("k", &[7; 100_000]);
    let (call, bucket, key) = tree.call("k", "", &[]);
    let reply = get_object(&call, &bucket, &key).await.expect("an answer");
    let ReplyBody::File(body) = reply.body() else {
        panic!("100,000 bytes are not read into memory")
    };
    body.check().expect("nothing happened yet");
    let file = File::options()
        .write(true)
        .open(tree.path("k"))
        .expect("the file was written");
    file.set_len(99_999).expect("our own file");
    assert_eq!(
        body.check().map_err(|error| error.kind()),
        Err(std::io::ErrorKind::InvalidData)
    );
}
