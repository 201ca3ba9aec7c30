//! What botocore signs with SigV2, and every way of being refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use sha1::Sha1;

use super::super::tests::{ACCESS_KEY, Request, SECRET};
use super::super::*;

fn v2_presigned_put() -> Request {
    let query = "AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Signature=sxsq5aMfSCYsU44J4Ab1rZT5zJw%3D\
                 &content-type=text%2Fplain&x-amz-meta-b=v%20w&content-md5=abc&Expires=1369354200";
    Request::new(
        Method::PUT,
        &format!("/my-bucket/k?{query}"),
        &[("host", "h")],
    )
}

fn v2_header(target: &str, signature: &str, headers: &[(&str, &str)]) -> Request {
    let authorization = format!("AWS {ACCESS_KEY}:{signature}");
    let mut all = vec![
        ("host", "h"),
        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
        ("authorization", &authorization),
    ];
    all.extend_from_slice(headers);
    Request::new(Method::PUT, target, &all)
}

fn v2_plain() -> Request {
    let headers = [
        ("content-type", "text/plain"),
        ("x-amz-meta-b", " v "),
        ("x-amz-acl", "private"),
        ("content-md5", "abc"),
    ];
    v2_header(
        "/my-bucket/k%20x?uploads",
        "bJybkO1OTSwp7SSi60gk3zO+2Lo=",
        &headers,
    )
}

#[test]
fn botocore_signs_a_slash_behind_a_bucket_that_it_does_not_send() {
    for target in ["/my-bucket", "/my-bucket/"] {
        v2_header(target, "uTdNjdEq4AFMNbcOXkybMUCOtqw=", &[])
            .verify()
            .expect(target);
    }
    let key = v2_header("/my-bucket/k", "uTdNjdEq4AFMNbcOXkybMUCOtqw=", &[]).verify();
    assert_eq!(
        key.expect_err("another resource").code(),
        Code::SignatureDoesNotMatch
    );
}

#[test]
fn what_botocore_signs_with_v2_verifies() {
    assert_eq!(
        v2_plain().verify().expect("v2 in the header").scheme,
        Scheme::V2Header
    );
    let target = "/my-bucket/?list-type=2&acl&response-content-type=a%2Fb+c";
    let date = [("x-amz-date", "Fri, 24 May 2013 00:00:00 GMT")];
    v2_header(target, "Zw7h22yG8kdPGci8i7BkllFKvpc=", &date)
        .verify()
        .expect("both dates");
    let put = v2_presigned_put();
    assert_eq!(
        put.verify().expect("headers moved to the query").scheme,
        Scheme::V2Presigned
    );
    let sent = put
        .clone()
        .with("content-type", "text/plain")
        .with("x-amz-meta-b", "v w");
    sent.verify().expect("headers in both places");
    let get = "/my-bucket/k?response-content-disposition=attachment%3B%20filename%3Da\
               &AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Signature=fbjAq1Ku4oaJQAxaGiU1FLPUUjQ%3D&Expires=1369354200";
    Request::new(Method::GET, get, &[("host", "h")])
        .verify()
        .expect("a presigned GET");
    let mut virtual_host = Request::new(
        Method::GET,
        &get.replace("/my-bucket", ""),
        &[("host", "my-bucket.h")],
    );
    virtual_host.virtual_bucket = Some("my-bucket");
    virtual_host
        .verify()
        .expect("the bucket of the host is part of the resource");
}

#[test]
fn v2_refusals() {
    assert_eq!(
        v2_presigned_put()
            .with("content-type", "text/html")
            .refused(),
        Code::SignatureDoesNotMatch
    );
    let expired = v2_presigned_put()
        .at(601)
        .verify()
        .expect_err("it has expired");
    assert_eq!(
        (expired.code(), expired.text()),
        (Code::AccessDenied, "Request has expired")
    );
    let mut request = v2_presigned_put();
    request.target = request.target.replace("Expires=1369354200", "Expires=soon");
    assert_eq!(request.refused(), Code::AccessDenied);
    request.target = request.target.replace("&Expires=soon", "");
    assert_eq!(request.refused(), Code::AccessDenied);
    assert_eq!(
        v2_plain().with("authorization", "AWS HAHAHA").refused(),
        Code::InvalidArgument
    );
    assert_eq!(
        v2_plain()
            .with("authorization", "AWS other:bJybkO1OTSwp7SSi60gk3zO+2Lo=")
            .refused(),
        Code::InvalidAccessKeyId
    );
    assert_eq!(
        v2_plain()
            .with("authorization", "AWS AKIAIOSFODNN7EXAMPLE:")
            .refused(),
        Code::SignatureDoesNotMatch
    );
    assert_eq!(v2_plain().without("date").refused(), Code::AccessDenied);
    for (date, code) in [
        ("Bad Date", Code::AccessDenied),
        ("", Code::AccessDenied),
        ("Tue, 07 Jul 1950 21:53:04 GMT", Code::AccessDenied),
        ("Tue, 07 Jul 2010 21:53:04 GMT", Code::RequestTimeTooSkewed),
        ("Tue, 07 Jul 9999 21:53:04 GMT", Code::RequestTimeTooSkewed),
    ] {
        assert_eq!(
            v2_plain().with("x-amz-date", date).refused(),
            code,
            "{date}"
        );
    }
}

/// A presigned request of which this was signed behind the date's line.
fn v2_signed(method: Method, target: &str, to_sign: &str) -> Request {
    let whole = format!("{method}\n\n\n1369354200\n{to_sign}");
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).expect("any length");
    mac.update(whole.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    let signature = signature
        .replace('+', "%2B")
        .replace('=', "%3D")
        .replace('/', "%2F");
    let join = if target.contains('?') { '&' } else { '?' };
    let target = format!(
        "{target}{join}AWSAccessKeyId={ACCESS_KEY}&Expires=1369354200&Signature={signature}"
    );
    Request::new(method, &target, &[("host", "h")])
}

#[test]
fn one_signed_parameter_never_stands_for_two() {
    let part = "/b/k?partNumber=1&uploadId=u";
    v2_signed(Method::PUT, part, part).verify().expect("a part");
    for target in [
        "/b/k?partNumber=1%26uploadId%3Du",
        "/b/k?partNumber=1%26uploadId=u",
        "/b/k?partNumber=1&uploadId=u&acl",
    ] {
        let code = v2_signed(Method::PUT, target, part).refused();
        assert_eq!(code, Code::SignatureDoesNotMatch, "{target}");
    }
    let named = "/b/k?response-content-disposition=attachment; filename=a&b.txt";
    let sent = "/b/k?response-content-disposition=attachment%3B%20filename%3Da%26b.txt";
    v2_signed(Method::GET, sent, named)
        .verify()
        .expect("an ampersand in a name");
}

#[test]
fn one_signed_header_never_stands_for_two() {
    let both = "x-amz-meta-a:1\nx-amz-meta-b:2\n/b/k";
    v2_signed(Method::PUT, "/b/k?x-amz-meta-a=1&x-amz-meta-b=2", both)
        .verify()
        .expect("both");
    let code = v2_signed(Method::PUT, "/b/k?x-amz-meta-a=1%0Ax-amz-meta-b:2", both).refused();
    assert_eq!(code, Code::SignatureDoesNotMatch);
}
