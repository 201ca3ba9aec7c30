//! SigV4 in the `Authorization` header.

use http::header::DATE;
use twintree_store::Timestamp;

use super::credentials::Table;
use super::dates::SignedAt;
use super::signature::{Claim, Scope, refuse_skew};
use super::{Head, Scheme, Verified};
use crate::error::{Code, S3Error};

/// Verifies what follows `AWS4-HMAC-SHA256` in the header.
pub(super) fn verify(
    head: &Head<'_>,
    rest: &str,
    table: &Table,
    now: Timestamp,
) -> Result<Verified, S3Error> {
    let fields = Fields::parse(rest)?;
    let scope = Scope::parse(fields.credential).map_err(malformed)?;
    let signed_at = signed_at(head)?;
    let timestamp = signed_at.basic();
    if !timestamp.as_str().starts_with(scope.date) {
        return Err(malformed(
            "the Credential's date is not that of the request",
        ));
    }
    refuse_skew(signed_at, now)?;
    let content = head.headers.text("x-amz-content-sha256").ok_or_else(|| {
        S3Error::invalid_request("Missing required header for this request: x-amz-content-sha256")
    })?;
    let content =
        content.map_err(|_| S3Error::invalid_request("x-amz-content-sha256 is not ASCII"))?;
    let claim = Claim {
        scope,
        timestamp,
        signed_headers: fields.signed_headers,
        signature: fields.signature,
        content,
        without: None,
        scheme: Scheme::V4Header,
    };
    claim.verify(head, table)
}

/// The three fields, separated by commas with or without spaces, in any order.
struct Fields<'a> {
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Fields<'a> {
    fn parse(rest: &'a str) -> Result<Self, S3Error> {
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for field in rest
            .split(',')
            .map(str::trim)
            .filter(|field| !field.is_empty())
        {
            let (name, value) = field
                .split_once('=')
                .ok_or_else(|| malformed("a field has no '='"))?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return Err(malformed("it holds an unknown field")),
            };
            if slot.replace(value).is_some() {
                return Err(malformed("a field is there twice"));
            }
        }
        let filled = |field: Option<&'a str>, what| {
            field
                .filter(|value| !value.is_empty())
                .ok_or_else(|| malformed(what))
        };
        Ok(Self {
            credential: filled(credential, "Credential is missing")?,
            signed_headers: filled(signed_headers, "SignedHeaders is missing")?,
            signature: filled(signature, "Signature is missing")?,
        })
    }
}

/// `x-amz-date`, else `Date`.
fn signed_at(head: &Head<'_>) -> Result<SignedAt, S3Error> {
    let text = head
        .headers
        .text("x-amz-date")
        .or_else(|| head.headers.text(DATE.as_str()));
    let parsed = text
        .and_then(Result::ok)
        .and_then(|text| SignedAt::parse(text.trim()));
    parsed.ok_or_else(|| {
        S3Error::new(Code::AccessDenied)
            .message("AWS authentication requires a valid Date or x-amz-date header")
    })
}

/// Never carries `<Region>`: boto3 would sign again for that region and remember it.
fn malformed(what: &'static str) -> S3Error {
    S3Error::new(Code::AuthorizationHeaderMalformed)
        .message(format!("The authorization header is malformed; {what}."))
}
