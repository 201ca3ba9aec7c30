//! PutObject over a real tree: what becomes visible, what is answered, and what leaves the old object alone.

use std::fs;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request};
use twintree_store::{
    Access, BucketName, Durability, KeyPolicy, Object, ObjectKey, Store, StoreOptions,
};

use super::put_object::put_object;
use crate::auth::{Credentials, Payload, Principal};
use crate::body::RequestBody;
use crate::call::{Call, Gateway, Settings};
use crate::error::{Code, S3Error};
use crate::route::Query;

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
            read_only: false,
            hide: Vec::new(),
            verify_mtime_only: false,
        });
        let settings = Settings {
            max_put: 1 << 20,
            ..Settings::default()
        };
        let store = store.expect("the root is a directory");
        let gateway = Arc::new(Gateway {
            store,
            credentials: Arc::new(Credentials::new([])),
            settings,
        });
        Self { dir, gateway }
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
        let mut request =
            Request::put(format!("/b/k?{query}")).header("transfer-encoding", "chunked");
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
        let (bucket, key) = (bucket_name(), ObjectKey::parse(key).expect("a key"));
        let reply = put_object(&call, &bucket, &key, RequestBody::new(body, payload)).await?;
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
        let bucket = self
            .gateway
            .store
            .bucket(&bucket_name())
            .expect("the bucket is there");
        bucket
            .open(&ObjectKey::parse(key).expect("a key"), Access::Blocking)
            .expect("the object is there")
    }

    fn on_disk(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.path().join("b").join(key)).ok()
    }

    /// Every name in the bucket that a user sees, files and directories.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("b")).expect("the bucket is readable");
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

fn bucket_name() -> BucketName {
    BucketName::parse("b").expect("a name")
}

#[tokio::test]
async fn short_and_long_bodies_are_plain_files_with_their_md5() {
    let tree = Tree::new();
    let answered = tree
        .put("a/short", &[], b"hello")
        .await
        .expect("a short body");
    assert_eq!(answered["etag"], "\"5d41402abc4b2a76b9719d911017c592\"");
    assert_eq!(answered["x-amz-checksum-type"], "FULL_OBJECT");
    assert!(
        answered.contains_key("x-amz-checksum-crc64nvme"),
        "the default checksum is echoed"
    );
    assert_eq!(tree.on_disk("a/short").as_deref(), Some(&b"hello"[..]));
    let long: Vec<u8> = (0..700_001_u32).map(|n| (n * 7 + n / 251) as u8).collect();
    let answered = tree.put("a/long", &[], &long).await.expect("a long body");
    let object = tree.open("a/long");
    assert_eq!(
        answered["etag"],
        format!("\"{}\"", object.info.etag).as_str()
    );
    assert_eq!(tree.on_disk("a/long"), Some(long));
    let empty = tree.put("empty", &[], b"").await.expect("an empty body");
    assert_eq!(empty["etag"], "\"d41d8cd98f00b204e9800998ecf8427e\"");
}

#[tokio::test]
async fn what_the_client_said_is_kept() {
    let tree = Tree::new();
    let headers = [
        ("content-type", "text/x"),
        ("content-encoding", "gzip,aws-chunked"),
        ("cache-control", "no-cache"),
        ("x-amz-meta-a", "1"),
        ("x-amz-tagging", "k=v"),
        ("x-amz-checksum-sha1", "qvTGHdzF6KLavt4PO0gs2a6pQ00="),
    ];
    let answered = tree
        .put("k", &headers, b"hello")
        .await
        .expect("all of it is legal");
    assert_eq!(
        answered["x-amz-checksum-sha1"],
        "qvTGHdzF6KLavt4PO0gs2a6pQ00="
    );
    let meta = tree.open("k").info.meta;
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
    let tree = Tree::new();
    tree.put("k", &[], b"old").await.expect("the old object");
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
                tree.refusal("k", &[headers], body).await,
                code,
                "{headers:?}"
            );
        }
        let wrong = tree
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
        tree.refusal("k", &[], &vec![0; (1 << 20) + 1]).await,
        Code::EntityTooLarge
    );
    let version = tree
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
    assert_eq!(tree.on_disk("k").as_deref(), Some(&b"old"[..]));
    assert_eq!(tree.names(), ["k"]);
}

#[tokio::test]
async fn conditions_hold_for_short_and_long_bodies() {
    let tree = Tree::new();
    for body in [b"x".to_vec(), vec![1; 300_000]] {
        let key = format!("k{}", body.len());
        assert_eq!(
            tree.refusal(&key, &[("if-match", "\"e\"")], &body).await,
            Code::NoSuchKey
        );
        let first = tree
            .put(&key, &[("if-none-match", "*")], &body)
            .await
            .expect("there is none yet");
        let etag = first["etag"].to_str().expect("hex").to_owned();
        assert_eq!(
            tree.refusal(&key, &[("if-none-match", "*")], &body).await,
            Code::PreconditionFailed
        );
        assert_eq!(
            tree.refusal(&key, &[("if-none-match", &etag)], &body).await,
            Code::PreconditionFailed
        );
        assert_eq!(
            tree.refusal(&key, &[("if-match", "\"other\"")], &body)
                .await,
            Code::PreconditionFailed
        );
        tree.put(&key, &[("if-match", &etag)], b"next")
            .await
            .expect("it is still that one");
        assert_eq!(
            tree.refusal(&key, &[("if-match", &etag)], &body).await,
            Code::PreconditionFailed
        );
        assert_eq!(tree.on_disk(&key).as_deref(), Some(&b"next"[..]));
    }
}

#[tokio::test]
async fn directory_objects_and_what_no_path_holds() {
    let tree = Tree::new();
    tree.put("dir/", &[], b"")
        .await
        .expect("a directory object");
    assert!(tree.dir.path().join("b/dir").is_dir());
    assert_eq!(tree.open("dir/").info.size, 0);
    tree.put("dir/", &[], b"body")
        .await
        .expect("a body under a slash");
    assert_eq!(tree.open("dir/").info.size, 4);
    tree.put("f", &[], b"file").await.expect("a file");
    tree.put("f/below", &[], b"under a file")
        .await
        .expect("the annex keeps it");
    assert_eq!(
        (tree.open("f").info.size, tree.open("f/below").info.size),
        (4, 12)
    );
    tree.put("a//../x", &[], b"no path")
        .await
        .expect("the annex keeps it");
    assert_eq!(tree.open("a//../x").info.size, 7);
}
