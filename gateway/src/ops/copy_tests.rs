//! What a copy takes from its source and what from its own request; versions by name.

use super::testing::{Answer, Tree};
use crate::error::Code;

const CLASS: &str = "x-amz-storage-class";
const REDIRECT: &str = "x-amz-website-redirect-location";

async fn tree_with_a_placed_source() -> Tree {
    let tree = Tree::with_directories(&["b"]);
    let headers = [
        (CLASS, "STANDARD_IA"),
        (REDIRECT, "/there"),
        ("cache-control", "no-store"),
        ("x-amz-meta-a", "1"),
        ("x-amz-tagging", "t=1"),
    ];
    tree.ask("PUT", "/b/source", &headers, "bytes")
        .await
        .expect("a plain PUT");
    tree
}

async fn copied(tree: &Tree, to: &str, headers: &[(&str, &str)]) -> Answer {
    let headers = [&[("x-amz-copy-source", "b/source")], headers].concat();
    tree.ask("PUT", to, &headers, "").await.expect(to);
    tree.get("HEAD", to).await
}

/// "x-amz-website-redirect-location, ACL, storage class, object-lock never copied" (CopyObject).
#[tokio::test]
async fn a_copy_takes_its_place_from_its_own_request() {
    let tree = tree_with_a_placed_source().await;
    let plain = copied(&tree, "/b/plain", &[]).await;
    assert_eq!((&*plain.header(CLASS), &*plain.header(REDIRECT)), ("", ""));
    let own = copied(&tree, "/b/own", &[(CLASS, "GLACIER_IR"), (REDIRECT, "/x")]).await;
    assert_eq!(
        (&*own.header(CLASS), &*own.header(REDIRECT)),
        ("GLACIER_IR", "/x")
    );
    for copy in [plain, own] {
        assert_eq!(copy.header("cache-control"), "no-store");
        assert_eq!(copy.header("x-amz-meta-a"), "1");
        assert_eq!(copy.header("x-amz-tagging-count"), "1");
    }
}

#[tokio::test]
async fn a_copy_onto_itself_changes_its_place_and_nothing_else() {
    let tree = tree_with_a_placed_source().await;
    let before = tree.get("HEAD", "/b/source").await;
    let after = copied(&tree, "/b/source", &[(CLASS, "STANDARD")]).await;
    assert_eq!((&*after.header(CLASS), &*after.header(REDIRECT)), ("", ""));
    for name in [
        "etag",
        "cache-control",
        "x-amz-meta-a",
        "x-amz-tagging-count",
    ] {
        assert_eq!(after.header(name), before.header(name), "{name}");
    }
    let headers = [("x-amz-copy-source", "b/source"), (CLASS, "BEST")];
    let code = tree.refused("PUT", "/b/k", &headers, "").await;
    assert_eq!(code, Code::InvalidStorageClass);
}

#[tokio::test]
async fn a_version_that_is_named_is_named_in_the_answer() {
    let tree = tree_with_a_placed_source().await;
    for method in ["GET", "HEAD"] {
        let named = tree.get(method, "/b/source?versionId=null").await;
        assert_eq!(named.header("x-amz-version-id"), "null");
        let current = tree.get(method, "/b/source").await;
        assert_eq!(current.header("x-amz-version-id"), "");
    }
    // No version id of any bucket has a blank: that is said of every operation alike.
    for (method, code) in [
        ("GET", Code::InvalidArgument),
        ("DELETE", Code::InvalidArgument),
    ] {
        let refused = tree.refused(method, "/b/source?versionId=a%20b", &[], "");
        assert_eq!(refused.await, code, "{method}");
        let refused = tree.refused(method, "/b/source?versionId=abc", &[], "");
        assert_eq!(refused.await, Code::NoSuchVersion, "{method}");
    }
}

#[tokio::test]
async fn a_part_number_has_digits_only() {
    let tree = tree_with_a_placed_source().await;
    for number in ["%2B1", "0", "10001", "", "x"] {
        let target = format!("/b/source?partNumber={number}");
        let code = tree.refused("GET", &target, &[], "").await;
        assert_eq!(code, Code::InvalidArgument, "{number}");
    }
}
