//! AbortMultipartUpload: the parts are gone, and none that is under way comes back.

use http::StatusCode;
use twintree_store::{Bucket, ObjectKey, Timestamp};

use super::answer;
use super::upload_part::upload_id;
use crate::call::{Call, Reply, blocking};
use crate::date;
use crate::error::{Code, S3Error, S3Result};

const INITIATED: &str = "x-amz-if-match-initiated-time";

/// Ends an upload without an object.
///
/// # Errors
/// `NoSuchUpload`, `PreconditionFailed` where it was begun at another time than the client says, what the disk says.
pub(crate) async fn abort_multipart_upload(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
) -> S3Result<Reply> {
    let id = upload_id(&call.query)?;
    let expected = initiated(call)?;
    let (bucket, key) = (bucket.clone(), key.clone());
    blocking(move || {
        let upload = bucket.upload(&key, &id)?;
        if expected.is_some_and(|expected| expected != upload.info().initiated.seconds()) {
            return Err(S3Error::new(Code::PreconditionFailed).with("Condition", INITIATED));
        }
        Ok(upload.abort()?)
    })
    .await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

fn initiated(call: &Call) -> S3Result<Option<i64>> {
    let Some(value) = call.parts.headers.get(INITIATED) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("");
    date::parse_http_date(text)
        .or_else(|| date::parse_iso8601(text).map(Timestamp::seconds))
        .map(Some)
        .ok_or_else(|| S3Error::invalid_argument(INITIATED, text, "not a date"))
}
