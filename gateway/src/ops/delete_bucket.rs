//! DeleteBucket: removes a directory that holds no object.

use http::StatusCode;
use twintree_store::BucketName;

use super::answer;
use crate::call::{Call, Reply, blocking};
use crate::error::S3Result;

/// Removes a bucket; pending uploads and a person's empty directories do not keep it.
///
/// # Errors
/// `NoSuchBucket`, `BucketNotEmpty`, and what the disk says.
pub(crate) async fn delete_bucket(call: &Call, name: &BucketName) -> S3Result<Reply> {
    let (store, name) = (call.gateway.store.clone(), name.clone());
    blocking(move || Ok(store.delete_bucket(&name)?)).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}
