//! The three listings of objects over a real tree: what goes into the documents, how pages follow each other.

use std::fs;

use http::Request;

use super::list_object_versions::list_object_versions;
use super::list_objects::list_objects;
use super::list_objects_v2::list_objects_v2;
use super::testing::{Tree, bucket_name, directory, elements};
use crate::error::{Code, S3Error};
use crate::reply::ReplyBody;

/// The bucket `b` of a tree that the gateway only reads.
struct Bucket(Tree);

#[derive(Clone, Copy, Debug)]
enum Face {
    V1,
    V2,
    Versions,
}

impl Bucket {
    /// With files of five bytes under the keys named.
    fn with(keys: &[&str]) -> Self {
        let dir = directory(&["b"]);
        for key in keys {
            let path = dir.path().join("b").join(key);
            fs::create_dir_all(path.parent().expect("below the bucket"))
                .expect("our own directory");
            fs::write(path, b"hello").expect("our own directory");
        }
        Self(Tree::read_only(dir))
    }

    async fn ask(&self, face: Face, query: &str) -> Result<String, S3Error> {
        let request = Request::get(format!("/b?{query}"));
        let call = self.0.call(request, &[]).expect("test queries are valid");
        let bucket = self.0.store().bucket(&bucket_name("b"))?;
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

fn one(document: &str, element: &str) -> Option<String> {
    let found = elements(document, element);
    assert!(found.len() <= 1, "{element}: {found:?}");
    found.into_iter().next()
}

#[tokio::test]
async fn first_version_has_owner_marker_and_always_a_next_marker() {
    let bucket = Bucket::with(&["a/1", "b", "c&d"]);
    let page = bucket.page(Face::V1, "max-keys=2").await;
    assert!(
        page.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=")
    );
    assert_eq!(one(&page, "Name").as_deref(), Some("b"));
    assert_eq!(elements(&page, "Prefix"), [""]);
    assert_eq!(one(&page, "Marker").as_deref(), Some(""));
    assert_eq!(one(&page, "NextMarker").as_deref(), Some("b"));
    assert_eq!(one(&page, "IsTruncated").as_deref(), Some("true"));
    assert_eq!(one(&page, "MaxKeys").as_deref(), Some("2"));
    assert_eq!(one(&page, "Delimiter"), None);
    assert_eq!(elements(&page, "Key"), ["a/1", "b"]);
    assert_eq!(elements(&page, "ID"), ["tester", "tester"]);
    assert_eq!(elements(&page, "Size"), ["5", "5"]);
    assert_eq!(elements(&page, "StorageClass"), ["STANDARD", "STANDARD"]);
    assert!(
        elements(&page, "ETag")
            .iter()
            .all(|etag| etag.starts_with("&quot;") && etag.ends_with("-1&quot;"))
    );
    let page = bucket.page(Face::V1, "marker=b&encoding-type=").await;
    assert_eq!(elements(&page, "Key"), ["c&amp;d"]);
    assert_eq!(one(&page, "Marker").as_deref(), Some("b"));
    assert_eq!(one(&page, "IsTruncated").as_deref(), Some("false"));
    assert_eq!(one(&page, "NextMarker"), None);
    assert_eq!(one(&page, "KeyCount"), None);
}

#[tokio::test]
async fn second_version_pages_by_token_which_wins_over_start_after() {
    let bucket = Bucket::with(&["a/1", "a/2", "b", "c", "d/1"]);
    let page = bucket
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
    let page = bucket
        .page(
            Face::V2,
            &format!("delimiter=/&start-after=c&continuation-token={token}"),
        )
        .await;
    assert_eq!(one(&page, "ContinuationToken"), Some(token));
    assert_eq!(one(&page, "StartAfter").as_deref(), Some("c"));
    assert_eq!(elements(&page, "Key"), ["b", "c"]);
    assert_eq!(one(&page, "KeyCount").as_deref(), Some("3"));
    assert_eq!(one(&page, "NextContinuationToken"), None);
    let page = bucket
        .page(
            Face::V2,
            "start-after=b&continuation-token=&fetch-owner=true",
        )
        .await;
    assert_eq!(one(&page, "ContinuationToken").as_deref(), Some(""));
    assert_eq!(elements(&page, "Key"), ["c", "d/1"]);
    assert_eq!(elements(&page, "DisplayName"), ["tester", "tester"]);
}

#[tokio::test]
async fn every_object_is_its_only_version() {
    let bucket = Bucket::with(&["a/1", "b", "c"]);
    let page = bucket.page(Face::Versions, "max-keys=2&delimiter=/").await;
    assert!(page.contains("<ListVersionsResult xmlns="));
    assert_eq!(elements(&page, "VersionId"), ["null"]);
    assert_eq!(elements(&page, "IsLatest"), ["true"]);
    assert_eq!(one(&page, "NextKeyMarker").as_deref(), Some("b"));
    assert_eq!(one(&page, "NextVersionIdMarker").as_deref(), Some("null"));
    let page = bucket
        .page(Face::Versions, "key-marker=b&version-id-marker=null")
        .await;
    assert_eq!(elements(&page, "Key"), ["c"]);
    assert_eq!(one(&page, "KeyMarker").as_deref(), Some("b"));
    assert_eq!(one(&page, "VersionIdMarker").as_deref(), Some("null"));
    let page = bucket.page(Face::Versions, "max-keys=1&delimiter=/").await;
    assert_eq!(one(&page, "NextKeyMarker").as_deref(), Some("a/"));
    assert_eq!(one(&page, "NextVersionIdMarker"), None);
    let argument = (Code::InvalidArgument, "version-id-marker".to_owned());
    assert_eq!(
        bucket
            .refusal(Face::Versions, "version-id-marker=null")
            .await,
        argument
    );
    assert_eq!(
        bucket
            .refusal(Face::Versions, "key-marker=a&version-id-marker=x")
            .await,
        argument
    );
}

#[tokio::test]
async fn arguments_are_checked_as_s3_checks_them() {
    let bucket = Bucket::with(&["a"]);
    let argument = |name: &str| (Code::InvalidArgument, name.to_owned());
    for face in [Face::V1, Face::V2, Face::Versions] {
        for bad in ["blah", "-1", "4294967296", "1.5"] {
            assert_eq!(
                bucket.refusal(face, &format!("max-keys={bad}")).await,
                argument("maxKeys"),
                "{bad}"
            );
        }
        assert_eq!(
            bucket.refusal(face, "encoding-type=xml").await,
            argument("encoding-type")
        );
        assert_eq!(
            one(&bucket.page(face, "max-keys=5000").await, "MaxKeys").as_deref(),
            Some("1000")
        );
        assert_eq!(
            one(&bucket.page(face, "max-keys=").await, "MaxKeys").as_deref(),
            Some("1000")
        );
        let none = bucket.page(face, "max-keys=0").await;
        assert_eq!(one(&none, "IsTruncated").as_deref(), Some("false"));
        assert_eq!(elements(&none, "Key"), [""; 0]);
        assert!(!none.contains("<Next"));
        assert_eq!(
            one(&bucket.page(face, "delimiter=").await, "Delimiter"),
            None
        );
    }
    assert_eq!(
        bucket.refusal(Face::V2, "continuation-token=garbage").await,
        argument("continuation-token")
    );
}

#[tokio::test]
async fn url_encoding_reaches_every_name() {
    let bucket = Bucket::with(&[
        "asdf+b",
        "foo+1/bar",
        "foo/bar/xyzzy",
        "quux ab/thud",
        "z\u{1}",
    ]);
    let page = bucket
        .page(Face::V1, "delimiter=/&encoding-type=url&marker=a%2Bb")
        .await;
    assert_eq!(elements(&page, "Key"), ["asdf%2Bb", "z%01"]);
    assert_eq!(one(&page, "Marker").as_deref(), Some("a%2Bb"));
    assert_eq!(one(&page, "Delimiter").as_deref(), Some("/"));
    assert_eq!(one(&page, "EncodingType").as_deref(), Some("url"));
    assert_eq!(
        elements(&page, "Prefix"),
        ["", "foo%2B1/", "foo/", "quux%20ab/"]
    );
    let page = bucket
        .page(
            Face::V2,
            "prefix=foo%2B&encoding-type=url&start-after=foo%2B",
        )
        .await;
    assert_eq!(one(&page, "Prefix").as_deref(), Some("foo%2B"));
    assert_eq!(one(&page, "StartAfter").as_deref(), Some("foo%2B"));
    assert_eq!(elements(&page, "Key"), ["foo%2B1/bar"]);
}

#[tokio::test]
async fn names_that_xml_cannot_carry_page_on_by_the_shown_form() {
    let bucket = Bucket::with(&["a\u{1}", "a\u{2}", "ab"]);
    let page = bucket.page(Face::V1, "max-keys=1").await;
    let next = one(&page, "NextMarker").expect("truncated");
    assert_eq!(next, "a\u{10FE01}");
    let page = bucket.page(Face::V1, "marker=a%F4%8F%B8%81").await;
    assert_eq!(elements(&page, "Key"), ["a\u{10FE02}", "ab"]);
    let page = bucket.page(Face::V1, "prefix=a%F4%8F%B8%82").await;
    assert_eq!(elements(&page, "Key"), ["a\u{10FE02}"]);
}

#[tokio::test]
async fn a_root_that_went_away_is_no_empty_listing() {
    let bucket = Bucket::with(&["a"]);
    let away = bucket.0.root().with_extension("away");
    fs::rename(bucket.0.root(), &away).expect("renamed");
    fs::create_dir_all(bucket.0.root().join("b")).expect("a bare mount point");
    let error = bucket.ask(Face::V2, "").await.expect_err("no listing");
    assert_eq!(error.status(), 503);
    fs::remove_dir_all(bucket.0.root()).expect("our own");
    fs::rename(&away, bucket.0.root()).expect("renamed back");
}
