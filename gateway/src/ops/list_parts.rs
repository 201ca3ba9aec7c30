//! ListParts: what an upload has so far, in order of the parts' numbers.

use twintree_store::{Bucket, ObjectKey, PartPage, UploadInfo};

use super::upload_part::upload_id;
use super::{answer, owner};
use crate::call::{Call, Reply, blocking};
use crate::checksum;
use crate::error::{S3Error, S3Result};
use crate::route::Query;
use crate::xml::Writer;

/// The most parts of one page.
const MAX_PARTS: usize = 1000;

/// Answers a page of parts.
///
/// # Errors
/// `InvalidArgument`, `NoSuchUpload`, and what the disk says.
pub(crate) async fn list_parts(call: &Call, bucket: &Bucket, key: &ObjectKey) -> S3Result<Reply> {
    let id = upload_id(&call.query)?;
    let most = count(&call.query, "max-parts")?.map_or(MAX_PARTS, |most| most.min(MAX_PARTS));
    let marker = count(&call.query, "part-number-marker")?.unwrap_or(0);
    let after = u16::try_from(marker).unwrap_or(u16::MAX);
    let owner = owner::of(call, bucket).await?;
    let (info, page) = {
        let (bucket, key) = (bucket.clone(), key.clone());
        blocking(move || {
            let upload = bucket.upload(&key, &id)?;
            Ok((upload.info(), upload.parts(after, most)?))
        })
        .await?
    };
    let mut xml = Writer::s3("ListPartsResult", 1024 + 256 * page.parts.len());
    xml.text("Bucket", bucket.name().as_str());
    xml.text("Key", key.as_str());
    xml.plain("UploadId", info.id.as_str());
    xml.number("PartNumberMarker", marker as u64);
    xml.number(
        "NextPartNumberMarker",
        page.parts.last().map_or(0, |part| u64::from(part.number)),
    );
    xml.number("MaxParts", most as u64);
    xml.flag("IsTruncated", page.truncated);
    owner::write(
        &mut xml,
        "Initiator",
        info.initiator.as_deref().unwrap_or(&owner),
    );
    owner::write(&mut xml, "Owner", &owner);
    describe(&mut xml, &info);
    write_parts(&mut xml, &page);
    Ok(answer::document(xml))
}

/// Writes what an upload was created with, here and in ListMultipartUploads.
pub(super) fn describe(xml: &mut Writer, info: &UploadInfo) {
    xml.text(
        "StorageClass",
        info.storage_class.as_deref().unwrap_or("STANDARD"),
    );
    if let Some((algorithm, kind)) = info.checksum {
        xml.plain("ChecksumAlgorithm", checksum::name_of(algorithm));
        xml.plain("ChecksumType", checksum::type_name(kind));
    }
}

fn write_parts(xml: &mut Writer, page: &PartPage) {
    for part in &page.parts {
        xml.open("Part");
        xml.number("PartNumber", u64::from(part.number));
        xml.time("LastModified", part.modified);
        xml.etag("ETag", &part.etag.to_string());
        xml.number("Size", part.size);
        if let Some(sum) = &part.checksum {
            xml.plain(checksum::element_of(sum.algorithm), &checksum::encode(sum));
        }
        xml.close("Part");
    }
}

/// Reads a number that may not be negative.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn count(query: &Query, name: &'static str) -> S3Result<Option<usize>> {
    let Some(text) = query.get(name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(S3Error::invalid_argument(
            name,
            text,
            format!("Argument {name} must be an integer between 0 and 2147483647"),
        ));
    }
    // A number beyond every list is as good as the greatest.
    Ok(Some(
        text.parse().unwrap_or(usize::MAX).min(i32::MAX as usize),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn counts_are_whole_numbers() {
        let of = |raw: &str| count(&Query::parse(raw).expect("valid"), "max-parts");
        assert_eq!(of(""), Ok(None));
        assert_eq!(of("max-parts="), Ok(None));
        assert_eq!(of("max-parts=0"), Ok(Some(0)));
        assert_eq!(
            of("max-parts=99999999999999999999999"),
            Ok(Some(i32::MAX as usize))
        );
        for raw in ["max-parts=-1", "max-parts=x", "max-parts=1.5"] {
            assert_eq!(of(raw).expect_err(raw).code(), Code::InvalidArgument);
        }
    }
}
