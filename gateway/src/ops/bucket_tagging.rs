//! Tags of a bucket, kept in its `bucket.json`.

use http::StatusCode;
use twintree_store::Bucket;

use super::{answer, object_tagging};
use crate::call::{Reply, blocking};
use crate::error::{Code, S3Error, S3Result};
use crate::xml::{self, TagLimits};

/// Answers the tags.
///
/// # Errors
/// `NoSuchTagSet` without any, and what the disk says.
pub(crate) async fn get_bucket_tagging(bucket: &Bucket) -> S3Result<Reply> {
    let asked = bucket.clone();
    let tags = blocking(move || Ok(asked.settings()?.tags)).await?;
    if tags.is_empty() {
        return Err(S3Error::new(Code::NoSuchTagSet).with("BucketName", bucket.name().as_str()));
    }
    Ok(answer::document(object_tagging::tag_set(&tags)))
}

/// Replaces the tags.
///
/// # Errors
/// `MalformedXML`, `InvalidTag`, and what the disk says.
pub(crate) async fn put_bucket_tagging(bucket: &Bucket, document: &[u8]) -> S3Result<Reply> {
    set(bucket, xml::tagging_request(document, TagLimits::BUCKET)?).await
}

/// Removes the tags.
///
/// # Errors
/// What the disk says.
pub(crate) async fn delete_bucket_tagging(bucket: &Bucket) -> S3Result<Reply> {
    set(bucket, Vec::new()).await
}

async fn set(bucket: &Bucket, tags: Vec<(String, String)>) -> S3Result<Reply> {
    let bucket = bucket.clone();
    blocking(move || {
        // A bucket that has no tags to lose is not written to.
        if tags.is_empty() && bucket.settings()?.tags.is_empty() {
            return Ok(());
        }
        Ok(bucket.change_settings(|settings| settings.tags = tags)?)
    })
    .await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}
