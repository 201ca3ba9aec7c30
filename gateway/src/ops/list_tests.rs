//! The three listings of objects over a real tree: what goes into the documents, how pages follow each other.

use std::fs;
use std::sync::Arc;

use http::Request;
use twintree_store::{BucketName, Durability, KeyPolicy, Store, StoreOptions};

use super::list_object_versions::list_object_versions;
use super::list_objects::list_objects;
use super::list_objects_v2::list_objects_v2;
use crate::auth::{Credentials, Principal};
use crate::call::{Call, Gateway, Settings};
use crate::error::{Code, S3Error};
use crate::reply::ReplyBody;
use crate::route::Query;

/// A tree with one bucket `b`.
struct Tree {
    dir: tempfile::TempDir,
    gateway: Arc<Gateway>,
}

#[derive(Clone, Copy, Debug)]
enum Face {
    V1,
    V2,
    Versions,
}

impl Tree {
    fn with(keys: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for key in keys {
            let path = dir.path().join("b").join(key);
            fs::create_dir_all(path.parent().expect("below the bucket"))
                .expect("our own directory");
            fs::write(path, b"hello").expect("our own directory");
        }
        let store = Store::open(StoreOptions {
            root: dir.path().to_owned(),
            durability: Durability::Relaxed,
            keys: KeyPolicy::Any,
            read_only: true,
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

    async fn ask(&self, face: Face, query: &str) -> Result<String, S3Error> {
        let request = Request::get(format!("/b?{query}"))
            .body(())
            .expect("test requests are valid");
        let call = Call {
            gateway: Arc::clone(&self.gateway),
            parts: request.into_parts().0,
            query: Query::parse(query).expect("test queries are valid"),
            principal: Principal {
                access_key_id: "tester".to_owned(),
            },
            request_id: "0000000000000000".to_owned(),
        };
        let bucket = self
            .gateway
            .store
            .bucket(&BucketName::parse("b").expect("a name"))?;
        let reply = match face {
            Face::V1 => list_objects(&call, &bucket).await,
            Face::V2 => list_objects_v2(&call, &bucket).await,
            Face::Versions => list_object_versions(&call, &bucket).await,
        }?;
        assert_eq!(reply.headers()["content-type"], "application/xml");
        match reply.into_body() {
            ReplyBody::Bytes(bytes) => Ok(String::from_utf8(bytes.to_vec()).expect("XML is UTF-8")),
            other => panic!("a document was expected: {other:?}"),
        }
    }

    async fn page(&self, face: Face, query: &str) -> String {
        self.ask(face, query).await.expect("a page")
    }

    async fn refusal(&self, face: Face, query: &str) -> (Code, String) {
        let error = self.ask(face, query).await.expect_err("a refusal");
        let name = error
            .extras()
            .iter()
            .find(|(element, _)| *element == "ArgumentName");
        (
            error.code(),
            name.map_or_else(String::new, |(_, value)| value.clone()),
        )
    }
}

/// The texts of all elements of a name, in order.
fn all(document: &str, element: &str) -> Vec<String> {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let rest = document.split(&open).skip(1);
    rest.map(|rest| rest.split(&close).next().unwrap_or("").to_owned())
        .collect()
}

fn one(document: &str, element: &str) -> Option<String> {
    let found = all(document, element);
    assert!(found.len() <= 1, "{element}: {found:?}");
    found.into_iter().next()
}

#[tokio::test]
async fn first_version_has_owner_marker_and_always_a_next_marker() {
    let tree = Tree::with(&["a/1", "b", "c&d"]);
    let page = tree.page(Face::V1, "max-keys=2").await;
    assert!(
        page.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=")
    );
    assert_eq!(one(&page, "Name").as_deref(), Some("b"));
    assert_eq!(all(&page, "Prefix"), [""]);
    assert_eq!(one(&page, "Marker").as_deref(), Some(""));
    assert_eq!(one(&page, "NextMarker").as_deref(), Some("b"));
    assert_eq!(one(&page, "IsTruncated").as_deref(), Some("true"));
    assert_eq!(one(&page, "MaxKeys").as_deref(), Some("2"));
    assert_eq!(one(&page, "Delimiter"), None);
    assert_eq!(all(&page, "Key"), ["a/1", "b"]);
    assert_eq!(all(&page, "ID"), ["tester", "tester"]);
    assert_eq!(all(&page, "Size"), ["5", "5"]);
    assert_eq!(all(&page, "StorageClass"), ["STANDARD", "STANDARD"]);
    assert!(
        all(&page, "ETag")
            .iter()
            .all(|etag| etag.starts_with("&quot;") && etag.ends_with("-1&quot;"))
    );
    let page = tree.page(Face::V1, "marker=b&encoding-type=").await;
    assert_eq!(all(&page, "Key"), ["c&amp;d"]);
    assert_eq!(one(&page, "Marker").as_deref(), Some("b"));
    assert_eq!(one(&page, "IsTruncated").as_deref(), Some("false"));
    assert_eq!(one(&page, "NextMarker"), None);
    assert_eq!(one(&page, "KeyCount"), None);
}

#[tokio::test]
async fn second_version_pages_by_token_which_wins_over_start_after() {
    let tree = Tree::with(&["a/1", "a/2", "b", "c", "d/1"]);
    let page = tree
        .page(Face::V2, "delimiter=/&max-keys=1&start-after=")
        .await;
    assert_eq!(one(&page, "StartAfter").as_deref(), Some(""));
    assert_eq!(one(&page, "KeyCount").as_deref(), Some("1"));
    assert_eq!(
        one(&page, "CommonPrefixes").as_deref(),
        Some("<Prefix>a/</Prefix>")
    );
    assert_eq!(one(&page, "Delimiter").as_deref(), Some("/"));
    assert_eq!(one(&page, "Owner"), None);
    assert_eq!(one(&page, "ContinuationToken"), None);
    let token = one(&page, "NextContinuationToken").expect("truncated");
    let page = tree
        .page(
            Face::V2,
            &format!("delimiter=/&start-after=c&continuation-token={token}"),
        )
        .await;
    assert_eq!(one(&page, "ContinuationToken"), Some(token));
    assert_eq!(one(&page, "StartAfter").as_deref(), Some("c"));
    assert_eq!(all(&page, "Key"), ["b", "c"]);
    assert_eq!(one(&page, "KeyCount").as_deref(), Some("3"));
    assert_eq!(one(&page, "NextContinuationToken"), None);
    let page = tree
        .page(
            Face::V2,
            "start-after=b&continuation-token=&fetch-owner=true",
        )
        .await;
    assert_eq!(one(&page, "ContinuationToken").as_deref(), Some(""));
    assert_eq!(all(&page, "Key"), ["c", "d/1"]);
    assert_eq!(all(&page, "DisplayName"), ["tester", "tester"]);
}

#[tokio::test]
async fn every_object_is_its_only_version() {
    let tree = Tree::with(&["a/1", "b", "c"]);
    let page = tree.page(Face::Versions, "max-keys=2&delimiter=/").await;
    assert!(page.contains("<ListVersionsResult xmlns="));
    assert_eq!(all(&page, "VersionId"), ["null"]);
    assert_eq!(all(&page, "IsLatest"), ["true"]);
    assert_eq!(one(&page, "NextKeyMarker").as_deref(), Some("b"));
    assert_eq!(one(&page, "NextVersionIdMarker").as_deref(), Some("null"));
    let page = tree
        .page(Face::Versions, "key-marker=b&version-id-marker=null")
        .await;
    assert_eq!(all(&page, "Key"), ["c"]);
    assert_eq!(one(&page, "KeyMarker").as_deref(), Some("b"));
    assert_eq!(one(&page, "VersionIdMarker").as_deref(), Some("null"));
    let page = tree.page(Face::Versions, "max-keys=1&delimiter=/").await;
    assert_eq!(one(&page, "NextKeyMarker").as_deref(), Some("a/"));
    assert_eq!(one(&page, "NextVersionIdMarker"), None);
    let argument = (Code::InvalidArgument, "version-id-marker".to_owned());
    assert_eq!(
        tree.refusal(Face::Versions, "version-id-marker=null").await,
        argument
    );
    assert_eq!(
        tree.refusal(Face::Versions, "key-marker=a&version-id-marker=x")
            .await,
        argument
    );
}

#[tokio::test]
async fn arguments_are_checked_as_s3_checks_them() {
    let tree = Tree::with(&["a"]);
    let argument = |name: &str| (Code::InvalidArgument, name.to_owned());
    for face in [Face::V1, Face::V2, Face::Versions] {
        for bad in ["blah", "-1", "4294967296", "1.5"] {
            assert_eq!(
                tree.refusal(face, &format!("max-keys={bad}")).await,
                argument("maxKeys"),
                "{bad}"
            );
        }
        assert_eq!(
            tree.refusal(face, "encoding-type=xml").await,
            argument("encoding-type")
        );
        assert_eq!(
            one(&tree.page(face, "max-keys=5000").await, "MaxKeys").as_deref(),
            Some("1000")
        );
        assert_eq!(
            one(&tree.page(face, "max-keys=").await, "MaxKeys").as_deref(),
            Some("1000")
        );
        let none = tree.page(face, "max-keys=0").await;
        assert_eq!(one(&none, "IsTruncated").as_deref(), Some("false"));
        assert_eq!(all(&none, "Key"), [""; 0]);
        assert!(!none.contains("<Next"));
        assert_eq!(one(&tree.page(face, "delimiter=").await, "Delimiter"), None);
    }
    assert_eq!(
        tree.refusal(Face::V2, "continuation-token=garbage").await,
        argument("continuation-token")
    );
}

#[tokio::test]
async fn url_encoding_reaches_every_name() {
    let tree = Tree::with(&[
        "asdf+b",
        "foo+1/bar",
        "foo/bar/xyzzy",
        "quux ab/thud",
        "z\u{1}",
    ]);
    let page = tree
        .page(Face::V1, "delimiter=/&encoding-type=url&marker=a%2Bb")
        .await;
    assert_eq!(all(&page, "Key"), ["asdf%2Bb", "z%01"]);
    assert_eq!(one(&page, "Marker").as_deref(), Some("a%2Bb"));
    assert_eq!(one(&page, "Delimiter").as_deref(), Some("/"));
    assert_eq!(one(&page, "EncodingType").as_deref(), Some("url"));
    assert_eq!(all(&page, "Prefix"), ["", "foo%2B1/", "foo/", "quux%20ab/"]);
    let page = tree
        .page(
            Face::V2,
            "prefix=foo%2B&encoding-type=url&start-after=foo%2B",
        )
        .await;
    assert_eq!(one(&page, "Prefix").as_deref(), Some("foo%2B"));
    assert_eq!(one(&page, "StartAfter").as_deref(), Some("foo%2B"));
    assert_eq!(all(&page, "Key"), ["foo%2B1/bar"]);
}

#[tokio::test]
async fn names_that_xml_cannot_carry_page_on_by_the_shown_form() {
    let tree = Tree::with(&["a\u{1}", "a\u{2}", "ab"]);
    let page = tree.page(Face::V1, "max-keys=1").await;
    let next = one(&page, "NextMarker").expect("truncated");
    assert_eq!(next, "a\u{10FE01}");
    let page = tree.page(Face::V1, "marker=a%F4%8F%B8%81").await;
    assert_eq!(all(&page, "Key"), ["a\u{10FE02}", "ab"]);
    let page = tree.page(Face::V1, "prefix=a%F4%8F%B8%82").await;
    assert_eq!(all(&page, "Key"), ["a\u{10FE02}"]);
}

#[tokio::test]
async fn a_root_that_went_away_is_no_empty_listing() {
    let tree = Tree::with(&["a"]);
    let away = tree.dir.path().with_extension("away");
    fs::rename(tree.dir.path(), &away).expect("renamed");
    fs::create_dir_all(tree.dir.path().join("b")).expect("a bare mount point");
    let error = tree.ask(Face::V2, "").await.expect_err("no listing");
    assert_eq!(error.status(), 503);
    fs::remove_dir_all(tree.dir.path()).expect("our own");
    fs::rename(&away, tree.dir.path()).expect("renamed back");
}
