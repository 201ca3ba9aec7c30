//! HeadBucket: that the bucket is there, and its region.

use http::{HeaderName, HeaderValue, StatusCode};
use twintree_store::Bucket;

use super::answer;
use crate::call::{Call, Reply, blocking};
use crate::error::S3Result;

const REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");

/// Answers 200 with the region; that the bucket exists was found when it was resolved.
///
/// # Errors
/// What the disk says.
pub(crate) async fn head_bucket(call: &Call, bucket: &Bucket) -> S3Result<Reply> {
    let location = location_of(bucket).await?;
    let region = location.as_deref().unwrap_or(&call.gateway.settings.region);
    let mut reply = answer::empty(StatusCode::OK);
    if let Ok(region) = HeaderValue::from_str(region) {
        reply.headers_mut().insert(REGION, region);
    }
    Ok(reply)
}

/// Gives the location constraint that the bucket was made with.
///
/// # Errors
/// What the disk says.
pub(crate) async fn location_of(bucket: &Bucket) -> S3Result<Option<String>> {
    let bucket = bucket.clone();
    blocking(move || Ok(bucket.settings()?.location)).await
}
