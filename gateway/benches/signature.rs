//! SigV4: a request's head verified, with the signing key known from the request before, as a client's are.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use twintree_gateway::auth::{Credentials, Head, Secret, verify};
use twintree_store::Timestamp;

/// The example of the S3 API's page "Signature Calculations for the Authorization Header": GET Object.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
     SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
     Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
const HEADERS: [(&str, &str); 5] = [
    ("host", "examplebucket.s3.amazonaws.com"),
    ("range", "bytes=0-9"),
    (
        "x-amz-content-sha256",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ),
    ("x-amz-date", "20130524T000000Z"),
    ("authorization", AUTHORIZATION),
];
/// 2013-05-24T00:00:00Z.
const MOMENT: i64 = 1_369_353_600;

fn keys() -> Credentials {
    let secret = Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
    Credentials::new([("AKIAIOSFODNN7EXAMPLE".to_owned(), secret)])
}

fn signature(criterion: &mut Criterion) {
    let headers: HeaderMap = HEADERS
        .into_iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect();
    let head = Head {
        method: &Method::GET,
        path: "/test.txt",
        query: None,
        headers: (&headers).into(),
        authority: None,
        virtual_bucket: None,
    };
    let (known, now) = (keys(), Timestamp::from_parts(MOMENT, 0));
    assert!(
        verify(&head, &known, now).is_ok(),
        "the example of the page"
    );
    criterion.bench_function("SigV4/a head, with a known signing key", |bencher| {
        bencher.iter(|| verify(black_box(&head), &known, now));
    });
    criterion.bench_function("SigV4/a head, the first of a day", |bencher| {
        bencher.iter_with_setup(keys, |fresh| verify(black_box(&head), &fresh, now));
    });
}

criterion_group!(benches, signature);
criterion_main!(benches);
