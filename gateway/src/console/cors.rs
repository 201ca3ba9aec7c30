//! Which pages of other origins may read what S3 answers: the console's, and no others.
//!
//! The console lies on another port of the same host, so a page is granted this whose origin has the name by which the
//! request calls us, and a port of the console's. Semantics (Fetch standard, "CORS protocol"): a grant lets a script
//! read the answer, and nothing more. Nothing is answered without a signature; nobody is asked for cookies, so
//! `Access-Control-Allow-Credentials` is never sent.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use super::{Console, host_name};
use crate::route::named_host;

const METHODS: &str = "GET, HEAD, PUT, POST, DELETE";
/// What an answer depends on.
const VARIES: &str = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
/// How long a browser may remember a preflight, in seconds.
const MAX_AGE: &str = "600";
/// Headers that a script may send besides `x-amz-*`.
const SENT: [&str; 6] = [
    "authorization",
    "content-type",
    "content-md5",
    "range",
    "if-match",
    "if-none-match",
];

/// Says whether the page that asks is the console; gives its origin.
pub(crate) fn granted(console: &Console, parts: &Parts) -> Option<HeaderValue> {
    let Console::Elsewhere(ports) = console else {
        return None;
    };
    let mut origins = parts.headers.get_all(ORIGIN).iter();
    let origin = origins.next()?;
    if origins.next().is_some() {
        return None;
    }
    let name = host_name(named_host(parts)?)?.to_ascii_lowercase();
    let mut theirs = ports.iter().map(|port| port.origin(&name));
    theirs
        .any(|own| own.as_bytes() == origin.as_bytes())
        .then(|| origin.clone())
}

/// Lets the script of `origin` read an answer.
pub(crate) fn grant(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    // All of them: metadata has names that nobody knows before.
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

/// What a preflight is granted; `None`: it asks for more than the console needs.
pub(crate) fn preflight(parts: &Parts, origin: HeaderValue) -> Option<HeaderMap> {
    let asked = |name| parts.headers.get(name).map(HeaderValue::to_str).transpose();
    let method = asked(ACCESS_CONTROL_REQUEST_METHOD).ok()??;
    let names = asked(ACCESS_CONTROL_REQUEST_HEADERS).ok()?.unwrap_or("");
    let may_be_sent = |name: &str| {
        let name = name.trim().to_ascii_lowercase();
        name.is_empty() || name.starts_with("x-amz-") || SENT.contains(&name.as_str())
    };
    if !METHODS.split(", ").any(|known| known == method) || !names.split(',').all(may_be_sent) {
        return None;
    }
    let mut headers = HeaderMap::new();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static(METHODS),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    headers.insert(VARY, HeaderValue::from_static(VARIES));
    if let Some(names) = parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::super::Port;
    use super::*;

    fn parts(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().method("OPTIONS").uri(target);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a request").into_parts().0
    }

    fn is_granted(host: &str, origin: &str) -> bool {
        let console = Console::Elsewhere(vec![
            Port {
                tls: false,
                number: 9001,
            },
            Port {
                tls: true,
                number: 443,
            },
        ]);
        granted(
            &console,
            &parts("/b/k", &[("host", host), ("origin", origin)]),
        )
        .is_some()
    }

    #[test]
    fn the_consoles_origin_alone_is_granted() {
        for (host, origin) in [
            ("nas.test:9000", "http://nas.test:9001"),
            ("NAS.test", "http://nas.test:9001"),
            ("10.0.0.7:9000", "https://10.0.0.7"),
            ("[::1]:9000", "http://[::1]:9001"),
        ] {
            assert!(is_granted(host, origin), "{host} {origin}");
        }
        for (host, origin) in [
            ("nas.test:9000", "http://evil.test:9001"),
            ("nas.test:9000", "http://nas.test:9000"),
            ("nas.test:9000", "http://nas.test"),
            ("nas.test:9000", "https://nas.test:9001"),
            ("nas.test:9000", "http://nas.test:90011"),
            ("nas.test:9000", "http://nas.test:9001.evil.test"),
            ("nas.test:9000", "http://sub.nas.test:9001"),
            ("nas.test:9000", "null"),
            ("nas.test:9000", ""),
            ("*:9000", "http://*:9001"),
        ] {
            assert!(!is_granted(host, origin), "{host} {origin}");
        }
    }

    #[test]
    fn nothing_is_granted_to_two_origins_or_without_a_console_elsewhere() {
        let own = ("origin", "http://h:9001");
        let ports = || {
            vec![Port {
                tls: false,
                number: 9001,
            }]
        };
        let one = parts("/", &[("host", "h:9000"), own]);
        assert!(granted(&Console::Elsewhere(ports()), &one).is_some());
        let two = parts("/", &[("host", "h:9000"), own, own]);
        assert!(granted(&Console::Elsewhere(ports()), &two).is_none());
        assert!(granted(&Console::Off, &one).is_none());
        let absolute = parts("http://other:9000/", &[("host", "h:9000"), own]);
        assert!(granted(&Console::Elsewhere(ports()), &absolute).is_none());
    }

    #[test]
    fn a_preflight_is_granted_what_s3_takes_and_no_credentials() {
        let ask = |method, names| {
            let asked = parts(
                "/b/k",
                &[
                    ("access-control-request-method", method),
                    ("access-control-request-headers", names),
                ],
            );
            preflight(&asked, HeaderValue::from_static("http://h:9001"))
        };
        let granted = ask("PUT", "authorization, x-amz-date,content-type").expect("granted");
        assert_eq!(granted[ACCESS_CONTROL_ALLOW_ORIGIN], "http://h:9001");
        assert_eq!(
            granted[ACCESS_CONTROL_ALLOW_HEADERS],
            "authorization, x-amz-date,content-type"
        );
        assert_eq!(granted[ACCESS_CONTROL_ALLOW_METHODS], METHODS);
        assert!(!granted.contains_key("access-control-allow-credentials"));
        assert!(ask("PATCH", "").is_none());
        assert!(ask("PUT", "cookie").is_none());
        assert!(ask("put", "").is_none());
    }
}
