//! The lists that clients send: keys to delete, parts to complete.

use twintree_store::{Algorithm, Checksum};

use super::read::{Element, malformed, read};
use crate::checksum;
use crate::date;
use crate::error::{S3Error, S3Result};

/// The most keys of one DeleteObjects.
pub const MAX_DELETE: usize = 1000;
/// The most parts of an upload.
pub const MAX_PARTS: usize = 10_000;

/// What DeleteObjects asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Report only what failed.
    pub quiet: bool,
    /// At least one, at most [`MAX_DELETE`].
    pub objects: Vec<ObjectToDelete>,
}

/// One object of a DeleteObjects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectToDelete {
    /// The key, unescaped, not trimmed, not yet parsed: a bad one fails alone.
    pub key: String,
    /// The version, where one is named.
    pub version_id: Option<String>,
    /// Delete only what has this ETag (as written, perhaps quoted), or `*`.
    pub etag: Option<String>,
    /// Delete only what was modified in this second.
    pub modified: Option<i64>,
    /// Delete only what has this size.
    pub size: Option<u64>,
}

/// Reads the body of DeleteObjects.
///
/// # Errors
/// `MalformedXML`, also for no object or more than [`MAX_DELETE`].
pub fn delete_request(document: &[u8]) -> S3Result<DeleteRequest> {
    let root = read(document, &["Delete"])?;
    let objects = root
        .all("Object")
        .map(object_to_delete)
        .collect::<S3Result<Vec<_>>>()?;
    if objects.is_empty() || objects.len() > MAX_DELETE {
        return Err(malformed(&format!("{} objects", objects.len())));
    }
    Ok(DeleteRequest {
        quiet: flag(&root, "Quiet")?,
        objects,
    })
}

fn object_to_delete(object: &Element) -> S3Result<ObjectToDelete> {
    let modified = object.child_word("LastModifiedTime").map(|text| {
        date::parse_http_date(text)
            .or_else(|| date::parse_iso8601(text).map(|moment| moment.seconds()))
            .ok_or_else(|| malformed("LastModifiedTime"))
    });
    let size = object
        .child_word("Size")
        .map(|text| text.parse().map_err(|_| malformed("Size")));
    Ok(ObjectToDelete {
        key: object
            .child_text("Key")
            .ok_or_else(|| malformed("an object without a key"))?
            .to_owned(),
        version_id: object
            .child_word("VersionId")
            .filter(|id| !id.is_empty())
            .map(str::to_owned),
        etag: object.child_word("ETag").map(str::to_owned),
        modified: modified.transpose()?,
        size: size.transpose()?,
    })
}

fn flag(element: &Element, name: &str) -> S3Result<bool> {
    match element.child_word(name) {
        None | Some("" | "false" | "False" | "0") => Ok(false),
        Some("true" | "True" | "1") => Ok(true),
        Some(_) => Err(malformed(name)),
    }
}

/// One part that CompleteMultipartUpload lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletePart {
    /// 1 to 10,000.
    pub number: u16,
    /// Without quotes.
    pub etag: String,
    /// Those that the client repeats.
    pub checksums: Vec<Checksum>,
}

/// Reads the body of CompleteMultipartUpload, in the order given: whether it ascends is checked with the upload.
///
/// # Errors
/// `MalformedXML`, also for no part or more than [`MAX_PARTS`]; `InvalidArgument` for a part number out of range;
/// `InvalidRequest` for a checksum that is none.
pub fn complete_request(document: &[u8]) -> S3Result<Vec<CompletePart>> {
    let root = read(
        document,
        &["CompleteMultipartUpload", "CompletedMultipartUpload"],
    )?;
    let count = root.all("Part").count();
    if count == 0 || count > MAX_PARTS {
        return Err(malformed(&format!("{count} parts")));
    }
    root.all("Part").map(complete_part).collect()
}

fn complete_part(part: &Element) -> S3Result<CompletePart> {
    let text = part
        .child_word("PartNumber")
        .ok_or_else(|| malformed("a part without a number"))?;
    let number: i64 = text.parse().map_err(|_| malformed("PartNumber"))?;
    let number = u16::try_from(number)
        .ok()
        .filter(|number| (1..=MAX_PARTS).contains(&usize::from(*number)));
    let number = number.ok_or_else(|| {
        S3Error::invalid_argument(
            "partNumber",
            text,
            "Part number must be an integer between 1 and 10000, inclusive",
        )
    })?;
    let etag = part
        .child_word("ETag")
        .ok_or_else(|| malformed("a part without an ETag"))?;
    let mut checksums = Vec::new();
    for algorithm in Algorithm::ALL {
        let element = checksum::element_of(algorithm);
        if let Some(text) = part.child_word(element) {
            checksums.push(checksum::decode(algorithm, text).ok_or_else(|| {
                S3Error::invalid_request(format!(
                    "Value for {element} of part {number} is invalid."
                ))
            })?);
        }
    }
    Ok(CompletePart {
        number,
        etag: unquoted(etag).to_owned(),
        checksums,
    })
}

/// Takes one pair of quotes off an ETag.
pub fn unquoted(etag: &str) -> &str {
    etag.strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn delete_keeps_keys_as_they_are() {
        let request = delete_request(
            b"<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Object><Key> a&#xD;b </Key></Object>\
              <Object><Key>k%20</Key><VersionId>null</VersionId><ETag>\"e\"</ETag><Size>3</Size>\
              <LastModifiedTime>Thu, 01 Jan 2015 00:00:00 GMT</LastModifiedTime></Object><Quiet>true</Quiet></Delete>",
        )
        .expect("valid");
        assert!(request.quiet);
        assert_eq!(
            request.objects[0],
            ObjectToDelete {
                key: " a\rb ".into(),
                ..ObjectToDelete::default()
            }
        );
        let second = &request.objects[1];
        assert_eq!(
            (second.key.as_str(), second.version_id.as_deref()),
            ("k%20", Some("null"))
        );
        assert_eq!(
            (second.etag.as_deref(), second.size),
            (Some("\"e\""), Some(3))
        );
        assert_eq!(second.modified, Some(1_420_070_400));
    }

    #[test]
    fn delete_of_none_or_more_than_a_thousand_is_malformed() {
        let of = |count| {
            format!(
                "<Delete>{}</Delete>",
                "<Object><Key>k</Key></Object>".repeat(count)
            )
        };
        assert_eq!(
            delete_request(of(1000).as_bytes())
                .expect("the limit")
                .objects
                .len(),
            1000
        );
        for count in [0, 1001] {
            assert_eq!(
                delete_request(of(count).as_bytes())
                    .expect_err("over")
                    .code(),
                Code::MalformedXML
            );
        }
        let keyless = delete_request(b"<Delete><Object/></Delete>").expect_err("no key");
        assert_eq!(keyless.code(), Code::MalformedXML);
    }

    #[test]
    fn complete_reads_numbers_etags_and_checksums() {
        let parts = complete_request(
            b"<CompleteMultipartUpload><Part><ETag>&quot;ab&quot;</ETag><PartNumber>2</PartNumber>\
              <ChecksumCRC32>y/Q5Jg==</ChecksumCRC32></Part><Part><PartNumber> 1 </PartNumber><ETag>cd</ETag></Part>\
              </CompleteMultipartUpload>",
        )
        .expect("valid");
        assert_eq!((parts[0].number, parts[0].etag.as_str()), (2, "ab"));
        assert_eq!(parts[0].checksums[0].value, [0xCB, 0xF4, 0x39, 0x26]);
        assert_eq!((parts[1].number, parts[1].etag.as_str()), (1, "cd"));
    }

    #[test]
    fn complete_refuses_bad_lists() {
        let of =
            |inner: &str| format!("<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>");
        let code = |inner: &str| {
            complete_request(of(inner).as_bytes())
                .expect_err(inner)
                .code()
        };
        assert_eq!(code(""), Code::MalformedXML);
        assert_eq!(code("<Part><ETag>a</ETag></Part>"), Code::MalformedXML);
        assert_eq!(
            code("<Part><PartNumber>1</PartNumber></Part>"),
            Code::MalformedXML
        );
        assert_eq!(
            code("<Part><PartNumber>x</PartNumber><ETag>a</ETag></Part>"),
            Code::MalformedXML
        );
        for number in ["0", "-1", "10001", "65537"] {
            let inner = format!("<Part><PartNumber>{number}</PartNumber><ETag>a</ETag></Part>");
            assert_eq!(code(&inner), Code::InvalidArgument);
        }
        let inner = "<Part><PartNumber>1</PartNumber><ETag>a</ETag><ChecksumCRC32>AA==</ChecksumCRC32></Part>";
        assert_eq!(code(inner), Code::InvalidRequest);
        let many = "<Part><PartNumber>1</PartNumber><ETag>a</ETag></Part>".repeat(10_001);
        assert_eq!(code(&many), Code::MalformedXML);
    }
}
