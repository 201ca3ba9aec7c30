//! GetBucketLocation: the constraint that the bucket was made with, echoed.

use twintree_store::Bucket;

use super::answer;
use super::head_bucket::location_of;
use crate::call::{Call, Reply};
use crate::error::S3Result;
use crate::xml::Writer;

/// Answers the region as the text of the root: the constraint as it was given, else where we are. That is empty for
/// us-east-1, as S3 has it.
///
/// # Errors
/// What the disk says.
pub(crate) async fn get_bucket_location(call: &Call, bucket: &Bucket) -> S3Result<Reply> {
    let location = location_of(bucket).await?;
    let ours = Some(call.gateway.settings.region.clone()).filter(|region| region != "us-east-1");
    let mut xml = Writer::s3("LocationConstraint", 0);
    if let Some(region) = location.or(ours) {
        xml.escaped(&region);
    }
    Ok(answer::document(xml))
}
