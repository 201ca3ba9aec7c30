//! Headers that a signer moved into the query of a presigned URL.
//!
//! The JavaScript SDK hoists `x-amz-*` headers there, and boto3 with SigV2 also Content-Type and Content-MD5, so that
//! whoever holds the URL need not send them. The signature covers them; S3 takes them as headers.

use http::request::Parts;
use http::{HeaderName, HeaderValue};

use super::Scheme;
use super::canonical::{Plus, decoded, pairs_of};

/// What describes the object and may come in the query. Checksums are left out: a signer without the body hoists that
/// of an empty one.
const NAMES: [&str; 4] = [
    "x-amz-acl",
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
];
const PREFIXES: [&str; 4] = [
    "x-amz-grant-",
    "x-amz-meta-",
    "x-amz-object-lock-",
    "x-amz-server-side-encryption",
];

/// Adds the hoisted headers of a verified presigned request to its headers; one that was also sent wins. `plus` is the
/// reading that was signed.
pub(crate) fn hoist(parts: &mut Parts, scheme: Scheme, plus: Plus) {
    if !scheme.is_presigned() {
        return;
    }
    let query = parts.uri.query().unwrap_or("").to_owned();
    for (name, value) in pairs_of(&query) {
        let name: Vec<u8> = decoded(name, plus).collect();
        let name = String::from_utf8_lossy(&name).to_ascii_lowercase();
        if !describes_the_object(&name, scheme) {
            continue;
        }
        let value: Vec<u8> = decoded(value, plus).collect();
        let (name, value) = (HeaderName::try_from(name), HeaderValue::from_bytes(&value));
        if let (Ok(name), Ok(value)) = (name, value)
            && !parts.headers.contains_key(&name)
        {
            parts.headers.insert(name, value);
        }
    }
}

fn describes_the_object(name: &str, scheme: Scheme) -> bool {
    let v2 = scheme == Scheme::V2Presigned && matches!(name, "content-type" | "content-md5");
    v2 || NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hoisted(query: &str, scheme: Scheme) -> http::HeaderMap {
        let request =
            http::Request::put(format!("/b/k?{query}")).header("x-amz-meta-sent", "header");
        let mut parts = request.body(()).expect("a legal request").into_parts().0;
        hoist(&mut parts, scheme, Plus::Plus);
        parts.headers
    }

    #[test]
    fn what_describes_the_object_becomes_a_header() {
        let query = "X-Amz-Meta-A=v%20w&x-amz-meta-sent=query&x-amz-acl=private&content-type=text%2Fplain\
                     &x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-copy-source=%2Fb%2Fother&X-Amz-Signature=x";
        let headers = hoisted(query, Scheme::V4Presigned);
        assert_eq!(headers["x-amz-meta-a"], "v w");
        assert_eq!(headers["x-amz-meta-sent"], "header");
        assert_eq!(headers.len(), 3, "{headers:?}");
        assert_eq!(
            hoisted(query, Scheme::V2Presigned)["content-type"],
            "text/plain"
        );
        assert_eq!(hoisted(query, Scheme::V4Header).len(), 1);
    }
}
