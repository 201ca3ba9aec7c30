//! Targets of requests: a key is decoded once and never normalised, whether it comes in a path, in a query
//! or as the source of a copy, and what we encode comes back.

use std::borrow::Cow;

use http::Method;
use twintree_store::{BucketName, ObjectKey};

use super::aws;
use super::draw::Draw;
use crate::auth::canonical::Plus;
use crate::ops::copy_source::CopySource;
use crate::route::{Query, Route, percent_decode, route};
use crate::xml::unescape;

/// A target that anybody sent, then one made of a bucket and a key.
pub fn targets(data: &[u8]) {
    let mut draw = Draw::new(data);
    let method = draw.pick(&[Method::GET, Method::PUT, Method::HEAD, Method::DELETE]);
    let host = draw.pick(&[
        "127.0.0.1:9000",
        "b.s3.example.com",
        "s3.example.com",
        "[::1]:9",
    ]);
    let text = String::from_utf8_lossy(draw.rest()).into_owned();
    as_sent(&method, host, &text);
    as_made(&text);
    source(&text);
    query(&text);
}

fn routed(method: &Method, host: &str, target: &str) -> Option<Route> {
    let request = http::Request::builder()
        .method(method)
        .uri(target)
        .header("host", host);
    let (parts, ()) = request.body(()).ok()?.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or("")).ok()?;
    route(&parts, &query, &["s3.example.com".to_owned()]).ok()
}

fn as_sent(method: &Method, host: &str, text: &str) {
    let Some(route) = routed(method, host, &format!("/{text}")) else {
        return;
    };
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let virtual_host = host.starts_with("b.");
    assert_eq!(route.virtual_host, virtual_host);
    let (bucket, key) = match path.split_once('/') {
        _ if virtual_host => (b"b".to_vec(), path),
        Some((bucket, key)) => (aws::decode(bucket), key),
        None => (aws::decode(path), ""),
    };
    if let Some(found) = &route.bucket {
        assert_eq!(found.as_str().as_bytes(), bucket);
    }
    if let Some(found) = &route.key {
        let meant = String::from_utf8(aws::decode(key)).expect("keys are UTF-8");
        assert_eq!(found.as_str(), unescape(&meant), "{text:?}");
    }
}

/// Every key can be named, by a path with every byte escaped and by one that escapes what must be.
fn as_made(text: &str) {
    let Ok(key) = ObjectKey::parse(text) else {
        return;
    };
    if unescape(text) != text {
        return; // reads as the control character that a listing shows by it
    }
    let every: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for encoded in [every, aws::uri_encode(text.as_bytes(), "/")] {
        let route = routed(&Method::PUT, "h", &format!("/b-1/{encoded}")).expect("a legal target");
        assert_eq!(route.bucket, BucketName::parse("b-1").ok());
        assert_eq!(route.key.as_ref(), Some(&key));
        let source = CopySource::parse(&format!("b-1/{encoded}")).expect("a legal source");
        assert_eq!(source.key, key);
    }
}

fn source(text: &str) {
    let Ok(source) = CopySource::parse(text) else {
        return;
    };
    let path = text
        .split_once("?versionId=")
        .map_or(text, |(path, _)| path);
    let decoded = aws::decode(path.strip_prefix('/').unwrap_or(path));
    let decoded = String::from_utf8(decoded).expect("keys are UTF-8");
    let (bucket, key) = decoded.split_once('/').expect("both are named");
    assert_eq!(
        (source.bucket.as_str(), Cow::from(source.key.as_str())),
        (bucket, unescape(key))
    );
}

fn query(text: &str) {
    if let Some(decoded) = percent_decode(text) {
        assert_eq!(decoded.as_bytes(), aws::decode(text));
    }
    for (plus, habit) in [(Plus::Space, aws::HABITS[0]), (Plus::Plus, aws::HABITS[1])] {
        let Ok(query) = Query::parse_as(text, plus) else {
            continue;
        };
        assert_eq!(query.raw(), text);
        let expected = aws::parameters(text, habit);
        let pairs: Vec<_> = query
            .pairs()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        assert_eq!(pairs, expected);
        assert!(query.pairs().all(|(name, _)| query.has(name)));
    }
}
