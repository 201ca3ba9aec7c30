//! SigV4 in the query: presigned URLs.

use twintree_store::Timestamp;

use super::canonical::parameter;
use super::credentials::Table;
use super::dates::SignedAt;
use super::signature::{ALGORITHM, Claim, Scope};
use super::{Head, MAX_SKEW, Scheme, Verified, canonical};
use crate::error::{Code, S3Error};

/// A week, in seconds.
const MAX_EXPIRES: i64 = 604_800;
const SIGNATURE: &str = "X-Amz-Signature";

/// Says whether a raw query claims to be signed with SigV4.
pub(super) fn is_in(query: &str) -> bool {
    canonical::pairs_of(query)
        .any(|(name, _)| matches!(name, "X-Amz-Algorithm" | "X-Amz-Credential" | SIGNATURE))
}

/// Verifies a presigned request.
pub(super) fn verify(
    head: &Head<'_>,
    query: &str,
    table: &Table,
    now: Timestamp,
) -> Result<Verified, S3Error> {
    // It is the one parameter that is not signed: a second one would be anybody's.
    if canonical::occurrences(query, SIGNATURE) > 1 {
        return Err(malformed("X-Amz-Signature is there twice."));
    }
    let required = |name| parameter(query, name).filter(|value| !value.is_empty());
    let all = (
        required("X-Amz-Algorithm"),
        required("X-Amz-Credential"),
        required("X-Amz-Date"),
        required("X-Amz-Expires"),
        required("X-Amz-SignedHeaders"),
        required(SIGNATURE),
    );
    let (
        Some(algorithm),
        Some(credential),
        Some(date),
        Some(expires),
        Some(signed_headers),
        Some(signature),
    ) = all
    else {
        return Err(malformed(
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, \
             X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
        ));
    };
    if algorithm == "AWS4-ECDSA-P256-SHA256" {
        return Err(S3Error::not_implemented(
            "X-Amz-Algorithm AWS4-ECDSA-P256-SHA256",
        ));
    }
    if algorithm != ALGORITHM {
        return Err(malformed(
            "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"",
        ));
    }
    let scope = Scope::parse(&credential).map_err(|what| {
        malformed(format!(
            "Error parsing the X-Amz-Credential parameter; {what}."
        ))
    })?;
    let signed_at = SignedAt::from_basic(&date).ok_or_else(|| {
        malformed("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
    })?;
    if !date.starts_with(scope.date) {
        return Err(malformed(
            "Invalid credential date. Date is not the same as X-Amz-Date.",
        ));
    }
    within_its_time(signed_at, lifetime(&expires)?, &expires, now)?;
    let claim = Claim {
        scope,
        timestamp: signed_at.basic(),
        signed_headers: &signed_headers,
        signature: &signature,
        content: &content(head, query, &signed_headers),
        without: Some(SIGNATURE),
        scheme: Scheme::V4Presigned,
    };
    claim.verify(head, table)
}

/// Reads `X-Amz-Expires`, in seconds.
fn lifetime(expires: &str) -> Result<i64, S3Error> {
    let seconds: i64 = expires
        .parse()
        .map_err(|_| malformed("X-Amz-Expires should be a number"))?;
    match seconds {
        ..0 => Err(malformed("X-Amz-Expires must be non-negative")),
        0..=MAX_EXPIRES => Ok(seconds),
        _ => Err(malformed(
            "X-Amz-Expires must be less than a week (in seconds) that is 604800",
        )),
    }
}

fn within_its_time(
    signed_at: SignedAt,
    lifetime: i64,
    expires: &str,
    now: Timestamp,
) -> Result<(), S3Error> {
    if signed_at.seconds > now.seconds() + MAX_SKEW {
        return Err(S3Error::new(Code::AccessDenied)
            .message("Request is not valid yet")
            .with("X-Amz-Expires", expires)
            .with("ServerTime", crate::date::iso8601(now)));
    }
    let end = Timestamp::from_parts(signed_at.seconds + lifetime, 0);
    if now > end {
        return Err(S3Error::new(Code::AccessDenied)
            .message("Request has expired")
            .with("X-Amz-Expires", expires)
            .with("Expires", crate::date::iso8601(end))
            .with("ServerTime", crate::date::iso8601(now)));
    }
    Ok(())
}

/// What stands for the body: the header where it is signed, the parameter where the signer put it there.
fn content(head: &Head<'_>, query: &str, signed_headers: &str) -> String {
    const HEADER: &str = "x-amz-content-sha256";
    let header = head.headers.text(HEADER).and_then(Result::ok);
    match header {
        Some(value) if signed_headers.split(';').any(|name| name == HEADER) => value.to_owned(),
        // An unsigned header never chooses how the body is read; `Claim::verify` names one that tries to.
        Some(value) if value.starts_with("STREAMING-") => value.to_owned(),
        _ => parameter(query, "X-Amz-Content-Sha256")
            .unwrap_or_else(|| "UNSIGNED-PAYLOAD".to_owned()),
    }
}

fn malformed(what: impl Into<std::borrow::Cow<'static, str>>) -> S3Error {
    S3Error::new(Code::AuthorizationQueryParametersError).message(what)
}
