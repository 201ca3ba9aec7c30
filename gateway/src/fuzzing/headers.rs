//! The other headers of a request: whatever they say, nobody is let in by it, and what becomes of them is
//! within its bounds.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use twintree_store::Timestamp;

use super::aws::{ACCESS_KEY, SECONDS};
use super::draw::Draw;
use crate::auth::{Credentials, Head, Payload, Secret, verify};
use crate::checksum::BodyChecks;
use crate::meta;

const NAMES: [&str; 18] = [
    "authorization",
    "host",
    "date",
    "x-amz-date",
    "x-amz-content-sha256",
    "x-amz-trailer",
    "x-amz-checksum-crc32",
    "x-amz-checksum-sha256",
    "x-amz-sdk-checksum-algorithm",
    "content-md5",
    "content-type",
    "content-encoding",
    "x-amz-tagging",
    "x-amz-storage-class",
    "x-amz-meta-a",
    "x-amz-meta-b",
    "x-amz-acl",
    "expires",
];

/// Any headers and any query.
pub fn headers(data: &[u8]) {
    let mut draw = Draw::new(data);
    let query = draw.text(200);
    let mut headers = HeaderMap::new();
    for _ in 0..draw.below(8) {
        let name = HeaderName::from_static(draw.pick(&NAMES));
        if let Ok(value) = HeaderValue::from_bytes(draw.bytes(240)) {
            headers.append(name, value);
        }
    }
    // Whoever does not know the secret cannot sign, not even by chance.
    let credentials = Credentials::new([(ACCESS_KEY.to_owned(), Secret::new("not for fuzzers"))]);
    let head = Head {
        method: &Method::PUT,
        path: "/b/k",
        query: Some(&query),
        headers: (&headers).into(),
        authority: None,
        virtual_bucket: None,
    };
    let now = Timestamp::from_parts(SECONDS, 0);
    verify(&head, &credentials, now).expect_err("nobody has signed this");
    checks(&headers);
    described(&headers);
}

fn checks(headers: &HeaderMap) {
    let Ok(checks) = BodyChecks::parse(headers, &Payload::Unsigned) else {
        return;
    };
    assert!(checks.to_compute().len() <= 2);
    if checks.has_digest() && checks.verify_bytes(b"").is_ok() {
        // Only what names the digest of this very body is satisfied by it.
        checks.verify_bytes(b"other").expect_err("another body");
    }
}

fn described(headers: &HeaderMap) {
    let Ok(meta) = meta::from_headers(headers) else {
        return;
    };
    let user = meta
        .user
        .iter()
        .map(|(name, value)| name.len() + value.len());
    assert!(user.sum::<usize>() <= 2048);
    assert!(meta.tags.len() <= 10);
    let transfer = |value: &[u8]| {
        value
            .split(|b| *b == b',')
            .any(|coding| coding.trim_ascii() == b"aws-chunked")
    };
    let encoding = meta
        .headers
        .iter()
        .find(|(name, _)| name == "content-encoding");
    assert!(!encoding.is_some_and(|(_, value)| transfer(value)));
}
