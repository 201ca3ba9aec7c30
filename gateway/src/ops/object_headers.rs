//! The headers of an object, as GET, HEAD and 304 carry them: what is known of its content, what its
//! writer said about it, and what the reader wants said instead.

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE,
    CONTENT_TYPE, ETAG, EXPIRES, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use twintree_store::{Checksum, ObjectInfo};

use crate::checksum;
use crate::date;
use crate::error::S3Error;
use crate::meta;
use crate::route::Query;

/// The query parameters that replace a header of the reply.
const OVERRIDES: [(&str, HeaderName); 6] = [
    ("response-cache-control", CACHE_CONTROL),
    ("response-content-disposition", CONTENT_DISPOSITION),
    ("response-content-encoding", CONTENT_ENCODING),
    ("response-content-language", CONTENT_LANGUAGE),
    ("response-content-type", CONTENT_TYPE),
    ("response-expires", EXPIRES),
];

/// How much user metadata a reply carries, each entry counted with 32 bytes beside it: S3's
/// 2 KiB in as many entries as a request can have fit. A person may have written more into the xattr than any client bears.
const MAX_USER_META: usize = 16 << 10;

/// Sets `ETag` and `Last-Modified`: all that a 304 says.
pub(super) fn set_validators(headers: &mut HeaderMap, info: &ObjectInfo) {
    let etag =
        HeaderValue::try_from(info.etag.quoted()).expect("an ETag is hex digits and a hyphen");
    headers.insert(ETAG, etag);
    let modified = date::http_date(info.modified.seconds());
    headers.insert(
        LAST_MODIFIED,
        HeaderValue::try_from(modified).expect("a date is ASCII"),
    );
}

/// Sets everything that is said of the object as a whole.
pub(super) fn set_object(headers: &mut HeaderMap, info: &ObjectInfo) {
    set_validators(headers, info);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let content_type = info
        .meta
        .content_type
        .as_deref()
        .and_then(|value| HeaderValue::from_bytes(value).ok());
    headers.insert(
        CONTENT_TYPE,
        content_type.unwrap_or(HeaderValue::from_static("binary/octet-stream")),
    );
    for (name, value) in &info.meta.headers {
        let is_default = name == "x-amz-storage-class" && value == b"STANDARD";
        // A person may have written any name into the xattr: framing, cookies and the like are not an object's.
        if !is_default
            && meta::is_system_header(name)
            && let Some((name, value)) = header(name, value)
        {
            headers.insert(name, value);
        }
    }
    set_user_metadata(headers, &info.meta.user);
    if !info.meta.tags.is_empty() {
        headers.insert(
            "x-amz-tagging-count",
            HeaderValue::from(info.meta.tags.len()),
        );
    }
}

/// Semantics: what cannot be a header (a person may have written it into the xattr) is counted in
/// `x-amz-missing-meta`, as the S3 API page of GetObject has it.
fn set_user_metadata(headers: &mut HeaderMap, user: &[(String, Vec<u8>)]) {
    let mut missing = 0usize;
    let mut left = MAX_USER_META;
    for (name, value) in user {
        let size = name.len() + value.len() + 32;
        let fitting = left.checked_sub(size);
        let header = fitting.and_then(|_| header(&format!("x-amz-meta-{name}"), value));
        match header {
            Some((name, value)) => {
                left -= size;
                headers.insert(name, value);
            }
            None => missing += 1,
        }
    }
    if missing > 0 {
        headers.insert("x-amz-missing-meta", HeaderValue::from(missing));
    }
}

fn header(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    Some((
        HeaderName::try_from(name).ok()?,
        HeaderValue::from_bytes(value).ok()?,
    ))
}

/// Sets the checksum of one part, which speaks of the part alone, and the type of the whole object's.
pub(super) fn set_part_checksum(headers: &mut HeaderMap, info: &ObjectInfo, sum: &Checksum) {
    if let Some(whole) = &info.checksum {
        checksum::add_type(headers, whole.kind);
    }
    checksum::add_value(headers, sum);
}

/// Replaces what the `response-*` parameters name.
///
/// # Errors
/// `InvalidArgument` where a value cannot be a header.
pub(super) fn set_overrides(headers: &mut HeaderMap, query: &Query) -> Result<(), S3Error> {
    if query.raw().is_empty() {
        return Ok(());
    }
    for (parameter, name) in OVERRIDES {
        if let Some(value) = query.get(parameter) {
            let parsed = HeaderValue::from_bytes(value.as_bytes());
            let refused = |_| S3Error::invalid_argument(parameter, value, "not a header value");
            headers.insert(name, parsed.map_err(refused)?);
        }
    }
    Ok(())
}
