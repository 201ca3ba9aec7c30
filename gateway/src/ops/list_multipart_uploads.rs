//! ListMultipartUploads: the uploads that are under way, by key and then by when they began.

use twintree_store::{Bucket, UploadId, UploadPage, UploadQuery};

use super::list_parts::{count, describe};
use super::listing::encoding;
use super::{answer, owner};
use crate::call::{Call, Reply, blocking};
use crate::error::{S3Error, S3Result};
use crate::route::Query;
use crate::xml::{Encoding, Writer};

/// The most uploads and common prefixes of one page.
const MAX_UPLOADS: usize = 1000;

/// Answers a page of uploads.
///
/// # Errors
/// `InvalidArgument`, and what the disk says.
pub(crate) async fn list_multipart_uploads(call: &Call, bucket: &Bucket) -> S3Result<Reply> {
    let encoding = encoding(&call.query)?;
    let query = parse(&call.query)?;
    let owner = owner::of(call, bucket).await?;
    let page = {
        let (bucket, query) = (bucket.clone(), query.clone());
        blocking(move || Ok(bucket.list_uploads(&query)?)).await?
    };
    let mut xml = Writer::s3(
        "ListMultipartUploadsResult",
        1024 + 512 * page.uploads.len(),
    );
    xml.text("Bucket", bucket.name().as_str());
    xml.name("KeyMarker", &query.after_key, encoding);
    xml.text(
        "UploadIdMarker",
        query.after_id.as_ref().map_or("", UploadId::as_str),
    );
    if let Some((key, id)) = &page.next {
        xml.name("NextKeyMarker", key, encoding);
        xml.plain(
            "NextUploadIdMarker",
            id.as_ref().map_or("", UploadId::as_str),
        );
    }
    xml.name("Prefix", &query.prefix, encoding);
    if !query.delimiter.is_empty() {
        xml.name("Delimiter", &query.delimiter, encoding);
    }
    if encoding == Encoding::Url {
        xml.plain("EncodingType", "url");
    }
    xml.number("MaxUploads", query.max as u64);
    xml.flag("IsTruncated", page.next.is_some());
    write_uploads(&mut xml, &page, &owner, encoding);
    Ok(answer::document(xml))
}

fn write_uploads(xml: &mut Writer, page: &UploadPage, owner: &str, encoding: Encoding) {
    for upload in &page.uploads {
        xml.open("Upload");
        xml.name("Key", &upload.key, encoding);
        xml.plain("UploadId", upload.id.as_str());
        owner::write(
            xml,
            "Initiator",
            upload.initiator.as_deref().unwrap_or(owner),
        );
        owner::write(xml, "Owner", owner);
        describe(xml, upload);
        xml.time("Initiated", upload.initiated);
        xml.close("Upload");
    }
    for prefix in &page.common_prefixes {
        xml.open("CommonPrefixes");
        xml.name("Prefix", prefix, encoding);
        xml.close("CommonPrefixes");
    }
}

/// Reads the query. `upload-id-marker` means nothing without `key-marker`.
fn parse(query: &Query) -> S3Result<UploadQuery> {
    let text = |name| query.get(name).unwrap_or("").to_owned();
    let after_key = text("key-marker");
    let marker = query
        .get("upload-id-marker")
        .filter(|marker| !marker.is_empty() && !after_key.is_empty());
    let after_id = marker.map(|marker| {
        UploadId::parse(marker).map_err(|_| {
            S3Error::invalid_argument("upload-id-marker", marker, "Invalid uploadId marker")
        })
    });
    Ok(UploadQuery {
        prefix: text("prefix"),
        delimiter: text("delimiter"),
        after_id: after_id.transpose()?,
        after_key,
        max: count(query, "max-uploads")?.map_or(MAX_UPLOADS, |most| most.min(MAX_UPLOADS)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn parsed(raw: &str) -> S3Result<UploadQuery> {
        parse(&Query::parse(raw).expect("valid"))
    }

    #[test]
    fn an_upload_marker_needs_a_key_marker() {
        let id = "0".repeat(48);
        let query = parsed(&format!("upload-id-marker={id}")).expect("valid");
        assert_eq!((query.after_key.as_str(), query.after_id), ("", None));
        let query = parsed(&format!("upload-id-marker={id}&key-marker=k")).expect("valid");
        assert_eq!(query.after_id.map(|id| id.to_string()), Some(id));
        assert!(parsed("upload-id-marker=junk").is_ok());
        let junk = parsed("upload-id-marker=junk&key-marker=k").expect_err("no id");
        assert_eq!(junk.code(), Code::InvalidArgument);
    }

    #[test]
    fn pages_have_at_most_a_thousand_entries() {
        for (raw, max) in [
            ("", 1000),
            ("max-uploads=7", 7),
            ("max-uploads=5000", 1000),
            ("max-uploads=0", 0),
        ] {
            assert_eq!(parsed(raw).expect(raw).max, max);
        }
        assert_eq!(
            parsed("max-uploads=-1").expect_err("negative").code(),
            Code::InvalidArgument
        );
        let other = Query::parse("encoding-type=base64").expect("valid");
        assert_eq!(
            encoding(&other).expect_err("unknown").code(),
            Code::InvalidArgument
        );
    }
}
