//! Who owns a bucket: the access key that made it; a directory that was there before belongs to whoever asks.

use http::HeaderName;
use twintree_store::{Bucket, BucketName};

use crate::call::{Call, blocking};
use crate::error::{Code, S3Error, S3Result};
use crate::xml::Writer;

const EXPECTED: HeaderName = HeaderName::from_static("x-amz-expected-bucket-owner");

/// The header that names the owner a copy's source bucket must have.
pub(crate) const EXPECTED_OF_SOURCE: HeaderName =
    HeaderName::from_static("x-amz-source-expected-bucket-owner");

/// Refuses a request that expects another owner of the bucket.
///
/// # Errors
/// `NoSuchBucket`, `AccessDenied`.
pub(crate) async fn check_expected(call: &Call, bucket: &BucketName) -> S3Result<()> {
    check(call, bucket, &EXPECTED).await
}

/// Refuses as [`check_expected`] does, by another header.
///
/// # Errors
/// `NoSuchBucket`, `AccessDenied`.
pub(crate) async fn check(call: &Call, name: &BucketName, header: &HeaderName) -> S3Result<()> {
    let Some(expected) = call.parts.headers.get(header) else {
        return Ok(());
    };
    let bucket = call.bucket(name).await?;
    if expected.as_bytes() == of(call, &bucket).await?.as_bytes() {
        return Ok(());
    }
    Err(S3Error::new(Code::AccessDenied).with("BucketName", name.as_str()))
}

/// Gives the owner's id.
///
/// # Errors
/// What the disk says.
pub(crate) async fn of(call: &Call, bucket: &Bucket) -> S3Result<String> {
    let bucket = bucket.clone();
    let recorded = blocking(move || Ok(bucket.settings()?.owner)).await?;
    Ok(recorded.unwrap_or_else(|| call.principal.access_key_id.clone()))
}

/// Writes an `Owner` (or `Initiator`) element; id and display name are the access key id.
pub(crate) fn write(xml: &mut Writer, element: &str, id: &str) {
    xml.open(element);
    xml.text("ID", id);
    xml.text("DisplayName", id);
    xml.close(element);
}
