//! CompleteMultipartUpload: the listed parts become the object.

use http::header::HOST;
use http::{HeaderMap, HeaderName};
use twintree_store::{
    Algorithm, Bucket, Checksum, CompleteRequest, ETag, ListedPart, ObjectKey, Published,
};

use super::create_multipart_upload::checksum_type;
use super::late;
use super::upload_part::upload_id;
use crate::body::RequestBody;
use crate::call::{Call, Reply};
use crate::checksum;
use crate::conditional::write_conditions;
use crate::error::{Code, S3Error, S3Result};
use crate::server::Arrival;
use crate::xml::{self, Writer};

const SIZE: &str = "x-amz-mp-object-size";
/// Of the whole object here, not of the document that is the body.
const OF_THE_OBJECT: &str = "x-amz-checksum-";

/// Checks the list and publishes the object. Repeated after success it answers the same.
///
/// # Errors
/// `MalformedXML`, `InvalidPart`, `InvalidPartOrder`, `EntityTooSmall`, `InvalidRequest` and `BadDigest` for a list or
/// header that contradicts the upload, `PreconditionFailed`, `NoSuchUpload`, and what the disk says. The upload stays.
pub(crate) async fn complete_multipart_upload(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
    body: RequestBody,
) -> S3Result<Reply> {
    let headers = &call.parts.headers;
    let id = upload_id(&call.query)?;
    let document = body
        .into_document(&of_the_document(headers), xml::MAX_DOCUMENT)
        .await?;
    let parts = xml::complete_request(&document)?;
    let request = CompleteRequest {
        checksum: whole_checksum(headers, parts.len())?,
        parts: parts
            .into_iter()
            .map(|part| ListedPart {
                number: part.number,
                etag: part.etag,
                checksums: part.checksums,
            })
            .collect(),
        conditions: write_conditions(headers),
        min_part: call.gateway.settings.min_part,
        size: size(headers)?,
        checksum_type: checksum_type(headers)?,
    };
    let location = location(call, bucket, key);
    let (bucket, key) = (bucket.clone(), key.clone());
    let complete = move || {
        let published = bucket.complete_upload(&key, &id, &request)?;
        Ok(result(&location, &bucket, &key, &published))
    };
    late::document(call, complete).await
}

/// The headers without the checksums that speak of the object.
fn of_the_document(headers: &HeaderMap) -> HeaderMap {
    let about_object = |name: &HeaderName| {
        name.as_str().starts_with(OF_THE_OBJECT) || name.as_str() == "x-amz-sdk-checksum-algorithm"
    };
    headers
        .iter()
        .filter(|(name, _)| !about_object(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The checksum that the object must have. A composite one may show over how many parts it was made.
fn whole_checksum(headers: &HeaderMap, parts: usize) -> S3Result<Option<Checksum>> {
    let mut found = None;
    for algorithm in Algorithm::ALL {
        let name = checksum::header_of(algorithm);
        let Some(value) = headers.get(&name) else {
            continue;
        };
        let text = value.to_str().unwrap_or("").trim();
        let (text, count) = match text.split_once('-') {
            Some((text, count)) => (text, Some(count)),
            None => (text, None),
        };
        let sum = checksum::decode(algorithm, text)
            .filter(|_| count.is_none_or(|count| count == parts.to_string()))
            .ok_or_else(|| {
                // Semantics: what is no checksum at all is what no object has; the public suite asks for this code.
                S3Error::new(Code::BadDigest)
                    .message(format!("Value for {name} header is invalid."))
            })?;
        if found.replace(sum).is_some() {
            return Err(S3Error::invalid_request(
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            ));
        }
    }
    Ok(found)
}

fn size(headers: &HeaderMap) -> S3Result<Option<u64>> {
    let Some(value) = headers.get(SIZE) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("").trim();
    match text.parse() {
        Ok(size) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(Some(size)),
        _ => Err(S3Error::invalid_request(format!(
            "Value for {SIZE} header is invalid."
        ))),
    }
}

/// Where the object can be asked for, as far as this end of the connection knows.
fn location(call: &Call, bucket: &Bucket, key: &ObjectKey) -> String {
    let mut path = Vec::new();
    xml::url_encode_into(&mut path, key.as_str());
    let path = String::from_utf8(path).expect("percent-encoding gives ASCII");
    let tls = call
        .parts
        .extensions
        .get::<Arrival>()
        .is_some_and(|arrival| arrival.tls);
    let scheme = if tls { "https" } else { "http" };
    let host = call
        .parts
        .headers
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    match call
        .parts
        .uri
        .authority()
        .map(|authority| authority.as_str())
        .or(host)
    {
        Some(host) => format!("{scheme}://{host}/{}/{path}", bucket.name()),
        None => format!("/{}/{path}", bucket.name()),
    }
}

fn result(location: &str, bucket: &Bucket, key: &ObjectKey, published: &Published) -> Writer {
    let mut xml = Writer::s3("CompleteMultipartUploadResult", 1024);
    xml.text("Location", location);
    xml.text("Bucket", bucket.name().as_str());
    xml.text("Key", key.as_str());
    xml.etag("ETag", &published.etag.to_string());
    let parts = match published.etag {
        ETag::Multipart(_, parts) => Some(parts),
        ETag::Md5(_) | ETag::Derived(..) | ETag::Opaque(_) => None,
    };
    let sum = &published.checksum;
    xml.plain(
        checksum::element_of(sum.checksum.algorithm),
        &checksum::encode_object(sum, parts),
    );
    xml.plain("ChecksumType", checksum::type_name(sum.kind));
    xml
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::headers;

    #[test]
    fn checksums_speak_of_the_object_and_never_of_the_document() {
        let sent = headers(&[
            ("x-amz-checksum-crc32", "WgDhBQ=="),
            ("x-amz-sdk-checksum-algorithm", "CRC32"),
            ("content-md5", "rL0Y20xC+Fzt72VPzMSk2A=="),
        ]);
        let left = of_the_document(&sent);
        assert_eq!(
            left.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["content-md5"]
        );
        let sum = whole_checksum(&sent, 3)
            .expect("valid")
            .expect("it was sent");
        assert_eq!(
            (sum.algorithm, sum.value),
            (Algorithm::Crc32, vec![0x5a, 0x00, 0xe1, 0x05])
        );
    }

    #[test]
    fn a_composite_checksum_may_show_its_parts() {
        let sent = headers(&[("x-amz-checksum-crc32", "Z+ry2Q==-3")]);
        assert!(whole_checksum(&sent, 3).expect("valid").is_some());
        assert_eq!(
            whole_checksum(&sent, 2).expect_err("another number").code(),
            Code::BadDigest
        );
        let twice = headers(&[
            ("x-amz-checksum-crc32", "Z+ry2Q=="),
            ("x-amz-checksum-crc32c", "Z+ry2Q=="),
        ]);
        assert_eq!(
            whole_checksum(&twice, 3).expect_err("two").code(),
            Code::InvalidRequest
        );
    }

    #[test]
    fn the_size_is_digits() {
        assert_eq!(size(&headers(&[])), Ok(None));
        assert_eq!(size(&headers(&[(SIZE, "15")])), Ok(Some(15)));
        for text in ["", "-1", "+1", "1.5", "x"] {
            assert_eq!(
                size(&headers(&[(SIZE, text)])).expect_err(text).code(),
                Code::InvalidRequest
            );
        }
    }
}
