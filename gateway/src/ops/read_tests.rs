//! GetObject and HeadObject over a real tree: files nobody PUT, and records written byte by byte as
//! FORMATS has them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bytes::Bytes;
use http::Request;
use twintree_store::{BucketName, ObjectKey};

use super::testing::{Answer, Tree, bucket_name, directory, object_key};
use super::{get_object::get_object, head_object::head_object};
use crate::call::Call;
use crate::error::{Code, S3Error};
use crate::reply::ReplyBody;

const SMALL: &[u8] = b"0123456789";

/// The bucket `b` of a tree that the gateway only reads.
struct Bucket(Tree);

impl Bucket {
    fn new() -> Self {
        Self(Tree::read_only(directory(&["b"])))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.0.path("b").join(key)
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
        let request = Request::get(format!("/b/k?{query}"));
        let call = self
            .0
            .call(request, headers)
            .expect("test queries are valid");
        (call, bucket_name("b"), object_key(key))
    }

    /// GET and HEAD, which must agree in everything but the bytes.
    async fn both(
        &self,
        key: &str,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer<Bytes>, S3Error> {
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
                let answer = Answer::of(get);
                if answer.status != 304 {
                    assert_eq!(
                        answer.header("content-length"),
                        answer.body.len().to_string()
                    );
                }
                Ok(answer)
            }
            (Err(get), Err(head)) => {
                assert_eq!(get, head);
                Err(get)
            }
            (get, head) => panic!("GET said {get:?}, HEAD said {head:?}"),
        }
    }

    async fn answer(&self, key: &str, query: &str, headers: &[(&str, &str)]) -> Answer<Bytes> {
        self.both(key, query, headers).await.expect("an answer")
    }

    async fn refusal(&self, key: &str, query: &str, headers: &[(&str, &str)]) -> S3Error {
        self.both(key, query, headers)
            .await
            .map(|answer| answer.status)
            .expect_err("a refusal")
    }
}

#[tokio::test]
async fn a_file_nobody_put_is_answered_whole_with_a_stable_etag_that_is_no_md5() {
    let bucket = Bucket::new();
    bucket.write("a.txt", SMALL);
    let large: Vec<u8> = (0..300_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    bucket.write("large", &large);
    bucket.write("empty", b"");
    let got = bucket.answer("a.txt", "", &[]).await;
    assert_eq!((got.status, &got.body[..]), (200, SMALL));
    assert_eq!(got.header("content-type"), "text/plain");
    assert_eq!(got.header("accept-ranges"), "bytes");
    assert!(got.header("last-modified").ends_with(" GMT"));
    let etag = got.header("etag");
    assert!(
        etag.len() == 36 && etag.starts_with('"') && etag.ends_with("-1\""),
        "{etag}"
    );
    assert_eq!(bucket.answer("a.txt", "", &[]).await.header("etag"), etag);
    assert_eq!(bucket.answer("large", "", &[]).await.body, large);
    let empty = bucket.answer("empty", "", &[("range", "bytes=x")]).await;
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    assert_eq!(
        bucket.refusal("none", "", &[]).await.code(),
        Code::NoSuchKey
    );
}

#[tokio::test]
async fn ranges_of_small_and_large_files() {
    let bucket = Bucket::new();
    bucket.write("small", SMALL);
    let large: Vec<u8> = (0..300_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    bucket.write("large", &large);
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=3-", 3, 10),
        ("bytes=-4", 6, 10),
        ("bytes=8-99", 8, 10),
    ] {
        let got = bucket.answer("small", "", &[("range", range)]).await;
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
    let got = bucket
        .answer("large", "", &[("range", "bytes=70001-299998")])
        .await;
    assert_eq!(got.body, &large[70_001..299_999]);
    for ignored in ["bytes=0-0,1-2", "bytes=5-2", "foo=0-1", "bytes=--1"] {
        assert_eq!(
            bucket
                .answer("small", "", &[("range", ignored)])
                .await
                .status,
            200,
            "{ignored}"
        );
    }
    for beyond in ["bytes=10-", "bytes=-0"] {
        let refused = bucket.refusal("small", "", &[("range", beyond)]).await;
        assert_eq!(refused.code(), Code::InvalidRange, "{beyond}");
        assert_eq!(refused.headers()[0].1, "bytes */10");
    }
}

#[tokio::test]
async fn conditions_come_before_ranges() {
    let bucket = Bucket::new();
    bucket.write("k", SMALL);
    let etag = bucket.answer("k", "", &[]).await.header("etag");
    let unchanged = bucket
        .answer("k", "", &[("if-none-match", &etag), ("range", "bytes=99-")])
        .await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(unchanged.header("etag"), etag);
    assert!(!unchanged.header("last-modified").is_empty());
    assert!(unchanged.header("content-length").is_empty());
    let refused = bucket
        .refusal("k", "", &[("if-match", "\"0\""), ("range", "bytes=99-")])
        .await;
    assert_eq!(refused.code(), Code::PreconditionFailed);
    assert_eq!(refused.extras(), [("Condition", "If-Match".to_owned())]);
    assert_eq!(
        bucket.answer("k", "", &[("if-match", &etag)]).await.status,
        200
    );
    let refused = bucket.refusal("none", "", &[("if-match", "*")]).await;
    assert_eq!(
        refused.code(),
        Code::NoSuchKey,
        "existence is checked first"
    );
    bucket.write("k", b"0123456780");
    assert_eq!(
        bucket.refusal("k", "", &[("if-match", &etag)]).await.code(),
        Code::PreconditionFailed
    );
}

#[tokio::test]
async fn what_was_said_about_an_object_comes_back_and_can_be_replaced() {
    let bucket = Bucket::new();
    bucket.write("k.bin", SMALL);
    let meta = "{\"v\":1,\"type\":\"text/x-test\",\"headers\":{\"cache-control\":\"no-store\",\
                \"x-amz-storage-class\":\"STANDARD\",\"expires\":\"whenever\"},\
                \"meta\":{\"plain\":\"v\",\"umlaut\":\"\u{fc}\",\"bad\":\"a\\nb\",\"bad name\":\"x\"},\"tags\":{\"a\":\"1\",\"b\":\"2\"}}";
    bucket.set_xattr("k.bin", "user.twintree.meta", meta.as_bytes());
    let got = bucket.answer("k.bin", "", &[]).await;
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
    let got = bucket.answer("k.bin", query, &[]).await;
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
    let refused = bucket
        .refusal("k.bin", "response-content-type=a%0Ab", &[])
        .await;
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn checksums_are_sent_when_asked_for_and_never_with_a_range_or_a_stale_record() {
    let bucket = Bucket::new();
    bucket.write("k", SMALL);
    bucket.record("k", [0xab; 16], 0x0102_0304_0506_0708);
    let enabled = ("x-amz-checksum-mode", "enabled");
    let got = bucket.answer("k", "", &[]).await;
    assert_eq!(got.header("etag"), format!("\"{}\"", "ab".repeat(16)));
    assert_eq!(got.header("x-amz-checksum-crc64nvme"), "");
    let got = bucket.answer("k", "", &[enabled]).await;
    assert_eq!(got.header("x-amz-checksum-crc64nvme"), "AQIDBAUGBwg=");
    assert_eq!(got.header("x-amz-checksum-type"), "FULL_OBJECT");
    assert_eq!(
        bucket
            .answer("k", "X-Amz-Checksum-Mode=ENABLED", &[])
            .await
            .header("x-amz-checksum-type"),
        "FULL_OBJECT"
    );
    let got = bucket
        .answer("k", "", &[enabled, ("range", "bytes=0-99")])
        .await;
    assert_eq!(
        (got.status, got.header("x-amz-checksum-crc64nvme")),
        (206, String::new())
    );
    let got = bucket.answer("k", "partNumber=1", &[enabled]).await;
    assert_eq!(
        (got.status, got.header("x-amz-checksum-crc64nvme")),
        (206, "AQIDBAUGBwg=".to_owned())
    );
    bucket.write("k", b"0123456780");
    let got = bucket.answer("k", "", &[enabled]).await;
    assert_eq!(got.header("x-amz-checksum-crc64nvme"), "");
    assert!(got.header("etag").ends_with("-1\""));
}

#[tokio::test]
async fn a_condition_that_names_the_recorded_etag_has_an_unverified_file_read() {
    let bucket = Bucket::new();
    bucket.write("good", SMALL);
    bucket.write("bad", SMALL);
    // CRC64NVME of the digits 0 to 9, and a wrong one.
    let crc = crc64_nvme(SMALL);
    for (key, crc) in [("good", crc), ("bad", crc ^ 1)] {
        bucket.record(key, [0xcd; 16], crc);
        // Restamped so long ago that the window does not cover today's ctime: only reading can tell.
        let aged = [
            &read_xattr(&bucket, key)[..48],
            &1_000_000_000i64.to_le_bytes(),
            &[0; 8],
        ]
        .concat();
        bucket.set_xattr(key, "user.twintree", &aged);
        assert!(
            bucket
                .answer(key, "", &[])
                .await
                .header("etag")
                .ends_with("-1\""),
            "unverified is derived"
        );
    }
    let recorded = format!("\"{}\"", "cd".repeat(16));
    let got = bucket.answer("good", "", &[("if-match", &recorded)]).await;
    assert_eq!((got.status, got.header("etag")), (200, recorded.clone()));
    assert_eq!(
        bucket
            .answer("good", "", &[("if-none-match", &recorded)])
            .await
            .status,
        304
    );
    let refused = bucket.refusal("bad", "", &[("if-match", &recorded)]).await;
    assert_eq!(refused.code(), Code::PreconditionFailed);
}

fn read_xattr(bucket: &Bucket, key: &str) -> Vec<u8> {
    let file = File::open(bucket.path(key)).expect("the file was written");
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
    let bucket = Bucket::new();
    bucket.write("k", SMALL);
    let got = bucket.answer("k", "partNumber=1", &[]).await;
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
            bucket.refusal("k", query, headers).await.code(),
            code,
            "{query}"
        );
    }
}

#[tokio::test]
async fn the_null_version_is_the_only_one() {
    let bucket = Bucket::new();
    bucket.write("k", SMALL);
    assert_eq!(bucket.answer("k", "versionId=null", &[]).await.status, 200);
    assert_eq!(
        bucket
            .refusal("k", "versionId=3HL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY", &[])
            .await
            .code(),
        Code::NoSuchVersion
    );
    assert_eq!(
        bucket.refusal("k", "versionId=", &[]).await.code(),
        Code::InvalidArgument
    );
    assert_eq!(
        bucket.refusal("k", "versionId=a%20b", &[]).await.code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_large_body_is_lent_with_a_check_that_sees_changes() {
    let bucket = Bucket::new();
    bucket.write("k", &[7; 100_000]);
    let (call, name, key) = bucket.call("k", "", &[]);
    let reply = get_object(&call, &name, &key).await.expect("an answer");
    let ReplyBody::File(body) = reply.body() else {
        panic!("100,000 bytes are not read into memory")
    };
    body.check().expect("nothing happened yet");
    let file = File::options()
        .write(true)
        .open(bucket.path("k"))
        .expect("the file was written");
    file.set_len(99_999).expect("our own file");
    assert_eq!(
        body.check().map_err(|error| error.kind()),
        Err(std::io::ErrorKind::InvalidData)
    );
}
