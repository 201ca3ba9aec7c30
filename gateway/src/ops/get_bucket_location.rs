//! GetBucketLocation: the constraint that the bucket was made with, echoed.

use twintree_store::Bucket;

use super::answer;
use super::head_bucket::location_of;
use crate::call::{Call, Reply};
use crate::error::S3Result;
use crate::xml::Writer;

/// Answers the region as the text of the root; empty for us-east-1, as S3 has it.
///
/// # Errors
/// What the disk says.
pub(crate) async fn get_bucket_location(call: &Call, bucket: &Bucket) -> S3Result<Reply> {
    let location = location_of(bucket).await?;
    let region = location.as_deref().unwrap_or(&call.gateway.settings.region);
    let mut xml = Writer::s3("LocationConstraint", 0);
    if region != "us-east-1" {
        xml.escaped(region);
    }
    Ok(answer::document(xml))
}
