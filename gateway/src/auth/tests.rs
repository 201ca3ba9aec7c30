//! The published examples, what botocore really signs, and every way of being refused.

use http::{HeaderMap, HeaderValue, Method, Uri};
use twintree_store::Timestamp;

use super::*;

pub(super) const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
pub(super) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// 20130524T000000Z.
const NOON: i64 = 1_369_353_600;
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A request that owns its parts, so that a test can spoil one of them.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) now: Timestamp,
    pub(super) virtual_bucket: Option<&'static str>,
}

impl Request {
    pub(super) fn new(method: Method, target: &str, headers: &[(&str, &str)]) -> Self {
        let now = Timestamp::from_parts(NOON + 30, 0);
        Self {
            method,
            target: target.to_owned(),
            headers: crate::testing::headers(headers),
            now,
            virtual_bucket: None,
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers
            .insert(name, HeaderValue::from_str(value).expect("a legal value"));
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    pub(super) fn at(mut self, seconds_later: i64) -> Self {
        self.now = Timestamp::from_parts(NOON + seconds_later, 0);
        self
    }

    pub(super) fn verify(&self) -> Result<Verified, S3Error> {
        let uri: Uri = self.target.parse().expect("a legal target");
        let head = Head {
            method: &self.method,
            path: uri.path(),
            query: uri.query(),
            headers: (&self.headers).into(),
            authority: None,
            virtual_bucket: self.virtual_bucket,
        };
        verify(
            &head,
            &Credentials::new([(ACCESS_KEY.to_owned(), Secret::new(SECRET))]),
            self.now,
        )
    }

    pub(super) fn refused(&self) -> Code {
        self.verify().expect_err("the request is refused").code()
    }
}

pub(super) fn authorization(region: &str, signed: &str, signature: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/{region}/s3/aws4_request,SignedHeaders={signed},\
         Signature={signature}"
    )
}

fn get_range() -> Request {
    let signed = "host;range;x-amz-content-sha256;x-amz-date";
    let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
    Request::new(
        Method::GET,
        "/test.txt",
        &[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
            (
                "authorization",
                &authorization("us-east-1", signed, signature),
            ),
        ],
    )
}

fn example(method: Method, target: &str, signature: &str) -> Request {
    Request::new(
        method,
        target,
        &[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
            (
                "authorization",
                &authorization(
                    "us-east-1",
                    "host;x-amz-content-sha256;x-amz-date",
                    signature,
                ),
            ),
        ],
    )
}

fn presigned() -> Request {
    let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3\
                 %2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
                 &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    Request::new(
        Method::GET,
        &format!("/test.txt?{query}"),
        &[("host", "examplebucket.s3.amazonaws.com")],
    )
}

fn botocore_put() -> Request {
    let signed =
        "content-type;host;x-amz-checksum-crc32;x-amz-content-sha256;x-amz-date;x-amz-meta-b";
    let signature = "410289e6228e3e7d634c9845f6682a96dd08bd9470f552246fe3e100ec8b394d";
    let path = "/my-bucket/a/../b//%ED%95%9C%EA%B8%80%20a%2Bb%2A%28%29.txt?x-id=PutObject";
    Request::new(
        Method::PUT,
        path,
        &[
            ("host", "127.0.0.1:9000"),
            ("x-amz-meta-b", "  two   spaces "),
            ("content-type", "text/plain"),
            ("x-amz-checksum-crc32", "AAAAAA=="),
            ("x-amz-date", "20130524T000000Z"),
            (
                "x-amz-content-sha256",
                "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            ),
            (
                "authorization",
                &authorization("xx-any-9", signed, signature),
            ),
        ],
    )
}

#[test]
fn published_header_examples_verify() {
    let put = Request::new(
        Method::PUT,
        "/test$file.text",
        &[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            (
                "x-amz-content-sha256",
                "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            ),
            ("x-amz-date", "20130524T000000Z"),
            (
                "authorization",
                &authorization(
                    "us-east-1",
                    "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                    "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
                ),
            ),
        ],
    );
    let lifecycle = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543";
    let list = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
    let all = [
        get_range(),
        put,
        example(Method::GET, "/?lifecycle", lifecycle),
        example(Method::GET, "/?max-keys=2&prefix=J", list),
        example(Method::GET, "/?prefix=J&max-keys=2", list),
    ];
    for request in all {
        let verified = request.verify().expect("the example verifies");
        assert_eq!(verified.principal.access_key_id, ACCESS_KEY);
        assert_eq!(verified.scheme, Scheme::V4Header);
        assert!(matches!(verified.payload, Payload::Sha256(_)));
    }
}

#[test]
fn published_presigned_example_verifies_until_it_expires() {
    let verified = presigned().verify().expect("the example verifies");
    assert_eq!(verified.scheme, Scheme::V4Presigned);
    assert!(matches!(verified.payload, Payload::Unsigned));
    assert!(presigned().at(86_400).verify().is_ok());
    let expired = presigned().at(86_401).verify().expect_err("it has expired");
    assert_eq!(
        (expired.code(), expired.text()),
        (Code::AccessDenied, "Request has expired")
    );
    let early = presigned()
        .at(-MAX_SKEW - 1)
        .verify()
        .expect_err("it is not valid yet");
    assert_eq!(
        (early.code(), early.text()),
        (Code::AccessDenied, "Request is not valid yet")
    );
    assert!(presigned().at(-MAX_SKEW).verify().is_ok());
}

#[test]
fn what_botocore_signs_verifies() {
    botocore_put()
        .verify()
        .expect("any region, raw dots, folded header");
    let query = "response-content-type=a%2Fb%20c&versionId=null&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=\
                 AKIAIOSFODNN7EXAMPLE%2F20130524%2Fauto%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=600\
                 &X-Amz-SignedHeaders=host&X-Amz-Signature=bc0543cadc4e7c9b03441cbde7639cef6017cc9b21c361e588db7e3d1cc9200d";
    let get = Request::new(
        Method::GET,
        &format!("/my-bucket/k?{query}"),
        &[("host", "127.0.0.1:9000")],
    );
    get.verify().expect("a presigned GET with overrides");
    // A browser writes the space of a form as a plus.
    let mut plus = get;
    plus.target = plus.target.replace("b%20c", "b+c");
    plus.verify().expect("a plus is read as a space");
}

#[test]
fn every_changed_part_of_a_signed_request_is_refused() {
    let mut other = get_range();
    other.target = "/test.txu".to_owned();
    assert_eq!(other.refused(), Code::SignatureDoesNotMatch);
    let mut other = get_range();
    other.method = Method::HEAD;
    assert_eq!(other.refused(), Code::SignatureDoesNotMatch);
    let mut other = get_range();
    other.target.push_str("?acl");
    assert_eq!(other.refused(), Code::SignatureDoesNotMatch);
    assert_eq!(
        get_range().with("range", "bytes=0-8").refused(),
        Code::SignatureDoesNotMatch
    );
    assert_eq!(
        get_range().with("host", "other").refused(),
        Code::SignatureDoesNotMatch
    );
    assert_eq!(
        get_range()
            .with("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
            .refused(),
        Code::SignatureDoesNotMatch
    );
    assert_eq!(
        get_range().with("x-amz-date", "20130524T000001Z").refused(),
        Code::SignatureDoesNotMatch
    );
    assert_eq!(
        get_range().without("range").refused(),
        Code::SignatureDoesNotMatch
    );
    let mut url = presigned();
    url.target = url.target.replace("Expires=86400", "Expires=86401");
    assert_eq!(url.refused(), Code::SignatureDoesNotMatch);
}

#[test]
fn mismatch_says_what_was_signed() {
    let error = get_range()
        .with("range", "bytes=0-8")
        .verify()
        .expect_err("the range was changed");
    let names: Vec<&str> = error.extras().iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "AWSAccessKeyId",
            "StringToSign",
            "SignatureProvided",
            "CanonicalRequest"
        ]
    );
    let canonical = &error.extras()[3].1;
    assert!(
        canonical.starts_with(
            "GET\n/test.txt\n\nhost:examplebucket.s3.amazonaws.com\nrange:bytes=0-8\n"
        ),
        "{canonical}"
    );
    assert!(!format!("{error:?}").contains(SECRET));
}

#[test]
fn unsigned_headers_are_named() {
    let error = get_range()
        .with("x-amz-acl", "private")
        .verify()
        .expect_err("x-amz-acl is not signed");
    assert_eq!(error.code(), Code::AccessDenied);
    assert_eq!(
        error.extras(),
        [("HeadersNotSigned", "x-amz-acl".to_owned())]
    );
    let no_host = authorization(
        "us-east-1",
        "range;x-amz-content-sha256;x-amz-date",
        &"0".repeat(64),
    );
    let error = get_range()
        .with("authorization", &no_host)
        .verify()
        .expect_err("host is not signed");
    assert_eq!(error.extras(), [("HeadersNotSigned", "host".to_owned())]);
    let error = presigned()
        .with("x-amz-meta-a", "1")
        .verify()
        .expect_err("x-amz-meta-a is not signed");
    assert_eq!(error.code(), Code::AccessDenied);
    presigned()
        .with("x-amz-content-sha256", EMPTY)
        .verify()
        .expect("an unsigned digest changes nothing");
    let streaming = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    assert_eq!(
        presigned()
            .with("x-amz-content-sha256", streaming)
            .refused(),
        Code::AccessDenied
    );
}

#[test]
fn malformed_headers_are_told_apart() {
    let anonymous = get_range().without("authorization");
    assert_eq!(anonymous.refused(), Code::AccessDenied);
    assert_eq!(
        anonymous.with("authorization", "").refused(),
        Code::AccessDenied
    );
    assert_eq!(
        get_range().with("authorization", "Basic dTpw").refused(),
        Code::InvalidArgument
    );
    assert_eq!(
        get_range()
            .with("authorization", "AWS4-ECDSA-P256-SHA256 Credential=x")
            .refused(),
        Code::NotImplemented
    );
    let good = authorization(
        "us-east-1",
        "host;range;x-amz-content-sha256;x-amz-date",
        &"0".repeat(64),
    );
    for (from, to) in [
        ("Credential", "Credentials"),
        ("/s3/", "/ec2/"),
        ("aws4_request", "aws5_request"),
        ("20130524", "20130525"),
        ("20130524", "2013052"),
        ("Signature=", "Signature"),
        (
            ",SignedHeaders=host;range;x-amz-content-sha256;x-amz-date",
            "",
        ),
        ("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256 Signature=1,"),
    ] {
        let request = get_range().with("authorization", &good.replace(from, to));
        let error = request.verify().expect_err("the header is malformed");
        assert_eq!(
            error.code(),
            Code::AuthorizationHeaderMalformed,
            "{from} -> {to}"
        );
        assert!(error.extras().is_empty(), "no Region is named");
    }
    assert_eq!(
        get_range()
            .with("authorization", &good.replace("AKIA", "OTHER"))
            .refused(),
        Code::InvalidAccessKeyId
    );
    assert_eq!(
        get_range().without("x-amz-date").refused(),
        Code::AccessDenied
    );
    assert_eq!(
        get_range().with("x-amz-date", "yesterday").refused(),
        Code::AccessDenied
    );
    assert_eq!(
        get_range().without("x-amz-content-sha256").refused(),
        Code::InvalidRequest
    );
    assert_eq!(
        get_range()
            .with("x-amz-content-sha256", "nonsense")
            .refused(),
        Code::InvalidArgument
    );
    assert_eq!(
        get_range().with("x-amz-security-token", "t").refused(),
        Code::InvalidToken
    );
    for seconds in [MAX_SKEW + 1, -MAX_SKEW - 1] {
        assert_eq!(
            get_range().at(seconds).refused(),
            Code::RequestTimeTooSkewed
        );
    }
    for seconds in [MAX_SKEW, -MAX_SKEW] {
        get_range()
            .at(seconds)
            .verify()
            .expect("fifteen minutes are allowed");
    }
}

#[test]
fn all_payload_literals_are_recognised() {
    let streaming = |signed, trailer| ContentSha256::Streaming { signed, trailer };
    for (literal, expected) in [
        ("UNSIGNED-PAYLOAD", ContentSha256::Unsigned),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", streaming(false, true)),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", streaming(true, false)),
        (
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            streaming(true, true),
        ),
    ] {
        assert_eq!(ContentSha256::parse(literal), Ok(expected));
    }
    for literal in [
        "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
        "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER",
    ] {
        assert_eq!(
            ContentSha256::parse(literal).map_err(|error| error.code()),
            Err(Code::NotImplemented)
        );
    }
}

#[test]
fn malformed_queries_are_told_apart() {
    for (from, to) in [
        ("&X-Amz-Expires=86400", ""),
        ("&X-Amz-SignedHeaders=host", ""),
        (
            "X-Amz-Algorithm=AWS4-HMAC-SHA256",
            "X-Amz-Algorithm=AWS4-HMAC-SHA1",
        ),
        ("X-Amz-Expires=86400", "X-Amz-Expires=604801"),
        ("X-Amz-Expires=86400", "X-Amz-Expires=-1"),
        ("X-Amz-Expires=86400", "X-Amz-Expires=soon"),
        ("X-Amz-Date=20130524T000000Z", "X-Amz-Date=20130525T000000Z"),
        ("X-Amz-Date=20130524T000000Z", "X-Amz-Date=now"),
        ("%2Fs3%2F", "%2Fec2%2F"),
    ] {
        let mut request = presigned();
        request.target = request.target.replace(from, to);
        assert_eq!(
            request.refused(),
            Code::AuthorizationQueryParametersError,
            "{from} -> {to}"
        );
    }
    let mut token = presigned();
    token.target.push_str("&X-Amz-Security-Token=t");
    assert_eq!(token.refused(), Code::InvalidToken);
    let both = presigned().with("authorization", "AWS4-HMAC-SHA256 x");
    assert_eq!(both.refused(), Code::InvalidArgument);
    let mut both = presigned();
    both.target
        .push_str("&AWSAccessKeyId=x&Signature=y&Expires=1");
    assert_eq!(both.refused(), Code::InvalidArgument);
}

#[test]
fn path_signed_as_received_verifies() {
    // A client that escapes the slash inside a key signs its own encoding.
    let key = credentials::hmac_sha256;
    let table = Credentials::new([(ACCESS_KEY.to_owned(), Secret::new(SECRET))]).table();
    let credential = format!("{ACCESS_KEY}/20130524/r/s3/aws4_request");
    let scope = signature::Scope::parse(&credential).expect("a credential");
    let (signing, _) = table.signing_key(&scope).expect("the key is in the table");
    let canonical = format!(
        "GET\n/b/a%2fb\n\nhost:h\nx-amz-content-sha256:{EMPTY}\nx-amz-date:20130524T000000Z\n\nhost;x-amz-content-sha256;x-amz-date\n{EMPTY}"
    );
    let digest =
        canonical::hex(ring::digest::digest(&ring::digest::SHA256, canonical.as_bytes()).as_ref());
    let to_sign =
        format!("AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/r/s3/aws4_request\n{digest}");
    let signature = canonical::hex(&key(&signing, to_sign.as_bytes()));
    let request = Request::new(
        Method::GET,
        "/b/a%2fb",
        &[
            ("host", "h"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
            (
                "authorization",
                &authorization("r", "host;x-amz-content-sha256;x-amz-date", &signature),
            ),
        ],
    );
    request
        .verify()
        .expect("the verbatim path is the second reading");
}

#[test]
fn authority_stands_for_host() {
    let request = get_range();
    let headers = request.clone().without("host").headers;
    let head = Head {
        method: &request.method,
        path: "/test.txt",
        query: None,
        headers: (&headers).into(),
        authority: Some("examplebucket.s3.amazonaws.com"),
        virtual_bucket: None,
    };
    let credentials = Credentials::new([(ACCESS_KEY.to_owned(), Secret::new(SECRET))]);
    verify(&head, &credentials, request.now).expect("HTTP/2 has no Host header");
}

#[test]
fn a_host_that_was_signed_opens_no_bucket_of_another_authority() {
    let request = get_range();
    let credentials = Credentials::new([(ACCESS_KEY.to_owned(), Secret::new(SECRET))]);
    let of = |authority| {
        let head = Head {
            method: &request.method,
            path: "/test.txt",
            query: None,
            headers: (&request.headers).into(),
            authority: Some(authority),
            virtual_bucket: None,
        };
        verify(&head, &credentials, request.now).map_err(|error| error.code())
    };
    assert!(of("examplebucket.s3.amazonaws.com").is_ok());
    assert_eq!(
        of("otherbucket.s3.amazonaws.com").err(),
        Some(Code::SignatureDoesNotMatch)
    );
}

#[test]
fn a_second_claim_of_any_kind_is_refused() {
    let twice = Request {
        target: format!("{}&X-Amz-Signature={}", presigned().target, "0".repeat(64)),
        ..presigned()
    };
    assert_eq!(twice.refused(), Code::AuthorizationQueryParametersError);
    let mut two = get_range();
    let other = HeaderValue::from_static("AWS a:b");
    two.headers.append("authorization", other);
    assert_eq!(two.refused(), Code::InvalidArgument);
}
