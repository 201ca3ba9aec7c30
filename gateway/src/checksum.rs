//! Checksums on the wire: header and trailer names, base64, and what a body must match before anything
//! of it becomes visible. The computing is the store's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use twintree_store::{Algorithm, Checksum, ChecksumType, Digester, Digests, ObjectChecksum};

use crate::auth::Payload;
use crate::error::{Code, S3Error, S3Result};

const PREFIX: &str = "x-amz-checksum-";
const SDK_ALGORITHM: &str = "x-amz-sdk-checksum-algorithm";
/// Algorithms of the S3 API that nothing here computes.
const UNSUPPORTED: [&str; 5] = ["SHA512", "MD5", "XXHASH64", "XXHASH3", "XXHASH128"];

/// Gives an algorithm's name as values and XML elements hold it: `CRC32`.
pub fn name_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Crc32 => "CRC32",
        Algorithm::Crc32c => "CRC32C",
        Algorithm::Crc64Nvme => "CRC64NVME",
        Algorithm::Sha1 => "SHA1",
        Algorithm::Sha256 => "SHA256",
    }
}

/// Gives the name of the XML element that holds its value: `ChecksumCRC32`.
pub fn element_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Crc32 => "ChecksumCRC32",
        Algorithm::Crc32c => "ChecksumCRC32C",
        Algorithm::Crc64Nvme => "ChecksumCRC64NVME",
        Algorithm::Sha1 => "ChecksumSHA1",
        Algorithm::Sha256 => "ChecksumSHA256",
    }
}

/// Gives its header, which is also its trailer: `x-amz-checksum-crc32`.
pub fn header_of(algorithm: Algorithm) -> HeaderName {
    HeaderName::from_static(match algorithm {
        Algorithm::Crc32 => "x-amz-checksum-crc32",
        Algorithm::Crc32c => "x-amz-checksum-crc32c",
        Algorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
        Algorithm::Sha1 => "x-amz-checksum-sha1",
        Algorithm::Sha256 => "x-amz-checksum-sha256",
    })
}

/// Gives the value of `x-amz-checksum-type` and of `ChecksumType`.
pub fn type_name(kind: ChecksumType) -> &'static str {
    match kind {
        ChecksumType::FullObject => "FULL_OBJECT",
        ChecksumType::Composite => "COMPOSITE",
    }
}

/// Writes a value in base64.
pub fn encode(checksum: &Checksum) -> String {
    STANDARD.encode(&checksum.value)
}

/// Writes the value of an object: a composite one shows over how many parts it was made.
pub fn encode_object(checksum: &ObjectChecksum, parts: Option<u16>) -> String {
    let value = encode(&checksum.checksum);
    match (checksum.kind, parts) {
        (ChecksumType::Composite, Some(parts)) => format!("{value}-{parts}"),
        _ => value,
    }
}

/// Reads a value in base64; `None` where it is not of the algorithm's length.
pub fn decode(algorithm: Algorithm, text: &str) -> Option<Checksum> {
    let value = STANDARD.decode(text).ok()?;
    (value.len() == algorithm.value_len()).then_some(Checksum { algorithm, value })
}

/// Reads the name of an algorithm in any case, as values and XML elements hold it.
///
/// # Errors
/// `NotImplemented` for one that S3 has and this server does not, `InvalidRequest` for any other text. `header`
/// names where it stood.
pub fn parse_algorithm(name: &str, header: &'static str) -> S3Result<Algorithm> {
    let found = Algorithm::ALL
        .into_iter()
        .find(|algorithm| name_of(*algorithm).eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        if UNSUPPORTED
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
        {
            return not_computed(name);
        }
        S3Error::invalid_request(format!("Value for {header} header is invalid."))
    })
}

/// Adds an object's checksum to a reply: its header and `x-amz-checksum-type`.
pub fn add_headers(headers: &mut HeaderMap, checksum: &ObjectChecksum, parts: Option<u16>) {
    let value = HeaderValue::try_from(encode_object(checksum, parts))
        .expect("base64, a hyphen and digits are legal");
    headers.insert(header_of(checksum.checksum.algorithm), value);
    add_type(headers, checksum.kind);
}

/// Adds the bare value of a part to a reply.
pub fn add_value(headers: &mut HeaderMap, checksum: &Checksum) {
    let value = HeaderValue::try_from(encode(checksum)).expect("base64 is a header value");
    headers.insert(header_of(checksum.algorithm), value);
}

/// Adds `x-amz-checksum-type`.
pub fn add_type(headers: &mut HeaderMap, kind: ChecksumType) {
    headers.insert(
        "x-amz-checksum-type",
        HeaderValue::from_static(type_name(kind)),
    );
}

/// What a body must match, from the head of its request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyChecks {
    md5: Option<[u8; 16]>,
    sha256: Option<[u8; 32]>,
    header: Option<Checksum>,
    trailer: Option<Algorithm>,
}

impl BodyChecks {
    /// Reads Content-MD5, `x-amz-checksum-*`, `x-amz-trailer` and `x-amz-sdk-checksum-algorithm`.
    ///
    /// # Errors
    /// `InvalidDigest` for a malformed MD5; `InvalidRequest` for a malformed value, for more than one, and for an
    /// announced algorithm without its value; `NotImplemented` for algorithms that nothing here computes.
    pub fn parse(headers: &HeaderMap, payload: &Payload) -> S3Result<Self> {
        let sha256 = match payload {
            Payload::Sha256(digest) => Some(*digest),
            Payload::Unsigned | Payload::Chunked(_) => None,
        };
        let checks = Self {
            md5: content_md5(headers)?,
            sha256,
            header: value_header(headers)?,
            trailer: trailer(headers)?,
        };
        if checks.header.is_some() && checks.trailer.is_some() {
            return Err(more_than_one());
        }
        checks.agree_with_sdk_algorithm(headers)?;
        Ok(checks)
    }

    /// Gives the algorithm that the client chose, by header or by trailer.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.header
            .as_ref()
            .map(|checksum| checksum.algorithm)
            .or(self.trailer)
    }

    /// Is there an integrity check beyond the signature's?
    pub fn has_digest(&self) -> bool {
        self.md5.is_some() || self.algorithm().is_some()
    }

    /// Did the client send an MD5?
    pub fn has_md5(&self) -> bool {
        self.md5.is_some()
    }

    /// Gives what must be computed beside MD5 and CRC64NVME.
    pub fn to_compute(&self) -> Vec<Algorithm> {
        let mut algorithms: Vec<Algorithm> = self.algorithm().into_iter().collect();
        if self.sha256.is_some() && !algorithms.contains(&Algorithm::Sha256) {
            algorithms.push(Algorithm::Sha256);
        }
        algorithms
    }

    /// Compares; gives the client's checksum, verified, if it named one.
    ///
    /// # Errors
    /// `XAmzContentSHA256Mismatch`, `BadDigest`; `InvalidRequest` for a malformed trailer, `MalformedTrailerError` for
    /// a missing one.
    pub fn verify(
        &self,
        digests: &Digests,
        trailers: &[(String, String)],
    ) -> S3Result<Option<Checksum>> {
        let computed = |algorithm| {
            digests
                .extra
                .iter()
                .find(|checksum| checksum.algorithm == algorithm)
        };
        if let Some(expected) = &self.sha256 {
            let found = computed(Algorithm::Sha256).expect("to_compute asks for it");
            if found.value != expected {
                return Err(S3Error::new(Code::XAmzContentSHA256Mismatch)
                    .with("ClientComputedContentSHA256", hex(expected))
                    .with("S3ComputedContentSHA256", hex(&found.value)));
            }
        }
        if let Some(expected) = &self.md5
            && digests.md5 != Some(*expected)
        {
            let found = digests.md5.expect("it is computed where one was sent");
            return Err(S3Error::new(Code::BadDigest)
                .message("The Content-MD5 you specified did not match what we received.")
                .with("ExpectedDigest", hex(expected))
                .with("CalculatedDigest", STANDARD.encode(found)));
        }
        let Some(expected) = self.expected(trailers)? else {
            return Ok(None);
        };
        let found = computed(expected.algorithm).expect("to_compute asks for it");
        if *found != expected {
            return Err(S3Error::new(Code::BadDigest).message(format!(
                "The {} you specified did not match the calculated checksum.",
                name_of(expected.algorithm)
            )));
        }
        Ok(Some(expected))
    }

    /// Verifies a body that is there as a whole.
    ///
    /// # Errors
    /// As [`BodyChecks::verify`].
    pub fn verify_bytes(&self, body: &[u8]) -> S3Result<()> {
        if self.sha256.is_none() && !self.has_digest() {
            return Ok(());
        }
        let mut digester = Digester::new(&self.to_compute());
        digester.update(body);
        self.verify(&digester.finish(), &[]).map(|_| ())
    }

    fn expected(&self, trailers: &[(String, String)]) -> S3Result<Option<Checksum>> {
        let Some(algorithm) = self.trailer else {
            return Ok(self.header.clone());
        };
        let name = header_of(algorithm);
        let (_, value) = trailers
            .iter()
            .find(|(sent, _)| sent == name.as_str())
            .ok_or_else(|| {
                S3Error::new(Code::MalformedTrailerError)
                    .message(format!("The trailer {name} was declared and not sent."))
            })?;
        let checksum = decode(algorithm, value).ok_or_else(|| {
            S3Error::invalid_request(format!("Value for {name} trailing header is invalid."))
        })?;
        Ok(Some(checksum))
    }

    fn agree_with_sdk_algorithm(&self, headers: &HeaderMap) -> S3Result<()> {
        let Some(value) = headers.get(SDK_ALGORITHM) else {
            return Ok(());
        };
        let named = parse_algorithm(value.to_str().unwrap_or("").trim(), SDK_ALGORITHM)?;
        match self.algorithm() {
            Some(algorithm) if algorithm == named => Ok(()),
            Some(_) => Err(S3Error::invalid_request(format!(
                "Value for {SDK_ALGORITHM} header is invalid."
            ))),
            None => Err(S3Error::invalid_request(format!(
                "{SDK_ALGORITHM} specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."
            ))),
        }
    }
}

/// The one `x-amz-checksum-ALGORITHM` header.
fn value_header(headers: &HeaderMap) -> S3Result<Option<Checksum>> {
    let mut found = None;
    for (name, value) in headers {
        let Some(algorithm) = algorithm_of_header(name.as_str())? else {
            continue;
        };
        let value = value
            .to_str()
            .ok()
            .and_then(|text| decode(algorithm, text.trim()));
        let checksum = value.ok_or_else(|| {
            S3Error::invalid_request(format!("Value for {name} header is invalid."))
        })?;
        if found.replace(checksum).is_some() {
            return Err(more_than_one());
        }
    }
    Ok(found)
}

/// The one checksum that `x-amz-trailer` announces.
fn trailer(headers: &HeaderMap) -> S3Result<Option<Algorithm>> {
    let mut found = None;
    let values = headers.get_all("x-amz-trailer").iter();
    for name in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let name = String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase();
        if name.is_empty() {
            continue;
        }
        let algorithm = algorithm_of_header(&name)?.ok_or_else(|| {
            S3Error::invalid_request(
                "The value specified in the x-amz-trailer header is not supported",
            )
        })?;
        if found.replace(algorithm).is_some() {
            return Err(more_than_one());
        }
    }
    Ok(found)
}

/// What a header's name says of the algorithm; `None` where it is about something else.
fn algorithm_of_header(name: &str) -> S3Result<Option<Algorithm>> {
    let Some(suffix) = name.strip_prefix(PREFIX) else {
        return Ok(None);
    };
    if matches!(suffix, "mode" | "type" | "algorithm") {
        return Ok(None);
    }
    let found = Algorithm::ALL
        .into_iter()
        .find(|algorithm| name_of(*algorithm).eq_ignore_ascii_case(suffix));
    if found.is_none()
        && UNSUPPORTED
            .iter()
            .any(|known| known.eq_ignore_ascii_case(suffix))
    {
        return Err(not_computed(suffix));
    }
    Ok(found)
}

fn content_md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let Some(value) = headers.get("content-md5") else {
        return Ok(None);
    };
    let decoded = STANDARD
        .decode(value.as_bytes().trim_ascii())
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    match decoded {
        Some(md5) => Ok(Some(md5)),
        None => Err(S3Error::new(Code::InvalidDigest)
            .with("Content-MD5", String::from_utf8_lossy(value.as_bytes()))),
    }
}

fn more_than_one() -> S3Error {
    S3Error::invalid_request(
        "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
    )
}

fn not_computed(algorithm: &str) -> S3Error {
    S3Error::not_implemented(&format!("{PREFIX}{}", algorithm.to_ascii_lowercase()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::headers;

    fn parse(pairs: &[(&str, &str)]) -> S3Result<BodyChecks> {
        BodyChecks::parse(&headers(pairs), &Payload::Unsigned)
    }

    fn verify(checks: &BodyChecks, trailers: &[(&str, &str)]) -> S3Result<Option<Checksum>> {
        let mut digester = Digester::new(&checks.to_compute());
        digester.update(b"123456789");
        let trailers: Vec<_> = trailers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        checks.verify(&digester.finish(), &trailers)
    }

    const CHECK_VALUES: [(&str, &str); 5] = [
        ("x-amz-checksum-crc32", "y/Q5Jg=="),
        ("x-amz-checksum-crc32c", "4waSgw=="),
        ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
        ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
        (
            "x-amz-checksum-sha256",
            "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=",
        ),
    ];

    #[test]
    fn check_values_verify_in_header_and_trailer() {
        for (name, value) in CHECK_VALUES {
            let checks = parse(&[(name, value)]).expect("a legal header");
            let found = verify(&checks, &[])
                .expect("the check value is right")
                .expect("it was given");
            assert_eq!(
                (header_of(found.algorithm).as_str(), encode(&found).as_str()),
                (name, value)
            );
            let checks = parse(&[("x-amz-trailer", name)]).expect("a legal trailer");
            assert!(
                verify(&checks, &[(name, value)])
                    .expect("the check value is right")
                    .is_some()
            );
        }
    }

    #[test]
    fn wrong_values_are_bad_digests() {
        let code = |checks: &BodyChecks, trailers: &[(&str, &str)]| {
            verify(checks, trailers).expect_err("wrong").code()
        };
        let checks = parse(&[("x-amz-checksum-crc32", "AAAAAA==")]).expect("a legal header");
        assert_eq!(code(&checks, &[]), Code::BadDigest);
        let trailer = parse(&[("x-amz-trailer", "X-Amz-Checksum-SHA1")]).expect("a legal trailer");
        assert_eq!(
            code(
                &trailer,
                &[("x-amz-checksum-sha1", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=")]
            ),
            Code::BadDigest
        );
        assert_eq!(
            code(&trailer, &[("x-amz-checksum-sha1", "AAAA")]),
            Code::InvalidRequest
        );
        assert_eq!(code(&trailer, &[]), Code::MalformedTrailerError);
        let md5 = parse(&[("content-md5", "rL0Y20xC+Fzt72VPzMSk2A==")]).expect("a legal MD5");
        assert_eq!(code(&md5, &[]), Code::BadDigest);
        let right = parse(&[("content-md5", "JfnnlDI7RTiF9RgfG2JNCw==")]).expect("a legal MD5");
        assert_eq!(verify(&right, &[]), Ok(None));
        let payload =
            BodyChecks::parse(&HeaderMap::new(), &Payload::Sha256([0; 32])).expect("no header");
        assert_eq!(code(&payload, &[]), Code::XAmzContentSHA256Mismatch);
    }

    #[test]
    fn contradictions_are_refused_before_the_body() {
        let crc32 = ("x-amz-checksum-crc32", "y/Q5Jg==");
        for (pairs, code) in [
            (
                vec![
                    crc32,
                    ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
                ],
                Code::InvalidRequest,
            ),
            (vec![crc32, crc32], Code::InvalidRequest),
            (
                vec![crc32, ("x-amz-trailer", "x-amz-checksum-crc32")],
                Code::InvalidRequest,
            ),
            (vec![("x-amz-checksum-crc32", "y/Q5")], Code::InvalidRequest),
            (
                vec![("x-amz-checksum-crc32", "not base64")],
                Code::InvalidRequest,
            ),
            (vec![("x-amz-checksum-crc32", "")], Code::InvalidRequest),
            (
                vec![("x-amz-trailer", "x-amz-meta-a")],
                Code::InvalidRequest,
            ),
            (vec![(SDK_ALGORITHM, "CRC32")], Code::InvalidRequest),
            (vec![crc32, (SDK_ALGORITHM, "SHA1")], Code::InvalidRequest),
            (
                vec![crc32, (SDK_ALGORITHM, "nonsense")],
                Code::InvalidRequest,
            ),
            (
                vec![("x-amz-checksum-sha512", "AAAA")],
                Code::NotImplemented,
            ),
            (
                vec![("x-amz-trailer", "x-amz-checksum-xxhash3")],
                Code::NotImplemented,
            ),
            (
                vec![("content-md5", "YWJyYWNhZGFicmE=")],
                Code::InvalidDigest,
            ),
            (vec![("content-md5", "")], Code::InvalidDigest),
        ] {
            assert_eq!(
                parse(&pairs).expect_err("a contradiction").code(),
                code,
                "{pairs:?}"
            );
        }
        for pairs in [
            vec![crc32, (SDK_ALGORITHM, "crc32")],
            vec![
                ("x-amz-checksum-mode", "ENABLED"),
                ("x-amz-checksum-type", "FULL_OBJECT"),
                ("x-amz-checksum-algorithm", "CRC32"),
            ],
            vec![
                ("x-amz-trailer", "x-amz-checksum-crc32"),
                (SDK_ALGORITHM, "CRC32"),
            ],
        ] {
            assert!(parse(&pairs).is_ok(), "{pairs:?}");
        }
    }

    #[test]
    fn composite_values_show_their_parts() {
        let checksum = decode(Algorithm::Crc32, "Z+ry2Q==").expect("four bytes");
        let composite = ObjectChecksum {
            checksum,
            kind: ChecksumType::Composite,
        };
        let mut headers = HeaderMap::new();
        add_headers(&mut headers, &composite, Some(3));
        assert_eq!(headers["x-amz-checksum-crc32"], "Z+ry2Q==-3");
        assert_eq!(headers["x-amz-checksum-type"], "COMPOSITE");
    }
}
