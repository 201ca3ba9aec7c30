//! PutObject over a real tree: what becomes visible, what is answered, and what leaves the old object alone.

use std::fs;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request};
use twintree_store::{Access, Object};

use super::put_object::put_object;
use super::testing::{Tree, bucket_name, directory, object_key};
use crate::auth::Payload;
use crate::body::RequestBody;
use crate::call::Settings;
use crate::error::{Code, S3Error};

/// The bucket `b` of a tree that takes a megabyte in one PUT.
struct Bucket(Tree);

impl Bucket {
    fn new() -> Self {
        let settings = Settings {
            max_put: 1 << 20,
            ..Settings::default()
        };
        Self(Tree::writable(directory(&["b"]), settings))
    }

    async fn put(
        &self,
        key: &str,
        headers: &[(&str, &str)],
        bytes: &[u8],
    ) -> Result<HeaderMap, S3Error> {
        self.put_body(
            key,
            "",
            headers,
            Body::from(Bytes::copy_from_slice(bytes)),
            Payload::Unsigned,
        )
        .await
    }

    async fn put_body(
        &self,
        key: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: Body,
        payload: Payload,
    ) -> Result<HeaderMap, S3Error> {
        let request = Request::put(format!("/b/k?{query}")).header("transfer-encoding", "chunked");
        let call = self
            .0
            .call(request, headers)
            .expect("test queries are valid");
        let body = RequestBody::new(body, payload);
        let reply = put_object(&call, &bucket_name("b"), &object_key(key), body).await?;
        assert_eq!(reply.status(), 200);
        Ok(reply.headers().clone())
    }

    async fn refusal(&self, key: &str, headers: &[(&str, &str)], bytes: &[u8]) -> Code {
        self.put(key, headers, bytes)
            .await
            .expect_err("the PUT is refused")
            .code()
    }

    fn open(&self, key: &str) -> Object {
        let bucket = self.0.store().bucket(&bucket_name("b"));
        bucket
            .expect("the bucket is there")
            .open(&object_key(key), Access::Blocking)
            .expect("the object is there")
    }

    fn on_disk(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.0.path("b").join(key)).ok()
    }

    /// Every name in the bucket that a user sees, files and directories.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path("b")).expect("the bucket is readable");
        let names = entries.map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        });
        names.filter(|name| name != ".twintree").collect()
    }
}

#[tokio::test]
async fn short_and_long_bodies_are_plain_files_with_their_md5() {
    let bucket = Bucket::new();
    let answered = bucket
        .put("a/short", &[], b"hello")
        .await
        .expect("a short body");
    assert_eq!(answered["etag"], "\"5d41402abc4b2a76b9719d911017c592\"");
    assert_eq!(answered["x-amz-checksum-type"], "FULL_OBJECT");
    assert!(
        answered.contains_key("x-amz-checksum-crc64nvme"),
        "the default checksum is echoed"
    );
    assert_eq!(bucket.on_disk("a/short").as_deref(), Some(&b"hello"[..]));
    let long: Vec<u8> = (0..700_001_u32).map(|n| (n * 7 + n / 251) as u8).collect();
    let answered = bucket.put("a/long", &[], &long).await.expect("a long body");
    let object = bucket.open("a/long");
    assert_eq!(
        answered["etag"],
        format!("\"{}\"", object.info.etag).as_str()
    );
    assert_eq!(bucket.on_disk("a/long"), Some(long));
    let empty = bucket.put("empty", &[], b"").await.expect("an empty body");
    assert_eq!(empty["etag"], "\"d41d8cd98f00b204e9800998ecf8427e\"");
}

#[tokio::test]
async fn what_the_client_said_is_kept() {
    let bucket = Bucket::new();
    let headers = [
        ("content-type", "text/x"),
        ("content-encoding", "gzip,aws-chunked"),
        ("cache-control", "no-cache"),
        ("x-amz-meta-a", "1"),
        ("x-amz-tagging", "k=v"),
        ("x-amz-checksum-sha1", "qvTGHdzF6KLavt4PO0gs2a6pQ00="),
    ];
    let answered = bucket
        .put("k", &headers, b"hello")
        .await
        .expect("all of it is legal");
    assert_eq!(
        answered["x-amz-checksum-sha1"],
        "qvTGHdzF6KLavt4PO0gs2a6pQ00="
    );
    let meta = bucket.open("k").info.meta;
    assert_eq!(meta.content_type.as_deref(), Some(&b"text/x"[..]));
    assert_eq!(meta.user, [("a".to_owned(), b"1".to_vec())]);
    assert_eq!(meta.tags, [("k".to_owned(), "v".to_owned())]);
    assert!(
        meta.headers
            .contains(&("content-encoding".to_owned(), b"gzip".to_vec()))
    );
}

#[tokio::test]
async fn every_wrong_digest_leaves_the_old_object_and_nothing_else() {
    let bucket = Bucket::new();
    bucket.put("k", &[], b"old").await.expect("the old object");
    let long = vec![7; 300_000];
    for body in [&b"new"[..], &long] {
        for (headers, code) in [
            (("content-md5", "rL0Y20xC+Fzt72VPzMSk2A=="), Code::BadDigest),
            (("content-md5", "short"), Code::InvalidDigest),
            (("x-amz-checksum-crc32", "AAAAAA=="), Code::BadDigest),
            (("x-amz-checksum-crc32", "AAAA"), Code::InvalidRequest),
            (
                ("x-amz-server-side-encryption", "AES256"),
                Code::NotImplemented,
            ),
            (
                ("x-amz-object-lock-mode", "GOVERNANCE"),
                Code::InvalidRequest,
            ),
            (
                ("x-amz-acl", "public-read"),
                Code::AccessControlListNotSupported,
            ),
            (("x-amz-write-offset-bytes", "3"), Code::NotImplemented),
        ] {
            assert_eq!(
                bucket.refusal("k", &[headers], body).await,
                code,
                "{headers:?}"
            );
        }
        let wrong = bucket
            .put_body(
                "k",
                "",
                &[],
                Body::from(body.to_vec()),
                Payload::Sha256([0; 32]),
            )
            .await;
        assert_eq!(
            wrong.expect_err("another hash").code(),
            Code::XAmzContentSHA256Mismatch
        );
    }
    assert_eq!(
        bucket.refusal("k", &[], &vec![0; (1 << 20) + 1]).await,
        Code::EntityTooLarge
    );
    let version = bucket
        .put_body(
            "k",
            "versionId=null",
            &[],
            Body::from("new"),
            Payload::Unsigned,
        )
        .await;
    assert_eq!(
        version.expect_err("a version cannot be put").code(),
        Code::InvalidArgument
    );
    assert_eq!(bucket.on_disk("k").as_deref(), Some(&b"old"[..]));
    assert_eq!(bucket.names(), ["k"]);
}

#[tokio::test]
async fn conditions_hold_for_short_and_long_bodies() {
    let bucket = Bucket::new();
    for body in [b"x".to_vec(), vec![1; 300_000]] {
        let key = format!("k{}", body.len());
        assert_eq!(
            bucket.refusal(&key, &[("if-match", "\"e\"")], &body).await,
            Code::NoSuchKey
        );
        let first = bucket
            .put(&key, &[("if-none-match", "*")], &body)
            .await
            .expect("there is none yet");
        let etag = first["etag"].to_str().expect("hex").to_owned();
        assert_eq!(
            bucket.refusal(&key, &[("if-none-match", "*")], &body).await,
            Code::PreconditionFailed
        );
        assert_eq!(
            bucket
                .refusal(&key, &[("if-none-match", &etag)], &body)
                .await,
            Code::PreconditionFailed
        );
        assert_eq!(
            bucket
                .refusal(&key, &[("if-match", "\"other\"")], &body)
                .await,
            Code::PreconditionFailed
        );
        bucket
            .put(&key, &[("if-match", &etag)], b"next")
            .await
            .expect("it is still that one");
        assert_eq!(
            bucket.refusal(&key, &[("if-match", &etag)], &body).await,
            Code::PreconditionFailed
        );
        assert_eq!(bucket.on_disk(&key).as_deref(), Some(&b"next"[..]));
    }
}

#[tokio::test]
async fn directory_objects_and_what_no_path_holds() {
    let bucket = Bucket::new();
    bucket
        .put("dir/", &[], b"")
        .await
        .expect("a directory object");
    assert!(bucket.0.path("b/dir").is_dir());
    assert_eq!(bucket.open("dir/").info.size, 0);
    bucket
        .put("dir/", &[], b"body")
        .await
        .expect("a body under a slash");
    assert_eq!(bucket.open("dir/").info.size, 4);
    bucket.put("f", &[], b"file").await.expect("a file");
    bucket
        .put("f/below", &[], b"under a file")
        .await
        .expect("the annex keeps it");
    assert_eq!(
        (bucket.open("f").info.size, bucket.open("f/below").info.size),
        (4, 12)
    );
    bucket
        .put("a//../x", &[], b"no path")
        .await
        .expect("the annex keeps it");
    assert_eq!(bucket.open("a//../x").info.size, 7);
}
