//! What a client says in headers about the object that it makes.
//!
//! Values are bytes from end to end: clients send raw UTF-8, Latin-1 and dates that are none, and get back what they
//! sent. What this gateway does not build (encryption, object lock, access lists) is refused here for every operation
//! that makes an object, because an object that silently lacks it would be a lie.

use http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, EXPIRES,
};
use http::{HeaderMap, HeaderName};
use twintree_store::Meta;

use crate::error::{Code, S3Error, S3Result};
use crate::xml;

/// Names and values of user metadata together, in bytes (S3 user guide, "Working with object metadata").
const MAX_USER_META: usize = 2048;

/// What the names of user metadata begin with.
pub(crate) const USER_PREFIX: &str = "x-amz-meta-";
const REDIRECT: HeaderName = HeaderName::from_static("x-amz-website-redirect-location");
const STORAGE_CLASS: HeaderName = HeaderName::from_static("x-amz-storage-class");
const TAGGING: HeaderName = HeaderName::from_static("x-amz-tagging");

/// System headers that are kept verbatim; Content-Encoding loses `aws-chunked`, which describes the transfer only.
const KEPT: [HeaderName; 6] = [
    CACHE_CONTROL,
    CONTENT_DISPOSITION,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    EXPIRES,
    REDIRECT,
];

/// Is this a header that an object may have, beside its Content-Type and its user metadata?
pub(crate) fn is_system_header(name: &str) -> bool {
    name == STORAGE_CLASS.as_str() || KEPT.iter().any(|kept| kept.as_str() == name)
}

const STORAGE_CLASSES: [&str; 11] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "OUTPOSTS",
    "GLACIER_IR",
    "SNOW",
    "EXPRESS_ONEZONE",
];

/// Reads everything that PutObject, CopyObject with REPLACE and CreateMultipartUpload say about an object, tags too.
///
/// # Errors
/// `MetadataTooLarge`, `InvalidStorageClass`, and those of the tags. [`refuse_unbuilt`] is the caller's to ask.
pub fn from_headers(headers: &HeaderMap) -> S3Result<Meta> {
    Ok(Meta {
        content_type: joined(headers, &CONTENT_TYPE).filter(|value| !value.is_empty()),
        headers: system_headers(headers)?,
        user: user_meta(headers)?,
        tags: tags(headers)?.unwrap_or_default(),
    })
}

/// Says where an object is kept and where a website sends its readers: headers that a copy never takes from its
/// source, but from its own request alone (S3 API, CopyObject).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement(Vec<(String, Vec<u8>)>);

impl Placement {
    /// Reads the headers of a copy.
    ///
    /// # Errors
    /// `InvalidStorageClass`.
    pub fn of(headers: &HeaderMap) -> S3Result<Self> {
        let mut own = system_headers(headers)?;
        own.retain(|(name, _)| is_placement(name));
        Ok(Self(own))
    }

    /// Gives the source's metadata in this place; `None` where it is there already.
    pub fn replaces(&self, source: &Meta) -> Option<Meta> {
        let of_source = source.headers.iter().filter(|(name, _)| is_placement(name));
        if of_source.eq(&self.0) {
            return None;
        }
        let mut meta = source.clone();
        meta.headers.retain(|(name, _)| !is_placement(name));
        meta.headers.extend_from_slice(&self.0);
        Some(meta)
    }
}

fn is_placement(name: &str) -> bool {
    name == STORAGE_CLASS.as_str() || name == REDIRECT.as_str()
}

/// Reads `x-amz-tagging`; `None` without it.
///
/// # Errors
/// `InvalidArgument`, `InvalidTag`.
pub fn tags(headers: &HeaderMap) -> S3Result<Option<Vec<(String, String)>>> {
    let Some(value) = headers.get(TAGGING) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    xml::tagging_header(&text).map(Some)
}

fn system_headers(headers: &HeaderMap) -> S3Result<Vec<(String, Vec<u8>)>> {
    let mut kept = Vec::new();
    for name in KEPT {
        let Some(mut value) = joined(headers, &name) else {
            continue;
        };
        if name == CONTENT_ENCODING {
            value = without_aws_chunked(value);
            if value.is_empty() {
                continue;
            }
        }
        kept.push((name.as_str().to_owned(), value));
    }
    if let Some(value) = headers.get(STORAGE_CLASS) {
        let class = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if !STORAGE_CLASSES.contains(&class.as_str()) {
            return Err(
                S3Error::new(Code::InvalidStorageClass).with("StorageClassRequested", class)
            );
        }
        if class != "STANDARD" {
            kept.push((STORAGE_CLASS.as_str().to_owned(), class.into_bytes()));
        }
    }
    Ok(kept)
}

/// Drops every `aws-chunked`; a value without it stays as it was written.
fn without_aws_chunked(value: Vec<u8>) -> Vec<u8> {
    let is_chunked = |token: &[u8]| token.eq_ignore_ascii_case(b"aws-chunked");
    let tokens = || value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if !tokens().any(is_chunked) {
        return value;
    }
    let kept: Vec<&[u8]> = tokens()
        .filter(|token| !token.is_empty() && !is_chunked(token))
        .collect();
    kept.join(&b","[..])
}

fn user_meta(headers: &HeaderMap) -> S3Result<Vec<(String, Vec<u8>)>> {
    let mut user = Vec::new();
    let mut size = 0;
    for name in headers.keys() {
        let Some(short) = name.as_str().strip_prefix(USER_PREFIX) else {
            continue;
        };
        if short.is_empty() {
            continue;
        }
        let value = joined(headers, name).unwrap_or_default();
        size += short.len() + value.len();
        user.push((short.to_owned(), value));
    }
    if size > MAX_USER_META {
        return Err(S3Error::new(Code::MetadataTooLarge)
            .with("Size", size.to_string())
            .with("MaxSizeAllowed", MAX_USER_META.to_string()));
    }
    Ok(user)
}

/// All lines of one header, joined by commas, as RFC 9110, section 5.3, lets anyone do.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut lines = headers.get_all(name).iter();
    let mut value = lines.next()?.as_bytes().to_vec();
    for line in lines {
        value.push(b',');
        value.extend_from_slice(line.as_bytes());
    }
    Some(value)
}

/// Refuses what would have to be stored with an object and is not built.
///
/// # Errors
/// `NotImplemented` for encryption and appends, `InvalidRequest` for object lock (no bucket has it),
/// `AccessControlListNotSupported` for every access list but the owner's.
pub fn refuse_unbuilt(headers: &HeaderMap) -> S3Result<()> {
    for name in headers.keys() {
        let name = name.as_str();
        if name.starts_with("x-amz-server-side-encryption") || name == "x-amz-write-offset-bytes" {
            return Err(S3Error::not_implemented(name));
        }
        if name.starts_with("x-amz-object-lock-") {
            return Err(S3Error::invalid_request(
                "Bucket is missing Object Lock Configuration",
            ));
        }
    }
    refuse_access_lists(headers)
}

/// Refuses every access list in headers but those that grant nothing beyond the owner's rights.
///
/// # Errors
/// `AccessControlListNotSupported`; `InvalidArgument` for a canned list that does not exist.
pub fn refuse_access_lists(headers: &HeaderMap) -> S3Result<()> {
    const CANNED: HeaderName = HeaderName::from_static("x-amz-acl");
    if headers
        .keys()
        .any(|name| name.as_str().starts_with("x-amz-grant-"))
    {
        return Err(S3Error::new(Code::AccessControlListNotSupported));
    }
    let Some(canned) = headers.get(CANNED) else {
        return Ok(());
    };
    match canned.to_str().unwrap_or("") {
        "" | "private" | "bucket-owner-full-control" | "bucket-owner-read" => Ok(()),
        "public-read" | "public-read-write" | "authenticated-read" | "aws-exec-read"
        | "log-delivery-write" => Err(S3Error::new(Code::AccessControlListNotSupported)),
        other => Err(S3Error::invalid_argument(
            "x-amz-acl",
            other,
            "Invalid canned access control list",
        )),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value).expect("a header value");
            map.append(HeaderName::from_static(name), value);
        }
        map
    }

    #[test]
    fn what_a_client_says_is_kept_byte_for_byte() {
        let meta = from_headers(&headers(&[
            ("content-type", b"text/\xe9"),
            ("expires", b"not a date"),
            ("x-amz-meta-a", "한".as_bytes()),
            ("x-amz-meta-b", b"1"),
            ("x-amz-meta-b", b"2"),
            ("x-amz-tagging", b"k=v&l="),
            ("x-amz-storage-class", b"STANDARD_IA"),
        ]))
        .expect("valid");
        assert_eq!(meta.content_type.as_deref(), Some(&b"text/\xe9"[..]));
        assert_eq!(
            meta.headers[0],
            ("expires".to_owned(), b"not a date".to_vec())
        );
        assert_eq!(
            meta.headers[1],
            ("x-amz-storage-class".to_owned(), b"STANDARD_IA".to_vec())
        );
        assert_eq!(meta.user[0], ("a".to_owned(), "한".as_bytes().to_vec()));
        assert_eq!(meta.user[1], ("b".to_owned(), b"1,2".to_vec()));
        assert_eq!(meta.tags.len(), 2);
    }

    #[test]
    fn aws_chunked_is_never_stored() {
        for (sent, kept) in [
            (&b"aws-chunked"[..], None),
            (b"gzip,aws-chunked", Some(&b"gzip"[..])),
            (b"AWS-Chunked, gzip, br", Some(b"gzip,br")),
            (b"deflate, gzip", Some(b"deflate, gzip")),
            (b"aws-chunked, aws-chunked", None),
        ] {
            let meta = from_headers(&headers(&[("content-encoding", sent)])).expect("valid");
            assert_eq!(
                meta.headers.first().map(|(_, value)| value.as_slice()),
                kept
            );
        }
    }

    #[test]
    fn user_metadata_is_bounded_names_and_values_together() {
        let value = vec![b'v'; MAX_USER_META - 1];
        assert!(from_headers(&headers(&[("x-amz-meta-k", &value)])).is_ok());
        let error = from_headers(&headers(&[("x-amz-meta-ke", &value)])).expect_err("one too many");
        assert_eq!(error.code(), Code::MetadataTooLarge);
    }

    #[test]
    fn what_is_not_built_is_refused() {
        for (name, value, code) in [
            (
                "x-amz-server-side-encryption",
                "AES256",
                Code::NotImplemented,
            ),
            (
                "x-amz-server-side-encryption-customer-key",
                "k",
                Code::NotImplemented,
            ),
            ("x-amz-write-offset-bytes", "0", Code::NotImplemented),
            ("x-amz-object-lock-mode", "GOVERNANCE", Code::InvalidRequest),
            (
                "x-amz-acl",
                "public-read",
                Code::AccessControlListNotSupported,
            ),
            ("x-amz-acl", "nonsense", Code::InvalidArgument),
            (
                "x-amz-grant-read",
                "id=x",
                Code::AccessControlListNotSupported,
            ),
        ] {
            let error = refuse_unbuilt(&headers(&[(name, value.as_bytes())])).expect_err(name);
            assert_eq!(error.code(), code, "{name}: {value}");
        }
        assert!(refuse_unbuilt(&headers(&[("x-amz-acl", b"bucket-owner-full-control")])).is_ok());
        let class =
            from_headers(&headers(&[("x-amz-storage-class", b"BEST")])).expect_err("no class");
        assert_eq!(class.code(), Code::InvalidStorageClass);
    }
}
