//! What the tests of several modules say in the same way.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The headers of a request, those of one name one after the other.
pub(crate) fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        map.append(name, HeaderValue::from_str(value).expect("a header value"));
    }
    map
}
