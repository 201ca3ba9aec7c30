//! From a request's target to one [`Operation`], a bucket and a key; decides nothing about rights or existence.
//!
//! The path is decoded exactly once, as bytes, and never normalised: `//`, `.` and `..` are part of a key. A
//! sub-resource that S3 knows and this gateway does not build becomes [`Operation::Unsupported`], never the plain
//! operation on the object: `PUT /b/k?annotation` must not overwrite `k`.

mod host;
mod operation;
mod query;

use http::Method;
use http::header::HOST;
use http::request::Parts;
use twintree_store::name::KeyError;
use twintree_store::{BucketName, ObjectKey};

use crate::error::{Code, S3Error, S3Result};
use crate::xml;

pub use operation::{Config, Operation, Support, Supported};
pub use query::{Query, percent_decode};

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What is asked for.
    pub operation: Operation,
    /// The bucket; `None` only for requests to the service itself.
    pub bucket: Option<BucketName>,
    /// The key; `None` for requests to a bucket or the service.
    pub key: Option<ObjectKey>,
    /// Was the bucket named by the host? SigV2 then signs `/bucket` before the path.
    pub virtual_host: bool,
}

/// Routes a request. `domains` are those of virtual-host style, lower-case and without port.
///
/// # Errors
/// `InvalidURI`, `InvalidBucketName`, `KeyTooLongError`, `InvalidArgument` for contradicting sub-resources,
/// `MethodNotAllowed`.
pub fn route(parts: &Parts, query: &Query, domains: &[String]) -> S3Result<Route> {
    let host_bucket = named_host(parts).and_then(|host| host::bucket(host, domains));
    let virtual_host = host_bucket.is_some();
    let (bucket, key) = split_path(parts.uri.path(), host_bucket)?;
    if parts.method == Method::OPTIONS {
        let bucket = bucket.map(|name| bucket_name(&name)).transpose()?;
        return Ok(Route {
            operation: Operation::Preflight,
            bucket,
            key: None,
            virtual_host,
        });
    }
    let operation = operation::choose(parts, query, bucket.is_some(), key.is_some())?;
    Ok(Route {
        bucket: bucket.map(|name| bucket_name(&name)).transpose()?,
        key: key.map(|key| object_key(&key, &parts.method)).transpose()?,
        operation,
        virtual_host,
    })
}

/// Says whether the host alone names a bucket, so that the whole path is a key.
pub(crate) fn names_bucket_by_host(parts: &Parts, domains: &[String]) -> bool {
    named_host(parts).is_some_and(|host| host::bucket(host, domains).is_some())
}

/// How the client calls us. RFC 9112, section 3.2.2: the authority of an absolute-form target replaces Host; HTTP/2 has
/// only that.
pub(crate) fn named_host(parts: &Parts) -> Option<&str> {
    match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => parts.headers.get(HOST)?.to_str().ok(),
    }
}

/// Gives the object that a path alone names, where [`route`] would find it too; `None`: it finds something else, or
/// refuses.
pub(crate) fn object_in_path(
    path: &str,
    method: &Method,
    host: &str,
    domains: &[String],
) -> Option<(BucketName, ObjectKey)> {
    if !domains.is_empty() && host::bucket(host, domains).is_some() {
        return None;
    }
    let (bucket, key) = split_path(path, None).ok()?;
    let (bucket, key) = (bucket_name(&bucket?).ok()?, object_key(&key?, method).ok()?);
    Some((bucket, key))
}

/// Gives the decoded bucket and key of a raw path. A path of slashes only is the service: S3 Browser sends `GET //`.
fn split_path(
    path: &str,
    host_bucket: Option<String>,
) -> S3Result<(Option<String>, Option<String>)> {
    let rest = path.strip_prefix('/').unwrap_or(path);
    if let Some(bucket) = host_bucket {
        return Ok((Some(bucket), decode_nonempty(rest)?));
    }
    if path == "*" || rest.bytes().all(|byte| byte == b'/') {
        return Ok((None, None));
    }
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    Ok((Some(decode(bucket)?), decode_nonempty(key)?))
}

fn decode_nonempty(raw: &str) -> S3Result<Option<String>> {
    if raw.is_empty() {
        Ok(None)
    } else {
        decode(raw).map(Some)
    }
}

fn decode(raw: &str) -> S3Result<String> {
    percent_decode(raw).ok_or_else(|| S3Error::new(Code::InvalidURI).with("URI", raw))
}

/// Parses the name of a bucket that may exist.
///
/// # Errors
/// `InvalidBucketName`, with the reason.
pub fn bucket_name(name: &str) -> S3Result<BucketName> {
    BucketName::parse(name).map_err(|reason| {
        let message = format!("The specified bucket is not valid: {reason}.");
        S3Error::new(Code::InvalidBucketName)
            .message(message)
            .with("BucketName", name)
    })
}

/// Parses a decoded key for a request of `method`, which only chooses how a reserved name is refused. A control
/// character may come as a listing without `encoding-type=url` shows it (FORMATS, *Names that are not UTF-8*).
///
/// # Errors
/// `KeyTooLongError`, `InvalidURI` for a NUL; for the reserved directory `NoSuchKey` when read, else `AccessDenied`.
pub fn object_key(key: &str, method: &Method) -> S3Result<ObjectKey> {
    ObjectKey::parse(&xml::unescape(key)).map_err(|error| match error {
        KeyError::Empty => S3Error::new(Code::InvalidURI),
        KeyError::Nul => S3Error::new(Code::InvalidURI).message("Object keys cannot hold a NUL."),
        KeyError::TooLong(size) => S3Error::new(Code::KeyTooLongError)
            .with("Size", size.to_string())
            .with("MaxSizeAllowed", twintree_store::name::MAX_KEY.to_string()),
        KeyError::Reserved if *method == Method::GET || *method == Method::HEAD => {
            S3Error::new(Code::NoSuchKey).with("Key", key)
        }
        KeyError::Reserved => S3Error::new(Code::AccessDenied)
            .message("Access Denied: names of .twintree are reserved.")
            .with("Key", key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_route(method: &str, host: &str, target: &str, copies: bool) -> S3Result<Route> {
        let mut builder = http::Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, host);
        if copies {
            builder = builder.header("x-amz-copy-source", "/b/k");
        }
        let (parts, ()) = builder
            .body(())
            .expect("test targets are valid")
            .into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or(""))?;
        route(
            &parts,
            &query,
            &["s3.example.com".to_owned(), "example.com".to_owned()],
        )
    }

    fn routed(method: &str, target: &str) -> (Operation, String, String) {
        let route = try_route(method, "127.0.0.1:9000", target, false).expect(target);
        let bucket = route.bucket.map(|b| b.to_string()).unwrap_or_default();
        (
            route.operation,
            bucket,
            route.key.map(|k| k.to_string()).unwrap_or_default(),
        )
    }

    fn refused(method: &str, target: &str) -> Code {
        try_route(method, "127.0.0.1", target, false)
            .expect_err(target)
            .code()
    }

    #[test]
    fn service_requests() {
        for target in [
            "/",
            "//",
            "///",
            "/?x-id=ListBuckets",
            "http://127.0.0.1:9000/",
        ] {
            assert_eq!(routed("GET", target).0, Operation::ListBuckets, "{target}");
        }
        assert_eq!(routed("HEAD", "/").0, Operation::HeadService);
        assert_eq!(refused("PUT", "/"), Code::MethodNotAllowed);
        assert_eq!(refused("DELETE", "/"), Code::MethodNotAllowed);
    }

    #[test]
    fn path_style_splits_once_and_never_normalises() {
        for (target, key) in [
            ("/b/k", "k"),
            ("/b/a/../b", "a/../b"),
            ("/b/./x", "./x"),
            ("/b//lead", "/lead"),
            ("/b//", "/"),
            ("/b/a//b/", "a//b/"),
            ("/b/a%2Fb%20c+d%25", "a/b c+d%"),
            ("/b/%ED%95%9C", "한"),
            ("/b/%252e", "%2e"),
            ("/b/a%01b", "a\u{1}b"),
            ("/b/a%F4%8F%B8%81b", "a\u{1}b"),
        ] {
            let (operation, bucket, found) = routed("GET", target);
            assert_eq!(
                (operation, bucket.as_str(), found.as_str()),
                (Operation::GetObject, "b", key)
            );
        }
        assert_eq!(
            routed("GET", "/b"),
            (Operation::ListObjects, "b".into(), String::new())
        );
        assert_eq!(
            routed("GET", "/b/"),
            (Operation::ListObjects, "b".into(), String::new())
        );
    }

    #[test]
    fn virtual_hosts_by_the_longest_domain_ports_ignored() {
        for (host, target, bucket, key) in [
            ("b.s3.example.com", "/k", "b", "k"),
            ("b.s3.example.com:9000", "/a/b", "b", "a/b"),
            ("a.b.S3.Example.com", "/", "a.b", ""),
            ("b.example.com", "//x", "b", "/x"),
            ("s3.example.com", "/b/k", "b", "k"),
            ("other.org", "/b/k", "b", "k"),
            ("10.0.0.1", "/b/k", "b", "k"),
            ("[::1]:9000", "/b/k", "b", "k"),
        ] {
            let route = try_route("GET", host, target, false).expect(host);
            assert_eq!(
                route.bucket.expect("a bucket").as_str(),
                bucket,
                "{host}{target}"
            );
            assert_eq!(
                route.key.map(|k| k.to_string()).unwrap_or_default(),
                key,
                "{host}{target}"
            );
            assert_eq!(
                route.virtual_host,
                !matches!(
                    host,
                    "s3.example.com" | "other.org" | "10.0.0.1" | "[::1]:9000"
                )
            );
        }
    }

    #[test]
    fn absolute_form_wins_over_host() {
        let route =
            try_route("GET", "127.0.0.1", "http://b.example.com:80/k", false).expect("valid");
        assert_eq!(route.bucket.expect("a bucket").as_str(), "b");
    }

    #[test]
    fn bucket_operations() {
        use Operation::*;
        for (method, target, operation) in [
            ("PUT", "/b", CreateBucket),
            ("HEAD", "/b", HeadBucket),
            ("HEAD", "/b?x-id=HeadBucket", HeadBucket),
            ("DELETE", "/b", DeleteBucket),
            ("GET", "/b?list-type=2&prefix=a", ListObjectsV2),
            ("GET", "/b?prefix=a", ListObjects),
            ("GET", "/b?list-type=1", ListObjects),
            ("GET", "/b?versions", ListObjectVersions),
            ("GET", "/b?uploads", ListMultipartUploads),
            ("GET", "/b?location", GetBucketLocation),
            ("POST", "/b?delete", DeleteObjects),
            ("POST", "/b", PostObject),
            ("GET", "/b?policy", GetBucketConfig(Config::Policy)),
            ("PUT", "/b?versioning=", PutBucketConfig(Config::Versioning)),
            ("DELETE", "/b?tagging", DeleteBucketConfig(Config::Tagging)),
            ("GET", "/b?analytics", ListBucketConfigs(Config::Analytics)),
            (
                "GET",
                "/b?analytics&id=1",
                GetBucketConfig(Config::Analytics),
            ),
            (
                "GET",
                "/b?metadataTable",
                Unsupported("GetBucketMetadataTableConfiguration"),
            ),
            ("GET", "/b?session", Unsupported("CreateSession")),
            ("OPTIONS", "/b/k", Preflight),
        ] {
            assert_eq!(routed(method, target).0, operation, "{method} {target}");
        }
    }

    #[test]
    fn object_operations() {
        use Operation::*;
        for (method, target, operation) in [
            (
                "GET",
                "/b/k?x-id=GetObject&versionId=null&partNumber=1",
                GetObject,
            ),
            ("HEAD", "/b/k", HeadObject),
            ("PUT", "/b/k?x-id=PutObject", PutObject),
            ("DELETE", "/b/k", DeleteObject),
            ("POST", "/b/k?uploads", CreateMultipartUpload),
            ("PUT", "/b/k?partNumber=1&uploadId=u", UploadPart),
            ("POST", "/b/k?uploadId=u", CompleteMultipartUpload),
            ("DELETE", "/b/k?uploadId=u", AbortMultipartUpload),
            ("GET", "/b/k?uploadId=u", ListParts),
            ("GET", "/b/k?attributes", GetObjectAttributes),
            ("GET", "/b/k?tagging", GetObjectTagging),
            ("PUT", "/b/k?tagging", PutObjectTagging),
            ("DELETE", "/b/k?tagging", DeleteObjectTagging),
            ("GET", "/b/k?acl", GetObjectAcl),
            ("PUT", "/b/k?acl", PutObjectAcl),
            ("PUT", "/b/k?retention", PutObjectRetention),
            ("GET", "/b/k?legal-hold", GetObjectLegalHold),
            (
                "PUT",
                "/b/k?annotation&annotationName=x",
                Unsupported("PutObjectAnnotation"),
            ),
            (
                "PUT",
                "/b/k?encryption",
                Unsupported("UpdateObjectEncryption"),
            ),
            ("PUT", "/b/k?renameObject", Unsupported("RenameObject")),
            (
                "POST",
                "/b/k?select&select-type=2",
                Unsupported("SelectObjectContent"),
            ),
            ("POST", "/b/k?restore", Unsupported("RestoreObject")),
            ("GET", "/b/k?torrent", Unsupported("GetObjectTorrent")),
        ] {
            assert_eq!(routed(method, target).0, operation, "{method} {target}");
        }
        let copy = |target| {
            try_route("PUT", "h", target, true)
                .expect("valid")
                .operation
        };
        assert_eq!(copy("/b/k"), CopyObject);
        assert_eq!(copy("/b/k?partNumber=1&uploadId=u"), UploadPartCopy);
    }

    #[test]
    fn what_is_recognised_never_becomes_the_plain_operation() {
        for (method, target) in [
            ("PUT", "/b/k?policy"),
            ("PUT", "/b/k?uploads"),
            ("DELETE", "/b/k?acl"),
            ("POST", "/b/k"),
            ("DELETE", "/b?versioning"),
            ("DELETE", "/b?uploads"),
            ("PUT", "/b?delete"),
            ("GET", "/b?delete"),
            ("HEAD", "/b/k?tagging"),
            ("PATCH", "/b/k"),
        ] {
            assert_eq!(
                refused(method, target),
                Code::MethodNotAllowed,
                "{method} {target}"
            );
        }
        assert_eq!(refused("PUT", "/b/k?partNumber=1"), Code::InvalidArgument);
        assert_eq!(refused("PUT", "/b/k?uploadId=1"), Code::InvalidArgument);
        assert_eq!(refused("GET", "/b/k?acl&tagging"), Code::InvalidArgument);
        assert_eq!(refused("GET", "/b?list-type=3"), Code::InvalidArgument);
    }

    #[test]
    fn bad_targets_get_their_codes() {
        assert_eq!(refused("GET", "/b/%ff"), Code::InvalidURI);
        assert_eq!(refused("GET", "/b/%zz"), Code::InvalidURI);
        assert_eq!(refused("GET", "/b/a%"), Code::InvalidURI);
        assert_eq!(refused("GET", "/b/a%00b"), Code::InvalidURI);
        assert_eq!(refused("GET", "/.hidden/k"), Code::InvalidBucketName);
        assert_eq!(refused("GET", "//k"), Code::InvalidBucketName);
        assert_eq!(refused("GET", "/b/.twintree/x"), Code::NoSuchKey);
        assert_eq!(refused("PUT", "/b/a/.twintree"), Code::AccessDenied);
        let long = format!("/b/{}", "k".repeat(1025));
        assert_eq!(refused("PUT", &long), Code::KeyTooLongError);
        let longest = format!("/b/{}", "%41".repeat(1024));
        assert_eq!(routed("PUT", &longest).2.len(), 1024);
    }
}
