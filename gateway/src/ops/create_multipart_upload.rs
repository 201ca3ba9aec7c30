//! CreateMultipartUpload: what the object will be, said before its first part.

use http::{HeaderMap, HeaderName, HeaderValue};
use twintree_store::{Algorithm, Bucket, ChecksumType, ObjectKey, UploadSpec};

use super::answer;
use crate::call::{Call, Reply, blocking};
use crate::error::{S3Error, S3Result};
use crate::xml::Writer;
use crate::{checksum, meta};

const ALGORITHM: &str = "x-amz-checksum-algorithm";
const TYPE: &str = "x-amz-checksum-type";

/// Begins an upload.
///
/// # Errors
/// `InvalidRequest` for a checksum type that the algorithm has not, those of metadata and tags, and what the disk
/// says of the key.
pub(crate) async fn create_multipart_upload(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
) -> S3Result<Reply> {
    let headers = &call.parts.headers;
    meta::refuse_unbuilt(headers)?;
    let spec = UploadSpec {
        meta: meta::from_headers(headers)?,
        checksum: checksum_of(headers)?,
        initiator: Some(call.principal.access_key_id.clone()),
    };
    let chosen = spec.checksum;
    let id = {
        let (bucket, key) = (bucket.clone(), key.clone());
        blocking(move || Ok(bucket.create_upload(&key, spec)?)).await?
    };
    let mut xml = Writer::s3("InitiateMultipartUploadResult", 512);
    xml.text("Bucket", bucket.name().as_str());
    xml.text("Key", key.as_str());
    xml.plain("UploadId", id.as_str());
    let mut reply = answer::document(xml);
    if let Some((algorithm, kind)) = chosen {
        let headers = reply.headers_mut();
        let value = HeaderValue::from_static;
        headers.insert(
            HeaderName::from_static(ALGORITHM),
            value(checksum::name_of(algorithm)),
        );
        headers.insert(
            HeaderName::from_static(TYPE),
            value(checksum::type_name(kind)),
        );
    }
    Ok(reply)
}

/// The algorithm and its type; a type that is not named is the algorithm's own.
fn checksum_of(headers: &HeaderMap) -> S3Result<Option<(Algorithm, ChecksumType)>> {
    let kind = checksum_type(headers)?;
    let Some(name) = headers.get(ALGORITHM) else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(S3Error::invalid_request(
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )),
        };
    };
    let algorithm = checksum::parse_algorithm(name.to_str().unwrap_or("").trim(), ALGORITHM)?;
    let usual = match algorithm {
        Algorithm::Crc64Nvme => ChecksumType::FullObject,
        Algorithm::Crc32 | Algorithm::Crc32c | Algorithm::Sha1 | Algorithm::Sha256 => {
            ChecksumType::Composite
        }
    };
    Ok(Some((algorithm, kind.unwrap_or(usual))))
}

/// Reads `x-amz-checksum-type`.
///
/// # Errors
/// `InvalidRequest` for any value but the two types, in any case of letters.
pub(super) fn checksum_type(headers: &HeaderMap) -> S3Result<Option<ChecksumType>> {
    let Some(value) = headers.get(TYPE) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("").trim();
    [ChecksumType::FullObject, ChecksumType::Composite]
        .into_iter()
        .find(|kind| checksum::type_name(*kind).eq_ignore_ascii_case(text))
        .map(Some)
        .ok_or_else(|| S3Error::invalid_request("Value for x-amz-checksum-type header is invalid."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::testing::headers;

    fn chosen(lines: &[(&str, &str)]) -> S3Result<Option<(Algorithm, ChecksumType)>> {
        checksum_of(&headers(lines))
    }

    #[test]
    fn each_algorithm_has_its_usual_type() {
        assert_eq!(chosen(&[]), Ok(None));
        for (name, algorithm, kind) in [
            ("CRC32", Algorithm::Crc32, ChecksumType::Composite),
            ("crc32c", Algorithm::Crc32c, ChecksumType::Composite),
            ("CRC64NVME", Algorithm::Crc64Nvme, ChecksumType::FullObject),
            ("SHA1", Algorithm::Sha1, ChecksumType::Composite),
            ("sha256", Algorithm::Sha256, ChecksumType::Composite),
        ] {
            assert_eq!(chosen(&[(ALGORITHM, name)]), Ok(Some((algorithm, kind))));
        }
        let full = chosen(&[(ALGORITHM, "CRC32"), (TYPE, "full_object")]);
        assert_eq!(full, Ok(Some((Algorithm::Crc32, ChecksumType::FullObject))));
    }

    #[test]
    fn what_names_no_type_or_no_algorithm_is_refused() {
        for lines in [
            &[(TYPE, "COMPOSITE")][..],
            &[(ALGORITHM, "CRC32"), (TYPE, "PARTIAL")],
            &[(ALGORITHM, "CRC16")],
            &[(ALGORITHM, "")],
        ] {
            assert_eq!(
                chosen(lines).expect_err("refused").code(),
                Code::InvalidRequest,
                "{lines:?}"
            );
        }
    }
}
