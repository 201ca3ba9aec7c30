//! Retention and legal hold, in buckets that have no object lock: no bucket has it yet.

use twintree_store::{Access, Bucket, ObjectKey};

use super::version::Version;
use crate::call::{Call, Reply, blocking};
use crate::error::{S3Error, S3Result};

/// Refuses GET and PUT of `?retention` and `?legal-hold`, after what every object operation checks.
///
/// # Errors
/// `NoSuchKey`, `NoSuchVersion`, else `InvalidRequest`.
pub(crate) async fn refuse(call: &Call, bucket: &Bucket, key: &ObjectKey) -> S3Result<Reply> {
    Version::of(&call.query)?;
    let (bucket, key) = (bucket.clone(), key.clone());
    blocking(move || Ok(bucket.open(&key, Access::Blocking).map(drop)?)).await?;
    Err(S3Error::invalid_request(
        "Bucket is missing Object Lock Configuration",
    ))
}
