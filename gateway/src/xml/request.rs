//! The documents that clients send, parsed into what they ask for.

use twintree_store::{Algorithm, Checksum};

use super::read::{Element, malformed, read};
use crate::checksum;
use crate::date;
use crate::error::{Code, S3Error, S3Result};

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

/// What CreateBucket asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateBucketRequest {
    /// The location constraint, if any.
    pub location: Option<String>,
    /// Tags of the new bucket.
    pub tags: Vec<(String, String)>,
}

/// Reads the body of CreateBucket; an empty one asks for nothing.
///
/// # Errors
/// `MalformedXML`, `InvalidTag`, `InvalidLocationConstraint` for text that is no region's name.
pub fn create_bucket_request(document: &[u8]) -> S3Result<CreateBucketRequest> {
    if document.is_empty() {
        return Ok(CreateBucketRequest::default());
    }
    let root = read(document, &["CreateBucketConfiguration"])?;
    let location = root
        .child_word("LocationConstraint")
        .filter(|text| !text.is_empty());
    if let Some(text) = location {
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
        if !plain || text.len() > 255 {
            return Err(
                S3Error::new(Code::InvalidLocationConstraint).with("LocationConstraint", text)
            );
        }
    }
    let tags = match root.child("Tags") {
        Some(set) => tag_set(set, TagLimits::BUCKET)?,
        None => Vec::new(),
    };
    Ok(CreateBucketRequest {
        location: location.map(str::to_owned),
        tags,
    })
}

/// How many tags a thing may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagLimits {
    most: usize,
    of: &'static str,
}

impl TagLimits {
    /// Ten tags of an object.
    pub const OBJECT: TagLimits = TagLimits {
        most: 10,
        of: "Object",
    };
    /// Fifty tags of a bucket.
    pub const BUCKET: TagLimits = TagLimits {
        most: 50,
        of: "Bucket",
    };
}

/// Reads the body of PutObjectTagging and PutBucketTagging.
///
/// # Errors
/// `MalformedXML`; `InvalidTag` for what [`check_tags`] refuses.
pub fn tagging_request(document: &[u8], limits: TagLimits) -> S3Result<Vec<(String, String)>> {
    let root = read(document, &["Tagging"])?;
    let set = root.child("TagSet").ok_or_else(|| malformed("no TagSet"))?;
    tag_set(set, limits)
}

fn tag_set(set: &Element, limits: TagLimits) -> S3Result<Vec<(String, String)>> {
    let tags = set
        .all("Tag")
        .map(|tag| {
            let key = tag
                .child_text("Key")
                .ok_or_else(|| malformed("a tag without a key"))?;
            let value = tag
                .child_text("Value")
                .ok_or_else(|| malformed("a tag without a value"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect::<S3Result<Vec<_>>>()?;
    check_tags(&tags, limits)?;
    Ok(tags)
}

/// Reads `x-amz-tagging`: pairs as in a query, form-encoded.
///
/// # Errors
/// `InvalidArgument` where it does not decode; `InvalidTag`.
pub fn tagging_header(value: &str) -> S3Result<Vec<(String, String)>> {
    let query = crate::route::Query::parse(value).map_err(|_| {
        S3Error::invalid_argument(
            "x-amz-tagging",
            value,
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.",
        )
    })?;
    let tags: Vec<_> = query
        .pairs()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    check_tags(&tags, TagLimits::OBJECT)?;
    Ok(tags)
}

/// Checks number, lengths, letters and that no key comes twice.
///
/// # Errors
/// `InvalidTag`: Ceph's choice for too many as well, where AWS says `BadRequest`.
pub fn check_tags(tags: &[(String, String)], limits: TagLimits) -> S3Result<()> {
    let refuse = |message: String| Err(S3Error::new(Code::InvalidTag).message(message));
    if tags.len() > limits.most {
        return refuse(format!(
            "{} tags cannot be greater than {}",
            limits.of, limits.most
        ));
    }
    for (at, (key, value)) in tags.iter().enumerate() {
        let invalid_key =
            !(1..=128).contains(&key.chars().count()) || !key.chars().all(may_stand_in_tag);
        if invalid_key || key.starts_with("aws:") {
            return refuse("The TagKey you have provided is invalid".to_owned());
        }
        if value.chars().count() > 256 || !value.chars().all(may_stand_in_tag) {
            return refuse("The TagValue you have provided is invalid".to_owned());
        }
        if tags[..at].iter().any(|(earlier, _)| earlier == key) {
            return refuse("Cannot provide multiple Tags with the same key".to_owned());
        }
    }
    Ok(())
}

fn may_stand_in_tag(character: char) -> bool {
    character.is_alphanumeric()
        || character.is_whitespace() && !character.is_control()
        || "_.:/=+-@".contains(character)
}

/// Says whether an AccessControlPolicy grants nothing but FULL_CONTROL to one canonical user, or nothing at all: the
/// only access list that this server keeps is the owner's.
///
/// # Errors
/// `MalformedACLError`.
pub fn is_private_acl(document: &[u8]) -> S3Result<bool> {
    let malformed_acl = || S3Error::new(Code::MalformedACLError);
    let root = read(document, &["AccessControlPolicy"]).map_err(|_| malformed_acl())?;
    let owner = root.child("Owner").and_then(|owner| owner.child_word("ID"));
    let list = root.child("AccessControlList").ok_or_else(malformed_acl)?;
    for grant in list.all("Grant") {
        let grantee = grant.child("Grantee").ok_or_else(malformed_acl)?;
        let permission = grant.child_word("Permission").ok_or_else(malformed_acl)?;
        if !matches!(
            permission,
            "FULL_CONTROL" | "READ" | "WRITE" | "READ_ACP" | "WRITE_ACP"
        ) {
            return Err(malformed_acl());
        }
        let to_owner = grantee
            .child_word("ID")
            .is_some_and(|id| owner.is_none_or(|owner| owner == id));
        if !to_owner || permission != "FULL_CONTROL" {
            return Ok(false);
        }
    }
    Ok(list.all("Grant").count() > 0)
}

/// Gives the `Payer` of a RequestPaymentConfiguration.
///
/// # Errors
/// `MalformedXML`.
pub fn request_payer(document: &[u8]) -> S3Result<String> {
    let root = read(document, &["RequestPaymentConfiguration"])?;
    match root.child_word("Payer") {
        Some(payer @ ("BucketOwner" | "Requester")) => Ok(payer.to_owned()),
        _ => Err(malformed("Payer")),
    }
}

/// Says whether a BucketLoggingStatus turns logging on.
///
/// # Errors
/// `MalformedXML`.
pub fn logging_enabled(document: &[u8]) -> S3Result<bool> {
    Ok(read(document, &["BucketLoggingStatus"])?
        .child("LoggingEnabled")
        .is_some())
}

/// Says whether a NotificationConfiguration asks for anything.
///
/// # Errors
/// `MalformedXML`.
pub fn notifications_wanted(document: &[u8]) -> S3Result<bool> {
    Ok(!read(document, &["NotificationConfiguration"])?
        .children
        .is_empty())
}

/// Gives the status that a VersioningConfiguration asks for, if any.
///
/// # Errors
/// `MalformedXML`; `IllegalVersioningConfigurationException` without a status.
pub fn versioning_status(document: &[u8]) -> S3Result<String> {
    let root = read(document, &["VersioningConfiguration"])?;
    match root.child_word("Status") {
        Some(status @ ("Enabled" | "Suspended")) => Ok(status.to_owned()),
        Some(_) => Err(malformed("Status")),
        None => Err(S3Error::new(Code::IllegalVersioningConfigurationException)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn tags_are_checked_by_number_length_letters_and_uniqueness() {
        let tags = |count: usize| {
            (0..count)
                .map(|n| (n.to_string(), String::new()))
                .collect::<Vec<_>>()
        };
        assert!(check_tags(&tags(10), TagLimits::OBJECT).is_ok());
        assert!(check_tags(&tags(11), TagLimits::OBJECT).is_err());
        assert!(check_tags(&tags(50), TagLimits::BUCKET).is_ok());
        assert!(check_tags(&tags(51), TagLimits::BUCKET).is_err());
        let one = |key: &str, value: &str| {
            check_tags(&[(key.to_owned(), value.to_owned())], TagLimits::OBJECT)
        };
        assert!(one(&"k".repeat(128), &"한".repeat(256)).is_ok());
        assert!(one("a b_.:/=+-@9", "").is_ok());
        for (key, value) in [
            ("", "v"),
            (&*"k".repeat(129), "v"),
            ("k", &*"v".repeat(257)),
            ("a,b", "v"),
            ("k", "v&"),
            ("aws:k", "v"),
        ] {
            assert_eq!(
                one(key, value).expect_err(key).code(),
                Code::InvalidTag,
                "{key}={value}"
            );
        }
        let twice = [
            ("k".to_owned(), "1".to_owned()),
            ("k".to_owned(), "2".to_owned()),
        ];
        assert_eq!(
            check_tags(&twice, TagLimits::OBJECT)
                .expect_err("twice")
                .code(),
            Code::InvalidTag
        );
    }

    #[test]
    fn tags_come_as_document_and_as_header() {
        let document = b"<Tagging><TagSet><Tag><Key> k</Key><Value/></Tag></TagSet></Tagging>";
        assert_eq!(
            tagging_request(document, TagLimits::OBJECT).expect("valid"),
            [(" k".to_owned(), String::new())]
        );
        assert_eq!(
            tagging_request(b"<Tagging/>", TagLimits::OBJECT)
                .expect_err("no set")
                .code(),
            Code::MalformedXML
        );
        let header = tagging_header("a=b%20c&d=&e").expect("valid");
        assert_eq!(header.len(), 3);
        assert_eq!(header[0], ("a".to_owned(), "b c".to_owned()));
        assert_eq!(
            tagging_header("a=%zz").expect_err("broken").code(),
            Code::InvalidArgument
        );
        assert_eq!(
            tagging_header("a=1&a=2").expect_err("twice").code(),
            Code::InvalidTag
        );
    }

    #[test]
    fn create_bucket_takes_any_region_and_nothing() {
        assert_eq!(
            create_bucket_request(b"").expect("empty"),
            CreateBucketRequest::default()
        );
        let location = |text: &str| {
            let document = format!(
                "<CreateBucketConfiguration><LocationConstraint>{text}</LocationConstraint></CreateBucketConfiguration>"
            );
            create_bucket_request(document.as_bytes()).map(|request| request.location)
        };
        assert_eq!(
            location("xx-any-9").expect("any"),
            Some("xx-any-9".to_owned())
        );
        assert_eq!(location("").expect("none"), None);
        assert_eq!(
            location("a b").expect_err("no region").code(),
            Code::InvalidLocationConstraint
        );
        assert_eq!(
            create_bucket_request(b"junk").expect_err("junk").code(),
            Code::MalformedXML
        );
    }

    #[test]
    fn only_the_owners_full_control_is_a_private_list() {
        let acl = |grants: &str| {
            is_private_acl(
                format!(
                    "<AccessControlPolicy><Owner><ID>me</ID></Owner><AccessControlList>{grants}</AccessControlList>\
                     </AccessControlPolicy>"
                )
                .as_bytes(),
            )
        };
        let grant = |who: &str, what: &str| {
            format!(
                "<Grant><Grantee><ID>{who}</ID></Grantee><Permission>{what}</Permission></Grant>"
            )
        };
        assert!(acl(&grant("me", "FULL_CONTROL")).expect("valid"));
        assert!(!acl(&grant("you", "FULL_CONTROL")).expect("valid"));
        assert!(!acl(&grant("me", "READ")).expect("valid"));
        assert!(!acl("").expect("valid"));
        assert_eq!(
            acl(&grant("me", "ALL")).expect_err("no permission").code(),
            Code::MalformedACLError
        );
    }
}
