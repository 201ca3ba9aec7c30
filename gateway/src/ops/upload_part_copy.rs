//! UploadPartCopy: a range of an object as a part.

use http::{HeaderName, HeaderValue};
use twintree_store::{Bucket, Object, ObjectKey, PartReceipt};

use super::copy_source::CopySource;
use super::late;
use super::upload_part::{part_number, upload_id};
use super::version::Version;
use crate::call::{Call, Reply};
use crate::error::{S3Error, S3Result};
use crate::xml::Writer;
use crate::{checksum, range};

const RANGE: &str = "x-amz-copy-source-range";
const SOURCE_VERSION: HeaderName = HeaderName::from_static("x-amz-copy-source-version-id");

/// Copies a range into a part, by shared extents where the filesystem can.
///
/// # Errors
/// `InvalidArgument` for number and range, `NoSuchUpload`, those of the source and its conditions, `InvalidRequest`
/// above the largest part, and what the disk says.
pub(crate) async fn upload_part_copy(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
) -> S3Result<Reply> {
    let number = part_number(&call.query)?;
    let id = upload_id(&call.query)?;
    let source = CopySource::of(&call.parts.headers)?;
    let object = source.open(call).await?;
    let slice = slice(call, &object)?;
    let (bucket, key) = (bucket.clone(), key.clone());
    let copy = move || {
        let upload = bucket.upload(&key, &id)?;
        Ok(result(&upload.copy_part(number, &object, Some(slice))?))
    };
    let mut reply = late::document(call, copy).await?;
    if source.version == Version::Null {
        reply
            .headers_mut()
            .insert(SOURCE_VERSION, HeaderValue::from_static("null"));
    }
    Ok(reply)
}

/// The bytes that are copied; without a range all of them.
fn slice(call: &Call, object: &Object) -> S3Result<std::ops::Range<u64>> {
    let size = object.info.size;
    let slice = match call.parts.headers.get(RANGE) {
        None => 0..size,
        Some(header) => {
            let slice = range::copy_range(&String::from_utf8_lossy(header.as_bytes()), size)?;
            slice.start..slice.start + slice.length
        }
    };
    let most = call.gateway.settings.max_put;
    if slice.end - slice.start > most {
        return Err(S3Error::invalid_request(format!(
            "The specified copy source is larger than the maximum allowable size for a copy source: {most}"
        )));
    }
    Ok(slice)
}

fn result(receipt: &PartReceipt) -> Writer {
    let mut xml = Writer::s3("CopyPartResult", 0);
    xml.time("LastModified", receipt.modified);
    xml.etag("ETag", &receipt.etag.to_string());
    if let Some(sum) = &receipt.checksum {
        xml.plain(checksum::element_of(sum.algorithm), &checksum::encode(sum));
    }
    xml
}
