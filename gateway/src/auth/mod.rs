//! Who asks: verifies the head of a request and says how its body is to be checked.
//!
//! Signatures are over the bytes as received, so a [`Head`] borrows them before anything changes them.
//! Nobody is let in without a signature. What a principal may do is decided elsewhere.

pub(crate) mod canonical;
mod credentials;
pub(crate) mod dates;
mod fields;
mod header;
mod hoisted;
mod presigned;
pub(crate) mod signature;
mod v2;

pub mod chunked;

use http::Method;
use http::header::AUTHORIZATION;
use twintree_store::Timestamp;

use crate::error::{Code, S3Error};

pub(crate) use canonical::Plus;
pub use chunked::Framing;
pub use credentials::{Credentials, Secret};
pub use fields::Fields;
pub(crate) use hoisted::hoist;

/// How far a clock may be off, in seconds.
pub(crate) const MAX_SKEW: i64 = 15 * 60;

/// A request's head as it was received.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path, still encoded.
    pub path: &'a str,
    /// The query, still encoded, without the question mark.
    pub query: Option<&'a str>,
    /// All headers.
    pub headers: Fields<'a>,
    /// HTTP/2's `:authority`, or that of an absolute request target.
    pub authority: Option<&'a str>,
    /// The bucket that the host names, in a virtual-host style request: SigV2 signs it.
    pub virtual_bucket: Option<&'a str>,
}

/// Whoever holds the key that signed a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The access key id.
    pub access_key_id: String,
}

/// How a request was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// SigV4 in the `Authorization` header.
    V4Header,
    /// SigV4 in the query.
    V4Presigned,
    /// SigV2 in the `Authorization` header.
    V2Header,
    /// SigV2 in the query.
    V2Presigned,
}

impl Scheme {
    /// Says whether the signature came in the URL.
    pub fn is_presigned(self) -> bool {
        matches!(self, Self::V4Presigned | Self::V2Presigned)
    }
}

/// What the head says about the body.
#[derive(Clone, Debug)]
pub enum Payload {
    /// The body has this SHA-256.
    Sha256([u8; 32]),
    /// The signature does not cover the body.
    Unsigned,
    /// The body comes in aws-chunked framing.
    Chunked(Framing),
}

/// A request whose head is verified.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Whose key signed it.
    pub principal: Principal,
    /// How its body is to be checked.
    pub payload: Payload,
    /// How it was signed.
    pub scheme: Scheme,
    /// What a raw plus in the query stood for when the signature was made; operations read it so.
    pub(crate) plus: Plus,
}

/// Verifies the head of a request at the moment `now`.
///
/// # Errors
/// The S3 error of reference section 4.9: AccessDenied for an unsigned request, InvalidAccessKeyId,
/// SignatureDoesNotMatch with what was signed, RequestTimeTooSkewed, and those of malformed signatures.
pub fn verify(
    head: &Head<'_>,
    credentials: &Credentials,
    now: Timestamp,
) -> Result<Verified, S3Error> {
    let authorization = match head.headers.text(AUTHORIZATION.as_str()) {
        Some(value) => value
            .map_err(|_| unsupported("the Authorization header is not ASCII"))?
            .trim(),
        None => "",
    };
    let query = head.query.unwrap_or("");
    let (v4_query, v2_query) = (presigned::is_in(query), v2::is_in(query));
    let headers = head.headers.all(AUTHORIZATION.as_str());
    let claims = headers.filter(|value| !value.is_empty()).count()
        + usize::from(v4_query)
        + usize::from(v2_query);
    if claims > 1 {
        return Err(S3Error::new(Code::InvalidArgument)
            .message(
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query \
                 string parameter or the Authorization header should be specified",
            )
            .with("ArgumentName", "Authorization")
            .with("ArgumentValue", redacted_scheme(authorization)));
    }
    let signed = v4_query || v2_query || !authorization.is_empty();
    if !signed {
        return Err(S3Error::new(Code::AccessDenied));
    }
    refuse_session_token(head, query)?;
    let table = credentials.table();
    if v4_query {
        presigned::verify(head, query, &table, now)
    } else if v2_query {
        v2::verify_presigned(head, query, &table, now)
    } else if let Some(rest) = authorization.strip_prefix(signature::ALGORITHM) {
        header::verify(head, rest, &table, now)
    } else if authorization.starts_with("AWS4-ECDSA-P256-SHA256") {
        Err(S3Error::not_implemented("AWS4-ECDSA-P256-SHA256"))
    } else if let Some(rest) = authorization.strip_prefix("AWS ") {
        v2::verify_header(head, rest, &table, now)
    } else {
        Err(unsupported(redacted_scheme(authorization)))
    }
}

/// Temporary credentials need a token service, which we do not have; a token is never ours.
fn refuse_session_token(head: &Head<'_>, query: &str) -> Result<(), S3Error> {
    const TOKEN: &str = "x-amz-security-token";
    let in_query = canonical::pairs_of(query).any(|(name, _)| name.eq_ignore_ascii_case(TOKEN));
    if in_query || head.headers.has(TOKEN) {
        return Err(S3Error::new(Code::InvalidToken));
    }
    Ok(())
}

/// The first word of an `Authorization` header; the rest may be a password of another scheme.
fn redacted_scheme(authorization: &str) -> String {
    authorization.split(' ').next().unwrap_or("").to_owned()
}

fn unsupported(value: impl Into<String>) -> S3Error {
    S3Error::invalid_argument("Authorization", value, "Unsupported Authorization Type")
}

/// What `x-amz-content-sha256` says, before it is known what the chunks' signatures chain from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentSha256 {
    Sha256([u8; 32]),
    Unsigned,
    Streaming { signed: bool, trailer: bool },
}

impl ContentSha256 {
    /// Recognises a digest and the six literals of reference section 4.9.
    pub(crate) fn parse(value: &str) -> Result<Self, S3Error> {
        match value {
            "UNSIGNED-PAYLOAD" => Ok(Self::Unsigned),
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Self::Streaming { signed: false, trailer: true }),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Ok(Self::Streaming { signed: true, trailer: false }),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Ok(Self::Streaming { signed: true, trailer: true }),
            "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD" | "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER" => {
                Err(S3Error::not_implemented("x-amz-content-sha256 with an ECDSA signature"))
            }
            digest => canonical::hex32(digest.as_bytes()).map(Self::Sha256).ok_or_else(|| {
                S3Error::invalid_argument(
                    "x-amz-content-sha256",
                    digest,
                    "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
                     STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, or a valid \
                     sha256 value.",
                )
            }),
        }
    }
}

#[cfg(test)]
mod tests;
