//! CopyObject: one object from another, or new metadata for the same.

use http::{HeaderMap, HeaderName, HeaderValue};
use twintree_store::{Bucket, CopyRequest, ObjectKey, Published};

use super::copy_source::CopySource;
use super::late;
use super::version::Version;
use crate::call::{Call, Reply};
use crate::conditional::write_conditions;
use crate::error::{S3Error, S3Result};
use crate::meta::Placement;
use crate::xml::Writer;
use crate::{checksum, meta};

const SOURCE_VERSION: HeaderName = HeaderName::from_static("x-amz-copy-source-version-id");
const ALGORITHM: &str = "x-amz-checksum-algorithm";

/// Whether the source's description is taken or the request's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    Copy,
    Replace,
}

/// Copies an object, by reflink or in the kernel where the filesystem can.
///
/// # Errors
/// `InvalidArgument`, `InvalidRequest` for a copy onto itself that changes nothing, those of the source,
/// `PreconditionFailed`, and what the disk says. The old destination stays.
pub(crate) async fn copy_object(call: &Call, bucket: &Bucket, key: &ObjectKey) -> S3Result<Reply> {
    let headers = &call.parts.headers;
    let source = CopySource::of(headers)?;
    meta::refuse_unbuilt(headers)?;
    let mut request = copy_request(headers)?;
    let placement = Placement::of(headers)?;
    let onto_itself = source.bucket == *bucket.name() && source.key == *key;
    if onto_itself && source.version == Version::Current && !changes_something(headers, &request) {
        return Err(S3Error::invalid_request(
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.",
        ));
    }
    let object = source.open(call).await?;
    if request.replace_meta.is_none() {
        request.replace_meta = placement.replaces(&object.info.meta);
    }
    let (bucket, key) = (bucket.clone(), key.clone());
    // Without reflinks a large file takes long, and proxies do not wait in silence.
    let mut reply = late::document(call, move || {
        Ok(result(&bucket.copy(&object, &key, request)?))
    })
    .await?;
    if source.version == Version::Null {
        reply
            .headers_mut()
            .insert(SOURCE_VERSION, HeaderValue::from_static("null"));
    }
    Ok(reply)
}

fn copy_request(headers: &HeaderMap) -> S3Result<CopyRequest> {
    let meta = directive(headers, "x-amz-metadata-directive")?;
    let tags = directive(headers, "x-amz-tagging-directive")?;
    let replace_meta = match meta {
        Directive::Copy => None,
        Directive::Replace => Some(meta::from_headers(headers)?),
    };
    let replace_tags = match tags {
        Directive::Copy => None,
        Directive::Replace => Some(meta::tags(headers)?.unwrap_or_default()),
    };
    let algorithm = match headers.get(ALGORITHM) {
        Some(name) => Some(checksum::parse_algorithm(
            name.to_str().unwrap_or(""),
            ALGORITHM,
        )?),
        None => None,
    };
    Ok(CopyRequest {
        replace_meta,
        replace_tags,
        checksum: algorithm,
        conditions: write_conditions(headers),
    })
}

fn directive(headers: &HeaderMap, name: &'static str) -> S3Result<Directive> {
    match headers.get(name).map(|value| value.to_str().unwrap_or("?")) {
        None | Some("" | "COPY") => Ok(Directive::Copy),
        Some("REPLACE") => Ok(Directive::Replace),
        Some(other) => Err(S3Error::invalid_argument(name, other, "Unknown directive.")),
    }
}

fn changes_something(headers: &HeaderMap, request: &CopyRequest) -> bool {
    request.replace_meta.is_some()
        || request.checksum.is_some()
        || headers.contains_key("x-amz-storage-class")
        || headers.contains_key("x-amz-website-redirect-location")
}

fn result(copied: &Published) -> Writer {
    let mut xml = Writer::s3("CopyObjectResult", 0);
    xml.time("LastModified", copied.modified);
    xml.etag("ETag", &copied.etag.to_string());
    let sum = &copied.checksum;
    xml.plain(
        checksum::element_of(sum.checksum.algorithm),
        &checksum::encode(&sum.checksum),
    );
    xml.plain("ChecksumType", checksum::type_name(sum.kind));
    xml
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::testing::headers;

    fn request(lines: &[(&str, &str)]) -> S3Result<CopyRequest> {
        copy_request(&headers(lines))
    }

    #[test]
    fn each_directive_stands_for_itself() {
        let copy = request(&[("content-type", "a/b"), ("x-amz-tagging", "k=v")]).expect("valid");
        assert_eq!((copy.replace_meta, copy.replace_tags), (None, None));
        let replaced = request(&[
            ("x-amz-metadata-directive", "REPLACE"),
            ("x-amz-meta-a", "1"),
        ])
        .expect("valid");
        let meta = replaced.replace_meta.expect("replaced");
        assert_eq!((meta.content_type, meta.user.len()), (None, 1));
        assert_eq!(replaced.replace_tags, None);
        let tags = request(&[
            ("x-amz-tagging-directive", "REPLACE"),
            ("x-amz-tagging", "k=v"),
        ])
        .expect("valid");
        assert_eq!(
            tags.replace_tags,
            Some(vec![("k".to_owned(), "v".to_owned())])
        );
        let bad = request(&[("x-amz-metadata-directive", "MERGE")]).expect_err("unknown");
        assert_eq!(bad.code(), Code::InvalidArgument);
    }

    #[test]
    fn a_copy_onto_itself_must_change_something() {
        for (lines, changes) in [
            (&[][..], false),
            (&[("x-amz-tagging-directive", "REPLACE")], false),
            (&[("x-amz-metadata-directive", "REPLACE")], true),
            (&[("x-amz-storage-class", "STANDARD")], true),
            (&[("x-amz-checksum-algorithm", "SHA256")], true),
            (&[("x-amz-website-redirect-location", "/x")], true),
        ] {
            let request = request(lines).expect("valid");
            assert_eq!(
                changes_something(&headers(lines), &request),
                changes,
                "{lines:?}"
            );
        }
    }
}
