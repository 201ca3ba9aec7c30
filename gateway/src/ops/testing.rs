//! A gateway over a temporary tree, asked past the signature: what the tests of operations share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, request};
use tempfile::TempDir;
use twintree_store::{BucketName, Durability, KeyPolicy, ObjectKey, Store, StoreOptions};

use super::dispatch;
use crate::auth::{Credentials, Payload, Principal};
use crate::body::RequestBody;
use crate::call::{Call, Gateway, Reply, Settings};
use crate::error::{Code, S3Error};
use crate::reply::ReplyBody;
use crate::route::{self, Query};

/// A tree under a gateway.
pub(super) struct Tree {
    dir: TempDir,
    gateway: Arc<Gateway>,
}

/// A reply, read whole.
#[derive(Debug)]
pub(super) struct Answer<B = String> {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: B,
}

/// A temporary directory with the buckets named, made as a person makes them.
pub(super) fn directory(buckets: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in buckets {
        fs::create_dir(dir.path().join(name)).expect("our own directory");
    }
    dir
}

pub(super) fn bucket_name(name: &str) -> BucketName {
    BucketName::parse(name).expect("a name")
}

pub(super) fn object_key(key: &str) -> ObjectKey {
    ObjectKey::parse(key).expect("a key")
}

/// The texts of all elements of a name, in order, still escaped.
pub(super) fn elements(document: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let pieces = document.split(&open).skip(1);
    pieces
        .map(|piece| piece.split(&close).next().unwrap_or_default().to_owned())
        .collect()
}

impl Tree {
    /// A tree, writable, without a bucket.
    pub(super) fn new() -> Self {
        Self::with_directories(&[])
    }

    /// A tree, writable, with the buckets named.
    pub(super) fn with_directories(names: &[&str]) -> Self {
        Self::writable(directory(names), Settings::default())
    }

    pub(super) fn writable(dir: TempDir, settings: Settings) -> Self {
        Self::open(dir, false, settings)
    }

    pub(super) fn read_only(dir: TempDir) -> Self {
        Self::open(dir, true, Settings::default())
    }

    fn open(dir: TempDir, read_only: bool, settings: Settings) -> Self {
        let store = Store::open(StoreOptions {
            root: dir.path().to_owned(),
            durability: Durability::Relaxed,
            keys: KeyPolicy::Any,
            read_only,
            hide: Vec::new(),
            verify_mtime_only: false,
            etags: Default::default(),
            buckets: Default::default(),
            more_roots: Vec::new(),
        });
        let gateway = Arc::new(Gateway {
            store: store.expect("the root is a directory"),
            credentials: Arc::new(Credentials::new([])),
            settings,
            console: Default::default(),
        });
        Self { dir, gateway }
    }

    pub(super) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.gateway.store
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// What an operation is called with: the request of a `tester` whose signature was good.
    pub(super) fn call(
        &self,
        mut request: request::Builder,
        headers: &[(&str, &str)],
    ) -> Result<Call, S3Error> {
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request
            .body(())
            .expect("test requests are valid")
            .into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or(""))?;
        Ok(Call {
            gateway: Arc::clone(&self.gateway),
            parts,
            query,
            principal: Principal {
                access_key_id: "tester".to_owned(),
            },
            request_id: "0000000000000000".to_owned(),
        })
    }

    pub(super) async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, S3Error> {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("content-length", body.len());
        let call = self.call(request, headers)?;
        let route = route::route(&call.parts, &call.query, &[])?;
        let body = RequestBody::new(Body::from(body.to_owned()), Payload::Unsigned);
        let reply = dispatch(&call, route, body).await?;
        Ok(Answer::of(reply).text())
    }

    /// Asks without headers and body, and expects an answer.
    pub(super) async fn get(&self, method: &str, target: &str) -> Answer {
        self.ask(method, target, &[], "").await.expect(target)
    }

    /// Asks, and expects a refusal.
    pub(super) async fn refused(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Code {
        match self.ask(method, target, headers, body).await {
            Ok(answer) => panic!("{method} {target} was answered: {answer:?}"),
            Err(error) => error.code(),
        }
    }
}

impl Answer<Bytes> {
    pub(super) fn of(reply: Reply) -> Self {
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
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    pub(super) fn text(self) -> Answer {
        Answer {
            status: self.status,
            headers: self.headers,
            body: String::from_utf8(self.body.into()).expect("tests read text"),
        }
    }
}

impl<B> Answer<B> {
    pub(super) fn header(&self, name: &str) -> String {
        let value = self.headers.get(name);
        value
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    }
}

impl Answer {
    /// The text between the first `<name>` and its end, still escaped; empty without one.
    pub(super) fn element(&self, name: &str) -> &str {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let rest = self.body.split_once(&open).map(|(_, rest)| rest);
        let inner = rest.and_then(|rest| rest.split_once(&close));
        inner.map_or("", |(inner, _)| inner)
    }

    pub(super) fn elements(&self, name: &str) -> Vec<String> {
        elements(&self.body, name)
    }
}
