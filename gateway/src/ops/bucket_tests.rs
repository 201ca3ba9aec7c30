//! Operations on buckets over a real tree.

use std::fs;

use super::testing::Tree;
use crate::error::Code;

#[tokio::test]
async fn a_bucket_is_made_once_seen_and_removed() {
    let tree = Tree::new();
    let made = tree.get("PUT", "/my-bucket").await;
    assert_eq!(
        (made.status, made.header("location").as_str()),
        (200, "/my-bucket")
    );
    assert!(tree.path("my-bucket").is_dir());
    assert_eq!(
        tree.refused("PUT", "/my-bucket", &[], "").await,
        Code::BucketAlreadyOwnedByYou
    );
    let head = tree.get("HEAD", "/my-bucket").await;
    assert_eq!(
        (head.status, head.header("x-amz-bucket-region").as_str()),
        (200, "us-east-1")
    );
    assert_eq!(tree.get("DELETE", "/my-bucket").await.status, 204);
    assert!(!tree.path("my-bucket").exists());
    assert_eq!(
        tree.refused("HEAD", "/my-bucket", &[], "").await,
        Code::NoSuchBucket
    );
    assert_eq!(
        tree.refused("DELETE", "/my-bucket", &[], "").await,
        Code::NoSuchBucket
    );
}

#[tokio::test]
async fn a_file_or_a_link_in_the_way_is_nobodys_bucket() {
    let tree = Tree::with_directories(&["real"]);
    fs::write(tree.path("a-file"), "x").expect("our own directory");
    std::os::unix::fs::symlink("real", tree.path("a-link")).expect("our own directory");
    for target in ["/a-file", "/a-link"] {
        let code = tree.refused("PUT", target, &[], "").await;
        assert_eq!(code, Code::BucketAlreadyExists, "{target}");
    }
}

#[tokio::test]
async fn a_directory_with_a_file_is_not_removed() {
    let tree = Tree::with_directories(&["data"]);
    fs::write(tree.path("data/file"), "x").expect("our own directory");
    assert_eq!(
        tree.refused("DELETE", "/data", &[], "").await,
        Code::BucketNotEmpty
    );
    assert!(tree.path("data/file").exists());
}

#[tokio::test]
async fn names_that_s3_forbids_are_served_and_not_made() {
    let tree = Tree::with_directories(&["My_Data"]);
    assert_eq!(tree.get("HEAD", "/My_Data").await.status, 200);
    for name in ["My_Other", "ab", "192.168.0.1", "a..b", "xn--a"] {
        assert_eq!(
            tree.refused("PUT", &format!("/{name}"), &[], "").await,
            Code::InvalidBucketName
        );
        assert!(!tree.path(name).exists());
    }
}

#[tokio::test]
async fn any_location_is_taken_and_echoed() {
    let tree = Tree::with_directories(&["old"]);
    let document = "<CreateBucketConfiguration><LocationConstraint>xx-any-9</LocationConstraint></CreateBucketConfiguration>";
    tree.ask("PUT", "/new", &[], document)
        .await
        .expect("any region");
    assert!(
        tree.get("GET", "/new?location")
            .await
            .body
            .ends_with(">xx-any-9</LocationConstraint>")
    );
    assert_eq!(
        tree.get("HEAD", "/new").await.header("x-amz-bucket-region"),
        "xx-any-9"
    );
    assert!(
        tree.get("GET", "/old?location")
            .await
            .body
            .ends_with("2006-03-01/\"></LocationConstraint>")
    );
    assert_eq!(
        tree.refused("PUT", "/bad", &[], "<x>").await,
        Code::MalformedXML
    );
}

#[tokio::test]
async fn what_a_bucket_would_silently_lack_is_refused() {
    let tree = Tree::new();
    for (header, value, code) in [
        (
            "x-amz-bucket-object-lock-enabled",
            "true",
            Code::NotImplemented,
        ),
        (
            "x-amz-object-ownership",
            "ObjectWriter",
            Code::NotImplemented,
        ),
        (
            "x-amz-acl",
            "public-read",
            Code::AccessControlListNotSupported,
        ),
    ] {
        assert_eq!(
            tree.refused("PUT", "/bucket", &[(header, value)], "").await,
            code
        );
        assert!(!tree.path("bucket").exists());
    }
    let taken = [
        ("x-amz-acl", "private"),
        ("x-amz-object-ownership", "BucketOwnerEnforced"),
    ];
    assert_eq!(
        tree.ask("PUT", "/bucket", &taken, "")
            .await
            .expect("how it is anyway")
            .status,
        200
    );
}

#[tokio::test]
async fn buckets_are_listed_in_pages_and_under_a_prefix() {
    let tree = Tree::with_directories(&["b1", "a1", "b2", ".hidden", "b3"]);
    fs::write(tree.path("file"), "x").expect("our own directory");
    assert_eq!(
        tree.get("GET", "/").await.elements("Name"),
        ["a1", "b1", "b2", "b3"]
    );
    let first = tree.get("GET", "/?max-buckets=2&prefix=b").await;
    assert_eq!(
        (first.elements("Name"), first.element("Prefix")),
        (vec!["b1".into(), "b2".into()], "b")
    );
    let token = first.element("ContinuationToken");
    let second = tree
        .get(
            "GET",
            &format!("/?max-buckets=2&prefix=b&continuation-token={token}"),
        )
        .await;
    assert_eq!(second.elements("Name"), ["b3"]);
    assert_eq!(second.element("ContinuationToken"), "");
    let exact = tree.get("GET", "/?max-buckets=4").await;
    assert_eq!(
        (
            exact.elements("Name").len(),
            exact.element("ContinuationToken")
        ),
        (4, "")
    );
    for query in [
        "max-buckets=0",
        "max-buckets=10001",
        "max-buckets=x",
        "continuation-token=%21",
    ] {
        assert_eq!(
            tree.refused("GET", &format!("/?{query}"), &[], "").await,
            Code::InvalidArgument
        );
    }
}

#[tokio::test]
async fn unset_configurations_answer_what_clients_key_on() {
    let tree = Tree::with_directories(&["b"]);
    for (subresource, code) in [
        ("policy", Code::NoSuchBucketPolicy),
        ("policyStatus", Code::NoSuchBucketPolicy),
        ("tagging", Code::NoSuchTagSet),
        ("cors", Code::NoSuchCORSConfiguration),
        ("lifecycle", Code::NoSuchLifecycleConfiguration),
        ("ownershipControls", Code::OwnershipControlsNotFoundError),
        (
            "publicAccessBlock",
            Code::NoSuchPublicAccessBlockConfiguration,
        ),
        ("object-lock", Code::ObjectLockConfigurationNotFoundError),
        (
            "encryption",
            Code::ServerSideEncryptionConfigurationNotFoundError,
        ),
        ("website", Code::NoSuchWebsiteConfiguration),
        ("replication", Code::ReplicationConfigurationNotFoundError),
        ("analytics&id=1", Code::NoSuchConfiguration),
        ("inventory&id=1", Code::NoSuchConfiguration),
        ("metrics&id=1", Code::NoSuchConfiguration),
        ("intelligent-tiering&id=1", Code::NoSuchConfiguration),
        ("abac", Code::NotImplemented),
        ("metadataTable", Code::NotImplemented),
    ] {
        assert_eq!(
            tree.refused("GET", &format!("/b?{subresource}"), &[], "")
                .await,
            code,
            "{subresource}"
        );
    }
    for (subresource, root) in [
        ("versioning", "VersioningConfiguration"),
        ("notification", "NotificationConfiguration"),
        ("logging", "BucketLoggingStatus"),
        ("accelerate", "AccelerateConfiguration"),
        ("requestPayment", "RequestPaymentConfiguration"),
        ("acl", "AccessControlPolicy"),
        ("analytics", "ListBucketAnalyticsConfigurationResult"),
        ("metrics", "ListMetricsConfigurationsResult"),
    ] {
        let answer = tree.get("GET", &format!("/b?{subresource}")).await;
        assert_eq!(answer.status, 200);
        assert!(
            answer.body.contains(&format!("<{root} xmlns=")),
            "{}",
            answer.body
        );
    }
    let none: Vec<_> = fs::read_dir(tree.path("b")).expect("the bucket").collect();
    assert!(none.is_empty(), "reading wrote {none:?}");
}

#[tokio::test]
async fn configurations_are_put_only_where_they_say_how_it_is() {
    let tree = Tree::with_directories(&["b"]);
    for (subresource, document) in [
        ("policy", "{}"),
        ("cors", "<CORSConfiguration/>"),
        ("lifecycle", "<LifecycleConfiguration/>"),
        ("encryption", "<ServerSideEncryptionConfiguration/>"),
        (
            "versioning",
            "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
        ),
        (
            "requestPayment",
            "<RequestPaymentConfiguration><Payer>Requester</Payer></RequestPaymentConfiguration>",
        ),
        (
            "logging",
            "<BucketLoggingStatus><LoggingEnabled/></BucketLoggingStatus>",
        ),
    ] {
        assert_eq!(
            tree.refused("PUT", &format!("/b?{subresource}"), &[], document)
                .await,
            Code::NotImplemented
        );
    }
    for (subresource, document) in [
        ("notification", "<NotificationConfiguration/>"),
        ("logging", "<BucketLoggingStatus/>"),
        (
            "requestPayment",
            "<RequestPaymentConfiguration><Payer>BucketOwner</Payer></RequestPaymentConfiguration>",
        ),
    ] {
        let answer = tree
            .ask("PUT", &format!("/b?{subresource}"), &[], document)
            .await
            .expect(subresource);
        assert_eq!(answer.status, 200);
    }
    let private = [("x-amz-acl", "private")];
    assert_eq!(
        tree.ask("PUT", "/b?acl", &private, "")
            .await
            .expect("private")
            .status,
        200
    );
    let public = [("x-amz-acl", "public-read")];
    assert_eq!(
        tree.refused("PUT", "/b?acl", &public, "").await,
        Code::AccessControlListNotSupported
    );
    for subresource in [
        "policy",
        "cors",
        "lifecycle",
        "encryption",
        "website",
        "replication",
        "tagging",
        "metrics&id=1",
    ] {
        assert_eq!(
            tree.get("DELETE", &format!("/b?{subresource}"))
                .await
                .status,
            204
        );
    }
}

#[tokio::test]
async fn bucket_tags_come_back_until_they_are_deleted() {
    let tree = Tree::with_directories(&["b"]);
    let document =
        "<Tagging><TagSet><Tag><Key>Hello</Key><Value>a&amp;b</Value></Tag></TagSet></Tagging>";
    assert_eq!(
        tree.refused("PUT", "/b?tagging", &[], "<Tagging/>").await,
        Code::MalformedXML
    );
    assert_eq!(
        tree.ask(
            "PUT",
            "/b?tagging",
            &[],
            document.replace("&amp;", "@").as_str()
        )
        .await
        .expect("valid")
        .status,
        204
    );
    let tags = tree.get("GET", "/b?tagging").await;
    assert_eq!(
        (tags.element("Key"), tags.element("Value")),
        ("Hello", "a@b")
    );
    assert_eq!(
        tree.refused("PUT", "/b?tagging", &[], document).await,
        Code::InvalidTag
    );
    assert_eq!(tree.get("DELETE", "/b?tagging").await.status, 204);
    assert_eq!(
        tree.refused("GET", "/b?tagging", &[], "").await,
        Code::NoSuchTagSet
    );
}

#[tokio::test]
async fn another_owner_than_expected_is_refused_before_anything_happens() {
    let tree = Tree::with_directories(&["b"]);
    let other = [("x-amz-expected-bucket-owner", "somebody")];
    for (method, target) in [
        ("HEAD", "/b"),
        ("DELETE", "/b"),
        ("GET", "/b/k"),
        ("GET", "/b?location"),
    ] {
        assert_eq!(
            tree.refused(method, target, &other, "").await,
            Code::AccessDenied,
            "{method} {target}"
        );
    }
    assert!(tree.path("b").exists());
    let me = [("x-amz-expected-bucket-owner", "tester")];
    assert_eq!(
        tree.ask("HEAD", "/b", &me, "")
            .await
            .expect("the owner")
            .status,
        200
    );
}

#[tokio::test]
async fn documents_with_a_wrong_digest_change_nothing() {
    let tree = Tree::with_directories(&["b"]);
    let document = "<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>";
    for header in [
        ("content-md5", "rL0Y20xC+Fzt72VPzMSk2A=="),
        ("x-amz-checksum-crc32", "AAAAAA=="),
    ] {
        assert_eq!(
            tree.refused("PUT", "/b?tagging", &[header], document).await,
            Code::BadDigest
        );
    }
    assert_eq!(
        tree.refused("GET", "/b?tagging", &[], "").await,
        Code::NoSuchTagSet
    );
}
