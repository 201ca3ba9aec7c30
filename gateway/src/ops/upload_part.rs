//! UploadPart: the body of one part, received straight to where it stays.

use http::header::ETAG;
use http::{HeaderValue, Response, StatusCode};
use twintree_store::{
    Algorithm, Bucket, ChecksumType, ETagKind, MAX_PART, ObjectKey, PartReceipt, PartStage, Upload,
    UploadId,
};

use super::answer;
use crate::body::{ObjectBody, OffThread, RequestBody, Sink};
use crate::call::{Call, Reply, blocking};
use crate::checksum;
use crate::error::{S3Error, S3Result};
use crate::route::Query;

/// Receives a part, verifies it and stores it; what was stored under its number stays until then.
///
/// # Errors
/// `InvalidArgument` for the number, `NoSuchUpload`, `InvalidRequest` for another checksum than the upload's, those of
/// the body, and what the disk says.
pub(crate) async fn upload_part(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
    body: RequestBody,
) -> S3Result<Reply> {
    let number = part_number(&call.query)?;
    let id = upload_id(&call.query)?;
    let mut body = ObjectBody::open(
        body,
        &call.parts,
        ETagKind::Md5,
        call.gateway.settings.max_put,
    )?;
    let part = begin(bucket, key, id, number, &mut body).await?;
    let (_, stage) = &*part;
    let sink = Sink {
        file: stage.file.clone(),
        offset: stage.offset,
        remote: stage.remote,
        room: stage.room,
        synced: bucket.is_strict(),
        guard: None,
    };
    let received = body.receive(sink).await?;
    let receipt = blocking(move || {
        let (upload, stage) = part.into_inner();
        Ok(upload.commit_part(stage, &received.digests, received.checksum)?)
    })
    .await?;
    Ok(reply(&receipt))
}

/// Finds the upload, compares the checksum, and takes a place for the part: all before the body is read. A client
/// that stops half-way leaves both to the blocking pool: an aborted upload's assembly ends with its last descriptor.
async fn begin(
    bucket: &Bucket,
    key: &ObjectKey,
    id: UploadId,
    number: u16,
    body: &mut ObjectBody,
) -> S3Result<OffThread<(Upload, PartStage)>> {
    let (bucket, key) = (bucket.clone(), key.clone());
    let (sent, length) = (body.algorithm(), body.length());
    let (part, expected) = blocking(move || {
        let upload = bucket.upload(&key, &id)?;
        let expected = upload.spec().checksum;
        check_algorithm(expected, sent)?;
        let stage = upload.begin_part(number, length)?;
        Ok((OffThread::new((upload, stage)), expected))
    })
    .await?;
    if let Some((algorithm, _)) = expected {
        body.also_compute(algorithm);
    }
    Ok(part)
}

/// Refuses a part whose checksum is not the upload's; a composite one cannot do without.
fn check_algorithm(
    expected: Option<(Algorithm, ChecksumType)>,
    sent: Option<Algorithm>,
) -> S3Result<()> {
    let actual = match (expected, sent) {
        (Some((expected, _)), Some(sent)) if expected != sent => {
            checksum::name_of(sent).to_ascii_lowercase()
        }
        (Some((_, ChecksumType::Composite)), None) => "null".to_owned(),
        _ => return Ok(()),
    };
    let expected = expected.map_or_else(String::new, |(expected, _)| {
        checksum::name_of(expected).to_ascii_lowercase()
    });
    Err(S3Error::invalid_request(format!(
        "Checksum Type mismatch occurred, expected checksum Type: {expected}, actual checksum Type: {actual}"
    )))
}

fn reply(receipt: &PartReceipt) -> Reply {
    let mut reply: Response<_> = answer::empty(StatusCode::OK);
    let headers = reply.headers_mut();
    let etag = HeaderValue::try_from(format!("\"{}\"", receipt.etag))
        .expect("hex in quotes is a header value");
    headers.insert(ETAG, etag);
    if let Some(sum) = &receipt.checksum {
        checksum::add_value(headers, sum);
    }
    reply
}

/// Reads `partNumber`.
///
/// # Errors
/// `InvalidArgument` outside 1 to 10,000.
pub(super) fn part_number(query: &Query) -> S3Result<u16> {
    let text = query.get("partNumber").unwrap_or("");
    let number = text
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten();
    number
        .filter(|number| (1..=MAX_PART).contains(number))
        .ok_or_else(|| {
            S3Error::invalid_argument(
                "partNumber",
                text,
                format!("Part number must be an integer between 1 and {MAX_PART}, inclusive"),
            )
        })
}

/// Reads `uploadId`.
///
/// # Errors
/// `NoSuchUpload` for a text that no upload ever had for its id.
pub(super) fn upload_id(query: &Query) -> S3Result<UploadId> {
    Ok(UploadId::parse(query.get("uploadId").unwrap_or(""))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn part_numbers_are_whole_and_in_range() {
        let number = |raw: &str| part_number(&Query::parse(raw).expect("valid"));
        assert_eq!(number("partNumber=1"), Ok(1));
        assert_eq!(number("partNumber=10000"), Ok(10_000));
        for raw in [
            "",
            "partNumber",
            "partNumber=0",
            "partNumber=10001",
            "partNumber=-1",
            "partNumber=%2B1",
            "partNumber=1.0",
            "partNumber=65537",
        ] {
            assert_eq!(
                number(raw).expect_err(raw).code(),
                Code::InvalidArgument,
                "{raw}"
            );
        }
    }

    #[test]
    fn invented_ids_are_no_such_upload() {
        let id = |raw: &str| upload_id(&Query::parse(raw).expect("valid"));
        for raw in ["uploadId=", "uploadId=..%2F..", "uploadId=abc"] {
            assert_eq!(id(raw).expect_err(raw).code(), Code::NoSuchUpload);
        }
    }

    #[test]
    fn a_part_has_its_uploads_algorithm() {
        use Algorithm::{Crc32, Sha256};
        use ChecksumType::{Composite, FullObject};
        for (expected, sent, allowed) in [
            (None, None, true),
            (None, Some(Crc32), true),
            (Some((Crc32, Composite)), Some(Crc32), true),
            (Some((Crc32, Composite)), None, false),
            (Some((Crc32, FullObject)), None, true),
            (Some((Crc32, FullObject)), Some(Sha256), false),
        ] {
            assert_eq!(
                check_algorithm(expected, sent).is_ok(),
                allowed,
                "{expected:?} {sent:?}"
            );
        }
    }
}
