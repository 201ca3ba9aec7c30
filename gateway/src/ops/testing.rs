//! A gateway over a temporary tree, asked past the signature: what the tests of operations share.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request};
use twintree_store::{Durability, KeyPolicy, Store, StoreOptions};

use super::dispatch;
use crate::auth::{Credentials, Payload, Principal};
use crate::body::RequestBody;
use crate::call::{Call, Gateway, Reply, Settings};
use crate::error::{Code, S3Error};
use crate::reply::ReplyBody;
use crate::route::{self, Query};

/// A tree, writable, without a bucket.
pub(super) struct Tree {
    dir: tempfile::TempDir,
    gateway: Arc<Gateway>,
}

/// A reply, read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Tree {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(StoreOptions {
            root: dir.path().to_owned(),
            durability: Durability::Relaxed,
            keys: KeyPolicy::Any,
            read_only: false,
            hide: Vec::new(),
            verify_mtime_only: false,
        });
        let gateway = Arc::new(Gateway {
            store: store.expect("the root is a directory"),
            credentials: Arc::new(Credentials::new([])),
            settings: Settings::default(),
        });
        Self { dir, gateway }
    }

    /// A tree with the buckets named, made as a person makes them.
    pub(super) fn with_directories(names: &[&str]) -> Self {
        let tree = Self::new();
        for name in names {
            fs::create_dir(tree.path(name)).expect("our own directory");
        }
        tree
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(super) async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, S3Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("content-length", body.len());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request
            .body(())
            .expect("test requests are valid")
            .into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or(""))?;
        let route = route::route(&parts, &query, &[])?;
        let call = Call {
            gateway: Arc::clone(&self.gateway),
            parts,
            query,
            principal: Principal {
                access_key_id: "tester".to_owned(),
            },
            request_id: "0000000000000000".to_owned(),
        };
        let body = RequestBody::new(Body::from(body.to_owned()), Payload::Unsigned);
        dispatch(&call, route, body).await.map(Answer::of)
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
        let body = String::from_utf8(body.into()).expect("tests read text");
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    pub(super) fn header(&self, name: &str) -> String {
        let value = self.headers.get(name);
        value
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    }

    /// The text between the first `<name>` and its end, still escaped; empty without one.
    pub(super) fn element(&self, name: &str) -> String {
        self.elements(name).into_iter().next().unwrap_or_default()
    }

    pub(super) fn elements(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let pieces = self.body.split(&open).skip(1);
        pieces
            .map(|piece| piece.split(&close).next().unwrap_or_default().to_owned())
            .collect()
    }
}
