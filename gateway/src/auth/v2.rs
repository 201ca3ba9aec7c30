//! SigV2, in the header and in the query. boto3 still presigns with it unless told otherwise.
//!
//! HMAC-SHA1 over method, MD5, type, date, `x-amz-*` headers and the resource; the body is not covered.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{CONTENT_TYPE, DATE};
use sha1::Sha1;
use subtle::ConstantTimeEq;
use twintree_store::Timestamp;

use super::canonical::{Plus, decoded, pairs_of, parameter, push_values};
use super::chunked::Framing;
use super::credentials::Table;
use super::dates::SignedAt;
use super::signature::{refuse_skew, unknown_key};
use super::{ContentSha256, Head, Payload, Principal, Scheme, Verified};
use crate::error::{Code, S3Error};

/// Sub-resources and overrides that are part of the signed resource (AWS's list, as botocore keeps it).
const SIGNED_PARAMETERS: [&str; 35] = [
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "defaultObjectAcl",
    "delete",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "partNumber",
    "policy",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "select",
    "select-type",
    "storageClass",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// Says whether a raw query claims to be signed with SigV2.
pub(super) fn is_in(query: &str) -> bool {
    pairs_of(query).any(|(name, _)| matches!(name, "AWSAccessKeyId" | "Signature"))
}

/// Verifies what follows `AWS ` in the header.
pub(super) fn verify_header(
    head: &Head<'_>,
    rest: &str,
    table: &Table,
    now: Timestamp,
) -> Result<Verified, S3Error> {
    let (access_key, signature) = rest
        .trim()
        .rsplit_once(':')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| {
            S3Error::invalid_argument(
                "Authorization",
                "AWS",
                "AWS authorization header is invalid. Expected AwsAccessKeyId:signature",
            )
        })?;
    let amz_date = header_text(head, "x-amz-date");
    let date = header_text(head, DATE.as_str());
    let signed_at = amz_date
        .as_deref()
        .or(date.as_deref())
        .and_then(SignedAt::parse)
        .filter(|at| at.seconds >= 0);
    let signed_at = signed_at.ok_or_else(|| {
        S3Error::new(Code::AccessDenied)
            .message("AWS authentication requires a valid Date or x-amz-date header")
    })?;
    refuse_skew(signed_at, now)?;
    // AWS signs an empty date where x-amz-date stands for it; botocore signs its Date header all the same.
    let date = date.unwrap_or_default();
    let dates: &[&str] = if amz_date.is_none() {
        &[&date]
    } else {
        &["", &date]
    };
    verify(
        head,
        &Claim {
            access_key,
            signature,
            dates,
            query: "",
            scheme: Scheme::V2Header,
        },
        table,
    )
}

/// Verifies a presigned request.
pub(super) fn verify_presigned(
    head: &Head<'_>,
    query: &str,
    table: &Table,
    now: Timestamp,
) -> Result<Verified, S3Error> {
    let required = |name| parameter(query, name).filter(|value| !value.is_empty());
    let (Some(access_key), Some(signature), Some(expires)) = (
        required("AWSAccessKeyId"),
        required("Signature"),
        required("Expires"),
    ) else {
        return Err(denied(
            "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters",
        ));
    };
    let end: i64 = expires
        .parse()
        .map_err(|_| denied("Invalid date (should be seconds since epoch)"))?;
    if now > Timestamp::from_parts(end, 0) {
        return Err(denied("Request has expired")
            .with(
                "Expires",
                crate::date::iso8601(Timestamp::from_parts(end, 0)),
            )
            .with("ServerTime", crate::date::iso8601(now)));
    }
    let (access_key, signature, dates) = (&*access_key, &*signature, &[&*expires]);
    verify(
        head,
        &Claim {
            access_key,
            signature,
            dates,
            query,
            scheme: Scheme::V2Presigned,
        },
        table,
    )
}

struct Claim<'a> {
    access_key: &'a str,
    /// In base64.
    signature: &'a str,
    /// What may stand in the date's line.
    dates: &'a [&'a str],
    /// The raw query of a presigned request: botocore moves `x-amz-*` headers into it.
    query: &'a str,
    scheme: Scheme,
}

fn verify(head: &Head<'_>, claim: &Claim<'_>, table: &Table) -> Result<Verified, S3Error> {
    let payload = payload(head)?;
    let secret = table
        .secret(claim.access_key)
        .ok_or_else(|| unknown_key(claim.access_key))?;
    let given = STANDARD.decode(claim.signature).unwrap_or_default();
    let mut first = None;
    let tries = claim
        .dates
        .iter()
        .flat_map(|date| paths(head).map(move |path| (date, path)));
    for (date, path) in tries {
        let to_sign = string_to_sign(head, &path, date, claim.query);
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes())
            .expect("HMAC takes keys of every length");
        mac.update(&to_sign);
        if bool::from(mac.finalize().into_bytes().as_slice().ct_eq(&given)) {
            let principal = Principal {
                access_key_id: claim.access_key.to_owned(),
            };
            return Ok(Verified {
                principal,
                payload,
                scheme: claim.scheme,
                plus: Plus::Plus, // as `unambiguous` reads what is signed
            });
        }
        first.get_or_insert(to_sign);
    }
    let to_sign = first.expect("every claim has a date");
    Err(S3Error::new(Code::SignatureDoesNotMatch)
        .with("AWSAccessKeyId", claim.access_key)
        .with("StringToSign", String::from_utf8_lossy(&to_sign))
        .with("SignatureProvided", claim.signature))
}

/// SigV2 covers no body; a digest is checked, and framing recognised, where a client announces it all the same.
fn payload(head: &Head<'_>) -> Result<Payload, S3Error> {
    let Some(content) = header_text(head, "x-amz-content-sha256") else {
        return Ok(Payload::Unsigned);
    };
    match ContentSha256::parse(&content)? {
        ContentSha256::Sha256(digest) => Ok(Payload::Sha256(digest)),
        ContentSha256::Unsigned => Ok(Payload::Unsigned),
        ContentSha256::Streaming { signed: false, .. } => Ok(Payload::Chunked(Framing::unsigned())),
        ContentSha256::Streaming { signed: true, .. } => Err(S3Error::invalid_argument(
            "x-amz-content-sha256",
            content,
            "Signed chunks need a request that is signed with AWS4-HMAC-SHA256",
        )),
    }
}

/// The path as received; botocore signs `/bucket/` where it asks for `/bucket`.
fn paths<'a>(head: &Head<'a>) -> impl Iterator<Item = Cow<'a, str>> {
    let path = if head.path.is_empty() { "/" } else { head.path };
    let is_bucket = head.virtual_bucket.is_none() && path.len() > 1 && !path[1..].contains('/');
    let slashed = is_bucket.then(|| Cow::Owned(format!("{path}/")));
    std::iter::once(Cow::Borrowed(path)).chain(slashed)
}

fn string_to_sign(head: &Head<'_>, path: &str, date: &str, query: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b'\n');
    for name in ["content-md5", CONTENT_TYPE.as_str()] {
        match (head.headers.has(name), parameter(query, name)) {
            (false, Some(value)) if !value.contains('\n') => {
                out.extend_from_slice(value.as_bytes())
            }
            _ => push_values(&mut out, head.headers, name, false),
        }
        out.push(b'\n');
    }
    out.extend_from_slice(date.as_bytes());
    out.push(b'\n');
    push_amz_headers(&mut out, head, query);
    push_resource(&mut out, head, path);
    out
}

fn push_amz_headers(out: &mut Vec<u8>, head: &Head<'_>, query: &str) {
    let mut values: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (name, value) in pairs_of(query) {
        let name = name.to_ascii_lowercase();
        if name.starts_with("x-amz-") {
            values.insert(name, unambiguous(value, |text| !text.contains(&b'\n')));
        }
    }
    for name in head
        .headers
        .names()
        .filter(|name| name.starts_with("x-amz-"))
    {
        let mut joined = Vec::new();
        push_values(&mut joined, head.headers, name, false);
        values.insert(name.to_owned(), joined);
    }
    for (name, value) in values {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        out.extend_from_slice(&value);
        out.push(b'\n');
    }
}

/// The path, with the bucket of the host before it, and the sub-resources with decoded values.
fn push_resource(out: &mut Vec<u8>, head: &Head<'_>, path: &str) {
    if let Some(bucket) = head.virtual_bucket {
        out.push(b'/');
        out.extend_from_slice(bucket.as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    let raw = head
        .query
        .unwrap_or("")
        .split('&')
        .filter(|pair| !pair.is_empty());
    let mut signed: Vec<(&str, Option<&str>)> = raw
        .map(|pair| {
            pair.split_once('=')
                .map_or((pair, None), |(name, value)| (name, Some(value)))
        })
        .filter(|(name, _)| SIGNED_PARAMETERS.binary_search(name).is_ok())
        .collect();
    // Stable, as botocore sorts: repeated names keep their order.
    signed.sort_by_key(|(name, _)| *name);
    for (n, (name, value)) in signed.into_iter().enumerate() {
        out.push(if n == 0 { b'?' } else { b'&' });
        out.extend_from_slice(name.as_bytes());
        if let Some(value) = value {
            out.push(b'=');
            out.extend(unambiguous(value, |text| !hides_a_parameter(text)));
        }
    }
}

/// A query value as it is signed: decoded, unless it would then read as what it is not. SigV2 joins its lines
/// and parameters undelimited, so that one value could stand for several; as it was sent it matches no signature.
fn unambiguous(value: &str, is_plain: impl FnOnce(&[u8]) -> bool) -> Vec<u8> {
    let text: Vec<u8> = decoded(value, Plus::Plus).collect();
    if is_plain(&text) {
        text
    } else {
        value.as_bytes().to_vec()
    }
}

/// Would this value, decoded, read as its parameter and another signed one behind it?
fn hides_a_parameter(value: &[u8]) -> bool {
    let name = |pair: &[u8]| pair.split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    let mut names = value.split(|byte| *byte == b'&').skip(1).filter_map(name);
    let signed = |name: &Vec<u8>| {
        SIGNED_PARAMETERS
            .binary_search_by(|known| known.as_bytes().cmp(name))
            .is_ok()
    };
    value.contains(&b'\n') || names.any(|name| signed(&name))
}

fn header_text(head: &Head<'_>, name: &str) -> Option<String> {
    head.headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.trim_ascii()).into_owned())
}

fn denied(message: &'static str) -> S3Error {
    S3Error::new(Code::AccessDenied).message(message)
}

#[cfg(test)]
#[path = "v2_tests.rs"]
mod tests;
