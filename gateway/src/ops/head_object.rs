//! HeadObject: the head that GetObject would have, without the bytes.

use twintree_store::{BucketName, ObjectKey};

use super::read_plan::Asked;
use crate::call::{Call, Reply};
use crate::error::S3Error;

/// Answers with the object's head; Range and partNumber count as in a GET.
///
/// # Errors
/// Those of GetObject.
pub(crate) async fn head_object(
    call: &Call,
    bucket: &BucketName,
    key: &ObjectKey,
) -> Result<Reply, S3Error> {
    let asked = Asked::parse(call, key)?;
    let opened = asked.opening(bucket, key).open(call).await?;
    Ok(asked.plan(&call.query, &opened)?.reply)
}
