//! Tags of objects and buckets, as documents and as a header.

use super::read::{Element, malformed, read};
use crate::error::{Code, S3Error, S3Result};

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

/// Reads the tags of a set and checks them.
///
/// # Errors
/// As [`tagging_request`].
pub(super) fn tag_set(set: &Element, limits: TagLimits) -> S3Result<Vec<(String, String)>> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
