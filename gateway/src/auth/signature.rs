//! What SigV4 in the header and in the query share: the credential scope, the string to sign, and the
//! comparison. Which reading of an ambiguous request was signed is found here by trying.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use twintree_store::Timestamp;

use super::canonical::{self, Reading, hex32};
use super::chunked::{ChunkSigner, Framing};
use super::credentials::{KeyedHmac, Table, hmac_sha256, is_same};
use super::dates::SignedAt;
use super::{ContentSha256, Head, MAX_SKEW, Payload, Plus, Principal, Scheme, Verified};
use crate::date::Basic;
use crate::error::{Code, S3Error};

/// The one algorithm of SigV4 that we verify.
pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// A credential, `ACCESS_KEY/20130524/us-east-1/s3/aws4_request`. The region is taken from it, whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope<'a> {
    pub(crate) access_key: &'a str,
    pub(crate) date: &'a str,
    pub(crate) region: &'a str,
    /// Everything behind the access key, as it is signed.
    pub(crate) text: &'a str,
    /// `ACCESS_KEY/DATE/REGION`, which the signing key is of.
    pub(crate) signer: &'a str,
}

impl<'a> Scope<'a> {
    /// Splits from the right, for access keys may hold a slash. `Err` says in words what is wrong.
    pub(crate) fn parse(credential: &'a str) -> Result<Self, &'static str> {
        // What almost every one ends with, without a search.
        let (rest, usual) = match credential.strip_suffix("/s3/aws4_request") {
            Some(rest) => (rest, true),
            None => (credential, false),
        };
        let mut parts = rest.rsplitn(if usual { 3 } else { 5 }, '/');
        let (terminator, service) = match usual {
            true => (Some("aws4_request"), Some("s3")),
            false => (parts.next(), parts.next()),
        };
        let (Some(region), Some(date), Some(access_key)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(
                "the Credential is malformed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\"",
            );
        };
        if terminator != Some("aws4_request") {
            return Err("incorrect terminal; expecting \"aws4_request\"");
        }
        if service != Some("s3") {
            return Err("incorrect service; expecting \"s3\"");
        }
        if date.len() != 8 || !date.bytes().all(|b| b.is_ascii_digit()) {
            return Err("incorrect date; expecting \"YYYYMMDD\"");
        }
        if access_key.is_empty() {
            return Err("the access key id is empty");
        }
        Ok(Self {
            access_key,
            date,
            region,
            text: &credential[access_key.len() + 1..],
            signer: &credential[..access_key.len() + date.len() + region.len() + 2],
        })
    }
}

/// Everything that a SigV4 signature says, wherever it stood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) scope: Scope<'a>,
    /// When it was signed.
    pub(crate) timestamp: Basic,
    /// Header names as the client listed them, lower-case.
    pub(crate) signed_headers: &'a str,
    /// As given, in hex.
    pub(crate) signature: &'a str,
    /// What stands for the body in the canonical request.
    pub(crate) content: &'a str,
    /// A query parameter that is not signed.
    pub(crate) without: Option<&'a str>,
    pub(crate) scheme: Scheme,
}

impl Claim<'_> {
    /// Finds the key, compares the signature, and hands back who signed and how the body is checked.
    pub(crate) fn verify(&self, head: &Head<'_>, table: &Table) -> Result<Verified, S3Error> {
        let content = ContentSha256::parse(self.content)?;
        let signed: Vec<&str> = self.signed_headers.split(';').collect();
        require_signed_headers(head, &signed, self.scheme, content)?;
        let access_key = self.scope.access_key;
        let (key, is_new) = table
            .signing_key(&self.scope)
            .ok_or_else(|| unknown_key(access_key))?;
        let timestamp = self.timestamp;
        let given = hex32(self.signature.as_bytes());
        let mut first = None;
        for reading in Reading::all(head) {
            let request = canonical::request(head, reading, &signed, self.content, self.without);
            let mut to_sign = Vec::with_capacity(256);
            for line in [ALGORITHM, timestamp.as_str(), self.scope.text] {
                to_sign.extend_from_slice(line.as_bytes());
                to_sign.push(b'\n');
            }
            canonical::push_hex(&mut to_sign, &Sha256::digest(&request));
            let computed = hmac_sha256(&key, &to_sign);
            if given.is_some_and(|given| is_same(&computed, &given)) {
                if is_new {
                    table.remember(&self.scope, &key);
                }
                return Ok(self.verified(content, key, timestamp, reading.plus));
            }
            first.get_or_insert((request, to_sign));
        }
        let (request, to_sign) = first.expect("every request has a first reading");
        Err(S3Error::new(Code::SignatureDoesNotMatch)
            .with("AWSAccessKeyId", access_key)
            .with("StringToSign", String::from_utf8_lossy(&to_sign))
            .with("SignatureProvided", self.signature)
            .with("CanonicalRequest", String::from_utf8_lossy(&request)))
    }

    fn verified(
        &self,
        content: ContentSha256,
        key: Arc<KeyedHmac>,
        timestamp: Basic,
        plus: Plus,
    ) -> Verified {
        let payload = match content {
            ContentSha256::Sha256(digest) => Payload::Sha256(digest),
            ContentSha256::Unsigned => Payload::Unsigned,
            ContentSha256::Streaming { signed: false, .. } => Payload::Chunked(Framing::unsigned()),
            ContentSha256::Streaming {
                signed: true,
                trailer,
            } => {
                let seed = self.signature.to_owned();
                let signer = ChunkSigner::new(key, timestamp.as_str(), self.scope.text, seed);
                Payload::Chunked(Framing::signed(signer, trailer))
            }
        };
        let principal = Principal {
            access_key_id: self.scope.access_key.to_owned(),
        };
        Verified {
            principal,
            payload,
            scheme: self.scheme,
            plus,
        }
    }
}

/// `host` and every `x-amz-*` header that came must be signed: an unsigned one could have been added on the way.
fn require_signed_headers(
    head: &Head<'_>,
    signed: &[&str],
    scheme: Scheme,
    content: ContentSha256,
) -> Result<(), S3Error> {
    let mut missing: Vec<&str> = Vec::new();
    if !signed.contains(&"host") {
        missing.push("host");
    }
    for name in head.headers.names() {
        // A presigned URL says UNSIGNED-PAYLOAD itself; a client that repeats it, or adds a digest, in an unsigned
        // header changes nothing but its own body's check. A framing it cannot choose.
        let harmless = scheme.is_presigned()
            && name == "x-amz-content-sha256"
            && !matches!(content, ContentSha256::Streaming { .. });
        if name.starts_with("x-amz-") && !signed.contains(&name) && !harmless {
            missing.push(name);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(S3Error::new(Code::AccessDenied)
        .message("There were headers present in the request which were not signed")
        .with("HeadersNotSigned", missing.join(", ")))
}

/// Refuses a clock that is off by more than fifteen minutes.
pub(crate) fn refuse_skew(signed_at: SignedAt, now: Timestamp) -> Result<(), S3Error> {
    if (now.seconds() - signed_at.seconds).abs() <= MAX_SKEW {
        return Ok(());
    }
    Err(S3Error::new(Code::RequestTimeTooSkewed)
        .with("RequestTime", signed_at.basic().as_str())
        .with("ServerTime", crate::date::iso8601(now))
        .with("MaxAllowedSkewMilliseconds", (MAX_SKEW * 1000).to_string()))
}

/// The answer to an access key that is not in the table.
pub(crate) fn unknown_key(access_key: &str) -> S3Error {
    S3Error::new(Code::InvalidAccessKeyId).with("AWSAccessKeyId", access_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_takes_any_region_and_slashes_in_the_access_key() {
        let scope =
            Scope::parse("A/K/20130524/xx-any-9/s3/aws4_request").expect("a legal credential");
        assert_eq!(
            (scope.access_key, scope.date, scope.region),
            ("A/K", "20130524", "xx-any-9")
        );
        assert_eq!(scope.text, "20130524/xx-any-9/s3/aws4_request");
        assert_eq!(scope.signer, "A/K/20130524/xx-any-9");
        for bad in [
            "AK/20130524/r/s3",
            "AK/20130524/r/s3/aws5_request",
            "AK/20130524/r/ec2/aws4_request",
            "AK/2013-05-24/r/s3/aws4_request",
            "/20130524/r/s3/aws4_request",
        ] {
            assert!(Scope::parse(bad).is_err(), "{bad}");
        }
    }
}
