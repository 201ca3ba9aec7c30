//! DeleteObject: removes a key; one that is absent is removed already.

use http::StatusCode;
use twintree_store::{Bucket, ObjectKey, StoreError, WriteConditions};

use super::answer;
use super::version::Version;
use crate::call::{Call, Reply, blocking};
use crate::conditional;
use crate::error::S3Result;

/// Removes an object if its conditions hold.
///
/// # Errors
/// `PreconditionFailed`, `NoSuchVersion`, `InvalidArgument`, and what the disk says.
pub(crate) async fn delete_object(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
) -> S3Result<Reply> {
    let version = Version::of(&call.query)?;
    let conditions = conditional::delete_conditions(&call.parts.headers)?;
    let (bucket, key) = (bucket.clone(), key.clone());
    blocking(move || delete(&bucket, &key, &conditions)).await?;
    let mut reply = answer::empty(StatusCode::NO_CONTENT);
    version.name_in(&mut reply);
    Ok(reply)
}

/// Removes one key, also for DeleteObjects.
///
/// Semantics: a condition on an absent object is no failure (Ceph's suite; AWS answers 404). DELETE is repeated by
/// clients that lost its answer, and what the condition guards against, removing what was not seen, cannot happen.
pub(super) fn delete(
    bucket: &Bucket,
    key: &ObjectKey,
    conditions: &WriteConditions,
) -> S3Result<()> {
    match bucket.delete(key, conditions) {
        Ok(_) | Err(StoreError::NoSuchKey(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
